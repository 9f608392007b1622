//! The table of reservations: against a model while workers are killed at any store, and in damaged memory.

use crate::feed::{Feed, Random};
use ngx_stream_ftp_proxy_module::ports::{
    Host, MAX_KEPT, MAX_NAME, MAX_PATH, MAX_USER, Memory, Mode, Owner, Peer, Request, Reservation,
    ReserveError, Table, Taken, Text, Ticket, Tls, Way, capacity,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// Loads of one operation at most, with the few slots there are: a walk that does not end does more.
const MAX_LOADS: u64 = 1 << 20;

/// The first byte chooses between the model and damaged memory and says how many slots there are; then operations.
pub fn run(data: &[u8]) {
    let mut feed = Feed(data);
    let first = feed.byte();
    let slots = 1 + usize::from(first >> 1) % 9;
    match first & 1 {
        0 => Model::new(slots, data).run(&mut feed),
        _ => damaged(slots, &mut feed, data),
    }
}

/// Memory that outlives the processes that open it.
#[derive(Clone)]
struct Shared {
    words: Rc<RefCell<Vec<u64>>>,
    loads: Rc<Cell<u64>>,
    /// Stores until the process is killed.
    life: Rc<Cell<Option<u64>>>,
}

/// What unwinds a process that is killed.
struct Killed;

impl Shared {
    fn new(slots: usize) -> Self {
        let words = (0..).find(|words| capacity(*words) == slots);
        Self {
            words: Rc::new(RefCell::new(vec![0; words.unwrap_or(0)])),
            loads: Rc::default(),
            life: Rc::default(),
        }
    }
}

impl Memory for Shared {
    fn words(&self) -> usize {
        self.words.borrow().len()
    }

    fn load(&self, word: usize) -> u64 {
        self.loads.set(self.loads.get() + 1);
        assert!(self.loads.get() < MAX_LOADS, "an endless walk");
        self.words.borrow()[word]
    }

    fn store(&mut self, word: usize, value: u64) {
        match self.life.get() {
            // No panic: nothing is reported, and libFuzzer does not hear of it.
            Some(0) => resume_unwind(Box::new(Killed)),
            Some(left) => self.life.set(Some(left - 1)),
            None => {}
        }
        self.words.borrow_mut()[word] = value;
    }
}

fn host(number: usize) -> Host {
    let ip = match number {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        1 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
        _ => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3)),
    };
    Host::new(ip, 4)
}

fn range(feed: &mut Feed<'_>) -> RangeInclusive<u16> {
    match feed.below(6) {
        0 => 65_535..=65_535,
        1 => 1..=65_535,
        2 => 7..=7,
        3 => 1000..=1199,
        #[allow(clippy::reversed_empty_ranges)] // What the module never asks for.
        4 => 2..=1,
        _ => 7..=10,
    }
}

const TEXT: [u8; 300] = [b'x'; 300];

fn request(feed: &mut Feed<'_>, now: u64, owner: Owner, anys: bool) -> Request<'static> {
    let bits = feed.byte();
    let peer = match bits & 3 {
        3 if anys => Peer::Any,
        number => Peer::Host(host(usize::from(number).min(2))),
    };
    let targets = [
        SocketAddr::from(([198, 51, 100, 9], 34_567)),
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 1024)),
    ];
    let length = usize::from(feed.byte());
    let mate = match length & 24 {
        24 => Ticket::from_words([(1 << 24) - 1, length as u64]),
        _ => None,
    };
    Request {
        peer,
        target: targets[usize::from(bits >> 2 & 1)],
        local: (bits & 8 != 0 && mate.is_none()).then_some(targets[1]),
        mate,
        session: u64::from(bits >> 4 & 3),
        mode: match (bits & 64, length & 4) {
            (0, 0) => Mode::Pasv,
            (_, 0) => Mode::Epsv,
            (0, _) => Mode::Port,
            _ => Mode::Eprt,
        },
        way: match length % 5 {
            0 => Way::ToServer,
            1 => Way::ToClient,
            2 => Way::Neither,
            3 => Way::FromClient,
            _ => Way::FromServer,
        },
        tls: Tls {
            client: bits & 128 != 0,
            server: length & 1 != 0,
            resumed: length & 2 != 0,
        },
        owner,
        deadline: now + 100 * u64::from(feed.byte()),
        user: &TEXT[..length.min(MAX_USER + 1)],
        verb: &TEXT[..length % 12],
        path: &TEXT[..length.min(MAX_PATH + 1)],
        name: &TEXT[..length.min(MAX_NAME)],
        kept: None,
    }
}

