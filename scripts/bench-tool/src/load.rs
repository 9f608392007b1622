//! Transfers as fast as they go: N sessions in one thread, each its own PASV, connect, RETR or STOR.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::error::{Doing, Error};
use crate::sys::{Epoll, Interest};
use crate::tls::{Client, Handshakes, Link};
use crate::usage::Processes;
use crate::wire::{self, Control, Lines, PATIENCE, send_line};

/// Bytes written to or dropped from a data connection at once.
const CHUNK: usize = 256 * 1024;

/// What to transfer, and for how long.
pub struct Options {
    /// Control address of the proxy.
    pub target: SocketAddr,
    /// Sessions that work side by side.
    pub sessions: usize,
    /// Name of the file, which tells its size: `z1024`.
    pub file: String,
    /// STOR instead of RETR.
    pub upload: bool,
    /// EPSV instead of PASV.
    pub epsv: bool,
    /// No transfer is started after so much time ...
    pub time: Duration,
    /// ... or so many transfers.
    pub transfers: u64,
    /// Transfers before the measured ones.
    pub warm_up: u64,
    /// Implicit TLS toward the proxy, on control and data connections.
    pub tls: Option<Client>,
    /// The FTP server behind the proxy, if its handshakes count, and TLS toward it.
    pub peer: Option<(SocketAddr, Option<Client>)>,
}

/// What was measured.
pub struct Outcome {
    /// Complete transfers of the right size.
    pub transfers: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// CPU time of the measured processes, in nanoseconds.
    pub cpu: u64,
    /// Time from the first PASV to the last 226.
    pub time: Duration,
    /// How their data connections began here.
    pub client: Handshakes,
    /// How they began at the FTP server.
    pub server: Handshakes,
}

/// Where a session is in its transfer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// PASV or EPSV is sent.
    Passive,
    /// RETR or STOR is sent, 150 not seen.
    Command,
    /// 150 was seen, 226 not.
    Moving,
    /// 226 was seen.
    Done,
}

struct Session {
    control: Link,
    lines: Lines,
    phase: Phase,
    data: Option<Link>,
    /// What of the data connection is waited for.
    watched: Option<Interest>,
    moved: u64,
}

/// Transfers allowed and made in one stretch.
struct Stretch {
    deadline: Instant,
    limit: u64,
    started: u64,
    finished: u64,
}

/// The load generator.
pub struct Load {
    options: Options,
    size: u64,
    epoll: Epoll,
    sessions: Vec<Session>,
    handshakes: Handshakes,
    zeros: Vec<u8>,
    scratch: Vec<u8>,
}

impl Load {
    /// Logs all sessions in.
    pub fn new(options: Options) -> Result<Self, Error> {
        let size = wire::size_of(&options.file)
            .ok_or_else(|| Error::Usage(format!("no size in file name {}", options.file)))?;
        let epoll = Epoll::new().doing("epoll")?;
        let mut sessions = Vec::new();
        for id in 0..options.sessions {
            let control = wire::log_in_with(options.target, options.tls.as_ref())?.into_link();
            let socket = control.socket();
            socket.set_nonblocking(true).doing("O_NONBLOCK")?;
            epoll
                .add(socket, Interest::Read, control_token(id))
                .doing("epoll")?;
            sessions.push(Session {
                control,
                lines: Lines::default(),
                phase: Phase::Idle,
                data: None,
                watched: None,
                moved: 0,
            });
        }
        Ok(Self {
            options,
            size,
            epoll,
            sessions,
            handshakes: Handshakes::default(),
            zeros: vec![0; CHUNK],
            scratch: vec![0; CHUNK],
        })
    }

    /// Warms up, then measures. Nothing is under way when the CPU time is read.
    pub fn run(&mut self, processes: &Processes) -> Result<Outcome, Error> {
        self.stretch(PATIENCE, self.options.warm_up)?;
        let client = self.handshakes;
        let server = self.at_server()?;
        let cpu = settled_cpu(processes)?;
        let start = Instant::now();
        let transfers = self.stretch(self.options.time, self.options.transfers)?;
        let time = start.elapsed();
        let cpu = settled_cpu(processes)? - cpu;
        Ok(Outcome {
            transfers,
            bytes: transfers * self.size,
            cpu,
            time,
            client: self.handshakes.since(client),
            server: self.at_server()?.since(server),
        })
    }

    /// The handshakes that the FTP server has seen, asked on a connection past the proxy.
    fn at_server(&self) -> Result<Handshakes, Error> {
        let Some((peer, tls)) = &self.options.peer else {
            return Ok(Handshakes::default());
        };
        let mut control = Control::connect_with(*peer, tls.as_ref())?;
        control.expect(220)?;
        control.send("STAT")?;
        let line = control.expect(211)?;
        Handshakes::parse(&line).ok_or(Error::Peer(line))
    }

    /// Transfers until the time or the number is used up, and to the end of the last one.
    fn stretch(&mut self, time: Duration, limit: u64) -> Result<u64, Error> {
        let mut stretch = Stretch {
            deadline: Instant::now() + time,
            limit,
            started: 0,
            finished: 0,
        };
        for id in 0..self.sessions.len() {
            self.start(id, &mut stretch)?;
        }
        let patience = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
        let mut tokens = Vec::new();
        while stretch.finished < stretch.started {
            self.epoll.wait(patience, &mut tokens).doing("epoll")?;
            if tokens.is_empty() {
                return Err(Error::Stalled(PATIENCE.as_secs()));
            }
            for token in &tokens {
                let id = usize::try_from(token >> 1).unwrap_or(usize::MAX);
                if token & 1 == 0 {
                    self.read_replies(id)?;
                } else {
                    self.move_data(id)?;
                }
                self.finish(id, &mut stretch)?;
            }
        }
        Ok(stretch.finished)
    }

