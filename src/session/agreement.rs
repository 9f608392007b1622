//! How a data connection is agreed on where the proxy may have to ask the server otherwise than the client did:
//! active mode, translation between the modes, and between IPv4 and IPv6 (RFC 6384). Elsewhere PASV and EPSV
//! are forwarded and only their replies matter; see [`super`].
//!
//! ```text
//!  client  server    to the server                    its yes                        the client gets
//!  ------  -------   ------------------------------   ----------------------------   -----------------------
//!  PASV,   passive   the client's own line            reserve                        227, 229
//!  EPSV    active    reserve_for_server: PORT, EPRT   reserve_for_client             227, 229
//!  PORT,   active    reserve_active: PORT, EPRT                                      the server's reply
//!  EPRT    passive   EPSV, or PASV                    reserve_dialled; dial behind   200
//!                                                     the transfer command
//! ```
//!
//! An IPv4 server that knows no EPSV is asked with PASV, an IPv6 server that does no PASV with EPSV; an IPv4
//! address is told with PORT, an IPv6 address with EPRT. Any other no ends the agreement: 425, or the server's own
//! words where they answer what the client asked.
//!
//! An agreement begins when no reply is outstanding that could change it (a login, PROT) or that still needs
//! what was reserved before (a transfer), and no command is read until the client has its answer. So there is one
//! at most, and it is the last of the queue.

use std::net::{IpAddr, SocketAddr};

use super::local::Local;
use super::modes::{Mode, ServerMode};
use super::queue::Expected;
use super::{Actions, Announced, Asked, FIRST_DATA_PORT, Note, Passive, Session};
use crate::ftp::host_port::{BadAddress, names_an_address, write_active, write_decimal};
use crate::ftp::passive::{write_227, write_229};
use crate::ftp::{Code, PassiveReply};

/// What is being agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// What the client asked for.
    asked: Mode,
    /// Where it listens; `None` in passive mode.
    address: Option<SocketAddr>,
    /// What the server was asked for.
    sent: Mode,
    /// In the client's own words.
    forwarded: bool,
    /// The server may be asked in another way.
    translated: bool,
}

/// Who makes the data connection come to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialler {
    /// The client itself.
    Client,
    /// The server, who dials the proxy, which then dials the client.
    Server,
    /// The proxy alone.
    Proxy,
}

impl Agreement {
    /// Who dials, once both agree.
    fn dialler(&self) -> Dialler {
        match (self.address, self.sent.is_active()) {
            (None, _) => Dialler::Client,
            (Some(_), true) => Dialler::Server,
            (Some(_), false) => Dialler::Proxy,
        }
    }

    /// Both legs in the same mode: what the server says fits.
    fn is_of_one_mode(&self) -> bool {
        self.asked.is_active() == self.sent.is_active()
    }
}

impl Session {
    /// Whether data connections are agreed on here.
    pub(super) fn agrees(&self) -> bool {
        self.modes.are_special() || self.families_differ()
    }

    /// Whether the client's leg is IPv4 and the server's IPv6, or the other way round.
    fn families_differ(&self) -> bool {
        match (self.modes.client, self.server_is_ipv4) {
            (Some(client), Some(server_is_ipv4)) => client.is_ipv4() != server_is_ipv4,
            _ => false,
        }
    }

    /// Whether commands have to wait.
    pub(super) fn is_agreeing(&self) -> bool {
        self.agreement.is_some() || self.postponed.is_some()
    }

    /// Whether an agreement has to wait; then its command is kept.
    pub(super) fn postpones(&mut self, line: &[u8]) -> bool {
        let postpones = self.agrees() && self.queue.is_unsettled();
        if postpones {
            self.postponed = Some(line.to_vec());
        }
        postpones
    }

    /// A reply has come: a command that waited for it may go on.
    pub(super) fn resume(&mut self, actions: &mut impl Actions) {
        if self.postponed.is_some() && !self.queue.is_unsettled() && self.reads() {
            let line = self.postponed.take().unwrap_or_default();
            self.command(&line, actions);
        }
    }

    /// Nobody waits for a data connection any more.
    pub(super) fn forget(&mut self, actions: &mut impl Actions) {
        self.dialled = false;
        actions.release();
    }

    // --- what the client asks for ---

