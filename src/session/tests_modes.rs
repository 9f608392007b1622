//! Active mode and translation: dialogues of each pair of modes and what is refused, replayed whole and in pieces.

use std::net::{IpAddr, SocketAddr};

use super::tests::Side::{C, S};
use super::tests::{HI, Outside, Played, Side, c, of_client, s};
use super::*;

pub(super) const V4: &str = "192.0.2.9:40000";
pub(super) const V6: &str = "[2001:db8::9]:40000";

/// A control connection: where the client is, what it may, what the server is asked for, where that one is.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    pub(super) terms: Terms,
    server_is_ipv4: bool,
    room: Option<u16>,
}

pub(super) fn scene(
    client: &str,
    allowed: ClientModes,
    server: ServerMode,
    server_is_ipv4: bool,
) -> Scene {
    let modes = Modes {
        allowed,
        server,
        ..of_client(client)
    };
    Scene {
        terms: Terms {
            modes,
            ..Terms::default()
        },
        server_is_ipv4,
        room: None,
    }
}

/// IPv4 on both legs, any mode of the client.
pub(super) fn toward(server: ServerMode) -> Scene {
    scene(V4, ClientModes::Any, server, true)
}

/// A session under way. What the machine does not take of either side's bytes it is offered again.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) outside: Outside,
    pub(super) unread: Vec<u8>,
    /// Of the server's bytes.
    pub(super) held: Vec<u8>,
}

impl Running {
    pub(super) fn new(scene: Scene) -> Self {
        let mut session = Session::new(scene.terms);
        session.connected(Some(scene.server_is_ipv4));
        let proxy: IpAddr = match scene.server_is_ipv4 {
            true => "198.51.100.5".parse().unwrap(),
            false => "2001:db8:1::5".parse().unwrap(),
        };
        Self {
            session,
            outside: Outside {
                toward_server: Some(proxy),
                room: scene.room,
                ..Outside::default()
            },
            unread: Vec::new(),
            held: Vec::new(),
        }
    }

    pub(super) fn client_says(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let taken = self.session.from_client(&self.unread, &mut self.outside);
        self.unread.drain(..taken);
        assert!(self.unread.is_empty() || !self.session.takes_commands());
    }

    pub(super) fn server_says(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let taken = self.session.from_server(&self.held, &mut self.outside);
        self.held.drain(..taken);
        assert!(self.held.is_empty() || self.session.holds());
        if self.session.takes_commands() {
            self.client_says(b"");
        }
    }

