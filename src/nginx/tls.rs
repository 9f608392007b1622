//! TLS with the client, begun by us: behind AUTH on a control connection, and on a data connection once its
//! other leg is connected. A server may say 150 only when its data port is accepted, and a client may begin its
//! handshake only behind 150: nginx's own order, the client's handshake first, would wait for ever.
//!
//! The handshake itself, and every check of the client's certificate, is the stock ssl phase's handler.

use std::ffi::c_void;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::log::ngx_log_error;
use nginx_sys::{
    ERR_clear_error, NGX_AGAIN, NGX_DECLINED, NGX_ERROR, NGX_LOG_INFO, NGX_OK,
    NGX_STREAM_INTERNAL_SERVER_ERROR, SSL, SSL_CTRL_SET_MSG_CALLBACK_ARG,
    SSL_CTX_sess_get_remove_cb, SSL_SESSION_get_time, SSL_SESSION_get_timeout,
    SSL_SESSION_set_time, SSL_SESSION_set_timeout, SSL_ctrl, SSL_do_handshake, SSL_get_session,
    SSL_session_reused, SSL_set_cert_cb, SSL_set_msg_callback, SSL_set_num_tickets,
    SSL_set_session_id_context, SSL_shutdown, SSL_version, SSL3_RT_ALERT, TLS1_3_VERSION,
    ngx_add_timer, ngx_cached_time, ngx_connection_t, ngx_del_timer, ngx_event_handler_pt,
    ngx_event_t, ngx_int_t, ngx_log_t, ngx_post_event, ngx_posted_events,
    ngx_ssl_create_connection, ngx_ssl_handshake, ngx_stream_core_run_phases,
    ngx_stream_finalize_session, ngx_stream_handler_pt, ngx_stream_phases_NGX_STREAM_SSL_PHASE,
    ngx_stream_session_t, ngx_uint_t,
};

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

