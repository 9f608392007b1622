//! Active mode and translation: dialogues of each pair of modes, replayed whole and in pieces, and sessions of
//! random commands against random servers.

use std::net::{IpAddr, SocketAddr};

use super::tests::Side::{C, S};
use super::tests::{HI, Outside, Played, Side, c, of_client, s};
use super::*;

const V4: &str = "192.0.2.9:40000";
const V6: &str = "[2001:db8::9]:40000";

/// A control connection: where the client is, what it may, what the server is asked for, where that one is.
#[derive(Clone, Copy)]
struct Scene {
    terms: Terms,
    server_is_ipv4: bool,
    room: Option<u16>,
}

fn scene(client: &str, allowed: ClientModes, server: ServerMode, server_is_ipv4: bool) -> Scene {
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
fn toward(server: ServerMode) -> Scene {
    scene(V4, ClientModes::Any, server, true)
}

/// A session under way. What the machine does not take of the client's bytes it is offered again.
struct Running {
    session: Session,
    outside: Outside,
    unread: Vec<u8>,
}

impl Running {
    fn new(scene: Scene) -> Self {
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
        }
    }

    fn from_client(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let taken = self.session.from_client(&self.unread, &mut self.outside);
        self.unread.drain(..taken);
        assert!(self.unread.is_empty() || !self.session.takes_commands());
    }

    fn from_server(&mut self, bytes: &[u8]) {
        self.session.from_server(bytes, &mut self.outside);
        if self.session.takes_commands() {
            self.from_client(b"");
        }
    }

    fn play(&mut self, dialogue: &[Side<'_>], chunk: usize) {
        for side in dialogue {
            match side {
                C(bytes) => bytes
                    .chunks(chunk)
                    .for_each(|piece| self.from_client(piece)),
                S(bytes) => bytes
                    .chunks(chunk)
                    .for_each(|piece| self.from_server(piece)),
            }
        }
    }

    fn played(self) -> Played {
        Played {
            server: String::from_utf8_lossy(&self.outside.to_server).into_owned(),
            client: String::from_utf8_lossy(&self.outside.to_client).into_owned(),
            events: self.outside.events,
        }
    }
}

fn play_chunked(scene: Scene, dialogue: &[Side<'_>], chunk: usize) -> Played {
    let mut running = Running::new(scene);
    running.play(dialogue, chunk);
    assert_eq!(running.unread, b"", "the client is not read");
    running.played()
}

/// Plays the dialogue whole and in pieces of 1 to 12 bytes; the outcome must be the same.
fn play(scene: Scene, dialogue: &[Side<'_>]) -> Played {
    let whole = play_chunked(scene, dialogue, usize::MAX);
    for chunk in 1..=12 {
        let split = play_chunked(scene, dialogue, chunk);
        assert_eq!(split, whole, "pieces of {chunk}");
    }
    whole
}

/// The first three letters of every line.
fn codes(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.get(..3)).collect()
}

const PORT: &str = "PORT 192,0,2,9,156,65\r\n";
const OK: &str = "200 ok\r\n";

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

// --- order ---

#[test]
fn pipelined_login_and_transfer() {
    let dialogue = format!("USER a\r\nPASS b\r\n{PORT}LIST\r\n");
    for (server, asked, agreed) in [
        (ServerMode::Client, "PORT 198,51,100,5,39,16\r\n", OK),
        (ServerMode::Passive, "EPSV\r\n", "229 (|||6446|)\r\n"),
    ] {
        let played = play(
            toward(server),
            &[
                c(&dialogue),
                s("220 Hi\r\n331 x\r\n"),
                s("230 x\r\n"),
                s(agreed),
                s("150 Go\r\n226 x\r\n"),
            ],
        );
        assert_eq!(
            played.server,
            format!("USER a\r\nPASS b\r\n{asked}LIST\r\n")
        );
        assert_eq!(
            codes(&played.client),
            ["220", "331", "230", "200", "150", "226"]
        );
        assert_eq!(played.events[..3], ["release", "release", "release"]);
        assert_eq!(played.events[4], "annotate LIST");
        assert_eq!(
            played.events.len(),
            5 + usize::from(server == ServerMode::Passive)
        );
    }
}

#[test]
fn last_of_several_active_commands_wins() {
    let commands = format!("{PORT}PORT 192,0,2,9,156,66\r\nEPRT |1|192.0.2.9|40003|\r\nLIST\r\n");
    let played = play(
        toward(ServerMode::Client),
        &[
            s(HI),
            c(&commands),
            s(OK),
            s(OK),
            s(OK),
            s("150 x\r\n226 x\r\n"),
        ],
    );
    assert_eq!(
        played.server,
        "PORT 198,51,100,5,39,16\r\nPORT 198,51,100,5,39,17\r\nPORT 198,51,100,5,39,18\r\nLIST\r\n"
    );
    let expected = [
        "release",
        "active 192.0.2.9:40001 PORT",
        "release",
        "active 192.0.2.9:40002 PORT",
        "release",
        "active 192.0.2.9:40003 EPRT",
        "annotate LIST",
    ];
    assert_eq!(played.events, expected);
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c(&commands),
            s("229 (|||6446|)\r\n"),
            s("229 (|||6447|)\r\n"),
            s("229 (|||6448|)\r\n"),
        ],
    );
    assert_eq!(played.server, "EPSV\r\nEPSV\r\nEPSV\r\nLIST\r\n");
    let last = [
        "dialled 192.0.2.9:40003 peer:6448 EPRT",
        "annotate LIST",
        "dial",
    ];
    assert_eq!(played.events[5..], last);
}

