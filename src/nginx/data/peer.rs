//! The peer of the hidden upstream, which stands in the stock proxy for "wherever the reservation says": one server,
//! tried once.

use std::ffi::c_void;

use nginx_sys::{
    NGX_AGAIN, NGX_DONE, NGX_ERROR, NGX_LOG_ERR, NGX_OK, NGX_PEER_FAILED, ngx_conf_t, ngx_int_t,
    ngx_log_t, ngx_peer_connection_t, ngx_post_event, ngx_posted_events, ngx_stream_session_t,
    ngx_stream_upstream_srv_conf_t, ngx_uint_t,
};

use super::ending::Legs;
use super::{Data, FAILED};
use crate::nginx::guard::guarded;
use crate::nginx::hello::Hello;
use crate::nginx::log::ngx_log_error;
use crate::nginx::socket::{self, set_reset_at_close, set_silent_at_close};
use crate::nginx::{address, context, early, linger, resume, stock, tls};
use crate::ports::Way;

/// The hidden upstream has no servers to initialise.
///
/// # Safety
///
/// Called by nginx for the upstream that `conf` has made.
pub unsafe extern "C" fn init_upstream(
    _cf: *mut ngx_conf_t,
    upstream: *mut ngx_stream_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: nginx's configuration.
    unsafe { (*upstream).peer.init = Some(init) };
    NGX_OK as ngx_int_t
}

unsafe extern "C" fn init(
    s: *mut ngx_stream_session_t,
    _upstream: *mut ngx_stream_upstream_srv_conf_t,
) -> ngx_int_t {
    // SAFETY: the proxy has made the session's upstream.
    unsafe {
        let log = (*(*s).connection).log;
        guarded(log, NGX_ERROR as ngx_int_t, || {
            let Some(data) = context::data(s).filter(|data| data.taken.is_some()) else {
                // A `proxy_pass` of the user's own to our upstream.
                ngx_log_error!(NGX_LOG_ERR, log, "no \"ftp_data\" in this server");
                return NGX_ERROR as ngx_int_t;
            };
            let (peer, pool) = (&mut (*(*s).upstream).peer, (*(*s).connection).pool);
            let Some(taken) = data.taken else {
                return NGX_ERROR as ngx_int_t;
            };
            if taken.tls.server
                && let Some(reservation) = data.reservation()
                && !reservation.name.as_bytes().is_empty()
            {
                // For SNI and verification it is the server that the control session is on.
                let Some(copy) = address::bytes_in_pool(pool, reservation.name.as_bytes()) else {
                    return NGX_ERROR as ngx_int_t;
                };
                (*(*s).upstream).ssl_name = copy;
            }
            data.target = match &data.other {
                Some(other) => other.server(),
                None => address::in_pool(pool, taken.target),
            };
            if data.target.is_null() {
                return NGX_ERROR as ngx_int_t;
            }
            peer.data = s.cast();
            peer.get = Some(get);
            peer.free = Some(free);
            peer.notify = Some(notify);
            peer.set_session = Some(set_session);
            peer.save_session = Some(save_session);
            peer.tries = 1;
            // A command that fails (no such file) makes servers reset or refuse the data connection: no
            // error of ours.
            peer.set_log_error(nginx_sys::ngx_connection_log_error_e_NGX_ERROR_INFO);
            // `proxy_bind` comes first.
            if peer.local.is_null()
                && let Some(mut local) = taken.local
            {
                local.set_port(0);
                peer.local = address::in_pool(pool, local);
            }
            NGX_OK as ngx_int_t
        })
    }
}

unsafe extern "C" fn get(peer: *mut ngx_peer_connection_t, s: *mut c_void) -> ngx_int_t {
    // SAFETY: `s` is what `init` put there.
    unsafe {
        guarded((*peer).log, NGX_ERROR as ngx_int_t, || {
            let Some(data) = context::data(s.cast()) else {
                return FAILED;
            };
            let Some(target) = data.target.as_mut() else {
                return FAILED;
            };
            (*peer).sockaddr = target.sockaddr;
            (*peer).socklen = target.socklen;
            (*peer).name = &raw mut target.name;
            // Those who were there first have been told already how to end.
            let state = match data.other.as_mut().map(|server| server.give()) {
                Some(Some(server)) => {
                    (*peer).connection = server;
                    NGX_DONE as ngx_int_t
                }
                Some(None) => return FAILED,
                None => connect(peer),
            };
            if data.delays() && !(*peer).connection.is_null() {
                data.early.delay((*peer).connection);
            }
            let done = state == NGX_DONE as ngx_int_t || state == NGX_AGAIN as ngx_int_t;
            match done && data.keeps_hello_back() {
                true => NGX_AGAIN as ngx_int_t,
                false => state,
            }
        })
    }
}

/// Connects in the proxy's place, which calls `notify` only when TLS is up: whatever ends the session from now on resets
/// this leg, too, until `free` knows better.
unsafe fn connect(peer: *mut ngx_peer_connection_t) -> ngx_int_t {
    // SAFETY: the peer has its address.
    unsafe {
        let connected = stock::connect(peer);
        if !(*peer).connection.is_null() {
            set_reset_at_close((*peer).connection, true);
        }
        match connected == NGX_OK as ngx_int_t {
            true => NGX_DONE as ngx_int_t,
            false => connected,
        }
    }
}

