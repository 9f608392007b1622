//! Dialogues as wire text, replayed whole and split at every byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;
use crate::ftp::HostPort;

/// Plays both peers' outside: collects what goes out, reserves port after port.
#[derive(Default)]
pub(super) struct Outside {
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) events: Vec<String>,
    /// What PORT and EPRT tell the server.
    pub(super) toward_server: Option<IpAddr>,
    pub(super) next_port: u16,
    /// Reservations that succeed until one fails.
    pub(super) room: Option<u16>,
    /// What is dialled fails at once.
    pub(super) cannot_dial: bool,
    /// How often a data connection is still on its way to the client.
    pub(super) on_its_way: usize,
    /// With each word of the server.
    pub(super) waited: [usize; 3],
}

impl Outside {
    fn port(&mut self, event: &str) -> Result<u16, Unavailable> {
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1).ok_or(Unavailable)?;
        }
        self.events.push(event.trim().to_owned());
        self.next_port += 1;
        Ok(9999 + self.next_port)
    }

    fn toward_client(&mut self, event: &str) -> Result<HostPort, Unavailable> {
        let host = Ipv4Addr::new(203, 0, 113, 5);
        self.port(event).map(|port| HostPort { host, port })
    }

    fn toward_server(&mut self, event: &str) -> Result<SocketAddr, Unavailable> {
        let ip = self.toward_server.ok_or(Unavailable)?;
        self.port(event).map(|port| SocketAddr::new(ip, port))
    }
}

fn tls(protected: bool, server_protected: bool) -> &'static str {
    match (protected, server_protected) {
        (false, false) => "",
        (true, false) => "tls",
        (false, true) => "server-tls",
        (true, true) => "both-tls",
    }
}

fn described(asked: Asked<'_>) -> String {
    let tls = tls(asked.protected, asked.server_protected);
    format!("{} {tls}", asked.mode)
}

impl Actions for Outside {
    fn forward(&mut self, bytes: &[u8]) {
        self.to_server.extend_from_slice(bytes);
    }
    fn reply(&mut self, bytes: &[u8]) {
        self.to_client.extend_from_slice(bytes);
    }
    fn reserve(&mut self, passive: Passive<'_>) -> Result<HostPort, Unavailable> {
        let host = passive
            .host
            .map_or("peer".to_owned(), |host| host.to_string());
        let ahead = passive.transfer.map_or("", |transfer| transfer.verb);
        let tls = tls(passive.protected, passive.server_protected);
        self.toward_client(&format!("reserve {host}:{} {ahead}{tls}", passive.port))
    }
    fn reserve_active(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
    ) -> Result<SocketAddr, Unavailable> {
        self.toward_server(&format!("active {address} {}", described(asked)))
    }
    fn reserve_dialled(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
        server: Announced,
    ) -> Result<(), Unavailable> {
        let host = server
            .host
            .map_or("peer".to_owned(), |host| host.to_string());
        let server = format!("{host}:{}", server.port);
        self.port(&format!("dialled {address} {server} {}", described(asked)))?;
        Ok(())
    }
    fn dial(&mut self) -> Result<(), Unavailable> {
        self.events.push("dial".to_owned());
        match self.cannot_dial {
            true => Err(Unavailable),
            false => Ok(()),
        }
    }
    fn is_on_its_way(&mut self, word: Word) -> bool {
        self.waited[word as usize] += 1;
        let left = self.on_its_way.checked_sub(1);
        self.on_its_way = left.unwrap_or(0);
        left.is_some()
    }
    fn reserve_for_server(&mut self, asked: Asked<'_>) -> Result<SocketAddr, Unavailable> {
        self.toward_server(&format!("for server {}", described(asked)))
    }
    fn reserve_for_client(&mut self, asked: Asked<'_>) -> Result<HostPort, Unavailable> {
        self.toward_client(&format!("for client {}", described(asked)))
    }
    fn release(&mut self) {
        self.events.push("release".to_owned());
    }
    fn annotate(&mut self, transfer: Transfer<'_>) {
        self.events.push(format!("annotate {}", transfer.verb));
    }
    fn note(&mut self, note: Note) {
        self.events.push(note.to_string());
    }
    fn start_tls(&mut self) {
        self.events.push("start tls".to_owned());
    }
    fn close(&mut self) {
        self.events.push("close".to_owned());
    }
}

fn session(client_is_ipv4: bool) -> Session {
    let client = match client_is_ipv4 {
        true => "192.0.2.9:40000",
        false => "[2001:db8::9]:40000",
    };
    Session::new(Terms {
        modes: of_client(client),
        ..Terms::default()
    })
}

pub(super) fn of_client(client: &str) -> Modes {
    Modes {
        client: Some(client.parse().unwrap()),
        ..Modes::default()
    }
}

/// One side's bytes.
#[derive(Clone, Copy)]
pub(super) enum Side<'a> {
    C(&'a [u8]),
    S(&'a [u8]),
}
use Side::{C, S};

pub(super) fn c(text: &str) -> Side<'_> {
    C(text.as_bytes())
}

pub(super) fn s(text: &str) -> Side<'_> {
    S(text.as_bytes())
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Played {
    pub(super) server: String,
    pub(super) client: String,
    pub(super) events: Vec<String>,
}

