//! Which command the next reply answers. Replies come in the order of the commands (RFC 959 5.4), with
//! the exceptions that live here: ABOR, STAT during a transfer, and servers that lose one.

use std::collections::VecDeque;

use super::local::Local;
use super::modes::Mode;
use crate::ftp::Code;

/// Replies a client may have outstanding before it is not read any more.
pub const MAX_OUTSTANDING: usize = 4096;

/// Entries for which an idle session keeps memory.
const KEPT: usize = 16;

/// A reply that is still to come, by what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The server's first reply.
    Greeting,
    /// PASV or EPSV.
    Passive(Mode),
    /// What the server was asked for in an agreement on a data connection.
    Data(Mode),
    /// EPSV ALL.
    EpsvAll,
    /// A transfer command; its 1yz has come or not.
    Transfer {
        /// 1yz has come.
        started: bool,
    },
    /// ABOR; `optional` once the transfer it stops has taken a reply, for some servers send one
    /// for both.
    Abor {
        /// May stay without a reply.
        optional: bool,
    },
    /// STAT, answered at once even during a transfer (RFC 959 4.1.3).
    Stat,
    /// FEAT.
    Feat,
    /// USER or REIN.
    Login,
    /// PASS or ACCT.
    Secret,
    /// PROT, which decides for both legs.
    Prot {
        /// PROT P.
        private: bool,
    },
    /// The proxy's own PBSZ 0: swallowed.
    OwnPbsz,
    /// The proxy's own PROT: swallowed.
    OwnProt {
        /// PROT P.
        private: bool,
    },
    /// Any other command.
    Plain,
    /// Not the server's: the proxy's own answer, waiting for its turn.
    Local(Local),
}

impl Expected {
    fn is_optional(self) -> bool {
        self == Self::Abor { optional: true }
    }
}

/// The outstanding replies, oldest first.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Expected>,
}

impl Queue {
    /// Appends what a forwarded command, or a refused one, makes expected.
    pub fn push(&mut self, expected: Expected) {
        self.entries.push_back(expected);
    }