#[test]
fn next_data_connection_waits_for_the_end_of_a_transfer() {
    for server in [ServerMode::Client, ServerMode::Passive] {
        let commands = format!("RETR a\r\n{PORT}RETR b\r\n");
        let agreed = match server {
            ServerMode::Passive => "229 (|||6446|)\r\n",
            _ => OK,
        };
        let mut running = Running::new(toward(server));
        running.play(
            &[s(HI), c(PORT), s(agreed), c(&commands), s("150 x\r\n")],
            5,
        );
        let before = running.outside.events.clone();
        assert!(
            before.ends_with(&["annotate RETR".to_owned()])
                || before.ends_with(&["dial".to_owned()])
        );
        assert!(!running.session.takes_commands());
        running.play(&[s("226 x\r\n")], 5);
        assert!(running.outside.events.len() > before.len());
        running.play(&[s(agreed), s("150 x\r\n226 x\r\n")], 5);
        let played = running.played();
        assert_eq!(
            codes(&played.client),
            ["220", "200", "150", "226", "200", "150", "226"]
        );
        let dials = played
            .events
            .iter()
            .filter(|event| *event == "dial")
            .count();
        assert_eq!(dials, if server == ServerMode::Passive { 2 } else { 0 });
    }
}

#[test]
fn local_replies_stand_in_their_place() {
    let commands = format!("NOOP\r\nPORT 1\r\nSYST\r\n{PORT}AUTH TLS\r\nPWD\r\n");
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c(&commands),
            s("200 noop\r\n"),
            s("215 UNIX\r\n"),
            s("229 (|||6446|)\r\n"),
            s("257 pwd\r\n"),
        ],
    );
    assert_eq!(played.server, "NOOP\r\nSYST\r\nEPSV\r\nPWD\r\n");
    assert_eq!(
        codes(&played.client),
        ["220", "200", "501", "215", "200", "502", "257"]
    );
}

#[test]
fn what_was_reserved_dies_with_the_session_it_was_for() {
    for (command, reply) in [("USER b\r\n", "331 x\r\n"), ("REIN\r\n", "220 Hi\r\n")] {
        let played = play(
            toward(ServerMode::Passive),
            &[
                s(HI),
                c(PORT),
                s("229 (|||6446|)\r\n"),
                c(command),
                s(reply),
                c("LIST\r\n"),
            ],
        );
        assert_eq!(played.events[2..4], ["release", "release"]);
        assert_eq!(played.events.last().unwrap(), "annotate LIST");
    }
    for next in ["PASV\r\n", "PORT 1\r\n"] {
        let played = play(
            toward(ServerMode::Passive),
            &[
                s(HI),
                c(PORT),
                s("229 (|||6446|)\r\n"),
                c(next),
                s("502 x\r\n"),
                c("LIST\r\n"),
            ],
        );
        assert!(!played.events.contains(&"dial".to_owned()));
    }
}