fn play_with(session: &mut Session, outside: &mut Outside, dialogue: &[Side<'_>], chunk: usize) {
    for side in dialogue {
        match side {
            C(bytes) => {
                for piece in bytes.chunks(chunk) {
                    assert_eq!(session.from_client(piece, outside), piece.len());
                }
            }
            S(bytes) => {
                for piece in bytes.chunks(chunk) {
                    session.from_server(piece, outside);
                }
            }
        }
    }
}

fn play_chunked(dialogue: &[Side<'_>], chunk: usize) -> Played {
    let mut outside = Outside::default();
    play_with(&mut session(true), &mut outside, dialogue, chunk);
    Played {
        server: String::from_utf8_lossy(&outside.to_server).into_owned(),
        client: String::from_utf8_lossy(&outside.to_client).into_owned(),
        events: outside.events,
    }
}

/// Plays the dialogue whole and in pieces of 1 to 7 bytes; the outcome must be the same.
pub(super) fn play(dialogue: &[Side<'_>]) -> Played {
    let whole = play_chunked(dialogue, usize::MAX);
    for chunk in 1..8 {
        let split = play_chunked(dialogue, chunk);
        assert_eq!(split.client, whole.client, "pieces of {chunk}");
        assert_eq!(split.server, whole.server, "pieces of {chunk}");
        assert_eq!(split.events, whole.events, "pieces of {chunk}");
    }
    whole
}

pub(super) const HI: &str = "220 Hi\r\n";

#[test]
fn transfer_begins_wherever_its_150_stands() {
    for chunk in [1, 2, 3, usize::MAX] {
        let mut session = session(true);
        let mut outside = Outside::default();
        let mut begun = |dialogue: &[Side<'_>]| {
            play_with(&mut session, &mut outside, dialogue, chunk);
            session.has_begun()
        };
        assert!(!begun(&[s(HI), c("NOOP\r\nRETR x\r\n")]));
        assert!(begun(&[s("200 ok\r\n150-here\r\n150 it comes\r\n")]));
        assert!(!begun(&[]));
        assert!(!begun(&[s("226 done\r\n")]));
    }
}

#[test]
fn pasv_reply_is_rewritten() {
    let played = play(&[
        s(HI),
        c("PASV\r\n"),
        s("227 Entering Passive Mode (10,0,0,5,195,80).\r\n"),
        c("LIST\r\n"),
        s("150 Go\r\n226 Done\r\n"),
    ]);
    assert_eq!(
        played.client,
        "220 Hi\r\n227 Entering Passive Mode (203,0,113,5,39,16).\r\n150 Go\r\n226 Done\r\n"
    );
    assert_eq!(played.server, "PASV\r\nLIST\r\n");
    assert_eq!(played.events, ["reserve 10.0.0.5:50000", "annotate LIST"]);
}

#[test]
fn epsv_reply_is_rewritten() {
    let played = play(&[s(HI), c("EPSV 1\r\n"), s("229 Extended (|||6446|)\r\n")]);
    assert_eq!(played.client, "220 Hi\r\n229 Extended (|||10000|)\r\n");
    assert_eq!(played.server, "EPSV 1\r\n");
}

#[test]
fn text_that_looks_passive_is_untouched() {
    let replies = [
        "220 Use PASV (1,2,3,4,5,6)\r\n",
        "214-227 Entering Passive Mode (1,2,3,4,5,6)\r\n 227 x (1,2,3,4,5,6)\r\n214 End\r\n",
        "230-Hi\r\n227 Entering Passive Mode (1,2,3,4,5,6)\r\n230 ok\r\n",
    ];
    let played = play(&[
        s(replies[0]),
        c("HELP\r\nUSER a\r\n"),
        s(replies[1]),
        s(replies[2]),
    ]);
    assert_eq!(played.client, replies.concat());
    assert!(
        !played
            .events
            .iter()
            .any(|event| event.starts_with("reserve"))
    );
}

#[test]
fn passive_reply_to_something_else_becomes_425() {
    let played = play(&[
        s(HI),
        c("NOOP\r\n"),
        s("227 x (10,0,0,5,195,80)\r\n200 late\r\n"),
    ]);
    assert_eq!(
        played.client,
        "220 Hi\r\n425 Can't open data connection.\r\n200 late\r\n"
    );
    assert_eq!(played.events, ["server sent unexpected 227 reply"]);
}

#[test]
fn passive_reply_to_nothing_is_swallowed() {
    let passive = "227 x (10,0,0,5,195,80)\r\n";
    let played = play(&[
        s(passive),
        s(HI),
        s(passive),
        c("NOOP\r\n"),
        s("200 ok\r\n"),
    ]);
    assert_eq!(played.client, "220 Hi\r\n200 ok\r\n");
}

#[test]
fn wrong_kind_of_passive_reply_becomes_425() {
    for (command, reply) in [
        ("EPSV\r\n", "227 x (10,0,0,5,195,80)\r\n"),
        ("PASV\r\n", "229 x (|||6446|)\r\n"),
        ("PASV\r\n", "227 x (256,0,0,5,195,80)\r\n"),
        ("PASV\r\n", "227 x (127,0,0,1,0,22)\r\n"),
        ("EPSV\r\n", "229 x (|||0|)\r\n"),
    ] {
        let played = play(&[s(HI), c(command), s(reply)]);
        assert_eq!(
            played.client, "220 Hi\r\n425 Can't open data connection.\r\n",
            "{reply}"
        );
        assert_eq!(played.events.len(), 2, "{:?}", played.events);
    }
}

#[test]
fn multi_line_passive_reply_becomes_one_line() {
    let played = play(&[
        s(HI),
        c("PASV\r\n"),
        s("227-Hello\r\n 227 x\r\n227 Now (10,0,0,5,195,80)\r\n"),
    ]);
    assert_eq!(played.client, "220 Hi\r\n227 Now (203,0,113,5,39,16)\r\n");
}

#[test]
fn endless_passive_reply_is_bounded_and_becomes_425() {
    let mut session = session(true);
    let mut outside = Outside::default();
    play_with(
        &mut session,
        &mut outside,
        &[s(HI), c("PASV\r\n"), s("227-x\r\n")],
        64,
    );
    for _ in 0..1000 {
        session.from_server(b"10,0,0,5,195,80 again and again\r\n", &mut outside);
        assert!(session.held.capacity() <= 2 * MAX_HELD);
    }
    session.from_server(b"227 (10,0,0,5,195,80)\r\n", &mut outside);
    assert_eq!(
        outside.to_client,
        b"220 Hi\r\n425 Can't open data connection.\r\n"
    );
}

#[test]
fn no_port_becomes_425() {
    let mut outside = Outside {
        room: Some(0),
        ..Outside::default()
    };
    let dialogue = [s(HI), c("PASV\r\n"), s("227 (10,0,0,5,195,80)\r\n")];
    play_with(&mut session(true), &mut outside, &dialogue, 3);
    assert_eq!(
        outside.to_client,
        b"220 Hi\r\n425 Can't open data connection.\r\n"
    );
}

#[test]
fn pasv_over_ipv6_is_refused_by_the_proxy() {
    let mut outside = Outside::default();
    let dialogue = [s(HI), c("PASV\r\nEPSV\r\n"), s("229 (|||6446|)\r\n")];
    play_with(&mut session(false), &mut outside, &dialogue, 3);
    assert_eq!(outside.to_server, b"EPSV\r\n");
    assert_eq!(
        outside.to_client,
        b"220 Hi\r\n425 PASV needs IPv4, use EPSV.\r\n229 (|||10000|)\r\n"
    );
}

#[test]
fn pipelined_commands_get_their_own_replies() {
    let played = play(&[
        c("USER a\r\nPASS b\r\nPASV\r\nRETR x\r\n"),
        s("220 Hi\r\n331 x\r\n230 x\r\n227 (10,0,0,5,195,80)\r\n150 x\r\n226 x\r\n"),
    ]);
    assert!(
        played
            .client
            .ends_with("227 (203,0,113,5,39,16)\r\n150 x\r\n226 x\r\n")
    );
    assert_eq!(
        played.events,
        ["release", "release", "reserve 10.0.0.5:50000 RETR"]
    );
}

#[test]
fn local_replies_stand_in_their_place() {
    let played = play(&[
        s(HI),
        c("NOOP\r\nAUTH TLS\r\nSYST\r\nPORT 10,0,0,9,4,1\r\n"),
        s("200 noop\r\n"),
        s("215 UNIX\r\n"),
    ]);
    assert_eq!(played.server, "NOOP\r\nSYST\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n200 noop\r\n502 AUTH is not available.\r\n215 UNIX\r\n\
         504 Active mode is not available, use PASV or EPSV.\r\n"
    );
}

#[test]
fn local_reply_waits_for_the_end_of_a_reply() {
    let played = play(&[
        s("220 Hi\r\n421-Bye\r\n"),
        c("AUTH TLS\r\n"),
        s("421 now\r\n"),
    ]);
    assert_eq!(
        played.client,
        "220 Hi\r\n421-Bye\r\n421 now\r\n502 AUTH is not available.\r\n"
    );
}

#[test]
fn active_mode_is_refused_by_kind() {
    let played = play(&[
        s(HI),
        c(
            "PORT 10,0,0,9,256,22\r\nPORT 10,0,0,9,124,22_\r\nEPRT |3|x|80|\r\nEPRT |1|1.2.3.4|80|\r\n",
        ),
    ]);
    let codes: Vec<&str> = played.client.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "501", "501", "522", "504"]);
    assert_eq!(played.server, "");
    assert_eq!(played.events, ["release"; 4]);
}

#[test]
fn verbs_that_leak_addresses_are_refused() {
    let played = play(&[s(HI), c("LPSV\r\nlprt x\r\nSPSV\r\nCPSV\r\nCCC\r\n")]);
    assert_eq!(played.server, "");
    assert_eq!(played.client.matches("502 ").count(), 5);
}

#[test]
fn feat_promises_only_what_works() {
    let played = play(&[
        s(HI),
        c("FEAT\r\n"),
        s("211-Features:\r\n AUTH TLS\r\n EPRT\r\n EPSV\r\n\r\n211-PBSZ\r\n UTF8\r\n211 End\r\n"),
        c("STAT\r\n"),
        s("211-Status\r\n AUTH\r\n211 End\r\n"),
    ]);
    assert_eq!(
        played.client,
        "220 Hi\r\n211-Features:\r\n EPSV\r\n\r\n UTF8\r\n211 End\r\n\
         211-Status\r\n AUTH\r\n211 End\r\n"
    );
}

#[test]
fn long_line_of_feat_is_one_line() {
    let long = "x".repeat(MAX_HELD);
    let last = format!("211 {long} PORT\r\n");
    let refused = format!(" {} AUTH {long}\r\n", " ".repeat(99));
    for kept in [format!(" {long} AUTH\r\n"), format!(" MDTM {long}PORT\r\n")] {
        let reply = format!("211-F {long}\r\n{kept}{refused}{last}");
        let expected = format!("220 Hi\r\n211-F {long}\r\n{kept} PBSZ\r\n PROT\r\n{last}");
        for chunk in [1, 7, MAX_HELD + 5, usize::MAX] {
            let mut outside = Outside::default();
            let implicit = Terms {
                implicit_tls: true,
                ..offering(AuthTls::Off)
            };
            let dialogue = [s(HI), c("FEAT\r\n"), s(&reply)];
            play_with(&mut Session::new(implicit), &mut outside, &dialogue, chunk);
            assert!(
                outside.to_client == expected.as_bytes(),
                "pieces of {chunk}"
            );
        }
    }
}

#[test]
fn abor_takes_one_reply_or_two() {
    for replies in ["426 x\r\n226 x\r\n", "226 x\r\n", "225 x\r\n"] {
        let played = play(&[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            C(b"\xff\xf4\xff\xf2ABOR\r\n"),
            s(replies),
            c("AUTH TLS\r\nPWD\r\n"),
            s("257 pwd\r\n"),
            c("AUTH TLS\r\n"),
        ]);
        assert_eq!(played.server, "RETR a\r\nABOR\r\nPWD\r\n");
        let tail = "502 AUTH is not available.\r\n257 pwd\r\n502 AUTH is not available.\r\n";
        assert!(played.client.ends_with(tail), "{}", played.client);
    }
}

#[test]
fn second_reply_to_abor_may_come_behind_the_next_pasv() {
    for second in ["226 x\r\n", "225 x\r\n"] {
        let played = play(&[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            c("ABOR\r\n"),
            s("426 x\r\n"),
            c("PASV\r\n"),
            s(second),
            s("227 (10,0,0,5,195,80)\r\n"),
        ]);
        let expected = format!("426 x\r\n{second}227 (203,0,113,5,39,16)\r\n");
        assert!(played.client.ends_with(&expected), "{}", played.client);
    }
}

#[test]
fn stat_during_a_transfer_keeps_step() {
    let played = play(&[
        s(HI),
        c("RETR a\r\n"),
        s("150 x\r\n"),
        c("STAT\r\nAUTH TLS\r\n"),
        s("213 half\r\n226 done\r\n"),
    ]);
    assert!(
        played
            .client
            .ends_with("213 half\r\n226 done\r\n502 AUTH is not available.\r\n")
    );
}

#[test]
fn empty_lines_go_nowhere() {
    let played = play(&[
        s(HI),
        c("\r\n\nFOO\r\n  \r\n"),
        C(b"\xff\xfd\n"),
        s("500 what\r\n"),
        c("AUTH TLS\r\n"),
    ]);
    assert_eq!(played.server, "FOO\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n500 what\r\n502 AUTH is not available.\r\n"
    );
}

#[test]
fn no_other_yes_answers_a_passive_command() {
    for reply in [
        "200 Entering Passive Mode (10,0,0,9,120,57)\r\n",
        "228 x (10,0,0,9,120,57)\r\n",
        "230-x\r\n227 x (10,0,0,9,120,57)\r\n230 ok\r\n",
    ] {
        let played = play(&[s(HI), c("PASV\r\nNOOP\r\n"), s(reply), s("200 ok\r\n")]);
        assert_eq!(
            played.client,
            "220 Hi\r\n425 Can't open data connection.\r\n200 ok\r\n"
        );
    }
}

#[test]
fn last_of_several_passive_commands_wins() {
    let played = play(&[
        s(HI),
        c("PASV\r\nPASV\r\nEPSV\r\nLIST\r\n"),
        s("227 (10,0,0,5,195,80)\r\n227 (10,0,0,5,195,81)\r\n229 (|||50002|)\r\n"),
    ]);
    assert_eq!(
        played.events,
        [
            "reserve 10.0.0.5:50000 LIST",
            "reserve 10.0.0.5:50001 LIST",
            "reserve peer:50002 LIST"
        ]
    );
}

#[test]
fn refused_epsv_is_forgotten() {
    let played = play(&[
        s(HI),
        c("EPSV\r\n"),
        s("500 what\r\n"),
        c("PASV\r\n"),
        s("227 (10,0,0,5,195,80)\r\n"),
    ]);
    assert!(
        played
            .client
            .ends_with("500 what\r\n227 (203,0,113,5,39,16)\r\n")
    );
}

#[test]
fn user_and_rein_release() {
    for command in ["USER b\r\n", "REIN\r\n", "EPRT |1|1.2.3.4|2000|\r\n"] {
        let played = play(&[
            s(HI),
            c("PASV\r\n"),
            s("227 (10,0,0,5,195,80)\r\n"),
            c(command),
        ]);
        assert_eq!(played.events, ["reserve 10.0.0.5:50000", "release"]);
    }
}

#[test]
fn user_pipelined_behind_pasv_releases_too() {
    let played = play(&[
        s(HI),
        c("PASV\r\nUSER b\r\n"),
        s("227 (10,0,0,5,195,80)\r\n331 x\r\n"),
    ]);
    assert_eq!(
        played.events,
        ["release", "reserve 10.0.0.5:50000", "release"]
    );
}

#[test]
fn preliminary_greeting_is_accepted() {
    let played = play(&[c("AUTH TLS\r\n"), s("120 wait\r\n220-Hi\r\n220 Hi\r\n")]);
    assert_eq!(
        played.client,
        "120 wait\r\n220-Hi\r\n220 Hi\r\n502 AUTH is not available.\r\n"
    );
}

#[test]
fn http_closes_and_nothing_behind_it_counts() {
    let mut outside = Outside::default();
    let mut session = session(true);
    let sent = b"POST / HTTP/1.1\r\nPORT 1,2,3,4,5,6\r\nPASV\r\n";
    assert_eq!(session.from_client(sent, &mut outside), sent.len());
    assert_eq!(outside.events, ["client sent HTTP request", "close"]);
    assert_eq!((outside.to_server.len(), outside.to_client.len()), (0, 0));
}

#[test]
fn too_long_line_is_answered_and_closes() {
    let mut outside = Outside::default();
    let mut session = session(true);
    session.from_server(HI.as_bytes(), &mut outside);
    for _ in 0..20 {
        session.from_client(&[b'x'; 1000], &mut outside);
    }
    assert_eq!(
        outside.to_client,
        b"220 Hi\r\n500 Command line too long.\r\n"
    );
    assert_eq!(
        outside.events,
        ["client sent too long command line", "close"]
    );
    assert_eq!(outside.to_server, b"");
}

#[test]
fn full_queue_stops_reading_until_the_server_catches_up() {
    let mut outside = Outside::default();
    let mut session = session(true);
    let flood = b"NOOP\r\n".repeat(MAX_OUTSTANDING + 10);
    let taken = session.from_client(&flood, &mut outside);
    assert_eq!(taken, (MAX_OUTSTANDING - 1) * 6);
    assert!(!session.takes_commands());
    session.from_server(b"220 Hi\r\n200 ok\r\n", &mut outside);
    assert_eq!(session.from_client(&flood[taken..], &mut outside), 12);
}

#[test]
fn long_text_streams_through() {
    let mut outside = Outside::default();
    let mut session = session(true);
    session.from_server(b"220-", &mut outside);
    session.from_server(&[b'x'; 65536], &mut outside);
    assert_eq!(outside.to_client.len(), 65540);
    assert_eq!(session.held.capacity(), 0);
}

#[test]
fn unfinished_bytes_go_on_at_the_end_unless_passive() {
    for (sent, expected) in [
        ("221 By", "221 By"),
        ("22", "22"),
        ("227 (1,2", ""),
        ("227", ""),
    ] {
        let mut outside = Outside::default();
        let mut session = session(true);
        session.from_server(sent.as_bytes(), &mut outside);
        session.server_ended(&mut outside);
        assert_eq!(String::from_utf8_lossy(&outside.to_client), expected);
    }
    for (sent, expected) in [("QUIT", "QUIT"), ("PORT 1,2,3,4,5,6", "")] {
        let mut outside = Outside::default();
        let mut session = session(true);
        session.from_client(sent.as_bytes(), &mut outside);
        session.client_ended(&mut outside);
        assert_eq!(String::from_utf8_lossy(&outside.to_server), expected);
    }
}

#[test]
fn password_is_not_kept() {
    let mut outside = Outside::default();
    let mut session = session(true);
    session.from_client(b"USER joe\r\nPASS sesame\r\n", &mut outside);
    assert!(!format!("{session:?}").contains("sesame"));
    assert_eq!(session.user(), b"joe");
}

proptest::proptest! {
    #[test]
    fn any_bytes_in_any_pieces_do_the_same(
        bytes in proptest::collection::vec(
            proptest::sample::select(b"2127-9 PASV\r\n,0(|)E\xff\xf4\x00".to_vec()), 0..200),
        chunk in 1usize..9,
        from_client in proptest::bool::ANY,
    ) {
        let side = if from_client { C(&bytes) } else { S(&bytes) };
        let dialogue = [s(HI), c("PASV\r\nEPSV\r\nFEAT\r\n"), side];
        let whole = play_chunked(&dialogue, usize::MAX);
        let split = play_chunked(&dialogue, chunk);
        proptest::prop_assert_eq!(whole.client, split.client);
        proptest::prop_assert_eq!(whole.server, split.server);
        proptest::prop_assert_eq!(whole.events, split.events);
    }
}

/// Plays a dialogue with a client that may say AUTH.
fn play_tls(terms: Terms, dialogue: &[Side<'_>]) -> Played {
    let mut outside = Outside::default();
    play_with(&mut Session::new(terms), &mut outside, dialogue, usize::MAX);
    Played {
        server: String::from_utf8_lossy(&outside.to_server).into_owned(),
        client: String::from_utf8_lossy(&outside.to_client).into_owned(),
        events: outside.events,
    }
}

fn offering(auth: AuthTls) -> Terms {
    Terms {
        modes: of_client("192.0.2.9:40000"),
        auth,
        ..Terms::default()
    }
}

#[test]
fn auth_starts_tls_in_its_turn_and_drops_what_is_behind_it() {
    let played = play_tls(
        offering(AuthTls::On),
        &[
            s(HI),
            c("NOOP\r\nAUTH TLS\r\nUSER evil\r\n"),
            c("PASS evil\r\n"),
            s("200 ok\r\n"),
        ],
    );
    assert_eq!(played.server, "NOOP\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n200 ok\r\n234 Proceed with negotiation.\r\n"
    );
    assert_eq!(played.events, ["start tls"]);
}

#[test]
fn nothing_is_said_in_clear_behind_234() {
    let behind = b"421 in clear\r\n";
    let replies = [b"200 ok\r\n".as_slice(), behind].concat();
    let mut outside = Outside::default();
    let mut session = Session::new(offering(AuthTls::On));
    let clear = [s(HI), c("NOOP\r\nAUTH TLS\r\n")];
    play_with(&mut session, &mut outside, &clear, 1);
    let taken = session.from_server(&replies, &mut outside);
    assert_eq!(replies.get(taken..), Some(behind.as_slice()));
    assert_eq!(session.from_server(behind, &mut outside), 0);
    assert!(
        outside
            .to_client
            .ends_with(b"234 Proceed with negotiation.\r\n")
    );
    session.secured();
    assert_eq!(session.from_server(behind, &mut outside), behind.len());
    assert!(outside.to_client.ends_with(behind));
}

#[test]
fn a_line_begun_in_clear_is_not_finished_in_tls() {
    let mut outside = Outside::default();
    let mut session = Session::new(offering(AuthTls::On));
    let clear = [s(HI), c("AUTH TLS\r\nUSER ev")];
    play_with(&mut session, &mut outside, &clear, 1);
    session.secured();
    let tls = [c("NOOP\r\n")];
    play_with(&mut session, &mut outside, &tls, 1);
    assert_eq!(outside.to_server, b"NOOP\r\n");
}

#[test]
fn mechanisms_other_than_tls_are_unknown_and_tls_comes_once() {
    let mut outside = Outside::default();
    let mut session = Session::new(offering(AuthTls::On));
    let clear = [s(HI), c("AUTH GSSAPI\r\nPBSZ 0\r\nCCC\r\nAUTH ssl\r\n")];
    play_with(&mut session, &mut outside, &clear, 3);
    session.secured();
    play_with(
        &mut session,
        &mut outside,
        &[c("AUTH TLS\r\nCCC\r\nREIN\r\n")],
        3,
    );
    let text = String::from_utf8(outside.to_client).unwrap();
    let codes: Vec<&str> = text.lines().map(|line| &line[..3]).collect();
    assert_eq!(
        codes,
        ["220", "504", "503", "502", "234", "503", "534", "502"]
    );
    assert_eq!(outside.to_server, b"");
}

#[test]
fn nothing_that_acts_goes_before_tls_where_it_must_be() {
    let refused = "530 TLS is required: AUTH TLS first.\r\n";
    // Some servers greet with 230, and are ready for anything.
    for line in [
        "USER a",
        "PASS secret",
        "ACCT x",
        "REIN",
        "PASV",
        "EPSV",
        "EPSV ALL",
        "PORT 192,0,2,9,4,1",
        "EPRT |1|192.0.2.9|1025|",
        "RETR f",
        "STOR f",
        "LIST",
        "DELE f",
        "SITE CHMOD 777 f",
        "STAT",
        "CWD /",
        "ABOR",
        "XYZZY",
    ] {
        let played = play_tls(
            offering(AuthTls::Only),
            &[s("230 in\r\n"), c(&format!("{line}\r\nSYST\r\n"))],
        );
        assert_eq!(played.server, "SYST\r\n", "{line}");
        assert_eq!(played.client, format!("230 in\r\n{refused}"), "{line}");
    }
}

#[test]
fn implicit_server_is_told_of_data_in_clear() {
    let terms = Terms {
        server_tls: ServerTls::Implicit,
        ..offering(AuthTls::On)
    };
    let mut session = Session::new(terms);
    let mut outside = Outside::default();
    play_with(&mut session, &mut outside, &[s(HI), c("AUTH TLS\r\n")], 9);
    session.secured();
    play_with(
        &mut session,
        &mut outside,
        &[
            c("USER a\r\n"),
            s("230 in\r\n"),
            s("200 PBSZ=0\r\n200 clear\r\n"),
            c("PASV\r\n"),
            s("227 (10,0,0,5,195,80)\r\n"),
        ],
        9,
    );
    assert_eq!(
        String::from_utf8_lossy(&outside.to_server),
        "USER a\r\nPBSZ 0\r\nPROT C\r\nPASV\r\n"
    );
    assert_eq!(outside.events.last().unwrap(), "reserve 10.0.0.5:50000");
}

#[test]
fn prot_decides_over_data_connections() {
    let terms = Terms {
        modes: of_client("192.0.2.9:40000"),
        auth: AuthTls::On,
        ..Terms::default()
    };
    let mut outside = Outside::default();
    let mut session = Session::new(terms);
    play_with(&mut session, &mut outside, &[s(HI), c("AUTH TLS\r\n")], 9);
    session.secured();
    let dialogue = [
        c("PROT P\r\nPBSZ 1000\r\nPROT S\r\nPROT X\r\nPASV\r\n"),
        s("227 (10,0,0,5,195,80)\r\n"),
        c("prot p\r\nPASV\r\n"),
        s("227 (10,0,0,5,195,81)\r\n"),
        c("PROT C\r\nPASV\r\n"),
        s("227 (10,0,0,5,195,82)\r\n"),
    ];
    play_with(&mut session, &mut outside, &dialogue, 9);
    let text = String::from_utf8(outside.to_client).unwrap();
    let codes: Vec<&str> = text.lines().map(|line| &line[..3]).collect();
    assert_eq!(
        codes,
        [
            "220", "234", "503", "200", "536", "504", "227", "200", "227", "200", "227"
        ]
    );
    assert_eq!(
        outside.events,
        [
            "start tls",
            "reserve 10.0.0.5:50000",
            "release",
            "reserve 10.0.0.5:50001 tls",
            "release",
            "reserve 10.0.0.5:50002"
        ]
    );
}

#[test]
fn transfers_in_clear_are_refused_where_they_must() {
    let terms = Terms {
        implicit_tls: true,
        data_tls_required: true,
        ..offering(AuthTls::Off)
    };
    let played = play_tls(terms, &[s(HI), c("PROT C\r\nRETR x\r\n")]);
    assert_eq!(played.server, "RETR x\r\n");
    let terms = Terms {
        data_tls_required: true,
        ..offering(AuthTls::On)
    };
    let played = play_tls(terms, &[s(HI), c("RETR x\r\n")]);
    assert_eq!(played.server, "");
    assert!(played.client.contains("\r\n522 "));
}

#[test]
fn feat_promises_what_the_proxy_offers() {
    let played = play_tls(
        offering(AuthTls::On),
        &[
            s(HI),
            c("FEAT\r\n"),
            s("211-Features:\r\n AUTH GSSAPI\r\n EPSV\r\n211 End\r\n"),
        ],
    );
    assert_eq!(
        played.client,
        "220 Hi\r\n211-Features:\r\n EPSV\r\n AUTH TLS\r\n AUTH SSL\r\n PBSZ\r\n PROT\r\n211 End\r\n"
    );
}

#[test]
fn proxy_asks_the_server_for_private_data_and_swallows_the_answers() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    let dialogue = [
        s(HI),
        c("USER a\r\n"),
        s("331 x\r\n"),
        c("PASS b\r\nSYST\r\n"),
        s("230-x\r\n230 in\r\n215 UNIX\r\n200 PBSZ=0\r\n"),
        c("PBSZ 0\r\n"),
        s("200-Protection\r\n200 is private\r\n"),
        c("PASV\r\n"),
        s("227 (10,0,0,5,195,80)\r\n"),
    ];
    for chunk in [1, 3, usize::MAX] {
        let mut outside = Outside::default();
        play_with(&mut Session::new(terms), &mut outside, &dialogue, chunk);
        assert_eq!(
            String::from_utf8_lossy(&outside.to_server),
            "USER a\r\nPASS b\r\nSYST\r\nPBSZ 0\r\nPROT P\r\nPASV\r\n"
        );
        assert_eq!(
            String::from_utf8_lossy(&outside.to_client),
            "220 Hi\r\n331 x\r\n230-x\r\n230 in\r\n215 UNIX\r\n503 AUTH TLS first.\r\n\
             227 (203,0,113,5,39,16)\r\n"
        );
        assert_eq!(
            outside.events.last().unwrap(),
            "reserve 10.0.0.5:50000 server-tls"
        );
    }
}

#[test]
fn reply_to_abor_before_the_proxys_own_is_passed_on() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    let played = play_tls(
        terms,
        &[
            s(HI),
            c("RETR a\r\nUSER a\r\nABOR\r\n"),
            s("530 x\r\n230 in\r\n226 none\r\n200 ok\r\n200 ok\r\n"),
        ],
    );
    assert_eq!(played.client, "220 Hi\r\n530 x\r\n230 in\r\n226 none\r\n");
}

