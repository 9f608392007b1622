//! Which command the next reply answers. Replies come in the order of the commands (RFC 959 5.4), with
//! the exceptions that live here: ABOR, STAT during a transfer, and servers that lose one.
//!
//! A reply is optional, may come or stay out, where the server has said as much already: that of ABOR behind the one
//! to its transfer, and the final one of a transfer behind a second 150. Such a reply is known by its code; any other
//! code tells that it has stayed out.

use std::collections::VecDeque;

use super::local::Local;
use super::modes::Mode;
use crate::ftp::Code;

/// Replies a client may have outstanding before it is not read any more.
pub const MAX_OUTSTANDING: usize = 4096;

/// Entries for which an idle session keeps memory.
const KEPT: usize = 16;

/// What the server has said to a transfer command so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    Asked,
    /// A 1yz, most often 150 or 125.
    Started,
    /// Two: a command gets one (RFC 959 5.4), but Pure-FTPd says nothing else at the end of a download that the client
    /// has broken off. The final reply may stay out; a third one is the next command's, if there is one.
    Over,
}

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
    /// A transfer command.
    Transfer(Progress),
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
    /// Whether it may stay out.
    fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Abor { optional: true } | Self::Transfer(Progress::Over)
        )
    }

    /// Whether a final reply that may stay out has come with this code, though it could be that to another command.
    /// Servers that know no ABOR refuse it, but more of them refuse what comes next: an entry that is gone too early
    /// does less harm than one that stays, for at the latest where nothing is outstanding all is well again.
    fn fits(self, code: Code) -> bool {
        match self {
            Self::Transfer(_) => matches!(code.number(), 226 | 426),
            _ => matches!(code.number(), 225 | 226),
        }
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
                    | Expected::Transfer(Progress::Asked | Progress::Started)
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
        self.awaits_data_next() && !self.takes_as_optional(code)
    }

    /// Whether a final reply with this code answers a command of the proxy's own.
    pub fn takes_as_own(&self, code: Code) -> bool {
        self.awaits_own_next() && !self.takes_as_optional(code)
    }

    /// Whether a final reply with this code answers PASV or EPSV.
    pub fn takes_as_passive(&self, code: Code) -> bool {
        self.awaits_passive_next() && !self.takes_as_optional(code)
    }

    /// Whether a final reply with this code is one that may have stayed out.
    fn takes_as_optional(&self, code: Code) -> bool {
        let mut optional = self.entries.iter().take_while(|entry| entry.is_optional());
        optional.any(|entry| entry.fits(code))
    }

    /// What the server has said so far to the transfer that a final reply with this code ends; `None` where it ends none.
    pub fn takes_as_transfer(&self, code: Code) -> Option<Progress> {
        let stays_out = |entry: &&Expected| entry.is_optional() && !entry.fits(code);
        match self.entries.iter().find(|entry| !stays_out(entry)) {
            Some(&Expected::Transfer(progress)) => {
                (!is_of_stat(progress, code)).then_some(progress)
            }
            _ => None,
        }
    }

    /// Whether a 1yz would be the first to a transfer.
    pub fn awaits_begin(&self) -> bool {
        self.next_command() == Some(Expected::Transfer(Progress::Asked))
    }

    /// Whether the client has asked for the end of a transfer.
    pub fn awaits_abor(&self) -> bool {
        let abor = |entry: &Expected| matches!(entry, Expected::Abor { .. });
        self.entries.iter().any(abor)
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
    pub fn preliminary(&mut self, code: Code) {
        self.drop_unanswered(None);
        // Restart markers (RFC 959 3.5) come as often as the server likes.
        if code.number() == 110 {
            return;
        }
        if let Some(Expected::Transfer(progress)) = self.entries.front_mut() {
            *progress = match progress {
                Progress::Asked => Progress::Started,
                _ => Progress::Over,
            };
        }
    }

    /// A final reply has come: what it answers leaves the queue. `None` where nothing waits for one.
    pub fn take(&mut self, code: Code) -> Option<Expected> {
        self.drop_unanswered(Some(code));
        match *self.entries.front()? {
            // A reply that nobody asked for, and a local one that waits for its end.
            Expected::Local(_) => None,
            // A greeting that is none; the real one is still to come.
            Expected::Greeting if code.is_passive() => None,
            Expected::Transfer(progress) if is_of_stat(progress, code) => {
                let place = self.place_of(|entry| *entry == Expected::Stat);
                self.remove(place.unwrap_or(0))
            }
            // The reply may be the only one to every ABOR behind it, too.
            Expected::Transfer(_) | Expected::Abor { optional: true } => {
                for entry in &mut self.entries {
                    if matches!(entry, Expected::Abor { .. }) {
                        *entry = Expected::Abor { optional: true };
                    }
                }
                self.remove(0)
            }
            _ => self.remove(0),
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

    /// Drops what is at the head and may stay without a reply, where this one, final if it has a code, does not fit it.
    fn drop_unanswered(&mut self, code: Option<Code>) {
        while let Some(&head) = self.entries.front() {
            let fits = code.is_some_and(|code| head.fits(code));
            if !head.is_optional() || fits {
                return;
            }
            self.remove(0);
        }
    }

    fn place_of(&self, wanted: impl Fn(&Expected) -> bool) -> Option<usize> {
        self.entries.iter().position(wanted)
    }

    fn remove(&mut self, place: usize) -> Option<Expected> {
        let entry = match place {
            0 => self.entries.pop_front(),
            _ => self.entries.remove(place),
        };
        let left = self.entries.len();
        if left <= 1 && self.entries.capacity() > KEPT {
            // Memory is there while it is needed: most sessions idle, with a reply perhaps that never comes.
            self.entries.shrink_to(left);
        }
        entry
    }
}

/// Whether a final reply answers STAT, and not the transfer in whose course it comes.
fn is_of_stat(progress: Progress, code: Code) -> bool {
    progress == Progress::Started && matches!(code.number(), 211..=213)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ftp::ReplyReader;
    use crate::ftp::reply::Piece;

    fn code(text: &str) -> Code {
        match ReplyReader::default().next(&mut text.as_bytes(), true) {
            Some(Piece::Begin(code)) => code,
            piece => panic!("{piece:?}"),
        }
    }

    #[test]
    fn memory_of_a_flood_is_given_back_though_a_reply_may_still_come() {
        let mut queue = Queue::default();
        queue.push(Expected::Transfer(Progress::Asked));
        (0..2).for_each(|_| queue.preliminary(code("150 x\r\n")));
        (0..1000).for_each(|_| queue.push(Expected::Local(Local::NoAuth)));
        while queue.next_local().is_some() {}
        assert_eq!(queue.entries, [Expected::Transfer(Progress::Over)]);
        assert!(queue.entries.capacity() <= KEPT);
    }
}
