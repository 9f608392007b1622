//! Questions to sockets: who is there, and which address the client dialled.
//!
//! A redirect rule (REDIRECT, DNAT) changes a connection's destination, and connection tracking remembers the
//! original one. TPROXY changes nothing: the accepted socket itself has the address that was dialled, provided the
//! listening one is transparent.

use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::{io, ptr};

use libc::{IPPROTO_IP, IPPROTO_IPV6, SO_LINGER, SOL_SOCKET, linger, sockaddr_storage, socklen_t};
use nginx_sys::{
    NGX_OK, SSL_has_pending, ngx_connection_local_sockaddr, ngx_connection_t, ngx_int_t,
};

use super::address;
use crate::ports::Host;

/// Where the socket itself is, also behind a wildcard listener. nginx asks the kernel once.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn local(c: *mut ngx_connection_t) -> Option<SocketAddr> {
    // SAFETY: nginx keeps the answer in the connection's pool.
    unsafe {
        match ngx_connection_local_sockaddr(c, std::ptr::null_mut(), 0) == NGX_OK as ngx_int_t {
            true => address::read((*c).local_sockaddr),
            false => None,
        }
    }
}

/// What the client dialled: the original destination of a redirected connection, or else where it arrived.
/// A redirected connection loses what it has of its listener's transparency.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn dialled(c: *mut ngx_connection_t) -> Option<SocketAddr> {
    // SAFETY: `getsockopt` fills what it is given.
    unsafe {
        // nginx's own copy is the listener's where that has an address of its own.
        let local = ask(|place, length| libc::getsockname((*c).fd, place, length))?;
        let (level, option) = match Host::from_socket(&local).ip() {
            IpAddr::V4(_) => (IPPROTO_IP, libc::SO_ORIGINAL_DST),
            IpAddr::V6(_) => (IPPROTO_IPV6, libc::IP6T_SO_ORIGINAL_DST),
        };
        // Fails where the connection is not tracked.
        let tracked =
            ask(|place, length| libc::getsockopt((*c).fd, level, option, place.cast(), length));
        let Some(dialled) = tracked else {
            return Some(local);
        };
        let place = |address| (Host::from_socket(address).ip(), address.port());
        if place(&dialled) != place(&local) {
            // Of two connections that a client opens from one port to two ports of the range, the kernel renames
            // one, but hands its SYN to the other one all the same if that is transparent.
            let _ = set_transparent((*c).fd, &local, false);
        }
        Some(dialled)
    }
}

/// Sets or takes IP_TRANSPARENT of a socket whose own address, as the kernel has it, is `local`.
///
/// # Safety
///
/// The socket is open.
pub unsafe fn set_transparent(fd: i32, local: &SocketAddr, on: bool) -> io::Result<()> {
    let (level, option) = match local {
        SocketAddr::V4(_) => (IPPROTO_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    // SAFETY: an open socket; the option is a number.
    unsafe { set_option(fd, level, option, &i32::from(on)) }
}

/// The server that the client meant, if it is another machine: connecting to this one would be a loop.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn original_destination(c: *mut ngx_connection_t) -> Option<SocketAddr> {
    // SAFETY: the caller's promise.
    let dialled = unsafe { dialled(c) }?;
    let ip = Host::from_socket(&dialled).ip();
    is_elsewhere(ip).then(|| SocketAddr::new(ip, dialled.port()))
}

/// Whether the kernel routes the address to another machine. An address can be this one's without being on an
/// interface, so it is the route that is asked for (RTM_GETROUTE, rtnetlink(7)); no where there is no answer.
fn is_elsewhere(ip: IpAddr) -> bool {
    const UNICAST: u8 = 1;
    // The answer is a header of 16 bytes, and a route whose eighth byte is its type.
    const TYPE: usize = 16 + 7;
    let question = route_question(ip);
    let mut answer = [0u8; 512];
    // SAFETY: the buffers have the lengths that are told; the socket is closed.
    let got = unsafe {
        let fd = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        );
        if fd < 0 {
            return false;
        }
        let sent = libc::send(fd, question.as_ptr().cast(), question.len(), 0);
        let got = match sent {
            -1 => -1,
            _ => libc::recv(
                fd,
                answer.as_mut_ptr().cast(),
                answer.len(),
                libc::MSG_DONTWAIT,
            ),
        };
        libc::close(fd);
        got
    };
    let is_route = answer.get(4..6) == Some(&libc::RTM_NEWROUTE.to_ne_bytes());
    got > TYPE as isize && is_route && answer.get(TYPE) == Some(&UNICAST)
}

/// RTM_GETROUTE for one address: message header, route, and one attribute.
fn route_question(ip: IpAddr) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const RTA_DST: u16 = 1;
    let (family, address) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let attribute = 4 + address.len() as u16;
    let mut question = Vec::with_capacity(64);
    question.extend_from_slice(&(28 + u32::from(attribute)).to_ne_bytes());
    question.extend_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
    question.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    question.extend_from_slice(&[0; 8]);
    question.extend_from_slice(&[family as u8, address.len() as u8 * 8, 0, 0]);
    question.extend_from_slice(&[0; 8]);
    question.extend_from_slice(&attribute.to_ne_bytes());
    question.extend_from_slice(&RTA_DST.to_ne_bytes());
    question.extend_from_slice(&address);
    question
}

unsafe fn ask(call: impl FnOnce(*mut libc::sockaddr, *mut socklen_t) -> i32) -> Option<SocketAddr> {
    // SAFETY: plain data.
    let mut storage: sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of::<sockaddr_storage>() as socklen_t;
    let place = &raw mut storage;
    if call(place.cast(), &raw mut length) != 0 {
        return None;
    }
    // SAFETY: after success `place` holds a complete address.
    unsafe { address::read(place.cast()) }
}

