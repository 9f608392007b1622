//! The hello of the proxy's TLS toward the server of a data connection, kept back until the transfer command is known:
//! most clients begin TLS behind it, and there are servers that reset a connection on which bytes come before. The command
//! may be with another worker and still on its way, or never come, so it is looked for again and again, for a moment.
//!
//! ```text
//! get        the server is dialled, or there already: the proxy is told "not yet"
//! on_hook    our handlers in the place of the proxy's; looks for the command, again and again
//! on_event   connected, or not. Where it waits the client's handshake begins, for some send their command behind it
//! give_back  the proxy has its handlers again, and goes on
//! ```

use nginx_sys::{
    NGX_OK, ngx_add_timer, ngx_connection_t, ngx_del_timer, ngx_event_handler_pt, ngx_event_t,
    ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, ngx_msec_t, ngx_stream_session_t,
};

use super::active::act;
use super::context;
use super::early::PATIENCE;
use super::guard::guarded;
use super::socket::{self, Link};
use super::timer::Timer;
use super::tls;
use super::zone;
use crate::ports::Msec;

/// Milliseconds until the second look; it doubles with each.
const FIRST_STEP: ngx_msec_t = 1;

/// Milliseconds between two looks at most.
const MAX_STEP: ngx_msec_t = 16;

/// What a data connection keeps for it, meanwhile.
pub struct Hello {
    /// Posted first, a timer then.
    hook: Timer,
    /// The proxy's handlers of the server's connection.
    read: ngx_event_handler_pt,
    write: ngx_event_handler_pt,
    /// Whether the connect has come to its end, be it a bad one.
    is_over: bool,
    /// It has come to a good one.
    was_connected: bool,
    until: Msec,
    step: ngx_msec_t,
}

impl Hello {
    /// Begins to wait at the next turn of the event loop, when the proxy has set its handlers.
    ///
    /// # Safety
    ///
    /// Called from within the peer's `get`, which returns `NGX_AGAIN` with `peer.connection` set; what is returned is kept in
    /// the session's state.
    pub unsafe fn keep_back(s: *mut ngx_stream_session_t) -> Box<Self> {
        // SAFETY: the client's connection outlives the session's state.
        let hook = unsafe { Timer::new((*s).connection, on_hook) };
        let mut hello = Box::new(Self {
            hook,
            read: None,
            write: None,
            is_over: false,
            was_connected: false,
            until: zone::now().saturating_add(PATIENCE),
            step: FIRST_STEP,
        });
        hello.hook.post();
        hello
    }

    unsafe fn install(&mut self, pc: *mut ngx_connection_t) {
        // SAFETY: the connection is open.
        unsafe {
            self.read = (*(*pc).read).handler.replace(on_event);
            self.write = (*(*pc).write).handler.replace(on_event);
        }
    }

    /// Looks at a connection that is to wait. `proxy_connect_timeout` does not run any more where the connect is over.
    /// Whether there is something to wait for.
    unsafe fn look(&mut self, pc: *mut ngx_connection_t) -> bool {
        // SAFETY: the connection is open.
        unsafe {
            if !self.is_over {
                return true;
            }
            let write = (*pc).write;
            if (*write).timer_set() == 1 {
                ngx_del_timer(write);
            }
            let link = socket::link(pc);
            self.was_connected |= link != Link::None;
            link == Link::Whole && zone::now() < self.until
        }
    }

    /// Waits for events, and for the time to look again. False where that fails.
    unsafe fn wait(&mut self, pc: *mut ngx_connection_t) -> bool {
        // SAFETY: the connection is open; the event is ours, and its session alive.
        unsafe {
            // Before there is a connection nothing could be said.
            if self.is_over {
                self.hook.start(self.step);
                self.step = MAX_STEP.min(self.step * 2);
            }
            let read = ngx_handle_read_event((*pc).read, 0);
            let written = ngx_handle_write_event((*pc).write, 0);
            read == NGX_OK as ngx_int_t && written == NGX_OK as ngx_int_t
        }
    }

    /// The proxy's handlers come back.
    unsafe fn give_back(&mut self, pc: *mut ngx_connection_t) {
        // SAFETY: the connection is open.
        unsafe {
            let write = (*pc).write;
            (*(*pc).read).handler = self.read;
            (*write).handler = self.write;
            if self.is_over && (*write).timer_set() == 0 {
                // `ngx_stream_proxy_connect_handler` deletes it, and does not ask whether there is one.
                ngx_add_timer(write, MAX_STEP);
            }
        }
    }
}

/// The proxy has set its handlers, or it is time to look again.
unsafe extern "C" fn on_hook(event: *mut ngx_event_t) {
    // SAFETY: the event goes with the session's state.
    unsafe {
        (*event).set_timedout(0);
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let Some(upstream) = (*s).upstream.as_ref() else {
            return;
        };
        let pc = upstream.peer.connection;
        if !pc.is_null() {
            go_on(s, pc, |hello| {
                if hello.write.is_none() {
                    hello.install(pc);
                }
            });
        }
    }
}

/// The server's connection has come about, or not, or is gone.
unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection to a server, whose session has a data connection's state.
    unsafe {
        let pc = (*event).data.cast::<ngx_connection_t>();
        let s = (*pc).data.cast::<ngx_stream_session_t>();
        if (*pc).close() == 1 && context::data(s).is_some_and(|data| data.is_shaking()) {
            // The worker ends, of which the client's handshake takes no notice.
            return tls::give_up(s);
        }
        go_on(s, pc, |hello| {
            if (*event).timedout() == 1 {
                hello.is_over = true;
                hello.until = 0;
            }
        });
    }
}

/// What comes next.
enum Next {
    Wait,
    /// The proxy has its handlers; where the connect is over it begins TLS, or says why not.
    Proxy {
        is_over: bool,
    },
    /// The session ends.
    Fail,
}

/// Does that, and looks for the command.
unsafe fn go_on(
    s: *mut ngx_stream_session_t,
    pc: *mut ngx_connection_t,
    first: impl FnOnce(&mut Hello),
) {
    // SAFETY: both are alive; the proxy's handlers may end the session, and nothing is used after them.
    unsafe {
        let c = (*s).connection;
        let next = guarded((*c).log, Next::Fail, || {
            let Some(data) = context::data(s) else {
                return Next::Fail;
            };
            let Some(hello) = data.hello() else {
                return Next::Fail;
            };
            first(hello);
            hello.is_over |= (*(*pc).write).ready() == 1;
            let is_over = hello.is_over;
            let waits = !data.is_named();
            let Some(hello) = data.hello() else {
                return Next::Fail;
            };
            if waits && hello.look(pc) {
                if !hello.wait(pc) {
                    return Next::Fail;
                }
                if hello.was_connected {
                    act(c, c"waiting for the transfer command");
                    data.begin_handshake();
                }
                return Next::Wait;
            }
            hello.give_back(pc);
            let was_connected = hello.was_connected;
            data.release_hello(was_connected);
            Next::Proxy { is_over }
        });
        match next {
            Next::Wait => {}
            Next::Proxy { is_over } => {
                act(c, c"connecting to upstream");
                if is_over && let Some(proxy) = (*(*pc).write).handler {
                    proxy((*pc).write);
                }
            }
            Next::Fail if context::data(s).is_some_and(|data| data.is_shaking()) => tls::give_up(s),
            Next::Fail => {
                // How a stock proxy is told to end a session, and to close both.
                (*c).set_close(1);
                if let Some(proxy) = (*(*c).read).handler {
                    proxy((*c).read);
                }
            }
        }
    }
}
