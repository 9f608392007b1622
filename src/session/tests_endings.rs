//! How transfers end: with a final reply, or with a second 150 that may be the last.

use super::tests::{HI, Played, Side, c, play, s};
use super::tests_modes::{self, OK, PORT, Running, V4, codes, scene, toward};
use super::*;

/// As Pure-FTPd begins a download, and ends it where the client has broken it off.
const BEGUN: &str = "150-Accepted data connection\r\n150 4000.0 kbytes to download\r\n";
const BROKEN: &str = "150 0.1 seconds (measured here), 2 Mbytes per second\r\n";

const NO: &str = "502 AUTH is not available.\r\n";

fn told(dialogue: &[Side<'_>]) -> String {
    play(dialogue).client
}

#[test]
fn second_150_may_be_the_last_reply_to_a_transfer() {
    for (next, answer) in [
        ("CWD a\r\n", "250 x\r\n"),
        ("NOOP\r\n", "200 x\r\n"),
        ("STAT\r\n", "213 x\r\n"),
        ("DELE a\r\n", "450 x\r\n"),
        ("FOO\r\n", "500 x\r\n"),
        ("REST 1\r\n", "350 x\r\n"),
        ("RETR b\r\n", "550 x\r\n"),
        ("RETR b\r\n", "150 x\r\n226 x\r\n"),
        ("RETR b\r\n", "150 x\r\n150 y\r\n"),
        ("FEAT\r\n", "211-x\r\n211 x\r\n"),
    ] {
        let dialogue = [
            s(HI),
            c("RETR a\r\nAUTH TLS\r\n"),
            s(BEGUN),
            s(BROKEN),
            c(next),
            c("AUTH TLS\r\n"),
            s(answer),
            c("AUTH TLS\r\n"),
        ];
        let expected = format!("{HI}{BEGUN}{BROKEN}{NO}{answer}{NO}{NO}");
        assert_eq!(told(&dialogue), expected);
    }
}

#[test]
fn abor_behind_a_second_150_takes_its_reply() {
    for answer in ["226 x\r\n", "225 x\r\n", "500 x\r\n"] {
        let dialogue = [
            s(HI),
            c("RETR a\r\n"),
            s(BEGUN),
            s(BROKEN),
            c("ABOR\r\n"),
            s(answer),
            c("AUTH TLS\r\nPWD\r\nAUTH TLS\r\n"),
            s("257 pwd\r\n"),
        ];
        let expected = format!("{HI}{BEGUN}{BROKEN}{answer}{NO}257 pwd\r\n{NO}");
        assert_eq!(told(&dialogue), expected);
    }
}

#[test]
fn final_reply_behind_a_second_150_is_the_transfers() {
    for end in ["226 x\r\n", "426 x\r\n", "451 x\r\n", "250 x\r\n"] {
        let dialogue = [
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n150 y\r\n150 z\r\n"),
            s(end),
            c("NOOP\r\nAUTH TLS\r\n"),
            s("200 x\r\n"),
        ];
        let expected = format!("{HI}150 x\r\n150 y\r\n150 z\r\n{end}200 x\r\n{NO}");
        assert_eq!(told(&dialogue), expected);
    }
    // Commands that were sent ahead keep their replies.
    for end in ["226 x\r\n", "426 x\r\n"] {
        for (next, answer) in [
            ("NOOP\r\n", "200 x\r\n"),
            ("RETR b\r\n", "150 x\r\n226 x\r\n"),
            ("FEAT\r\n", "211-x\r\n211 x\r\n"),
            ("ABOR\r\n", "226 x\r\n"),
        ] {
            let ahead = format!("RETR a\r\n{next}PWD\r\n");
            let dialogue = [
                s(HI),
                c(&ahead),
                s("125 x\r\n150 y\r\n"),
                s(end),
                s(answer),
                s("257 pwd\r\n"),
                c("AUTH TLS\r\n"),
            ];
            let expected = format!("{HI}125 x\r\n150 y\r\n{end}{answer}257 pwd\r\n{NO}");
            assert_eq!(told(&dialogue), expected);
        }
    }
}

#[test]
fn passive_command_behind_a_second_150_gets_its_port() {
    for late in ["", "226 x\r\n", "426 x\r\n"] {
        let played = play(&[
            s(HI),
            c("RETR a\r\n"),
            s(BEGUN),
            s(BROKEN),
            c("PASV\r\nAUTH TLS\r\nRETR b\r\n"),
            s(late),
            s("227 (10,0,0,5,195,80)\r\n150 x\r\n226 x\r\n"),
        ]);
        let passive = "227 (203,0,113,5,39,16)\r\n";
        let expected = format!("{HI}{BEGUN}{BROKEN}{late}{passive}{NO}150 x\r\n226 x\r\n");
        assert_eq!(played.client, expected);
        assert_eq!(
            played.events,
            ["annotate RETR", "reserve 10.0.0.5:50000 RETR"]
        );
    }
}

#[test]
fn other_yes_behind_a_second_150_is_no_passive_reply() {
    for yes in ["200 (10,0,0,5,195,80)\r\n", "250 (10,0,0,5,195,80)\r\n"] {
        let dialogue = [
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n150 y\r\n"),
            c("PASV\r\n"),
            s(yes),
        ];
        let expected = format!("{HI}150 x\r\n150 y\r\n425 Can't open data connection.\r\n");
        assert_eq!(told(&dialogue), expected);
    }
}

#[test]
fn other_preliminary_replies_end_nothing() {
    for preliminary in [
        "150 x\r\n110 MARK 1 = 1\r\n110 MARK 2 = 2\r\n",
        "110 MARK 1 = 1\r\n110 MARK 2 = 2\r\n150 x\r\n110 MARK 3 = 3\r\n",
        "150-x\r\n150-y\r\n150 z\r\n",
        "125-x\r\n150 y\r\n125 z\r\n",
    ] {
        let dialogue = [
            s(HI),
            c("RETR a\r\nAUTH TLS\r\n"),
            s(preliminary),
            c("STAT\r\n"),
            s("213 half\r\n250 x\r\n"),
        ];
        let expected = format!("{HI}{preliminary}213 half\r\n250 x\r\n{NO}");
        assert_eq!(told(&dialogue), expected);
    }
}

#[test]
fn proxys_own_commands_keep_their_replies_behind_a_second_150() {
    let mut scene = scene(V4, ClientModes::Passive, ServerMode::Client, true);
    scene.terms.server_tls = ServerTls::Explicit;
    let played = tests_modes::play(
        scene,
        &[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n150 y\r\n"),
            c("USER a\r\n"),
            s("230 x\r\n"),
            s("200 PBSZ=0\r\n200 Private\r\n"),
            c("AUTH TLS\r\n"),
        ],
    );
    assert_eq!(
        played.client,
        format!("{HI}150 x\r\n150 y\r\n230 x\r\n{NO}")
    );
}

/// How PORT, PASV and EPSV go on behind a transfer, in each mode toward the server.
const AGREEMENTS: [(ServerMode, &str, &str, &str); 5] = [
    (ServerMode::Client, PORT, OK, "200"),
    (
        ServerMode::Client,
        "PASV\r\n",
        "227 (10,0,0,5,195,80)\r\n",
        "227",
    ),
    (ServerMode::Passive, PORT, "229 (|||6446|)\r\n", "200"),
    (ServerMode::Active, "PASV\r\n", OK, "227"),
    (ServerMode::Active, "EPSV\r\n", OK, "229"),
];

fn last(played: &Played) -> Vec<&str> {
    codes(&played.client)
}

#[test]
fn next_data_connection_does_not_wait_behind_a_second_150() {
    for (server, command, agreed, answer) in AGREEMENTS {
        // The client may be ahead of the server's last reply.
        for first in [true, false] {
            let transfer = format!("{command}RETR b\r\n");
            let (early, late) = match first {
                true => (BROKEN, ""),
                false => ("", BROKEN),
            };
            let played = tests_modes::play(
                toward(server),
                &[
                    s(HI),
                    c("RETR a\r\n"),
                    s("150 x\r\n"),
                    s(early),
                    c(&transfer),
                    s(late),
                    s(agreed),
                    s("150 x\r\n226 x\r\n"),
                    c("PWD\r\n"),
                    s("257 pwd\r\n"),
                ],
            );
            let expected = ["220", "150", "150", answer, "150", "226", "257"];
            assert_eq!(last(&played), expected, "{command}");
            let reserved = |event: &&String| !event.starts_with("annotate") && *event != "dial";
            let reserved = played.events.iter().filter(reserved).count();
            let both = server == ServerMode::Active;
            assert_eq!(reserved, 2 + usize::from(both), "{:?}", played.events);
        }
    }
}

#[test]
fn late_end_of_a_transfer_is_not_the_answer_to_the_next_data_connection() {
    for (server, command, agreed, answer) in AGREEMENTS {
        for end in ["226 x\r\n", "426 10.0.0.5\r\n"] {
            let mut running = Running::new(toward(server));
            let before = [s(HI), c("RETR a\r\n"), s("150 x\r\n150 y\r\n"), c(command)];
            running.play(&before, 5);
            running.play(&[s(end), s(agreed), c("PWD\r\n"), s("257 pwd\r\n")], 5);
            let played = running.played();
            let end = end.get(..3).unwrap();
            assert_eq!(last(&played), ["220", "150", "150", end, answer, "257"]);
        }
    }
}

#[test]
fn refusal_of_the_next_data_connection_behind_a_second_150_is_none_of_the_transfers() {
    for (server, command, ..) in AGREEMENTS {
        let dialogue = [
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n150 y\r\n"),
            c(command),
            s("530 no\r\n"),
            c("PWD\r\nAUTH TLS\r\n"),
            s("257 pwd\r\n"),
        ];
        let played = tests_modes::play(toward(server), &dialogue);
        let expected = ["220", "150", "150", "530", "257", "502"];
        assert_eq!(last(&played), expected, "{command}");
    }
}

#[test]
fn refusal_behind_one_reply_to_a_transfer_and_its_abor_is_the_next_commands() {
    for refusal in ["500 x\r\n", "502 x\r\n"] {
        let played = play(&[
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            c("ABOR\r\n"),
            s("226 x\r\n"),
            c("EPSV\r\n"),
            s(refusal),
            c("PASV\r\n"),
            s("227 (10,0,0,5,195,80)\r\n"),
            c("AUTH TLS\r\n"),
        ]);
        let passive = "227 (203,0,113,5,39,16)\r\n";
        let expected = format!("{HI}150 x\r\n226 x\r\n{refusal}{passive}{NO}");
        assert_eq!(played.client, expected);
    }
}

#[test]
fn abor_may_be_refused_behind_the_reply_to_its_transfer() {
    for refusal in ["500 x\r\n", "502 x\r\n"] {
        let dialogue = [
            s(HI),
            c("RETR a\r\n"),
            s("150 x\r\n"),
            c("ABOR\r\n"),
            s("226 x\r\n"),
            s(refusal),
            c("PWD\r\nAUTH TLS\r\n"),
            s("257 pwd\r\n"),
        ];
        let expected = format!("{HI}150 x\r\n226 x\r\n{refusal}257 pwd\r\n{NO}");
        assert_eq!(told(&dialogue), expected);
    }
}

#[test]
fn several_abors_may_share_their_replies_with_the_transfer() {
    for end in ["150 x\r\n226 x\r\n", "150 x\r\n150 y\r\n226 x\r\n"] {
        for more in ["", "226 x\r\n", "226 x\r\n225 x\r\n"] {
            let dialogue = [
                s(HI),
                c("RETR a\r\nABOR\r\nABOR\r\nABOR\r\n"),
                s(end),
                s(more),
                c("PWD\r\nAUTH TLS\r\n"),
                s("257 pwd\r\n"),
            ];
            let expected = format!("{HI}{end}{more}257 pwd\r\n{NO}");
            assert_eq!(told(&dialogue), expected);
        }
    }
}

#[test]
fn next_abor_behind_one_without_a_reply_takes_its_own() {
    for end in ["150 x\r\n226 x\r\n", "150 x\r\n150 y\r\n226 x\r\n"] {
        let dialogue = [
            s(HI),
            c("RETR a\r\nABOR\r\n"),
            s(end),
            c("ABOR\r\n"),
            s("226 y\r\n"),
            c("PWD\r\nAUTH TLS\r\n"),
            s("257 pwd\r\n"),
        ];
        let expected = format!("{HI}{end}226 y\r\n257 pwd\r\n{NO}");
        assert_eq!(told(&dialogue), expected);
    }
}