    /// PASV, or EPSV with a protocol or none. Returns what a line that is to be forwarded makes expected.
    pub(super) fn passive_asked(
        &mut self,
        asked: Mode,
        protocol: &[u8],
        actions: &mut impl Actions,
    ) -> Option<Expected> {
        if let Some(refusal) = self.refuses_passive(asked, protocol) {
            self.answer(refusal, actions);
            return None;
        }
        if !self.agrees() {
            self.ahead = false;
            return Some(Expected::Passive(asked));
        }
        self.forget(actions);
        let translates = self.modes.server == ServerMode::Passive || self.families_differ();
        let agreement = Agreement {
            asked,
            address: None,
            sent: asked,
            forwarded: true,
            translated: translates && self.protocol_fits(protocol),
        };
        if self.modes.server == ServerMode::Active {
            self.ask_to_dial(agreement, actions);
            return None;
        }
        if agreement.translated && self.unknown == Some(asked) {
            self.ask_to_listen(agreement, other_passive(asked), actions);
            return None;
        }
        self.agreement = Some(agreement);
        Some(Expected::Data(asked))
    }

    fn refuses_passive(&self, asked: Mode, protocol: &[u8]) -> Option<Local> {
        let ours = self.modes.server == ServerMode::Active;
        match asked {
            _ if !self.modes.allowed.allow(asked) => Some(Local::NoPassiveMode),
            Mode::Pasv if !self.modes.client_is_ipv4() => Some(Local::NoIpv4),
            Mode::Pasv if ours && self.epsv_all => Some(Local::OnlyEpsv),
            Mode::Epsv if ours && !self.protocol_fits(protocol) => {
                Some(match protocol.iter().all(u8::is_ascii_digit) {
                    false => Local::BadArgument,
                    true if self.modes.client_is_ipv4() => Local::OnlyProtocol1,
                    true => Local::OnlyProtocol2,
                })
            }
            _ => None,
        }
    }

    /// Whether the argument of EPSV is none, or the client's own network protocol.
    fn protocol_fits(&self, protocol: &[u8]) -> bool {
        match protocol {
            b"" => true,
            b"1" => self.modes.client_is_ipv4(),
            b"2" => !self.modes.client_is_ipv4(),
            _ => false,
        }
    }

    /// EPSV ALL. The server refuses what is not allowed behind it, and the proxy where it translates.
    pub(super) fn epsv_all_asked(&mut self, actions: &mut impl Actions) -> Option<Expected> {
        if !self.modes.allowed.allow(Mode::Epsv) {
            self.answer(Local::NoPassiveMode, actions);
            return None;
        }
        self.epsv_all = true;
        if self.modes.server == ServerMode::Active {
            self.answer(Local::EpsvAll, actions);
            return None;
        }
        Some(Expected::EpsvAll)
    }

    /// PORT or EPRT.
    pub(super) fn active_asked(
        &mut self,
        asked: Mode,
        address: Result<SocketAddr, BadAddress>,
        actions: &mut impl Actions,
    ) {
        self.forget(actions);
        let address = match self.own_address(asked, address, actions) {
            Ok(address) => address,
            Err(refusal) => return self.answer(refusal, actions),
        };
        let agreement = Agreement {
            asked,
            address: Some(address),
            sent: asked,
            forwarded: false,
            translated: true,
        };
        if self.modes.server != ServerMode::Passive {
            return self.ask_to_dial(agreement, actions);
        }
        let first = match self.unknown {
            Some(Mode::Epsv) => Mode::Pasv,
            _ => Mode::Epsv,
        };
        self.ask_to_listen(agreement, first, actions);
    }

    /// Checks where the client says that it listens: nowhere but at its own host, and at no service (RFC 2577 3).
    fn own_address(
        &self,
        asked: Mode,
        address: Result<SocketAddr, BadAddress>,
        actions: &mut impl Actions,
    ) -> Result<SocketAddr, Local> {
        let address = address.map_err(Local::from)?;
        if !self.modes.allowed.allow(asked) {
            return Err(Local::NoActiveMode);
        }
        if self.epsv_all && self.modes.server != ServerMode::Client {
            return Err(Local::OnlyEpsv);
        }
        let reached = !self.modes.behind_balancer;
        let own = |own: &SocketAddr| reached && own.ip() == address.ip().to_canonical();
        let Some(mut own) = self.modes.client.filter(own) else {
            actions.note(Note::ForeignAddress);
            return Err(Local::ForeignAddress);
        };
        if address.port() < FIRST_DATA_PORT {
            actions.note(Note::PrivilegedClientPort(address.port()));
            return Err(Local::PrivilegedPort);
        }
        // The zone of a link-local address is the control connection's.
        own.set_port(address.port());
        Ok(own)
    }

