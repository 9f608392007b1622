//! TLS sessions as OpenSSL writes them, in DER, without the peer's certificate: the greater part of a session, and one
//! that whoever does not verify it has no use for.

use std::ops::Range;

/// Takes the certificate out of a session, if there is one. Returns the length of what is left; bytes behind that are
/// of no meaning, but secret like the others.
pub fn drop_certificate(session: &mut [u8]) -> usize {
    let length = session.len();
    let Some(certificate) = certificate(session) else {
        return length;
    };
    let size = certificate.len();
    session.copy_within(certificate.end.., certificate.start);
    shorten(session, size);
    length - size
}

/// Where a DER element begins, its content, and where it ends: `None` for what is none.
fn element(bytes: &[u8], start: usize) -> Option<(u8, Range<usize>)> {
    let (tag, first) = (*bytes.get(start)?, *bytes.get(start + 1)?);
    let (length, content) = match first {
        ..=0x7f => (usize::from(first), start + 2),
        0x81 => (usize::from(*bytes.get(start + 2)?), start + 3),
        0x82 => {
            let length = [*bytes.get(start + 2)?, *bytes.get(start + 3)?];
            (usize::from(u16::from_be_bytes(length)), start + 4)
        }
        _ => return None,
    };
    let end = content.checked_add(length)?;
    (end <= bytes.len()).then_some((tag, content..end))
}

/// The certificate's place in a session, whose element it is that has the tag 3.
fn certificate(session: &[u8]) -> Option<Range<usize>> {
    const CERTIFICATE: u8 = 0xa3;
    let (_, all) = element(session, 0)?;
    let mut start = all.start;
    while start < all.end {
        let (tag, content) = element(session, start)?;
        if tag == CERTIFICATE {
            return Some(start..content.end);
        }
        start = content.end;
    }
    None
}

/// Makes the outer length that of a session that has lost so many bytes, in as many bytes as it had.
fn shorten(session: &mut [u8], by: usize) {
    match session {
        [_, 0x82, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(by);
            [*high, *low] = (length as u16).to_be_bytes();
        }
        [_, 0x81, length, ..] | [_, length, ..] => *length = length.saturating_sub(by as u8),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element, its length in as many bytes as told behind the first.
    fn der(tag: u8, content: &[u8], more: usize) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        let head: &[u8] = match more {
            0 => &[tag, length[1]],
            1 => &[tag, 0x81, length[1]],
            _ => &[tag, 0x82, length[0], length[1]],
        };
        [head, content].concat()
    }

    fn session(certificate: &[u8], more: usize) -> Vec<u8> {
        let parts = [
            &der(0x02, &[1], 0),
            &der(0x04, &[7; 48], 0),
            &der(0xa1, &[2; 4], 0),
            certificate,
            &der(0xa9, &[9; 20], 0),
        ];
        der(0x30, &parts.concat(), more)
    }

    #[test]
    fn certificate_goes_and_all_else_stays() {
        for (size, inner, outer) in [(20, 0, 0), (100, 0, 1), (140, 1, 1), (900, 2, 2)] {
            let mut bytes = session(&der(0xa3, &vec![3; size], inner), outer);
            let left = drop_certificate(&mut bytes);
            assert_eq!(bytes[..left], session(b"", outer), "{size}");
            // Not again.
            assert_eq!(drop_certificate(&mut bytes[..left]), left);
        }
    }

    #[test]
    fn what_is_no_session_stays_as_it_is() {
        let whole = session(&der(0xa3, &[3; 60], 0), 2);
        for cut in 0..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            assert_eq!(drop_certificate(&mut bytes), cut);
            assert_eq!(bytes, whole[..cut]);
        }
        for bytes in [&[0x30, 0x83, 0, 0, 1, 0][..], &[0x30, 0x80], &[0xa3; 9]] {
            assert_eq!(drop_certificate(&mut bytes.to_vec()), bytes.len());
        }
    }
}
