//! Explicit TLS toward the server: between the stock proxy's connect and its handshake, the greeting is read and AUTH
//! sent. What comes before and after, and what a failure leads to (the next server), is the stock proxy's. Of implicit
//! TLS only `free` is of interest here, which logs what the proxy does not.
//!
//! ```text
//! content, init_peer   put `get`, `notify` and `free` before the balancer's own
//! get                  connects itself and says "not yet", even of a unix socket: or the proxy would begin TLS
//! on_hook              at the next turn: our handlers in the place of the proxy's, which are kept
//! on_event             greeting, AUTH, 234; then the proxy's handlers again, which begin the handshake
//! notify               TLS is up: the greeting goes to the client
//! free                 it is not, and the time is over
//! ```

use std::ffi::c_void;
use std::ptr;

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_AGAIN, NGX_ERROR, NGX_LOG_ERR, NGX_OK, NGX_PROXY_PROTOCOL_MAX_HEADER,
    NGX_STREAM_UPSTREAM_NOTIFY_CONNECT, ngx_add_timer, ngx_connection_t, ngx_delete_posted_event,
    ngx_event_free_peer_pt, ngx_event_get_peer_pt, ngx_event_handler_pt, ngx_event_notify_peer_pt,
    ngx_event_t, ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, ngx_log_t,
    ngx_peer_connection_t, ngx_post_event, ngx_posted_events, ngx_proxy_protocol_write,
    ngx_resolver_ctx_t, ngx_stream_session_t, ngx_stream_upstream_srv_conf_t, ngx_uint_t,
};

use super::context;
use super::guard::guarded;
use super::{module, socket, stock};
use crate::session::{AUTH_TLS, Step, Upgrade};

/// What a control connection keeps for it.
pub struct Auth {
    explicit: bool,
    /// The balancer's own functions, once ours are in their place.
    installed: bool,
    get: ngx_event_get_peer_pt,
    notify: ngx_event_notify_peer_pt,
    free: ngx_event_free_peer_pt,
    /// Runs after the proxy has set its handlers.
    hook: ngx_event_t,
    /// The proxy's handlers of the server's connection.
    read: ngx_event_handler_pt,
    write: ngx_event_handler_pt,
    /// The proxy's handler of the client's read event.
    client: ngx_event_handler_pt,
    stage: Stage,
    upgrade: Upgrade,
    unsent: Vec<u8>,
    /// The resolver's way back to the proxy.
    resolved: nginx_sys::ngx_resolver_handler_pt,
    /// The greeting of the server that TLS is up with, until the filter has taken it.
    greeting: Option<Vec<u8>>,
    /// Told when the session is gone.
    gone: *mut bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Greeting,
    Asked,
    /// The proxy has its handlers back.
    Done,
}

impl Auth {
    /// A session that has not been proxied.
    pub fn new(explicit: bool) -> Self {
        Self {
            explicit,
            installed: false,
            get: None,
            notify: None,
            free: None,
            // SAFETY: zeroes are an event that is nowhere.
            hook: unsafe { std::mem::zeroed() },
            read: None,
            write: None,
            client: None,
            stage: Stage::Done,
            upgrade: Upgrade::default(),
            unsent: Vec::new(),
            resolved: None,
            greeting: None,
            gone: ptr::null_mut(),
        }
    }

    /// The server wants AUTH.
    pub fn is_explicit(&self) -> bool {
        self.explicit
    }

    /// The server's greeting waits for the filter.
    pub fn has_greeting(&self) -> bool {
        self.greeting.is_some()
    }

    /// The server's greeting, once.
    pub fn greeting(&mut self) -> Option<Vec<u8>> {
        self.greeting.take()
    }
}

impl Drop for Auth {
    fn drop(&mut self) {
        // SAFETY: the event is ours; the flag is on the stack of a caller that has not returned.
        unsafe {
            if self.hook.posted() == 1 {
                ngx_delete_posted_event(&raw mut self.hook);
            }
            if let Some(gone) = self.gone.as_mut() {
                *gone = true;
            }
        }
    }
}