#[test]
fn abor_stops_a_translated_transfer() {
    for replies in ["426 x\r\n226 x\r\n", "226 x\r\n", "225 x\r\n"] {
        for (server, agreed) in [
            (ServerMode::Passive, "229 (|||6446|)\r\n"),
            (ServerMode::Client, OK),
        ] {
            let played = play(
                toward(server),
                &[
                    s(HI),
                    c(PORT),
                    s(agreed),
                    c("RETR a\r\n"),
                    s("150 x\r\n"),
                    C(b"\xff\xf4\xff\xf2ABOR\r\n"),
                    s(replies),
                    c(PORT),
                    s(agreed),
                    c("PWD\r\n"),
                    s("257 pwd\r\n"),
                ],
            );
            assert!(played.server.contains("RETR a\r\nABOR\r\n"));
            let mut expected = vec!["220", "200", "150"];
            expected.extend(codes(replies));
            expected.extend(["200", "257"]);
            assert_eq!(codes(&played.client), expected);
        }
    }
}

#[test]
fn refusal_behind_an_abor_without_reply_is_not_the_abors() {
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            c("ABOR\r\n"),
            s("426 x\r\n"),
            c(PORT),
            s("500 EPSV what\r\n"),
            s("227 (10,0,0,5,195,80)\r\n"),
            c("NOOP\r\n"),
            s(OK),
        ],
    );
    assert_eq!(codes(&played.client), ["220", "150", "426", "200", "200"]);
    // What fits nothing but ABOR is passed on.
    let played = play(
        toward(ServerMode::Passive),
        &[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            c("ABOR\r\n"),
            s("426 x\r\n"),
            c(PORT),
            s("226 x\r\n229 (|||6446|)\r\n"),
        ],
    );
    assert_eq!(codes(&played.client), ["220", "150", "426", "226", "200"]);
}

// --- servers that do not answer as they should ---

#[test]
fn nothing_is_read_until_the_server_has_answered() {
    for (server, command, agreed) in [
        (ServerMode::Client, PORT, OK),
        (ServerMode::Passive, PORT, "229 (|||6446|)\r\n"),
        (ServerMode::Passive, "EPSV\r\n", "229 (|||6446|)\r\n"),
        (ServerMode::Active, "PASV\r\n", OK),
    ] {
        let mut running = Running::new(toward(server));
        running.play(&[s(HI), c(command)], 3);
        let asked = running.outside.to_server.clone();
        running.play(
            &[
                c("LIST\r\nABOR\r\nQUIT\r\n"),
                s("junk (10,0,0,5,195,80)\r\n1"),
            ],
            3,
        );
        assert_eq!(running.outside.to_server, asked);
        assert_eq!(running.outside.to_client, HI.as_bytes());
        assert!(!running.session.takes_commands());
        let mut late = b"25 not yet\r\n".to_vec();
        late.extend_from_slice(agreed.as_bytes());
        running.play(&[S(&late)], 3);
        assert!(running.unread.is_empty());
        let played = running.played();
        assert!(played.server.ends_with("LIST\r\nABOR\r\nQUIT\r\n"));
        assert_eq!(codes(&played.client).len(), 2, "{}", played.client);
    }
}

#[test]
fn goodbye_is_the_answer() {
    for (server, command) in [
        (ServerMode::Client, PORT),
        (ServerMode::Passive, PORT),
        (ServerMode::Passive, "EPSV\r\n"),
        (ServerMode::Active, "PASV\r\n"),
    ] {
        let played = play(
            toward(server),
            &[
                s(HI),
                c(command),
                s("421-Timeout\r\n421 Bye\r\n"),
                c("LIST\r\n"),
            ],
        );
        assert_eq!(played.client, "220 Hi\r\n421-Timeout\r\n421 Bye\r\n");
        assert!(
            played
                .events
                .ends_with(&["release".to_owned(), "annotate LIST".to_owned()])
        );
    }
}

