//! What the server says of a transfer waits for the data connection that the proxy dials toward the client.

use super::tests::{HI, Side, c, s};
use super::tests_modes::{OK, PORT, Running, codes, toward};
use super::*;

/// A session of an active client after its PORT and a command.
fn asked(server: ServerMode, command: &str, chunk: usize) -> Running {
    let mut running = Running::new(toward(server));
    let agreed = match server {
        ServerMode::Passive => "229 (|||6446|)\r\n",
        _ => OK,
    };
    running.play(&[s(HI), c(PORT), s(agreed), c(command)], chunk);
    running.outside.to_client.clear();
    running
}

impl Running {
    fn told(&self) -> String {
        String::from_utf8_lossy(&self.outside.to_client).into_owned()
    }

    /// The glue looks again, so many times.
    fn look(&mut self, times: usize) {
        (0..times).for_each(|_| self.server_says(b""));
    }
}

/// Plays what the server says while the data connection is on its way, in pieces of any size: the client is told nothing.
/// Then it is there, and the client is told all.
fn waits(server: ServerMode, says: &str) {
    for chunk in (1..=says.len()).chain([usize::MAX]) {
        let mut running = asked(server, "RETR f\r\n", chunk);
        running.outside.on_its_way = usize::MAX;
        running.play(&[s(says)], chunk);
        let at = format!("{says:?} in pieces of {chunk}");
        assert_eq!(running.told(), "", "{at}");
        assert!(running.session.holds(), "{at}");
        running.look(3);
        assert_eq!(running.told(), "", "{at}");
        running.outside.on_its_way = 0;
        running.look(1);
        assert_eq!(running.told(), says, "{at}");
        assert!(!running.session.holds(), "{at}");
        assert_eq!(running.held, b"", "{at}");
        // Nothing of it is left for what comes next.
        running.outside.on_its_way = usize::MAX;
        running.play(&[c("NOOP\r\n"), s("200 x\r\n")], chunk);
        assert_eq!(running.told(), format!("{says}200 x\r\n"), "{at}");
    }
}

#[test]
fn yes_waits_for_the_data_connection() {
    for server in [ServerMode::Client, ServerMode::Active, ServerMode::Passive] {
        waits(server, "150 Go\r\n226 Done\r\n");
        // Some servers say no 150.
        waits(server, "226 Done\r\n");
        waits(server, "125-a\r\n125 b\r\n250-x\r\n226 y\r\n250 z\r\n");
        // Whole within the bytes that tell its code.
        waits(server, "150 x\n226\n");
    }
}

#[test]
fn no_of_a_server_that_has_dialled_waits_too() {
    for says in ["426 Cut\r\n", "451 Disk\r\n", "522 TLS\r\n"] {
        waits(ServerMode::Client, says);
    }
    for server in [ServerMode::Client, ServerMode::Passive] {
        waits(server, "150 Go\r\n426-a\r\n426 b\r\n");
    }
}

#[test]
fn last_word_waits_behind_a_begin_that_has_not() {
    let mut running = asked(ServerMode::Client, "RETR f\r\n", usize::MAX);
    running.server_says(b"150 Go\r\n");
    assert_eq!(running.told(), "150 Go\r\n");
    // Only the first 1yz waits.
    running.outside.on_its_way = usize::MAX;
    running.server_says(b"150 Once more\r\n226 Done\r\n");
    assert_eq!(running.told(), "150 Go\r\n150 Once more\r\n");
    running.outside.on_its_way = 0;
    running.look(1);
    assert_eq!(codes(&running.told()), ["150", "150", "226"]);
}

#[test]
fn server_that_listens_says_no_at_once() {
    let mut running = asked(ServerMode::Passive, "RETR f\r\n", usize::MAX);
    running.outside.on_its_way = usize::MAX;
    running.server_says(b"550 no such file\r\n");
    assert_eq!(running.told(), "550 no such file\r\n");
    assert_eq!(running.outside.waited, [0, 0, 0]);
}

#[test]
fn outside_is_told_which_word_it_is() {
    for (says, waited) in [
        ("226 x\r\n", [0, 1, 0]),
        ("250 x\r\n", [0, 1, 0]),
        ("426 x\r\n", [0, 0, 1]),
        ("300 x\r\n", [0, 0, 1]),
        ("150 x\r\n226 x\r\n", [1, 1, 0]),
    ] {
        let mut running = asked(ServerMode::Client, "LIST\r\n", usize::MAX);
        running.server_says(says.as_bytes());
        assert_eq!(running.told(), says);
        assert_eq!(running.outside.waited, waited, "{says}");
    }
}