/// The session's state for it, if its server has `proxy_ssl on`.
unsafe fn of<'a>(s: *mut ngx_stream_session_t) -> Option<&'a mut Auth> {
    // SAFETY: as for `context::control`.
    unsafe { context::control(s)?.auth() }
}

/// The session that a peer is chosen for; nginx's own log handler finds it there, too.
unsafe fn session(peer: *const ngx_peer_connection_t) -> *mut ngx_stream_session_t {
    // SAFETY: the log is that of a stream connection.
    unsafe { (*(*peer).log).data.cast() }
}

/// Runs `work`, in which the proxy may end the session. Whether it has not.
unsafe fn outlives(s: *mut ngx_stream_session_t, work: impl FnOnce()) -> bool {
    let mut gone = false;
    // SAFETY: `gone` lives until the state is told of another one, or of none.
    unsafe {
        if let Some(auth) = of(s) {
            auth.gone = &raw mut gone;
        }
        work();
        if !gone && let Some(auth) = of(s) {
            auth.gone = ptr::null_mut();
        }
    }
    !gone
}

// --- where it comes in ---

/// The content handler of control servers with `proxy_ssl on`: the proxy's, and then ours where `init_peer` was not
/// called, for `proxy_pass` has a variable.
///
/// # Safety
///
/// Called by nginx in the content phase.
pub unsafe extern "C" fn content(s: *mut ngx_stream_session_t) {
    // SAFETY: nginx's session.
    unsafe {
        let Some(proxy) = module::main_conf(s).content else {
            return;
        };
        if let Some(control) = context::control(s) {
            control.expect_tls(context::conf(s).proxy_auth_tls());
        }
        if outlives(s, || proxy(s)) {
            meet_peer(s);
        }
    }
}

/// The proxy has begun to connect, or waits for the resolver.
unsafe fn meet_peer(s: *mut ngx_stream_session_t) {
    // SAFETY: the session is alive; where the proxy ends it, nothing is used afterwards.
    unsafe {
        let c = (*s).connection;
        let in_time = guarded((*c).log, false, || {
            let (Some(auth), Some(upstream)) = (of(s), (*s).upstream.as_mut()) else {
                return true;
            };
            let waiting = upstream.resolved.as_ref().map(|resolved| resolved.ctx);
            if let Some(ctx) = waiting.and_then(|ctx| ctx.as_mut()) {
                auth.resolved = ctx.handler;
                ctx.handler = Some(on_resolved);
            } else if !auth.installed {
                install(s, auth);
                match upstream.peer.connection.as_ref() {
                    Some(there) if auth.explicit && !there.ssl.is_null() => return false,
                    Some(_) if auth.explicit => auth.begin(s),
                    _ => {}
                }
            }
            true
        });
        if !in_time {
            // It was connected at once, and the proxy has begun its handshake.
            let what = "\"ftp_proxy_auth_tls\" does not support unix sockets in variables";
            ngx_log_error!(NGX_LOG_ERR, (*c).log, "{what}");
            (*c).set_close(1);
            if let Some(proxy) = (*(*c).read).handler {
                proxy((*c).read);
            }
        }
    }
}

unsafe extern "C" fn on_resolved(ctx: *mut ngx_resolver_ctx_t) {
    // SAFETY: the context is the session's; the proxy frees it.
    unsafe {
        let s = (*ctx).data.cast::<ngx_stream_session_t>();
        let Some(Some(proxy)) = of(s).map(|auth| auth.resolved.take()) else {
            return;
        };
        if outlives(s, || proxy(ctx)) {
            meet_peer(s);
        }
    }
}