    pub(super) fn play(&mut self, dialogue: &[Side<'_>], chunk: usize) {
        for side in dialogue {
            match side {
                C(bytes) => bytes
                    .chunks(chunk)
                    .for_each(|piece| self.client_says(piece)),
                S(bytes) => bytes
                    .chunks(chunk)
                    .for_each(|piece| self.server_says(piece)),
            }
        }
    }

    pub(super) fn played(self) -> Played {
        Played {
            server: String::from_utf8_lossy(&self.outside.to_server).into_owned(),
            client: String::from_utf8_lossy(&self.outside.to_client).into_owned(),
            events: self.outside.events,
        }
    }
}

pub(super) fn play_chunked(scene: Scene, dialogue: &[Side<'_>], chunk: usize) -> Played {
    let mut running = Running::new(scene);
    running.play(dialogue, chunk);
    assert_eq!(running.unread, b"", "the client is not read");
    running.played()
}

/// Plays the dialogue whole and in pieces of 1 to 12 bytes; the outcome must be the same.
pub(super) fn play(scene: Scene, dialogue: &[Side<'_>]) -> Played {
    let whole = play_chunked(scene, dialogue, usize::MAX);
    for chunk in 1..=12 {
        let split = play_chunked(scene, dialogue, chunk);
        assert_eq!(split, whole, "pieces of {chunk}");
    }
    whole
}

/// The first three letters of every line.
pub(super) fn codes(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.get(..3)).collect()
}

pub(super) const PORT: &str = "PORT 192,0,2,9,156,65\r\n";
pub(super) const OK: &str = "200 ok\r\n";

// --- each pair of modes ---

#[test]
fn active_to_active() {
    let played = play(
        toward(ServerMode::Client),
        &[
            s(HI),
            c(PORT),
            s("200 PORT fine, consider PASV\r\n"),
            c("RETR a b\r\n"),
            s("150 Go\r\n226 Done\r\n"),
        ],
    );
    assert_eq!(played.server, "PORT 198,51,100,5,39,16\r\nRETR a b\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n200 PORT fine, consider PASV\r\n150 Go\r\n226 Done\r\n"
    );
    assert_eq!(
        played.events,
        ["release", "active 192.0.2.9:40001 PORT", "annotate RETR"]
    );
}

#[test]
fn active_to_active_between_families() {
    let v6 = scene(V6, ClientModes::Any, ServerMode::Client, true);
    let command = "EPRT |2|2001:db8::9|40001|\r\n";
    let played = play(v6, &[s(HI), c(command), s(OK)]);
    assert_eq!(played.server, "PORT 198,51,100,5,39,16\r\n");
    assert_eq!(played.events[1], "active [2001:db8::9]:40001 EPRT");
    for command in [
        PORT,
        "EPRT !1!192.0.2.9!40001!\r\n",
        "eprt |2|::ffff:192.0.2.9|40001|\n",
    ] {
        let v4 = scene(V4, ClientModes::Active, ServerMode::Active, false);
        let played = play(v4, &[s(HI), c(command), s(OK)]);
        assert_eq!(played.server, "EPRT |2|2001:db8:1::5|10000|\r\n");
        assert!(played.events[1].starts_with("active 192.0.2.9:40001 "));
    }
}

#[test]
fn active_to_passive() {
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c(PORT),
            s("229 Extended (|||6446|)\r\n"),
            c("REST 5\r\n"),
            s("350 ok\r\n"),
            c("STOR a\r\n"),
            s("150 Go\r\n226 Done\r\n"),
            c("LIST\r\n"),
            s("425 Use PASV first\r\n"),
        ],
    );
    assert_eq!(played.server, "EPSV\r\nREST 5\r\nSTOR a\r\nLIST\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n200 PORT command successful.\r\n350 ok\r\n150 Go\r\n226 Done\r\n\
         425 Use PASV first\r\n"
    );
    assert_eq!(
        played.events,
        [
            "release",
            "dialled 192.0.2.9:40001 peer:6446 PORT",
            "annotate STOR",
            "dial",
            "annotate LIST"
        ]
    );
}

#[test]
fn active_to_passive_falls_back_to_pasv_once_for_all() {
    for refusal in ["500 what\r\n", "502-no\r\n502 no\r\n", "522 no\r\n"] {
        let played = play(
            toward(ServerMode::Passive),
            &[
                s(HI),
                c("EPRT |1|192.0.2.9|40001|\r\n"),
                s(refusal),
                s("227 Passive (10,0,0,5,195,80)\r\n"),
                c("EPRT |1|192.0.2.9|40002|\r\n"),
                s("227 Passive (10,0,0,5,195,81)\r\n"),
            ],
        );
        assert_eq!(played.server, "EPSV\r\nPASV\r\nPASV\r\n");
        assert_eq!(
            played.client,
            "220 Hi\r\n200 EPRT command successful.\r\n200 EPRT command successful.\r\n"
        );
        assert_eq!(
            played.events[1..],
            [
                "dialled 192.0.2.9:40001 10.0.0.5:50000 EPRT",
                "release",
                "dialled 192.0.2.9:40002 10.0.0.5:50001 EPRT"
            ]
        );
    }
}

#[test]
fn active_to_passive_has_no_pasv_toward_ipv6() {
    let scene = scene(V4, ClientModes::Any, ServerMode::Passive, false);
    let played = play(scene, &[s(HI), c(PORT), s("500 what\r\n")]);
    assert_eq!(played.server, "EPSV\r\n");
    assert_eq!(codes(&played.client), ["220", "425"]);
    assert_eq!(
        played.events,
        ["release", "release", "server refused \"EPSV\" with 500"]
    );
}

