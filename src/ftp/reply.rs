//! Replies of the server-PI as a stream (RFC 959 4.2): where one begins and ends, and its code. Text
//! is not collected here: what needs holding back is the reader's first four bytes and no more.
//!
//! ```text
//!            3 digits, no '-'            LF
//!   (start) ----------------> Begin ... ----> End ----> (start)
//!      |     3 digits, '-'               LF      same code, no '-'       LF
//!      |---------------------> Begin ... ----> (inside) ----------> ... ----> End
//!      '-- anything else: text of no reply, passed on
//! ```

use memchr::memchr;

/// The three digits of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code([u8; 3]);

impl Code {
    /// The code a line begins with: its first digit is 1 to 6.
    fn of_line(head: &[u8]) -> Option<Self> {
        match *head {
            [a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => Some(Self([a, b, c])),
            _ => None,
        }
    }

    /// The code as a number, 100..=699.
    pub fn number(self) -> u16 {
        let digit = |byte: u8| u16::from(byte.wrapping_sub(b'0'));
        let [a, b, c] = self.0;
        digit(a) * 100 + digit(b) * 10 + digit(c)
    }

    /// 1yz: another reply to the same command follows.
    pub fn is_preliminary(self) -> bool {
        matches!(self.0, [b'1', ..])
    }

    /// 227 or 229: never passed on as it is.
    pub fn is_passive(self) -> bool {
        matches!(&self.0, b"227" | b"229")
    }
}

/// A piece of the stream, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A reply begins; its text follows.
    Begin(Code),
    /// Bytes of the current reply, or of none; ends with LF where the line ends.
    Text(Text<'a>),
    /// The reply's last line has ended.
    End(Code),
}

/// Bytes as they came: out of the input, or the few kept back from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// From the input.
    Input(&'a [u8]),
    /// From the start of the line: bytes, and which of them.
    Head([u8; 4], u8, u8),
}

impl Text<'_> {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Input(bytes) => bytes,
            Self::Head(head, from, to) => head
                .get(usize::from(*from)..usize::from(*to))
                .unwrap_or_default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Within the first four bytes of a line.
    #[default]
    Head,
    /// They are complete: a reply may begin.
    Begin,
    /// Those of them that were kept back go out.
    Flush,
    /// The rest of the line.
    Rest,
    /// The line has ended, and a reply perhaps.
    End,
}

/// Splits a server's bytes into [`Piece`]s.
#[derive(Debug, Default)]
pub struct ReplyReader {
    head: [u8; 4],
    len: u8,
    told: u8,
    phase: Phase,
    /// The code of the reply that the current line belongs to.
    reply: Option<Code>,
    /// The current line is the last one of its reply.
    last: bool,
}