/// Sends close_notify to a client that has everything, before nginx does: its own two calls, the second of which finds
/// the client's FIN, would leave OpenSSL in the belief that none was sent, and take the session, which the control
/// connection and later data connections use as well, out of the cache.
///
/// # Safety
///
/// `c` is open.
pub unsafe fn say_goodbye(c: *mut ngx_connection_t) {
    // SAFETY: the connection's TLS is up.
    unsafe {
        let Some(tls) = (*c).ssl.as_ref() else {
            return;
        };
        if tls.handshaked() == 1 && (*c).buffered() == 0 {
            SSL_shutdown(tls.connection);
            // Or nginx would find it at its next call, and wonder.
            ERR_clear_error();
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

/// OpenSSL's `SSL_new_session_ticket`, which it has from 3.0 on, or 0. Looked up at run time: a module that named it would
/// not load into an nginx with OpenSSL 1.1.1, whatever it was built against.
static NEW_TICKET: AtomicUsize = AtomicUsize::new(0);

/// Looks for it, where the functions that this module is linked to are: another library may have brought another OpenSSL
/// into the process. For the start of a worker.
pub fn find_tickets() {
    // SAFETY: the name of a function.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"SSL_new_session_ticket".as_ptr()) };
    let known = SSL_get_session as *const c_void;
    let ours = !found.is_null() && library_of(found) == library_of(known);
    let place = if ours { found.expose_provenance() } else { 0 };
    NEW_TICKET.store(place, Ordering::Relaxed);
}

/// Where the library begins that the function is in.
fn library_of(function: *const c_void) -> Option<*mut c_void> {
    // SAFETY: zeroes are a value of it, and there is room for the answer.
    unsafe {
        let mut found: libc::Dl_info = mem::zeroed();
        (libc::dladdr(function, &raw mut found) != 0).then_some(found.dli_fbase)
    }
}

/// A ticket at once, for the data connection of a client that uses each session of TLS 1.3 once: data connections give
/// none themselves. `given` says whether the connection's session is one that was given so; what nginx has in its cache
/// of that makes room for the new one, as clients take the last. Those of the handshake stay.
///
/// # Safety
///
/// `c` is the open control connection of a client, and not called from within its TLS.
#[inline(never)] // Out of the way of those without TLS.
pub unsafe fn give_ticket(c: *mut ngx_connection_t, given: &mut bool) {
    // SAFETY: the caller's promise. The function is of the type that OpenSSL declares, and in the library that the
    // connection's TLS object is of.
    unsafe {
        let new_ticket = NEW_TICKET.load(Ordering::Relaxed);
        let Some(ssl) = (*c).ssl.as_ref() else {
            return;
        };
        let tls = ssl.connection;
        if new_ticket == 0 || ssl.handshaked() == 0 || SSL_version(tls) < TLS1_3_VERSION as i32 {
            return;
        }
        // Whoever does not read takes no ticket either; what OpenSSL cannot send would stand in the way of `proxy_timeout`.
        if (*(*c).write).ready() == 0 {
            return;
        }
        let new_ticket: unsafe extern "C" fn(*mut SSL) -> i32 =
            mem::transmute(std::ptr::with_exposed_provenance::<c_void>(new_ticket));
        let session = SSL_get_session(tls);
        // It is known as long as that of the handshake: with a whole time for each ticket a client could go on for ever
        // without showing its certificate again.
        let now = (*ngx_cached_time).sec;
        let left = SSL_SESSION_get_timeout(session) - (now - SSL_SESSION_get_time(session));
        if left <= 0 {
            return;
        }
        SSL_SESSION_set_time(session, now);
        SSL_SESSION_set_timeout(session, left);
        if *given && let Some(remove) = SSL_CTX_sess_get_remove_cb(ssl.session_ctx) {
            remove(ssl.session_ctx, session);
        }
        // Sent now, and not with the reply: until it is, OpenSSL would send no close_notify either. What the socket has no
        // room for goes with the next write.
        if new_ticket(tls) == 1 {
            SSL_do_handshake(tls);
        }
        // Or nginx would find it at its next call, and wonder.
        ERR_clear_error();
        *given = SSL_get_session(tls) != session;
    }
}

/// Runs before the stock ssl phase's handler: a control session whose data connections have to resume its TLS session
/// begins the handshake here, with a mark of its own.
///
/// # Safety
///
/// Called by nginx in the ssl phase.
pub unsafe extern "C" fn ssl_phase(s: *mut ngx_stream_session_t) -> ngx_int_t {
    // SAFETY: nginx's session.
    unsafe {
        let c = (*s).connection;
        guarded((*c).log, NGX_ERROR as ngx_int_t, || {
            let Some(own) = Own::of(s).filter(|_| (*s).ssl() == 1 && (*c).ssl.is_null()) else {
                return NGX_DECLINED as ngx_int_t;
            };
            match own.start(s) {
                rc if rc == NGX_OK as ngx_int_t => NGX_DECLINED as ngx_int_t,
                rc if rc == NGX_AGAIN as ngx_int_t => {
                    (*(*c).ssl).handler = Some(resume_phases);
                    rc
                }
                rc => rc,
            }
        })
    }
}

unsafe extern "C" fn resume_phases(c: *mut ngx_connection_t) {
    // SAFETY: nginx calls it with a connection whose session waits in the ssl phase.
    unsafe {
        let s = (*c).data.cast::<ngx_stream_session_t>();
        if (*(*c).ssl).handshaked() == 0 {
            ngx_stream_finalize_session(s, NGX_STREAM_INTERNAL_SERVER_ERROR as ngx_uint_t);
            return;
        }
        if (*(*c).read).timer_set() == 1 {
            ngx_del_timer((*c).read);
        }
        ngx_stream_core_run_phases(s);
    }
}

/// Where a handshake is to begin otherwise than the stock ssl phase would have it.
struct Own {
    /// The control session that TLS sessions belong to, and to no other.
    context: Option<u64>,
    data: bool,
}

impl Own {
    unsafe fn of(s: *mut ngx_stream_session_t) -> Option<Self> {
        // SAFETY: the session is alive.
        match unsafe { context::of(s)? } {
            Context::Control(control) => control.tls_context().map(|context| Self {
                context: Some(context),
                data: false,
            }),
            Context::Data(data) => Some(Self {
                context: data.tls_context(),
                data: true,
            }),
        }
    }

    unsafe fn start(&self, s: *mut ngx_stream_session_t) -> ngx_int_t {
        // SAFETY: the session is alive, its connection has no TLS yet, and `check` has seen that it can.
        unsafe {
            let c = (*s).connection;
            let (tls, timeout) = stock::tls_of(s);
            (*(*c).log).action = c"SSL handshaking".as_ptr().cast_mut();
            if ngx_ssl_create_connection(tls, c, 0) != NGX_OK as ngx_int_t {
                return NGX_ERROR as ngx_int_t;
            }
            let tls = (*(*c).ssl).connection;
            if let Some(context) = self.context {
                let mark = context.to_ne_bytes();
                SSL_set_session_id_context(tls, mark.as_ptr(), mark.len() as u32);
                if self.data {
                    SSL_set_cert_cb(tls, Some(on_full_handshake), c.cast());
                }
            }
            if self.data {
                // A client that only sends, and closes with them unread, has its last bytes thrown away.
                SSL_set_num_tickets(tls, 0);
            }
            let rc = ngx_ssl_handshake(c);
            if rc == NGX_AGAIN as ngx_int_t {
                ngx_add_timer((*c).read, timeout);
            }
            rc
        }
    }
}

/// OpenSSL asks for a certificate, for a session is not resumed. It would bear the control session's mark, and the
/// client could resume it: it must not come about.
unsafe extern "C" fn on_full_handshake(_tls: *mut SSL, c: *mut c_void) -> i32 {
    // SAFETY: OpenSSL gives what `Own::start` set, a connection that is in a handshake.
    let log = unsafe { (*c.cast::<ngx_connection_t>()).log };
    guarded(log, (), || log_not_resumed(log));
    0
}

fn log_not_resumed(log: *mut ngx_log_t) {
    let what = "client did not resume the TLS session of its control connection";
    ngx_log_error!(NGX_LOG_INFO, log, "{what}");
}

unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection with a session, whose state has a handshake.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let bad = (*c).close() == 1 || (*event).timedout() == 1;
        let first = match Own::of(s) {
            Some(own) if !bad && (*c).ssl.is_null() => own.start(s),
            _ => NGX_OK as ngx_int_t,
        };
        let rc = match SSL_PHASE {
            Some(handler) if !bad && first == NGX_OK as ngx_int_t => handler(s),
            _ if bad => NGX_ERROR as ngx_int_t,
            _ => first,
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

/// Ends a handshake under way, and the session.
///
/// # Safety
///
/// `s` is proxied, and its client's handshake has begun.
pub unsafe fn give_up(s: *mut ngx_stream_session_t) {
    // SAFETY: the caller's promise.
    unsafe { finish(s, false) }
}

/// Whether a data connection that has to has resumed its control session's TLS session. No other could be resumed:
/// they are marked.
unsafe fn has_resumed(s: *mut ngx_stream_session_t) -> bool {
    // SAFETY: the handshake is done.
    unsafe {
        let c = (*s).connection;
        let data = context::data(s).and_then(|data| data.tls_context());
        let resumed = data.is_none() || SSL_session_reused((*(*c).ssl).connection) == 1;
        if !resumed {
            log_not_resumed((*c).log);
        }
        resumed
    }
}

/// Gives the connection back to the proxy, which goes on, or ends the session.
unsafe fn finish(s: *mut ngx_stream_session_t, fine: bool) {
    // SAFETY: the session is alive; the proxy's handlers may end it, and nothing is used after them.
    unsafe {
        let c = (*s).connection;
        let read = (*c).read;
        let fine = fine && has_resumed(s);
        let handshake = guarded((*c).log, None, || match context::of(s) {
            Some(Context::Control(control)) => control.end_handshake(fine),
            Some(Context::Data(data)) => data.end_handshake(fine),
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
