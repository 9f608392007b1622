//! A short byte string without allocation, for what a reservation says in a log.

use std::fmt;

/// At most `N` bytes; what is longer is cut, not refused. Any byte may occur.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The first `N` bytes of `from`.
    pub fn new(from: &[u8]) -> Self {
        Self::collect(from.iter().copied())
    }

    /// The first `N` bytes of `from`.
    pub(super) fn collect(from: impl Iterator<Item = u8>) -> Self {
        let mut text = Self {
            len: 0,
            bytes: [0; N],
        };
        for (place, byte) in text.bytes.iter_mut().zip(from) {
            *place = byte;
            text.len += 1;
        }
        text
    }

    /// The bytes, at most `N`.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_its_bound() {
        assert_eq!(Text::<8>::new(b"").as_bytes(), b"");
        assert_eq!(Text::<8>::new(b"12345678").as_bytes(), b"12345678");
        assert_eq!(Text::<8>::new(b"123456789").as_bytes(), b"12345678");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_and_shown_escaped() {
        let text = Text::<8>::new(b"\0\xff\"");
        assert_eq!(text.as_bytes(), b"\0\xff\"");
        assert_eq!(format!("{text:?}"), r#""\x00\xff\"""#);
    }
}
