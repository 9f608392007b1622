//! TLS toward the client (RFC 4217): AUTH, PBSZ, PROT and CCC as the proxy answers them. It does no TLS.
//!
//! ```text
//!            AUTH TLS              handshake done
//!   (plain) ----------> (switching) ----------> (tls)      implicit TLS begins in (tls)
//!      | AUTH, not offered: 502                   | AUTH: 503, CCC: 534, REIN: 502
//!      | AUTH GSSAPI: 504                         | PBSZ, PROT: 200, 503, 504, 536
//!      | USER, if TLS is required: 530            | transfer in clear, if not allowed: 522
//! ```

use super::local::Local;

/// What the proxy does with AUTH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthTls {
    /// Refuses it.
    #[default]
    Off,
    /// Accepts it.
    On,
    /// Accepts it, and refuses USER without it.
    Only,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Plain,
    /// AUTH was accepted; what the client sends in clear is not looked at any more (CVE-2011-0411).
    Switching,
    Tls,
}

/// How the client's connections are protected.
#[derive(Debug)]
pub struct Protection {
    auth: AuthTls,
    data_required: bool,
    channel: Channel,
    pbsz: bool,
    data: bool,
}

impl Protection {
    /// A connection that begins in clear, or in `implicit` TLS. By old custom the latter protects its data
    /// connections too until PROT C.
    pub fn new(auth: AuthTls, implicit: bool, data_required: bool) -> Self {
        Self {
            auth,
            data_required,
            channel: if implicit {
                Channel::Tls
            } else {
                Channel::Plain
            },
            pbsz: implicit,
            data: implicit,
        }
    }

    /// Data connections of the client use TLS.
    pub fn of_data(&self) -> bool {
        self.data
    }

    /// The client's bytes are to be thrown away.
    pub fn is_switching(&self) -> bool {
        self.channel == Channel::Switching
    }

    /// The handshake is done.
    pub fn secured(&mut self) {
        self.channel = Channel::Tls;
    }

    /// AUTH with a mechanism (RFC 4217 4).
    pub fn auth(&mut self, mechanism: &[u8]) -> Local {
        if self.auth == AuthTls::Off && self.channel == Channel::Plain {
            return Local::NoAuth;
        }
        if self.channel != Channel::Plain {
            return Local::TlsAlready;
        }
        // SSL and TLS-P imply PROT P.
        self.data = match mechanism.trim_ascii().to_ascii_uppercase().as_slice() {
            b"TLS" | b"TLS-C" => false,
            b"SSL" | b"TLS-P" => true,
            _ => return Local::UnknownMechanism,
        };
        self.pbsz = self.data;
        self.channel = Channel::Switching;
        Local::StartTls
    }

    /// PBSZ (RFC 4217 8); `None` where it is not the proxy's to answer.
    pub fn pbsz(&mut self, size: &[u8]) -> Option<Local> {
        if self.channel != Channel::Tls {
            return (self.auth != AuthTls::Off).then_some(Local::TlsFirst);
        }
        let digits = size.trim_ascii();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Some(Local::BadArgument);
        }
        self.pbsz = true;
        Some(Local::PbszZero)
    }

    /// PROT (RFC 4217 9); `None` where it is not the proxy's to answer.
    pub fn prot(&mut self, level: &[u8]) -> Option<Local> {
        if self.channel != Channel::Tls {
            return (self.auth != AuthTls::Off).then_some(Local::TlsFirst);
        }
        if !self.pbsz {
            return Some(Local::PbszFirst);
        }
        Some(match level.trim_ascii().to_ascii_uppercase().as_slice() {
            b"C" if self.data_required => Local::ProtRequired,
            b"C" => {
                self.data = false;
                Local::ProtClear
            }
            b"P" => {
                self.data = true;
                Local::ProtPrivate
            }
            b"S" | b"E" => Local::ProtUnsupported,
            _ => Local::UnknownProt,
        })
    }

    /// CCC is refused over TLS (RFC 4217 5), and unknown without.
    pub fn ccc(&self) -> Local {
        match self.channel {
            Channel::Tls => Local::NoClear,
            _ => Local::NotImplemented,
        }
    }

    /// Whether USER has to wait for TLS.
    pub fn refuses_login(&self) -> bool {
        self.auth == AuthTls::Only && self.channel == Channel::Plain
    }

    /// Whether a transfer has to wait for PROT P.
    pub fn refuses_transfer(&self) -> bool {
        self.data_required && !self.data
    }

    /// REIN would end TLS on the control connection (RFC 4217 11); the proxy does not do that.
    pub fn refuses_rein(&self) -> bool {
        self.channel == Channel::Tls
    }

    /// Lines of a FEAT reply that tell of all this.
    pub fn features(&self) -> &'static [u8] {
        match (self.auth, self.channel) {
            (AuthTls::Off, Channel::Plain) => b"",
            (AuthTls::Off, _) => b" PBSZ\r\n PROT\r\n",
            _ => b" AUTH TLS\r\n AUTH SSL\r\n PBSZ\r\n PROT\r\n",
        }
    }
}