#[test]
fn passive_to_active() {
    for (command, reply) in [
        (
            "PASV\r\n",
            "227 Entering Passive Mode (203,0,113,5,39,17)\r\n",
        ),
        (
            "EPSV\r\n",
            "229 Entering Extended Passive Mode (|||10001|)\r\n",
        ),
        (
            "EPSV 1\r\n",
            "229 Entering Extended Passive Mode (|||10001|)\r\n",
        ),
    ] {
        let played = play(
            toward(ServerMode::Active),
            &[
                s(HI),
                c(command),
                s("200 PORT (10,0,0,5,1,2) fine\r\n"),
                c("LIST\r\n"),
                s("150 Go\r\n226 x\r\n"),
            ],
        );
        assert_eq!(played.server, "PORT 198,51,100,5,39,16\r\nLIST\r\n");
        assert_eq!(
            played.client,
            format!("220 Hi\r\n{reply}150 Go\r\n226 x\r\n")
        );
        let mode = &command[..4];
        let expected = [
            "release".to_owned(),
            format!("for server {mode}"),
            format!("for client {mode}"),
            "annotate LIST".to_owned(),
        ];
        assert_eq!(played.events, expected);
    }
    let v6 = scene(V4, ClientModes::Passive, ServerMode::Active, false);
    let played = play(v6, &[s(HI), c("PASV\r\n"), s(OK)]);
    assert_eq!(played.server, "EPRT |2|2001:db8:1::5|10000|\r\n");
    assert_eq!(codes(&played.client), ["220", "227"]);
}

#[test]
fn passive_to_passive() {
    for server in [ServerMode::Client, ServerMode::Passive] {
        let played = play(
            toward(server),
            &[
                s(HI),
                c("PASV\r\n"),
                s("227 =10,0,0,5,195,80\r\n"),
                c("EPSV 1\r\n"),
                s("229 Extended (|||6446|)\r\n"),
                c("NLST\r\n"),
                s("150 Go\r\n226 Done\r\n"),
            ],
        );
        assert_eq!(played.server, "PASV\r\nEPSV 1\r\nNLST\r\n");
        assert_eq!(
            played.client,
            "220 Hi\r\n227 =(203,0,113,5,39,16)\r\n229 Extended (|||10001|)\r\n150 Go\r\n226 Done\r\n"
        );
        assert_eq!(
            played.events,
            [
                "release",
                "reserve 10.0.0.5:50000",
                "release",
                "reserve peer:6446",
                "annotate NLST"
            ]
        );
    }
}

#[test]
fn server_without_epsv_is_asked_with_pasv() {
    let unlike = scene(V6, ClientModes::Passive, ServerMode::Client, true);
    for scene in [toward(ServerMode::Passive), unlike] {
        let played = play(
            scene,
            &[
                s(HI),
                c("EPSV\r\n"),
                s("500 what\r\n"),
                s("227 (10,0,0,5,195,80)\r\n"),
                c("EPSV\r\n"),
                s("227 (10,0,0,5,195,81)\r\n"),
            ],
        );
        assert_eq!(played.server, "EPSV\r\nPASV\r\nPASV\r\n");
        assert_eq!(
            played.client,
            "220 Hi\r\n229 Entering Extended Passive Mode (|||10000|)\r\n\
             229 Entering Extended Passive Mode (|||10001|)\r\n"
        );
    }
    // R26: a client that could say PASV itself is told.
    let played = play(
        toward(ServerMode::Client),
        &[s(HI), c("EPSV\r\n"), s("500 what\r\n")],
    );
    assert_eq!(played.client, "220 Hi\r\n500 what\r\n");
}

#[test]
fn protocol_of_the_client_is_not_the_servers() {
    let played = play(
        scene(V6, ClientModes::Passive, ServerMode::Client, true),
        &[
            s(HI),
            c("EPSV 2\r\n"),
            s("522 use (1)\r\n"),
            s("229 x (|||6446|)\r\n"),
        ],
    );
    assert_eq!(played.server, "EPSV 2\r\nEPSV\r\n");
    assert_eq!(played.client, "220 Hi\r\n229 x (|||10000|)\r\n");
    let played = play(
        scene(V6, ClientModes::Passive, ServerMode::Client, true),
        &[
            s(HI),
            c("EPSV 2\r\n"),
            s("522 use (1)\r\n522 no\r\n227 (10,0,0,5,195,80)\r\n"),
        ],
    );
    assert_eq!(played.server, "EPSV 2\r\nEPSV\r\nPASV\r\n");
    assert_eq!(codes(&played.client), ["220", "229"]);
    // Not its own protocol: that is the client's mistake.
    let played = play(
        scene(V6, ClientModes::Passive, ServerMode::Client, true),
        &[s(HI), c("EPSV 3\r\n"), s("522 use (1)\r\n")],
    );
    assert_eq!(played.client, "220 Hi\r\n522 use (1)\r\n");
}

