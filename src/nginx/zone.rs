//! The shared memory zone of the reservations: made, kept over a reload, locked, and cleared of workers
//! that are gone. What stands in it is `ports`' business.

use std::cell::RefCell;
use std::ffi::c_void;
use std::fs;
use std::ops::RangeInclusive;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_ERROR, NGX_LOG_ALERT, NGX_LOG_EMERG, NGX_LOG_INFO, NGX_OK, ngx_current_msec, ngx_cycle_t,
    ngx_int_t, ngx_log_t, ngx_pagesize, ngx_shm_zone_t, ngx_slab_alloc, ngx_slab_pool_t, ngx_str_t,
    ngx_stream_conf_ctx_t, ngx_uint_t,
};
use ngx::core::SlabPool;

use crate::ports::{self, Layout, Memory, Msec, Owner, Reservation, Served, Table};

/// Fewer reservations than this are surely a mistake.
pub const MIN_RESERVATIONS: usize = 64;

/// A zone as one configuration sees it; lives in the cycle's pool.
#[repr(C)]
pub struct Zone {
    /// Its name.
    pub name: ngx_str_t,
    /// nginx's side of it.
    pub shm: *mut ngx_shm_zone_t,
    /// First port, 0 until an `ftp_ctrl` gives the range.
    pub min_port: u16,
    /// Last port.
    pub max_port: u16,
    /// `ftp_data_peer` of the first server that was looked at, as in [`super::conf::SrvConf`].
    pub peer: ngx_uint_t,
    /// The context of a data server, for data connections that the proxy begins; null if there is none.
    pub data_server: *mut ngx_stream_conf_ctx_t,
    words: *const AtomicU64,
    count: usize,
    /// Of the table, once that has been made.
    layout: Layout,
}

/// The table's words in shared memory.
pub struct Words {
    words: *const AtomicU64,
    count: usize,
}

impl Memory for Words {
    fn words(&self) -> usize {
        self.count
    }

    fn load(&self, word: usize) -> u64 {
        if word >= self.count {
            return 0;
        }
        // SAFETY: the zone has `count` words and is mapped as long as its cycle lives.
        unsafe { (*self.words.add(word)).load(Ordering::Acquire) }
    }

    fn store(&mut self, word: usize, value: u64) {
        if word < self.count {
            // SAFETY: as above. Releasing keeps the order that makes a kill between two stores harmless.
            unsafe { (*self.words.add(word)).store(value, Ordering::Release) }
        }
    }
}

/// How many reservations a zone of `size` bytes holds, give or take a page.
pub fn capacity(size: usize) -> usize {
    // SAFETY: set once, when nginx starts.
    let page = unsafe { ngx_pagesize };
    // A page for the slab pool itself, and 24 bytes for each page.
    let pages = size.saturating_sub(page) / (page + 24);
    ports::capacity(pages.saturating_mul(page) / 8)
}

/// Part of the zone's identity: a module with another layout gets a fresh segment. nginx compares the value
/// and never follows it, so it may outlive the module that made it.
pub fn tag() -> *mut c_void {
    const NAME: usize = 0x0066_7470_0000_0000;
    ptr::without_provenance_mut(NAME | ports::LAYOUT as usize)
}

impl Zone {
    /// The range; empty until one is given.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.min_port..=self.max_port
    }

    /// Where a data connection of a session of this process can come to; `None` where nobody listens for its zone any
    /// more: nginx ends, or the zone is another one since a reload or an upgrade.
    pub fn served(&self) -> Option<RangeInclusive<u16>> {
        let Some(served) = self.table().and_then(|table| table.served()) else {
            return Some(self.ports());
        };
        // SAFETY: set by this process's event loop only.
        let leaves = unsafe { nginx_sys::ngx_exiting } != 0;
        let own = served.generation == GENERATION.load(Ordering::Relaxed);
        let nobodys = served.generation == NOBODYS || leaves && own;
        (!nobodys).then_some(served.ports)
    }

    /// Says which ports are served, and by whom. No lock is taken: a worker that is killed with it waits for the master,
    /// too.
    fn serve(&self, generation: u32) {
        if let Some(mut table) = self.table().filter(|_| self.min_port != 0) {
            let ports = self.ports();
            table.serve(&Served { generation, ports });
        }
    }

    /// The table, not locked.
    fn table(&self) -> Option<Table<Words>> {
        if self.words.is_null() {
            return None;
        }
        let words = Words {
            words: self.words,
            count: self.count,
        };
        Some(Table::open_again(words, self.layout))
    }

    /// Runs `work` on the table, locked against every other worker.
    pub fn with<T>(&self, work: impl FnOnce(&mut Table<Words>) -> T) -> Option<T> {
        if self.words.is_null() {
            return None;
        }
        // SAFETY: the zone was initialised before the worker began, or `words` were null.
        let pool = unsafe { SlabPool::from_shm_zone(&*self.shm) }?;
        // The mutex is nginx's: when a worker dies with it, the master unlocks it.
        let _locked = pool.lock();
        self.table().map(|mut table| work(&mut table))
    }
}

