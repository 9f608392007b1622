//! Transfers as fast as they go: N sessions in one thread, each its own PASV, connect, RETR or STOR.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::error::{Doing, Error};
use crate::sys::{self, Epoll, Interest};
use crate::usage::Processes;
use crate::wire::{self, Lines, PATIENCE, send_line};

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
    control: TcpStream,
    lines: Lines,
    phase: Phase,
    data: Option<TcpStream>,
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
    zeros: Vec<u8>,
}

impl Load {
    /// Logs all sessions in.
    pub fn new(options: Options) -> Result<Self, Error> {
        let size = wire::size_of(&options.file)
            .ok_or_else(|| Error::Usage(format!("no size in file name {}", options.file)))?;
        let epoll = Epoll::new().doing("epoll")?;
        let mut sessions = Vec::new();
        for id in 0..options.sessions {
            let control = wire::log_in(options.target)?.into_stream();
            control.set_nonblocking(true).doing("O_NONBLOCK")?;
            epoll
                .add(&control, Interest::Read, control_token(id))
                .doing("epoll")?;
            sessions.push(Session {
                control,
                lines: Lines::default(),
                phase: Phase::Idle,
                data: None,
                moved: 0,
            });
        }
        Ok(Self {
            options,
            size,
            epoll,
            sessions,
            zeros: vec![0; CHUNK],
        })
    }

    /// Warms up, then measures. Nothing is under way when the CPU time is read.
    pub fn run(&mut self, processes: &Processes) -> Result<Outcome, Error> {
        self.stretch(PATIENCE, self.options.warm_up)?;
        let cpu = settled_cpu(processes)?;
        let start = Instant::now();
        let transfers = self.stretch(self.options.time, self.options.transfers)?;
        let time = start.elapsed();
        Ok(Outcome {
            transfers,
            bytes: transfers * self.size,
            cpu: settled_cpu(processes)? - cpu,
            time,
        })
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
        send_line(&session.control, verb)?;
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
        if !session.lines.fill(&session.control) {
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
                    send_line(&session.control, &format!("{verb} {}", self.options.file))?;
                    if !self.options.upload {
                        self.epoll
                            .add(&data, Interest::Read, data_token(id))
                            .doing("epoll")?;
                    }
                    session.data = Some(data);
                    session.phase = Phase::Command;
                }
                (Phase::Command, 150) => {
                    session.phase = Phase::Moving;
                    if let Some(data) = session.data.as_ref().filter(|_| self.options.upload) {
                        self.epoll
                            .add(data, Interest::Write, data_token(id))
                            .doing("epoll")?;
                    }
                }
                (Phase::Moving, 226) => session.phase = Phase::Done,
                _ => return Err(Error::Peer(format!("not expected: {line}"))),
            }
        }
        Ok(())
    }

    fn move_data(&mut self, id: usize) -> Result<(), Error> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        let Some(data) = &session.data else {
            return Ok(());
        };
        let outcome = if self.options.upload {
            send(data, &self.zeros, self.size, &mut session.moved)
        } else {
            receive(data, &mut session.moved)
        };
        match outcome {
            Ok(true) => session.data = None,
            Ok(false) => {}
            Err(error) if wire::is_transient(&error) => {}
            Err(error) => return Err(error).doing("data transfer"),
        }
        Ok(())
    }
}

/// Sends what the socket takes; `true` when `size` bytes are sent.
fn send(mut data: &TcpStream, zeros: &[u8], size: u64, moved: &mut u64) -> io::Result<bool> {
    while *moved < size {
        let left = usize::try_from(size - *moved).unwrap_or(usize::MAX);
        *moved += data.write(zeros.get(..left).unwrap_or(zeros))? as u64;
    }
    Ok(true)
}

/// Drops what has arrived; `true` at the end of the stream.
fn receive(data: &TcpStream, moved: &mut u64) -> io::Result<bool> {
    loop {
        match sys::discard(data, CHUNK)? {
            0 => return Ok(true),
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