#[test]
fn pasv_reaches_a_server_on_ipv6() {
    for refusal in ["425 no\r\n", "501 no\r\n", "522 no\r\n"] {
        let played = play(
            scene(V4, ClientModes::Passive, ServerMode::Client, false),
            &[
                s(HI),
                c("PASV\r\n"),
                s(refusal),
                s("229 x (|||6446|)\r\n"),
                c("PASV\r\n"),
                s("229 x (|||6447|)\r\n"),
            ],
        );
        assert_eq!(played.server, "PASV\r\nEPSV\r\nEPSV\r\n");
        assert_eq!(
            played.client,
            "220 Hi\r\n227 Entering Passive Mode (203,0,113,5,39,16)\r\n\
             227 Entering Passive Mode (203,0,113,5,39,17)\r\n"
        );
    }
    // A server that answers all the same is believed.
    let played = play(
        scene(V4, ClientModes::Passive, ServerMode::Client, false),
        &[s(HI), c("PASV\r\n"), s("227 x (0,0,0,0,195,80)\r\n")],
    );
    assert_eq!(played.client, "220 Hi\r\n227 x (203,0,113,5,39,16)\r\n");
}

// --- what is refused ---

#[test]
fn addresses_are_checked() {
    for server in [ServerMode::Client, ServerMode::Passive, ServerMode::Active] {
        for (command, code) in [
            ("PORT 192,0,2,9,0,25", "504"),
            ("PORT 192,0,2,9,3,255", "504"),
            ("PORT 192,0,2,10,156,65", "504"),
            ("PORT 127,0,0,1,156,65", "504"),
            ("PORT 0,0,0,0,156,65", "504"),
            ("PORT 192,0,2,9,256,22", "501"),
            ("PORT 192,0,2,9,124,22_", "501"),
            ("PORT 192,0,2,9,0,0", "501"),
            ("PORT", "501"),
            ("EPRT |2|1080::8:800:200C:417A|5282|", "504"),
            ("EPRT |2|::ffff:192.0.2.10|5282|", "504"),
            ("EPRT !2!::1!80!", "504"),
            ("EPRT |1|192.0.2.9|1023|", "504"),
            ("EPRT |1|192.0.2.9|65536|", "501"),
            ("EPRT |1|192.0.2.9|40001", "501"),
            ("EPRT |3|192.0.2.9|40001|", "522"),
        ] {
            let line = format!("{command}\r\n");
            let played = play(toward(server), &[s(HI), c(&line)]);
            assert_eq!(codes(&played.client), ["220", code], "{command}");
            assert_eq!(played.server, "");
            assert_eq!(played.events[0], "release");
            assert!(played.events.len() <= 2);
        }
        for (port, told) in [("4,0", "1024"), ("255,255", "65535")] {
            let line = format!("PORT 192,0,2,9,{port}\r\n");
            let played = play(toward(server), &[s(HI), c(&line), s("229 (|||6446|)\r\n")]);
            let all = played.events.join(" ");
            assert!(all.contains(told) || server != ServerMode::Passive, "{all}");
            assert_ne!(played.server, "");
        }
    }
    let played = play(
        toward(ServerMode::Client),
        &[s(HI), c("PORT 192,0,2,10,0,25\r\n")],
    );
    let foreign = "client asked for data connection to another address";
    assert_eq!(played.events, ["release", foreign]);
    // A balancer's, which is the connection's own.
    let mut scene = toward(ServerMode::Client);
    scene.terms.modes.behind_balancer = true;
    let played = play(scene, &[s(HI), c("PORT 192,0,2,9,4,1\r\n")]);
    assert_eq!(played.events, ["release", foreign]);
    let played = play(
        toward(ServerMode::Client),
        &[s(HI), c("PORT 192,0,2,9,0,25\r\n")],
    );
    let privileged = "client announced privileged data port 25";
    assert_eq!(played.events, ["release", privileged]);
    assert!(Note::ForeignAddress.is_of_client() && Note::PrivilegedClientPort(25).is_of_client());
}