/// Who is at the other end of a socket.
pub fn peer(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: `getpeername` fills what it is given.
    unsafe { ask(|place, length| libc::getpeername(fd, place, length)) }
}

/// Whether the connection is broken, other than by an end that its peer has sent. It takes no bytes.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn is_reset(c: *mut ngx_connection_t) -> bool {
    let mut byte = 0u8;
    // SAFETY: the caller's promise; there is room for a byte.
    let peeked = unsafe { libc::recv((*c).fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
    let error = std::io::Error::last_os_error();
    peeked < 0 && error.kind() != std::io::ErrorKind::WouldBlock
}

/// Whether anything went wrong on the connection; over TLS, unless its peer has `notified` the end, also
/// where TLS stops short.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn failed(c: *mut ngx_connection_t, notified: bool) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let events = (*(*c).read).error() | (*(*c).write).error();
        (*c).error() == 1 || events == 1 || (!notified && tls_was_cut(c))
    }
}

/// Whether the connect has succeeded. The error, if there is one, stays where the proxy looks for it.
///
/// # Safety
///
/// `pc` has a socket.
pub unsafe fn is_connected(pc: *mut ngx_connection_t) -> bool {
    // SAFETY: an open socket, and room for any address.
    unsafe {
        let mut none: libc::sockaddr_storage = std::mem::zeroed();
        let mut length = size_of_val(&none) as libc::socklen_t;
        libc::getpeername((*pc).fd, (&raw mut none).cast(), &raw mut length) == 0
    }
}

/// Whether the peer has sent all that it will send. Over TLS close_notify is not asked for: many clients never
/// send it.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn has_ended(c: *mut ngx_connection_t) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*(*c).read).eof() == 1 }
}

/// Whether TLS has ended where it should not: before the handshake was done, within a record, or with a reset,
/// which nginx takes for an end like any other.
unsafe fn tls_was_cut(c: *mut ngx_connection_t) -> bool {
    // SAFETY: the connection is open, and its TLS object lives as long.
    unsafe {
        let Some(tls) = (*c).ssl.as_ref() else {
            return false;
        };
        if tls.handshaked() == 0 {
            return true;
        }
        if (*(*c).read).eof() == 0 {
            return false;
        }
        matches!(tcp_state(c), None | Some(TCP_CLOSE)) || SSL_has_pending(tls.connection) == 1
    }
}

/// What there is between two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No connection, or none any more.
    None,
    /// The peer has ended its half.
    Half,
    /// Both halves.
    Whole,
}

/// What the kernel says of a connection, whatever nginx has seen of it.
///
/// # Safety
///
/// `c` is an open TCP connection.
pub unsafe fn link(c: *mut ngx_connection_t) -> Link {
    // SAFETY: the caller's promise.
    match unsafe { tcp_state(c) } {
        Some(TCP_ESTABLISHED) => Link::Whole,
        Some(TCP_CLOSE_WAIT) => Link::Half,
        _ => Link::None,
    }
}

/// Whether the peer has ended or reset the connection, whatever nginx has read of it and before any event says so.
///
/// # Safety
///
/// `c` is an open TCP connection.
pub unsafe fn peer_has_left(c: *mut ngx_connection_t) -> bool {
    // SAFETY: the caller's promise.
    unsafe { tcp_state(c) != Some(TCP_ESTABLISHED) }
}

/// One of linux/tcp_states.h, if this is a TCP socket.
///
/// # Safety
///
/// `c` is an open connection.
unsafe fn tcp_state(c: *mut ngx_connection_t) -> Option<u8> {
    let mut state = 0u8;
    let mut length: socklen_t = 1;
    let place = (&raw mut state).cast();
    // SAFETY: the socket is open; TCP_INFO begins with the state, and no more than that byte is written.
    let asked = unsafe {
        libc::getsockopt(
            (*c).fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            place,
            &raw mut length,
        )
    };
    (asked == 0).then_some(state)
}

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;
/// Of a socket that was reset.
const TCP_CLOSE: u8 = 7;

/// Whether closing the socket, by whoever and for whatever reason, sends a reset or a FIN; over TLS, whether
/// close_notify goes before it.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn set_reset_at_close(c: *mut ngx_connection_t, reset: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let _ = set_reset((*c).fd, reset);
        set_silent_at_close(c, reset);
    }
}

/// Whether close_notify is left out at the end.
///
/// # Safety
///
/// `c` is an open connection.
pub unsafe fn set_silent_at_close(c: *mut ngx_connection_t, silent: bool) {
    // SAFETY: the connection's TLS object lives as long.
    unsafe {
        if let Some(ssl) = (*c).ssl.as_mut() {
            ssl.set_no_wait_shutdown(silent.into());
            ssl.set_no_send_shutdown(silent.into());
        }
    }
}

/// SO_LINGER of a socket: with it on, and no time to linger, closing sends a reset.
///
/// # Safety
///
/// The socket is open.
pub unsafe fn set_reset(fd: RawFd, on: bool) -> io::Result<()> {
    let now = linger {
        l_onoff: on.into(),
        l_linger: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { set_option(fd, SOL_SOCKET, SO_LINGER, &now) }
}

/// Sets an option.
///
/// # Safety
///
/// The socket is open, and the option's value is a `T`.
pub unsafe fn set_option<T>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as socklen_t;
    let place = ptr::from_ref(value).cast();
    // SAFETY: the caller's promise.
    match unsafe { libc::setsockopt(fd, level, option, place, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