    // --- what the server is asked for ---

    /// PORT or EPRT with an address of the proxy.
    fn ask_to_dial(&mut self, agreement: Agreement, actions: &mut impl Actions) {
        let asked = self.asked(agreement.asked);
        let told = match agreement.address {
            Some(address) => actions.reserve_active(asked, address),
            None => actions.reserve_for_server(asked),
        };
        let Ok(told) = told else {
            return self.answer(Local::NoDataConnection, actions);
        };
        let mut line = Vec::with_capacity(64);
        write_active(told, &mut line);
        let sent = match told.ip().to_canonical() {
            IpAddr::V4(_) => Mode::Port,
            IpAddr::V6(_) => Mode::Eprt,
        };
        self.ask(agreement, sent, &line, actions);
    }

    /// PASV or EPSV of the proxy's own.
    fn ask_to_listen(&mut self, agreement: Agreement, sent: Mode, actions: &mut impl Actions) {
        let line = match sent {
            Mode::Pasv => b"PASV\r\n",
            _ => b"EPSV\r\n",
        };
        self.ask(agreement, sent, line, actions);
    }

    fn ask(&mut self, agreement: Agreement, sent: Mode, line: &[u8], actions: &mut impl Actions) {
        self.agreement = Some(Agreement {
            sent,
            forwarded: false,
            ..agreement
        });
        self.queue.push(Expected::Data(sent));
        actions.forward(line);
    }

    // --- what the server answers ---

    /// A whole final reply to what the server was asked for; empty if it was too long.
    pub(super) fn agreed(&mut self, code: Code, reply: &[u8], actions: &mut impl Actions) {
        let Some(agreement) = self.agreement.take() else {
            return;
        };
        let yes = (200..=299).contains(&code.number());
        self.dialler = agreement.dialler();
        let done = match agreement.sent.is_active() {
            _ if !yes => return self.refused(agreement, code, reply, actions),
            false => self.server_listens(agreement, code, reply, actions),
            true if code.is_passive() => Err(Some(Note::UnexpectedPassive(code.number()))),
            true => self.server_dials(agreement, code, reply, actions),
        };
        if let Err(note) = done {
            self.forget(actions);
            if let Some(note) = note {
                actions.note(note);
            }
            actions.reply(Local::NoDataConnection.line());
        }
    }

    /// The server says goodbye, and the client knows from its words.
    pub(super) fn abandon(&mut self, actions: &mut impl Actions) {
        self.agreement = None;
        self.forget(actions);
    }

    /// The server has announced where it listens. The error says what to log, if anything is left.
    fn server_listens(
        &mut self,
        agreement: Agreement,
        code: Code,
        reply: &[u8],
        actions: &mut impl Actions,
    ) -> Result<(), Option<Note>> {
        let parsed = announced(agreement.sent, code, reply)?;
        if let Some(address) = agreement.address {
            let server = Announced {
                host: parsed.host,
                port: parsed.port,
            };
            let asked = self.asked(agreement.asked);
            let reserved = actions.reserve_dialled(asked, address, server);
            reserved.map_err(|_| None)?;
            self.dialled = true;
            actions.reply(Local::accepted(agreement.asked).line());
            return Ok(());
        }
        let proxy = actions.reserve(self.passive(agreement.asked, &parsed));
        let proxy = proxy.map_err(|_| None)?;
        let mut line = Vec::with_capacity(reply.len().saturating_add(24));
        match (agreement.asked, agreement.sent) {
            (Mode::Pasv, Mode::Pasv) => parsed.write_227(proxy, &mut line),
            (Mode::Pasv, _) => write_227(proxy, &mut line),
            (_, Mode::Epsv) => parsed.write_229(proxy.port, &mut line),
            _ => write_229(proxy.port, &mut line),
        }
        actions.reply(&line);
        Ok(())
    }