#[test]
fn zone_of_a_link_local_client_is_kept() {
    let scene = scene(
        "[fe80::9%7]:40000",
        ClientModes::Any,
        ServerMode::Client,
        false,
    );
    let played = play(scene, &[s(HI), c("EPRT |2|fe80::9|40001|\r\n"), s(OK)]);
    let address: SocketAddr = "[fe80::9%7]:40001".parse().unwrap();
    assert_eq!(played.events[1], format!("active {address} EPRT"));
}

#[test]
fn client_without_an_address_has_no_active_mode() {
    let mut scene = toward(ServerMode::Client);
    scene.terms.modes.client = None;
    let played = play(scene, &[s(HI), c(PORT)]);
    assert_eq!(codes(&played.client), ["220", "504"]);
}

#[test]
fn modes_that_are_not_allowed_are_refused() {
    for server in [ServerMode::Client, ServerMode::Passive, ServerMode::Active] {
        let active = scene(V4, ClientModes::Active, server, true);
        let played = play(
            active,
            &[s(HI), c("PASV\r\nEPSV\r\nEPSV 2\r\nEPSV ALL\r\n")],
        );
        assert_eq!(codes(&played.client), ["220", "502", "502", "502", "502"]);
        assert_eq!(played.server, "");
        let passive = scene(V4, ClientModes::Passive, server, true);
        let eprt = "EPRT |1|192.0.2.9|40001|\r\n";
        let played = play(passive, &[s(HI), c(PORT), c(eprt)]);
        assert_eq!(codes(&played.client), ["220", "504", "504"]);
        assert_eq!(played.server, "");
    }
}

#[test]
fn epsv_of_the_proxys_own_knows_its_protocol() {
    for (client, commands, expected) in [
        (
            V4,
            "EPSV 2\r\nEPSV 3\r\nEPSV x\r\n",
            ["522 Network protocol not supported, use (1)", "522", "501"],
        ),
        (
            V6,
            "EPSV 1\r\nEPSV 3\r\nEPSV x\r\n",
            ["522 Network protocol not supported, use (2)", "522", "501"],
        ),
    ] {
        let scene = scene(client, ClientModes::Any, ServerMode::Active, true);
        let played = play(scene, &[s(HI), c(commands)]);
        for (line, expected) in played.client.lines().skip(1).zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
        assert_eq!(played.client.lines().count(), 4);
    }
    let v6 = scene(V6, ClientModes::Any, ServerMode::Active, true);
    let played = play(v6, &[s(HI), c("PASV\r\n"), c("EPSV 2\r\n"), s(OK)]);
    assert_eq!(codes(&played.client), ["220", "425", "229"]);
}

#[test]
fn epsv_all_is_kept_to() {
    // The server's to refuse.
    let played = play(
        toward(ServerMode::Client),
        &[
            s(HI),
            c("EPSV ALL\r\n"),
            s(OK),
            c("PASV\r\n"),
            s("501 no\r\n"),
            c(PORT),
            s("501 no\r\n"),
        ],
    );
    assert_eq!(
        played.server,
        "EPSV ALL\r\nPASV\r\nPORT 198,51,100,5,39,16\r\n"
    );
    assert_eq!(codes(&played.client), ["220", "200", "501", "501"]);
    // The proxy's where it translates.
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c("EPSV all\r\n"),
            s(OK),
            c("PASV\r\n"),
            s("501 no\r\n"),
            c(PORT),
        ],
    );
    assert_eq!(played.server, "EPSV all\r\nPASV\r\n");
    assert_eq!(codes(&played.client), ["220", "200", "501", "501"]);
    // No other way around it.
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c("EPSV ALL\r\n"),
            s(OK),
            c("EPSV\r\n"),
            s("500 no\r\n"),
        ],
    );
    assert_eq!(played.server, "EPSV ALL\r\nEPSV\r\n");
    // The proxy's altogether.
    let played = play(
        toward(ServerMode::Active),
        &[
            s(HI),
            c("EPSV ALL\r\nPASV\r\n"),
            c(PORT),
            c("EPSV\r\n"),
            s(OK),
        ],
    );
    assert_eq!(codes(&played.client), ["220", "200", "501", "501", "229"]);
    // Refused, or a new session.
    for (command, reply) in [
        ("EPSV ALL\r\n", "500 what\r\n"),
        ("EPSV ALL\r\nREIN\r\n", "200 ok\r\n220 Hi\r\n"),
    ] {
        let played = play(
            toward(ServerMode::Passive),
            &[
                s(HI),
                c(command),
                s(reply),
                c(PORT),
                s("229 (|||6446|)\r\n"),
            ],
        );
        assert!(played.client.ends_with("200 PORT command successful.\r\n"));
    }
}