#[test]
fn server_that_refuses_private_data_is_told_of() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    let played = play_tls(
        terms,
        &[
            s(HI),
            c("USER a\r\n"),
            s("230 in\r\n500 what\r\n500 what\r\n"),
            c("NOOP\r\n"),
            s("200 ok\r\n"),
        ],
    );
    assert_eq!(played.client, "220 Hi\r\n230 in\r\n200 ok\r\n");
    assert!(played.events.last().unwrap().contains("refused"));
}

#[test]
fn server_decides_for_both_legs_where_both_do_tls() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        implicit_tls: true,
        ..offering(AuthTls::Off)
    };
    let played = play_tls(
        terms,
        &[
            s(HI),
            c("USER a\r\n"),
            s("230 in\r\n"),
            c("PBSZ 0\r\nPROT P\r\nPASV\r\nPROT C\r\nPASV\r\n"),
            s("200 ok\r\n200 ok\r\n227 (10,0,0,5,195,80)\r\n"),
            s("534 no\r\n227 (10,0,0,5,195,81)\r\n"),
        ],
    );
    assert!(
        played
            .server
            .ends_with("PBSZ 0\r\nPROT P\r\nPASV\r\nPROT C\r\nPASV\r\n")
    );
    assert_eq!(
        played.events[2..],
        [
            "reserve 10.0.0.5:50000 both-tls",
            "reserve 10.0.0.5:50001 both-tls"
        ]
    );
}

