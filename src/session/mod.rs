//! One control connection as a pure machine: bytes of both sides in, [`Actions`] out.
//!
//! ```text
//! client bytes -> Lines -> Command --(table in `command`)--> forward | answer | close
//!                                        | what it makes expected
//!                                        v
//!                                      Queue <- what a final reply takes away
//!                                        ^
//! server bytes -> ReplyReader -> Piece --(`begin`, `text`, `end`)--> reply as it is
//!                                                | 227 and 229, held until their end
//!                                                v
//!                                      reserve, then the same reply with the proxy's address
//! ```
//!
//! Only the reply to a PASV or EPSV that was seen is rewritten. Any other 227 or 229 never reaches the
//! client. It owns no socket, no clock and no table: whoever implements [`Actions`] does.
//!
//! What becomes of a data connection's command:
//!
//! | | client and server alike, default modes | any other mode, or IPv4 on one leg and IPv6 on the other |
//! | --- | --- | --- |
//! | PASV, EPSV | forwarded; reserve at the reply | `agreement`: one at a time, in its table |
//! | PORT, EPRT | 501, 522, 504 | 501, 504, 522, or `agreement` |
//! | EPSV ALL | forwarded | forwarded; 200 where only the proxy listens |
//! | a transfer | forwarded | dial where nobody else does, and forwarded unless that fails |
//! | USER, REIN | release | release |

mod actions;
mod agreement;
mod local;
mod modes;
mod protection;
mod queue;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_early;
#[cfg(test)]
mod tests_endings;
#[cfg(test)]
mod tests_modes;
#[cfg(test)]
mod tests_modes_order;
#[cfg(test)]
mod tests_modes_random;
mod upgrade;

use std::net::SocketAddr;

use crate::ftp::command::{Transfer, is_unpromised, without_telnet};
use crate::ftp::line::Line;
use crate::ftp::reply::Piece;
use crate::ftp::{Code, Command, Lines, ReplyReader};
pub use actions::{Actions, Announced, Asked, Note, Passive, Unavailable, Word};
use agreement::{Agreement, Dialler, announced};
pub use local::Local;
pub use modes::{ClientModes, Mode, Modes, ServerMode};
use protection::{Answer, Protection};
pub use protection::{AuthTls, ServerTls};
pub use queue::MAX_OUTSTANDING;
use queue::{Expected, Progress, Queue};
pub use upgrade::{AUTH_TLS, MAX_GREETING, Refusal, Step, Upgrade};

/// Bytes of a reply held back at most: a 227 or 229, or a line of a FEAT reply.
pub const MAX_HELD: usize = 4096;

/// Bytes that most passive replies need.
const FIRST_HELD: usize = 128;

/// Bytes of a user name or path kept for the log at most.
pub const MAX_NOTED: usize = 240;

/// Ports below this are no data ports (RFC 2577 3).
const FIRST_DATA_PORT: u16 = 1024;

/// What happens to the text of the current reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Treatment {
    #[default]
    Pass,
    /// Held until its end.
    Hold,
    /// As `Hold`, but it has grown over [`MAX_HELD`].
    Drop,
    /// FEAT: a line is held until its end and passed on if it promises nothing wrong. The first line
    /// is a heading and always passed on.
    Filter {
        heading: bool,
        /// The line has grown over [`MAX_HELD`]: whether the rest of it is passed on.
        rest: Option<bool>,
    },
}

/// The last transfer command of a session, for the log.
#[derive(Debug, Default)]
struct Noted {
    user: Vec<u8>,
    verb: &'static str,
    path: Vec<u8>,
}

impl Noted {
    fn transfer(&self) -> Option<Transfer<'_>> {
        (!self.verb.is_empty()).then_some(Transfer {
            verb: self.verb,
            path: &self.path,
        })
    }
}

/// What a control connection begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Where the client is, and which modes there are.
    pub modes: Modes,
    /// What AUTH gets.
    pub auth: AuthTls,
    /// The client's connection is TLS from its first byte.
    pub implicit_tls: bool,
    /// Transfers need PROT P.
    pub data_tls_required: bool,
    /// The server's connection is TLS.
    pub server_tls: ServerTls,
}

