//! What sessions cost that do little: outstanding reservations, idle sessions, stalled downloads.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error};
use crate::load::settled_cpu;
use crate::usage::Processes;
use crate::wire::{self, Control};

/// Sessions that wait for an answer at the same time; below every accept queue.
const WINDOW: usize = 64;

/// CPU time per PASV, in nanoseconds, in one cycle.
pub struct Cycle {
    /// Nobody else holds a reservation.
    pub empty: u64,
    /// All the others hold one.
    pub full: u64,
}

/// The measurement of PASV against a filled table.
pub struct Outstanding {
    /// Sessions that hold a reservation, or none.
    pub holders: Vec<Control>,
    /// Sessions whose PASV are measured.
    pub askers: Vec<Control>,
    /// PASV per measurement.
    pub round_trips: usize,
}

impl Outstanding {
    /// Logs everybody in.
    pub fn new(
        target: SocketAddr,
        holders: usize,
        askers: usize,
        round_trips: usize,
    ) -> Result<Self, Error> {
        let outstanding = Self {
            holders: many(target, holders)?,
            askers: many(target, askers)?,
            round_trips,
        };
        Ok(outstanding)
    }

    /// Measures with the table empty and full. In both cases the same sessions are connected.
    pub fn cycle(&mut self, processes: &Processes) -> Result<Cycle, Error> {
        let empty = self.measure(processes)?;
        let mut ports = HashSet::new();
        in_windows(&mut self.holders, "PASV", |holder| {
            let target = holder.expect_passive()?;
            if !ports.insert(target.port()) {
                return Err(Error::Peer(format!("port given twice: {target}")));
            }
            Ok(())
        })?;
        let full = self.measure(processes)?;
        // A new login gives the waiting reservation back.
        in_windows(&mut self.holders, "USER bench", |holder| {
            holder.expect(331).map(drop)
        })?;
        in_windows(&mut self.askers, "USER bench", |asker| {
            asker.expect(331).map(drop)
        })?;
        Ok(Cycle { empty, full })
    }

    fn measure(&mut self, processes: &Processes) -> Result<u64, Error> {
        let rounds = self.round_trips / self.askers.len().max(1);
        let before = settled_cpu(processes)?;
        for _ in 0..rounds {
            in_windows(&mut self.askers, "PASV", |asker| {
                asker.expect_passive().map(drop)
            })?;
        }
        let spent = settled_cpu(processes)? - before;
        Ok(spent / (rounds * self.askers.len()).max(1) as u64)
    }
}

/// Memory per session, in bytes, at three moments of its life.
pub struct Idle {
    /// Only the greeting has passed.
    pub greeted: u64,
    /// USER, PASS and TYPE have passed.
    pub logged_in: u64,
    /// One PASV and RETR have passed.
    pub transferred: u64,
}

/// Opens `count` sessions and measures what each adds.
pub fn idle(target: SocketAddr, count: usize, processes: &Processes) -> Result<Idle, Error> {
    // The first session pays for what is allocated once.
    transfer(&mut wire::log_in(target)?)?;
    let base = settled_memory(processes)?;
    let per_session = || -> Result<u64, Error> {
        Ok(settled_memory(processes)?.saturating_sub(base) / count.max(1) as u64)
    };
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        let mut control = Control::connect(target)?;
        control.expect(220)?;
        sessions.push(control);
    }
    let greeted = per_session()?;
    for (command, code) in [("USER bench", 331), ("PASS bench", 230), ("TYPE I", 200)] {
        in_windows(&mut sessions, command, |session| {
            session.expect(code).map(drop)
        })?;
    }
    let logged_in = per_session()?;
    for session in &mut sessions {
        transfer(session)?;
    }
    let transferred = per_session()?;
    Ok(Idle {
        greeted,
        logged_in,
        transferred,
    })
}

/// Memory per download, in bytes, that a reader holds up.
pub fn stalled(
    target: SocketAddr,
    count: usize,
    file: &str,
    processes: &Processes,
) -> Result<u64, Error> {
    let mut sessions = many(target, count)?;
    let before = settled_memory(processes)?;
    let mut unread = Vec::new();
    for session in &mut sessions {
        session.send("PASV")?;
        unread.push(TcpStream::connect(session.expect_passive()?).doing("data connect")?);
        session.send(&format!("RETR {file}"))?;
        session.expect(150)?;
    }
    let after = settled_memory(processes)?;
    drop(unread);
    Ok(after.saturating_sub(before) / count.max(1) as u64)
}

/// One small download, only for what it leaves behind.
fn transfer(control: &mut Control) -> Result<(), Error> {
    control.send("PASV")?;
    let data = TcpStream::connect(control.expect_passive()?).doing("data connect")?;
    control.send("RETR z1024")?;
    control.expect(150)?;
    control.expect(226)?;
    drop(data);
    Ok(())
}

fn many(target: SocketAddr, count: usize) -> Result<Vec<Control>, Error> {
    (0..count).map(|_| wire::log_in(target)).collect()
}

/// Sends `command` on every session and reads every answer, a window at a time.
fn in_windows(
    sessions: &mut [Control],
    command: &str,
    mut read: impl FnMut(&mut Control) -> Result<(), Error>,
) -> Result<(), Error> {
    for window in sessions.chunks_mut(WINDOW) {
        for session in &mut *window {
            session.send(command)?;
        }
        for session in window {
            read(session)?;
        }
    }
    Ok(())
}

/// Memory once it has stopped changing.
pub fn settled_memory(processes: &Processes) -> Result<u64, Error> {
    let give_up = Instant::now() + Duration::from_secs(3);
    let mut last = processes.memory()?;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = processes.memory()?;
        if now == last || Instant::now() > give_up {
            return Ok(now);
        }
        last = now;
    }
}
