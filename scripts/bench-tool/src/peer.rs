//! A passive FTP server whose files exist only as sizes: one thread, one epoll, no disk.
//! It checks no passwords and knows only what the load generator says.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use crate::error::{Doing, Error};
use crate::sys::{self, Epoll, Interest};
use crate::tls::{Handshakes, Link, Server};
use crate::wire::{self, Lines, send_line};

/// Bytes written to a data connection at once.
const CHUNK: usize = 256 * 1024;

/// Where the peer listens and what it announces.
pub struct Options {
    /// Address of the control port; the data ports are on the same address.
    pub listen: SocketAddr,
    /// Address in a 227: the proxy's, as the static recipe (`pasv_address`) has it.
    pub announce: Ipv4Addr,
    /// Data ports, all open for the whole run.
    pub ports: RangeInclusive<u16>,
    /// Announce the first port to everybody and listen on none:
    /// for measurements that never make a data connection.
    pub announce_only: bool,
    /// Implicit TLS, on control and data connections.
    pub tls: Option<Server>,
}

/// A command that moves data.
enum Transfer {
    /// Bytes still to be sent.
    Send { left: u64 },
    /// Bytes expected (if the name told) and received.
    Receive { size: Option<u64>, got: u64 },
}

/// One control connection, and its data connection while there is one.
struct Session {
    control: Link,
    lines: Lines,
    /// Index into the ports.
    port: Option<usize>,
    data: Option<Link>,
    /// What of the data connection is waited for.
    watched: Option<Interest>,
    transfer: Option<Transfer>,
}

/// What an event belongs to.
#[derive(Clone, Copy)]
enum Token {
    Listener,
    Port(usize),
    Control(usize),
    Data(usize),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Listener => (0, 0),
            Self::Port(index) => (1, index),
            Self::Control(index) => (2, index),
            Self::Data(index) => (3, index),
        };
        (kind << 32) | (index as u64)
    }

    fn unpack(token: u64) -> Self {
        let index = usize::try_from(token & 0xffff_ffff).unwrap_or(usize::MAX);
        match token >> 32 {
            1 => Self::Port(index),
            2 => Self::Control(index),
            3 => Self::Data(index),
            _ => Self::Listener,
        }
    }
}

/// A listening data port and the session that it was announced to.
struct Port {
    listener: TcpListener,
    number: u16,
    holder: Option<usize>,
}

/// The server.
pub struct Peer {
    options: Options,
    epoll: Epoll,
    listener: TcpListener,
    ports: Vec<Port>,
    /// Ports nobody holds, the one that rested longest first.
    idle_ports: VecDeque<usize>,
    sessions: Vec<Option<Session>>,
    idle_sessions: Vec<usize>,
    /// Of the data connections of complete transfers.
    handshakes: Handshakes,
    zeros: Vec<u8>,
    scratch: Vec<u8>,
}

impl Peer {
    /// Opens the control port and the data ports.
    pub fn new(options: Options) -> Result<Self, Error> {
        let epoll = Epoll::new().doing("epoll")?;
        let listener = listen(options.listen)?;
        epoll
            .add(&listener, Interest::Read, Token::Listener.pack())
            .doing("epoll")?;
        let mut ports = Vec::new();
        if !options.announce_only {
            for (index, number) in options.ports.clone().enumerate() {
                let listener = listen(SocketAddr::new(options.listen.ip(), number))?;
                epoll
                    .add(&listener, Interest::Read, Token::Port(index).pack())
                    .doing("epoll")?;
                ports.push(Port {
                    listener,
                    number,
                    holder: None,
                });
            }
        }
        Ok(Self {
            idle_ports: (0..ports.len()).collect(),
            options,
            epoll,
            listener,
            ports,
            sessions: Vec::new(),
            idle_sessions: Vec::new(),
            handshakes: Handshakes::default(),
            zeros: vec![0; CHUNK],
            scratch: vec![0; CHUNK],
        })
    }