#[test]
fn refused_port_is_released() {
    let played = play(
        toward(ServerMode::Client),
        &[
            s(HI),
            c(PORT),
            s("500-Illegal\r\n500 PORT\r\n"),
            c("LIST\r\n"),
        ],
    );
    assert_eq!(played.client, "220 Hi\r\n500-Illegal\r\n500 PORT\r\n");
    assert_eq!(
        played.events,
        [
            "release",
            "active 192.0.2.9:40001 PORT",
            "release",
            "annotate LIST"
        ]
    );
}

#[test]
fn addresses_of_the_servers_side_are_not_told() {
    let long = format!("200 {}\r\n", "x".repeat(5000));
    for (reply, expected) in [
        (
            "200 will dial 198,51,100,5,39,16\r\n",
            "200 PORT command successful.\r\n",
        ),
        (
            "200 will dial 198.51.100.5\r\n",
            "200 PORT command successful.\r\n",
        ),
        ("500 no 2001:db8:1::5\r\n", "500 Command refused.\r\n"),
        ("500 no 1:2:3:4:5:6:7:8\r\n", "500 Command refused.\r\n"),
        ("200 at 12:30:59\r\n", "200 at 12:30:59\r\n"),
        (long.as_str(), "200 PORT command successful.\r\n"),
    ] {
        let played = play(toward(ServerMode::Client), &[s(HI), c(PORT), s(reply)]);
        assert_eq!(played.client, format!("220 Hi\r\n{expected}"), "{reply}");
    }
}

#[test]
fn refusal_of_the_other_mode_is_told_where_it_fits() {
    for (reply, expected, noted) in [
        ("530 Log in\r\n", "530 Log in\r\n", 2),
        ("532 Account\r\n", "532 Account\r\n", 2),
        ("425 Not now\r\n", "425 Not now\r\n", 2),
        ("550 No\r\n", "425 Can't open data connection.\r\n", 3),
    ] {
        let cases = [
            (ServerMode::Passive, PORT, 2),
            (ServerMode::Active, "PASV\r\n", 3),
        ];
        for (server, command, events) in cases {
            let played = play(toward(server), &[s(HI), c(command), s(reply)]);
            assert_eq!(played.client, format!("220 Hi\r\n{expected}"));
            assert_eq!(
                played.events.len(),
                events - 2 + noted,
                "{:?}",
                played.events
            );
        }
    }
}

#[test]
fn no_port_becomes_425_on_either_side() {
    for (server, command, reply, room) in [
        (ServerMode::Client, PORT, "", 0),
        (ServerMode::Passive, PORT, "229 (|||6446|)\r\n", 0),
        (ServerMode::Active, "PASV\r\n", "", 0),
        (ServerMode::Active, "EPSV\r\n", OK, 1),
        (ServerMode::Client, "EPSV\r\n", "229 (|||6446|)\r\n", 0),
    ] {
        let scene = Scene {
            room: Some(room),
            ..toward(server)
        };
        let played = play(scene, &[s(HI), c(command), s(reply), c("NOOP\r\n"), s(OK)]);
        assert_eq!(codes(&played.client), ["220", "425", "200"]);
    }
}
