//! The hello of the proxy's TLS toward the server of a data connection, kept back until the transfer command is known:
//! most clients begin TLS behind it, and there are servers that reset a connection on which bytes come before. The command
//! may be with another worker and still on its way, or never come, so it is looked for again and again, for a moment.
//!
//! ```text
//! get        the server is dialled, or there already: the proxy is told "not yet"
//! on_hook    our handlers in the place of the proxy's; the client's handshake begins, for some clients send their
//!            command behind it; from then on, looks for the command
//! on_event   connected, or not: as soon as both are known the proxy gets its handlers back, and goes on
//! ```

use std::mem;

use nginx_sys::{
    ngx_add_timer, ngx_connection_t, ngx_del_timer, ngx_delete_posted_event, ngx_event_handler_pt,
    ngx_event_t, ngx_msec_t, ngx_post_event, ngx_posted_events, ngx_stream_session_t,
};

use super::active::act;
use super::context;
use super::early::PATIENCE;
use super::guard::guarded;
use super::socket;
use super::zone;
use crate::ports::Msec;

/// Milliseconds until the second look; it doubles with each.
const FIRST_STEP: ngx_msec_t = 1;

/// Milliseconds between two looks at most.
const MAX_STEP: ngx_msec_t = 16;

/// What a data connection keeps for it, meanwhile.
pub struct Hello {
    /// Posted first, a timer then.
    hook: ngx_event_t,
    /// The proxy's handlers of the server's connection.
    read: ngx_event_handler_pt,
    write: ngx_event_handler_pt,
    /// Whether the connection has been made, or has failed.
    answered: bool,
    /// It has been made.
    met: bool,
    until: Msec,
    step: ngx_msec_t,
}

impl Hello {
    /// Begins to wait at the next turn of the event loop, when the proxy has set its handlers.
    ///
    /// # Safety
    ///
    /// Called from within the peer's `get`, which says that it is not connected, and has a connection; what is returned
    /// is kept in the session's state.
    pub unsafe fn keep_back(s: *mut ngx_stream_session_t) -> Box<Self> {
        // SAFETY: zeroes are an event that is nowhere. It goes with this, which does not move.
        unsafe {
            let mut hello = Box::new(Self {
                hook: mem::zeroed(),
                read: None,
                write: None,
                answered: false,
                met: false,
                until: zone::now().saturating_add(PATIENCE),
                step: FIRST_STEP,
            });
            hello.hook.handler = Some(on_hook);
            hello.hook.data = s.cast();
            hello.hook.log = (*(*s).connection).log;
            ngx_post_event(&raw mut hello.hook, &raw mut ngx_posted_events);
            hello
        }
    }

    unsafe fn install(&mut self, pc: *mut ngx_connection_t) {
        // SAFETY: the connection is open.
        unsafe {
            self.read = (*(*pc).read).handler.replace(on_event);
            self.write = (*(*pc).write).handler.replace(on_event);
            self.note_answer(pc);
        }
    }

    /// `proxy_connect_timeout` is over with the answer.
    unsafe fn note_answer(&mut self, pc: *mut ngx_connection_t) {
        // SAFETY: the connection is open.
        unsafe {
            let write = (*pc).write;
            self.answered |= (*write).ready() == 1;
            self.met |= self.answered && socket::is_connected(pc);
            if self.answered && (*write).timer_set() == 1 {
                ngx_del_timer(write);
            }
        }
    }

    unsafe fn look_again(&mut self) {
        // SAFETY: the event is ours, and its session alive.
        unsafe { ngx_add_timer(&raw mut self.hook, self.step) };
        self.step = MAX_STEP.min(self.step * 2);
    }

    /// The proxy's handlers come back. What it does if there is an answer: begins TLS, or says why it could not connect.
    unsafe fn give_back(&mut self, pc: *mut ngx_connection_t) -> ngx_event_handler_pt {
        // SAFETY: the connection is open.
        unsafe {
            let write = (*pc).write;
            (*(*pc).read).handler = self.read;
            (*write).handler = self.write;
            if self.answered && (*write).timer_set() == 0 {
                // It counts on having one.
                ngx_add_timer(write, MAX_STEP);
            }
        }
        self.write.filter(|_| self.answered)
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and in nginx's queue or tree.
        unsafe {
            if self.hook.posted() == 1 {
                ngx_delete_posted_event(&raw mut self.hook);
            }
            if self.hook.timer_set() == 1 {
                ngx_del_timer(&raw mut self.hook);
            }
        }
    }
}

/// The proxy has set its handlers, or it is time to look again.
unsafe extern "C" fn on_hook(event: *mut ngx_event_t) {
    // SAFETY: the event goes with the session's state.
    unsafe {
        (*event).set_timedout(0);
        let s = (*event).data.cast::<ngx_stream_session_t>();
        let Some(upstream) = (*s).upstream.as_ref() else {
            return;
        };
        let pc = upstream.peer.connection;
        if pc.is_null() {
            return;
        }
        go_on(s, pc, |hello| {
            if hello.write.is_some() {
                return false;
            }
            hello.install(pc);
            act((*s).connection, c"waiting for the transfer command");
            true
        });
    }
}

/// The server's connection has come about, or not, or is gone.
unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection to a server, whose session has a data connection's state.
    unsafe {
        let pc = (*event).data.cast::<ngx_connection_t>();
        let s = (*pc).data.cast::<ngx_stream_session_t>();
        if (*pc).close() == 1 {
            // The worker ends; so does the client's connection, and with it the session.
            return;
        }
        go_on(s, pc, |hello| {
            hello.note_answer(pc);
            if (*event).timedout() == 1 || hello.answered && !socket::is_connected(pc) {
                hello.answered = true;
                hello.until = 0;
            }
            false
        });
    }
}

/// Does that, looks for the command, and lets the proxy go on if it is time.
unsafe fn go_on(
    s: *mut ngx_stream_session_t,
    pc: *mut ngx_connection_t,
    first: impl FnOnce(&mut Hello) -> bool,
) {
    // SAFETY: both are alive; the proxy's handler may end the session, and nothing is used after it.
    unsafe {
        let proxy = guarded((*(*s).connection).log, None, || {
            let data = context::data(s)?;
            let hello = data.hello()?;
            let begins = first(hello);
            let waits = zone::now() < hello.until;
            if begins {
                data.begin_handshake();
            }
            let waits = waits && !data.is_named();
            let hello = data.hello()?;
            if waits {
                if hello.hook.timer_set() == 0 {
                    hello.look_again();
                }
                return None;
            }
            let proxy = hello.give_back(pc);
            let met = hello.met;
            data.send_hello(met);
            proxy
        });
        if let Some(proxy) = proxy {
            proxy((*pc).write);
        }
    }
}
