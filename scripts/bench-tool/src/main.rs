//! The two ends of `scripts/bench`: an FTP server with synthetic files and a load generator.
//! It measures the CPU time and memory of the nginx between them, and how long it takes to start and to
//! reload; it starts no nginx and compares nothing, the script does.

mod error;
mod hold;
mod life;
mod load;
mod peer;
mod sys;
mod tls;
mod usage;
mod wire;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use error::Error;
use hold::Outstanding;
use load::Load;
use peer::Peer;
use usage::Processes;

const USAGE: &str = "usage: bench-tool MODE [option value] ...
  peer     listen=ADDRESS:PORT announce=IPv4 ports=FIRST-LAST [announce_only=1]
           [certificate=FILE key=FILE]
  ready    target=ADDRESS:PORT [since=SECONDS] [trust=FILE]
  memory   pids=PID,...
  reload   target=ADDRESS:PORT pids=MASTER,WORKER,...
  load     target=ADDRESS:PORT pids=PID,... sessions=N file=zSIZE [upload=1] [epsv=1]
           [seconds=S] [transfers=N] [warm_up=N]
           [trust=FILE [resume=1]] [peer=ADDRESS:PORT [peer_trust=FILE]]
  pasv     target=ADDRESS:PORT pids=PID,... hold=N [sessions=N] [round_trips=N] [cycles=N]
  idle     target=ADDRESS:PORT pids=PID,... sessions=N
  stalled  target=ADDRESS:PORT pids=PID,... sessions=N file=zSIZE
certificate and trust: TLS, of the peer or toward the target";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tool: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let arguments = Arguments::parse(arguments)?;
    match mode.as_str() {
        "peer" => serve(&arguments),
        "ready" => ready(&arguments),
        "memory" => memory(&arguments),
        "reload" => reload(&arguments),
        "load" => transfer(&arguments),
        "pasv" => pasv(&arguments),
        "idle" => idle(&arguments),
        "stalled" => stalled(&arguments),
        _ => Err(Error::Usage(USAGE.into())),
    }
}

fn serve(arguments: &Arguments) -> Result<(), Error> {
    let Ports(ports) = arguments.need("ports")?;
    let options = peer::Options {
        listen: arguments.need("listen")?,
        announce: arguments.need("announce")?,
        ports,
        announce_only: arguments.or("announce_only", 0)? != 0,
        tls: match arguments.path("certificate") {
            Some(certificate) => {
                let key: PathBuf = arguments.need("key")?;
                Some(tls::Server::new(certificate, &key)?)
            }
            None => None,
        },
    };
    Peer::new(options)?.run()
}

/// Waits until a whole login goes through; says how long that took since a moment of the wall clock.
fn ready(arguments: &Arguments) -> Result<(), Error> {
    let tls = arguments.client("trust", false)?;
    life::ready(arguments.need("target")?, tls.as_ref())?;
    if arguments.has("since") {
        let time = life::since(arguments.need("since")?)?;
        println!("start_ns={}", time.as_nanos());
    }
    Ok(())
}

fn memory(arguments: &Arguments) -> Result<(), Error> {
    println!("memory={}", hold::settled_memory(&arguments.processes()?)?);
    Ok(())
}

fn reload(arguments: &Arguments) -> Result<(), Error> {
    let reload = life::reload(arguments.need("target")?, &arguments.processes()?)?;
    println!(
        "serving_ns={} gone_ns={}",
        reload.serving.as_nanos(),
        reload.gone.as_nanos()
    );
    Ok(())
}

fn transfer(arguments: &Arguments) -> Result<(), Error> {
    let sessions = arguments.need("sessions")?;
    let options = load::Options {
        target: arguments.need("target")?,
        sessions,
        file: arguments.need("file")?,
        upload: arguments.or("upload", 0)? != 0,
        epsv: arguments.or("epsv", 0)? != 0,
        time: Duration::from_secs_f64(arguments.or("seconds", 3600.0)?),
        transfers: arguments.or("transfers", u64::MAX)?,
        warm_up: arguments.or("warm_up", 2 * sessions as u64)?,
        tls: arguments.client("trust", arguments.or("resume", 0)? != 0)?,
        peer: match arguments.has("peer") {
            true => Some((
                arguments.need("peer")?,
                arguments.client("peer_trust", false)?,
            )),
            false => None,
        },
    };
    let outcome = Load::new(options)?.run(&arguments.processes()?)?;
    println!(
        "transfers={} bytes={} cpu_ns={} seconds={:.3} \
         client_full={} client_resumed={} server_full={} server_resumed={}",
        outcome.transfers,
        outcome.bytes,
        outcome.cpu,
        outcome.time.as_secs_f64(),
        outcome.client.full,
        outcome.client.resumed,
        outcome.server.full,
        outcome.server.resumed
    );
    Ok(())
}

fn pasv(arguments: &Arguments) -> Result<(), Error> {
    let mut outstanding = Outstanding::new(
        arguments.need("target")?,
        arguments.need("hold")?,
        arguments.or("sessions", 8)?,
        arguments.or("round_trips", 10_000)?,
    )?;
    let processes = arguments.processes()?;
    // The first cycle finds ports that were never used, which no later one does.
    outstanding.cycle(&processes)?;
    for _ in 0..arguments.or("cycles", 1)? {
        let cycle = outstanding.cycle(&processes)?;
        println!("empty_ns={} full_ns={}", cycle.empty, cycle.full);
    }
    Ok(())
}

fn idle(arguments: &Arguments) -> Result<(), Error> {
    let idle = hold::idle(
        arguments.need("target")?,
        arguments.need("sessions")?,
        &arguments.processes()?,
    )?;
    println!(
        "greeted={} logged_in={} transferred={}",
        idle.greeted, idle.logged_in, idle.transferred
    );
    Ok(())
}

fn stalled(arguments: &Arguments) -> Result<(), Error> {
    let file: String = arguments.need("file")?;
    let bytes = hold::stalled(
        arguments.need("target")?,
        arguments.need("sessions")?,
        &file,
        &arguments.processes()?,
    )?;
    println!("bytes={bytes}");
    Ok(())
}

/// The `name=value` words of the command line.
struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let pairs = words.map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Error::Usage(format!("not name=value: \"{word}\""))),
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    fn need<T: FromStr>(&self, name: &str) -> Result<T, Error> {
        let value = self
            .0
            .get(name)
            .ok_or_else(|| Error::Usage(format!("\"{name}\" is missing\n{USAGE}")))?;
        value
            .parse()
            .map_err(|_| Error::Usage(format!("invalid \"{name}\" value \"{value}\"")))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, Error> {
        if self.has(name) {
            return self.need(name);
        }
        Ok(default)
    }

    fn path(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(Path::new)
    }

    /// TLS as a client, if the file to trust is named.
    fn client(&self, trust: &str, resume: bool) -> Result<Option<tls::Client>, Error> {
        let file = self.path(trust);
        file.map(|file| tls::Client::new(file, resume)).transpose()
    }

    fn processes(&self) -> Result<Processes, Error> {
        let list: String = self.need("pids")?;
        let pids = list.split(',').map(str::parse).collect::<Result<_, _>>();
        pids.map(Processes)
            .map_err(|_| Error::Usage(format!("invalid \"pids\" value \"{list}\"")))
    }
}

/// `FIRST-LAST`, both included.
struct Ports(RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Usage(format!("invalid port range \"{text}\""));
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let first = first.parse().map_err(|_| bad())?;
        let last = last.parse().map_err(|_| bad())?;
        if first > last {
            return Err(bad());
        }
        Ok(Self(first..=last))
    }
}