#[test]
fn pasv_pipelined_behind_the_login_is_not_in_clear() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    let played = play_tls(
        terms,
        &[
            s(HI),
            c("USER a\r\nPASV\r\n"),
            s("230 in\r\n227 (10,0,0,5,195,80)\r\n200 ok\r\n200 ok\r\n"),
            c("REIN\r\n"),
        ],
    );
    assert_eq!(played.server, "USER a\r\nPASV\r\nPBSZ 0\r\nPROT P\r\n");
    assert_eq!(
        played.events.last().unwrap(),
        "reserve 10.0.0.5:50000 server-tls"
    );
    assert!(played.client.ends_with("502 Command not implemented.\r\n"));
}

#[test]
fn passive_reply_to_the_proxys_own_command_is_swallowed() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    for replies in [
        "227 x (10,0,0,5,195,80)\r\n200 ok\r\n",
        "200 ok\r\n229 x (|||6446|)\r\n",
        "150 x\r\n200 ok\r\n100-x\r\n100 y\r\n200 ok\r\n",
    ] {
        let dialogue = [
            s(HI),
            c("USER a\r\n"),
            s("230 in\r\n"),
            s(replies),
            c("NOOP\r\nAUTH TLS\r\n"),
            s("200 noop\r\n"),
        ];
        let played = play_tls(terms, &dialogue);
        let no = "502 AUTH is not available.\r\n";
        assert_eq!(played.client, format!("{HI}230 in\r\n200 noop\r\n{no}"));
        let refused = "server refused \"PROT P\" with 229: its data connections are in clear";
        let is_told = played.events.contains(&refused.to_owned());
        assert_eq!(is_told, replies.contains("229"), "{:?}", played.events);
    }
}

