//! A command line of the user-PI: telnet bytes in front, verb, argument (RFC 959 5.3). It tells what
//! the line is; whether it is forwarded or answered is the session's.

use std::net::SocketAddr;

use super::host_port::{BadAddress, HostPort, parse_eprt};

/// A command line, classified by its verb (any case).
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Nothing but a line end, or blanks and one.
    Empty,
    /// PASV, and P@SW, by which some servers know it too.
    Pasv,
    /// EPSV with a protocol number or none (RFC 2428 3).
    Epsv(&'a [u8]),
    /// EPSV ALL: the client will ask in no other way (RFC 2428 4).
    EpsvAll,
    /// PORT with its address.
    Port(Result<HostPort, BadAddress>),
    /// EPRT with its address (RFC 2428 2).
    Eprt(Result<SocketAddr, BadAddress>),
    /// USER with the name.
    User(&'a [u8]),
    /// PASS or ACCT; what follows is nobody's business.
    Secret,
    /// REIN: the session begins anew.
    Rein,
    /// ABOR.
    Abor,
    /// FEAT (RFC 2389 3).
    Feat,
    /// STAT, with an argument or none.
    Stat,
    /// A verb that moves data over a data connection.
    Transfer(Transfer<'a>),
    /// AUTH with a mechanism (RFC 2228 3).
    Auth(&'a [u8]),
    /// PBSZ with a size (RFC 2228 3).
    Pbsz(&'a [u8]),
    /// PROT with a level (RFC 2228 3).
    Prot(&'a [u8]),
    /// CCC (RFC 2228 3).
    Ccc,
    /// Verbs that carry or announce addresses in forms of their own, or wrap other commands.
    Unsafe,
    /// A method of HTTP: this is a browser that was tricked, not a user-PI.
    Http,
    /// The verb has bytes that no verb has; servers differ in what they make of them.
    Malformed,
    /// Verbs that make sense before a login, and do nothing but tell.
    Harmless,
    /// Everything else goes to the server byte for byte.
    Other,
}

/// A transfer command: its verb in capitals and its argument as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// `RETR`, `STOR` and the like.
    pub verb: &'static str,
    /// The path as the client wrote it, any bytes.
    pub path: &'a [u8],
}

/// Bytes of the longest verb that means anything here.
const LONGEST: usize = "PROPPATCH".len();

const TRANSFERS: [&str; 7] = ["RETR", "STOR", "STOU", "APPE", "LIST", "NLST", "MLSD"];

/// Verbs that the proxy answers with 502 and that a FEAT reply must not promise.
const UNSAFE: [&str; 11] = [
    "LPSV", "LPRT", "SPSV", "CPSV", "SPAS", "SPOR", "SSCN", "ADAT", "MIC", "CONF", "ENC",
];

/// Further verbs that a FEAT reply must not promise: the proxy refuses them, or promises them itself.
const UNPROMISED: [&str; 4] = ["CCC", "AUTH", "PBSZ", "PROT"];

const HARMLESS: [&str; 8] = [
    "NOOP", "QUIT", "SYST", "HELP", "OPTS", "CLNT", "HOST", "LANG",
];

const HTTP: [&str; 14] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "SEARCH",
    "HOST:",
];

impl<'a> Command<'a> {
    /// Whether a client may send it before TLS where it has to have TLS: the server acts on nothing of it, or never
    /// sees it.
    pub fn may_precede_tls(&self) -> bool {
        matches!(
            self,
            Self::Auth(_)
                | Self::Pbsz(_)
                | Self::Prot(_)
                | Self::Ccc
                | Self::Feat
                | Self::Harmless
                | Self::Empty
                | Self::Unsafe
                | Self::Http
                | Self::Malformed
        )
    }

    /// Reads a line without telnet bytes in front; the line end may be missing.
    pub fn parse(line: &'a [u8]) -> Self {
        let (verb, argument) = split(line);
        if verb.is_empty() {
            return Self::Empty;
        }
        if !verb.iter().all(u8::is_ascii_graphic) {
            return Self::Malformed;
        }
        let mut capitals = [0; LONGEST];
        let Some(capitals) = capitals.get_mut(..verb.len()) else {
            return Self::Other;
        };
        capitals.copy_from_slice(verb);
        capitals.make_ascii_uppercase();
        match &*capitals {
            b"PASV" | b"P@SW" => Self::Pasv,
            b"EPSV" if argument.trim_ascii().eq_ignore_ascii_case(b"ALL") => Self::EpsvAll,
            b"EPSV" => Self::Epsv(argument.trim_ascii()),
            b"PORT" => Self::Port(HostPort::parse(argument)),
            b"EPRT" => Self::Eprt(parse_eprt(argument)),
            b"USER" => Self::User(argument),
            b"PASS" | b"ACCT" => Self::Secret,
            b"REIN" => Self::Rein,
            b"ABOR" => Self::Abor,
            b"FEAT" => Self::Feat,
            b"STAT" => Self::Stat,
            b"AUTH" => Self::Auth(argument),
            b"PBSZ" => Self::Pbsz(argument),
            b"PROT" => Self::Prot(argument),
            b"CCC" => Self::Ccc,
            verb => Self::of_many(verb, argument),
        }
    }

    /// What commands of a kind have in common.
    fn of_many(verb: &[u8], argument: &'a [u8]) -> Self {
        if let Some(verb) = one_of(&TRANSFERS, verb) {
            let path = argument;
            return Self::Transfer(Transfer { verb, path });
        }
        if one_of(&UNSAFE, verb).is_some() {
            return Self::Unsafe;
        }
        match (one_of(&HTTP, verb), one_of(&HARMLESS, verb)) {
            (Some(_), _) => Self::Http,
            (_, Some(_)) => Self::Harmless,
            _ => Self::Other,
        }
    }
}

/// The line without the telnet bytes in front of its verb: IP and Synch before ABOR or STAT
/// (RFC 959 4.1.3), whole or without the byte that travelled out of band. Eats no letter.
pub fn without_telnet(mut line: &[u8]) -> &[u8] {
    const IAC: u8 = 0xff;
    loop {
        line = match line {
            // WILL, WONT, DO, DONT carry an option.
            [IAC, 0xfb..=0xfe, option, rest @ ..] if !option.is_ascii_graphic() => rest,
            [0xf0..=IAC, rest @ ..] => rest,
            _ => return line,
        }
    }
}

/// Whether a line of a FEAT reply promises what no session has of the server: the proxy refuses it, or
/// promises it itself.
pub fn is_unpromised(feature: &[u8]) -> bool {
    let (verb, _) = split(feature);
    one_of(&UNSAFE, verb).is_some() || one_of(&UNPROMISED, verb).is_some()
}

/// Whether a line of a FEAT reply promises one of these verbs.
pub fn promises(feature: &[u8], verbs: &'static [&'static str]) -> bool {
    one_of(verbs, split(feature).0).is_some()
}

fn one_of(verbs: &'static [&'static str], verb: &[u8]) -> Option<&'static str> {
    let same = |known: &&str| known.as_bytes().eq_ignore_ascii_case(verb);
    verbs.iter().copied().find(same)
}

