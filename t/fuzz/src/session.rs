//! The session machine between two sides that say anything, and between two that keep to the protocol.
//!
//! A script is one byte of terms, one more of modes where the first says so, and then text, in which some bytes stand for more than themselves:
//!
//! ```text
//! >  what follows comes from the client    }  TLS with the client is there, if it was asked for
//! <  what follows comes from the server    ~  from here on there is no data port, or there is again
//! #  4,000 letters                         {  the client sends nothing more
//! %  4,090 commands of the client          `  the server sends nothing more
//! ^  from here on data connections are on their way to the client, or are there again
//! ```

use crate::feed::{Feed, Random};
use crate::heap;
use crate::wire::{announces_227, announces_229, cut, hides};
use ngx_stream_ftp_proxy_module::ftp::HostPort;
use ngx_stream_ftp_proxy_module::ftp::command::Transfer;
use ngx_stream_ftp_proxy_module::ftp::host_port::write_active;
use ngx_stream_ftp_proxy_module::ftp::line::MAX_LINE;
use ngx_stream_ftp_proxy_module::session::{
    Actions, Announced, Asked, AuthTls, ClientModes, MAX_HELD, MAX_NOTED, MAX_OUTSTANDING, Mode,
    Modes, Note, Passive, ServerMode, ServerTls, Session, Terms, Unavailable, Word,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `#` and `%` that count: more of them take time and show nothing new.
const MAX_LONG: usize = 8;

/// Heap of a session at most, but for its queue: what it documents, doubled as a vector does when it grows.
const MAX_HEAP: usize = 2 * (MAX_LINE + MAX_HELD + 2 * MAX_NOTED);

/// Heap of the queue at most for each command in it, and the shortest command.
const QUEUED: usize = 8;
const MIN_COMMAND: usize = 2;

/// Heap of a session that waits for nothing: short names for the log and a short queue.
const IDLE_HEAP: isize = 160;

/// Any bytes: a script.
pub fn run(data: &[u8]) {
    let whole = play(data, None);
    client_is_told_what_it_may(&whole);
    for cuts in [Cuts::Bytewise, Cuts::Random] {
        let cut = play(data, Some(cuts));
        same(&cut.to_client, &whole.to_client);
        same(&cut.to_server, &whole.to_server);
        assert_eq!(cut.events, whole.events, "{cuts:?}");
    }
    in_order(data);
}

/// Fails with the place of the first difference: the whole may be long.
fn same(got: &[u8], expected: &[u8]) {
    if got != expected {
        let pairs = got.iter().zip(expected);
        let at = pairs.take_while(|(got, expected)| got == expected).count();
        let around = |bytes: &[u8]| {
            let shown = bytes.get(at.saturating_sub(40)..).unwrap_or_default();
            text(shown.get(..200).unwrap_or(shown))
        };
        panic!("at {at}: {:?}, not {:?}", around(got), around(expected));
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[derive(Clone, Copy, Debug)]
enum Cuts {
    Bytewise,
    Random,
}

/// What a script does with one side's bytes, or instead.
enum Step {
    Client(Vec<u8>),
    Server(Vec<u8>),
    Secured,
    Full,
    OnItsWay,
    ClientEnded,
    ServerEnded,
}

fn steps(script: &[u8]) -> Vec<Step> {
    let mut steps = vec![Step::Server(Vec::new())];
    let mut long = 0;
    for &byte in script {
        let special = match byte {
            b'>' => Step::Client(Vec::new()),
            b'<' => Step::Server(Vec::new()),
            b'}' => Step::Secured,
            b'~' => Step::Full,
            b'^' => Step::OnItsWay,
            b'{' => Step::ClientEnded,
            b'`' => Step::ServerEnded,
            b'#' | b'%' if long == MAX_LONG => continue,
            b'%' => {
                long += 1;
                Step::Client(b"X\n".repeat(MAX_OUTSTANDING - 6))
            }
            _ => {
                let bytes = match byte {
                    b'#' => vec![b'x'; 4000],
                    _ => vec![byte],
                };
                long += usize::from(byte == b'#');
                match steps.last_mut() {
                    Some(Step::Client(text) | Step::Server(text)) => text.extend(bytes),
                    _ => steps.push(Step::Client(bytes)),
                }
                continue;
            }
        };
        steps.push(special);
    }
    steps
}

/// Where the client is.
fn client(is_ipv4: bool) -> SocketAddr {
    let ip = match is_ipv4 {
        true => IpAddr::from([10, 0, 0, 9]),
        false => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, 40_000)
}

/// What a session begins with, and whether its server is IPv4.
fn terms(data: &[u8]) -> (Terms, Option<bool>, &[u8]) {
    let (first, mut script) = data.split_first().unwrap_or((&0, b""));
    let mut modes = Modes {
        client: Some(client(first & 1 == 0)),
        ..Modes::default()
    };
    let mut server_is_ipv4 = None;
    if first & 128 != 0 {
        let byte = script.split_off_first().copied().unwrap_or(0) & 31;
        modes.allowed = match byte % 3 {
            0 => ClientModes::Any,
            1 => ClientModes::Active,
            _ => ClientModes::Passive,
        };
        modes.server = match byte / 3 % 3 {
            0 => ServerMode::Client,
            1 => ServerMode::Passive,
            _ => ServerMode::Active,
        };
        server_is_ipv4 = [Some(true), Some(false), None][usize::from(byte / 9 % 3)];
    }
    (protection(*first, modes), server_is_ipv4, script)
}

fn protection(byte: u8, modes: Modes) -> Terms {
    Terms {
        modes,
        auth: match byte >> 1 & 3 {
            0 => AuthTls::Off,
            1 => AuthTls::On,
            _ => AuthTls::Only,
        },
        implicit_tls: byte & 8 != 0,
        data_tls_required: byte & 16 != 0,
        server_tls: match (byte & 32, byte & 1) {
            (0, _) => ServerTls::None,
            (_, 0) => ServerTls::Explicit,
            _ => ServerTls::Implicit,
        },
    }
}

/// A port of the proxy that the next reply must announce.
struct Told {
    mode: Mode,
    proxy: HostPort,
    /// What must not be seen of the server.
    server: Option<(Option<Ipv4Addr>, u16)>,
}

/// Both sides and the table, as the machine sees them.
#[derive(Default)]
struct Outside {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    events: Vec<String>,
    announced: Option<Told>,
    /// The command that must be forwarded next, with an address of the proxy.
    told_server: Option<Vec<u8>>,
    /// The server listens, as the next reply must say without telling where.
    accepted: bool,
    /// [`Actions::dial`] may come.
    dials: bool,
    /// [`Actions::reserve_for_client`] may come.
    for_server: bool,
    server_is_ipv6: bool,
    /// The lines that announced a port, in order.
    lines: Vec<Vec<u8>>,
    reserved: u16,
    full: bool,
    on_its_way: bool,
    handshaking: bool,
    closed: bool,
}

impl Outside {
    fn event(&mut self, event: String) {
        let told = self.announced.is_none() && self.told_server.is_none() && !self.accepted;
        assert!(told, "{event} before the reply");
        self.events.push(event);
    }

    fn reserved(&mut self, asked: Asked<'_>, event: String) -> Result<u16, Unavailable> {
        assert!(asked.user.len() <= MAX_NOTED);
        (self.dials, self.for_server) = (false, false);
        self.event(event);
        if self.full {
            return Err(Unavailable);
        }
        self.reserved += 1;
        Ok(19_999 + self.reserved)
    }

    fn tell_server(&mut self, port: u16) -> SocketAddr {
        let ip = match self.server_is_ipv6 {
            true => IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | 7)),
            false => IpAddr::from([198, 51, 100, 7]),
        };
        let address = SocketAddr::new(ip, port);
        let mut line = Vec::new();
        write_active(address, &mut line);
        self.told_server = Some(line);
        address
    }

    fn tell_client(
        &mut self,
        mode: Mode,
        port: u16,
        server: Option<(Option<Ipv4Addr>, u16)>,
    ) -> HostPort {
        let host = Ipv4Addr::new(203, 0, 113, 199);
        let proxy = HostPort { host, port };
        self.announced = Some(Told {
            mode,
            proxy,
            server,
        });
        proxy
    }
}

fn is_the_clients_own(asked: Asked<'_>, address: SocketAddr) {
    assert!(asked.mode.is_active());
    assert!(address.port() >= 1024);
    assert!(
        [true, false]
            .map(|is_ipv4| client(is_ipv4).ip())
            .contains(&address.ip())
    );
}

/// Whether a command tells the server to dial.
fn is_active(line: &[u8]) -> bool {
    let verb = line.trim_ascii_start().get(..4).unwrap_or_default();
    verb.eq_ignore_ascii_case(b"PORT") || verb.eq_ignore_ascii_case(b"EPRT")
}

impl Actions for Outside {
    fn forward(&mut self, bytes: &[u8]) {
        heap::uncounted(|| {
            assert!(!self.closed, "forwarded behind the end");
            assert!(self.announced.is_none(), "forwarded before the reply");
            assert!(!self.accepted, "forwarded before the reply");
            match self.told_server.take() {
                Some(expected) => same(bytes, &expected),
                None => assert!(
                    !is_active(bytes) || bytes.get(4).is_some_and(u8::is_ascii_graphic),
                    "{}",
                    text(bytes)
                ),
            }
            self.to_server.extend_from_slice(bytes);
        });
    }

    fn reply(&mut self, bytes: &[u8]) {
        heap::uncounted(|| {
            assert!(!self.handshaking, "replied behind 234");
            if std::mem::take(&mut self.accepted) {
                assert!(bytes.starts_with(b"200 P") || bytes.starts_with(b"200 E"));
            }
            if let Some(announced) = self.announced.take() {
                match announced.mode {
                    Mode::Pasv => announces_227(bytes, announced.proxy),
                    _ => announces_229(bytes, announced.proxy.port),
                }
                if let Some((host, port)) = announced.server {
                    hides(bytes, announced.proxy, host, port);
                }
                self.lines.push(bytes.to_vec());
            }
            self.to_client.extend_from_slice(bytes);
        });
    }

    fn reserve(&mut self, passive: Passive<'_>) -> Result<HostPort, Unavailable> {
        heap::uncounted(|| {
            assert!(passive.port >= 1024 && !passive.mode.is_active());
            let asked = Asked {
                mode: passive.mode,
                user: passive.user,
                protected: passive.protected,
                server_protected: passive.server_protected,
            };
            let port = self.reserved(asked, format!("{passive:?}"))?;
            let server = Some((passive.host, passive.port));
            Ok(self.tell_client(passive.mode, port, server))
        })
    }

    fn reserve_active(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
    ) -> Result<SocketAddr, Unavailable> {
        heap::uncounted(|| {
            is_the_clients_own(asked, address);
            let port = self.reserved(asked, format!("{asked:?} {address}"))?;
            Ok(self.tell_server(port))
        })
    }

    fn reserve_dialled(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
        server: Announced,
    ) -> Result<(), Unavailable> {
        heap::uncounted(|| {
            is_the_clients_own(asked, address);
            assert!(server.port >= 1024);
            self.reserved(asked, format!("{asked:?} {address} {server:?}"))?;
            (self.accepted, self.dials) = (true, true);
            Ok(())
        })
    }

    fn dial(&mut self) -> Result<(), Unavailable> {
        heap::uncounted(|| {
            assert!(std::mem::take(&mut self.dials), "nothing to dial");
            self.event("dial".to_owned());
            Ok(())
        })
    }

    fn is_on_its_way(&mut self, _word: Word) -> bool {
        self.on_its_way
    }

    fn reserve_for_server(&mut self, asked: Asked<'_>) -> Result<SocketAddr, Unavailable> {
        heap::uncounted(|| {
            assert!(!asked.mode.is_active());
            let port = self.reserved(asked, format!("{asked:?} for server"))?;
            self.for_server = true;
            Ok(self.tell_server(port))
        })
    }

    fn reserve_for_client(&mut self, asked: Asked<'_>) -> Result<HostPort, Unavailable> {
        heap::uncounted(|| {
            assert!(self.for_server, "nothing to join");
            let port = self.reserved(asked, format!("{asked:?} for client"))?;
            Ok(self.tell_client(asked.mode, port, None))
        })
    }

    fn release(&mut self) {
        heap::uncounted(|| {
            (self.dials, self.for_server) = (false, false);
            self.event("release".to_owned());
        });
    }

    fn annotate(&mut self, transfer: Transfer<'_>) {
        heap::uncounted(|| self.event(format!("{transfer:?}")));
    }

    fn note(&mut self, note: Note) {
        heap::uncounted(|| self.event(note.to_string()));
    }

    fn start_tls(&mut self) {
        assert!(!self.handshaking);
        self.handshaking = true;
        heap::uncounted(|| self.event("start tls".to_owned()));
    }

    fn close(&mut self) {
        self.closed = true;
        heap::uncounted(|| self.event("close".to_owned()));
    }
}

/// A session whose glue keeps what is not taken, and offers it again when the other side has said something.
struct Player {
    session: Session,
    outside: Outside,
    cuts: Option<Cuts>,
    random: Random,
    client: Vec<u8>,
    server: Vec<u8>,
    client_ends: bool,
    server_ends: bool,
    /// Bytes that the client has sent.
    sent: usize,
    /// Bytes of heap that the session holds.
    heap: isize,
}

impl Player {
    fn new(terms: Terms, server_is_ipv4: Option<bool>, cuts: Option<Cuts>, seed: &[u8]) -> Self {
        let before = heap::held();
        let mut session = Session::new(terms);
        session.connected(server_is_ipv4);
        Self {
            session,
            outside: Outside {
                server_is_ipv6: server_is_ipv4 == Some(false),
                ..Outside::default()
            },
            cuts,
            random: Random::of(seed),
            client: Vec::new(),
            server: Vec::new(),
            client_ends: false,
            server_ends: false,
            sent: 0,
            heap: heap::held() - before,
        }
    }

    fn call<T>(&mut self, work: impl FnOnce(&mut Session, &mut Outside) -> T) -> T {
        let before = heap::held();
        let result = work(&mut self.session, &mut self.outside);
        self.heap += heap::held() - before;
        let queued = MAX_OUTSTANDING.min(self.sent / MIN_COMMAND + 16) * QUEUED;
        let heap = usize::try_from(self.heap).expect("no more is freed than was allocated");
        assert!(heap <= MAX_HEAP + queued, "{heap} bytes of heap");
        result
    }

    fn pieces(&mut self, bytes: &[u8]) -> Vec<usize> {
        match self.cuts {
            None => vec![bytes.len()],
            Some(Cuts::Bytewise) => vec![1; bytes.len()],
            Some(Cuts::Random) => {
                let pieces = cut(bytes, &mut self.random);
                pieces.into_iter().map(<[u8]>::len).collect()
            }
        }
    }

    /// Offers one side's bytes piece by piece, until one is not taken whole. Returns what is left.
    fn offer(
        &mut self,
        bytes: &[u8],
        take: impl Fn(&mut Session, &[u8], &mut Outside) -> usize,
    ) -> Vec<u8> {
        let mut at = 0;
        for length in self.pieces(bytes) {
            let piece = &bytes[at..at + length];
            let taken = self.call(|session, outside| take(session, piece, outside));
            assert!(taken <= length);
            at += taken;
            if taken < length {
                break;
            }
        }
        bytes[at..].to_vec()
    }

    fn client(&mut self, bytes: &[u8]) {
        self.sent += bytes.len();
        self.client.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.client);
        self.client = self.offer(&bytes, |session, piece, outside| {
            let taken = session.from_client(piece, outside);
            assert!(taken == piece.len() || !session.takes_commands());
            taken
        });
        if self.client_ends && self.client.is_empty() {
            self.client_ends = false;
            self.call(|session, outside| session.client_ended(outside));
        }
    }

    fn server(&mut self, bytes: &[u8]) {
        self.server.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.server);
        self.server = self.offer(&bytes, |session, piece, outside| {
            let taken = session.from_server(piece, outside);
            assert!(taken == piece.len() || outside.handshaking || session.holds());
            taken
        });
        if bytes.is_empty() && self.session.holds() {
            self.call(|session, outside| session.from_server(b"", outside));
        }
        let waits = self.outside.handshaking || self.session.holds();
        if self.server_ends && self.server.is_empty() && !waits {
            self.server_ends = false;
            self.call(|session, outside| session.server_ended(outside));
        }
    }
}

