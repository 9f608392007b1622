//! Tens of thousands of random operations against a model that knows neither slots nor caches.

use super::table::SWEEP_PAUSE;
use super::tests_support::*;
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

fn as_taken(held: Reservation) -> Taken {
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

/// What every operation should have done.
struct Model {
    bench: Bench,
    slots: usize,
    live: BTreeMap<u64, Reservation>,
    gone: Vec<Ticket>,
    /// Whose clients are connected.
    reached: BTreeSet<u64>,
    last_id: u64,
    /// When every slot was last looked at in vain.
    swept: u64,
    next_owner: u64,
    owners: Vec<Owner>,
    /// How often what happened, to see that everything does.
    seen: BTreeMap<&'static str, u64>,
}

impl Model {
    fn new(slots: usize, seed: u64) -> Self {
        let mut bench = Bench::new(slots);
        bench.random = Random(seed);
        Self {
            bench,
            slots,
            live: BTreeMap::new(),
            gone: Vec::new(),
            reached: BTreeSet::new(),
            last_id: 0,
            swept: 0,
            next_owner: 4,
            owners: vec![Owner(1), Owner(2), Owner(3)],
            seen: BTreeMap::new(),
        }
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.bench.random.below(bound)
    }

    fn useless(&self, reservation: &Reservation) -> bool {
        let expired = !reservation.taken && reservation.deadline <= self.bench.now;
        expired || self.bench.dead.contains(&reservation.owner)
    }

    /// Whether a live reservation forbids this request on this port, useless ones or not.
    fn forbids(&self, held: &Reservation, request: &Request<'_>, port: u16) -> bool {
        if held.port != port {
            return false;
        }
        if held.peer == request.peer {
            return !held.taken || held.session != request.session;
        }
        held.peer == Peer::Any || request.peer == Peer::Any
    }

    /// What the table took back must have been useless.
    fn forget_reclaimed(&mut self) -> usize {
        let reclaimed = std::mem::take(&mut self.bench.reclaimed);
        for gone in &reclaimed {
            let known = self.live.remove(&gone.ticket.id);
            assert_eq!(known.as_ref(), Some(gone));
            assert!(self.useless(gone), "{gone:?} was of use");
            self.gone.push(gone.ticket);
            self.saw(if gone.taken {
                "reclaimed taken"
            } else {
                "reclaimed waiting"
            });
        }
        reclaimed.len()
    }

    fn some_host(&mut self) -> Host {
        let hosts = [ALICE, BOB, "192.0.2.3", "2001:db8::4"];
        host(hosts[self.below(4) as usize])
    }

    fn some_range(&mut self) -> RangeInclusive<u16> {
        match self.below(6) {
            0 => 65_535..=65_535,
            1 => 1..=65_535,
            2 => 65_530..=65_535,
            3 => 7..=7,
            4 => 1..=10,
            _ => 1000..=1199,
        }
    }

    fn some_ticket(&mut self) -> Option<Ticket> {
        if !self.gone.is_empty() && self.bench.random.one_in(4) {
            let at = self.below(self.gone.len() as u64) as usize;
            return Some(self.gone[at]);
        }
        let count = self.live.len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.below(count) as usize;
        self.live
            .values()
            .nth(at)
            .map(|reservation| reservation.ticket)
    }

    fn some_owner(&mut self) -> Owner {
        let at = self.below(self.owners.len() as u64) as usize;
        self.owners[at]
    }

    fn reserve(&mut self, anys: u64) {
        let peer = if self.below(100) < anys {
            Peer::Any
        } else {
            self.some_host().into()
        };
        let text = [b'x'; 300];
        let request = Request {
            peer,
            target: if self.bench.random.one_in(2) {
                socket("198.51.100.9:34567")
            } else {
                socket("[2001:db8::9]:1024")
            },
            local: self.bench.random.one_in(2).then(|| socket("192.0.2.200:0")),
            mate: None,
            session: self.below(6),
            tls: Tls {
                client: self.bench.random.one_in(2),
                server: self.bench.random.one_in(2),
                resumed: self.bench.random.one_in(2),
            },
            mode: match self.below(4) {
                0 => Mode::Pasv,
                1 => Mode::Epsv,
                2 => Mode::Port,
                _ => Mode::Eprt,
            },
            way: match self.below(5) {
                0 => Way::ToServer,
                1 => Way::ToClient,
                2 => Way::Neither,
                3 => Way::FromClient,
                _ => Way::FromServer,
            },
            owner: self.some_owner(),
            deadline: self.bench.now + self.below(3000),
            user: &text[..self.below(100) as usize],
            verb: &text[..self.below(12) as usize],
            path: &text[..self.below(300) as usize],
            name: &text[..self.below(128) as usize],
            kept: self.bench.random.one_in(2).then_some(Ticket {
                slot: 0xff_ffff,
                id: 1 << 60,
            }),
        };
        let range = self.some_range();
        let answer = self.bench.reserve(&request, range.clone());
        self.forget_reclaimed();
        match answer {
            Ok(reserved) => {
                let Reserved { ticket, port } = reserved;
                assert!(range.contains(&port));
                for held in self.live.values() {
                    assert!(
                        !self.forbids(held, &request, port),
                        "{held:?} against {request:?}"
                    );
                }
                assert!(ticket.id > self.last_id, "ids only grow");
                self.last_id = ticket.id;
                let expected = Reservation {
                    ticket,
                    taken: false,
                    port,
                    peer,
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
                };
                assert_eq!(self.bench.table.read(ticket), Some(expected));
                self.live.insert(ticket.id, expected);
                self.saw("reserved");
            }
            Err(ReserveError::NoSlot) => {
                assert_eq!(self.live.len(), self.slots);
                // Every slot was looked at now, or a moment ago.
                let recent = self.bench.now.saturating_sub(self.swept) < SWEEP_PAUSE;
                if !recent {
                    assert!(!self.live.values().any(|held| self.useless(held)));
                    self.swept = self.bench.now;
                }
                self.saw("no slot");
            }
            Err(ReserveError::NoPort) => {
                let blocked = |port| {
                    let mut held = self.live.values();
                    held.any(|held| self.forbids(held, &request, port))
                        || self.piled(&request, port)
                };
                if range.len() <= PROBES as usize {
                    assert!(
                        range.clone().all(blocked),
                        "{request:?} had room in {range:?}"
                    );
                    self.saw("no port");
                } else {
                    assert!(range.clone().any(blocked));
                }
            }
        }
    }

    fn piled(&self, request: &Request<'_>, port: u16) -> bool {
        let same = |held: &&Reservation| held.port == port && held.peer == request.peer;
        self.live.values().filter(same).count() > 4
    }

    fn waiting_for(&self, port: u16, peer: Peer) -> Option<Ticket> {
        let waits = |held: &&Reservation| {
            !held.taken && held.deadline > self.bench.now && (held.port, held.peer) == (port, peer)
        };
        let mut found = self.live.values().filter(waits);
        let first = found.next().map(|held| held.ticket);
        assert_eq!(found.next(), None);
        first
    }

    fn find(&mut self) {
        let from = self.some_host();
        let port = match self.below(3) {
            0 => 7,
            1 => self.below(65_536) as u16,
            _ => self.live.values().next_back().map_or(8, |held| held.port),
        };
        let exact = self.waiting_for(port, from.into());
        let expected = exact.or_else(|| self.waiting_for(port, Peer::Any));
        assert_eq!(self.bench.table.find(self.bench.now, port, from), expected);
        self.saw(if expected.is_some() {
            "found"
        } else {
            "not found"
        });
    }

    fn take(&mut self) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let owner = self.some_owner();
        let held = self.live.get(&ticket.id).copied();
        let right_port = !self.bench.random.one_in(8);
        let port = held.map_or(7, |held| held.port) ^ u16::from(!right_port);
        let from = match held.map(|held| held.peer) {
            Some(Peer::Host(host)) if !self.bench.random.one_in(8) => host,
            _ => self.some_host(),
        };
        let expected = held
            .filter(|held| !held.taken && held.deadline > self.bench.now)
            .filter(|held| right_port && held.peer.admits(from))
            .map(|held| Reservation {
                taken: true,
                owner,
                ..held
            });
        let taken = self
            .bench
            .table
            .take(self.bench.now, ticket, port, from, owner);
        assert_eq!(taken, expected.map(as_taken));
        if let Some(held) = expected {
            assert_eq!(self.bench.table.read(ticket), expected);
            self.live.insert(ticket.id, held);
            self.saw("taken");
        }
    }

    fn give_back(&mut self, finish: bool) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let held = self
            .live
            .get(&ticket.id)
            .filter(|held| held.taken == finish);
        let port = held.map(|held| held.port);
        if finish {
            assert_eq!(
                self.bench.table.finish(self.bench.now, ticket),
                port.is_some()
            );
        } else {
            assert_eq!(self.bench.table.release(self.bench.now, ticket), port);
        }
        if port.is_some() {
            self.live.remove(&ticket.id);
            self.gone.push(ticket);
            self.saw(if finish { "finished" } else { "released" });
        }
    }

    fn annotate(&mut self) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let path: Vec<u8> = (0..self.below(300)).map(|at| at as u8).collect();
        let known = self.bench.table.annotate(ticket, b"STOR", &path);
        assert_eq!(known, self.live.contains_key(&ticket.id));
        if let Some(held) = self.live.get_mut(&ticket.id) {
            held.verb = Text::new(b"STOR");
            held.path = Text::new(&path);
            self.saw("annotated");
        }
    }

    fn reach(&mut self) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let held = self.live.get(&ticket.id);
        let taken = held.is_some_and(|held| held.taken);
        assert_eq!(self.bench.table.reach(ticket), taken);
        if taken {
            self.reached.insert(ticket.id);
            self.saw("reached");
        }
    }

    fn stage(&mut self) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let now = self.bench.now;
        let expected = match self.live.get(&ticket.id) {
            Some(held) if held.taken && self.reached.contains(&held.ticket.id) => {
                Some(Stage::Reached)
            }
            Some(held) if held.taken => Some(Stage::Taken(held.owner)),
            Some(held) => (held.deadline > now).then_some(Stage::Waiting),
            None => None,
        };
        assert_eq!(self.bench.table.stage(now, ticket), expected);
    }

    fn read(&mut self) {
        let Some(ticket) = self.some_ticket() else {
            return;
        };
        let held = self.live.get(&ticket.id);
        assert_eq!(self.bench.table.read(ticket).as_ref(), held);
        assert_eq!(self.bench.table.verb(ticket), held.map(|held| held.verb));
        assert_eq!(
            self.bench.table.is_taken(ticket),
            held.is_some_and(|held| held.taken)
        );
    }

    fn reclaim(&mut self) {
        let freed = self.bench.reclaim_dead();
        assert_eq!(self.forget_reclaimed(), freed);
        assert!(!self.live.values().any(|held| self.useless(held)));
    }

    fn kill_a_worker(&mut self) {
        let at = self.below(self.owners.len() as u64) as usize;
        let new = Owner(self.next_owner);
        self.next_owner += 1;
        let dead = std::mem::replace(&mut self.owners[at], new);
        self.bench.dead.insert(dead);
    }

    /// Another process opens the table; now and then the last one was killed first.
    fn reopen(&mut self) {
        if self.bench.random.one_in(2) {
            self.bench.memory.store(super::layout::header::MARK, 1);
        }
        self.bench.table = self.bench.memory.open();
    }

    fn operate(&mut self, anys: u64) {
        match self.below(1000) {
            0..300 => self.reserve(anys),
            300..500 => self.find(),
            500..620 => self.take(),
            620..690 => self.give_back(false),
            690..790 => self.give_back(true),
            790..830 => self.annotate(),
            830..850 => self.reach(),
            850..870 => self.stage(),
            870..950 => self.read(),
            950..953 => self.kill_a_worker(),
            953..957 => self.reclaim(),
            957..960 => self.reopen(),
            _ => self.bench.now += self.below(400),
        }
    }

    fn run(&mut self, operations: u64, anys: u64) {
        for at in 0..operations {
            self.operate(anys);
            if at % 64 == 0 {
                check(&mut self.bench.table);
                let table: BTreeSet<u64> = live(&self.bench.table)
                    .iter()
                    .map(|held| held.ticket.id)
                    .collect();
                assert_eq!(table, self.live.keys().copied().collect());
            }
        }
    }
}