#[test]
fn wrong_yes_becomes_425() {
    let long = format!("229-{}\r\n229 (|||6446|)\r\n", "x".repeat(5000));
    for (server, command, reply) in [
        (ServerMode::Passive, PORT, "200 ok\r\n"),
        (ServerMode::Passive, PORT, "227 (10,0,0,5,195,80)\r\n"),
        (ServerMode::Passive, PORT, "229 (|||0|)\r\n"),
        (ServerMode::Passive, PORT, "229 (|||22|)\r\n"),
        (ServerMode::Passive, PORT, long.as_str()),
        (ServerMode::Passive, "EPSV\r\n", "227 (10,0,0,5,195,80)\r\n"),
        (ServerMode::Passive, "PASV\r\n", "200 (10,0,0,5,195,80)\r\n"),
        (ServerMode::Client, PORT, "227 (10,0,0,5,195,80)\r\n"),
        (ServerMode::Active, "PASV\r\n", "227 (10,0,0,5,195,80)\r\n"),
        (ServerMode::Active, "EPSV\r\n", "229 (|||6446|)\r\n"),
    ] {
        let played = play(
            toward(server),
            &[s(HI), c(command), s(reply), c("NOOP\r\n"), s(OK)],
        );
        assert_eq!(codes(&played.client), ["220", "425", "200"], "{reply}");
        let end = played.events.len() - 2;
        assert_eq!(played.events[end], "release");
        assert!(played.events[end + 1].starts_with("server "));
    }
}

#[test]
fn nothing_follows_the_clients_end() {
    // A fallback.
    let mut running = Running::new(toward(ServerMode::Passive));
    running.play(&[s(HI), c(PORT)], 5);
    running.session.client_ended(&mut running.outside);
    running.play(&[s("500 what\r\n")], 5);
    assert_eq!(running.outside.to_server, b"EPSV\r\n");
    // A command that waits.
    let mut running = Running::new(toward(ServerMode::Passive));
    running.play(&[s(HI), c("USER a\r\n"), c(PORT)], 5);
    running.session.client_ended(&mut running.outside);
    running.play(&[s("230 in\r\n")], 5);
    assert_eq!(running.outside.to_server, b"USER a\r\n");
    // A line without an end.
    let mut running = Running::new(toward(ServerMode::Client));
    running.play(&[s(HI), c(PORT.trim_ascii())], 5);
    running.session.client_ended(&mut running.outside);
    assert_eq!(running.outside.to_server, b"PORT 198,51,100,5,39,16\r\n");
}

// --- TLS ---

#[test]
fn prot_of_both_legs_is_told() {
    for (server, command, agreed, event) in [
        (
            ServerMode::Client,
            PORT,
            OK,
            "active 192.0.2.9:40001 PORT both-tls",
        ),
        (
            ServerMode::Passive,
            PORT,
            "229 (|||6446|)\r\n",
            "dialled 192.0.2.9:40001 peer:6446 PORT both-tls",
        ),
        (
            ServerMode::Active,
            "PASV\r\n",
            OK,
            "for client PASV both-tls",
        ),
    ] {
        let mut scene = toward(server);
        scene.terms.implicit_tls = true;
        scene.terms.server_tls = true;
        let played = play(
            scene,
            &[
                s(HI),
                c("PBSZ 0\r\nPROT P\r\n"),
                c(command),
                s("200 ok\r\n200 ok\r\n"),
                s(agreed),
            ],
        );
        assert_eq!(played.events.last().unwrap(), event);
        let mut scene = toward(server);
        scene.terms.implicit_tls = true;
        let played = play(scene, &[s(HI), c(command), s(agreed)]);
        assert!(
            played.events.last().unwrap().ends_with(" tls"),
            "{:?}",
            played.events
        );
    }
}

#[test]
fn port_behind_the_login_waits_for_private_data() {
    let mut scene = toward(ServerMode::Client);
    scene.terms.server_tls = true;
    let commands = format!("USER a\r\n{PORT}LIST\r\n");
    let played = play(
        scene,
        &[
            s(HI),
            c(&commands),
            s("230 in\r\n"),
            s("200 ok\r\n200 ok\r\n"),
            s(OK),
        ],
    );
    assert_eq!(
        played.server,
        "USER a\r\nPBSZ 0\r\nPROT P\r\nPORT 198,51,100,5,39,16\r\nLIST\r\n"
    );
    assert_eq!(codes(&played.client), ["220", "230", "200"]);
    assert_eq!(played.events[3], "active 192.0.2.9:40001 PORT server-tls");
}