/// Initialises a peer as its balancer does, and comes before it.
///
/// # Safety
///
/// Called by nginx for an upstream that `check` has seen.
pub unsafe extern "C" fn init_peer(
    s: *mut ngx_stream_session_t,
    upstream: *mut ngx_stream_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: nginx's session.
    unsafe {
        guarded((*(*s).connection).log, NGX_ERROR as ngx_int_t, || {
            let Some(balancer) = module::main_conf(s).balancer(upstream) else {
                return NGX_ERROR as ngx_int_t;
            };
            let rc = balancer(s, upstream);
            if rc == NGX_OK as ngx_int_t
                && let Some(auth) = of(s)
            {
                install(s, auth);
            }
            rc
        })
    }
}

unsafe fn install(s: *mut ngx_stream_session_t, auth: &mut Auth) {
    // SAFETY: the proxy has made the session's upstream, and the balancer its peer.
    unsafe {
        let peer = &mut (*(*s).upstream).peer;
        auth.installed = true;
        auth.free = peer.free.replace(free);
        if auth.explicit {
            auth.get = peer.get.replace(get);
            auth.notify = peer.notify.replace(notify);
        }
    }
}

unsafe extern "C" fn get(peer: *mut ngx_peer_connection_t, data: *mut c_void) -> ngx_int_t {
    // SAFETY: the peer of a session with a control state, which put us here.
    unsafe {
        guarded((*peer).log, NGX_ERROR as ngx_int_t, || {
            let s = session(peer);
            let Some(Some(balancer)) = of(s).map(|auth| auth.get) else {
                return NGX_ERROR as ngx_int_t;
            };
            let chosen = balancer(peer, data);
            if chosen != NGX_OK as ngx_int_t {
                return chosen;
            }
            let connected = stock::connect(peer);
            if connected != NGX_OK as ngx_int_t && connected != NGX_AGAIN as ngx_int_t {
                return connected;
            }
            if let Some(auth) = of(s) {
                auth.begin(s);
            }
            NGX_AGAIN as ngx_int_t
        })
    }
}

/// TLS is up.
unsafe extern "C" fn notify(peer: *mut ngx_peer_connection_t, data: *mut c_void, what: ngx_uint_t) {
    // SAFETY: as for `get`.
    unsafe {
        guarded((*peer).log, (), || {
            let s = session(peer);
            let Some(auth) = of(s) else {
                return;
            };
            if what == NGX_STREAM_UPSTREAM_NOTIFY_CONNECT as ngx_uint_t {
                auth.greeting = Some(std::mem::take(&mut auth.upgrade).into_greeting());
                if let Some(control) = context::control(s) {
                    control.call_filter();
                }
            }
            if let Some(Some(balancer)) = of(s).map(|auth| auth.notify) {
                balancer(peer, data, what);
            }
        });
    }
}

/// The proxy is done with a server.
unsafe extern "C" fn free(peer: *mut ngx_peer_connection_t, data: *mut c_void, state: ngx_uint_t) {
    // SAFETY: as for `get`.
    unsafe {
        guarded((*peer).log, (), || {
            stock::log_slow_handshake(peer);
            if let Some(Some(balancer)) = of(session(peer)).map(|auth| auth.free) {
                balancer(peer, data, state);
            }
        });
    }
}

// --- before TLS ---

impl Auth {
    /// A connection to a server has been begun; the proxy sets its own handlers yet.
    unsafe fn begin(&mut self, s: *mut ngx_stream_session_t) {
        self.stage = Stage::Connecting;
        self.upgrade = Upgrade::default();
        self.unsent = Vec::new();
        self.hook.handler = Some(on_hook);
        self.hook.data = s.cast();
        // SAFETY: the event is deleted before it goes.
        unsafe {
            self.hook.log = (*(*s).connection).log;
            ngx_post_event(&raw mut self.hook, &raw mut ngx_posted_events);
        }
    }
}

