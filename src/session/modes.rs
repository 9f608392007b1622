//! Passive and active mode: which of them a client may ask for, and which one the server is asked for.

use std::fmt;
use std::net::SocketAddr;

use crate::ftp::command::promises;

/// How a data connection was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// PASV, answered 227.
    Pasv,
    /// EPSV, answered 229.
    Epsv,
    /// PORT.
    Port,
    /// EPRT (RFC 2428 2).
    Eprt,
}

impl Mode {
    /// The command's verb.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Pasv => "PASV",
            Self::Epsv => "EPSV",
            Self::Port => "PORT",
            Self::Eprt => "EPRT",
        }
    }

    /// Whoever gets the command dials.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Port | Self::Eprt)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientModes {
    /// PASV and EPSV.
    #[default]
    Passive,
    /// PORT and EPRT.
    Active,
    /// All of them.
    Any,
}

impl ClientModes {
    /// Whether it is allowed.
    pub fn allow(self, mode: Mode) -> bool {
        match self {
            Self::Any => true,
            Self::Active => mode.is_active(),
            Self::Passive => !mode.is_active(),
        }
    }
}

/// What the server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerMode {
    /// What the client asked for.
    #[default]
    Client,
    /// EPSV or PASV.
    Passive,
    /// PORT or EPRT.
    Active,
}

/// What a session needs to know about modes when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// The client's end of the control connection, in canonical form (an IPv4 address is none within IPv6):
    /// PORT and EPRT may name no other host, and PASV is refused to other than IPv4. `None` if it has none.
    pub client: Option<SocketAddr>,
    /// That end is a balancer's, behind which the client is: PORT and EPRT must not name it.
    pub behind_balancer: bool,
    /// What the client may ask for.
    pub allowed: ClientModes,
    /// What the server is asked for.
    pub server: ServerMode,
}

impl Modes {
    /// Not only PASV and EPSV, forwarded as they come.
    pub fn are_special(&self) -> bool {
        self.allowed != ClientModes::Passive || self.server != ServerMode::Client
    }

    /// Whether a line of a FEAT reply is not for the client: the command is refused, or not the server's to
    /// promise.
    pub fn hide(&self, feature: &[u8]) -> bool {
        let active = !self.allowed.allow(Mode::Eprt) || self.server == ServerMode::Passive;
        let passive = !self.allowed.allow(Mode::Epsv) || self.server == ServerMode::Active;
        (active && promises(feature, &["PORT", "EPRT"]))
            || (passive && promises(feature, &["PASV", "EPSV"]))
    }

    /// Lines of a FEAT reply for what the proxy translates.
    pub fn features(&self) -> &'static [u8] {
        match self.server {
            ServerMode::Passive if self.allowed.allow(Mode::Eprt) => b" EPRT\r\n",
            ServerMode::Active if self.allowed.allow(Mode::Epsv) => b" EPSV\r\n",
            _ => b"",
        }
    }

    /// PASV can be answered.
    pub fn client_is_ipv4(&self) -> bool {
        self.client.is_some_and(|client| client.is_ipv4())
    }
}