#[test]
fn nothing_is_dialled_for_a_transfer_that_must_not_be() {
    let mut scene = toward(ServerMode::Passive);
    scene.terms.auth = AuthTls::On;
    scene.terms.data_tls_required = true;
    let played = play(
        scene,
        &[s(HI), c(PORT), s("229 (|||6446|)\r\n"), c("LIST\r\n")],
    );
    assert_eq!(played.server, "EPSV\r\n");
    assert_eq!(codes(&played.client), ["220", "200", "522"]);
    assert!(!played.events.contains(&"dial".to_owned()));
}

// --- FEAT ---

#[test]
fn feat_promises_the_modes_there_are() {
    let reply = "211-Features:\r\n EPRT\r\n EPSV\r\n UTF8\r\n211 End\r\n";
    for (allowed, server, expected) in [
        (
            ClientModes::Passive,
            ServerMode::Client,
            " EPSV\r\n UTF8\r\n",
        ),
        (
            ClientModes::Passive,
            ServerMode::Passive,
            " EPSV\r\n UTF8\r\n",
        ),
        (
            ClientModes::Passive,
            ServerMode::Active,
            " UTF8\r\n EPSV\r\n",
        ),
        (
            ClientModes::Active,
            ServerMode::Client,
            " EPRT\r\n UTF8\r\n",
        ),
        (
            ClientModes::Active,
            ServerMode::Passive,
            " UTF8\r\n EPRT\r\n",
        ),
        (
            ClientModes::Active,
            ServerMode::Active,
            " EPRT\r\n UTF8\r\n",
        ),
        (
            ClientModes::Any,
            ServerMode::Client,
            " EPRT\r\n EPSV\r\n UTF8\r\n",
        ),
        (
            ClientModes::Any,
            ServerMode::Passive,
            " EPSV\r\n UTF8\r\n EPRT\r\n",
        ),
        (
            ClientModes::Any,
            ServerMode::Active,
            " EPRT\r\n UTF8\r\n EPSV\r\n",
        ),
    ] {
        let scene = scene(V4, allowed, server, true);
        let played = play(scene, &[s(HI), c("FEAT\r\n"), s(reply)]);
        assert_eq!(
            played.client,
            format!("220 Hi\r\n211-Features:\r\n{expected}211 End\r\n"),
            "{allowed:?} {server:?}"
        );
    }
}

// --- whole sessions ---

const COMMANDS: [&str; 16] = [
    "USER a\r\n",
    "PASS b\r\n",
    "PASV\r\n",
    "EPSV\r\n",
    "EPSV 1\r\n",
    "EPSV ALL\r\n",
    "PORT 192,0,2,9,156,65\r\n",
    "PORT 192,0,2,10,156,65\r\n",
    "EPRT |1|192.0.2.9|40001|\r\n",
    "EPRT |3|x|1|\r\n",
    "RETR a\r\n",
    "LIST\r\n",
    "NOOP\r\n",
    "STAT\r\n",
    "AUTH TLS\r\n",
    "FEAT\r\n",
];

/// What a server may say to a command.
fn possible(command: &str) -> &'static [&'static str] {
    match command.get(..4) {
        _ if command.starts_with("EPSV ALL") => &["200 x\r\n", "500 x\r\n"],
        Some("USER") => &["331 x\r\n", "230 x\r\n", "530 x\r\n"],
        Some("PASS") => &["230-x\r\n230 x\r\n", "530 x\r\n"],
        Some("PASV") => &[
            "227 (10,0,0,5,195,80)\r\n",
            "227 x\r\n",
            "200 x\r\n",
            "500 x\r\n",
            "425 x\r\n",
        ],
        Some("EPSV") => &[
            "229 (|||6446|)\r\n",
            "229-a\r\n229 b\r\n",
            "500 x\r\n",
            "522 x\r\n",
            "530 x\r\n",
        ],
        Some("PORT" | "EPRT") => &[
            "200 x\r\n",
            "250-x\r\n250 y\r\n",
            "500 10.0.0.5\r\n",
            "530 x\r\n",
        ],
        Some("RETR" | "LIST") => &["150 x\r\n226 x\r\n", "550 x\r\n", "125 x\r\n426 x\r\n"],
        Some("FEAT") => &["211-x\r\n EPRT\r\n211 y\r\n", "500 x\r\n"],
        _ => &["200 x\r\n", "502 x\r\n"],
    }
}