fn as_taken(held: &Reservation) -> Taken {
    Taken {
        ticket: held.ticket,
        port: held.port,
        way: held.way,
        deadline: held.deadline,
        target: held.target,
        local: held.local,
        session: held.session,
        tls: held.tls,
        kept: held.kept,
    }
}

/// What a reservation must be that was just made.
fn made(ticket: Ticket, port: u16, request: &Request<'_>) -> Reservation {
    Reservation {
        ticket,
        taken: false,
        port,
        peer: request.peer,
        target: request.target,
        local: request.local,
        mate: request.mate,
        session: request.session,
        mode: request.mode,
        way: request.way,
        tls: request.tls,
        owner: request.owner,
        deadline: request.deadline,
        user: Text::new(request.user),
        verb: Text::new(request.verb),
        path: Text::new(request.path),
        name: Text::new(request.name),
        kept: request.kept,
    }
}

/// A secret that the table keeps, and how many slots it takes.
struct Secret {
    ticket: Ticket,
    owner: Owner,
    slots: usize,
    /// `None` where it was to be replaced and is no more.
    bytes: Option<Vec<u8>>,
}

/// Bytes that differ with their place and their length.
fn secret(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + length) as u8).collect()
}

/// The reservations as they should be, by a list and nothing else.
struct Model {
    slots: usize,
    memory: Shared,
    table: Table<Shared>,
    random: Random,
    now: u64,
    workers: [Owner; 3],
    dead: BTreeSet<Owner>,
    live: Vec<Reservation>,
    secrets: Vec<Secret>,
    gone: Vec<Ticket>,
    /// The next operation is killed at this store.
    life: Option<u64>,
}

/// An operation, decided but not yet done; `at` is a place in [`Model::live`].
enum Deed {
    Reserve(Request<'static>, RangeInclusive<u16>),
    Find(u16, Host),
    Take(Ticket, u16, Host),
    Release(Ticket),
    Finish(Ticket),
    Annotate(Ticket, usize),
    Keep(usize),
    KeepInstead(Ticket, usize),
    Forget(Ticket),
    Reclaim,
}

/// What it answered.
#[allow(clippy::large_enum_variant)] // There is one at a time.
enum Answer {
    Reserved(Result<(Ticket, u16), ReserveError>),
    Found(Option<Ticket>),
    Taken(Option<Taken>),
    Released(Option<u16>),
    Kept(Option<Ticket>),
    Yes(bool),
    Reclaimed(usize),
}

impl Model {
    fn new(slots: usize, seed: &[u8]) -> Self {
        let memory = Shared::new(slots);
        Self {
            slots,
            table: Table::format(memory.clone()).expect("there is room"),
            memory,
            random: Random::of(seed),
            now: 10_000,
            workers: [Owner(1), Owner(2), Owner(3)],
            dead: BTreeSet::new(),
            live: Vec::new(),
            secrets: Vec::new(),
            gone: Vec::new(),
            life: None,
        }
    }