/// Connected, and TLS is up.
unsafe extern "C" fn notify(peer: *mut ngx_peer_connection_t, s: *mut c_void, _what: ngx_uint_t) {
    // SAFETY: the proxy calls it with an open connection; `s` is what `init` put there.
    unsafe {
        let pc = (*peer).connection;
        set_silent_at_close(pc, true);
        guarded((*peer).log, (), || {
            let Some(data) = context::data(s.cast()) else {
                return;
            };
            if let Some((zone, kept)) = data.kept() {
                resume::renew_if_changed(
                    pc,
                    zone,
                    kept,
                    data.resumed,
                    stock::verifies_servers(data.s),
                );
            }
            if data.doomed {
                // How a stock proxy is told to end a session.
                let c = (*data.s).connection;
                (*c).set_close(1);
                ngx_post_event((*c).read, &raw mut ngx_posted_events);
            } else if data.tls {
                data.begin_handshake();
                tls::hold(pc, data.handshake.is_some());
            } else {
                early::watch(data.s, &mut data.early);
            }
        });
    }
}

/// The proxy is done with the peer; both sockets are open, if there were two.
unsafe extern "C" fn free(peer: *mut ngx_peer_connection_t, s: *mut c_void, state: ngx_uint_t) {
    // SAFETY: `s` is what `init` put there.
    unsafe {
        guarded((*peer).log, (), || {
            if state & NGX_PEER_FAILED as ngx_uint_t != 0 {
                (*peer).tries = (*peer).tries.saturating_sub(1);
                let pc = (*peer).connection;
                if !pc.is_null() {
                    set_silent_at_close(pc, true);
                    stock::log_slow_handshake(peer);
                }
                // In its handshake it is there, or was: a client may have thought better of it, or the server.
                let answered = !pc.is_null() && (!(*pc).ssl.is_null() || socket::is_connected(pc));
                if let Some(data) =
                    context::data(s.cast()).filter(|data| !answered && !data.was_connected)
                {
                    data.blame_network((*peer).log);
                }
                return;
            }
            let s = s.cast::<ngx_stream_session_t>();
            let Some(data) = context::data(s) else {
                return;
            };
            let legs = Legs::of(data);
            data.ending = legs.ending();
            if !(*peer).connection.is_null() {
                let pc = (*peer).connection;
                set_reset_at_close(pc, !legs.server_has_all);
                if legs.server_has_all && !(*pc).ssl.is_null() && !socket::has_ended(pc) {
                    linger::take_over(pc);
                }
            }
        });
    }
}

/// TLS toward the server is about to begin, and `proxy_ssl_session_reuse` is on.
unsafe extern "C" fn set_session(peer: *mut ngx_peer_connection_t, s: *mut c_void) -> ngx_int_t {
    // SAFETY: the proxy calls it with a connection that has TLS ready; `s` is what `init` put there.
    unsafe {
        guarded((*peer).log, NGX_ERROR as ngx_int_t, || {
            if let Some(data) = context::data(s.cast())
                && let Some((zone, kept)) = data.kept()
            {
                let verifies = stock::verifies_servers(data.s);
                data.resumed = resume::resume((*peer).connection, zone, kept, verifies);
            }
            NGX_OK as ngx_int_t
        })
    }
}

/// The server has given a TLS session.
unsafe extern "C" fn save_session(peer: *mut ngx_peer_connection_t, s: *mut c_void) {
    // SAFETY: as for `set_session`.
    unsafe {
        guarded((*peer).log, (), || {
            if let Some((zone, kept)) = context::data(s.cast()).and_then(|data| data.kept()) {
                resume::renew(
                    (*peer).connection,
                    zone,
                    kept,
                    stock::verifies_servers(s.cast()),
                );
            }
        });
    }
}

impl Data {
    /// Whether TCP_NODELAY on the server's connection waits for the client's first byte. A handshake does not.
    fn delays(&self) -> bool {
        let tls = self.taken.is_some_and(|taken| taken.tls.server);
        // SAFETY: the session outlives its state.
        !tls && unsafe { context::conf(self.s).inherited.nodelay }
    }

    /// Whether the hello to the server waits for the transfer command.
    ///
    /// # Safety
    ///
    /// Called from within the peer's `get`, with a connection.
    unsafe fn keeps_hello_back(&mut self) -> bool {
        let waits = self.taken.is_some_and(|taken| taken.tls.server) && !self.is_named();
        // SAFETY: the caller's promise.
        self.hello = waits.then(|| unsafe { Hello::keep_back(self.s) });
        waits
    }

    /// The server does not take the connection. Before any transfer command it has no reason of its own, unless
    /// the client has left and asked for another one.
    ///
    /// # Safety
    ///
    /// The session's connection is open.
    unsafe fn blame_network(&self, log: *mut ngx_log_t) {
        // SAFETY: the caller's promise.
        let left = || unsafe { socket::peer_has_left((*self.s).connection) };
        if let (Some(taken), Some(verb)) = (self.taken, self.verb())
            && matches!(taken.way, Way::ToServer | Way::Neither)
            && verb.as_bytes().is_empty()
            && !(taken.way == Way::ToServer && left())
        {
            let target = taken.target;
            ngx_log_error!(
                NGX_LOG_ERR,
                log,
                "no data connection to {target} before any transfer command: is a firewall between?"
            );
        }
    }
}
