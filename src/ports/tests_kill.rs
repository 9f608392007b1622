//! A worker is killed at every single store of every operation, and another one opens the table.

use super::layout::header;
use super::tests_support::*;
use super::*;
use std::collections::BTreeSet;

const DYING: Owner = Owner(1);
const SLOTS: usize = 9;

/// What the dying worker does, and to which reservation.
struct Deed {
    name: &'static str,
    on: Option<Ticket>,
    work: fn(&mut Bench, Option<Ticket>),
}

/// A table with something of everything: waiting, taken, expired, freed and never used slots.
fn scene() -> (Bench, [Ticket; 4]) {
    let mut bench = Bench::new(SLOTS);
    let alive = |peer| Request {
        owner: Owner(3),
        path: b"old path of some length",
        name: b"old.example.com",
        ..request(peer)
    };
    let mut reserve = |request: &Request<'_>, port| bench.reserve(request, port..=port).unwrap();
    let waiting = reserve(&alive(ALICE), 1);
    let taken = reserve(&alive(ALICE), 2);
    let expiring = reserve(
        &Request {
            deadline: 11_000,
            ..alive(ALICE)
        },
        3,
    );
    let other = reserve(&alive(BOB), 1);
    let freed = reserve(&alive(BOB), 4);
    bench.connect(2, ALICE).unwrap();
    bench.table.release(bench.now, freed.ticket).unwrap();
    bench.now = 12_000;
    check(&mut bench.table);
    let tickets = [waiting, taken, expiring, other].map(|reserved| reserved.ticket);
    (bench, tickets)
}

const NEW: Request<'static> = Request {
    peer: Peer::Any,
    target: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(
        std::net::Ipv4Addr::new(198, 51, 100, 77),
        5555,
    )),
    local: None,
    mate: Some(Ticket { slot: 4, id: 21 }),
    session: 99,
    mode: Mode::Port,
    way: Way::ToClient,
    tls: Tls {
        client: true,
        server: false,
        resumed: true,
    },
    owner: DYING,
    deadline: 50_000,
    user: b"new user, longer than a word",
    verb: b"STOR",
    path: b"new path, longer than a word",
    name: b"new.example.com",
    kept: Some(Ticket { slot: 3, id: 17 }),
};

fn new_for(peer: &str) -> Request<'static> {
    Request {
        peer: host(peer).into(),
        ..NEW
    }
}

fn deeds([waiting, taken, expiring, _]: [Ticket; 4]) -> Vec<Deed> {
    let deed = |name, on, work| Deed { name, on, work };
    vec![
        deed("reserve on a new key", Some(expiring), |bench, _| {
            bench.reserve(&new_for(BOB), 6..=6).unwrap();
        }),
        deed("reserve on a freed key", Some(expiring), |bench, _| {
            bench.reserve(&new_for(BOB), 4..=4).unwrap();
        }),
        deed("reserve on an expired key", Some(expiring), |bench, _| {
            bench.reserve(&new_for(ALICE), 3..=3).unwrap();
        }),
        deed("reserve in vain", Some(expiring), |bench, _| {
            bench.reserve(&new_for(ALICE), 1..=1).unwrap_err();
        }),
        deed("reserve for anybody", Some(expiring), |bench, _| {
            bench.reserve(&NEW, 1..=9).unwrap();
        }),
        deed("take", Some(waiting), |bench, ticket| {
            let now = bench.now;
            bench
                .table
                .take(now, ticket.unwrap(), 1, host(ALICE), DYING)
                .unwrap();
        }),
        deed("release", Some(waiting), |bench, ticket| {
            bench.table.release(bench.now, ticket.unwrap()).unwrap();
        }),
        deed("finish", Some(taken), |bench, ticket| {
            assert!(bench.table.finish(bench.now, ticket.unwrap()));
        }),
        deed("annotate waiting", Some(waiting), |bench, ticket| {
            assert!(bench.table.annotate(
                ticket.unwrap(),
                b"STOR",
                b"new path, longer than a word"
            ));
        }),
        deed("annotate taken", Some(taken), |bench, ticket| {
            assert!(bench.table.annotate(ticket.unwrap(), b"STOR", b"new"));
        }),
        deed("join", Some(waiting), |bench, ticket| {
            assert!(bench.table.join(ticket.unwrap(), NEW.mate.unwrap()));
        }),
        deed("reclaim", Some(expiring), |bench, _| {
            assert_eq!(bench.reclaim_dead(), 1);
        }),
        deed("find after a kill", None, |bench, _| {
            bench.memory.store(header::MARK, 1);
            assert!(bench.find(1, ALICE).is_some());
        }),
    ]
}

fn over(memory: Shared, now: Msec) -> Bench {
    let mut bench = Bench::over(memory);
    bench.now = now;
    bench
}