/// One control connection.
#[derive(Debug)]
pub struct Session {
    modes: Modes,
    /// The server is reached over IPv4; `None` while that is not known, and where it is reached by a path.
    server_is_ipv4: Option<bool>,
    protection: Protection,
    /// Nothing more is read.
    closed: bool,
    /// 234 is out: nothing more is said in clear.
    handshaking: bool,
    /// A malformed command has been noted; one line in the log is enough.
    malformed: bool,
    lines: Lines,
    reader: ReplyReader,
    treatment: Treatment,
    /// A line has begun to go out.
    mid_line: bool,
    held: Vec<u8>,
    queue: Queue,
    noted: Noted,
    /// What is being agreed on with the server; see `agreement`.
    agreement: Option<Agreement>,
    /// A command for a data connection that has to wait for earlier replies.
    postponed: Option<Vec<u8>>,
    /// The next transfer command makes the proxy dial.
    dialled: bool,
    /// Who dials whom for the data connection that was agreed on last.
    dialler: Dialler,
    /// What the server says of a transfer is next, and not out: it may be too early.
    word: Option<Word>,
    /// EPSV ALL was said.
    epsv_all: bool,
    /// PASV or EPSV, if the server does not know it.
    unknown: Option<Mode>,
    client_ended: bool,
    /// A 1yz has come.
    begun: bool,
    /// `noted` has a transfer command sent ahead of the reply to PASV or EPSV.
    ahead: bool,
}

impl Session {
    /// A connection whose greeting has not come.
    pub fn new(terms: Terms) -> Self {
        let mut queue = Queue::default();
        queue.push(Expected::Greeting);
        Self {
            modes: terms.modes,
            server_is_ipv4: None,
            protection: Protection::new(
                terms.auth,
                terms.implicit_tls,
                terms.data_tls_required,
                terms.server_tls,
            ),
            closed: false,
            handshaking: false,
            malformed: false,
            lines: Lines::default(),
            reader: ReplyReader::default(),
            treatment: Treatment::default(),
            mid_line: false,
            held: Vec::new(),
            queue,
            noted: Noted::default(),
            agreement: None,
            postponed: None,
            dialled: false,
            dialler: Dialler::Client,
            word: None,
            epsv_all: false,
            unknown: None,
            client_ended: false,
            begun: false,
            ahead: false,
        }
    }

    /// What a name in the client's hello decides: whether the server's connection is TLS, and whether transfers need
    /// PROT P. Before any bytes come of either side.
    pub fn chosen(&mut self, server_tls: ServerTls, data_tls_required: bool) {
        self.protection.connected(server_tls, data_tls_required);
    }

    /// The server is connected, before any bytes come of either side. `None` where it has no address.
    pub fn connected(&mut self, server_is_ipv4: Option<bool>) {
        self.server_is_ipv4 = server_is_ipv4;
    }

    /// The name of the last USER, empty before; [`MAX_NOTED`] bytes at most.
    pub fn user(&self) -> &[u8] {
        &self.noted.user
    }