#[test]
fn greeting_may_be_the_login() {
    let terms = Terms {
        server_tls: ServerTls::Implicit,
        ..offering(AuthTls::Off)
    };
    let dialogue = [
        s("230 in\r\n"),
        s("200 PBSZ=0\r\n"),
        c("PASV\r\n"),
        s("200 private\r\n227 (10,0,0,5,195,80)\r\n"),
    ];
    let played = play_tls(terms, &dialogue);
    assert_eq!(played.server, "PBSZ 0\r\nPROT P\r\nPASV\r\n");
    assert_eq!(played.client, "230 in\r\n227 (203,0,113,5,39,16)\r\n");
    assert_eq!(played.events, ["reserve 10.0.0.5:50000 server-tls"]);
}

#[test]
fn what_was_reserved_is_not_used_as_it_is_no_longer_protected_or_not() {
    let passive = "227 (10,0,0,5,195,80)\r\n";
    // The proxy answers.
    for (auth, prot, dies) in [
        ("AUTH TLS\r\n", "PBSZ 0\r\nPROT C\r\n", false),
        ("AUTH TLS\r\n", "PBSZ 0\r\nPROT P\r\n", true),
        ("AUTH SSL\r\n", "", true),
    ] {
        let mut outside = Outside::default();
        let mut session = Session::new(Terms {
            data_tls_required: prot.contains('P') && dies,
            ..offering(AuthTls::On)
        });
        let clear = [s(HI), c("PASV\r\n"), s(passive), c(auth)];
        play_with(&mut session, &mut outside, &clear, 5);
        session.secured();
        play_with(&mut session, &mut outside, &[c(prot), c("RETR a\r\n")], 5);
        let died = outside.events.contains(&"release".to_owned());
        assert_eq!(died, dies, "{auth}{prot}: {:?}", outside.events);
    }
    // The server answers.
    for (prot, answer, dies) in [
        ("PROT C\r\n", "200 ok\r\n", true),
        ("PROT C\r\n", "534 no\r\n", false),
        ("PROT P\r\n", "200 ok\r\n", false),
    ] {
        let terms = Terms {
            server_tls: ServerTls::Explicit,
            implicit_tls: true,
            ..offering(AuthTls::Off)
        };
        let dialogue = [
            s(HI),
            c("PBSZ 0\r\nPROT P\r\nPASV\r\n"),
            s("200 ok\r\n200 ok\r\n"),
            s(passive),
            c(prot),
            s(answer),
        ];
        let played = play_tls(terms, &dialogue);
        let dead = played.events.last().unwrap() == "release";
        assert_eq!(dead, dies, "{prot}{answer}: {:?}", played.events);
    }
}