    /// The server will dial the proxy.
    fn server_dials(
        &mut self,
        agreement: Agreement,
        code: Code,
        reply: &[u8],
        actions: &mut impl Actions,
    ) -> Result<(), Option<Note>> {
        if agreement.address.is_some() {
            relay(agreement.asked, code, reply, actions);
            return Ok(());
        }
        let proxy = actions.reserve_for_client(self.asked(agreement.asked));
        let proxy = proxy.map_err(|_| None)?;
        let mut line = Vec::with_capacity(64);
        match agreement.asked {
            Mode::Pasv => write_227(proxy, &mut line),
            _ => write_229(proxy.port, &mut line),
        }
        actions.reply(&line);
        Ok(())
    }

    /// The server does not want to: ask it for something else, or tell the client.
    fn refused(
        &mut self,
        agreement: Agreement,
        code: Code,
        reply: &[u8],
        actions: &mut impl Actions,
    ) {
        if let Some(other) = self.instead(&agreement, code) {
            if other != agreement.sent {
                self.unknown = Some(agreement.sent);
            }
            return self.ask_to_listen(agreement, other, actions);
        }
        self.forget(actions);
        let number = code.number();
        // Not logged in, or not now.
        let fits = matches!(number, 400..=499 | 530 | 532);
        if agreement.is_of_one_mode() || fits {
            relay(agreement.asked, code, reply, actions);
        } else {
            actions.note(Note::RefusedMode(agreement.sent, number));
            actions.reply(Local::NoDataConnection.line());
        }
    }

    /// What to ask for after a refusal.
    fn instead(&self, agreement: &Agreement, code: Code) -> Option<Mode> {
        if !agreement.translated || self.client_ended {
            return None;
        }
        let ipv4 = self.server_is_ipv4 != Some(false);
        match (agreement.sent, code.number()) {
            // The client's protocol is not the server's.
            (Mode::Epsv, 522) if agreement.forwarded => Some(Mode::Epsv),
            _ if self.epsv_all => None,
            (Mode::Epsv, 500 | 502 | 522) if ipv4 => Some(Mode::Pasv),
            (Mode::Pasv, 425 | 500..=502 | 504 | 522) if !ipv4 => Some(Mode::Epsv),
            _ => None,
        }
    }

    // --- what the outside is told ---

    fn asked(&self, mode: Mode) -> Asked<'_> {
        Asked {
            mode,
            user: &self.noted.user,
            protected: self.protection.of_data(),
            server_protected: self.server_is_protected(),
        }
    }

    /// What the server announced, for a client that asked in `mode`.
    pub(super) fn passive(&self, mode: Mode, announced: &PassiveReply<'_>) -> Passive<'_> {
        Passive {
            mode,
            host: announced.host,
            port: announced.port,
            user: &self.noted.user,
            transfer: self.noted.transfer().filter(|_| self.ahead),
            protected: self.protection.of_data(),
            server_protected: self.server_is_protected(),
        }
    }

    fn server_is_protected(&self) -> bool {
        // Not in clear while the server may be agreeing.
        self.protection.of_server_data() || self.queue.awaits_own_prot()
    }
}

/// Reads the reply to PASV or EPSV. The error says what to log.
pub fn announced(sent: Mode, code: Code, reply: &[u8]) -> Result<PassiveReply<'_>, Note> {
    let number = code.number();
    let parsed = match (sent, number) {
        (Mode::Pasv, 227) => PassiveReply::parse_227(reply),
        (Mode::Epsv, 229) => PassiveReply::parse_229(reply),
        _ => return Err(Note::UnexpectedPassive(number)),
    };
    let parsed = parsed.ok_or(Note::InvalidPassive(number))?;
    match parsed.port < FIRST_DATA_PORT {
        true => Err(Note::PrivilegedPort(parsed.port)),
        false => Ok(parsed),
    }
}

fn other_passive(mode: Mode) -> Mode {
    match mode {
        Mode::Pasv => Mode::Epsv,
        _ => Mode::Pasv,
    }
}

/// The server's reply for the client, unless it tells an address: that is one on the server's side.
fn relay(asked: Mode, code: Code, reply: &[u8], actions: &mut impl Actions) {
    let number = code.number();
    if !reply.is_empty() && !names_an_address(reply) {
        actions.reply(reply);
    } else if (200..=299).contains(&number) {
        actions.reply(Local::accepted(asked).line());
    } else {
        let mut line = Vec::with_capacity(32);
        write_decimal(number, |digit| line.push(digit));
        line.extend_from_slice(b" Command refused.\r\n");
        actions.reply(&line);
    }
}
