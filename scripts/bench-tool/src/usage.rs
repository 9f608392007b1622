//! CPU time and memory of other processes, from `/proc`.

use std::fs;

use crate::error::{Doing, Error};

/// The processes that are measured: nginx's master and workers.
#[derive(Debug, Clone)]
pub struct Processes(pub Vec<u32>);

impl Processes {
    /// CPU time used so far, in nanoseconds. Exact only while the processes sleep:
    /// the time slice that is running is not counted yet.
    pub fn cpu(&self) -> Result<u64, Error> {
        self.0.iter().try_fold(0, |sum, pid| {
            let text = read(&format!("/proc/{pid}/schedstat"))?;
            let first = text.split_whitespace().next();
            Ok(sum + number(first, "schedstat")?)
        })
    }

    /// Those that are still there.
    pub fn count(&self) -> usize {
        let alive = |pid: &&u32| fs::exists(format!("/proc/{pid}")).unwrap_or(true);
        self.0.iter().filter(alive).count()
    }

    /// Proportional set size without mapped files, in bytes: pages that several of the processes share count once
    /// in all. Files would count for less the more others use them, another nginx for example.
    pub fn memory(&self) -> Result<u64, Error> {
        self.0.iter().try_fold(0, |sum, pid| {
            let text = read(&format!("/proc/{pid}/smaps_rollup"))?;
            let kib = |name| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                let value = line.and_then(|rest| rest.split_whitespace().next());
                number(value, "smaps_rollup")
            };
            Ok(sum + (kib("Pss_Anon:")? + kib("Pss_Shmem:")?) * 1024)
        })
    }
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).doing("read of /proc")
}

fn number(text: Option<&str>, file: &str) -> Result<u64, Error> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::Peer(format!("no number in {file}")))
}