#[test]
fn local_reply_before_a_passive_one_goes_out_though_an_earlier_reply_is_lost() {
    let played = play(&[
        s(HI),
        c("NOOP\r\nAUTH TLS\r\nPASV\r\n"),
        s("227 (10,0,0,5,195,80)\r\n"),
    ]);
    let replies = "502 AUTH is not available.\r\n227 (203,0,113,5,39,16)\r\n";
    assert_eq!(played.client, format!("{HI}{replies}"));
}

#[test]
fn goodbye_is_passed_on_where_the_proxys_own_is_awaited() {
    let terms = Terms {
        server_tls: ServerTls::Explicit,
        ..offering(AuthTls::Off)
    };
    let dialogue = [s(HI), c("USER a\r\n"), s("230 in\r\n421-Bye\r\n421 x\r\n")];
    let played = play_tls(terms, &dialogue);
    let expected = format!("{HI}230 in\r\n421-Bye\r\n421 x\r\n");
    assert_eq!(played.client, expected);
}

#[test]
fn malformed_commands_are_noted_once() {
    let played = play(&[s(HI), c("N\x01P\r\nP\x02\r\nX\x7f\r\n")]);
    let refused = "500 Command not understood.\r\n";
    assert_eq!(played.client, format!("{HI}{refused}{refused}{refused}"));
    assert_eq!(played.events, ["client sent malformed command"]);
}

