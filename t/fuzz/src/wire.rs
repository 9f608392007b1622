//! Lines, replies and addresses: however they are cut they are the same, and what is written is read again.

use crate::feed::Random;
use ngx_stream_ftp_proxy_module::ftp::command::{is_unpromised, without_telnet};
use ngx_stream_ftp_proxy_module::ftp::host_port::{find_extended, parse_eprt};
use ngx_stream_ftp_proxy_module::ftp::line::{Line, MAX_LINE};
use ngx_stream_ftp_proxy_module::ftp::reply::Piece;
use ngx_stream_ftp_proxy_module::ftp::{Command, HostPort, Lines, PassiveReply, ReplyReader};
use ngx_stream_ftp_proxy_module::session::{MAX_GREETING, Step, Upgrade};
use std::net::Ipv4Addr;

/// What the proxy announces; no number of it is one that servers often use.
const PROXY: HostPort = HostPort {
    host: Ipv4Addr::new(203, 0, 113, 199),
    port: 51_917,
};

/// Any bytes: what each side might send, and arguments.
pub fn run(data: &[u8]) {
    lines(data);
    replies(data);
    passive(data);
    arguments(data);
    upgrade(data);
}

/// The same bytes in pieces of random lengths.
pub fn cut<'a>(mut bytes: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        // Mostly short ones, or a line would hardly ever be cut twice.
        let most = [1, 3, 20, 4000][random.below(4)];
        let (piece, rest) = bytes.split_at((1 + random.below(most)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn lines(data: &[u8]) {
    let whole = lines_of(&[data]);
    assert_eq!(lines_of(&cut(data, &mut Random::of(data))), whole);
    if !whole.1 {
        assert_eq!(whole.0.concat(), data);
    }
}

/// Lines, the unfinished one included, and whether one was too long.
fn lines_of(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            match lines.next(&mut piece) {
                Line::Whole(line) => {
                    assert!(line.ends_with(b"\n") && line.len() <= MAX_LINE);
                    found.push(line.into_owned());
                }
                Line::Incomplete => break,
                Line::TooLong => return (found, true),
            }
        }
    }
    found.push(lines.rest());
    (found, false)
}

fn replies(data: &[u8]) {
    let pieces = cut(data, &mut Random::of(data));
    assert_eq!(replies_of(&pieces, true), replies_of(&[data], true));
    // What cannot become a 227 goes on before its code is known: only codes and bytes are the same.
    let flat = |replies: Vec<(Option<u16>, Vec<u8>)>| {
        let (codes, texts): (Vec<_>, Vec<_>) = replies.into_iter().unzip();
        (codes, texts.concat())
    };
    let whole = flat(replies_of(&[data], false));
    assert_eq!(flat(replies_of(&pieces, false)), whole);
}

/// Replies as codes and texts; text of no reply has no code.
fn replies_of(pieces: &[&[u8]], withhold: bool) -> Vec<(Option<u16>, Vec<u8>)> {
    let mut reader = ReplyReader::default();
    let mut found: Vec<(Option<u16>, Vec<u8>)> = vec![(None, Vec::new())];
    let mut open = None;
    let mut total = 0;
    for mut piece in pieces.iter().copied() {
        while let Some(part) = reader.next(&mut piece, withhold) {
            match part {
                Piece::Begin(code) => {
                    assert_eq!(open.replace(code), None);
                    found.push((Some(code.number()), Vec::new()));
                }
                Piece::Text(text) => {
                    assert!(!text.as_bytes().is_empty());
                    total += text.as_bytes().len();
                    let (_, last) = found.last_mut().expect("there is one from the start");
                    last.extend_from_slice(text.as_bytes());
                }
                Piece::End(code) => {
                    assert_eq!(open.take(), Some(code));
                    found.push((None, Vec::new()));
                }
            }
        }
        assert!(piece.is_empty(), "the reader takes all there is");
    }
    if let Some(Piece::Text(text)) = reader.rest() {
        total += text.as_bytes().len();
    }
    let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
    assert!(total <= sent && sent - total <= 4, "bytes are lost");
    found
}

/// A greeting and what AUTH gets: what is refused depends on where they are cut, what is kept does not.
fn upgrade(data: &[u8]) {
    let mut upgrade = Upgrade::default();
    let mut at = 0;
    for piece in cut(data, &mut Random::of(data)) {
        match upgrade.from_server(piece) {
            Ok(Step::Read) => at += piece.len(),
            Ok(Step::Ask) => {
                at += piece.len();
                let greeting = std::mem::take(&mut upgrade).into_greeting();
                assert!(greeting.len() <= MAX_GREETING && greeting == data[..at]);
                return;
            }
            Ok(Step::Secure) => panic!("nobody has asked"),
            Err(_) => return,
        }
    }
}

