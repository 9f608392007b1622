//! The targets as ordinary tests: the corpus, and inputs that are the same on every run.

use crate::feed::Random;
use std::path::Path;

/// What the generator strings together where both sides' text is wanted.
const WORDS: [&[u8]; 53] = [
    b">",
    b"<",
    b"}",
    b"~",
    b"{",
    b"`",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xff\xf4\xff\xf2",
    b" ",
    b"-",
    b",",
    b".",
    b"(",
    b")",
    b"|",
    b"0",
    b"1",
    b"22",
    b"7 ",
    b"255",
    b"65535",
    b"50000",
    b"10,0,0,5,195,80",
    b"(|||50000|)",
    b"227 ",
    b"229 ",
    b"227-",
    b"220 ",
    b"230 ",
    b"226 ",
    b"150 ",
    b"211-",
    b"211 ",
    b"421 ",
    b"PASV\r\n",
    b"EPSV\r\n",
    b"USER a\r\n",
    b"PASS b\r\n",
    b"RETR c\r\n",
    b"AUTH TLS\r\n",
    b"PBSZ 0\r\nPROT P\r\n",
    b"FEAT\r\n",
    b"ABOR\r\n",
    b"PORT 10,0,0,9,4,1",
    b"PORT 10,0,0,9,4,1\r\n",
    b"EPRT |2|::1|5282|\r\n",
    b"EPSV ALL\r\n",
    b"200 ok\r\n",
    b"500 ",
];

/// Every file of `corpus/` for the target; `#` and `%` make some of them long.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("there is a corpus")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a file"))
        .collect()
}

fn of_words(random: &mut Random) -> Vec<u8> {
    let mut text = vec![random.next() as u8];
    for _ in 0..random.below(60) {
        text.extend(WORDS[random.below(WORDS.len())]);
    }
    text
}

fn of_bytes(random: &mut Random) -> Vec<u8> {
    (0..random.below(600))
        .map(|_| random.next() as u8)
        .collect()
}

/// A text with a few bytes changed, removed or put in.
fn mutated(mut text: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(6) {
        let at = random.below(text.len());
        let to = (at + random.below(12)).min(text.len());
        let word = WORDS[random.below(WORDS.len())];
        match random.below(4) {
            0 => text[at] ^= 1 << random.below(8),
            1 => drop(text.splice(at..at, word.iter().copied())),
            2 => drop(text.splice(at..to, word.iter().copied())),
            _ => drop(text.drain(at..to)),
        }
        if text.is_empty() {
            text.push(b'@');
        }
    }
    text
}

/// Runs a target over its corpus, and over texts that are like it and unlike it.
fn run_text(target: &str, run: fn(&[u8])) {
    let mut random = Random::new(1);
    for text in corpus(target) {
        run(&text);
        // The long ones take their time.
        let short = !text.iter().any(|byte| b"#%".contains(byte));
        for _ in 0..if short { 300 } else { 3 } {
            run(&mutated(text.clone(), &mut random));
        }
    }
    for _ in 0..3000 {
        run(&of_words(&mut random));
        run(&of_bytes(&mut random));
    }
}

#[test]
fn session_holds_what_it_promises() {
    run_text("session", crate::session::run);
}

#[test]
fn wire_is_read_as_it_is_written() {
    run_text("wire", crate::wire::run);
}

#[test]
fn table_agrees_with_the_model_and_survives_damage() {
    let mut random = Random::new(2);
    for _ in 0..4000 {
        crate::table::run(&of_bytes(&mut random));
    }
}