#[test]
fn table_agrees_with_the_model() {
    let mut seen = BTreeMap::<_, u64>::new();
    for (slots, anys, seed) in [(1, 0, 1), (5, 0, 2), (40, 0, 3), (300, 0, 4), (12, 100, 5)] {
        let mut model = Model::new(slots, seed);
        model.run(20_000, anys);
        for (what, count) in model.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    // A test in which nothing happens proves nothing.
    for (what, count) in &seen {
        assert!(*count > 50, "{what} only {count} times: {seen:?}");
    }
    assert_eq!(seen.len(), 12, "{seen:?}");
}

#[test]
fn table_agrees_with_the_model_while_both_kinds_of_peer_meet() {
    for (slots, anys, seed) in [(8, 50, 11), (40, 10, 12), (100, 90, 13)] {
        Model::new(slots, seed).run(20_000, anys);
    }
}

/// A key's rank, as somebody with a long memory sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    Fresh,
    Cooling(Msec),
    Unused(Msec),
    Taken,
}

#[test]
fn best_port_of_a_small_range_is_given() {
    // More slots than operations within the cooling time: none is used again while its key matters.
    let mut bench = Bench::new(600);
    // By key and slot, for the next reservation takes over one slot of its key alone.
    let mut freed = BTreeMap::<(u16, Peer, u32), (Msec, bool)>::new();
    let cooling = |(at, used): &(Msec, bool), now| match (at + COOLING > now, used) {
        (false, _) => Rank::Fresh,
        (true, true) => Rank::Cooling(*at),
        (true, false) => Rank::Unused(*at),
    };
    let mut ranks = [0; 4];
    for _ in 0..20_000 {
        let pause = if bench.random.one_in(100) { COOLING } else { 0 };
        bench.now += bench.random.below(120) + pause;
        let peer = Peer::Host(host([ALICE, BOB][bench.random.below(2) as usize]));
        let request = Request {
            peer,
            session: bench.random.below(2),
            deadline: bench.now + 100_000,
            ..request(ALICE)
        };
        let held = live(&bench.table);
        let rank = |port: u16| {
            let on_slots = freed.range((port, peer, 0)..=(port, peer, u32::MAX));
            let cools = on_slots.map(|(_, freed)| cooling(freed, bench.now));
            let mut rank = cools.max().unwrap_or(Rank::Fresh);
            let on_key = |held: &&Reservation| (held.port, held.peer) == (port, peer);
            let mut taken = 0;
            for held in held.iter().filter(on_key) {
                taken += 1;
                if !held.taken || held.session != request.session || taken > 4 {
                    return None;
                }
                rank = Rank::Taken;
            }
            Some(rank)
        };
        let offered: Vec<Option<Rank>> = (1..=8).map(rank).collect();
        let best = offered.iter().flatten().min().copied();
        match bench.reserve(&request, 1..=8) {
            Ok(reserved) => {
                let given = offered[usize::from(reserved.port) - 1].unwrap();
                ranks[match given {
                    Rank::Fresh => 0,
                    Rank::Cooling(_) => 1,
                    Rank::Unused(_) => 2,
                    Rank::Taken => 3,
                }] += 1;
                assert_eq!(Some(given), best);
                freed.retain(|(_, _, slot), _| *slot != reserved.ticket.slot);
            }
            Err(error) => assert_eq!((error, best), (ReserveError::NoPort, None)),
        }
        let held = live(&bench.table);
        for held in held {
            let key = (held.port, held.peer, held.ticket.slot);
            match bench.random.below(30) {
                0 if !held.taken => {
                    bench.table.release(bench.now, held.ticket).unwrap();
                    freed.insert(key, (bench.now, false));
                }
                1 if held.taken => {
                    assert!(bench.table.finish(bench.now, held.ticket));
                    freed.insert(key, (bench.now, true));
                }
                2 if !held.taken => {
                    let Peer::Host(from) = held.peer else {
                        unreachable!()
                    };
                    bench
                        .table
                        .take(bench.now, held.ticket, held.port, from, Owner(1))
                        .unwrap();
                }
                _ => {}
            }
        }
    }
    assert!(ranks.iter().all(|count| *count > 100), "{ranks:?}");
}