/// The proxy has set its handlers.
unsafe extern "C" fn on_hook(event: *mut ngx_event_t) {
    // SAFETY: the event goes with the session's state.
    unsafe {
        let s = (*event).data.cast::<ngx_stream_session_t>();
        let Some(upstream) = (*s).upstream.as_ref() else {
            return;
        };
        let Some(pc) = upstream.peer.connection.as_mut() else {
            return;
        };
        if let Some(auth) = of(s) {
            auth.read = (*pc.read).handler.replace(on_event);
            auth.write = (*pc.write).handler.replace(on_event);
            auth.client = (*(*(*s).connection).read).handler.replace(on_client);
        }
        // The proxy would notice only later that the client has gone.
        let read = (*(*s).connection).read;
        if ngx_handle_read_event(read, 0) != NGX_OK as ngx_int_t {
            return fail(s, pc);
        }
        proceed(s, pc);
    }
}

/// The client's bytes wait in the proxy's buffer. Its end is the end: nothing has been said yet.
unsafe extern "C" fn on_client(event: *mut ngx_event_t) {
    // SAFETY: the event of a session's connection; after the proxy's handler it may be gone.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let Some(Some(proxy)) = of(s).map(|auth| auth.client) else {
            return;
        };
        if outlives(s, || proxy(event)) && (*event).eof() == 1 {
            (*c).set_close(1);
            proxy(event);
        }
    }
}

unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection to a server, with a session that has a control state.
    unsafe {
        let pc = (*event).data.cast::<ngx_connection_t>();
        let s = (*pc).data.cast::<ngx_stream_session_t>();
        if (*pc).close() == 1 {
            // The worker ends; so does the client's connection, and with it the session.
            return;
        }
        if (*event).timedout() == 1 {
            // The proxy says so, and tries the next server.
            return give_back(s, pc);
        }
        proceed(s, pc);
    }
}

/// How far it has come.
enum Progress {
    /// An event is awaited.
    Waits,
    /// The proxy's turn: to begin TLS, or to say why it could not connect.
    Over,
    /// Failed, as the log tells.
    Failed,
}

unsafe fn proceed(s: *mut ngx_stream_session_t, pc: *mut ngx_connection_t) {
    // SAFETY: both are alive; the proxy's handlers may end the session, and nothing is used after them.
    unsafe {
        let log = (*(*s).connection).log;
        let progress = guarded(log, Progress::Failed, || match of(s) {
            Some(auth) => auth.proceed(s, pc),
            None => Progress::Failed,
        });
        match progress {
            Progress::Waits => {
                let read = ngx_handle_read_event((*pc).read, 0);
                let written = ngx_handle_write_event((*pc).write, 0);
                if read != NGX_OK as ngx_int_t || written != NGX_OK as ngx_int_t {
                    fail(s, pc);
                }
            }
            Progress::Over => give_back(s, pc),
            Progress::Failed => fail(s, pc),
        }
    }
}

/// The proxy's handlers come back, and find the connection as after a connect.
unsafe fn give_back(s: *mut ngx_stream_session_t, pc: *mut ngx_connection_t) {
    // SAFETY: as for `proceed`.
    unsafe {
        let Some(auth) = of(s) else {
            return;
        };
        auth.stage = Stage::Done;
        (*(*pc).read).handler = auth.read.take();
        (*(*pc).write).handler = auth.write.take();
        if let Some(client) = auth.client.take() {
            (*(*(*s).connection).read).handler = Some(client);
        }
        if let Some(proxy) = (*(*pc).write).handler {
            proxy((*pc).write);
        }
    }
}

/// The proxy tries the next server as after a timeout, which it need not log.
unsafe fn fail(s: *mut ngx_stream_session_t, pc: *mut ngx_connection_t) {
    /// A log of nothing.
    // SAFETY: zeroes are a log of level 0, which writes nothing.
    static mut SILENT: ngx_log_t = unsafe { std::mem::zeroed() };
    // SAFETY: as for `proceed`.
    unsafe {
        (*pc).log = &raw mut SILENT;
        (*(*pc).write).set_timedout(1);
        give_back(s, pc);
    }
}

