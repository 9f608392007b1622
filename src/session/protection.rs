//! TLS of both legs (RFC 4217): AUTH, PBSZ, PROT and CCC as the proxy answers or passes them. It does no TLS.
//!
//! Where both legs speak TLS, PBSZ and PROT are the server's to answer, and its answer decides for both legs. Where
//! only the client's does, the proxy answers; where only the server's does, the proxy sends its own after login.
//!
//! ```text
//!            AUTH TLS              handshake done
//!   (plain) ----------> (switching) ----------> (tls)      implicit TLS begins in (tls)
//!      | AUTH, not offered: 502                   | AUTH: 503, CCC: 534, REIN: 502
//!      | AUTH GSSAPI: 504                         | PBSZ, PROT: 200, 503, 504, 536
//!      | what acts, if TLS is required: 530       | transfer in clear, if not allowed: 522
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
    /// Accepts it, and lets nothing that acts reach the server without it.
    Only,
}

/// How the server's control connection came to be what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTls {
    /// In clear.
    #[default]
    None,
    /// TLS from its first byte.
    Implicit,
    /// TLS behind AUTH.
    Explicit,
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
    /// The server's control connection is TLS, and what its data connections are.
    server: ServerTls,
    server_data: bool,
}

/// What becomes of PBSZ or PROT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The proxy answers.
    Local(Local),
    /// The server answers, and nothing follows from it.
    Pass,
    /// The server answers, for both legs.
    Both {
        /// PROT P.
        private: bool,
    },
}

impl Protection {
    /// A connection that begins in clear, or in `implicit` TLS. By old custom the latter protects its data
    /// connections too until PROT C.
    pub fn new(auth: AuthTls, implicit: bool, data_required: bool, server: ServerTls) -> Self {
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
            server,
            server_data: false,
        }
    }

    /// The server's connection is there, and TLS or not.
    pub fn connected(&mut self, tls: ServerTls, data_required: bool) {
        (self.server, self.data_required) = (tls, data_required);
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

    /// Before AUTH: PBSZ and PROT are an error, that only the server tells of if the proxy knows no TLS.
    fn before_tls(&self) -> Answer {
        match self.auth == AuthTls::Off && self.server == ServerTls::None {
            true => Answer::Pass,
            false => Answer::Local(Local::TlsFirst),
        }
    }

    /// PBSZ (RFC 4217 8).
    pub fn pbsz(&mut self, size: &[u8]) -> Answer {
        if self.channel != Channel::Tls {
            return self.before_tls();
        }
        let digits = size.trim_ascii();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Answer::Local(Local::BadArgument);
        }
        self.pbsz = true;
        match self.server {
            ServerTls::None => Answer::Local(Local::PbszZero),
            _ => Answer::Pass,
        }
    }

    /// PROT (RFC 4217 9).
    pub fn prot(&mut self, level: &[u8]) -> Answer {
        if self.channel != Channel::Tls {
            return self.before_tls();
        }
        if !self.pbsz {
            return Answer::Local(Local::PbszFirst);
        }
        let private = match level.trim_ascii().to_ascii_uppercase().as_slice() {
            b"C" if self.data_required => return Answer::Local(Local::ProtRequired),
            b"C" => false,
            b"P" => true,
            b"S" | b"E" => return Answer::Local(Local::ProtUnsupported),
            _ => return Answer::Local(Local::UnknownProt),
        };
        if self.server != ServerTls::None {
            return Answer::Both { private };
        }
        self.data = private;
        Answer::Local(if private {
            Local::ProtPrivate
        } else {
            Local::ProtClear
        })
    }

    /// The server has accepted PROT for both legs.
    pub fn agreed(&mut self, private: bool) {
        self.data = private;
        self.server_data = private;
    }

    /// What the proxy has to ask the server for by itself. Private data connections, where nobody else will, or the
    /// client's are private already without a word about it; such in clear, where the client may never say PROT, and
    /// the server may take the opposite for granted, as some do in implicit TLS.
    pub fn to_ask_for(&self) -> Option<bool> {
        let unasked = self.channel == Channel::Plain || self.data;
        match self.server {
            ServerTls::None => None,
            _ if unasked => (!self.server_data).then_some(true),
            ServerTls::Explicit => None,
            ServerTls::Implicit => Some(false),
        }
    }

    /// The server has accepted the proxy's own PROT.
    pub fn server_agreed(&mut self, private: bool) {
        self.server_data = private;
    }

    /// Data connections of the server use TLS.
    pub fn of_server_data(&self) -> bool {
        self.server_data
    }

    /// CCC is refused over TLS (RFC 4217 5), and unknown without.
    pub fn ccc(&self) -> Local {
        match self.channel {
            Channel::Tls => Local::NoClear,
            _ => Local::NotImplemented,
        }
    }

    /// Whether nothing is to reach the server before TLS.
    pub fn awaits_tls(&self) -> bool {
        self.auth == AuthTls::Only && self.channel == Channel::Plain
    }

    /// Whether a transfer has to wait for PROT P.
    pub fn refuses_transfer(&self) -> bool {
        self.data_required && !self.data
    }

    /// REIN would end TLS on the control connection (RFC 4217 11); the proxy does not do that, on either leg.
    pub fn refuses_rein(&self) -> bool {
        self.channel == Channel::Tls || self.server != ServerTls::None
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