/// What another worker must find after the dying one was killed in `deed`.
fn survives(deed: &Deed, at: &str, before: &[Reservation], memory: &Shared, now: Msec) {
    let mut bench = over(memory.unlimited(), now);
    let after = live(&bench.table);
    for held in before {
        if Some(held.ticket) == deed.on {
            continue;
        }
        assert!(
            after.contains(held),
            "{at}: lost or changed {held:?}: {after:?}"
        );
    }
    for held in &after {
        if before.iter().any(|before| before.ticket == held.ticket) {
            if Some(held.ticket) == deed.on {
                half_changed_at_most(at, held, before);
            }
            continue;
        }
        // A new one is whole or not there.
        let expected = Reservation {
            ticket: held.ticket,
            taken: false,
            port: held.port,
            peer: held.peer,
            target: NEW.target,
            local: NEW.local,
            mate: NEW.mate,
            session: NEW.session,
            mode: NEW.mode,
            way: NEW.way,
            tls: NEW.tls,
            owner: NEW.owner,
            deadline: NEW.deadline,
            user: Text::new(NEW.user),
            verb: Text::new(NEW.verb),
            path: Text::new(NEW.path),
            name: Text::new(NEW.name),
            kept: NEW.kept,
        };
        assert_eq!(*held, expected, "{at}");
        assert!(
            before.iter().all(|old| old.ticket.id < held.ticket.id),
            "{at}"
        );
    }

    // A search by key works at once, whether or not the mark was left.
    for held in &after {
        if !held.taken && held.deadline > now {
            let Peer::Host(from) = held.peer else {
                continue;
            };
            assert_eq!(
                bench.table.find(now, held.port, from),
                Some(held.ticket),
                "{at}"
            );
        }
    }
    check(&mut bench.table);

    // Nothing that the dead worker began is in the way for ever, and no slot is lost.
    bench.dead.insert(DYING);
    bench.reclaim_dead();
    let kept = live(&bench.table);
    assert!(kept.iter().all(|held| held.owner != DYING), "{at}");
    let mut ids: BTreeSet<_> = after
        .iter()
        .chain(before)
        .map(|held| held.ticket.id)
        .collect();
    let free = SLOTS - kept.len();
    for port in 0..free as u16 {
        let fresh = bench.reserve(
            &Request {
                owner: Owner(3),
                ..NEW
            },
            100 + port..=100 + port,
        );
        assert!(
            ids.insert(fresh.unwrap().ticket.id),
            "{at}: an id came again"
        );
    }
    let full = bench.reserve(&NEW, 300..=300);
    assert_eq!(full, Err(ReserveError::NoSlot), "{at}");
    check(&mut bench.table);
    let all = live(&bench.table);
    assert!(kept.iter().all(|held| all.contains(held)), "{at}");
}

/// The reservation that was operated on is as before but for what a kill may leave.
fn half_changed_at_most(at: &str, held: &Reservation, before: &[Reservation]) {
    let before = before
        .iter()
        .find(|before| before.ticket == held.ticket)
        .unwrap();
    let same = Reservation {
        taken: held.taken,
        owner: held.owner,
        deadline: held.deadline,
        verb: held.verb,
        path: held.path,
        local: held.local,
        mate: held.mate,
        ..*before
    };
    assert_eq!(*held, same, "{at}");
    let (local, mate) = (held.local, held.mate);
    let alone = mate.is_none() && (local.is_none() || local == before.local);
    assert!(alone || (local.is_none() && mate == NEW.mate), "{at}");
    assert!(held.owner == before.owner || held.owner == DYING, "{at}");
    assert!(held.taken == before.taken || held.owner == DYING, "{at}");
    assert!(
        held.deadline == before.deadline || held.deadline == 12_000,
        "{at}"
    );
    let texts = (held.verb.as_bytes(), held.path.as_bytes());
    let old = (before.verb.as_bytes(), before.path.as_bytes());
    let empty: (&[u8], &[u8]) = (b"", b"");
    let new = texts.0 == NEW.verb
        && !texts.1.is_empty()
        && b"new path, longer than a word".starts_with(texts.1);
    assert!(texts == old || texts == empty || new, "{at}: {held:?}");
}

/// Runs the deed in a copy of the scene, killed after so many stores; `None` if it was over before.
fn killed(scene: &Bench, deed: &Deed, stores: u64) -> Option<Shared> {
    let memory = scene.memory.copy();
    let limited = memory.limited(stores, Then::Killed);
    let mut bench = over(limited, scene.now);
    let lived = lives(|| (deed.work)(&mut bench, deed.on));
    (!lived).then_some(memory)
}

#[test]
fn worker_killed_at_any_store_harms_nobody() {
    let (scene, tickets) = scene();
    let before = live(&scene.table);
    for deed in deeds(tickets) {
        let mut stores = 0;
        while let Some(memory) = killed(&scene, &deed, stores) {
            survives(
                &deed,
                &format!("{} at {stores}", deed.name),
                &before,
                &memory,
                scene.now,
            );
            stores += 1;
        }
        assert!(stores >= 2, "{} does nothing", deed.name);
        // And the deed done, the same holds.
        let memory = scene.memory.copy();
        (deed.work)(&mut over(memory.clone(), scene.now), deed.on);
        survives(&deed, deed.name, &before, &memory, scene.now);
    }
}