/// Verb and argument without blanks before the verb, the one blank between, and the line end.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte));
    let line = start
        .and_then(|start| line.get(start..))
        .unwrap_or_default();
    let end = line.iter().position(blank).unwrap_or(line.len());
    let (verb, argument) = line.split_at(end);
    (verb, argument.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_understood_in_any_case() {
        for line in [
            "pasv\r\n",
            "PaSv\n",
            "PASV \r\n",
            " \tPASV\t\r\n",
            "P@SW\r\n",
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Command::Pasv, "{line}");
        }
        for (line, protocol) in [
            ("EPSV\r\n", ""),
            ("EPSV 1\r\n", "1"),
            ("epsv  2 \n", "2"),
            ("EPSV 3\r\n", "3"),
        ] {
            let epsv = Command::Epsv(protocol.as_bytes());
            assert_eq!(Command::parse(line.as_bytes()), epsv, "{line}");
        }
        assert_eq!(Command::parse(b"EPSV all \r\n"), Command::EpsvAll);
        assert_eq!(Command::parse(b"PASVX\r\n"), Command::Other);
        assert_eq!(Command::parse(b"\r\n"), Command::Empty);
        assert_eq!(Command::parse(b"  \n"), Command::Empty);
    }

    #[test]
    fn paths_are_kept_byte_for_byte() {
        let Command::Transfer(transfer) = Command::parse(b"retr  a\xff\xff\r\0b \r\n") else {
            panic!("no transfer");
        };
        assert_eq!(transfer.verb, "RETR");
        assert_eq!(transfer.path, b" a\xff\xff\r\0b ");
    }

    #[test]
    fn verbs_with_foreign_bytes_are_malformed() {
        for line in [
            &b"PO\xff\xf4RT 1,2,3,4,5,6\r\n"[..],
            b"P\0ORT\n",
            b"NOOP\rPORT\r\n",
        ] {
            assert_eq!(Command::parse(line), Command::Malformed);
        }
    }

    #[test]
    fn http_is_recognised() {
        for line in ["POST / HTTP/1.1\r\n", "GET /\n", "Host: x\r\n"] {
            assert_eq!(Command::parse(line.as_bytes()), Command::Http, "{line}");
        }
        for line in ["HOST ftp.example.com\r\n", "OPTS UTF8 ON\r\n"] {
            assert_eq!(Command::parse(line.as_bytes()), Command::Harmless);
        }
        assert_eq!(Command::parse(b"DELE x\r\n"), Command::Other);
    }

    #[test]
    fn telnet_bytes_before_abor_go_and_its_letters_stay() {
        for line in [
            &b"\xff\xf4\xff\xf2ABOR\r\n"[..],
            b"\xff\xf4\xf2ABOR\r\n",
            b"\xf4\xff\xf2ABOR\r\n",
            b"\xff\xf4\xffABOR\r\n",
            b"\xff\xfd\x06ABOR\r\n",
            b"\xff\xfdABOR\r\n",
        ] {
            assert_eq!(without_telnet(line), b"ABOR\r\n");
        }
        assert_eq!(without_telnet(b"RETR \xff\xff\r\n"), b"RETR \xff\xff\r\n");
    }

    #[test]
    fn features_the_proxy_refuses_are_unpromised() {
        for feature in [" AUTH TLS\r\n", " auth ssl;tls\n", " SPSV\r\n", " PBSZ"] {
            assert!(is_unpromised(feature.as_bytes()), "{feature}");
        }
        for feature in [
            " EPSV\r\n",
            " EPRT",
            " MLST type*;\r\n",
            "211 End\r\n",
            " REST STREAM",
        ] {
            assert!(!is_unpromised(feature.as_bytes()), "{feature}");
        }
        assert!(promises(b" eprt\r\n", &["PORT", "EPRT"]));
        assert!(!promises(b" EPRTX\r\n", &["PORT", "EPRT"]));
    }
}