/// Reservations that a call freed because nobody will use them any more, to be logged when the lock is
/// free again; a few are enough.
#[derive(Default)]
pub struct Reclaimed {
    some: Vec<Reservation>,
}

impl Reclaimed {
    /// Notes one.
    pub fn push(&mut self, reservation: &Reservation) {
        if self.some.len() < 16 {
            self.some.push(*reservation);
        }
    }

    /// Writes a line for each.
    pub fn log(&self, log: *mut ngx_log_t) {
        for reservation in &self.some {
            let port = reservation.port;
            let why = match reservation.taken {
                true => "lost",
                false => "expired",
            };
            match reservation.peer {
                ports::Peer::Host(host) => {
                    ngx_log_error!(NGX_LOG_INFO, log, "ftp {why} port {port} of {host}");
                }
                ports::Peer::Any => {
                    ngx_log_error!(NGX_LOG_INFO, log, "ftp {why} port {port}");
                }
            }
        }
    }
}

/// The zone's three cases: kept over a reload, found in memory, fresh.
///
/// # Safety
///
/// Called by nginx with a zone that `conf` declared.
pub unsafe extern "C" fn init(shm: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    // SAFETY: `data` is the `Zone` of this configuration, `old` that of the one before, if nginx keeps the
    // segment.
    unsafe {
        let zone = &mut *(*shm).data.cast::<Zone>();
        if let Some(old) = old.cast::<Zone>().as_ref() {
            zone.words = old.words;
            zone.count = old.count;
            // Maybe another build of this module has made it.
            let words = Words {
                words: zone.words,
                count: zone.count,
            };
            return match Table::open(words) {
                Ok(table) => {
                    zone.layout = table.layout();
                    NGX_OK as ngx_int_t
                }
                Err(error) => {
                    let (name, log) = (&zone.name, (*shm).shm.log);
                    ngx_log_error!(NGX_LOG_EMERG, log, "zone \"{name}\": {error}");
                    NGX_ERROR as ngx_int_t
                }
            };
        }
        let pool = (*shm).shm.addr.cast::<ngx_slab_pool_t>();
        let log = (*shm).shm.log;
        // Everything that is free is one run of pages now.
        let bytes = (*pool).pfree.saturating_mul(ngx_pagesize);
        let words = ngx_slab_alloc(pool, bytes).cast::<AtomicU64>();
        if words.is_null() {
            let name = &zone.name;
            ngx_log_error!(
                NGX_LOG_EMERG,
                log,
                "zone \"{name}\" has no room for its table"
            );
            return NGX_ERROR as ngx_int_t;
        }
        // The pool never has free memory again, and nobody allocates from it.
        (*pool).set_log_nomem(0);
        (*pool).data = words.cast();
        zone.words = words;
        zone.count = bytes / 8;
        let made = Table::format(Words {
            words,
            count: zone.count,
        });
        match made {
            Ok(table) => {
                zone.layout = table.layout();
                NGX_OK as ngx_int_t
            }
            Err(error) => {
                let name = &zone.name;
                ngx_log_error!(NGX_LOG_EMERG, log, "zone \"{name}\": {error}");
                NGX_ERROR as ngx_int_t
            }
        }
    }
}

/// The zones of the cycle that are ours.
unsafe fn zones<'a>(cycle: *mut ngx_cycle_t) -> impl Iterator<Item = &'a Zone> {
    // SAFETY: the list of zones is complete when a configuration is, and lives as long as its cycle.
    unsafe {
        let list = &raw mut (*cycle).shared_memory.part;
        std::iter::successors(list.as_ref(), |part| part.next.as_ref())
            .flat_map(|part| {
                let first = part.elts.cast::<ngx_shm_zone_t>();
                (0..part.nelts).map(move |i| first.add(i))
            })
            .filter(|shm| (**shm).tag == tag())
            .filter_map(|shm| (*shm).data.cast::<Zone>().as_ref())
    }
}

