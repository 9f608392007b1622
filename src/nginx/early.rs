//! What a client sends on a data connection, as the proxy reads it.
//!
//! Its end may come where its transfer command has not been read yet, by another worker most often: a small upload of a
//! client that does not wait for 150. It is kept back until the command is known, or for a moment, so that the log can
//! tell which file it was, and whether it is whole.
//!
//! With its first byte the server's connection gets TCP_NODELAY, as `tcp_nodelay` wants it: in a download the proxy sends
//! nothing there.

use nginx_sys::{
    NGX_AGAIN, NGX_ERROR, ngx_add_timer, ngx_connection_t,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_SET as NODELAY_SET,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_UNSET as NODELAY_UNSET, ngx_msec_t, ngx_recv_pt,
    ngx_stream_session_t, ngx_tcp_nodelay, u_char,
};

use super::context;
use super::guard::guarded;
use super::zone;
use crate::ports::Msec;

/// Milliseconds that anything waits at most for the command: there may be none at all.
pub const PATIENCE: Msec = 1000;

/// Milliseconds between two looks at the reservation.
const STEP: ngx_msec_t = 10;

/// What a data connection keeps for that.
#[derive(Default)]
pub struct Early {
    /// How its bytes are read, with or without TLS.
    recv: ngx_recv_pt,
    /// When the end has come and waits no more.
    until: Option<Msec>,
    /// The server's connection has no TCP_NODELAY yet.
    delays: bool,
}

impl Early {
    /// The proxy is not to set TCP_NODELAY on the server's connection.
    ///
    /// # Safety
    ///
    /// `pc` is open.
    pub unsafe fn delay(&mut self, pc: *mut ngx_connection_t) {
        self.delays = true;
        // SAFETY: the caller's promise.
        unsafe { (*pc).set_tcp_nodelay(NODELAY_SET) };
    }

    /// There is something to send to the server.
    unsafe fn hurry(&mut self, s: *mut ngx_stream_session_t) {
        if !std::mem::take(&mut self.delays) {
            return;
        }
        // SAFETY: the session's server is connected.
        unsafe {
            let pc = (*(*s).upstream).peer.connection;
            (*pc).set_tcp_nodelay(NODELAY_UNSET);
            // What fails is slow, and in the log.
            ngx_tcp_nodelay(pc);
        }
    }

    /// Whether the end may wait longer.
    fn is_patient(&mut self) -> bool {
        let now = zone::now();
        now < *self.until.get_or_insert(now.saturating_add(PATIENCE))
    }
}

/// Puts itself before what reads from the client.
///
/// # Safety
///
/// The session is one of a data server, both its connections are open, and its client's handshake is over.
pub unsafe fn watch(s: *mut ngx_stream_session_t, early: &mut Early) {
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        early.recv = (*c).recv.replace(receive);
        // Another module's preread phase may have read some.
        if (*s).received > 0 || !(*c).buffer.is_null() {
            early.hurry(s);
        }
    }
}

unsafe extern "C" fn receive(c: *mut ngx_connection_t, buf: *mut u_char, size: usize) -> isize {
    // SAFETY: the connection has a session with our state, and the proxy reads from it while nobody else uses that.
    unsafe {
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let Some(early) = context::data(s).map(|data| data.early()) else {
            return NGX_ERROR as isize;
        };
        let Some(recv) = early.recv else {
            return NGX_ERROR as isize;
        };
        let received = recv(c, buf, size);
        if received > 0 {
            early.hurry(s);
        }
        if received != 0 {
            return received;
        }
        let waits = guarded((*c).log, false, || {
            context::data(s).is_some_and(|data| !data.is_named() && data.early().is_patient())
        });
        if !waits {
            return 0;
        }
        // As where a rate is limited: the proxy reads again when the time is over.
        let read = (*c).read;
        (*read).set_eof(0);
        (*read).set_ready(1);
        (*read).set_delayed(1);
        ngx_add_timer(read, STEP);
        NGX_AGAIN as isize
    }
}
