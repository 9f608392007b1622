//! Passive and active mode: which of them a client may ask for, and which one the server is asked for.

use std::fmt;
use std::net::SocketAddr;

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
    /// What the client may ask for.
    pub allowed: ClientModes,
    /// What the server is asked for.
    pub server: ServerMode,
}

impl Modes {
    /// PASV can be answered.
    pub fn client_is_ipv4(&self) -> bool {
        self.client.is_some_and(|client| client.is_ipv4())
    }
}