    /// Whether no further command may be read for now.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_OUTSTANDING
    }

    /// Whether a reply to PASV or EPSV is outstanding.
    pub fn awaits_passive(&self) -> bool {
        let passive = |entry: &Expected| matches!(entry, Expected::Passive(_));
        self.entries.iter().any(passive)
    }

    /// Whether the next reply may not go out as it comes.
    pub fn withholds_next(&self) -> bool {
        matches!(
            self.next_command(),
            Some(
                Expected::Feat
                    | Expected::Passive(_)
                    | Expected::OwnPbsz
                    | Expected::OwnProt { .. }
                    | Expected::Data(_)
            )
        )
    }

    /// Whether a reply is outstanding that an agreement on a data connection has to wait for: it could change what
    /// there is to agree on, or needs what was agreed on before.
    pub fn is_unsettled(&self) -> bool {
        let unsettled = |entry: &Expected| {
            matches!(
                entry,
                Expected::Data(_)
                    | Expected::Transfer { .. }
                    | Expected::Login
                    | Expected::Secret
                    | Expected::Prot { .. }
                    | Expected::OwnPbsz
                    | Expected::OwnProt { .. }
            )
        };
        self.entries.iter().any(unsettled)
    }

    /// Whether the next reply is the server's part of an agreement.
    pub fn awaits_data_next(&self) -> bool {
        matches!(self.next_command(), Some(Expected::Data(_)))
    }

    /// Whether a final reply with this code would be.
    pub fn takes_as_data(&self, code: Code) -> bool {
        self.awaits_data_next() && !self.takes_as_abor(code)
    }

    /// Whether a final reply with this code answers a command of the proxy's own.
    pub fn takes_as_own(&self, code: Code) -> bool {
        self.awaits_own_next() && !self.takes_as_abor(code)
    }

    /// Whether a final reply with this code answers PASV or EPSV.
    pub fn takes_as_passive(&self, code: Code) -> bool {
        self.awaits_passive_next() && !self.takes_as_abor(code)
    }

    fn takes_as_abor(&self, code: Code) -> bool {
        let abor = self.entries.front().is_some_and(|head| head.is_optional());
        abor && self.fits_abor(code)
    }

    /// Whether the next reply answers FEAT.
    pub fn awaits_feat(&self) -> bool {
        self.next_command() == Some(Expected::Feat)
    }

    /// Whether the next reply answers a command of the proxy's own.
    pub fn awaits_own_next(&self) -> bool {
        matches!(
            self.next_command(),
            Some(Expected::OwnPbsz | Expected::OwnProt { .. })
        )
    }

    /// Whether the proxy has asked for private data connections and has no answer yet.
    pub fn awaits_own_prot(&self) -> bool {
        self.entries.contains(&Expected::OwnProt { private: true })
    }

    /// Whether the next reply answers PASV or EPSV.
    pub fn awaits_passive_next(&self) -> bool {
        matches!(self.next_command(), Some(Expected::Passive(_)))
    }

    fn next_command(&self) -> Option<Expected> {
        self.entries
            .iter()
            .copied()
            .find(|entry| !entry.is_optional())
    }

    /// A 1yz has come: what it belongs to stays at the head.
    pub fn preliminary(&mut self) {
        self.drop_unanswered(false);
        if let Some(Expected::Transfer { started }) = self.entries.front_mut() {
            *started = true;
        }
    }

    /// A final reply has come: what it answers leaves the queue. `None` where nothing waits for one.
    pub fn take(&mut self, code: Code) -> Option<Expected> {
        let number = code.number();
        self.drop_unanswered(self.fits_abor(code));
        match *self.entries.front()? {
            // A reply that nobody asked for, and a local one that waits for its end.
            Expected::Local(_) => None,
            // A greeting that is none; the real one is still to come.
            Expected::Greeting if code.is_passive() => None,
            Expected::Transfer { started: true } if matches!(number, 211..=213) => {
                let place = self.place_of(|entry| *entry == Expected::Stat);
                self.remove(place.unwrap_or(0))
            }
            Expected::Transfer { .. } => {
                let abor = |entry: &&mut Expected| matches!(entry, Expected::Abor { .. });
                if let Some(entry) = self.entries.iter_mut().find(abor) {
                    *entry = Expected::Abor { optional: true };
                }
                self.remove(0)
            }
            _ => self.remove(0),
        }
    }

    /// Whether an ABOR that may stay without a reply has it here. A refusal of something that is being agreed on
    /// is taken for one: nothing else would be read without it.
    fn fits_abor(&self, code: Code) -> bool {
        match code.number() {
            225 | 226 => true,
            500 | 502 => !self.awaits_data_next(),
            _ => false,
        }
    }

    /// A 227 or 229 has come: it answers the first PASV or EPSV, and what stood before that will not be
    /// answered any more. Local replies among it are returned: they go out first.
    pub fn take_passive(&mut self) -> Option<(Expected, Vec<Local>)> {
        let place = self.place_of(|entry| match entry {
            Expected::Passive(_) => true,
            Expected::Data(mode) => !mode.is_active(),
            _ => false,
        })?;
        let locals = self.entries.drain(..place).filter_map(|entry| match entry {
            Expected::Local(local) => Some(local),
            _ => None,
        });
        let locals = locals.collect();
        self.remove(0).map(|taken| (taken, locals))
    }

    /// The local reply whose turn it is: nothing stands before it but replies that may never come.
    pub fn next_local(&mut self) -> Option<Local> {
        let place = self.place_of(|entry| !entry.is_optional())?;
        match self.entries.get(place) {
            Some(&Expected::Local(local)) => {
                self.remove(place);
                Some(local)
            }
            _ => None,
        }
    }

    /// Drops an ABOR at the head that may stay without a reply, where this one does not fit it and can belong
    /// to another command.
    fn drop_unanswered(&mut self, fits: bool) {
        let local = |entry: &Expected| matches!(entry, Expected::Local(_));
        while let Some(&head) = self.entries.front() {
            let another = self.entries.iter().skip(1).any(|entry| !local(entry));
            if !head.is_optional() || !another || fits {
                return;
            }
            self.entries.pop_front();
        }
    }

    fn place_of(&self, wanted: impl Fn(&Expected) -> bool) -> Option<usize> {
        self.entries.iter().position(wanted)
    }

    fn remove(&mut self, place: usize) -> Option<Expected> {
        let entry = self.entries.remove(place);
        if self.entries.is_empty() && self.entries.capacity() > KEPT {
            // Memory is there while it is needed: most sessions idle.
            self.entries = VecDeque::new();
        }
        entry
    }
}