    /// Serves until the process is ended.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut tokens = Vec::new();
        loop {
            self.epoll.wait(-1, &mut tokens).doing("epoll")?;
            for token in &tokens {
                match Token::unpack(*token) {
                    Token::Listener => self.accept_control()?,
                    Token::Port(index) => self.accept_data(index)?,
                    Token::Control(id) => self.with_session(id, Self::read_commands)?,
                    Token::Data(id) => self.with_session(id, Self::move_data)?,
                }
            }
        }
    }

    /// Takes the session out for the time of `work`; it is over when `work` says `false`.
    fn with_session(
        &mut self,
        id: usize,
        work: fn(&mut Self, usize, &mut Session) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let Some(mut session) = self.sessions.get_mut(id).and_then(Option::take) else {
            return Ok(());
        };
        if work(self, id, &mut session)? {
            if let Some(place) = self.sessions.get_mut(id) {
                *place = Some(session);
            }
        } else {
            self.give_back(&mut session);
            self.idle_sessions.push(id);
        }
        Ok(())
    }

    fn accept_control(&mut self) -> Result<(), Error> {
        let Ok((control, _)) = self.listener.accept() else {
            return Ok(());
        };
        control.set_nonblocking(true).doing("O_NONBLOCK")?;
        control.set_nodelay(true).doing("TCP_NODELAY")?;
        let id = self.idle_sessions.pop().unwrap_or(self.sessions.len());
        self.epoll
            .add(&control, Interest::Read, Token::Control(id).pack())
            .doing("epoll")?;
        let mut control = Link::server(control, self.options.tls.as_ref())?;
        let greeted = send_line(&mut control, "220 ready").is_ok();
        let session = greeted.then(|| Session {
            control,
            lines: Lines::default(),
            port: None,
            data: None,
            watched: None,
            transfer: None,
        });
        if id == self.sessions.len() {
            self.sessions.push(session);
        } else if let Some(place) = self.sessions.get_mut(id) {
            *place = session;
        }
        Ok(())
    }

    fn accept_data(&mut self, index: usize) -> Result<(), Error> {
        let Some(port) = self.ports.get(index) else {
            return Ok(());
        };
        let Ok((data, _)) = port.listener.accept() else {
            return Ok(());
        };
        let Some(id) = port.holder else {
            return Ok(());
        };
        data.set_nonblocking(true).doing("O_NONBLOCK")?;
        let Some(session) = self.sessions.get_mut(id).and_then(Option::as_mut) else {
            return Ok(());
        };
        session.data = Some(Link::server(data, self.options.tls.as_ref())?);
        session.watched = None;
        self.with_session(id, Self::move_data)
    }

    fn read_commands(&mut self, id: usize, session: &mut Session) -> Result<bool, Error> {
        if !session.lines.fill(&mut session.control) {
            return Ok(false);
        }
        while let Some(line) = session.lines.next_line() {
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            let reply = match verb {
                "USER" => "331 password, please",
                "PASS" => "230 logged in",
                "TYPE" => "200 done",
                "NOOP" | "PBSZ" | "PROT" => "200 done",
                "STAT" => &self.statistics(),
                "SIZE" => match wire::size_of(argument) {
                    Some(size) => &format!("213 {size}"),
                    None => "550 no such file",
                },
                "PASV" | "EPSV" => match self.take_port(id, session) {
                    Some(port) if verb == "PASV" => &self.pasv_reply(port),
                    Some(port) => &format!("229 Extended passive mode (|||{port}|)"),
                    None => "425 no port",
                },
                "RETR" | "NLST" | "STOR" => {
                    if !self.begin(verb, argument, id, session)? {
                        return Ok(false);
                    }
                    continue;
                }
                "QUIT" => return Ok(false),
                _ => "502 not here",
            };
            if send_line(&mut session.control, reply).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn pasv_reply(&self, port: u16) -> String {
        let [a, b, c, d] = self.options.announce.octets();
        let [high, low] = port.to_be_bytes();
        format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).")
    }

    /// How the data connections began whose transfers are complete.
    fn statistics(&self) -> String {
        let Handshakes { full, resumed } = self.handshakes;
        format!("211 full={full} resumed={resumed}")
    }

    /// Starts a transfer; the data connection may be there already or come later.
    fn begin(
        &mut self,
        verb: &str,
        name: &str,
        id: usize,
        session: &mut Session,
    ) -> Result<bool, Error> {
        let size = wire::size_of(name);
        let transfer = match (verb, size) {
            ("STOR", size) => Transfer::Receive { size, got: 0 },
            ("NLST", _) => Transfer::Send { left: 64 },
            (_, Some(left)) => Transfer::Send { left },
            (_, None) => {
                return Ok(send_line(&mut session.control, "550 no such file").is_ok());
            }
        };
        if session.port.is_none() {
            return Ok(send_line(&mut session.control, "425 PASV first").is_ok());
        }
        if send_line(&mut session.control, "150 here it comes").is_err() {
            return Ok(false);
        }
        session.transfer = Some(transfer);
        self.move_data(id, session)
    }

    /// Moves what can be moved now; says 226 and closes when the transfer is complete.
    fn move_data(&mut self, id: usize, session: &mut Session) -> Result<bool, Error> {
        let Some(data) = &mut session.data else {
            return Ok(true);
        };
        let (interest, outcome) = match &mut session.transfer {
            // The client's side of a handshake need not wait for the command.
            None if data.is_secured() => (Interest::Read, data.attend().map(|()| None)),
            None => return Ok(true),
            Some(Transfer::Send { left }) => (Interest::Write, send(data, &self.zeros, left)),
            Some(Transfer::Receive { size, got }) => {
                let outcome = receive(data, &mut self.scratch, *size, got);
                (Interest::Read, outcome)
            }
        };
        let reply = match outcome {
            Ok(Some(reply)) => reply,
            Err(error) if !wire::is_transient(&error) => "426 data connection broke",
            _ => {
                self.watch_data(id, session, interest)?;
                return Ok(true);
            }
        };
        if reply.starts_with("226") {
            self.handshakes.count(data);
        }
        self.give_back(session);
        Ok(send_line(&mut session.control, reply).is_ok())
    }

    /// Waits for `interest`, in clear, or for what TLS needs, on the data connection.
    fn watch_data(
        &self,
        id: usize,
        session: &mut Session,
        interest: Interest,
    ) -> Result<(), Error> {
        let Some(data) = &session.data else {
            return Ok(());
        };
        let interest = data.interest(interest);
        let token = Token::Data(id).pack();
        match session.watched {
            Some(watched) if watched == interest => return Ok(()),
            Some(_) => self.epoll.change(data.socket(), interest, token),
            None => self.epoll.add(data.socket(), interest, token),
        }
        .doing("epoll")?;
        session.watched = Some(interest);
        Ok(())
    }

    /// Gives the session the port that rested longest, instead of the one it holds.
    fn take_port(&mut self, id: usize, session: &mut Session) -> Option<u16> {
        if self.options.announce_only {
            return Some(*self.options.ports.start());
        }
        self.give_back(session);
        let index = self.idle_ports.pop_front()?;
        let port = self.ports.get_mut(index)?;
        port.holder = Some(id);
        session.port = Some(index);
        Some(port.number)
    }

    /// Closes the data connection and frees the port.
    fn give_back(&mut self, session: &mut Session) {
        session.data = None;
        session.transfer = None;
        session.watched = None;
        if let Some(index) = session.port.take()
            && let Some(port) = self.ports.get_mut(index)
        {
            port.holder = None;
            self.idle_ports.push_back(index);
        }
    }
}

/// Sends until the socket is full (an error) or all is sent; returns the closing reply.
fn send(data: &mut Link, zeros: &[u8], left: &mut u64) -> io::Result<Option<&'static str>> {
    data.attend()?;
    while *left > 0 {
        let size = usize::try_from(*left).unwrap_or(usize::MAX);
        *left -= data.write(zeros.get(..size).unwrap_or(zeros))? as u64;
    }
    data.finish()?;
    Ok(Some("226 done"))
}

/// Receives until the socket is empty (an error) or at its end; returns the closing reply.
fn receive(
    data: &mut Link,
    scratch: &mut [u8],
    size: Option<u64>,
    got: &mut u64,
) -> io::Result<Option<&'static str>> {
    loop {
        match data.discard(scratch)? {
            0 if size.is_none_or(|size| size == *got) => return Ok(Some("226 done")),
            0 => return Ok(Some("451 wrong size")),
            count => *got += count as u64,
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).doing("listen")?;
    listener.set_nonblocking(true).doing("O_NONBLOCK")?;
    sys::widen_backlog(&listener).doing("listen")?;
    Ok(listener)
}