fn play(data: &[u8], cuts: Option<Cuts>) -> Outside {
    let (terms, server_is_ipv4, script) = terms(data);
    let mut player = Player::new(terms, server_is_ipv4, cuts, data);
    let (mut client_ended, mut server_ended) = (false, false);
    for step in steps(script) {
        match step {
            Step::Client(bytes) if !client_ended => player.client(&bytes),
            Step::Server(bytes) if !server_ended => player.server(&bytes),
            Step::Secured if player.outside.handshaking => {
                player.outside.handshaking = false;
                player.call(|session, _| session.secured());
                player.server(b"");
            }
            Step::Full => player.outside.full ^= true,
            Step::OnItsWay => player.outside.on_its_way ^= true,
            Step::ClientEnded if !client_ended => {
                (client_ended, player.client_ends) = (true, true);
            }
            Step::ServerEnded if !server_ended => {
                (server_ended, player.server_ends) = (true, true);
                player.server(b"");
            }
            _ => {}
        }
        if player.session.holds() {
            player.server(b"");
        }
        player.client(b"");
    }
    player.outside
}

/// A 227 or 229 at the start of a reply is a line that announced a port of the proxy; all of those are there.
fn client_is_told_what_it_may(outside: &Outside) {
    let mut open: Option<&[u8]> = None;
    let mut announced = outside.lines.iter();
    for line in outside.to_client.split_inclusive(|&byte| byte == b'\n') {
        let code = line.get(..3).filter(|code| {
            matches!(code[0], b'1'..=b'6') && code[1..].iter().all(u8::is_ascii_digit)
        });
        let more = line.get(3) == Some(&b'-');
        if open.is_none() && matches!(code, Some(b"227" | b"229")) {
            let expected = announced.next().map(|line| text(line));
            assert_eq!(Some(text(line)), expected);
        }
        open = match open {
            Some(open) if code == Some(open) && !more => None,
            Some(open) => Some(open),
            None => code.filter(|_| more),
        };
    }
    assert_eq!(announced.next(), None, "a port was reserved and never told");
}

