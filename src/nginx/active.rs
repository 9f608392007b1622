//! Active mode: the server has connected to a data port, and the proxy connects to the client before the stock
//! proxy sees the session.
//!
//! ```text
//! PREACCESS  dial       the client; phases stop
//!            on_client  it has answered: the two change places, phases go on
//! CONTENT    stock proxy, whose peer is the server's connection, as ready as one from a keepalive upstream
//! ```
//!
//! nginx's session stands on the connection that was accepted, which is the server's here. Everything else takes the
//! session's own connection for the client's: which side of TLS it is, variables, limits, rates, how a transfer ends.
//! So the two connections exchange their sockets, before anybody has looked.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, mem, ptr};

use libc::{SO_ERROR, SOL_SOCKET};
use nginx_sys::{
    NGX_AGAIN, NGX_ERROR, NGX_INVALID_INDEX, NGX_LOG_INFO, NGX_OK, NGX_STREAM_BAD_GATEWAY,
    ngx_add_timer, ngx_addr_t, ngx_close_connection, ngx_connection_counter, ngx_connection_t,
    ngx_current_msec, ngx_cycle, ngx_del_timer, ngx_delete_posted_event, ngx_event_actions,
    ngx_event_connect_peer, ngx_event_get_peer, ngx_event_t, ngx_get_connection,
    ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, ngx_io, ngx_peer_connection_t,
    ngx_post_event, ngx_posted_events, ngx_stream_core_run_phases, ngx_stream_finalize_session,
    ngx_stream_session_handler, ngx_stream_session_t, ngx_uint_t,
};
use ngx::ngx_log_error;

use super::guard::guarded;
use super::socket::{self, set_reset_at_close};
use super::{address, context, stock};
use crate::ports::Taken;

/// The other leg of a session, until the stock proxy has it.
pub struct Other {
    connection: *mut ngx_connection_t,
    /// The server's address.
    server: *mut ngx_addr_t,
}

impl Other {
    /// The server's address.
    pub fn server(&self) -> *mut ngx_addr_t {
        self.server
    }

    /// Makes a connection of the server's socket, for the session of its client. `None` where there is no room for it.
    ///
    /// # Safety
    ///
    /// The session's connection is open; `fd` is connected.
    pub unsafe fn of_socket(s: *mut ngx_stream_session_t, fd: OwnedFd) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            let c = (*s).connection;
            let server = address::in_pool((*c).pool, socket::peer(fd.as_raw_fd())?);
            if server.is_null() {
                return None;
            }
            let connection = ngx_get_connection(fd.as_raw_fd(), (*c).log);
            if connection.is_null() {
                return None;
            }
            let _ = fd.into_raw_fd();
            fill(connection, s);
            renew(connection, Some(on_ready));
            Some(Self { connection, server })
        }
    }

    /// Hands the connection over. `None` where the event module fails.
    ///
    /// # Safety
    ///
    /// The caller sets handlers, and closes it.
    pub unsafe fn give(&mut self) -> Option<*mut ngx_connection_t> {
        // SAFETY: open while it is ours.
        unsafe {
            let connection = self.connection;
            // The proxy counts on whoever has connected.
            if ngx_handle_read_event((*connection).read, 0) != NGX_OK as ngx_int_t {
                return None;
            }
            self.connection = ptr::null_mut();
            Some(connection)
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if !self.connection.is_null() {
            // SAFETY: open while it is ours, and nobody else has it.
            unsafe { ngx_close_connection(self.connection) };
        }
    }
}