/// The codes of whole final replies.
fn finals(text: &str) -> usize {
    let is_final = |line: &&str| {
        let code = line
            .get(..3)
            .is_some_and(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
        code && line.get(3..4) == Some(" ") && !line.starts_with('1')
    };
    text.lines().filter(is_final).count()
}

proptest::proptest! {
    /// Whatever a client says in one breath, and whatever a server answers, every command gets one answer, and
    /// nothing of the server's side is told.
    #[test]
    fn every_command_gets_its_answer(
        commands in proptest::collection::vec(0..COMMANDS.len(), 0..40),
        answers in proptest::collection::vec(0usize..60, 200),
        allowed in proptest::sample::select(vec![ClientModes::Passive, ClientModes::Active, ClientModes::Any]),
        server in proptest::sample::select(vec![ServerMode::Client, ServerMode::Passive, ServerMode::Active]),
        server_is_ipv4 in proptest::bool::ANY,
        server_tls in proptest::bool::ANY,
        chunk in 1usize..40,
        at_once in proptest::bool::ANY,
    ) {
        let mut scene = scene(V4, allowed, server, server_is_ipv4);
        scene.terms.server_tls = server_tls;
        let mut running = Running::new(scene);
        running.play(&[s(HI)], chunk);
        let mut answers = answers.iter();
        let mut answered = 0;
        // The server answers what has come to it, one command after the other.
        let mut serve = |running: &mut Running| {
            while answered < running.outside.to_server.len() {
                let rest = &running.outside.to_server[answered..];
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                    break;
                };
                let command = String::from_utf8_lossy(&rest[..end]).into_owned();
                answered += end + 1;
                let possible = possible(&command);
                let answer = possible[answers.next().unwrap_or(&0) % possible.len()];
                running.play(&[s(answer)], chunk);
            }
        };
        for command in &commands {
            running.play(&[c(COMMANDS[*command])], chunk);
            if !at_once {
                serve(&mut running);
            }
        }
        serve(&mut running);
        proptest::prop_assert!(running.unread.is_empty());
        proptest::prop_assert!(running.session.takes_commands());
        let played = running.played();
        proptest::prop_assert_eq!(finals(&played.client), 1 + commands.len(), "{}", played.client);
        proptest::prop_assert!(!played.client.contains("10,0,0,5") && !played.client.contains("6446"));
        for line in played.server.lines().filter(|line| line.starts_with("PORT") || line.starts_with("EPRT")) {
            proptest::prop_assert!(!line.contains("192"), "{}", line);
        }
        let dials = played.events.iter().filter(|event| *event == "dial").count();
        let dialled = played.events.iter().filter(|event| event.starts_with("dialled")).count();
        proptest::prop_assert!(dials <= dialled);
    }

    #[test]
    fn any_bytes_of_a_server_in_any_pieces_do_the_same(
        bytes in proptest::collection::vec(
            proptest::sample::select(b"25 1270-9\r\n,0(|)E\x00".to_vec()), 0..200),
        chunk in 1usize..9,
        server in proptest::sample::select(vec![ServerMode::Client, ServerMode::Passive, ServerMode::Active]),
        command in proptest::sample::select(vec![PORT, "PASV\r\n", "EPSV\r\n"]),
    ) {
        let dialogue = [s(HI), c("NOOP\r\n"), c(command), S(&bytes)];
        let whole = play_chunked(toward(server), &dialogue, usize::MAX);
        let split = play_chunked(toward(server), &dialogue, chunk);
        proptest::prop_assert_eq!(whole, split);
    }
}
