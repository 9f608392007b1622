//! The replies that the proxy gives itself, in one place.

use crate::ftp::host_port::BadAddress;

/// A reply of the proxy's own; it stands in the queue among the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// No data connection can be offered (RFC 959 4.2).
    NoDataConnection,
    /// PASV cannot name an IPv6 address (RFC 2428 3).
    NoIpv4,
    /// PORT and EPRT: the proxy does no active mode.
    NoActiveMode,
    /// PORT or EPRT with an argument that is no address.
    BadAddress,
    /// EPRT with a protocol other than 1 and 2 (RFC 2428 2).
    UnknownProtocol,
    /// AUTH (RFC 2228 3).
    NoAuth,
    /// A verb that the proxy does not let through.
    NotImplemented,
    /// A verb with bytes that no verb has.
    Malformed,
    /// The line is longer than [`crate::ftp::line::MAX_LINE`]; the connection is closed behind it.
    TooLong,
}

impl Local {
    /// The whole line.
    pub fn line(self) -> &'static [u8] {
        match self {
            Self::NoDataConnection => b"425 Can't open data connection.\r\n",
            Self::NoIpv4 => b"425 PASV needs IPv4, use EPSV.\r\n",
            Self::NoActiveMode => b"504 Active mode is not available, use PASV or EPSV.\r\n",
            Self::BadAddress => b"501 Invalid address.\r\n",
            Self::UnknownProtocol => b"522 Network protocol not supported, use (1,2)\r\n",
            Self::NoAuth => b"502 AUTH is not available.\r\n",
            Self::NotImplemented => b"502 Command not implemented.\r\n",
            Self::Malformed => b"500 Command not understood.\r\n",
            Self::TooLong => b"500 Command line too long.\r\n",
        }
    }

    /// What PORT or EPRT is answered.
    pub fn for_active<T>(address: &Result<T, BadAddress>) -> Self {
        match address {
            Ok(_) => Self::NoActiveMode,
            Err(BadAddress::Malformed) => Self::BadAddress,
            Err(BadAddress::UnknownProtocol) => Self::UnknownProtocol,
        }
    }
}