/// Connects to the reservation's target, the client. The error is what ends the session.
///
/// # Safety
///
/// `s` is in the preaccess phase, where `NGX_DONE` is to be returned, and what is returned here is kept in its
/// state.
pub unsafe fn dial(s: *mut ngx_stream_session_t, reservation: &Taken) -> Result<Other, ngx_int_t> {
    const GATEWAY: ngx_int_t = NGX_STREAM_BAD_GATEWAY as ngx_int_t;
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        let target = address::in_pool((*c).pool, reservation.target);
        let server = address::read((*c).sockaddr).map(|server| address::in_pool((*c).pool, server));
        let text = address::host_in_pool((*c).pool, reservation.target);
        let mut peer: ngx_peer_connection_t = mem::zeroed();
        if let Some(local) = reservation.local {
            peer.local = address::in_pool((*c).pool, local);
        }
        let server = server.unwrap_or(ptr::null_mut());
        let unbound = reservation.local.is_some() && peer.local.is_null();
        let (false, Some(text)) = (target.is_null() || server.is_null() || unbound, text) else {
            return Err(NGX_ERROR as ngx_int_t);
        };
        // From here on the session is about the client, also if it never comes to that.
        (*c).sockaddr = (*target).sockaddr;
        (*c).socklen = (*target).socklen;
        (*c).addr_text = text;
        act(c, c"connecting to client");
        peer.sockaddr = (*target).sockaddr;
        peer.socklen = (*target).socklen;
        peer.name = &raw mut (*target).name;
        peer.get = Some(ngx_event_get_peer);
        peer.log = (*c).log;
        peer.set_log_error(nginx_sys::ngx_connection_log_error_e_NGX_ERROR_INFO);
        let rc = ngx_event_connect_peer(&raw mut peer);
        if rc != NGX_OK as ngx_int_t && rc != NGX_AGAIN as ngx_int_t {
            return Err(GATEWAY);
        }
        let connection = peer.connection;
        set_reset_at_close(connection, true);
        (*connection).data = s.cast();
        (*connection).pool = (*c).pool;
        (*(*connection).read).handler = Some(on_client);
        (*(*connection).write).handler = Some(on_client);
        (*(*c).read).handler = Some(on_server);
        (*(*c).write).handler = Some(on_server);
        let other = Other { connection, server };
        if let Some(timeout) = stock::connect_timeout(s) {
            ngx_add_timer((*connection).write, timeout);
        }
        if rc == NGX_OK as ngx_int_t {
            ngx_post_event((*connection).write, &raw mut ngx_posted_events);
        }
        // A server that gives up is noticed.
        match ngx_handle_read_event((*c).read, 0) == NGX_OK as ngx_int_t {
            true => Ok(other),
            false => Err(NGX_ERROR as ngx_int_t),
        }
    }
}

/// Says in the connection's log what it waits for.
///
/// # Safety
///
/// `c` is open.
pub unsafe fn act(c: *mut ngx_connection_t, action: &'static CStr) {
    // SAFETY: an open connection.
    unsafe { (*(*c).log).action = action.as_ptr().cast_mut() };
}

/// The server's leg, while the client is dialled. Bytes and FIN wait: a file may be empty.
unsafe extern "C" fn on_server(event: *mut ngx_event_t) {
    // SAFETY: the event of a session's connection.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let gone = socket::is_reset(c);
        if gone {
            let log = (*c).log;
            ngx_log_error!(
                NGX_LOG_INFO,
                log,
                "ftp server has reset its data connection"
            );
        }
        if gone || (*c).close() == 1 || ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
        }
    }
}