    /// The last transfer command.
    pub fn transfer(&self) -> Option<Transfer<'_>> {
        self.noted.transfer()
    }

    /// Takes bytes of the client. Returns how many: fewer than there are when [`MAX_OUTSTANDING`]
    /// replies are outstanding, or a data connection is being agreed on; the rest is offered again after the
    /// server has sent some.
    pub fn from_client(&mut self, input: &[u8], actions: &mut impl Actions) -> usize {
        let mut rest = input;
        while self.reads() && !rest.is_empty() && self.has_room() {
            match self.lines.next(&mut rest) {
                Line::Whole(line) => self.command(without_telnet(&line), actions),
                Line::Incomplete => {}
                Line::TooLong => {
                    actions.note(Note::TooLong);
                    self.answer(Local::TooLong, actions);
                    self.closed = true;
                }
            }
        }
        if !self.reads() {
            // What is in the way of TLS, or of the end, is gone.
            return input.len();
        }
        input.len() - rest.len()
    }

    /// Whether [`Session::from_client`] would take bytes now.
    pub fn takes_commands(&self) -> bool {
        !self.reads() || self.has_room()
    }

    /// Whether a further command may be read.
    fn has_room(&self) -> bool {
        !(self.queue.is_full() || self.is_agreeing())
    }

    /// Whether the client's bytes mean anything now.
    fn reads(&self) -> bool {
        !self.closed && !self.protection.is_switching()
    }

    /// The handshake with the client is done.
    pub fn secured(&mut self) {
        self.lines.rest();
        self.handshaking = false;
        self.protection.secured();
    }

    /// The client sends nothing more: what it left unfinished goes on if it is harmless.
    pub fn client_ended(&mut self, actions: &mut impl Actions) {
        let rest = self.lines.rest();
        if !rest.is_empty() && self.reads() {
            self.command(without_telnet(&rest), actions);
        }
        // Nothing more goes to the server, and no transfer would follow.
        self.client_ended = true;
        self.postponed = None;
    }

    /// Takes bytes of the server. Returns how many: fewer than there are when TLS begins with the client, none
    /// from then on; the rest is offered again after [`Session::secured`]. Nor are any taken while [`Session::holds`]; the
    /// rest, be it nothing, is offered again soon.
    pub fn from_server(&mut self, input: &[u8], actions: &mut impl Actions) -> usize {
        let mut rest = input;
        while !self.handshaking && !self.is_early(actions) {
            let withhold = self.agrees() || self.queue.withholds_next();
            match self.reader.next(&mut rest, withhold) {
                Some(Piece::Begin(code)) => {
                    self.begin(code);
                    self.word = self.word(code);
                }
                Some(Piece::Text(text)) => self.text(text.as_bytes(), actions),
                Some(Piece::End(code)) => self.end(code, actions),
                None => break,
            }
        }
        input.len() - rest.len()
    }

    /// Whether a transfer has begun since this was asked.
    pub fn has_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// Whether what the server says of a transfer waits for the data connection to come to the client.
    pub fn holds(&self) -> bool {
        self.word.is_some()
    }

    /// Whether what the server says next must not be said yet: where the proxy dials the client, one that hears of the end
    /// of a transfer before its data connection is there takes it for a failure. No server would say that, it dials first.
    fn is_early(&mut self, actions: &mut impl Actions) -> bool {
        let Some(word) = self.word else {
            return false;
        };
        // Who breaks a transfer off waits for no connection.
        let early = !self.queue.awaits_abor() && actions.is_on_its_way(word);
        if !early {
            self.word = None;
        }
        early
    }

    /// What a reply says of a transfer, where the client may have to see a data connection first. 421 is no answer but the
    /// server's goodbye, and 110 a restart marker.
    fn word(&self, code: Code) -> Option<Word> {
        if self.dialler == Dialler::Client || matches!(code.number(), 110 | 227 | 229 | 421) {
            return None;
        }
        if code.is_preliminary() {
            return self.queue.awaits_begin().then_some(Word::Begun);
        }
        let progress = self.queue.takes_as_transfer(code)?;
        if (200..=299).contains(&code.number()) {
            return Some(Word::Yes);
        }
        // Asked to listen, a server that refuses at once has not seen anybody, and waits for nobody.
        let unseen = self.dialler == Dialler::Proxy && progress == Progress::Asked;
        (!unseen).then_some(Word::No)
    }

    /// The server sends nothing more: what it left unfinished goes on unless it may be a 227 or 229.
    pub fn server_ended(&mut self, actions: &mut impl Actions) {
        if let Some(Piece::Text(text)) = self.reader.rest() {
            self.text(text.as_bytes(), actions);
        }
        if matches!(self.treatment, Treatment::Filter { .. }) {
            actions.reply(&std::mem::take(&mut self.held));
        }
    }

    /// One command line, its end included where the client sent one.
    fn command(&mut self, line: &[u8], actions: &mut impl Actions) {
        let command = Command::parse(line);
        if self.protection.awaits_tls() && !command.may_precede_tls() {
            return self.answer(Local::NeedsTls, actions);
        }
        let expected = match command {
            Command::Pasv | Command::Epsv(_) | Command::Port(_) | Command::Eprt(_)
                if self.postpones(line) =>
            {
                return;
            }
            Command::Pasv => match self.passive_asked(Mode::Pasv, b"", actions) {
                Some(expected) => expected,
                None => return,
            },
            Command::Epsv(protocol) => match self.passive_asked(Mode::Epsv, protocol, actions) {
                Some(expected) => expected,
                None => return,
            },
            Command::EpsvAll => match self.epsv_all_asked(actions) {
                Some(expected) => expected,
                None => return,
            },
            Command::Port(address) => {
                return self.active_asked(Mode::Port, address.map(SocketAddr::from), actions);
            }
            Command::Eprt(address) => return self.active_asked(Mode::Eprt, address, actions),
            Command::User(name) => {
                self.forget(actions);
                self.noted.user = bounded(name).to_vec();
                Expected::Login
            }
            Command::Rein if self.protection.refuses_rein() => {
                return self.answer(Local::NotImplemented, actions);
            }
            Command::Rein => {
                self.forget(actions);
                self.epsv_all = false;
                self.noted = Noted::default();
                Expected::Login
            }
            Command::Transfer(_) if self.protection.refuses_transfer() => {
                return self.answer(Local::DataNeedsTls, actions);
            }
            Command::Transfer(transfer) => {
                self.note_transfer(transfer, actions);
                Expected::Transfer(Progress::Asked)
            }
            Command::Abor => Expected::Abor { optional: false },
            // Some servers answer 500, some nothing: nobody could tell which reply is whose.
            Command::Empty => return,
            Command::Stat => Expected::Stat,
            Command::Feat => Expected::Feat,
            Command::Auth(mechanism) => {
                let local = self.protect(|protection| protection.auth(mechanism), actions);
                return self.answer(local, actions);
            }
            Command::Pbsz(size) => match self.protection.pbsz(size) {
                Answer::Local(local) => return self.answer(local, actions),
                _ => Expected::Plain,
            },
            Command::Prot(level) => match self.protect(|own| own.prot(level), actions) {
                Answer::Local(local) => return self.answer(local, actions),
                Answer::Both { private } => Expected::Prot { private },
                Answer::Pass => Expected::Plain,
            },
            Command::Secret => Expected::Secret,
            Command::Ccc => {
                let local = self.protection.ccc();
                return self.answer(local, actions);
            }
            Command::Unsafe => return self.answer(Local::NotImplemented, actions),
            Command::Malformed => {
                if !self.malformed {
                    self.malformed = true;
                    actions.note(Note::Malformed);
                }
                return self.answer(Local::Malformed, actions);
            }
            Command::Http => {
                actions.note(Note::Http);
                self.closed = true;
                return actions.close();
            }
            Command::Harmless | Command::Other => Expected::Plain,
        };
        let dials = matches!(expected, Expected::Transfer(_)) && std::mem::take(&mut self.dialled);
        if dials && actions.dial().is_err() {
            return self.answer(Local::NoDataConnection, actions);
        }
        self.queue.push(expected);
        actions.forward(line);
    }

    /// Does what may change how data connections are protected. One that was reserved as it was before is not used
    /// any more: the client takes it for what it is now, and the server too.
    fn protect<T>(
        &mut self,
        change: impl FnOnce(&mut Protection) -> T,
        actions: &mut impl Actions,
    ) -> T {
        let before = self.protection.of_data();
        let result = change(&mut self.protection);
        if self.protection.of_data() != before {
            self.forget(actions);
        }
        result
    }

    fn note_transfer(&mut self, transfer: Transfer<'_>, actions: &mut impl Actions) {
        self.noted.verb = transfer.verb;
        self.noted.path.clear();
        self.noted.path.extend_from_slice(bounded(transfer.path));
        self.ahead = self.queue.awaits_passive();
        if !self.ahead {
            actions.annotate(transfer);
        }
    }

    /// Puts the proxy's own reply where it belongs among those outstanding.
    fn answer(&mut self, local: Local, actions: &mut impl Actions) {
        self.queue.push(Expected::Local(local));
        self.answer_waiting(actions);
    }

    fn answer_waiting(&mut self, actions: &mut impl Actions) {
        while !self.reader.is_within_reply() {
            let Some(local) = self.queue.next_local() else {
                return;
            };
            actions.reply(local.line());
            match local {
                Local::TooLong => actions.close(),
                Local::StartTls => {
                    self.handshaking = true;
                    return actions.start_tls();
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, code: Code) {
        self.treatment = match code.number() {
            227 | 229 => Treatment::Hold,
            100..=199 if self.queue.awaits_data_next() || self.queue.awaits_own_next() => {
                Treatment::Drop
            }
            200..=420 | 422.. if self.queue.takes_as_data(code) => Treatment::Hold,
            // 421 is nobody's answer: the server says goodbye.
            200..=420 | 422.. if self.queue.takes_as_own(code) => Treatment::Drop,
            // No reply that means yes but 227 and 229 answers PASV or EPSV; clients look for an address in it.
            200..=299 if self.queue.takes_as_passive(code) => Treatment::Hold,
            211 if self.queue.awaits_feat() => Treatment::Filter {
                heading: true,
                rest: None,
            },
            _ => Treatment::Pass,
        };
    }

    fn text(&mut self, text: &[u8], actions: &mut impl Actions) {
        let fits = self.held.len().saturating_add(text.len()) <= MAX_HELD;
        match self.treatment {
            // No reply, where only the reply to something of the proxy's own could be.
            Treatment::Pass if self.is_stray() => {}
            Treatment::Pass => {
                self.mid_line = !text.ends_with(b"\n");
                actions.reply(text);
            }
            Treatment::Drop => {}
            Treatment::Hold if fits => {
                if self.held.capacity() == 0 {
                    self.held.reserve(FIRST_HELD.max(text.len()));
                }
                self.held.extend_from_slice(text);
            }
            Treatment::Hold => {
                self.treatment = Treatment::Drop;
                self.held = Vec::new();
            }
            Treatment::Filter { heading, rest } => {
                let ends = text.ends_with(b"\n");
                let passes = match rest {
                    Some(passes) => {
                        if passes {
                            actions.reply(text);
                        }
                        passes
                    }
                    None => match self.filter(text, heading, actions) {
                        Some(passes) => passes,
                        None => return,
                    },
                };
                self.treatment = Treatment::Filter {
                    heading: heading && !ends,
                    rest: (!ends).then_some(passes),
                };
            }
        }
    }

    /// Whether a line that belongs to no reply begins where nobody waits for one.
    fn is_stray(&self) -> bool {
        !(self.reader.is_in_reply() || self.mid_line) && self.queue.awaits_data_next()
    }

    /// More of a line of a FEAT reply. Returns whether the line is passed on, `None` before that is known.
    fn filter(&mut self, text: &[u8], heading: bool, actions: &mut impl Actions) -> Option<bool> {
        let room = MAX_HELD.saturating_sub(self.held.len());
        let (kept, rest) = text.split_at_checked(room).unwrap_or((text, b""));
        self.held.extend_from_slice(kept);
        if rest.is_empty() && !text.ends_with(b"\n") {
            return None;
        }
        let line = std::mem::take(&mut self.held);
        if self.reader.is_in_last_line() && !heading {
            actions.reply(self.modes.features());
            actions.reply(self.protection.features());
        }
        let feature = line.strip_prefix(b"211-").unwrap_or(&line);
        let passes = heading || !(is_unpromised(feature) || self.modes.hide(feature));
        if passes {
            actions.reply(&line);
            actions.reply(rest);
        }
        Some(passes)
    }

    fn end(&mut self, code: Code, actions: &mut impl Actions) {
        let held = std::mem::take(&mut self.held);
        self.treatment = Treatment::Pass;
        self.mid_line = false;
        let yes = (200..=299).contains(&code.number());
        if code.is_passive() || (yes && self.queue.takes_as_passive(code)) {
            self.passive_reply(code, &held, actions);
        } else if code.is_preliminary() {
            self.begun = true;
            self.queue.preliminary(code);
        } else if code.number() != 421 && self.queue.takes_as_data(code) {
            self.queue.take(code);
            self.agreed(code, &held, actions);
        } else {
            let answered = self.queue.take(code);
            self.answered(answered, code.number(), actions);
        }
        self.answer_waiting(actions);
        self.resume(actions);
    }

    /// What follows from a final reply.
    fn answered(&mut self, answered: Option<Expected>, code: u16, actions: &mut impl Actions) {
        let yes = (200..=299).contains(&code);
        if answered == Some(Expected::Login) {
            // A 227 pipelined before USER or REIN came after the command had been seen.
            actions.release();
        }
        match answered {
            // Some servers greet with 230: nobody need log in.
            Some(Expected::Greeting | Expected::Login | Expected::Secret)
                if matches!(code, 230 | 232) =>
            {
                self.ask_for_protection(actions);
            }
            Some(Expected::Data(_)) => self.abandon(actions),
            Some(Expected::EpsvAll) if !yes => self.epsv_all = false,
            Some(Expected::Prot { private }) if yes => {
                self.protect(|protection| protection.agreed(private), actions);
            }
            Some(Expected::OwnProt { private }) if yes => self.protection.server_agreed(private),
            Some(Expected::OwnProt { private: true }) => actions.note(Note::NoPrivateData(code)),
            _ => {}
        }
    }

    /// After a login: what data connections are, where the client will not say so and the server may not know.
    fn ask_for_protection(&mut self, actions: &mut impl Actions) {
        let Some(private) = self.protection.to_ask_for() else {
            return;
        };
        actions.forward(match private {
            true => b"PBSZ 0\r\nPROT P\r\n",
            false => b"PBSZ 0\r\nPROT C\r\n",
        });
        self.queue.push(Expected::OwnPbsz);
        self.queue.push(Expected::OwnProt { private });
    }

    /// A whole 227 or 229, or another yes to PASV or EPSV.
    fn passive_reply(&mut self, code: Code, reply: &[u8], actions: &mut impl Actions) {
        let Some((taken, locals)) = self.queue.take_passive() else {
            return self.unexpected(code, actions);
        };
        for local in locals {
            actions.reply(local.line());
        }
        let Expected::Passive(mode) = taken else {
            return self.agreed(code, reply, actions);
        };
        match self.rewrite(code, mode, reply, actions) {
            Ok(line) => actions.reply(&line),
            Err(note) => {
                if let Some(note) = note {
                    actions.release();
                    actions.note(note);
                }
                actions.reply(Local::NoDataConnection.line());
            }
        }
    }

    /// A 227 or 229 that answers no PASV or EPSV.
    fn unexpected(&mut self, code: Code, actions: &mut impl Actions) {
        let taken = self.queue.take(code);
        if let Some(Expected::Data(_)) = taken {
            return self.agreed(code, b"", actions);
        }
        actions.note(Note::UnexpectedPassive(code.number()));
        match taken {
            Some(Expected::OwnProt { private: true }) => {
                actions.note(Note::NoPrivateData(code.number()));
            }
            Some(Expected::OwnProt { .. } | Expected::OwnPbsz) | None => {}
            Some(_) => actions.reply(Local::NoDataConnection.line()),
        }
    }

    /// Reserves a port for what the server announced. The error says what to log, if anything is left.
    fn rewrite(
        &self,
        code: Code,
        mode: Mode,
        reply: &[u8],
        actions: &mut impl Actions,
    ) -> Result<Vec<u8>, Option<Note>> {
        let parsed = announced(mode, code, reply)?;
        let proxy = actions
            .reserve(self.passive(mode, &parsed))
            .map_err(|Unavailable| None)?;
        let mut line = Vec::with_capacity(reply.len().saturating_add(24));
        match mode {
            Mode::Pasv => parsed.write_227(proxy, &mut line),
            _ => parsed.write_229(proxy.port, &mut line),
        }
        Ok(line)
    }
}

fn bounded(bytes: &[u8]) -> &[u8] {
    bytes.get(..MAX_NOTED).unwrap_or(bytes)
}
