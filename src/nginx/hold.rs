//! What the server says of a transfer of a client in active mode, held until its data connection has come to the client.
//!
//! The proxy dials the client from another worker, or later than it reads the control connection. A small file is with the
//! proxy by then and complete for its server, and a client that is told so before it sees a data connection gives up. So the
//! control connection looks every few milliseconds at what the data connection's worker has noted in the zone. How long that
//! may take, the data connection's own timeouts say: where it fails its reservation is gone, as it is with its worker.

use nginx_sys::{ngx_connection_t, ngx_event_t, ngx_msec_t, ngx_stream_session_t};

use super::context;
use super::outside::Outside;
use super::timer::Timer;
use super::zone;
use crate::ports::{Msec, Stage};
use crate::session::Word;

/// Milliseconds that a yes waits at most for the server's connection to be accepted: the kernel has done that, and a
/// worker is busy. But there may be none, of a server that has nothing to send.
const PATIENCE: Msec = 2000;

/// Milliseconds that a 1yz waits at most: it may be the first sign of a connection that is long in coming.
const BEGIN_PATIENCE: Msec = 250;

/// Milliseconds between two looks.
const STEP: ngx_msec_t = 5;

/// What a control connection keeps for it, meanwhile.
pub struct Hold {
    timer: Timer,
    word: Word,
    /// When a server that has not come will not.
    until: Msec,
}

impl Hold {
    /// `c` is a control connection's client's, and outlives this.
    unsafe fn new(c: *mut ngx_connection_t, word: Word) -> Self {
        let patience = match word {
            Word::Begun => BEGIN_PATIENCE,
            Word::Yes | Word::No => PATIENCE,
        };
        Self {
            // SAFETY: the caller's promise.
            timer: unsafe { Timer::new(c, on_timer) },
            word,
            until: zone::now().saturating_add(patience),
        }
    }

    /// Has the filter called again in a moment.
    pub fn look_again(&mut self) {
        self.timer.start(STEP);
    }
}

unsafe extern "C" fn on_timer(event: *mut ngx_event_t) {
    // SAFETY: the timer ends with the state of its connection's session.
    unsafe {
        (*event).set_timedout(0);
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        if let Some(control) = context::control(s) {
            control.call_filter();
        }
    }
}

impl Outside {
    /// Whether the data connection of the last transfer is on its way to the client, where the server has not said no also
    /// where it may be.
    pub fn looks_for_data(&mut self, word: Word) -> bool {
        let current = self.current.map(|reserved| reserved.ticket);
        // The client may have said USER meanwhile, which forgets about what is not taken.
        let ticket = current.or(self.earlier.back().copied());
        let (Some(zone), Some(ticket)) = (self.zone(), ticket) else {
            return false;
        };
        let now = zone::now();
        // SAFETY: the client's connection outlives the state.
        let new = || unsafe { Hold::new((*self.s).connection, word) };
        let hold = self.hold.take().filter(|hold| hold.word == word);
        let until = self.hold.insert(hold.unwrap_or_else(new)).until;
        match zone.with(|table| table.stage(now, ticket)).flatten() {
            Some(Stage::Taken(_)) if word == Word::Begun && now >= until => false,
            Some(Stage::Taken(owner)) => owner == zone::this_worker() || !zone::is_dead(owner),
            Some(Stage::Waiting) => word != Word::No && now < until,
            Some(Stage::Reached) | None => false,
        }
    }
}
