//! Active mode and translation: pipelining, servers that do not answer as they should, TLS.

use super::tests::Side::{C, S};
use super::tests::{HI, c, s};
use super::tests_modes::{OK, PORT, Running, V4, codes, play, scene, toward};
use super::*;

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
        scene.terms.server_tls = ServerTls::Explicit;
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
    scene.terms.server_tls = ServerTls::Explicit;
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

#[test]
fn transfer_that_cannot_be_dialled_stays_with_the_proxy() {
    let mut running = Running::new(toward(ServerMode::Passive));
    running.outside.cannot_dial = true;
    running.play(
        &[
            s(HI),
            c(PORT),
            s("229 (|||6446|)\r\n"),
            c("NOOP\r\nRETR a\r\nLIST\r\n"),
            s("200 first\r\n425 PORT first\r\n"),
        ],
        7,
    );
    let played = running.played();
    assert_eq!(played.server, "EPSV\r\nNOOP\r\nLIST\r\n");
    assert_eq!(
        played.client,
        "220 Hi\r\n200 PORT command successful.\r\n200 first\r\n425 Can't open data connection.\r\n\
         425 PORT first\r\n"
    );
    let dials = played.events.iter().filter(|event| *event == "dial");
    assert_eq!(dials.count(), 1);
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

#[test]
fn nothing_is_reserved_before_the_proxys_own_prot_is_answered() {
    let mut scene = toward(ServerMode::Client);
    scene.terms.server_tls = ServerTls::Explicit;
    let reserved = |running: &Running| {
        let events = &running.outside.events;
        events.iter().any(|event| event.starts_with("active"))
    };
    // However far the login is when the client asks.
    for ahead in 1..4 {
        let steps = [
            (c("USER a\r\n"), s("331 x\r\n")),
            (c("PASS b\r\n"), s("230 in\r\n")),
            (c(""), s("200 PBSZ=0\r\n")),
            (c(""), s("200 private\r\n")),
        ];
        let mut running = Running::new(scene);
        running.play(&[s(HI)], 5);
        for (number, (said, answer)) in steps.into_iter().enumerate() {
            running.play(&[said], 5);
            if number == ahead {
                running.play(&[c(PORT)], 5);
            }
            assert!(!reserved(&running), "{ahead}: before {number}");
            running.play(&[answer], 5);
        }
        assert!(reserved(&running), "{ahead}");
        let last = running.outside.events.last().unwrap();
        assert!(last.ends_with("server-tls"), "{last}");
    }
}

#[test]
fn reply_begun_before_the_command_goes_out_once() {
    for (server, answer) in [(ServerMode::Client, "200"), (ServerMode::Passive, "425")] {
        let mut running = Running::new(toward(server));
        running.play(&[s(HI), s("20"), c(PORT), s("0 ok\r\n")], 5);
        assert_eq!(codes(&running.played().client), ["220", answer]);
    }
}

#[test]
fn protocol_that_is_refused_says_nothing_of_epsv() {
    let dialogue = [
        s(HI),
        c("EPSV 1\r\n"),
        s("522 use (2)\r\n"),
        s("229 (|||6446|)\r\n"),
        c("EPSV\r\n"),
        s("229 (|||6447|)\r\n"),
    ];
    let played = play(
        scene(V4, ClientModes::Passive, ServerMode::Client, false),
        &dialogue,
    );
    assert_eq!(played.server, "EPSV 1\r\nEPSV\r\nEPSV\r\n");
    assert_eq!(codes(&played.client), ["220", "229", "229"]);
}