    fn start(&mut self, id: usize, stretch: &mut Stretch) -> Result<(), Error> {
        let over = stretch.started >= stretch.limit || Instant::now() >= stretch.deadline;
        let Some(session) = self.sessions.get_mut(id).filter(|_| !over) else {
            return Ok(());
        };
        let verb = if self.options.epsv { "EPSV" } else { "PASV" };
        send_line(&mut session.control, verb)?;
        session.phase = Phase::Passive;
        session.moved = 0;
        stretch.started += 1;
        Ok(())
    }

    /// Counts a transfer that is over on both connections, and starts the next.
    fn finish(&mut self, id: usize, stretch: &mut Stretch) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        if session.phase != Phase::Done || session.data.is_some() {
            return Ok(());
        }
        if session.moved != self.size {
            let text = format!("{} bytes instead of {}", session.moved, self.size);
            return Err(Error::Peer(text));
        }
        session.phase = Phase::Idle;
        stretch.finished += 1;
        self.start(id, stretch)
    }

    fn read_replies(&mut self, id: usize) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        let mut ready = false;
        if !session.lines.fill(&mut session.control) {
            return Err(Error::Peer("control connection was closed".into()));
        }
        while let Some(line) = session.lines.next_line() {
            let Some(code) = wire::final_code(&line) else {
                continue;
            };
            match (session.phase, code) {
                (Phase::Passive, 227 | 229) => {
                    let target = wire::passive_target(&line, self.options.target)
                        .ok_or_else(|| Error::Peer(line.clone()))?;
                    // To a listener on the loopback this does not wait.
                    let data = TcpStream::connect(target).doing("data connect")?;
                    data.set_nonblocking(true).doing("O_NONBLOCK")?;
                    let verb = if self.options.upload { "STOR" } else { "RETR" };
                    let command = format!("{verb} {}", self.options.file);
                    send_line(&mut session.control, &command)?;
                    session.data = Some(Link::client(
                        data,
                        self.options.tls.as_ref(),
                        Some(&session.control),
                    )?);
                    session.watched = None;
                    session.phase = Phase::Command;
                    // Plain nginx connects to the server only after the client's handshake: it begins at once.
                    ready |= self.options.tls.is_some() || !self.options.upload;
                }
                (Phase::Command, 150) => {
                    session.phase = Phase::Moving;
                    ready |= self.options.upload;
                }
                (Phase::Moving, 226) => session.phase = Phase::Done,
                _ => return Err(Error::Peer(format!("not expected: {line}"))),
            }
        }
        if ready && self.options.tls.is_some() {
            return self.move_data(id);
        }
        if ready {
            return self.watch_data(id);
        }
        Ok(())
    }

    fn move_data(&mut self, id: usize) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        let Some(data) = &mut session.data else {
            return Ok(());
        };
        let outcome = if !self.options.upload {
            receive(data, &mut self.scratch, &mut session.moved)
        } else if session.phase == Phase::Moving {
            send(data, &self.zeros, self.size, &mut session.moved)
        } else {
            // The handshake, and then nothing until 150.
            let attended = data.attend();
            attended.and(Err(io::ErrorKind::WouldBlock.into()))
        };
        match outcome {
            Ok(()) => {
                self.handshakes.count(data);
                session.data = None;
                Ok(())
            }
            Err(error) if wire::is_transient(&error) => self.watch_data(id),
            Err(error) => Err(error).doing("data transfer"),
        }
    }

    /// Waits for what the data connection needs next.
    fn watch_data(&mut self, id: usize) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        let Some(data) = &session.data else {
            return Ok(());
        };
        let interest = data.interest(if self.options.upload {
            Interest::Write
        } else {
            Interest::Read
        });
        match session.watched {
            Some(watched) if watched == interest => return Ok(()),
            Some(_) => self.epoll.change(data.socket(), interest, data_token(id)),
            None => self.epoll.add(data.socket(), interest, data_token(id)),
        }
        .doing("epoll")?;
        session.watched = Some(interest);
        Ok(())
    }
}

/// Sends what the socket takes; returns when `size` bytes are sent.
fn send(data: &mut Link, zeros: &[u8], size: u64, moved: &mut u64) -> io::Result<()> {
    data.attend()?;
    while *moved < size {
        let left = usize::try_from(size - *moved).unwrap_or(usize::MAX);
        *moved += data.write(zeros.get(..left).unwrap_or(zeros))? as u64;
    }
    data.finish()
}

/// Drops what has arrived; returns at the end of the stream.
fn receive(data: &mut Link, scratch: &mut [u8], moved: &mut u64) -> io::Result<()> {
    loop {
        match data.discard(scratch)? {
            0 => return data.finish(),
            count => *moved += count as u64,
        }
    }
}

/// CPU time once the processes have gone to sleep.
pub fn settled_cpu(processes: &Processes) -> Result<u64, Error> {
    std::thread::sleep(Duration::from_millis(20));
    processes.cpu()
}

fn control_token(id: usize) -> u64 {
    (id as u64) << 1
}

fn data_token(id: usize) -> u64 {
    control_token(id) | 1
}
