//! Addresses as FTP writes them: the host-port of PORT and 227 (RFC 959 5.3.2) and the
//! delimited form of EPRT and 229 (RFC 2428). It decides on no address: it only reads and writes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::take_till1;
use nom::character::complete::{char, digit0, digit1, space0};
use nom::combinator::{all_consuming, map};
use nom::error::Error;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

/// An IPv4 address and a port, `h1,h2,h3,h4,p1,p2` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host; `0.0.0.0` where a server does not say.
    pub host: Ipv4Addr,
    /// The port in host byte order; never 0.
    pub port: u16,
}

impl From<HostPort> for SocketAddr {
    fn from(host_port: HostPort) -> Self {
        Self::from((host_port.host, host_port.port))
    }
}

/// What is wrong with the argument of PORT or EPRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Not of the grammar, a number out of range, or port 0: answered 501.
    #[error("malformed address")]
    Malformed,
    /// EPRT names a protocol that RFC 2428 does not know: answered 522.
    #[error("unknown network protocol")]
    UnknownProtocol,
}

impl HostPort {
    /// Reads the whole argument of PORT. No partial parse: a byte too much is an error.
    pub fn parse(argument: &[u8]) -> Result<Self, BadAddress> {
        let run = all_consuming(delimited(space0, run_of(','), space0)).parse(argument);
        run.ok()
            .and_then(|(_, run)| run.host_port())
            .ok_or(BadAddress::Malformed)
    }

    /// The first run of exactly six valid numbers in the text of a reply, and where it stands.
    ///
    /// Separators are commas, or dots throughout (seen in the wild), with blanks around them.
    /// Port 0 is not valid.
    pub fn find(text: &[u8]) -> Option<(Self, Range<usize>)> {
        runs(text).find_map(|(run, place)| run.host_port().map(|found| (found, place)))
    }
}

impl HostPort {
    /// Writes `(h1,h2,h3,h4,p1,p2)`: the form that every client and firewall understands.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'(');
        self.write_numbers(out);
        out.push(b')');
    }

    /// Writes `h1,h2,h3,h4,p1,p2`.
    fn write_numbers(&self, out: &mut Vec<u8>) {
        let [h1, h2, h3, h4] = self.host.octets();
        let [p1, p2] = self.port.to_be_bytes();
        for (place, number) in [h1, h2, h3, h4, p1, p2].into_iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_decimal(number.into(), |digit| out.push(digit));
        }
    }
}

/// Writes the command that tells `address`: PORT for IPv4, which every server understands, EPRT for IPv6, which
/// PORT cannot name (RFC 2428 2). A zone id is nobody's but ours and not written.
pub fn write_active(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V4(host) => {
            let port = address.port();
            out.extend_from_slice(b"PORT ");
            HostPort { host, port }.write_numbers(out);
        }
        IpAddr::V6(host) => {
            out.extend_from_slice(b"EPRT |2|");
            out.extend_from_slice(host.to_string().as_bytes());
            out.push(b'|');
            write_decimal(address.port(), |digit| out.push(digit));
            out.push(b'|');
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A number as FTP writes them. By hand, for it is done for every transfer.
pub fn write_decimal(number: u16, mut write: impl FnMut(u8)) {
    for divisor in [10_000, 1000, 100, 10] {
        if number >= divisor {
            write(b'0' + (number / divisor % 10) as u8);
        }
    }
    write(b'0' + (number % 10) as u8);
}

/// Whether four or more numbers stand in a row anywhere: an address, whoever's it is.
pub fn shows_an_address(text: &[u8]) -> bool {
    runs(text).any(|(run, _)| run.count >= 4)
}

/// As [`shows_an_address`], or so many colons that it may be one of IPv6. A time of day is none.
pub fn names_an_address(text: &[u8]) -> bool {
    let colons = text.iter().filter(|byte| **byte == b':').count();
    shows_an_address(text) || colons > 2 || text.windows(2).any(|pair| pair == b"::")
}

/// Reads the argument of EPRT, `|1|132.235.1.2|6275|`: any delimiter of 33..126 (RFC 2428 2).
pub fn parse_eprt(argument: &[u8]) -> Result<SocketAddr, BadAddress> {
    let fields = delimited_fields(argument.trim_ascii()).ok_or(BadAddress::Malformed)?;
    if !fields.rest.is_empty() {
        return Err(BadAddress::Malformed);
    }
    let port = port_of(fields.port).ok_or(BadAddress::Malformed)?;
    let address = str::from_utf8(fields.address).map_err(|_| BadAddress::Malformed)?;
    let ip: IpAddr = match fields.protocol {
        b"1" => address.parse::<Ipv4Addr>().map(Into::into),
        b"2" => address.parse::<Ipv6Addr>().map(Into::into),
        _ => return Err(BadAddress::UnknownProtocol),
    }
    .map_err(|_| BadAddress::Malformed)?;
    Ok(SocketAddr::new(ip, port))
}

/// The first `<d><d><d>port<d>` in the text of a 229 and where it stands. Fields between the first
/// three delimiters are accepted and not read: RFC 2428 3 has them empty.
pub fn find_extended(text: &[u8]) -> Option<(u16, Range<usize>)> {
    (0..text.len()).find_map(|start| {
        let here = text.get(start..)?;
        let fields = delimited_fields(here)?;
        let known_protocol = matches!(fields.protocol, b"" | b"1" | b"2");
        let port = port_of(fields.port).filter(|_| known_protocol)?;
        Some((port, start..text.len() - fields.rest.len()))
    })
}

/// Four equal delimiters and what stands between them.
struct Fields<'a> {
    protocol: &'a [u8],
    address: &'a [u8],
    port: &'a [u8],
    rest: &'a [u8],
}

fn delimited_fields(input: &[u8]) -> Option<Fields<'_>> {
    let delimiter = *input.first()?;
    if !matches!(delimiter, 33..=126) || delimiter.is_ascii_digit() {
        return None;
    }
    let bar = || char::<&[u8], Error<&[u8]>>(char::from(delimiter));
    let text = take_till1(|byte| byte == delimiter || matches!(byte, b'\r' | b'\n'));
    let (rest, (protocol, address, port)) = (
        preceded(bar(), digit0),
        preceded(bar(), alt((text, digit0))),
        delimited(bar(), digit1, bar()),
    )
        .parse(input)
        .ok()?;
    Some(Fields {
        protocol,
        address,
        port,
        rest,
    })
}