impl ReplyReader {
    /// The next piece off the front of `input`, `None` when more input is needed.
    ///
    /// Bytes at the start of a reply are kept back while they may become 227 or 229; with
    /// `withhold` always until the code is known.
    pub fn next<'a>(&mut self, input: &mut &'a [u8], withhold: bool) -> Option<Piece<'a>> {
        loop {
            match self.phase {
                Phase::Head => {
                    let peeked = self.peek_head(input);
                    if peeked || self.read_head(input) {
                        self.phase = match peeked {
                            true => Phase::Rest,
                            false => Phase::Begin,
                        };
                        if let Some(code) = self.classify() {
                            return Some(Piece::Begin(code));
                        }
                    } else if self.may_go(withhold) {
                        return self.flush();
                    } else {
                        return None;
                    }
                }
                Phase::Begin => self.phase = Phase::Flush,
                Phase::Flush => {
                    self.phase = match self.line_is_short() {
                        true => Phase::End,
                        false => Phase::Rest,
                    };
                    if let Some(text) = self.flush() {
                        return Some(text);
                    }
                }
                Phase::Rest => {
                    let end = memchr(b'\n', input);
                    let (text, tail) = input.split_at(end.map_or(input.len(), |end| end + 1));
                    if text.is_empty() {
                        return None;
                    }
                    *input = tail;
                    if end.is_some() {
                        self.phase = Phase::End;
                    }
                    return Some(Piece::Text(Text::Input(text)));
                }
                Phase::End => {
                    (self.phase, self.len, self.told) = (Phase::Head, 0, 0);
                    if self.last {
                        self.last = false;
                        return self.reply.take().map(Piece::End);
                    }
                }
            }
        }
    }

    /// Whether bytes of a reply are out and its end is not: nothing may come between.
    pub fn is_within_reply(&self) -> bool {
        self.reply.is_some() || self.phase != Phase::Head || self.told > 0
    }

    /// Whether the text that comes belongs to a reply.
    pub fn is_in_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether the current line is the last one of its reply.
    pub fn is_in_last_line(&self) -> bool {
        self.last
    }

    /// The bytes kept back of a line that will never end, unless they may belong to a 227 or 229.
    pub fn rest(&mut self) -> Option<Piece<'static>> {
        match Code::of_line(self.known()) {
            Some(code) if code.is_passive() => None,
            _ => self.flush(),
        }
    }

    fn known(&self) -> &[u8] {
        self.head.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn line_is_short(&self) -> bool {
        self.known().ends_with(b"\n")
    }

    /// Fills the head where the input has all of it, most often: then nothing of it need be kept back, and it goes
    /// out with the rest of the line.
    fn peek_head(&mut self, input: &[u8]) -> bool {
        match input.first_chunk() {
            Some(head) if self.len == 0 && !head.contains(&b'\n') => {
                (self.head, self.len, self.told) = (*head, 4, 4);
                true
            }
            _ => false,
        }
    }

    /// Fills the head; whether it is complete.
    fn read_head(&mut self, input: &mut &[u8]) -> bool {
        while !self.line_is_short() {
            let Some(place) = self.head.get_mut(usize::from(self.len)) else {
                return true;
            };
            let Some((&byte, rest)) = input.split_first() else {
                return false;
            };
            (*place, *input) = (byte, rest);
            self.len += 1;
        }
        true
    }

    /// What the line is. Returns the code where a reply begins with it.
    fn classify(&mut self) -> Option<Code> {
        let code = Code::of_line(self.known());
        let more = self.head.get(3) == Some(&b'-') && self.len == 4;
        match self.reply {
            None => {
                self.reply = code;
                self.last = code.is_some() && !more;
                code
            }
            Some(open) => {
                // Clients differ in what they want behind the code; too early an end is the safe mistake.
                self.last = code == Some(open) && !more;
                None
            }
        }
    }

    fn may_go(&self, withhold: bool) -> bool {
        let passive = matches!(self.known(), b"" | b"2" | b"22" | b"227" | b"229");
        self.told < self.len && (self.reply.is_some() || !(withhold || passive))
    }

    fn flush(&mut self) -> Option<Piece<'static>> {
        let text = Text::Head(self.head, self.told, self.len);
        let some = self.told < self.len;
        self.told = self.len;
        some.then_some(Piece::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces as text: `<220`, the bytes, `220>`.
    fn read(segments: &[&[u8]], withhold: bool) -> Vec<String> {
        let mut reader = ReplyReader::default();
        let mut out: Vec<String> = Vec::new();
        for mut segment in segments.iter().copied() {
            while let Some(piece) = reader.next(&mut segment, withhold) {
                out.push(match piece {
                    Piece::Begin(code) => format!("<{}", code.number()),
                    Piece::End(code) => format!("{}>", code.number()),
                    Piece::Text(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
                });
            }
        }
        out
    }

    fn joined(segments: &[&[u8]]) -> String {
        read(segments, true).concat()
    }

    #[test]
    fn replies_begin_and_end() {
        assert_eq!(joined(&[b"220 Hi\r\n"]), "<220220 Hi\r\n220>");
        assert_eq!(joined(&[b"200\n221 x\n"]), "<200200\n200><221221 x\n221>");
        assert_eq!(
            joined(&[b"226-a\r\nb\r\n226\r\n"]),
            "<226226-a\r\nb\r\n226\r\n226>"
        );
    }

    #[test]
    fn line_that_comes_whole_goes_whole() {
        assert_eq!(read(&[b"220 Hi\r\n"], true), ["<220", "220 Hi\r\n", "220>"]);
        assert_eq!(
            read(&[b"220 ", b"Hi\n"], true),
            ["<220", "220 ", "Hi\n", "220>"]
        );
        assert_eq!(
            read(&[b"22", b"0 Hi\n"], true),
            ["<220", "220 ", "Hi\n", "220>"]
        );
    }

    #[test]
    fn lines_inside_a_reply_begin_none() {
        let reply = b"230-Hi\r\n227 Entering (1,2,3,4,5,6)\r\n\r\n230-x\r\n230 ok\r\n";
        let expected = format!("<230{}230>", String::from_utf8_lossy(reply));
        assert_eq!(joined(&[reply]), expected);
    }

    #[test]
    fn split_anywhere_it_is_the_same() {
        let stream = b"220-a\r\n\r\n 220 b\r\n220 c\r\n2\r\njunk\r\n227-x\n227\n150 y\r\n226 z\r\n";
        let whole = joined(&[stream]);
        for at in 0..stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(joined(&[head, tail]), whole, "split at {at}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(joined(&bytes), whole);
    }

    #[test]
    fn what_cannot_be_passive_is_not_kept_back() {
        assert_eq!(read(&[b"3"], false), ["3"]);
        assert_eq!(read(&[b"22"], false), [""; 0]);
        assert_eq!(read(&[b"226"], false), ["226"]);
        assert_eq!(read(&[b"227"], false), [""; 0]);
        assert_eq!(read(&[b"230-a\n2"], false).last().unwrap(), "2");
        assert_eq!(read(&[b"3"], true), [""; 0]);
    }

    #[test]
    fn anything_behind_227_is_still_a_227() {
        assert_eq!(joined(&[b"2271 x\n"]), "<2272271 x\n227>");
    }
}
