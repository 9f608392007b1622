//! Command lines out of a byte stream: a line ends with LF, with or without CR before it
//! (RFC 959 4.1.2.1 wants CRLF; clients exist that send LF). It reads no command.

use std::borrow::Cow;

use memchr::memchr;

/// The longest command line in bytes, its end included. Paths are at most 4,096 on Linux, and
/// twice that in escaped or encoded form.
pub const MAX_LINE: usize = 8192;

/// Assembles lines; holds memory only while a line is incomplete.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line with its end.
    Whole(Cow<'a, [u8]>),
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The input ended within a line.
    Incomplete,
}

impl Lines {
    /// Takes one line off the front of `input`.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Line<'a> {
        let end = memchr(b'\n', input);
        let (head, tail) = input.split_at(end.map_or(input.len(), |end| end + 1));
        if self.partial.len().saturating_add(head.len()) > MAX_LINE {
            return Line::TooLong;
        }
        *input = tail;
        match (end, self.partial.is_empty()) {
            (Some(_), true) => Line::Whole(Cow::Borrowed(head)),
            (Some(_), false) => {
                self.partial.extend_from_slice(head);
                Line::Whole(Cow::Owned(self.rest()))
            }
            (None, _) => {
                self.partial.extend_from_slice(head);
                Line::Incomplete
            }
        }
    }

    /// The bytes of a line that will never end, at the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Line::Whole(line) = lines.next(&mut piece) {
                found.push(line.to_vec());
            }
        }
        found
    }

    #[test]
    fn bare_lf_ends_a_line() {
        let expected = [b"PASV\n".to_vec(), b"LIST\r\n".to_vec()];
        assert_eq!(lines(&[b"PASV\nLIST\r\n"]), expected);
        assert_eq!(lines(&[b"PA", b"SV\nLI", b"ST\r", b"\n"]), expected);
    }

    #[test]
    fn longest_line_is_a_line_and_one_byte_more_is_too_long() {
        let mut text = vec![b'x'; MAX_LINE - 1];
        text.push(b'\n');
        assert_eq!(lines(&[&text]), [text.clone()]);
        text.insert(0, b'x');
        assert_eq!(Lines::default().next(&mut text.as_slice()), Line::TooLong);
    }

    #[test]
    fn no_memory_is_kept_between_lines() {
        let mut lines = Lines::default();
        lines.next(&mut b"NO".as_slice());
        lines.next(&mut b"OP\n".as_slice());
        assert_eq!(lines.partial.capacity(), 0);
    }
}
