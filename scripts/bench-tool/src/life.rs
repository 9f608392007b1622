//! How long nginx takes: from its start until it serves, and over a reload. It starts none itself.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Doing, Error};
use crate::sys;
use crate::tls::Client;
use crate::usage::Processes;
use crate::wire;

/// Time between two looks: what a figure may be too large by.
const STEP: Duration = Duration::from_micros(500);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a whole login goes through, over TLS if there is a client for it.
pub fn ready(target: SocketAddr, tls: Option<&Client>) -> Result<(), Error> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match wire::log_in_with(target, tls) {
            Err(_) if Instant::now() < give_up => thread::sleep(STEP),
            outcome => return outcome.map(drop),
        }
    }
}

/// Time since a moment that is given as seconds of the wall clock.
pub fn since(moment: f64) -> Result<Duration, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.ok()
        .and_then(|now| now.checked_sub(Duration::try_from_secs_f64(moment).ok()?))
        .ok_or_else(|| Error::Usage(format!("not in the past: {moment}")))
}

/// The two times of a reload, both from its signal on.
pub struct Reload {
    /// A login has gone through at `target`.
    pub serving: Duration,
    /// The last worker of before has ended.
    pub gone: Duration,
}

/// Lets nginx, the first of the processes, reload. At `target` only the new configuration may listen; the others
/// are the workers of before, and have no connections.
pub fn reload(target: SocketAddr, processes: &Processes) -> Result<Reload, Error> {
    let Processes(pids) = processes;
    let Some((master, workers)) = pids.split_first() else {
        return Err(Error::Usage("no pids".into()));
    };
    let start = Instant::now();
    sys::hang_up(*master).doing("SIGHUP")?;
    ready(target, None)?;
    let serving = start.elapsed();
    let workers = Processes(workers.to_vec());
    while workers.count() > 0 {
        if start.elapsed() > PATIENCE {
            return Err(Error::Stalled(PATIENCE.as_secs()));
        }
        thread::sleep(STEP);
    }
    Ok(Reload {
        serving,
        gone: start.elapsed(),
    })
}
