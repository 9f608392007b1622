//! FTP reverse proxy for nginx: a dynamic module for the stream subsystem of a stock nginx.
//!
//! FTP's control connection says in text which address and port the data connection must use. This
//! module reads that text as it passes through nginx's own stream proxy, keeps a port of the proxy for the
//! data connection, tells the client that port instead of the server's, and when the data connection
//! comes, hands it to nginx's own proxy with the server's port as its target.
//!
//! # Rooms
//!
//! | room | what | depends on |
//! | --- | --- | --- |
//! | [`ftp`] | the protocol: lines, commands, replies, addresses | nothing |
//! | [`session`] | one control connection as a pure machine | `ftp` |
//! | [`ports`] | the table of reservations, over memory that somebody else owns | nothing |
//! | `nginx` | directives, zone, filter, data phases, variables | all of them, and nginx |
//!
//! The first three are free of `unsafe`, take time as an argument and own no socket and no lock. They
//! build and test with `--no-default-features`, without an nginx tree; the cargo feature `nginx` carries
//! the glue.
//!
//! # Flow
//!
//! ```text
//! control bytes -> nginx::control (filter) -> session: ftp::line | ftp::reply -> Command | Piece
//!    -> Actions: forward, reply, reserve, dial, release, annotate, note, close
//!    -> nginx::output (own chain) -> next filter
//!
//! reserve       -> nginx::zone (lock) -> ports::Table: (data port, client address) -> target
//!
//! data accept   -> nginx::data: PREACCESS is it reserved? PREREAD take it, CONTENT stock proxy to the
//!                  target, LOG reset what was cut, give the reservation back
//!
//! TLS           -> session: what AUTH, PBSZ and PROT get, and what each leg of a data connection is;
//!                  nginx::tls: the client's handshake, behind AUTH, and on a data connection once its
//!                  other leg is connected; nginx::auth: AUTH toward the server, between the stock proxy's
//!                  connect and its handshake; nginx::resume: TLS sessions with the server, by the zone;
//!                  nginx::hello: our own hello on a data connection, behind the transfer command; nginx::linger: a
//!                  leg's end
//!
//! modes         -> session::agreement: what client and server are asked for, each in its own mode;
//!                  in nginx's session the downstream connection is always the client's leg, and the peer the
//!                  server's, whoever has dialled: nginx::active exchanges two sockets, nginx::dialled makes a
//!                  session of a connection to the client, nginx::meet joins two that were accepted;
//!                  nginx::hold keeps 150 and the server's last word from a client that is still being dialled
//! ```
//!
//! # Invariants
//!
//! - A 227 or 229 of the server never reaches the client as it is.
//! - A reservation exists before the client hears of its port, and one connection takes it, once.
//! - Only a process that is killed leaves anything in the zone, and the next worker clears that away.
//! - A panic ends one session: every entry point is guarded, and the release profile unwinds.

#[forbid(unsafe_code)]
pub mod ftp;
#[cfg(feature = "nginx")]
mod nginx;
#[forbid(unsafe_code)]
pub mod ports;
#[forbid(unsafe_code)]
pub mod session;