    fn run(&mut self, feed: &mut Feed<'_>) {
        while !feed.is_empty() {
            let worker = feed.below(3);
            let owner = self.workers[worker];
            let Some(deed) = self.decide(feed, owner) else {
                continue;
            };
            let mut reclaimed = Vec::new();
            self.memory.loads.set(0);
            self.memory.life.set(self.life.take());
            let answer = self.perform(&deed, owner, &mut reclaimed);
            self.memory.life.set(None);
            self.forget(&reclaimed);
            match answer {
                Some(answer) => self.judge(&deed, owner, answer, reclaimed.len()),
                None => self.killed(&deed, worker),
            }
            self.compare();
        }
    }

    fn decide(&mut self, feed: &mut Feed<'_>, owner: Owner) -> Option<Deed> {
        let anys = self.slots.is_multiple_of(2);
        Some(match feed.below(13) {
            0..3 => {
                let mut request = request(feed, self.now, owner, anys);
                request.kept = self.secrets.first().map(|secret| secret.ticket);
                Deed::Reserve(request, range(feed))
            }
            3 => Deed::Find(7 + u16::from(feed.byte() & 3), host(feed.below(3))),
            4 => {
                let ticket = self.ticket(feed)?;
                let held = self.live.iter().find(|held| held.ticket == ticket);
                let (port, from) = match (held.map(|held| (held.port, held.peer)), feed.below(8)) {
                    (Some((port, Peer::Host(host))), 1..) => (port, host),
                    (Some((port, Peer::Any)), 1..) => (port, host(1)),
                    _ => (7, host(0)),
                };
                Deed::Take(ticket, port, from)
            }
            5 => Deed::Release(self.ticket(feed)?),
            6 => Deed::Finish(self.ticket(feed)?),
            7 => Deed::Annotate(self.ticket(feed)?, usize::from(feed.byte())),
            8 => match feed.byte() {
                0..20 => Deed::Reclaim,
                byte => {
                    self.now += 40 * u64::from(byte);
                    return None;
                }
            },
            9 => Deed::Keep(8 * usize::from(feed.byte())),
            10 => {
                let at = feed.below(self.secrets.len().max(1));
                let ticket = self.secrets.get(at).map(|secret| secret.ticket);
                let ticket = ticket.or_else(|| self.gone.first().copied())?;
                match feed.byte() {
                    length @ 0..128 => Deed::KeepInstead(ticket, 16 * usize::from(length)),
                    _ => Deed::Forget(ticket),
                }
            }
            11 => {
                self.life = Some(feed.byte().into());
                return None;
            }
            _ => {
                // As another process that has just been started.
                self.table = Table::open(self.memory.clone()).expect("there is a table");
                return None;
            }
        })
    }

    fn ticket(&self, feed: &mut Feed<'_>) -> Option<Ticket> {
        let byte = usize::from(feed.byte());
        if byte >= 224 && !self.gone.is_empty() {
            return Some(self.gone[byte % self.gone.len()]);
        }
        let held = self.live.get(byte % self.live.len().max(1))?;
        Some(held.ticket)
    }

