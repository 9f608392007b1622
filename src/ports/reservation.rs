//! What is asked of the table and what it remembers of one data connection to come.

use super::{Msec, Peer, Text};
use std::net::SocketAddr;

/// The longest user name kept, in bytes.
pub const MAX_USER: usize = 64;
/// The longest verb kept, in bytes.
pub const MAX_VERB: usize = 8;
/// A transfer command as it is kept.
pub type Verb = Text<MAX_VERB>;
/// The longest server name kept, in bytes.
pub const MAX_NAME: usize = 128;
/// The longest path kept, in bytes.
pub const MAX_PATH: usize = 240;

/// A worker process, as the caller tells workers apart; a pid alone is not enough, it can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// How the client asked for the data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// PASV (RFC 959).
    Pasv,
    /// EPSV (RFC 2428).
    Epsv,
    /// PORT (RFC 959).
    Port,
    /// EPRT (RFC 2428).
    Eprt,
}

/// Who connects to the port, and whom the proxy then connects to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// The client connects, the target is the server's.
    #[default]
    ToServer,
    /// The server connects, the target is the client's.
    ToClient,
    /// Nobody connects: the proxy connects to both, and the target is the server's.
    Neither,
    /// Both connect. This is the client's port; the server's is that of the mate.
    FromClient,
    /// Both connect. This is the server's port; the client's is that of the mate.
    FromServer,
}

/// Which legs of the data connection use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The client's.
    pub client: bool,
    /// The server's.
    pub server: bool,
    /// The client has to resume the TLS session of its control connection.
    pub resumed: bool,
}

/// Names one reservation for ever: a ticket whose reservation is gone opens nothing, not even in a slot that
/// is in use again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(super) slot: u32,
    pub(super) id: u64,
}

impl Ticket {
    /// For a message to another worker.
    pub fn to_words(self) -> [u64; 2] {
        [self.slot.into(), self.id]
    }

    /// What came in a message; `None` if it cannot be a ticket.
    pub fn from_words([slot, id]: [u64; 2]) -> Option<Self> {
        let slot = u32::try_from(slot).ok()?;
        Some(Self { slot, id })
    }
}

/// What [`Table::reserve`](super::Table::reserve) gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Names the reservation.
    pub ticket: Ticket,
    /// The data port, in the range that was asked for.
    pub port: u16,
}

/// What a data connection needs of the reservation that it has taken; the rest is there to be
/// [read](super::Table::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Names the reservation.
    pub ticket: Ticket,
    /// The data port.
    pub port: u16,
    /// Who connects and whom the proxy connects to.
    pub way: Way,
    /// Where the proxy connects to.
    pub target: SocketAddr,
    /// The address the proxy connects from.
    pub local: Option<SocketAddr>,
    /// The control session's id.
    pub session: u64,
    /// Which legs use TLS.
    pub tls: Tls,
    /// Until when it could be taken.
    pub deadline: Msec,
    /// The TLS session that the server may resume.
    pub kept: Option<Ticket>,
}

/// How far a data connection has come, for those where the proxy dials the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has taken its reservation.
    Waiting,
    /// This worker's connection has, and dials the client.
    Taken(Owner),
    /// The client is connected.
    Reached,
}

/// A reservation to be made.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who may connect.
    pub peer: Peer,
    /// Where the proxy then connects to. A flow label is not kept.
    pub target: SocketAddr,
    /// The address the proxy connects from; `None` leaves it to the system.
    pub local: Option<SocketAddr>,
    /// Where both connect, the other one's reservation, if it is there already; then there is no `local`.
    pub mate: Option<Ticket>,
    /// The control session's id.
    pub session: u64,
    /// How the client asked.
    pub mode: Mode,
    /// Who connects to whom.
    pub way: Way,
    /// Which legs use TLS.
    pub tls: Tls,
    /// The worker of the control connection.
    pub owner: Owner,
    /// From this moment on nobody can take the reservation.
    pub deadline: Msec,
    /// The user's name; the first [`MAX_USER`] bytes are kept.
    pub user: &'a [u8],
    /// The transfer command, if it is known; the first [`MAX_VERB`] bytes are kept.
    pub verb: &'a [u8],
    /// Its argument; the first [`MAX_PATH`] bytes are kept.
    pub path: &'a [u8],
    /// The name the server's certificate must have; none is kept of more than [`MAX_NAME`] bytes.
    pub name: &'a [u8],
    /// The TLS session that the server may resume, see [`Table::keep`](super::Table::keep).
    pub kept: Option<Ticket>,
}

/// A copy of a reservation as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Names the reservation.
    pub ticket: Ticket,
    /// A connection has taken it; it no longer has a deadline.
    pub taken: bool,
    /// The data port.
    pub port: u16,
    /// Who may connect.
    pub peer: Peer,
    /// Where the proxy connects to.
    pub target: SocketAddr,
    /// The address the proxy connects from.
    pub local: Option<SocketAddr>,
    /// Where both connect, the other one's reservation.
    pub mate: Option<Ticket>,
    /// The control session's id.
    pub session: u64,
    /// How the client asked.
    pub mode: Mode,
    /// Who connects to whom.
    pub way: Way,
    /// Which legs use TLS.
    pub tls: Tls,
    /// The worker of the control connection; once taken, that of the data connection.
    pub owner: Owner,
    /// From this moment on nobody can take it.
    pub deadline: Msec,
    /// The user's name.
    pub user: Text<MAX_USER>,
    /// The last transfer command.
    pub verb: Verb,
    /// Its argument.
    pub path: Text<MAX_PATH>,
    /// The server's name for TLS.
    pub name: Text<MAX_NAME>,
    /// The TLS session that the server may resume.
    pub kept: Option<Ticket>,
}
