//! Active mode and translation: random clients against random servers, and random bytes in random pieces.

use super::tests::Side::S;
use super::tests::{HI, c, s};
use super::tests_modes::{PORT, Running, V4, play_chunked, scene, toward};
use super::*;

const COMMANDS: [&str; 18] = [
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
    "ABOR\r\n",
    "REIN\r\n",
];

/// A download that the client has broken off, as Pure-FTPd ends it.
const BROKEN_OFF: &str = "150 x\r\n150 y\r\n";

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
        Some("RETR" | "LIST") => &[
            "150 x\r\n226 x\r\n",
            "550 x\r\n",
            "125 x\r\n426 x\r\n",
            BROKEN_OFF,
        ],
        Some("ABOR") => &["226 x\r\n", "225 x\r\n"],
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
    /// Whatever a client says in one breath, and whatever a server answers, every command gets one answer, but for
    /// a download broken off, and nothing of the server's side is told.
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
        scene.terms.server_tls = match server_tls {
            true => ServerTls::Implicit,
            false => ServerTls::None,
        };
        let mut running = Running::new(scene);
        running.play(&[s(HI)], chunk);
        let mut answers = answers.iter();
        let mut answered = 0;
        let mut broken_off = 0;
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
                broken_off += usize::from(answer == BROKEN_OFF);
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
        proptest::prop_assert_eq!(finals(&played.client), 1 + commands.len() - broken_off, "{}", played.client);
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
