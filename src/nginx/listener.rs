//! Options of listening sockets that accepted ones inherit (Linux), so that they are in force from the first moment and
//! cost nothing for each connection: transparency, and what a data connection begins with. A worker without a free
//! connection closes what it has accepted before anybody else has seen it: that must be a reset, too.
//!
//! A listening socket outlives its configuration. One that serves something else after a reload must lose what it has
//! of ours, also where the new configuration does not load this module at all. What nobody cleans are the sockets that a
//! new binary without this module inherits.

use std::ffi::c_void;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::log::ngx_log_error;
use libc::{IPPROTO_TCP, SO_LINGER, SOL_SOCKET, TCP_NODELAY, linger, socklen_t};
use nginx_sys::{
    NGX_LOG_NOTICE, NGX_PROCESS_MASTER, ngx_cycle_t, ngx_listening_t, ngx_log_t,
    ngx_pool_cleanup_add, ngx_process, ngx_stream_conf_ctx_t, ngx_stream_init_connection,
    ngx_stream_port_t, ngx_uint_t,
};

use super::address;
use super::check::{self, conf_of};
use super::conf::SrvConf;
use super::guard::guarded;
use super::socket::{set_option, set_reset, set_transparent};
use super::stock::core_conf;

/// What a data connection has from its listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Closing it sends a reset.
    pub reset: bool,
    /// TCP_NODELAY is on, as `tcp_nodelay` wants it.
    pub nodelay: bool,
}

impl Inherited {
    /// Nothing.
    pub const NONE: Self = Self {
        reset: false,
        nodelay: false,
    };
    const ALL: Self = Self {
        reset: true,
        nodelay: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            reset: self.reset && other.reset,
            nodelay: self.nodelay && other.nodelay,
        }
    }
}

/// Sets what the sockets are to hand on, takes what they are not, and tells the data servers.
///
/// # Safety
///
/// The cycle's listening sockets are open, and nobody reads its configuration meanwhile.
pub unsafe fn prepare(cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller's promise.
    unsafe {
        for listener in listeners(cycle) {
            for server in servers(listener) {
                (*conf_of(server)).inherited = Inherited::ALL;
            }
        }
        for listener in listeners(cycle) {
            let given = hand_on(listener.fd, wanted(listener));
            for server in servers(listener) {
                let conf = conf_of(server);
                (*conf).inherited = (*conf).inherited.and(given);
            }
        }
    }
}

/// A socket that serves data servers alone resets what they do not end; and it has no delay where all of them want none.
unsafe fn wanted(listener: &ngx_listening_t) -> Inherited {
    // SAFETY: a listening socket of the cycle.
    unsafe {
        let mut wanted = match servers(listener).is_empty() {
            true => Inherited::NONE,
            false => Inherited::ALL,
        };
        for server in servers(listener) {
            let is_data = (*conf_of(server)).is_data();
            wanted = wanted.and(Inherited {
                reset: is_data,
                nodelay: is_data && (*core_conf(server)).tcp_nodelay == 1,
            });
        }
        wanted
    }
}

/// Answers what the socket has in the end. That a listening socket resets is our mark: nobody else does that.
unsafe fn hand_on(fd: RawFd, wanted: Inherited) -> Inherited {
    // SAFETY: an open socket.
    unsafe {
        let marked = is_marked(fd);
        if !marked && !wanted.reset {
            return Inherited::NONE;
        }
        let nodelay = set_option(fd, IPPROTO_TCP, TCP_NODELAY, &i32::from(wanted.nodelay));
        let reset = set_reset(fd, wanted.reset);
        Inherited {
            reset: wanted.reset && reset.is_ok(),
            nodelay: wanted.nodelay && nodelay.is_ok(),
        }
    }
}

unsafe fn is_marked(fd: RawFd) -> bool {
    let mut now = linger {
        l_onoff: 0,
        l_linger: -1,
    };
    let mut length = size_of::<linger>() as socklen_t;
    let place = (&raw mut now).cast();
    // SAFETY: the option has the size that is told.
    let asked = unsafe { libc::getsockopt(fd, SOL_SOCKET, SO_LINGER, place, &raw mut length) };
    asked == 0 && now.l_onoff != 0 && now.l_linger == 0
}

/// Cycles of this process that have the module.
static CYCLES: AtomicUsize = AtomicUsize::new(0);

