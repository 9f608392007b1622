//! `sockaddr` to `SocketAddr` and back.

use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{ptr, slice};

use libc::{AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};
use nginx_sys::{
    ngx_addr_t, ngx_palloc, ngx_pnalloc, ngx_pool_t, ngx_sock_ntop, ngx_str_t, sockaddr,
};

use crate::ftp::host_port::write_decimal;

/// The address as it is; `None` for families without ports.
///
/// # Safety
///
/// `sa` is null or points to a complete socket address of its family.
pub unsafe fn read(sa: *const sockaddr) -> Option<SocketAddr> {
    if sa.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; every family begins with its number, and IPv4 and IPv6 addresses are
    // as long as their structures. They are read unaligned, for nothing promises alignment.
    unsafe {
        match i32::from((*sa).sa_family) {
            AF_INET => {
                let sin = sa.cast::<sockaddr_in>().read_unaligned();
                let ip = Ipv4Addr::from(u32::from_be(sin.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
            }
            AF_INET6 => {
                let sin6 = sa.cast::<sockaddr_in6>().read_unaligned();
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                let port = u16::from_be(sin6.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, sin6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// The same address as the kernel wants it, and its length.
pub fn write(address: SocketAddr) -> (sockaddr_storage, socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data, all zeroes is a value of it.
    let mut storage: sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let place = &raw mut storage;
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: `sockaddr_storage` is large enough and aligned for every family.
            let sin = unsafe { &mut *place.cast::<sockaddr_in>() };
            sin.sin_family = AF_INET as _;
            sin.sin_port = v4.port().to_be();
            sin.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let sin6 = unsafe { &mut *place.cast::<sockaddr_in6>() };
            sin6.sin6_family = AF_INET6 as _;
            sin6.sin6_port = v6.port().to_be();
            sin6.sin6_addr.s6_addr = v6.ip().octets();
            sin6.sin6_scope_id = v6.scope_id();
            size_of::<sockaddr_in6>()
        }
    };
    (storage, length as socklen_t)
}

/// A copy in memory of the pool. `None` where there is none.
///
/// # Safety
///
/// `pool` is alive.
pub unsafe fn bytes_in_pool(pool: *mut ngx_pool_t, bytes: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: the copy is as long as what is copied.
    unsafe {
        let data = ngx_pnalloc(pool, bytes.len()).cast::<u8>();
        if data.is_null() {
            return None;
        }
        data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        Some(ngx_str_t {
            len: bytes.len(),
            data,
        })
    }
}

/// Bytes of the longest text: an IPv6 address in brackets, with its port.
const MAX_TEXT: usize = "[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535".len();

/// The address with its text, in memory of the pool; null where there is none.
///
/// # Safety
///
/// `pool` is alive.
pub unsafe fn in_pool(pool: *mut ngx_pool_t, address: SocketAddr) -> *mut ngx_addr_t {
    let (storage, length) = write(address);
    // SAFETY: the memory has the size of what is written there, and is aligned for all of it; a storage is as large as
    // any address.
    unsafe {
        // All three in one piece.
        let size = size_of::<ngx_addr_t>() + length as usize + MAX_TEXT;
        let addr = ngx_palloc(pool, size).cast::<ngx_addr_t>();
        if addr.is_null() {
            return ptr::null_mut();
        }
        let sockaddr = addr.add(1).cast::<sockaddr>();
        let text = sockaddr.cast::<u8>().add(length as usize);
        let bytes = (&raw const storage).cast::<u8>();
        sockaddr
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes, length as usize);
        let len = match address {
            // By hand, for it is done for every transfer.
            SocketAddr::V4(v4) => {
                text.cast::<[u8; MAX_TEXT]>().write([0; MAX_TEXT]);
                write_ipv4(v4, slice::from_raw_parts_mut(text, MAX_TEXT))
            }
            SocketAddr::V6(_) => ngx_sock_ntop(sockaddr, length, text, MAX_TEXT, 1),
        };
        let name = ngx_str_t { len, data: text };
        addr.write(ngx_addr_t {
            sockaddr,
            socklen: length,
            name,
        });
        addr
    }
}

/// Writes address and port, and says how many bytes those are.
fn write_ipv4(address: SocketAddrV4, text: &mut [u8]) -> usize {
    let room = text.len();
    let mut places = text.iter_mut();
    let mut put = |byte| {
        if let Some(place) = places.next() {
            *place = byte;
        }
    };
    let [a, b, c, d] = address.ip().octets();
    for (octet, behind) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b':')] {
        write_decimal(octet.into(), &mut put);
        put(behind);
    }
    write_decimal(address.port(), &mut put);
    room - places.len()
}

/// The host's text in memory of the pool. `None` where there is none.
///
/// # Safety
///
/// `pool` is alive.
pub unsafe fn host_in_pool(pool: *mut ngx_pool_t, address: SocketAddr) -> Option<ngx_str_t> {
    let (mut storage, length) = write(address);
    // SAFETY: the text's memory has the length that is told.
    unsafe {
        let text = ngx_pnalloc(pool, MAX_TEXT).cast::<u8>();
        let sockaddr = (&raw mut storage).cast();
        (!text.is_null()).then(|| ngx_str_t {
            len: ngx_sock_ntop(sockaddr, length, text, MAX_TEXT, 0),
            data: text,
        })
    }
}