/// A decimal of 1..=65535; the length is bounded before it is read.
fn port_of(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 {
        return None;
    }
    let port = str::from_utf8(digits).ok()?.parse().ok()?;
    (port != 0).then_some(port)
}

/// Numbers in a row with one kind of separator.
#[derive(Default)]
struct Run {
    octets: [u8; 6],
    count: usize,
    overflow: bool,
}

impl Run {
    fn push(&mut self, number: Option<u8>) {
        match (self.octets.get_mut(self.count), number) {
            (Some(place), Some(octet)) => *place = octet,
            _ => self.overflow = true,
        }
        self.count = self.count.saturating_add(1);
    }

    fn host_port(&self) -> Option<HostPort> {
        let [h1, h2, h3, h4, p1, p2] = self.octets;
        let port = u16::from_be_bytes([p1, p2]);
        (self.count == 6 && !self.overflow && port != 0).then(|| HostPort {
            host: Ipv4Addr::new(h1, h2, h3, h4),
            port,
        })
    }
}

/// Every maximal run of the text, left to right, so that six numbers inside seven never count.
fn runs(text: &[u8]) -> impl Iterator<Item = (Run, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let skipped = text.get(at..)?.iter().position(u8::is_ascii_digit)?;
        let start = at + skipped;
        let here = text.get(start..)?;
        let (rest, run) = match run_of(',').parse(here) {
            Ok((_, Run { count: 1, .. })) => run_of('.').parse(here).ok()?,
            other => other.ok()?,
        };
        at = text.len() - rest.len();
        Some((run, start..at))
    })
}

fn run_of<'a>(separator: char) -> impl Parser<&'a [u8], Output = Run, Error = Error<&'a [u8]>> {
    move |input: &'a [u8]| {
        let mut run = Run::default();
        let (mut rest, first) = number(input)?;
        run.push(first);
        let comma = delimited(space0, char(separator), space0);
        let mut next = preceded(comma, number);
        while let Ok((after, number)) = next.parse(rest) {
            run.push(number);
            rest = after;
        }
        Ok((rest, run))
    }
}

/// A decimal number; `None` where it is no octet.
fn number(input: &[u8]) -> IResult<&[u8], Option<u8>> {
    map(digit1, octet).parse(input)
}

