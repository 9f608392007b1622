//! The table of reservations: which data port waits for whom, and where its connection goes.
//!
//! It lives in memory that somebody else owns, maps and locks ([`Memory`]); it opens no socket, asks no
//! clock, takes no lock and allocates nothing.
//!
//! ```text
//! memory   header | buckets, one per slot | slots
//! slot     FREE --reserve--> WAITING --take--> TAKEN --finish--> FREE
//!                               '--release, deadline, dead owner--> FREE
//!          FREE --keep--> KEPT --forget, dead owner--> FREE
//! ```
//!
//! A worker may be killed between any two stores. Two rules make that harmless:
//!
//! - The slots are the truth, and a slot's state word (which holds its id too) is one store: the last one
//!   when the slot comes alive, and by itself enough to kill it.
//! - The index by key and the list of free slots are a cache. Whoever changes it sets a mark first and clears
//!   it last; whoever wants to use it and finds the mark set rebuilds it from the slots. What goes by a ticket
//!   alone needs neither.

mod cache;
mod certificate;
mod host;
mod kept;
mod layout;
mod memory;
mod pick;
mod reclaim;
mod reservation;
mod slot;
mod table;
mod text;

#[cfg(test)]
mod tests_kill;
#[cfg(test)]
mod tests_model;
#[cfg(test)]
mod tests_support;
#[cfg(test)]
mod tests_table;

pub use certificate::drop_certificate;
pub use host::{Host, Peer};
pub use kept::MAX_KEPT;
pub use layout::{LAYOUT, Layout, LayoutError, capacity};
pub use memory::Memory;
pub use pick::{COOLING, PROBES};
pub use reservation::{
    MAX_NAME, MAX_PATH, MAX_USER, MAX_VERB, Mode, Owner, Request, Reservation, Reserved, Stage,
    Taken, Ticket, Tls, Verb, Way,
};
pub use table::{Counts, ReserveError, Served, Table};
pub use text::Text;

/// Milliseconds of a monotonic clock that all workers of the host share.
pub type Msec = u64;
