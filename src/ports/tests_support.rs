//! What the tests of the table share: memory that can be copied and killed, a caller, and a check of all that
//! must hold between two operations.

use super::layout::{field, header};
use super::slot::State;
use super::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// What happens to a store after the last one allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The worker is gone.
    Killed,
    /// The store is lost, and the worker goes on with what it reads.
    Lost,
}

struct Killed;

/// Memory that outlives the tables opened over it.
#[derive(Clone)]
pub struct Shared {
    pub words: Rc<RefCell<Vec<u64>>>,
    pub stores: Rc<RefCell<u64>>,
    limit: Option<(u64, Then)>,
}

impl Shared {
    pub fn new(words: usize) -> Self {
        Self::from_words(vec![0; words])
    }

    pub fn from_words(words: Vec<u64>) -> Self {
        Self {
            words: Rc::new(RefCell::new(words)),
            stores: Rc::default(),
            limit: None,
        }
    }

    /// Other memory with the same content.
    pub fn copy(&self) -> Self {
        Self::from_words(self.words.borrow().clone())
    }

    /// The same memory as a worker sees it that may still do so many stores.
    pub fn limited(&self, stores: u64, then: Then) -> Self {
        Self {
            limit: Some((stores, then)),
            stores: Rc::default(),
            ..self.clone()
        }
    }

    /// The same memory as a worker sees it that lives.
    pub fn unlimited(&self) -> Self {
        Self {
            limit: None,
            stores: Rc::default(),
            ..self.clone()
        }
    }

    pub fn open(&self) -> Table<Shared> {
        Table::open(self.clone()).unwrap()
    }
}

impl Memory for Shared {
    fn words(&self) -> usize {
        self.words.borrow().len()
    }

    fn load(&self, word: usize) -> u64 {
        self.words.borrow()[word]
    }

    fn store(&mut self, word: usize, value: u64) {
        let done = *self.stores.borrow();
        match self.limit {
            Some((limit, Then::Killed)) if done >= limit => resume_unwind(Box::new(Killed)),
            Some((limit, Then::Lost)) if done >= limit => return,
            _ => {}
        }
        *self.stores.borrow_mut() = done + 1;
        self.words.borrow_mut()[word] = value;
    }
}

/// Runs what a worker does until it is killed; says whether it lived.
pub fn lives(work: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => true,
        Err(panic) if panic.is::<Killed>() => false,
        Err(panic) => resume_unwind(panic),
    }
}

/// Xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Words for so many slots.
pub fn words_for(slots: usize) -> usize {
    let words = (0..).find(|words| capacity(*words) == slots).unwrap();
    assert_eq!(capacity(words), slots);
    words
}

pub fn host(ip: &str) -> Host {
    Host::new(ip.parse().unwrap(), 0)
}

pub fn socket(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

pub const ALICE: &str = "192.0.2.1";
pub const BOB: &str = "2001:db8::2";

/// A request of session 7 in worker 1 until 60000.
pub fn request(peer: &str) -> Request<'static> {
    Request {
        peer: Peer::Host(host(peer)),
        target: socket("198.51.100.9:34567"),
        local: Some(socket("[2001:db8::9]:0")),
        mate: None,
        session: 7,
        mode: Mode::Epsv,
        way: Way::ToServer,
        tls: Tls::default(),
        owner: Owner(1),
        deadline: 60_000,
        user: b"anonymous",
        verb: b"",
        path: b"",
        name: b"",
        kept: None,
    }
}

pub fn anybody() -> Request<'static> {
    Request {
        peer: Peer::Any,
        ..request(ALICE)
    }
}

/// A table with somebody who calls it.
pub struct Bench {
    pub table: Table<Shared>,
    pub memory: Shared,
    pub random: Random,
    pub dead: BTreeSet<Owner>,
    pub reclaimed: Vec<Reservation>,
    pub asked: Vec<Owner>,
    pub now: Msec,
}

impl Bench {
    pub fn new(slots: usize) -> Self {
        let memory = Shared::new(words_for(slots));
        Table::format(memory.clone()).unwrap();
        Self::over(memory)
    }

