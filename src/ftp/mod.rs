//! FTP's control channel as bytes: commands, replies, addresses. Pure: no socket, no state of a session.
//!
//! A file per noun. Everything here borrows from a line, panics on nothing and knows no limits but
//! those of its own grammar; what a command or a reply *means* at a moment is `session`'s.

pub mod command;
pub mod host_port;
pub mod line;
pub mod passive;
pub mod reply;

pub use command::Command;
pub use host_port::HostPort;
pub use line::Lines;
pub use passive::PassiveReply;
pub use reply::{Code, ReplyReader};