#[test]
fn nothing_else_waits() {
    let dialogue = [
        ("NOOP\r\n", "200 x\r\n"),
        ("STAT\r\n", "211-x\r\n211 y\r\n"),
        ("FEAT\r\n", "211-x\r\n211 y\r\n"),
        ("RNFR a\r\n", "350 x\r\n"),
        ("RETR f\r\n", "150 x\r\n"),
        ("STAT\r\n", "213-x\r\n213 y\r\n"),
        ("QUIT\r\n", "421 Bye\r\n"),
    ];
    for chunk in [1, 3, usize::MAX] {
        let mut running = asked(ServerMode::Client, "SYST\r\n", chunk);
        running.outside.on_its_way = usize::MAX;
        running.play(&[s("215 x\r\n")], chunk);
        for (command, reply) in dialogue {
            let begins = command.starts_with("RETR");
            running.outside.on_its_way = if begins { 0 } else { usize::MAX };
            running.outside.to_client.clear();
            running.play(&[c(command), s(reply)], chunk);
            let finals = |text: &str| codes(text).last().map(|code| (*code).to_owned());
            assert_eq!(finals(&running.told()), finals(reply), "{command:?}");
        }
        assert_eq!(running.outside.waited, [1, 0, 0]);
    }
}

#[test]
fn clients_that_dial_are_not_concerned() {
    let passive = "227 (10,0,0,5,195,80)\r\n";
    for (server, agreed) in [
        (ServerMode::Client, passive),
        (ServerMode::Passive, passive),
        (ServerMode::Active, OK),
    ] {
        // Not even after PORT.
        let mut running = asked(server, "NOOP\r\n", usize::MAX);
        running.outside.on_its_way = usize::MAX;
        running.play(
            &[
                s("200 x\r\n"),
                c("PASV\r\n"),
                s(agreed),
                c("RETR f\r\n"),
                s("150 x\r\n226 x\r\n"),
            ],
            usize::MAX,
        );
        assert_eq!(codes(&running.told()), ["200", "227", "150", "226"]);
        assert_eq!(running.outside.waited, [0, 0, 0]);
    }
}

#[test]
fn abor_ends_the_wait() {
    for chunk in [1, 4, usize::MAX] {
        let mut running = asked(ServerMode::Client, "RETR f\r\n", chunk);
        running.outside.on_its_way = usize::MAX;
        running.play(&[s("150 x\r\n226 whole\r\n")], chunk);
        assert_eq!(running.told(), "");
        running.play(&[c("ABOR\r\n")], chunk);
        running.play(&[s("225 abor\r\n")], chunk);
        assert_eq!(running.told(), "150 x\r\n226 whole\r\n225 abor\r\n");
        assert!(running.outside.to_server.ends_with(b"RETR f\r\nABOR\r\n"));
    }
}

#[test]
fn what_the_client_says_meanwhile_goes_on_and_is_answered_in_turn() {
    let mut running = asked(ServerMode::Client, "RETR f\r\n", usize::MAX);
    running.outside.on_its_way = usize::MAX;
    running.outside.to_server.clear();
    let dialogue: [Side<'_>; 4] = [
        s("150 x\r\n226 x\r\n"),
        c("NOOP\r\nAUTH x\r\nPASV\r\nNOOP\r\n"),
        s("200 first\r\n"),
        c("USER late\r\n"),
    ];
    for side in dialogue {
        match side {
            Side::C(bytes) => {
                running.unread.extend_from_slice(bytes);
                let taken = running
                    .session
                    .from_client(&running.unread, &mut running.outside);
                running.unread.drain(..taken);
            }
            Side::S(bytes) => running.server_says(bytes),
        }
    }
    assert_eq!(running.told(), "");
    assert_eq!(running.outside.to_server, b"NOOP\r\n");
    running.outside.on_its_way = 0;
    running.look(1);
    assert_eq!(codes(&running.told()), ["150", "226", "200", "502"]);
    // PASV waited for the transfer's end.
    assert_eq!(running.outside.to_server, b"NOOP\r\nPASV\r\n");
}

#[test]
fn end_of_the_server_comes_behind_its_last_word() {
    let mut running = asked(ServerMode::Client, "RETR f\r\n", usize::MAX);
    running.outside.on_its_way = usize::MAX;
    running.server_says(b"226 x\r\n22");
    assert_eq!(running.told(), "");
    running.outside.on_its_way = 0;
    running.look(1);
    running.session.server_ended(&mut running.outside);
    assert_eq!(running.told(), "226 x\r\n22");
}