/// What a command is answered with, and by whom.
#[derive(Clone, Copy)]
enum Answer {
    Nobody,
    Proxy(&'static str),
    /// The server, with one reply or more; `%` is a number that tells it from all others.
    Server(&'static [&'static str]),
    /// The server announces a port; the numbers around the port are those of the command.
    Port(Mode),
}

const COMMANDS: [(&str, Answer); 23] = [
    ("NOOP\r\n", Answer::Server(&["200 %\r\n"])),
    ("USER joe\r\n", Answer::Server(&["331 %\r\n"])),
    (
        "PASS sesame\r\n",
        Answer::Server(&["230-% hi\r\n227 x (1,2,3,4,5,6)\r\n230 in\r\n"]),
    ),
    ("PASV\r\n", Answer::Port(Mode::Pasv)),
    ("pasv\n", Answer::Server(&["502 %\r\n"])),
    ("EPSV\r\n", Answer::Port(Mode::Epsv)),
    (
        "EPSV 2\r\n",
        Answer::Server(&["522-%\r\n(1)\r\n522 no\r\n"]),
    ),
    ("EPSV ALL\r\n", Answer::Server(&["200 %\r\n"])),
    (
        "RETR \u{e9}\r\n",
        Answer::Server(&["150 %\r\n", "226 %\r\n"]),
    ),
    ("LIST\r\n", Answer::Server(&["425 %\r\n"])),
    (
        "STOR b\r\n",
        Answer::Server(&["125-%\r\n125 go\r\n", "110 %\r\n", "226-%\r\n226\n"]),
    ),
    (
        "RETR broken\r\n",
        Answer::Server(&["150-%\r\n150 go\r\n", "150 %\r\n"]),
    ),
    (
        "STAT c\r\n",
        Answer::Server(&["213-%\r\n x\r\n213 end\r\n"]),
    ),
    (
        "FEAT\r\n",
        Answer::Server(&["211-%\r\n EPSV\r\n UTF8\r\n211 End\r\n"]),
    ),
    (
        "HELP\r\n",
        Answer::Server(&["214-%\n227 (1,2,3,4,5,6)\n\n214 end\n"]),
    ),
    ("REIN\r\n", Answer::Server(&["120 %\r\n", "220 %\r\n"])),
    ("\r\n", Answer::Nobody),
    (
        "PORT 10,0,0,9,4,1\r\n",
        Answer::Proxy("504 Active mode is not available, use PASV or EPSV.\r\n"),
    ),
    (
        "PORT 10,0,0,9,4\r\n",
        Answer::Proxy("501 Invalid address.\r\n"),
    ),
    (
        "EPRT |3|x|80|\r\n",
        Answer::Proxy("522 Network protocol not supported, use (1,2)\r\n"),
    ),
    (
        "AUTH TLS\r\n",
        Answer::Proxy("502 AUTH is not available.\r\n"),
    ),
    (
        "LPSV\r\n",
        Answer::Proxy("502 Command not implemented.\r\n"),
    ),
    (
        "N\x01P\r\n",
        Answer::Proxy("500 Command not understood.\r\n"),
    ),
];