#[test]
fn rein_forgets_who_was_there() {
    let mut session = session(true);
    let mut outside = Outside::default();
    let login = [s(HI), c("USER joe\r\nRETR a\r\n"), s("230 x\r\n550 x\r\n")];
    play_with(&mut session, &mut outside, &login, 5);
    assert_eq!(session.user(), b"joe");
    assert!(session.transfer().is_some());
    play_with(&mut session, &mut outside, &[c("REIN\r\n")], 5);
    assert_eq!((session.user(), session.transfer()), (&b""[..], None));
}

#[test]
fn protection_buffer_size_comes_first_and_is_a_number() {
    for (auth, codes) in [
        ("AUTH TLS\r\n", ["501", "501", "503", "200", "200"]),
        ("AUTH SSL\r\n", ["501", "501", "200", "200", "200"]),
        ("AUTH TLS-P\r\n", ["501", "501", "200", "200", "200"]),
    ] {
        let mut session = Session::new(offering(AuthTls::On));
        let mut outside = Outside::default();
        play_with(&mut session, &mut outside, &[s(HI), c(auth)], 5);
        session.secured();
        outside.to_client.clear();
        let dialogue = [c("PBSZ\r\nPBSZ x\r\nPROT P\r\nPBSZ 0\r\nPROT P\r\n")];
        play_with(&mut session, &mut outside, &dialogue, 5);
        let text = String::from_utf8(outside.to_client).unwrap();
        let told: Vec<&str> = text.lines().map(|line| &line[..3]).collect();
        assert_eq!(told, codes, "{auth}");
    }
}

#[test]
fn server_is_asked_for_private_data_once_and_for_who_takes_them_for_granted() {
    let ask = "PBSZ 0\r\nPROT P\r\n";
    for server_tls in [ServerTls::Explicit, ServerTls::Implicit] {
        for implicit_tls in [true, false] {
            let terms = Terms {
                server_tls,
                implicit_tls,
                ..offering(AuthTls::Off)
            };
            let dialogue = [
                s(HI),
                c("USER a\r\n"),
                s("230 in\r\n200 PBSZ=0\r\n200 private\r\n"),
                c("USER b\r\n"),
                s("230 in\r\n"),
            ];
            let played = play_tls(terms, &dialogue);
            let expected = format!("USER a\r\n{ask}USER b\r\n");
            assert_eq!(played.server, expected, "{server_tls:?} {implicit_tls}");
        }
    }
}