fn passive(data: &[u8]) {
    // Words with the port that is announced are replaced the second time, when they tell it once more.
    let names_the_proxy = data.windows(5).any(|text| text == b"51917");
    if let Some(reply) = PassiveReply::parse_227(data) {
        assert_ne!(reply.port, 0);
        let mut line = Vec::new();
        reply.write_227(PROXY, &mut line);
        announces_227(&line, PROXY);
        hides(&line, PROXY, reply.host, reply.port);
        let again = PassiveReply::parse_227(&line).expect("what is written can be read");
        assert_eq!((again.host, again.port), (Some(PROXY.host), PROXY.port));
        let mut twice = Vec::new();
        again.write_227(PROXY, &mut twice);
        assert!(twice == line || names_the_proxy);
    }
    if let Some(reply) = PassiveReply::parse_229(data) {
        assert_ne!(reply.port, 0);
        let mut line = Vec::new();
        reply.write_229(PROXY.port, &mut line);
        announces_229(&line, PROXY.port);
        hides(&line, PROXY, None, reply.port);
        let again = PassiveReply::parse_229(&line).expect("what is written can be read");
        assert_eq!((again.host, again.port), (None, PROXY.port));
        let mut twice = Vec::new();
        again.write_229(PROXY.port, &mut twice);
        assert!(twice == line || names_the_proxy);
    }
}

/// One line, and every client finds `proxy` in it.
pub fn announces_227(line: &[u8], proxy: HostPort) {
    is_one_line(line, b"227 ");
    let (found, _) = HostPort::find(&line[4..]).expect("an address");
    assert_eq!(found, proxy, "{}", line.escape_ascii());
    // curl, ftplib and others: the first place where six numbers with commas can be read.
    let first = (4..line.len()).find_map(|at| six_numbers(&line[at..]));
    let [p1, p2] = proxy.port.to_be_bytes();
    let [h1, h2, h3, h4] = proxy.host.octets();
    let expected = [h1, h2, h3, h4, p1, p2].map(u32::from);
    assert_eq!(first, Some(expected), "{}", line.escape_ascii());
}

/// One line, and every client finds `port` in it.
pub fn announces_229(line: &[u8], port: u16) {
    is_one_line(line, b"229 ");
    let found = find_extended(&line[4..]).map(|(port, _)| port);
    assert_eq!(found, Some(port), "{}", line.escape_ascii());
}

fn is_one_line(line: &[u8], code: &[u8]) {
    let text = line
        .strip_prefix(code)
        .and_then(|rest| rest.strip_suffix(b"\r\n"));
    let text = text.expect("a line with its code");
    assert!(
        !text.iter().any(|byte| b"\r\n".contains(byte)),
        "{}",
        line.escape_ascii()
    );
}

/// `"%u,%u,%u,%u,%u,%u"` as scanf reads it.
fn six_numbers(mut text: &[u8]) -> Option<[u32; 6]> {
    let mut numbers = [0; 6];
    for (at, number) in numbers.iter_mut().enumerate() {
        if at > 0 {
            text = text.strip_prefix(b",")?;
        }
        text = text.trim_ascii_start();
        text = text
            .strip_prefix(b"+")
            .or(text.strip_prefix(b"-"))
            .unwrap_or(text);
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        text = &text[digits..];
    }
    Some(numbers)
}

/// Nothing but the proxy's own numbers tells where the server is.
pub fn hides(line: &[u8], proxy: HostPort, host: Option<Ipv4Addr>, port: u16) {
    let mut announced = Vec::new();
    proxy.write(&mut announced);
    let bars = format!("(|||{}|)", proxy.port).into_bytes();
    let words = without(&without(&line[4..], &announced), &bars);
    let numbers: Vec<u64> = words
        .split(|byte| !byte.is_ascii_digit())
        .filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .collect();
    let told = |inner: &[u64]| numbers.windows(inner.len()).any(|there| there == inner);
    assert!(!told(&[port.into()]), "the port in {}", line.escape_ascii());
    if let Some(host) = host {
        let octets = host.octets().map(u64::from);
        assert!(!told(&octets), "the host in {}", line.escape_ascii());
    }
}

fn without(text: &[u8], part: &[u8]) -> Vec<u8> {
    match text.windows(part.len()).position(|there| there == part) {
        Some(at) => [&text[..at], b" ", &text[at + part.len()..]].concat(),
        None => text.to_vec(),
    }
}

fn arguments(data: &[u8]) {
    if let Ok(address) = HostPort::parse(data) {
        assert_ne!(address.port, 0);
        let mut written = Vec::new();
        address.write(&mut written);
        let bare = &written[1..written.len() - 1];
        assert_eq!(HostPort::parse(bare), Ok(address));
        assert_eq!(
            HostPort::find(&written),
            Some((address, 1..written.len() - 1))
        );
    }
    if let Some((_, place)) = HostPort::find(data) {
        assert!(place.start < place.end && place.end <= data.len());
    }
    if let Some((port, place)) = find_extended(data) {
        let text = &data[place];
        assert_eq!(find_extended(text), Some((port, 0..text.len())));
    }
    if let Ok(address) = parse_eprt(data) {
        let kind = if address.is_ipv4() { 1 } else { 2 };
        let written = format!("|{kind}|{}|{}|", address.ip(), address.port());
        assert_eq!(parse_eprt(written.as_bytes()), Ok(address));
    }
    let line = without_telnet(data);
    assert!(data.ends_with(line));
    let eaten = &data[..data.len() - line.len()];
    assert!(!eaten.iter().any(u8::is_ascii_graphic), "a letter is eaten");
    if let Command::Transfer(transfer) = Command::parse(line) {
        assert!(line.len() >= transfer.verb.len() + transfer.path.len());
    }
    is_unpromised(data);
}