    /// `None` if the worker was killed.
    fn perform(
        &mut self,
        deed: &Deed,
        owner: Owner,
        reclaimed: &mut Vec<Reservation>,
    ) -> Option<Answer> {
        let Self {
            table,
            random,
            dead,
            now,
            ..
        } = self;
        let now = *now;
        let dead = &mut |owner| dead.contains(&owner);
        let reclaimed = &mut |reservation: &Reservation| reclaimed.push(*reservation);
        let work = AssertUnwindSafe(|| match deed {
            Deed::Reserve(request, ports) => {
                let random = &mut || random.next();
                let made = table.reserve(now, request, ports.clone(), random, dead, reclaimed);
                Answer::Reserved(made.map(|made| (made.ticket, made.port)))
            }
            Deed::Find(port, from) => Answer::Found(table.find(now, *port, *from)),
            Deed::Take(ticket, port, from) => {
                Answer::Taken(table.take(now, *ticket, *port, *from, owner))
            }
            Deed::Release(ticket) => Answer::Released(table.release(now, *ticket)),
            Deed::Finish(ticket) => Answer::Yes(table.finish(now, *ticket)),
            Deed::Annotate(ticket, length) => {
                Answer::Yes(table.annotate(*ticket, b"STOR", &TEXT[..*length]))
            }
            Deed::Keep(length) => Answer::Kept(table.keep(now, owner, &secret(*length))),
            Deed::KeepInstead(ticket, length) => {
                Answer::Yes(table.keep_instead(*ticket, &secret(*length)))
            }
            Deed::Forget(ticket) => Answer::Yes(table.forget(now, *ticket)),
            Deed::Reclaim => Answer::Reclaimed(table.reclaim_dead(now, dead, reclaimed)),
        });
        match catch_unwind(work) {
            Ok(answer) => Some(answer),
            Err(panic) if panic.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn is_useless(&self, held: &Reservation) -> bool {
        (!held.taken && held.deadline <= self.now) || self.dead.contains(&held.owner)
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.live.iter().position(|held| held.ticket == ticket)
    }

    fn remove(&mut self, at: usize) {
        let held = self.live.swap_remove(at);
        self.gone.push(held.ticket);
    }

    /// What the table took back must have been there, as it was, and of no use.
    fn forget(&mut self, reclaimed: &[Reservation]) {
        for reservation in reclaimed {
            let at = self.place(reservation.ticket).expect("it was there");
            assert_eq!(self.live[at], *reservation);
            assert!(self.is_useless(reservation), "{reservation:?} was of use");
            self.remove(at);
        }
    }

    fn judge(&mut self, deed: &Deed, owner: Owner, answer: Answer, reclaimed: usize) {
        match (deed, answer) {
            (Deed::Reserve(request, ports), Answer::Reserved(made)) => {
                self.judge_reserved(request, ports, made);
            }
            (Deed::Find(port, from), Answer::Found(found)) => {
                let exact = self.waiting(*port, Peer::Host(*from));
                assert_eq!(found, exact.or_else(|| self.waiting(*port, Peer::Any)));
            }
            (Deed::Take(ticket, port, from), Answer::Taken(taken)) => {
                let at = self.place(*ticket).filter(|at| {
                    let held = &self.live[*at];
                    let waits = !held.taken && held.deadline > self.now;
                    waits && held.port == *port && held.peer.admits(*from)
                });
                if let Some(at) = at {
                    (self.live[at].taken, self.live[at].owner) = (true, owner);
                }
                assert_eq!(taken, at.map(|at| as_taken(&self.live[at])));
            }
            (Deed::Release(ticket), Answer::Released(port)) => {
                let at = self.place(*ticket).filter(|at| !self.live[*at].taken);
                assert_eq!(port, at.map(|at| self.live[at].port));
                at.into_iter().for_each(|at| self.remove(at));
            }
            (Deed::Finish(ticket), Answer::Yes(finished)) => {
                let at = self.place(*ticket).filter(|at| self.live[*at].taken);
                assert_eq!(finished, at.is_some());
                at.into_iter().for_each(|at| self.remove(at));
            }
            (Deed::Annotate(ticket, length), Answer::Yes(known)) => {
                let at = self.place(*ticket);
                assert_eq!(known, at.is_some());
                if let Some(at) = at {
                    self.live[at].verb = Text::new(b"STOR");
                    self.live[at].path = Text::new(&TEXT[..*length]);
                }
            }
            (Deed::Keep(length), Answer::Kept(kept)) => {
                let slots = self.table.counts().kept - self.kept_slots();
                assert_eq!(slots > 0, kept.is_some());
                assert!(self.kept_slots() + slots <= self.slots / 2);
                if let Some(ticket) = kept {
                    self.secrets.push(Secret {
                        ticket,
                        owner,
                        slots,
                        bytes: Some(secret(*length)),
                    });
                } else {
                    // No more than one slot for each 256 bytes is too many to ask for.
                    let needed = length.div_ceil(256);
                    let free = self.slots - self.live.len() - self.kept_slots();
                    // Half of the slots are for reservations.
                    let short = self.kept_slots() + needed > self.slots / 2;
                    assert!(*length == 0 || free < needed || short, "there was room");
                }
            }
            (Deed::KeepInstead(ticket, length), Answer::Yes(fits)) => {
                let known = self
                    .secrets
                    .iter_mut()
                    .find(|known| known.ticket == *ticket);
                assert!(known.is_some() || !fits);
                if let Some(known) = known {
                    known.bytes = (fits && *length > 0).then(|| secret(*length));
                }
            }
            (Deed::Forget(ticket), Answer::Yes(forgotten)) => {
                let at = self
                    .secrets
                    .iter()
                    .position(|known| known.ticket == *ticket);
                assert_eq!(forgotten, at.is_some());
                if let Some(at) = at {
                    self.gone.push(self.secrets.swap_remove(at).ticket);
                }
            }
            (Deed::Reclaim, Answer::Reclaimed(freed)) => {
                assert_eq!(freed, reclaimed);
                assert!(!self.live.iter().any(|held| self.is_useless(held)));
            }
            _ => unreachable!("an answer to another question"),
        }
    }

    fn judge_reserved(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        answer: Result<(Ticket, u16), ReserveError>,
    ) {
        let forbids = |held: &Reservation, port: u16| {
            let same = held.peer == request.peer;
            let anybody = held.peer == Peer::Any || request.peer == Peer::Any;
            let follows = held.taken && held.session == request.session;
            held.port == port && ((same && !follows) || (!same && anybody))
        };
        match answer {
            Ok((ticket, port)) => {
                assert!(ports.contains(&port));
                assert!(!self.live.iter().any(|held| forbids(held, port)));
                assert!(!self.gone.contains(&ticket) && self.place(ticket).is_none());
                self.live.push(made(ticket, port, request));
            }
            Err(ReserveError::NoSlot) => {
                assert_eq!(self.live.len() + self.kept_slots(), self.slots);
            }
            Err(ReserveError::NoPort) => {
                // A port with a few open connections of the session is not given either.
                let blocked = |port| {
                    let on_port = self.live.iter().filter(|held| held.port == port);
                    self.live.iter().any(|held| forbids(held, port)) || on_port.count() > 4
                };
                let few = ports.is_empty() || ports.len() <= 64;
                assert!(
                    few && ports.clone().all(blocked),
                    "there was room in {ports:?}"
                );
            }
        }
    }

    fn kept_slots(&self) -> usize {
        self.secrets.iter().map(|secret| secret.slots).sum()
    }

    fn waiting(&self, port: u16, peer: Peer) -> Option<Ticket> {
        let waits = |held: &&Reservation| {
            !held.taken && held.deadline > self.now && (held.port, held.peer) == (port, peer)
        };
        let mut found = self.live.iter().filter(waits).map(|held| held.ticket);
        let first = found.next();
        assert_eq!(found.next(), None, "reserved twice");
        first
    }

    /// The worker was killed half-way. All but what it worked on is as it was, and the next one takes back what was
    /// the dead one's.
    fn killed(&mut self, deed: &Deed, worker: usize) {
        let dead = self.workers[worker];
        let next = self.workers.map(|worker| worker.0).into_iter().max();
        self.workers[worker] = Owner(next.unwrap_or(0) + 1);
        self.dead.insert(dead);
        self.table = Table::open(self.memory.clone()).expect("there is a table");

        let target = match deed {
            Deed::Take(ticket, ..)
            | Deed::Release(ticket)
            | Deed::Finish(ticket)
            | Deed::Annotate(ticket, _) => self.place(*ticket),
            _ => None,
        };
        if let Some(at) = target {
            let held = self.live[at];
            match self.table.read(held.ticket) {
                None => {
                    assert!(matches!(deed, Deed::Release(_) | Deed::Finish(_)));
                    self.remove(at);
                }
                Some(left) => {
                    self.live[at] = half_done(deed, held, left, dead);
                }
            }
        }
        let sweeps = matches!(deed, Deed::Reserve(..) | Deed::Reclaim);
        for at in (0..self.live.len()).rev() {
            let held = self.live[at];
            match self.table.read(held.ticket) {
                Some(left) if left == held => {}
                // Its time of freeing was written, or it was freed and nobody told any more.
                Some(left) if sweeps && self.is_useless(&held) => {
                    let deadline = left.deadline;
                    assert_eq!(left, Reservation { deadline, ..held });
                    self.live[at] = left;
                }
                None if sweeps && self.is_useless(&held) => self.remove(at),
                left => panic!("{held:?} has become {left:?}"),
            }
        }
        if let Deed::KeepInstead(ticket, _) | Deed::Forget(ticket) = deed {
            self.half_forgotten(*ticket, deed);
        }
        self.bury(deed, dead);
    }

    /// What is left of a secret is as it was, or as it was to be, or nothing; and it can be given back.
    fn half_forgotten(&mut self, ticket: Ticket, deed: &Deed) {
        let Some(at) = self.secrets.iter().position(|known| known.ticket == ticket) else {
            return;
        };
        let known = self.secrets.swap_remove(at);
        let mut bytes = [0; MAX_KEPT];
        if let Some(left) = self.table.kept(ticket, &mut bytes) {
            let new = match deed {
                Deed::KeepInstead(_, length) => Some(secret(*length)),
                _ => None,
            };
            assert!(known.bytes.as_deref() == Some(left) || new.as_deref() == Some(left));
        }
        self.table.forget(self.now, ticket);
        self.gone.push(ticket);
    }

    /// The next worker starts: nothing of the dead one is left, and a reservation that it was making is whole or not
    /// there.
    fn bury(&mut self, deed: &Deed, dead: Owner) {
        let mut reclaimed = Vec::new();
        let freed = self.table.reclaim_dead(
            self.now,
            &mut |owner| self.dead.contains(&owner),
            &mut |reservation| reclaimed.push(*reservation),
        );
        // Slots of secrets are freed, and nobody is told.
        assert!(freed >= reclaimed.len());
        self.secrets.retain(|secret| secret.owner != dead);
        let mut unknown = Vec::new();
        reclaimed.retain(|reservation| {
            let known = self.place(reservation.ticket).is_some();
            unknown.extend((!known).then_some(*reservation));
            known
        });
        self.forget(&reclaimed);
        assert!(!self.live.iter().any(|held| self.is_useless(held)));
        match (unknown.as_slice(), deed) {
            ([], _) => {}
            ([whole], Deed::Reserve(request, ports)) => {
                assert!(whole.owner == dead && ports.contains(&whole.port));
                assert_eq!(*whole, made(whole.ticket, whole.port, request));
                self.gone.push(whole.ticket);
            }
            _ => panic!("nobody reserved {unknown:?}"),
        }
    }

    /// The table holds what the model holds, and no more.
    fn compare(&mut self) {
        self.memory.loads.set(0);
        for held in &self.live {
            assert_eq!(self.table.read(held.ticket).as_ref(), Some(held));
            assert_eq!(self.table.verb(held.ticket), Some(held.verb));
            assert_eq!(self.table.is_taken(held.ticket), held.taken);
        }
        let mut bytes = [0; MAX_KEPT];
        for secret in &self.secrets {
            assert_eq!(
                self.table.kept(secret.ticket, &mut bytes),
                secret.bytes.as_deref()
            );
            assert_eq!(self.table.read(secret.ticket), None);
        }
        for ticket in &self.gone {
            assert_eq!(self.table.read(*ticket), None);
            assert_eq!(self.table.kept(*ticket, &mut bytes), None);
        }
        let keep = self.gone.len().saturating_sub(20);
        self.gone.drain(..keep);
        let counts = self.table.counts();
        let taken = self.live.iter().filter(|held| held.taken).count();
        assert_eq!(
            (counts.waiting, counts.taken),
            (self.live.len() - taken, taken)
        );
        assert_eq!(counts.kept, self.kept_slots());
        assert_eq!(counts.free, self.slots - self.live.len() - counts.kept);
    }
}

/// What may be left of a reservation when the worker that worked on it was killed.
fn half_done(deed: &Deed, held: Reservation, left: Reservation, dead: Owner) -> Reservation {
    let allowed = match deed {
        Deed::Take(..) => Reservation {
            owner: left.owner,
            taken: left.taken,
            ..held
        },
        Deed::Annotate(..) => Reservation {
            verb: left.verb,
            path: left.path,
            ..held
        },
        _ => Reservation {
            deadline: left.deadline,
            ..held
        },
    };
    assert_eq!(left, allowed);
    assert!(left.owner == held.owner || left.owner == dead);
    assert!(left.taken == held.taken || left.owner == dead);
    left
}

/// Any words in memory: nothing panics and nothing walks for ever, whatever it answers.
fn damaged(slots: usize, feed: &mut Feed<'_>, seed: &[u8]) {
    let mut memory = Shared::new(slots);
    let mut random = Random::of(seed);
    let mut table = Table::format(memory.clone()).expect("there is room");
    let mut tickets = Vec::new();
    let words = memory.words();
    let mut now = 10_000;
    while !feed.is_empty() {
        memory.loads.set(0);
        let owner = Owner(feed.below(3) as u64);
        let ticket = |feed: &mut Feed<'_>| tickets.get(feed.below(16)).copied();
        match feed.below(14) {
            12 => tickets.extend(table.keep(now, owner, &secret(8 * usize::from(feed.byte())))),
            13 => {
                let ticket = ticket(feed);
                ticket.map(|ticket| table.kept(ticket, &mut [0; MAX_KEPT]).is_some());
                ticket.map(|ticket| match feed.byte() {
                    length @ 0..128 => table.keep_instead(ticket, &secret(length.into())),
                    _ => table.forget(now, ticket),
                });
            }
            0..3 => {
                let mut request = request(feed, now, owner, true);
                request.kept = ticket(feed);
                let dead = &mut |owner| owner == Owner(2);
                let random = &mut || random.next();
                let made = table.reserve(now, &request, range(feed), random, dead, &mut |_| {});
                tickets.extend(made.map(|made| made.ticket));
            }
            3 => drop(table.find(now, 7, host(feed.below(3)))),
            4 => drop(ticket(feed).map(|ticket| table.take(now, ticket, 7, host(0), owner))),
            5 => drop(ticket(feed).map(|ticket| table.release(now, ticket))),
            6 => drop(ticket(feed).map(|ticket| table.finish(now, ticket))),
            7 => {
                let ticket = ticket(feed);
                ticket.map(|ticket| table.annotate(ticket, b"RETR", &TEXT));
                ticket.map(|ticket| (table.read(ticket), table.verb(ticket)));
            }
            8 => {
                let dead = &mut |owner| owner == Owner(2);
                table.reclaim_dead(now, dead, &mut |_| {});
                table.counts();
            }
            9 => {
                now = now.wrapping_add(if feed.byte() == 0 { feed.word() } else { 1000 });
                if let Ok(opened) = Table::open(memory.clone()) {
                    table = opened;
                }
            }
            _ => {
                // Header, buckets and the first slots, or anywhere.
                let word = match feed.byte() {
                    255 => feed.word() as usize % words,
                    byte => usize::from(byte) % words,
                };
                let value = match feed.below(4) {
                    0 => feed.word(),
                    1 => feed.below(slots + 3) as u64,
                    2 => (feed.below(slots + 3) as u64) << 32 | feed.below(slots + 3) as u64,
                    _ => u64::from(feed.byte()) << 2 | feed.below(4) as u64,
                };
                memory.store(word, value);
            }
        }
    }
}