#[test]
fn client_once_reached_is_not_waited_for_again() {
    let (mut scene, tickets) = scene();
    let [_, taken, ..] = tickets;
    let before = scene.table.stage(scene.now, taken);
    assert!(matches!(before, Some(Stage::Taken(_))));
    // One store: done, or not.
    let reach = |bench: &mut Bench, ticket: Option<Ticket>| {
        assert!(bench.table.reach(ticket.unwrap()));
    };
    let deed = Deed {
        name: "reach",
        on: Some(taken),
        work: reach,
    };
    let memory = killed(&scene, &deed, 0).unwrap();
    assert_eq!(
        over(memory, scene.now).table.stage(scene.now, taken),
        before
    );
    assert!(killed(&scene, &deed, 1).is_none());
    reach(&mut scene, Some(taken));
    for deed in deeds(tickets) {
        for stores in 0.. {
            let Some(memory) = killed(&scene, &deed, stores) else {
                break;
            };
            let after = over(memory, scene.now).table.stage(scene.now, taken);
            let ended = deed.name == "finish" && after.is_none();
            let at = format!("{} at {stores}", deed.name);
            assert!(ended || after == Some(Stage::Reached), "{at}: {after:?}");
        }
    }
}

#[test]
fn worker_killed_while_it_repairs_harms_nobody() {
    let (scene, tickets) = scene();
    let before = live(&scene.table);
    for deed in deeds(tickets) {
        for stores in 0.. {
            let Some(memory) = killed(&scene, &deed, stores) else {
                break;
            };
            for more in 0.. {
                let second = memory.copy();
                let mut bench = over(second.limited(more, Then::Killed), scene.now);
                if lives(|| assert!(bench.find(1, BOB).is_some())) {
                    break;
                }
                let at = format!("{} at {stores}, repair at {more}", deed.name);
                survives(&deed, &at, &before, &second, scene.now);
            }
        }
    }
}

#[test]
fn table_that_is_not_complete_is_no_table() {
    for stores in 0.. {
        let mut random = Random(3);
        let words = (0..words_for(3)).map(|_| random.next()).collect();
        let memory = Shared::from_words(words);
        let limited = memory.limited(stores, Then::Killed);
        if lives(|| drop(Table::format(limited).unwrap())) {
            check(&mut memory.open());
            break;
        }
        assert!(Table::open(memory).is_err(), "opened after {stores} stores");
    }
}

#[test]
fn lost_stores_neither_panic_nor_hang() {
    let (scene, tickets) = scene();
    for deed in deeds(tickets) {
        for stores in 0..200 {
            let memory = scene.memory.copy();
            let mut bench = over(memory.limited(stores, Then::Lost), scene.now);
            // What it answers is of no interest, nor its assertions.
            let _ = bench.reserve(&new_for(BOB), 1..=9);
            (deed.on).map(|ticket| bench.table.release(scene.now, ticket));
            bench.find(1, ALICE);
            bench.reclaim_dead();
        }
    }
}

#[test]
fn corrupted_memory_neither_panics_nor_hangs() {
    let mut random = Random(77);
    for _ in 0..4000 {
        let (mut bench, tickets) = scene();
        let words = bench.memory.words() as u64;
        for _ in 0..=random.below(8) {
            let word = match random.below(3) {
                0 => random.below(words),
                // Header and buckets.
                _ => header::MARK as u64 + random.below((header::SIZE + SLOTS) as u64 - 3),
            };
            let value = match random.below(3) {
                0 => random.next(),
                1 => random.below(SLOTS as u64 + 3),
                _ => random.below(12) << 32 | random.below(12),
            };
            bench.memory.store(word as usize, value);
        }
        for _ in 0..4 {
            let _ = bench.reserve(&new_for(BOB), 1..=9);
            let _ = bench.reserve(&NEW, 1..=65_535);
            bench.find(1, ALICE);
            bench.connect(3, BOB);
            for ticket in tickets {
                bench.table.annotate(ticket, b"RETR", b"path");
                bench.table.read(ticket);
                bench.table.release(bench.now, ticket);
                bench.table.finish(bench.now, ticket);
            }
            bench.reclaim_dead();
        }
    }
}

#[test]
fn link_that_leads_nowhere_is_noticed_by_a_search_and_mended_by_the_next() {
    let (mut bench, _) = scene();
    for bucket in bench.table.slots.layout.buckets() {
        bench.memory.store(bucket, SLOTS as u64 + 1);
    }
    // Each search opens the table anew, as another process would.
    let found = || bench.memory.open().find(bench.now, 1, host(ALICE));
    assert_eq!(found(), None);
    assert!(found().is_some());
    check(&mut bench.table);
}

#[test]
fn lost_links_are_found_and_rebuilt() {
    for word in [header::FREE_HEAD, header::FREE_TAIL] {
        for value in [0, 1, 2, SLOTS as u64, SLOTS as u64 + 1, u64::MAX] {
            let (mut bench, _) = scene();
            bench.memory.store(word, value);
            for port in 10..12 {
                bench.reserve(&new_for(BOB), port..=port).unwrap();
            }
            check(&mut bench.table);
        }
    }
}
