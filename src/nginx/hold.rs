//! The server's last word on a transfer of a client in active mode, held until its data connection has come to the client.
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

/// Milliseconds that a yes waits at most for the server's connection to be accepted: the kernel has done that, and a
/// worker is busy. But there may be none, of a server that has nothing to send.
const PATIENCE: Msec = 2000;

/// Milliseconds between two looks.
const STEP: ngx_msec_t = 5;

/// What a control connection keeps for it, meanwhile.
pub struct Hold {
    timer: Timer,
    /// When a server that has not come will not.
    until: Msec,
}

impl Hold {
    /// `c` is a control connection's client's, and outlives this.
    unsafe fn new(c: *mut ngx_connection_t) -> Self {
        Self {
            // SAFETY: the caller's promise.
            timer: unsafe { Timer::new(c, on_timer) },
            until: zone::now().saturating_add(PATIENCE),
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
    /// Whether the data connection of the last transfer is on its way to the client, behind a yes of the server also where
    /// it may be.
    pub fn looks_for_data(&mut self, yes: bool) -> bool {
        let current = self.current.map(|reserved| reserved.ticket);
        // The client may have said USER meanwhile, which forgets about what is not taken.
        let ticket = current.or(self.earlier.back().copied());
        let (Some(zone), Some(ticket)) = (self.zone(), ticket) else {
            return false;
        };
        let now = zone::now();
        // SAFETY: the client's connection outlives the state.
        let hold = || unsafe { Hold::new((*self.s).connection) };
        let until = self.hold.get_or_insert_with(hold).until;
        match zone.with(|table| table.stage(now, ticket)).flatten() {
            Some(Stage::Taken(owner)) => owner == zone::this_worker() || !zone::is_dead(owner),
            Some(Stage::Waiting) => yes && now < until,
            Some(Stage::Reached) | None => false,
        }
    }
}