/// The number of the configuration that this process has got.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// That of a zone which no configuration has any more; none that is drawn.
const NOBODYS: u32 = 0;

/// A configuration comes into force: says in every zone which ports it serves, and in those of the one before that it has
/// not, that nobody does.
///
/// # Safety
///
/// Called in the master with its new cycle; the memory of the one before is mapped.
pub unsafe fn serve_all(cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller's promise. At nginx's start the cycle before has no zones.
    let (log, new, old) = unsafe {
        let (new, old) = (zones(cycle), zones((*cycle).old_cycle));
        ((*cycle).log, new.collect::<Vec<_>>(), old)
    };
    // Drawn, as a module that replaces this one would count anew.
    let generation = (random(log) as u32).max(NOBODYS + 1);
    GENERATION.store(generation, Ordering::Relaxed);
    for zone in &new {
        zone.serve(generation);
    }
    for gone in old.filter(|old| !new.iter().any(|zone| ptr::eq(zone.words, old.words))) {
        gone.serve(NOBODYS);
    }
}

/// Frees in every zone of the cycle what belongs to workers that are gone. For the start of a worker.
///
/// # Safety
///
/// Called in a worker with its cycle.
pub unsafe fn reclaim_all(cycle: *mut ngx_cycle_t) {
    // SAFETY: the caller's promise.
    for zone in unsafe { zones(cycle) } {
        let mut reclaimed = Reclaimed::default();
        zone.with(|table| {
            table.reclaim_dead(now(), &mut is_dead_for_sure, &mut |reservation| {
                reclaimed.push(reservation);
            })
        });
        // SAFETY: the cycle's log lives as long as the cycle.
        reclaimed.log(unsafe { (*cycle).log });
    }
}

/// nginx's monotonic clock.
pub fn now() -> Msec {
    // SAFETY: written by this process's event loop only.
    unsafe { ngx_current_msec as Msec }
}

static WORKER: AtomicU64 = AtomicU64::new(0);

/// This process: its pid, and when it started, for pids are used again.
pub fn this_worker() -> Owner {
    Owner(WORKER.load(Ordering::Relaxed))
}

/// A process begins to be a worker.
pub fn become_worker() {
    let pid = std::process::id();
    let worker = u64::from(pid) << 32 | u64::from(started(pid).unwrap_or(0));
    WORKER.store(worker, Ordering::Relaxed);
    forget_random();
}

/// Whether no process has the owner's pid: cheap enough for every reservation.
pub fn is_dead(owner: Owner) -> bool {
    gone(owner.0)
}

/// Whether the owner is gone, also where another process has its pid.
fn is_dead_for_sure(owner: Owner) -> bool {
    let pid = (owner.0 >> 32) as u32;
    gone(owner.0) || started(pid).is_some_and(|start| start != owner.0 as u32)
}

fn gone(owner: u64) -> bool {
    let Ok(pid) = i32::try_from(owner >> 32) else {
        return true;
    };
    // SAFETY: signal 0 asks and sends nothing.
    let answer = unsafe { libc::kill(pid, 0) };
    answer != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// The process's start in clock ticks since boot, cut to 32 bits: the 22nd field of its `stat`, the 20th
/// behind the name, which may have blanks and parentheses.
fn started(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks as u32)
}

thread_local! {
    /// Random numbers in store, for a system call costs more than all else about a port.
    static STORE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Drops what a parent process has left: two workers must not draw the same numbers.
fn forget_random() {
    STORE.with(RefCell::take);
}

/// A number that nobody can guess, for ports and session ids.
pub fn random(log: *mut ngx_log_t) -> u64 {
    STORE.with(|store| {
        let mut store = store.borrow_mut();
        if let Some(number) = store.pop() {
            return number;
        }
        let mut bytes = [0u8; 256];
        // SAFETY: the buffer has the length that is told. 256 bytes are never given in part.
        let given = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if given != bytes.len() as isize {
            ngx_log_error!(NGX_LOG_ALERT, log, "getrandom() failed");
            return now() ^ u64::from(std::process::id()) << 32;
        }
        let (numbers, _) = bytes.as_chunks();
        store.extend(numbers.iter().map(|number| u64::from_ne_bytes(*number)));
        store.pop().unwrap_or_default()
    })
}