/// A reply as the server sends it and as the client must get it; the proxy's own have no former.
struct Due {
    sent: Option<String>,
    expected: String,
}

fn due(number: usize, answer: Answer, ports: &mut u16) -> Vec<Due> {
    match answer {
        Answer::Nobody => Vec::new(),
        Answer::Proxy(reply) => vec![Due {
            sent: None,
            expected: reply.to_owned(),
        }],
        Answer::Server(replies) => {
            let reply = |reply: &&str| {
                let reply = reply.replace('%', &number.to_string());
                Due {
                    sent: Some(reply.clone()),
                    expected: reply,
                }
            };
            replies.iter().map(reply).collect()
        }
        Answer::Port(mode) => {
            let port = 20_000 + *ports;
            *ports += 1;
            let (sent, expected) = match mode {
                Mode::Pasv => (
                    "227 Go (10,0,0,5,195,80).\r\n".to_owned(),
                    format!("227 Go (203,0,113,199,{},{}).\r\n", port >> 8, port & 255),
                ),
                _ => (
                    "229 Go (|||50000|)\r\n".to_owned(),
                    format!("229 Go (|||{port}|)\r\n"),
                ),
            };
            vec![Due {
                sent: Some(sent),
                expected,
            }]
        }
    }
}

/// A server that answers in order, a client that sends what it likes when it likes: each reply comes as soon as
/// all before it have come, and no sooner.
fn in_order(data: &[u8]) {
    let modes = Modes {
        client: Some(client(true)),
        ..Modes::default()
    };
    let ipv4 = Terms {
        modes,
        ..Terms::default()
    };
    let mut player = Player::new(ipv4, None, Some(Cuts::Random), data);
    let mut ports = 0;
    let mut queue = due(0, Answer::Server(&["120 %\r\n", "220 %\r\n"]), &mut ports);
    let (mut answered, mut told) = (0, 0);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut feed = Feed(data);
    for number in 1.. {
        if feed.is_empty() {
            break;
        }
        let byte = feed.byte();
        if byte & 1 == 0 {
            let (line, answer) = COMMANDS[usize::from(byte >> 1) % COMMANDS.len()];
            queue.extend(due(number, answer, &mut ports));
            if !matches!(answer, Answer::Nobody | Answer::Proxy(_)) {
                to_server.extend_from_slice(line.as_bytes());
            }
            player.client(line.as_bytes());
        } else {
            let next = queue[answered..].iter().position(|due| due.sent.is_some());
            let Some(next) = next else { continue };
            answered += next + 1;
            if let Some(sent) = queue[answered - 1].sent.clone() {
                player.server(sent.as_bytes());
            }
        }
        while let Some(due) = queue
            .get(told)
            .filter(|due| due.sent.is_none() || told < answered)
        {
            to_client.extend_from_slice(due.expected.as_bytes());
            told += 1;
        }
        let sides = [
            (&mut player.outside.to_client, &mut to_client),
            (&mut player.outside.to_server, &mut to_server),
        ];
        for (got, expected) in sides {
            same(got, expected);
            got.clear();
            expected.clear();
        }
    }
    if told == queue.len() {
        assert!(player.heap <= IDLE_HEAP, "{} bytes of heap", player.heap);
    }
}