/// The client's leg: connected, refused, too late, or the worker ends.
unsafe extern "C" fn on_client(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection whose session is alive. What holds references to its state has ended when
    // nginx goes on with the session.
    unsafe {
        let client = (*event).data.cast::<ngx_connection_t>();
        let s = (*client).data.cast::<ngx_stream_session_t>();
        let log = (*(*s).connection).log;
        let joined = guarded(log, false, || {
            let Some(data) = context::data(s) else {
                return false;
            };
            if (*client).close() == 1 {
                return false;
            }
            let failure = match (*event).timedout() {
                1 => Some(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
                _ => failure(client),
            };
            if let Some(failure) = failure {
                ngx_log_error!(NGX_LOG_INFO, log, "ftp client does not listen: {failure}");
                return false;
            }
            data.exchange()
        });
        if joined {
            act((*s).connection, c"initializing session");
            ngx_stream_core_run_phases(s);
        } else {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
        }
    }
}

/// Why the connection was not made.
///
/// # Safety
///
/// `c` is open.
pub unsafe fn failure(c: *mut ngx_connection_t) -> Option<io::Error> {
    let mut error: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: an open socket; the option has the size that is told.
    let asked = unsafe {
        let place = (&raw mut error).cast::<c_void>();
        libc::getsockopt((*c).fd, SOL_SOCKET, SO_ERROR, place, &raw mut length)
    };
    match (asked, error) {
        (0, 0) => None,
        (0, error) => Some(io::Error::from_raw_os_error(error)),
        _ => Some(io::Error::last_os_error()),
    }
}

/// The session's connection becomes the client's, the other one the server's. False where the client's is gone.
///
/// # Safety
///
/// Both are connected, and phases wait.
pub unsafe fn exchange(s: *mut ngx_stream_session_t, other: &mut Other) -> bool {
    // SAFETY: both are open; what is waiting for either in this turn of the event loop is void by the bit
    // `instance`.
    unsafe {
        let c = (*s).connection;
        detach(c);
        detach(other.connection);
        mem::swap(&mut (*c).fd, &mut (*other.connection).fd);
        // Some event modules look connections up by their sockets.
        let files = (*ngx_cycle).files;
        if !files.is_null() {
            for connection in [c, other.connection] {
                files.add((*connection).fd as usize).write(connection);
            }
        }
        renew(c, Some(ngx_stream_session_handler));
        renew(other.connection, Some(on_ready));
        // Asked of the kernel again.
        (*c).local_sockaddr = ptr::null_mut();
        (*c).local_socklen = 0;
        socket::local(c).is_some()
    }
}

/// The server's leg between the exchange and the proxy: nobody waits for anything, but the worker may end.
unsafe extern "C" fn on_ready(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection whose session is alive.
    unsafe {
        let server = (*event).data.cast::<ngx_connection_t>();
        if (*server).close() == 1 {
            let s = (*server).data.cast::<ngx_stream_session_t>();
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
        }
    }
}

/// What nginx gives to a connection that it makes itself.
///
/// # Safety
///
/// `c` is fresh, and ends with the session.
pub unsafe fn fill(c: *mut ngx_connection_t, s: *mut ngx_stream_session_t) {
    // SAFETY: the caller's promise; nginx has set its functions when it began.
    unsafe {
        let own = (*s).connection;
        (*c).type_ = libc::SOCK_STREAM;
        (*c).recv = ngx_io.recv;
        (*c).send = ngx_io.send;
        (*c).recv_chain = ngx_io.recv_chain;
        (*c).send_chain = ngx_io.send_chain;
        (*c).number =
            (*ngx_connection_counter.cast::<AtomicUsize>()).fetch_add(1, Ordering::Relaxed) as _;
        (*c).start_time = ngx_current_msec;
        (*c).set_log_error(nginx_sys::ngx_connection_log_error_e_NGX_ERROR_INFO);
        (*c).pool = (*own).pool;
        (*c).log = (*own).log;
        (*(*c).read).log = (*own).log;
        (*(*c).write).log = (*own).log;
        (*c).data = s.cast();
    }
}

/// Nobody waits for it.
///
/// # Safety
///
/// Called by nginx.
pub unsafe extern "C" fn ignore(_event: *mut ngx_event_t) {}

/// Takes the connection's socket out of the event loop.
///
/// # Safety
///
/// `c` is open.
pub unsafe fn detach(c: *mut ngx_connection_t) {
    // SAFETY: an open connection.
    unsafe {
        let (read, write) = ((*c).read, (*c).write);
        for event in [read, write] {
            if (*event).timer_set() == 1 {
                ngx_del_timer(event);
            }
            if (*event).posted() == 1 {
                ngx_delete_posted_event(event);
            }
        }
        match ngx_event_actions.del_conn {
            Some(del) if (*read).active() | (*write).active() == 1 => {
                del(c, 0);
            }
            Some(_) => {}
            None => {
                // What is ready is not waited for.
                (*read).set_ready(1);
                (*write).set_ready(1);
                ngx_handle_read_event(read, 0);
                ngx_handle_write_event(write, 0);
            }
        }
    }
}

/// Makes the connection what nginx's own are for a new socket, one that is connected.
unsafe fn renew(c: *mut ngx_connection_t, handler: nginx_sys::ngx_event_handler_pt) {
    // SAFETY: nothing refers to the two events any more but the kernel's queue, for which the bit changes.
    unsafe {
        for event in [(*c).read, (*c).write] {
            let (write, instance) = ((*event).write(), (*event).instance());
            let mut fresh: ngx_event_t = mem::zeroed();
            fresh.data = c.cast();
            fresh.log = (*c).log;
            fresh.index = NGX_INVALID_INDEX as ngx_uint_t;
            fresh.set_write(write);
            fresh.set_instance(1 - instance);
            fresh.handler = handler;
            event.write(fresh);
        }
        (*(*c).write).set_ready(1);
        (*c).sent = 0;
        (*c).set_error(0);
        (*c).set_tcp_nodelay(0);
        (*c).set_tcp_nopush(0);
    }
}