    pub fn over(memory: Shared) -> Self {
        Self {
            table: memory.open(),
            memory,
            random: Random(0x1234_5678_9abc_def1),
            dead: BTreeSet::new(),
            reclaimed: Vec::new(),
            asked: Vec::new(),
            now: 10_000,
        }
    }

    pub fn reserve(
        &mut self,
        request: &Request<'_>,
        ports: RangeInclusive<u16>,
    ) -> Result<Reserved, ReserveError> {
        let (random, dead, asked) = (&mut self.random, &self.dead, &mut self.asked);
        self.table.reserve(
            self.now,
            request,
            ports,
            &mut || random.next(),
            &mut |owner| {
                asked.push(owner);
                dead.contains(&owner)
            },
            &mut |reservation| self.reclaimed.push(*reservation),
        )
    }

    pub fn reclaim_dead(&mut self) -> usize {
        let (dead, asked) = (&self.dead, &mut self.asked);
        self.table.reclaim_dead(
            self.now,
            &mut |owner| {
                asked.push(owner);
                dead.contains(&owner)
            },
            &mut |reservation| self.reclaimed.push(*reservation),
        )
    }

    pub fn find(&mut self, port: u16, peer: &str) -> Option<Ticket> {
        self.table.find(self.now, port, host(peer))
    }

    /// What a data connection does, in worker 2.
    pub fn connect(&mut self, port: u16, peer: &str) -> Option<Reservation> {
        let ticket = self.find(port, peer)?;
        self.table
            .take(self.now, ticket, port, host(peer), Owner(2))?;
        self.table.read(ticket)
    }
}

/// All that live, in the order of the slots.
pub fn live<M: Memory>(table: &Table<M>) -> Vec<Reservation> {
    (0..table.slots.layout.slots)
        .filter_map(|slot| table.slots.read(slot))
        .collect()
}

/// Everything that must hold between two operations, after a rebuild if one is due.
pub fn check(table: &mut Table<Shared>) {
    table.trust();
    let slots = table.slots.layout.slots;
    let (mut hosts, mut anys) = (0, 0);
    let mut ids = BTreeSet::new();
    let mut waiting = BTreeSet::new();
    for slot in 0..slots {
        let (id, state) = table.slots.id_and_state(slot);
        assert!(
            id < table.slots.memory.load(header::NEXT_ID),
            "id {id} may come again"
        );
        assert!(id == 0 || ids.insert(id), "id {id} is there twice");
        let key = table.slots.key(slot);
        if key.peer().is_some() {
            let mut walk = table.walk(key);
            let mut found = 0;
            while let Some(at) = table.step(&mut walk) {
                found += u32::from(at == slot);
            }
            assert_eq!(found, 1, "slot {slot} in the index");
        }
        let was_used = state != State::Free || table.slots.when(slot) != 0;
        assert!(!was_used || slot < table.used(), "slot {slot} is not swept");
        if matches!(state, State::Free | State::Kept) {
            continue;
        }
        let reservation = table.slots.read(slot).expect("a live slot can be read");
        match reservation.peer {
            Peer::Any => anys += 1,
            Peer::Host(_) => hosts += 1,
        }
        if !reservation.taken {
            assert!(
                waiting.insert((reservation.port, reservation.peer)),
                "{reservation:?} is given twice"
            );
        }
    }
    assert_eq!(table.hosts_and_anys(), (hosts, anys));
    let (mut at, mut previous, mut free) = (table.slots.memory.load(header::FREE_HEAD), 0, 0);
    while at != 0 {
        let slot = u32::try_from(at - 1).unwrap();
        assert_eq!(table.slots.state(slot), State::Free);
        let links = table.slots.get(slot, field::FREE);
        assert_eq!(links >> 32, previous);
        (previous, at, free) = (at, links & u64::from(u32::MAX), free + 1);
        assert!(free <= slots, "the free list is a ring");
    }
    assert_eq!(table.slots.memory.load(header::FREE_TAIL), previous);
    let counts = table.counts();
    assert_eq!(counts.free, free as usize, "free slots are lost");
    assert_eq!(table.kept_slots(), counts.kept as u64);
    let used = counts.waiting + counts.taken + counts.kept;
    assert_eq!(counts.free + used, slots as usize);
    assert!(!table.doubt);
}
