//! TLS with the client, begun by us: behind AUTH on a control connection, and on a data connection once its
//! other leg is connected. A server may say 150 only when its data port is accepted, and a client may begin its
//! handshake only behind 150: nginx's own order, the client's handshake first, would wait for ever.
//!
//! The handshake itself, and every check of the client's certificate, is the stock ssl phase's handler.

use std::ffi::c_void;

use nginx_sys::{
    NGX_AGAIN, NGX_LOG_INFO, NGX_OK, SSL, SSL_CTRL_SET_MSG_CALLBACK_ARG, SSL_ctrl,
    SSL_set_msg_callback, SSL3_RT_ALERT, ngx_connection_t, ngx_del_timer, ngx_event_handler_pt,
    ngx_event_t, ngx_int_t, ngx_post_event, ngx_posted_events, ngx_stream_handler_pt,
    ngx_stream_phases_NGX_STREAM_SSL_PHASE, ngx_stream_session_t,
};
use ngx::ngx_log_error;

use super::context::{self, Context};
use super::guard::guarded;
use super::stock;

static mut SSL_PHASE: ngx_stream_handler_pt = None;

/// Remembers the ssl phase's handler.
///
/// # Safety
///
/// Called at the end of a `stream` block, by the one thread that reads it.
pub unsafe fn install(cf: *mut nginx_sys::ngx_conf_t) {
    // SAFETY: the ssl module has put its handler there, if it is built in.
    unsafe {
        let main = stock::core_main_conf((*cf).ctx.cast());
        let phase = (*main)
            .phases
            .get(ngx_stream_phases_NGX_STREAM_SSL_PHASE as usize);
        let handlers = phase.map(|phase| phase.handlers.as_slice::<ngx_stream_handler_pt>());
        SSL_PHASE = handlers
            .and_then(|handlers| handlers.first().copied())
            .flatten();
    }
}

/// A handshake under way: the proxy's handlers of the client's events, until it is done.
pub struct Handshake {
    read: ngx_event_handler_pt,
    write: ngx_event_handler_pt,
}

/// Begins a handshake with the client at the next turn of the event loop. The proxy reads nothing of the
/// client until it is done.
///
/// # Safety
///
/// `s` is proxied, nothing is buffered toward its client, and the caller keeps what is returned in the
/// session's state.
pub unsafe fn begin(s: *mut ngx_stream_session_t) -> Handshake {
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        let (read, write) = ((*c).read, (*c).write);
        let handshake = Handshake {
            read: (*read).handler,
            write: (*write).handler,
        };
        (*s).set_ssl(1);
        hold(c, true);
        (*read).handler = Some(on_event);
        (*write).handler = Some(on_event);
        ngx_post_event(read, &raw mut ngx_posted_events);
        handshake
    }
}

/// Keeps the proxy from reading a connection, or lets it again.
///
/// # Safety
///
/// `c` is open, and no `proxy_*_rate` delays it: nothing has been read of it yet, or it has control bytes.
pub unsafe fn hold(c: *mut ngx_connection_t, held: bool) {
    // SAFETY: the caller's promise.
    unsafe { (*(*c).read).set_delayed(held.into()) };
}

/// Sets `notified` when the peer sends close_notify. OpenSSL's own flag does not tell: with the option that
/// nginx sets it says the same of a reset.
///
/// # Safety
///
/// `c` is open; `notified` stays where it is for as long.
pub unsafe fn note_close(c: *mut ngx_connection_t, notified: *mut bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(tls) = (*c).ssl.as_ref() {
            SSL_set_msg_callback(tls.connection, Some(on_message));
            let arg = SSL_CTRL_SET_MSG_CALLBACK_ARG as i32;
            SSL_ctrl(tls.connection, arg, 0, notified.cast());
        }
    }
}

unsafe extern "C" fn on_message(
    written: i32,
    _version: i32,
    kind: i32,
    bytes: *const c_void,
    length: usize,
    _tls: *mut SSL,
    notified: *mut c_void,
) {
    const CLOSE_NOTIFY: u8 = 0;
    if written == 0 && kind == SSL3_RT_ALERT as i32 && length == 2 {
        // SAFETY: OpenSSL gives the alert's two bytes, and what `note_close` set.
        unsafe {
            if bytes.cast::<u8>().add(1).read() == CLOSE_NOTIFY {
                notified.cast::<bool>().write(true);
            }
        }
    }
}

unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection with a session, whose state has a handshake.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let bad = (*c).close() == 1 || (*event).timedout() == 1;
        let rc = match SSL_PHASE {
            Some(handler) if !bad => handler(s),
            _ => nginx_sys::NGX_ERROR as ngx_int_t,
        };
        if rc == NGX_AGAIN as ngx_int_t {
            // Its own would go on to the next phase, where we are already.
            (*(*c).ssl).handler = Some(on_handshake);
            return;
        }
        finish(s, rc == NGX_OK as ngx_int_t);
    }
}

unsafe extern "C" fn on_handshake(c: *mut ngx_connection_t) {
    // SAFETY: as above; nginx calls it when the handshake is done, has failed or has timed out.
    unsafe {
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let done = (*(*c).ssl).handshaked() == 1 && (*c).close() == 0;
        // Again for what the client's certificate must be.
        let fine = done && SSL_PHASE.is_some_and(|handler| handler(s) == NGX_OK as ngx_int_t);
        finish(s, fine);
    }
}

/// Gives the connection back to the proxy, which goes on, or ends the session.
unsafe fn finish(s: *mut ngx_stream_session_t, fine: bool) {
    // SAFETY: the session is alive; the proxy's handlers may end it, and nothing is used after them.
    unsafe {
        let c = (*s).connection;
        let read = (*c).read;
        let handshake = guarded((*c).log, None, || match context::of(s) {
            Some(Context::Control(control)) => control.end_handshake(fine),
            Some(Context::Data(data)) => data.end_handshake(),
            None => None,
        });
        let Some(handshake) = handshake else {
            return;
        };
        if (*read).timer_set() == 1 {
            ngx_del_timer(read);
        }
        (*read).handler = handshake.read;
        (*(*c).write).handler = handshake.write;
        hold(c, false);
        if fine {
            ngx_post_event(read, &raw mut ngx_posted_events);
            // What was held back toward the client.
            ngx_post_event((*c).write, &raw mut ngx_posted_events);
            return;
        }
        ngx_log_error!(
            NGX_LOG_INFO,
            (*c).log,
            "ftp TLS handshake with the client failed"
        );
        // How a stock proxy is told to end a session.
        (*c).set_close(1);
        if let Some(proxy) = handshake.read {
            proxy(read);
        }
    }
}
