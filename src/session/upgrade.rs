//! AUTH TLS toward the server (RFC 4217 4), before the session with the client begins: greeting, AUTH, 234.
//!
//! ```text
//!            2yz: Ask            234: Secure
//!  (greeting) -------> (asked) ------------->
//!      | 4yz, 5yz        | any other final reply
//!      | bytes behind    | bytes behind 234: they would count as the server's in TLS (CVE-2021-22947)
//!      v                 v
//!    Refusal           Refusal
//! ```
//!
//! The greeting is kept, for the client, as the server has sent it.

use crate::ftp::ReplyReader;
use crate::ftp::reply::Piece;

/// Bytes of a greeting, and of the reply to AUTH, at most.
pub const MAX_GREETING: usize = 16_384;

/// The command that [`Step::Ask`] asks for.
pub const AUTH_TLS: &[u8] = b"AUTH TLS\r\n";

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more.
    Read,
    /// Send [`AUTH_TLS`], and read more.
    Ask,
    /// Begin the handshake.
    Secure,
}

/// Why there will be no TLS; all are the server's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The greeting is a 4yz or 5yz.
    #[error("server refused the session with {0}")]
    Session(u16),
    /// AUTH got another reply than 234.
    #[error("server refused \"AUTH TLS\" with {0}")]
    Auth(u16),
    /// Something follows the greeting, or the 234, that cannot be meant for us.
    #[error("server sent more than a reply before TLS")]
    Ahead,
    /// A line without a code where a reply should begin.
    #[error("server sent no FTP reply before TLS")]
    NoReply,
    /// More than [`MAX_GREETING`].
    #[error("server sent too long reply before TLS")]
    TooLong,
}

/// One attempt with one server.
#[derive(Debug, Default)]
pub struct Upgrade {
    reader: ReplyReader,
    within: bool,
    asked: bool,
    received: usize,
    greeting: Vec<u8>,
}

impl Upgrade {
    /// The greeting, preliminary replies before it included.
    pub fn into_greeting(self) -> Vec<u8> {
        self.greeting
    }

    /// Takes bytes of the server. After [`Step::Secure`] or an error it is not to be used again.
    pub fn from_server(&mut self, input: &[u8]) -> Result<Step, Refusal> {
        self.received = self.received.saturating_add(input.len());
        if self.received > MAX_GREETING {
            return Err(Refusal::TooLong);
        }
        if !self.asked {
            self.greeting.extend_from_slice(input);
        }
        let mut rest = input;
        while let Some(piece) = self.reader.next(&mut rest, true) {
            let code = match piece {
                Piece::Begin(_) => {
                    self.within = true;
                    continue;
                }
                Piece::Text(_) if self.within => continue,
                Piece::Text(_) => return Err(Refusal::NoReply),
                Piece::End(code) => code,
            };
            self.within = false;
            let number = code.number();
            let step = match (self.asked, number) {
                (_, ..200) => continue,
                (false, 200..300) => Step::Ask,
                (false, _) => return Err(Refusal::Session(number)),
                (true, 234) => Step::Secure,
                (true, _) => return Err(Refusal::Auth(number)),
            };
            if !rest.is_empty() {
                return Err(Refusal::Ahead);
            }
            self.asked = true;
            return Ok(step);
        }
        Ok(Step::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All steps but [`Step::Read`], the input cut as told.
    fn steps(input: &[&[u8]]) -> (Vec<Step>, Result<Vec<u8>, Refusal>) {
        let (mut upgrade, mut steps) = (Upgrade::default(), Vec::new());
        for piece in input {
            match upgrade.from_server(piece) {
                Ok(Step::Read) => {}
                Ok(step) => steps.push(step),
                Err(refusal) => return (steps, Err(refusal)),
            }
        }
        (steps, Ok(upgrade.into_greeting()))
    }

    fn bytewise(greeting: &[u8], answer: &[u8]) -> (Vec<Step>, Result<Vec<u8>, Refusal>) {
        let pieces: Vec<&[u8]> = greeting.chunks(1).chain(answer.chunks(1)).collect();
        steps(&pieces)
    }

    #[test]
    fn greeting_is_kept_as_it_came() {
        let greetings: [&[u8]; 5] = [
            b"220 ready\r\n",
            b"220-Hello\r\n 220 you\r\nany text\r\n220 go\r\n",
            b"120 wait\r\n220 ready\n",
            b"230 already\r\n",
            b"220\r\n",
        ];
        for greeting in greetings {
            let answers: [&[u8]; 3] = [
                b"234 go\r\n",
                b"234-go\r\n234 on\r\n",
                b"150 so\r\n234 x\r\n",
            ];
            for answer in answers {
                let told = (vec![Step::Ask, Step::Secure], Ok(greeting.to_vec()));
                assert_eq!(steps(&[greeting, answer]), told);
                assert_eq!(bytewise(greeting, answer), told);
            }
        }
    }

    #[test]
    fn server_that_sends_no_greeting_is_refused() {
        for (bytes, refusal) in [
            (&b"421 full\r\n"[..], Refusal::Session(421)),
            (b"120 wait\r\n530 no\r\n", Refusal::Session(530)),
            (b"SSH-2.0-x\r\n", Refusal::NoReply),
            (b"\r\n220 x\r\n", Refusal::NoReply),
            (b"331 x\r\n", Refusal::Session(331)),
        ] {
            assert_eq!(steps(&[bytes]), (vec![], Err(refusal)));
            assert_eq!(bytewise(bytes, b""), (vec![], Err(refusal)));
        }
    }

    #[test]
    fn refused_auth_is_told_with_its_code() {
        for code in [200, 334, 431, 500, 502, 504, 534] {
            let answer = format!("{code} no\r\n");
            let told = (vec![Step::Ask], Err(Refusal::Auth(code)));
            assert_eq!(bytewise(b"220 x\r\n", answer.as_bytes()), told);
        }
    }

    #[test]
    fn bytes_ahead_of_their_turn_end_it() {
        for input in [&[&b"220 x\r\n234 ok\r\n"[..]][..], &[b"220 x\r\n2"]] {
            assert_eq!(steps(input), (vec![], Err(Refusal::Ahead)));
        }
        for answer in [&b"234 ok\r\n220 fake\r\n"[..], b"234 ok\r\n\x16"] {
            let told = (vec![Step::Ask], Err(Refusal::Ahead));
            assert_eq!(steps(&[b"220 x\r\n", answer]), told);
        }
    }

    #[test]
    fn endless_replies_are_cut_off() {
        let lines = b"220-more\r\n".repeat(MAX_GREETING);
        assert_eq!(steps(&[&lines]), (vec![], Err(Refusal::TooLong)));
        let pieces: Vec<&[u8]> = lines.chunks(512).collect();
        assert_eq!(steps(&pieces), (vec![], Err(Refusal::TooLong)));
        let early: Vec<&[u8]> = std::iter::repeat_n(&b"120 wait\r\n"[..], MAX_GREETING).collect();
        assert_eq!(steps(&early), (vec![], Err(Refusal::TooLong)));
    }
}
