//! The replies 227 (RFC 959 4.2) and 229 (RFC 2428 3): read as the server writes them, written anew
//! with the proxy's address. The server's own words around the numbers stay.

use std::net::Ipv4Addr;
use std::ops::Range;

use memchr::memrchr;

use super::host_port::{HostPort, find_extended, shows_an_address, write_decimal};

/// The endpoint a server announces, and the line it announced it in.
#[derive(Debug, PartialEq, Eq)]
pub struct PassiveReply<'a> {
    /// The host in a 227; `None` where it is `0.0.0.0` and in a 229.
    pub host: Option<Ipv4Addr>,
    /// The port in host byte order; never 0.
    pub port: u16,
    words: &'a [u8],
    place: Range<usize>,
}

impl<'a> PassiveReply<'a> {
    /// Reads a whole 227 reply, one line or several: the last line with an address counts.
    pub fn parse_227(reply: &'a [u8]) -> Option<Self> {
        last_line(reply, |words| {
            let (found, place) = HostPort::find(words)?;
            Some(Self {
                host: Some(found.host).filter(|host| !host.is_unspecified()),
                port: found.port,
                words,
                place,
            })
        })
    }

    /// Reads a whole 229 reply in the same way.
    pub fn parse_229(reply: &'a [u8]) -> Option<Self> {
        last_line(reply, |words| {
            let (port, place) = find_extended(words)?;
            Some(Self {
                host: None,
                port,
                words,
                place,
            })
        })
    }

    /// One clean 227 line that announces `proxy`, in the server's words.
    pub fn write_227(&self, proxy: HostPort, out: &mut Vec<u8>) {
        let reads_back =
            |line: &[u8]| HostPort::find(line).is_some_and(|(found, _)| found == proxy);
        self.write(b"227 ", out, |out| proxy.write(out), reads_back);
    }

    /// One clean 229 line that announces `port` of the proxy, in the server's words.
    pub fn write_229(&self, port: u16, out: &mut Vec<u8>) {
        let reads_back = |line: &[u8]| find_extended(line).is_some_and(|(found, _)| found == port);
        self.write(b"229 ", out, |out| write_extended(port, out), reads_back);
    }

    /// Writes the server's words around what is announced, or harmless ones where the former tell too much or
    /// something else can be read in them.
    fn write(
        &self,
        code: &[u8],
        out: &mut Vec<u8>,
        announce: impl Fn(&mut Vec<u8>),
        reads_back: impl Fn(&[u8]) -> bool,
    ) {
        let (before, after) = self.around();
        let start = out.len();
        let line = |before: &[u8], after: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(code);
            out.extend_from_slice(before);
            announce(out);
            out.extend_from_slice(after);
            out.extend_from_slice(b"\r\n");
        };
        line(before, after, out);
        if is_plain(before) && is_plain(after) {
            return;
        }
        // A part on each side is an address, too.
        let words = [before, b" ", after].concat();
        let told = shows_an_address(&words) || tells_too_much(&words, self.port);
        if told || !out.get(start..).is_some_and(reads_back) {
            out.truncate(start);
            line(b"Entering Passive Mode ", b"", out);
        }
    }

    /// The words before and after the numbers, without parentheses that enclose these.
    fn around(&self) -> (&'a [u8], &'a [u8]) {
        let before = self.words.get(..self.place.start).unwrap_or_default();
        let after = self.words.get(self.place.end..).unwrap_or_default();
        match (before.strip_suffix(b"("), after.strip_prefix(b")")) {
            (Some(before), Some(after)) => (before, after),
            _ => (before, after),
        }
    }
}

/// A 227 line that announces `proxy`, in our words.
pub fn write_227(proxy: HostPort, out: &mut Vec<u8>) {
    out.extend_from_slice(b"227 Entering Passive Mode ");
    proxy.write(out);
    out.extend_from_slice(b"\r\n");
}

/// A 229 line that announces `port` of the proxy, in our words.
pub fn write_229(port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"229 Entering Extended Passive Mode ");
    write_extended(port, out);
    out.extend_from_slice(b"\r\n");
}

fn write_extended(port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"(|||");
    write_decimal(port, |digit| out.push(digit));
    out.extend_from_slice(b"|)");
}

/// Looks at the lines from the last to the first, without their code and their end.
fn last_line<'a>(
    reply: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Option<PassiveReply<'a>>,
) -> Option<PassiveReply<'a>> {
    let mut rest = reply.strip_suffix(b"\n").unwrap_or(reply);
    loop {
        let start = memrchr(b'\n', rest).map_or(0, |end| end + 1);
        let (before, line) = rest.split_at(start);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(found) = parse(without_code(line)) {
            return Some(found);
        }
        rest = before.strip_suffix(b"\n")?;
    }
}

fn without_code(line: &[u8]) -> &[u8] {
    match line {
        [b'2', b'2', b'7' | b'9', b' ' | b'-', words @ ..] => words,
        [b'2', b'2', b'7' | b'9', words @ ..] => words,
        words => words,
    }
}

/// Words without digits, bars and colons tell nothing; most servers' are such.
fn is_plain(words: &[u8]) -> bool {
    // All at once, without a branch for each byte.
    words.iter().fold(true, |plain, byte| {
        plain & matches!(byte, b' '..=b'/' | b';'..=b'{' | b'}' | b'~')
    })
}

