//! The replies that the proxy gives itself, in one place.

use super::modes::Mode;
use crate::ftp::host_port::BadAddress;

/// A reply of the proxy's own; it stands in the queue among the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// No data connection can be offered (RFC 959 4.2).
    NoDataConnection,
    /// PASV cannot name an IPv6 address (RFC 2428 3).
    NoIpv4,
    /// PORT and EPRT where only passive mode is allowed.
    NoActiveMode,
    /// PASV and EPSV where only active mode is allowed.
    NoPassiveMode,
    /// PORT is accepted.
    PortAccepted,
    /// EPRT is accepted.
    EprtAccepted,
    /// EPSV ALL is accepted (RFC 2428 4).
    EpsvAll,
    /// PASV, PORT or EPRT behind EPSV ALL.
    OnlyEpsv,
    /// EPSV with a protocol other than IPv4, over IPv4 (RFC 2428 3).
    OnlyProtocol1,
    /// EPSV with a protocol other than IPv6, over IPv6.
    OnlyProtocol2,
    /// PORT or EPRT with another host's address (RFC 2577 3).
    ForeignAddress,
    /// PORT or EPRT with a port below 1024 (RFC 2577 3).
    PrivilegedPort,
    /// PORT or EPRT with an argument that is no address.
    BadAddress,
    /// EPRT with a protocol other than 1 and 2 (RFC 2428 2).
    UnknownProtocol,
    /// AUTH (RFC 2228 3).
    NoAuth,
    /// AUTH is accepted; TLS begins behind it (RFC 4217 4).
    StartTls,
    /// AUTH over TLS.
    TlsAlready,
    /// AUTH with a mechanism that is not TLS.
    UnknownMechanism,
    /// PBSZ or PROT before AUTH.
    TlsFirst,
    /// PBSZ without a number, EPSV with something else.
    BadArgument,
    /// PBSZ is accepted as 0, whatever was asked for.
    PbszZero,
    /// PROT before PBSZ.
    PbszFirst,
    /// PROT C is accepted.
    ProtClear,
    /// PROT P is accepted.
    ProtPrivate,
    /// PROT C is not allowed.
    ProtRequired,
    /// PROT S or E (RFC 4217 9).
    ProtUnsupported,
    /// PROT with any other argument.
    UnknownProt,
    /// CCC.
    NoClear,
    /// USER before TLS.
    NeedsTls,
    /// A transfer before PROT P.
    DataNeedsTls,
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
            Self::NoPassiveMode => b"502 Passive mode is not available, use PORT or EPRT.\r\n",
            Self::PortAccepted => b"200 PORT command successful.\r\n",
            Self::EprtAccepted => b"200 EPRT command successful.\r\n",
            Self::EpsvAll => b"200 EPSV ALL command successful.\r\n",
            Self::OnlyEpsv => b"501 Only EPSV is allowed after EPSV ALL.\r\n",
            Self::OnlyProtocol1 => b"522 Network protocol not supported, use (1)\r\n",
            Self::OnlyProtocol2 => b"522 Network protocol not supported, use (2)\r\n",
            Self::ForeignAddress => b"504 Address is not the client's.\r\n",
            Self::PrivilegedPort => b"504 Ports below 1024 are refused.\r\n",
            Self::BadAddress => b"501 Invalid address.\r\n",
            Self::UnknownProtocol => b"522 Network protocol not supported, use (1,2)\r\n",
            Self::NoAuth => b"502 AUTH is not available.\r\n",
            Self::StartTls => b"234 Proceed with negotiation.\r\n",
            Self::TlsAlready => b"503 TLS is already in use.\r\n",
            Self::UnknownMechanism => b"504 Unknown security mechanism.\r\n",
            Self::TlsFirst => b"503 AUTH TLS first.\r\n",
            Self::BadArgument => b"501 Invalid argument.\r\n",
            Self::PbszZero => b"200 PBSZ=0\r\n",
            Self::PbszFirst => b"503 PBSZ first.\r\n",
            Self::ProtClear => b"200 Data connections are in clear.\r\n",
            Self::ProtPrivate => b"200 Data connections are private.\r\n",
            Self::ProtRequired => b"534 Data connections must be private.\r\n",
            Self::ProtUnsupported => b"536 PROT level not supported.\r\n",
            Self::UnknownProt => b"504 Unknown PROT level.\r\n",
            Self::NoClear => b"534 The control connection stays private.\r\n",
            Self::NeedsTls => b"530 TLS is required: AUTH TLS first.\r\n",
            Self::DataNeedsTls => b"522 Data connections must be private: PROT P first.\r\n",
            Self::NotImplemented => b"502 Command not implemented.\r\n",
            Self::Malformed => b"500 Command not understood.\r\n",
            Self::TooLong => b"500 Command line too long.\r\n",
        }
    }

    /// Yes to PORT or EPRT.
    pub fn accepted(mode: Mode) -> Self {
        match mode {
            Mode::Eprt => Self::EprtAccepted,
            _ => Self::PortAccepted,
        }
    }
}

impl From<BadAddress> for Local {
    fn from(address: BadAddress) -> Self {
        match address {
            BadAddress::Malformed => Self::BadAddress,
            BadAddress::UnknownProtocol => Self::UnknownProtocol,
        }
    }
}