fn octet(digits: &[u8]) -> Option<u8> {
    let [hundreds, tens, ones] = match *digits {
        [c] => [b'0', b'0', c],
        [b, c] => [b'0', b, c],
        [a, b, c] => [a, b, c],
        _ => return None,
    };
    let value = |digit: u8| u16::from(digit.wrapping_sub(b'0'));
    let number = value(hundreds) * 100 + value(tens) * 10 + value(ones);
    number.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<String> {
        let (host_port, _) = HostPort::find(text.as_bytes())?;
        let mut out = Vec::new();
        host_port.write(&mut out);
        String::from_utf8(out).ok()
    }

    #[test]
    fn numbers_are_found_with_and_without_parentheses() {
        for text in [
            "Entering Passive Mode (10,0,0,5,195,80).",
            "Entering Passive Mode. 10,0,0,5,195,80",
            "Data transfer will passively listen to 10,0,0,5,195,80",
            "=10,0,0,5,195,80",
            "Passive (10.0.0.5.195.80)",
            "Passzivm\u{f3}d 2 (10, 0, 0, 5, 195, 80)",
            "256,1,1,1,1,1 but (10,0,0,5,195,80)",
        ] {
            assert_eq!(found(text).as_deref(), Some("(10,0,0,5,195,80)"), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in (0..=u16::MAX).step_by(7).chain([9, 10, 99, 100, 65535]) {
            let mut out = Vec::new();
            write_decimal(number, |digit| out.push(digit));
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn wrong_numbers_are_no_address() {
        let long = format!("({},0,0,5,195,80)", "1".repeat(400));
        for text in [
            "(256,0,0,5,195,80)",
            "(10,0,0,5,256,80)",
            "(10,0,0,5,0,0)",
            "(10,0,0,5,195)",
            "(1,10,0,0,5,195,80)",
            "(10,0,0,5,195,80,1)",
            long.as_str(),
            "",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn port_argument_is_read_whole_or_not_at_all() {
        assert_eq!(
            HostPort::parse(b"10,0,0,9,4,1").map(|host_port| host_port.port),
            Ok(1025)
        );
        for argument in ["10,0,0,9,256,22", "10,0,0,9,124,22_", "10,0,0,9,124", "x"] {
            assert_eq!(
                HostPort::parse(argument.as_bytes()),
                Err(BadAddress::Malformed),
                "{argument}"
            );
        }
    }

    #[test]
    fn eprt_takes_any_delimiter() {
        assert_eq!(
            parse_eprt(b"|2|1080::8:800:200C:417A|5282|"),
            Ok("[1080::8:800:200C:417A]:5282".parse().unwrap())
        );
        assert_eq!(parse_eprt(b"!2!::1!80!"), Ok("[::1]:80".parse().unwrap()));
        assert_eq!(
            parse_eprt(b"|1|132.235.1.2|6275|"),
            Ok("132.235.1.2:6275".parse().unwrap())
        );
        assert_eq!(parse_eprt(b"|3|x|6275|"), Err(BadAddress::UnknownProtocol));
        for argument in ["|1|::1|80|", "|1|1.2.3.4|0|", "|1|1.2.3.4|80", "||||", ""] {
            assert_eq!(
                parse_eprt(argument.as_bytes()),
                Err(BadAddress::Malformed),
                "{argument}"
            );
        }
    }

    #[test]
    fn active_commands_are_written_as_they_are_read() {
        for (address, command) in [
            ("10.0.0.9:1025", "PORT 10,0,0,9,4,1\r\n"),
            ("[::ffff:255.0.0.1]:65535", "PORT 255,0,0,1,255,255\r\n"),
            ("[2001:db8::1%3]:40000", "EPRT |2|2001:db8::1|40000|\r\n"),
        ] {
            let mut out = Vec::new();
            write_active(address.parse().unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), command);
        }
        let mut out = Vec::new();
        write_active("[::1]:80".parse().unwrap(), &mut out);
        let argument = out.strip_prefix(b"EPRT ").unwrap();
        assert_eq!(parse_eprt(argument), Ok("[::1]:80".parse().unwrap()));
    }

    #[test]
    fn address_is_told_from_a_time_of_day() {
        for text in ["on 10.0.0.5", "10,0,0,5", "fe80::1", "::1", "fe80:1:2:3"] {
            assert!(names_an_address(text.as_bytes()), "{text}");
        }
        for text in ["at 12:30:05", "pi is 3.14", "1, 2 or 3: no", ""] {
            assert!(!names_an_address(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn extended_reply_takes_any_delimiter() {
        for text in [
            "Extended (|||6446|)",
            "(!!!6446!)",
            "($$$6446$)",
            "|||6446|",
            "(|1|10.0.0.5|6446|)",
            "it's (|||6446|)",
        ] {
            let port = find_extended(text.as_bytes()).map(|(port, _)| port);
            assert_eq!(port, Some(6446), "{text}");
        }
        for text in [
            "(|||6446)",
            "(||6446|)",
            "(|||0|)",
            "(|||70000|)",
            "(|3|10.0.0.5|6446|)",
            "use (1)",
        ] {
            assert_eq!(find_extended(text.as_bytes()), None, "{text}");
        }
    }
}