/// Words that may name an address or the port once more, in whatever form, or that clients may read in
/// more than one way.
fn tells_too_much(words: &[u8], port: u16) -> bool {
    let mut numbers = words
        .split(|byte| !byte.is_ascii_digit())
        .filter(|number| !number.is_empty());
    words
        .iter()
        .any(|byte| byte.is_ascii_control() || *byte == 0xff)
        || words.windows(2).any(|pair| matches!(pair, b"::" | b"||"))
        || numbers.clone().count() > 3
        || numbers.any(|number| number.len() > 5 || value(number) == u32::from(port))
}

/// The value of five digits at most.
fn value(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, digit| {
        value * 10 + u32::from(digit.wrapping_sub(b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(reply: &str) -> Option<String> {
        let proxy = HostPort {
            host: Ipv4Addr::new(203, 0, 113, 5),
            port: 10000,
        };
        let parsed = PassiveReply::parse_227(reply.as_bytes())?;
        let mut out = Vec::new();
        parsed.write_227(proxy, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn words_of_the_server_stay() {
        for (reply, expected) in [
            (
                "227 Entering Passive Mode (10,0,0,5,195,80).\r\n",
                "227 Entering Passive Mode (203,0,113,5,39,16).\r\n",
            ),
            (
                "227 Entering Passive Mode. 10,0,0,5,195,80\r\n",
                "227 Entering Passive Mode. (203,0,113,5,39,16)\r\n",
            ),
            ("227 =10,0,0,5,195,80\n", "227 =(203,0,113,5,39,16)\r\n"),
            (
                "227 Passive (10.0.0.5.195.80)\r\n",
                "227 Passive (203,0,113,5,39,16)\r\n",
            ),
        ] {
            assert_eq!(rewritten(reply).as_deref(), Some(expected));
        }
    }

    #[test]
    fn several_lines_become_one() {
        for reply in [
            "227-Hello\r\n 227 x\r\n227 Passive (10,0,0,5,195,80)\r\n",
            "227-Passive (10,0,0,5,195,80)\r\n227 End\r\n",
        ] {
            assert_eq!(
                rewritten(reply).as_deref(),
                Some("227 Passive (203,0,113,5,39,16)\r\n")
            );
        }
    }

    #[test]
    fn words_that_give_the_address_away_are_replaced() {
        for reply in [
            "227 Passive on 10.0.0.5 (10,0,0,5,195,80)\r\n",
            "227 Passive (10,0,0,5,195,80) port 50000\r\n",
            "227 (+127,+0,+0,+9,+120,+57) (10,0,0,5,195,80)\r\n",
            "227 10-0-0-5 (10,0,0,5,195,80)\r\n",
            "227 0x0a000005 or fd00::5 (10,0,0,5,195,80)\r\n",
            "227 \x1b[1mPassive (10,0,0,5,195,80)\r\n",
            "227 (|||70000|) (10,0,0,5,195,80)\r\n",
            "227 Passive 10,0,0 (10,0,0,5,195,80) ,5,195\r\n",
        ] {
            assert_eq!(
                rewritten(reply).as_deref(),
                Some("227 Entering Passive Mode (203,0,113,5,39,16)\r\n")
            );
        }
    }

    #[test]
    fn unspecified_host_is_none() {
        let reply = PassiveReply::parse_227(b"227 x (0,0,0,0,195,80)\r\n").unwrap();
        assert_eq!((reply.host, reply.port), (None, 50000));
    }

    #[test]
    fn extended_reply_keeps_its_words() {
        let reply = PassiveReply::parse_229(b"229 Extended (|1|10.0.0.5|6446|) ok\r\n").unwrap();
        let mut out = Vec::new();
        reply.write_229(10001, &mut out);
        assert_eq!(out, b"229 Extended (|||10001|) ok\r\n");
    }

    #[test]
    fn extended_reply_can_be_read_in_one_way() {
        let reply = PassiveReply::parse_229(b"229 x (1,2,3,,199,2300,5,5,6)\r\n").unwrap();
        let mut out = Vec::new();
        reply.write_229(10001, &mut out);
        assert_eq!(out, b"229 Entering Passive Mode (|||10001|)\r\n");
        let reply = PassiveReply::parse_229(b"229 Node 2 (|||6446|), 3 left\r\n").unwrap();
        out.clear();
        reply.write_229(10001, &mut out);
        assert_eq!(out, b"229 Node 2 (|||10001|), 3 left\r\n");
    }

    #[test]
    fn own_words_are_read_back() {
        let proxy = HostPort {
            host: Ipv4Addr::new(203, 0, 113, 5),
            port: 10000,
        };
        let mut out = Vec::new();
        write_227(proxy, &mut out);
        assert_eq!(out, b"227 Entering Passive Mode (203,0,113,5,39,16)\r\n");
        assert_eq!(PassiveReply::parse_227(&out).unwrap().port, 10000);
        out.clear();
        write_229(10000, &mut out);
        assert_eq!(out, b"229 Entering Extended Passive Mode (|||10000|)\r\n");
        assert_eq!(PassiveReply::parse_229(&out).unwrap().port, 10000);
    }

    #[test]
    fn rewriting_is_idempotent() {
        let once = rewritten("227 Passive (10,0,0,5,195,80)!\r\n").unwrap();
        assert_eq!(rewritten(&once).as_deref(), Some(once.as_str()));
    }
}
