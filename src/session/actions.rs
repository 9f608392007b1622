//! What the machine asks of the outside, and what it tells of data connections and of things to log.

use std::net::{Ipv4Addr, SocketAddr};

use super::Mode;
use crate::ftp::HostPort;
use crate::ftp::command::Transfer;

/// What the machine has done. The caller carries it out, in order, at once.
///
/// Of the five that reserve only one is in force at a time: what the session had reserved before and was
/// not used is given back first. On an error nothing is left reserved.
pub trait Actions {
    /// Bytes for the server.
    fn forward(&mut self, bytes: &[u8]);
    /// Bytes for the client.
    fn reply(&mut self, bytes: &[u8]);
    /// The server listens, the client will dial: reserve a data port of the proxy. The address returned is
    /// told to the client; in a reply to EPSV only its port.
    fn reserve(&mut self, passive: Passive<'_>) -> Result<HostPort, Unavailable>;
    /// The client listens, the server will dial: reserve a data port for the server's connection, whose other
    /// end is the client's `address`. The address returned is told to the server.
    fn reserve_active(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
    ) -> Result<SocketAddr, Unavailable>;
    /// Both listen, and the proxy will dial both at [`Actions::dial`].
    fn reserve_dialled(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
        server: Announced,
    ) -> Result<(), Unavailable>;
    /// The transfer command for what [`Actions::reserve_dialled`] reserved is about to go to the server: dial. Called
    /// once for each such reservation at most. On an error the command goes nowhere: the server would wait in vain.
    fn dial(&mut self) -> Result<(), Unavailable>;
    /// The server has said something of the last transfer that its client should hear behind its data connection, which
    /// is dialled toward the client: whether that has yet to come there. Asked again and again while it has, and each
    /// time for a short moment only: nothing else passes before.
    fn is_on_its_way(&mut self, word: Word) -> bool;
    /// Both will dial: reserve a data port for the server. The address returned is told to the server.
    fn reserve_for_server(&mut self, asked: Asked<'_>) -> Result<SocketAddr, Unavailable>;
    /// The server has accepted the address of [`Actions::reserve_for_server`]: reserve a data port for the
    /// client, joined to the first, which stays. The address returned is told to the client as in
    /// [`Actions::reserve`].
    fn reserve_for_client(&mut self, asked: Asked<'_>) -> Result<HostPort, Unavailable>;
    /// Give back what the session has reserved, of both legs, unless a data connection has taken it.
    fn release(&mut self);
    /// The transfer command that belongs to the current reservation.
    fn annotate(&mut self, transfer: Transfer<'_>);
    /// Something to log.
    fn note(&mut self, note: Note);
    /// The handshake with the client may begin when what was replied so far has been sent; nothing more is
    /// replied until [`Session::secured`](super::Session::secured), and no byte of the server is taken.
    fn start_tls(&mut self);
    /// Close both connections.
    fn close(&mut self);
}

/// What a server announced, for [`Actions::reserve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive<'a> {
    /// How the client asked: PASV or EPSV.
    pub mode: Mode,
    /// The host in a 227, if it names one; not to be trusted.
    pub host: Option<Ipv4Addr>,
    /// The server's data port, 1024..=65535.
    pub port: u16,
    /// The user name.
    pub user: &'a [u8],
    /// The transfer command, if the client sent it ahead.
    pub transfer: Option<Transfer<'a>>,
    /// The client's data connection uses TLS.
    pub protected: bool,
    /// The server's data connection uses TLS.
    pub server_protected: bool,
}

/// A data connection as the client asked for it. Its transfer command comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// How the client asked. Where an `address` comes along, it is PORT or EPRT, and the address is the one
    /// of the client's control connection, not below port 1024.
    pub mode: Mode,
    /// The user name.
    pub user: &'a [u8],
    /// The client's data connection uses TLS.
    pub protected: bool,
    /// The server's data connection uses TLS.
    pub server_protected: bool,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The host in a 227, if it names one; not to be trusted.
    pub host: Option<Ipv4Addr>,
    /// The server's data port, 1024..=65535.
    pub port: u16,
}

/// What a server says of a transfer that may come too early for an active client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Its first 1yz. Many servers say it before they dial; curl 7.88 takes a transfer for an empty one if the data
    /// connection comes just behind it.
    Begun,
    /// A last word of 2yz.
    Yes,
    /// Any other last word.
    No,
}

/// No data port can be offered; the client gets 425.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no data port")]
pub struct Unavailable;

/// Things worth a line in the log; none carries bytes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// The server's fault.
    #[error("server sent unexpected {0} reply")]
    UnexpectedPassive(u16),
    /// The server's fault.
    #[error("server sent invalid {0} reply")]
    InvalidPassive(u16),
    /// The server's fault.
    #[error("server announced privileged data port {0}")]
    PrivilegedPort(u16),
    /// The server's fault, or the admin's.
    #[error("server refused \"PROT P\" with {0}: its data connections are in clear")]
    NoPrivateData(u16),
    /// The server's fault, or the admin's.
    #[error("server refused \"{0}\" with {1}")]
    RefusedMode(Mode, u16),
    /// The client's fault, or that of NAT in front of it.
    #[error("client asked for data connection to another address")]
    ForeignAddress,
    /// The client's fault.
    #[error("client announced privileged data port {0}")]
    PrivilegedClientPort(u16),
    /// The client's fault.
    #[error("client sent too long command line")]
    TooLong,
    /// The client's fault.
    #[error("client sent HTTP request")]
    Http,
    /// The client's fault.
    #[error("client sent malformed command")]
    Malformed,
}

impl Note {
    /// Whose fault it is decides the level.
    pub fn is_of_client(self) -> bool {
        matches!(
            self,
            Self::ForeignAddress
                | Self::PrivilegedClientPort(_)
                | Self::TooLong
                | Self::Http
                | Self::Malformed
        )
    }
}