impl Auth {
    unsafe fn proceed(
        &mut self,
        s: *mut ngx_stream_session_t,
        pc: *mut ngx_connection_t,
    ) -> Progress {
        // SAFETY: the caller's promise.
        unsafe {
            if self.stage == Stage::Connecting {
                if (*(*pc).write).ready() == 0 {
                    return Progress::Waits;
                }
                if !socket::is_connected(pc) {
                    return Progress::Over;
                }
                self.enter(s, Stage::Greeting);
                if !self.put_proxy_protocol(s) {
                    return Progress::Failed;
                }
            }
            let log = (*(*s).connection).log;
            loop {
                match self.send(pc) {
                    Some(true) => {}
                    Some(false) => return Progress::Waits,
                    None => return Progress::Failed,
                }
                let mut bytes = [0; 1024];
                let received = match (*pc).recv {
                    Some(recv) => recv(pc, bytes.as_mut_ptr(), bytes.len()),
                    None => return Progress::Failed,
                };
                if received == NGX_AGAIN as isize {
                    return Progress::Waits;
                }
                let bytes = usize::try_from(received)
                    .ok()
                    .and_then(|count| bytes.get(..count));
                let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
                    ngx_log_error!(NGX_LOG_ERR, log, "server closed the connection before TLS");
                    return Progress::Failed;
                };
                match self.upgrade.from_server(bytes) {
                    Ok(Step::Read) => {}
                    Ok(Step::Ask) => {
                        self.unsent = AUTH_TLS.to_vec();
                        self.enter(s, Stage::Asked);
                    }
                    Ok(Step::Secure) => return Progress::Over,
                    Err(refusal) => {
                        ngx_log_error!(NGX_LOG_ERR, log, "{refusal}");
                        return Progress::Failed;
                    }
                }
            }
        }
    }

    /// `proxy_connect_timeout` bounds each stage by itself.
    unsafe fn enter(&mut self, s: *mut ngx_stream_session_t, stage: Stage) {
        self.stage = stage;
        // SAFETY: the session is alive, and its server connected.
        unsafe {
            let action = match stage {
                Stage::Asked => c"waiting for upstream to accept AUTH TLS",
                _ => c"waiting for upstream's greeting",
            };
            (*(*(*s).connection).log).action = action.as_ptr().cast_mut();
            if let Some(timeout) = stock::connect_timeout(s) {
                ngx_add_timer((*(*(*s).upstream).peer.connection).write, timeout);
            }
        }
    }

    /// The header of the PROXY protocol stands before everything else; the proxy would put it before TLS.
    unsafe fn put_proxy_protocol(&mut self, s: *mut ngx_stream_session_t) -> bool {
        // SAFETY: the session is alive; the call writes no more than it is told.
        unsafe {
            let upstream = (*s).upstream;
            if (*upstream).proxy_protocol() == 0 {
                return true;
            }
            let mut header = [0; NGX_PROXY_PROTOCOL_MAX_HEADER as usize];
            let range = header.as_mut_ptr_range();
            let end = ngx_proxy_protocol_write((*s).connection, range.start, range.end);
            if end.is_null() {
                return false;
            }
            let length = end.offset_from_unsigned(range.start);
            self.unsent
                .extend_from_slice(header.get(..length).unwrap_or_default());
            (*upstream).set_proxy_protocol(0);
        }
        true
    }

    /// Whether everything is with the kernel; `None` if the connection is broken, as the log tells.
    unsafe fn send(&mut self, pc: *mut ngx_connection_t) -> Option<bool> {
        // SAFETY: an open connection.
        unsafe {
            while !self.unsent.is_empty() {
                let send = (*pc).send?;
                let sent = send(pc, self.unsent.as_mut_ptr(), self.unsent.len());
                if sent == NGX_AGAIN as isize {
                    return Some(false);
                }
                let sent = usize::try_from(sent).ok()?;
                self.unsent.drain(..sent.min(self.unsent.len()));
            }
        }
        Some(true)
    }
}