/// Has the sockets cleaned when the cycle ends and no other one has the module.
///
/// # Safety
///
/// Called once for each cycle.
pub unsafe fn clean_up_after(cycle: *mut ngx_cycle_t) {
    // SAFETY: nginx's cycle; it lives as long as its pool.
    unsafe {
        if let Some(cleanup) = ngx_pool_cleanup_add((*cycle).pool, 0).as_mut() {
            CYCLES.fetch_add(1, Ordering::Relaxed);
            cleanup.handler = Some(leave);
            cleanup.data = cycle.cast();
        }
    }
}

unsafe extern "C" fn leave(cycle: *mut c_void) {
    let cycle = cycle.cast::<ngx_cycle_t>();
    // SAFETY: the cycle is being destroyed. In the master this is at once, and of its sockets those that remain are
    // another's by now, and open.
    unsafe {
        guarded((*cycle).log, (), || {
            let last = CYCLES.fetch_sub(1, Ordering::Relaxed) == 1;
            // A worker's end is not the end of its sockets.
            if !last || ngx_process != NGX_PROCESS_MASTER as ngx_uint_t {
                return;
            }
            for listener in listeners(cycle).filter(|listener| listener.remain() == 1) {
                hand_on(listener.fd, Inherited::NONE);
            }
        });
    }
}

/// Lets the listening sockets of servers with `ftp_original_dst` accept connections that a TPROXY rule hands
/// them. nginx itself has no parameter for that. Needs CAP_NET_ADMIN, which the master has; without it only
/// TPROXY does not work.
///
/// # Safety
///
/// Called in the master with its new cycle.
pub unsafe fn make_transparent(cycle: *mut ngx_cycle_t) {
    let wants = |conf: &SrvConf| conf.original_dst() && (conf.is_data() || conf.is_control());
    // SAFETY: the listening sockets of the cycle are open, its servers complete.
    unsafe {
        for listener in listeners(cycle) {
            let mut servers = servers(listener).into_iter();
            if servers.any(|server| wants(&*conf_of(server))) {
                make_one_transparent(listener, (*cycle).log);
            }
        }
    }
}

unsafe fn make_one_transparent(listener: &ngx_listening_t, log: *mut ngx_log_t) {
    // SAFETY: an open socket with its address, which of a unix socket is none that counts.
    unsafe {
        let Some(local) = address::read(listener.sockaddr) else {
            return;
        };
        if let Err(error) = set_transparent(listener.fd, &local, true) {
            let name = &listener.addr_text;
            ngx_log_error!(
                NGX_LOG_NOTICE,
                log,
                "TPROXY is not possible on {name}: {error}"
            );
        }
    }
}

/// The open listening sockets of the cycle, whoever they belong to.
unsafe fn listeners<'a>(cycle: *mut ngx_cycle_t) -> impl Iterator<Item = &'a ngx_listening_t> {
    // SAFETY: the array lives as long as the cycle.
    let all: &[ngx_listening_t] = unsafe { (*cycle).listening.as_slice() };
    all.iter().filter(|listener| listener.fd >= 0)
}

/// The (default) servers at the addresses of a socket; none where it is not of the `stream` block.
unsafe fn servers(listener: &ngx_listening_t) -> Vec<*mut ngx_stream_conf_ctx_t> {
    let ours = listener.handler.is_some_and(|handler| {
        handler as usize == ngx_stream_init_connection as *const () as usize
    });
    if !ours {
        return Vec::new();
    }
    // SAFETY: nginx's stream listeners have a `ngx_stream_port_t` with addresses of the socket's family.
    unsafe {
        let port = listener.servers.cast::<ngx_stream_port_t>();
        let family = i32::from((*listener.sockaddr).sa_family);
        let one = |i: ngx_uint_t| {
            let served = match family {
                libc::AF_INET6 => {
                    let addrs = (*port).addrs.cast::<nginx_sys::ngx_stream_in6_addr_t>();
                    ptr::from_ref(&(*addrs.add(i)).conf)
                }
                _ => {
                    let addrs = (*port).addrs.cast::<nginx_sys::ngx_stream_in_addr_t>();
                    ptr::from_ref(&(*addrs.add(i)).conf)
                }
            };
            check::server_at(&*served)
        };
        (0..(*port).naddrs).map(one).collect()
    }
}
