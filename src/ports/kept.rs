//! Secrets that a control session keeps for its data connections, the TLS session with the server: bytes in slots that
//! hold no reservation, each with a link to the next.
//!
//! They are filled from the last to the first and emptied the same way, so that what a killed worker leaves is either
//! a beginning, which still can be given back, or an end without one, which goes with its owner. What they held is wiped.

use super::layout::{field, kept};
use super::slot::State;
use super::{Memory, Msec, Owner, Table, Ticket};

/// The most bytes that are kept, as many as nginx takes for a TLS session.
pub const MAX_KEPT: usize = 4096;

/// One in so many slots may hold secrets; the others are for reservations.
const KEPT_SHARE: u64 = 2;

/// Bytes in one slot.
const PART: usize = (field::SIZE - kept::DATA) * 8;

const MAX_PARTS: usize = MAX_KEPT.div_ceil(PART);

/// The slots of a chain.
struct Chain {
    parts: [Ticket; MAX_PARTS],
    count: usize,
}

impl Chain {
    fn parts(&self) -> &[Ticket] {
        self.parts.get(..self.count).unwrap_or_default()
    }

    fn push(&mut self, part: Ticket) -> bool {
        let Some(place) = self.parts.get_mut(self.count) else {
            return false;
        };
        *place = part;
        self.count += 1;
        true
    }
}

impl<M: Memory> Table<M> {
    /// Keeps `bytes` until [`forget`](Self::forget), or until `owner` is dead and swept. `None` where there is no room
    /// for them, or they are more than [`MAX_KEPT`], or none.
    pub fn keep(&mut self, now: Msec, owner: Owner, bytes: &[u8]) -> Option<Ticket> {
        if bytes.is_empty() || bytes.len() > MAX_KEPT {
            return None;
        }
        self.begin();
        let mut next = None;
        for part in bytes.chunks(PART).rev() {
            let made = self.keep_part(owner, part, next);
            if made.is_none() {
                self.forget_chain(now, next);
                self.end();
                return None;
            }
            next = made;
        }
        if let Some(first) = next {
            self.slots.set(first.slot, kept::LENGTH, bytes.len() as u64);
        }
        self.end();
        next
    }

    fn keep_part(&mut self, owner: Owner, bytes: &[u8], next: Option<Ticket>) -> Option<Ticket> {
        if self.kept_slots() >= u64::from(self.slots.layout.slots) / KEPT_SHARE {
            return None;
        }
        let slot = self.oldest_free()?;
        let id = self.slots.new_id()?;
        self.note_use(slot);
        self.unlist(slot);
        self.unindex(slot);
        self.slots.keep(slot, id, owner, next, bytes);
        self.count(slot, true);
        Some(Ticket { slot, id })
    }

    /// Puts other bytes in their place. Answers whether they fit; what was there is gone if not. Killed half-way it
    /// leaves nothing to be read.
    pub fn keep_instead(&mut self, ticket: Ticket, bytes: &[u8]) -> bool {
        let chain = self.chain(Some(ticket));
        let Some(first) = chain.parts().first() else {
            return false;
        };
        self.slots.set(first.slot, kept::LENGTH, 0);
        if bytes.len() > chain.count * PART {
            return false;
        }
        for (part, bytes) in chain.parts().iter().zip(bytes.chunks(PART)) {
            self.slots.put_kept(part.slot, bytes);
        }
        self.slots.set(first.slot, kept::LENGTH, bytes.len() as u64);
        true
    }

    /// Copies what is kept; `None` if it is gone.
    pub fn kept<'a>(&self, ticket: Ticket, bytes: &'a mut [u8; MAX_KEPT]) -> Option<&'a [u8]> {
        let chain = self.chain(Some(ticket));
        let first = chain.parts().first()?;
        let length = self.slots.get(first.slot, kept::LENGTH);
        let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
        let bytes = bytes.get_mut(..length)?;
        if length > chain.count * PART {
            return None;
        }
        for (part, bytes) in chain.parts().iter().zip(bytes.chunks_mut(PART)) {
            self.slots.copy_kept(part.slot, bytes);
        }
        Some(bytes)
    }

    /// Wipes it and gives its slots back. Answers whether it was there.
    pub fn forget(&mut self, now: Msec, ticket: Ticket) -> bool {
        self.begin();
        let there = self.forget_chain(now, Some(ticket));
        self.end();
        there
    }

    fn forget_chain(&mut self, now: Msec, first: Option<Ticket>) -> bool {
        let chain = self.chain(first);
        if let Some(first) = chain.parts().first() {
            self.slots.set(first.slot, kept::LENGTH, 0);
        }
        for part in chain.parts().iter().rev() {
            self.free(part.slot, now);
        }
        chain.count > 0
    }

    fn chain(&self, first: Option<Ticket>) -> Chain {
        let none = Ticket { slot: 0, id: 0 };
        let mut chain = Chain {
            parts: [none; MAX_PARTS],
            count: 0,
        };
        let mut next = first;
        while let Some(part) = next {
            // A ring cannot come about, and would end where the chain is full.
            if self.slots.state_of(part) != Some(State::Kept) || !chain.push(part) {
                break;
            }
            next = self.slots.next_kept(part.slot);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::*;
    use super::super::{Counts, Owner};
    use super::*;

    const LIVING: Owner = Owner(3);
    const DYING: Owner = Owner(1);
    const SLOTS: usize = 24;

    fn secret(seed: u64, length: usize) -> Vec<u8> {
        let mut random = Random(seed);
        (0..length).map(|_| random.next() as u8 | 1).collect()
    }

    fn kept(bench: &Bench, ticket: Ticket) -> Option<Vec<u8>> {
        let mut bytes = [0; MAX_KEPT];
        bench.table.kept(ticket, &mut bytes).map(<[u8]>::to_vec)
    }

    fn free(bench: &Bench) -> usize {
        bench.table.counts().free
    }

    /// Whether eight of its bytes in a row are anywhere.
    fn is_there(bench: &Bench, secret: &[u8]) -> bool {
        let words = bench.memory.words.borrow();
        let chunks = secret.as_chunks().0;
        chunks
            .iter()
            .any(|chunk| words.contains(&u64::from_le_bytes(*chunk)))
    }

    #[test]
    fn bytes_of_any_length_are_kept_and_wiped() {
        for length in [1, 7, 8, PART - 1, PART, PART + 1, 1200, 3 * PART, MAX_KEPT] {
            let mut bench = Bench::new(SLOTS);
            let secret = secret(5, length);
            let ticket = bench.table.keep(1, LIVING, &secret).unwrap();
            assert_eq!(kept(&bench, ticket).as_ref(), Some(&secret));
            assert_eq!(free(&bench), SLOTS - length.div_ceil(PART));
            check(&mut bench.table);
            assert!(bench.table.forget(2, ticket));
            assert!(!bench.table.forget(2, ticket));
            assert_eq!(kept(&bench, ticket), None);
            assert!(!is_there(&bench, &secret));
            assert_eq!(free(&bench), SLOTS);
            check(&mut bench.table);
        }
    }

    #[test]
    fn nothing_and_too_much_are_not_kept() {
        let mut bench = Bench::new(SLOTS);
        assert_eq!(bench.table.keep(1, LIVING, b""), None);
        assert_eq!(bench.table.keep(1, LIVING, &secret(1, MAX_KEPT + 1)), None);
        let mut small = Bench::new(5);
        assert_eq!(small.table.keep(1, LIVING, &secret(1, 3 * PART)), None);
        let none = Counts {
            free: 5,
            ..Counts::default()
        };
        assert_eq!(small.table.counts(), none);
        check(&mut small.table);
    }

    #[test]
    fn half_of_the_slots_are_left_to_reservations() {
        let mut bench = Bench::new(SLOTS);
        let some = |bench: &mut Bench| bench.table.keep(1, LIVING, &secret(1, PART + 1));
        let mut kept: Vec<_> = std::iter::from_fn(|| some(&mut bench)).collect();
        assert_eq!(kept.len(), SLOTS / 4);
        assert_eq!(free(&bench), SLOTS / 2);
        assert!(bench.table.forget(1, kept.pop().unwrap()));
        assert!(some(&mut bench).is_some());
        check(&mut bench.table);
    }

    #[test]
    fn other_bytes_take_their_place() {
        let mut bench = Bench::new(SLOTS);
        let ticket = bench.table.keep(1, LIVING, &secret(1, 1200)).unwrap();
        for (seed, length) in [(2, 1200), (3, 1), (4, 3 * PART)] {
            assert!(bench.table.keep_instead(ticket, &secret(seed, length)));
            assert_eq!(kept(&bench, ticket), Some(secret(seed, length)));
        }
        assert!(!is_there(&bench, &secret(2, 1200)));
        assert!(!bench.table.keep_instead(ticket, &secret(5, 3 * PART + 1)));
        assert_eq!(kept(&bench, ticket), None);
        assert!(bench.table.forget(1, ticket));
        assert!(!bench.table.keep_instead(ticket, &secret(5, 8)));
        check(&mut bench.table);
    }

    #[test]
    fn reservations_and_secrets_do_not_open_each_other() {
        let mut bench = Bench::new(SLOTS);
        let reserved = bench.reserve(&request(ALICE), 1..=1).unwrap().ticket;
        let secret = bench.table.keep(1, LIVING, &secret(1, 99)).unwrap();
        assert_eq!(kept(&bench, reserved), None);
        assert!(!bench.table.keep_instead(reserved, b"x"));
        assert!(!bench.table.forget(1, reserved));
        assert_eq!(bench.table.read(secret), None);
        assert!(!bench.table.annotate(secret, b"RETR", b"x"));
        assert_eq!(bench.table.release(1, secret), None);
        assert!(!bench.table.finish(1, secret));
        assert!(!bench.table.is_taken(secret));
        check(&mut bench.table);
    }

    #[test]
    fn secrets_go_with_their_owner() {
        let mut bench = Bench::new(SLOTS);
        let secret = secret(9, 1200);
        bench.table.keep(1, DYING, &secret).unwrap();
        bench.dead.insert(DYING);
        bench.reclaim_dead();
        assert!(bench.reclaimed.is_empty());
        assert!(!is_there(&bench, &secret));
        assert_eq!(free(&bench), SLOTS);
        check(&mut bench.table);
    }

    type Deed = fn(&mut Bench, Ticket);

    #[test]
    fn worker_killed_at_any_store_leaves_the_old_the_new_or_nothing() {
        let (old, new) = (secret(1, 1200), secret(2, 1100));
        let deeds: [(&str, Deed); 3] = [
            ("keep", |bench, _| {
                bench.table.keep(1, DYING, &secret(2, 1100)).unwrap();
            }),
            ("keep instead", |bench, ticket| {
                assert!(bench.table.keep_instead(ticket, &secret(2, 1100)));
            }),
            ("forget", |bench, ticket| {
                assert!(bench.table.forget(1, ticket));
            }),
        ];
        let mut scene = Bench::new(SLOTS);
        let reserved = scene.reserve(&request(BOB), 5..=5).unwrap().ticket;
        let ticket = scene.table.keep(1, LIVING, &old).unwrap();
        for (name, deed) in deeds {
            for stores in 0.. {
                let at = format!("{name} at {stores}");
                let memory = scene.memory.copy();
                let mut dying = Bench::over(memory.limited(stores, Then::Killed));
                let lived = lives(|| deed(&mut dying, ticket));
                let mut bench = Bench::over(memory.unlimited());
                let left = kept(&bench, ticket);
                assert!(left.is_none_or(|left| left == old || left == new), "{at}");
                check(&mut bench.table);
                assert_eq!(bench.find(5, BOB), Some(reserved), "{at}");
                // Its session ends, the dead worker is swept: nothing is left.
                bench.table.forget(1, ticket);
                bench.dead.insert(DYING);
                bench.reclaim_dead();
                assert_eq!(free(&bench), SLOTS, "{at}");
                assert!(!is_there(&bench, &old) && !is_there(&bench, &new), "{at}");
                check(&mut bench.table);
                if lived {
                    assert!(stores > 3, "{name} does nothing");
                    break;
                }
            }
        }
    }

    #[test]
    fn corrupted_links_neither_panic_nor_hang() {
        let mut random = Random(7);
        for _ in 0..2000 {
            let mut bench = Bench::new(SLOTS);
            let ticket = bench.table.keep(1, LIVING, &secret(1, 2000)).unwrap();
            for _ in 0..3 {
                let slot = random.below(SLOTS as u64) as u32;
                let field = [0, kept::NEXT, kept::NEXT_ID, kept::LENGTH];
                let word = bench
                    .table
                    .slots
                    .layout
                    .word(slot, field[random.below(4) as usize]);
                let value = match random.below(2) {
                    0 => random.below(60),
                    _ => random.next(),
                };
                bench.memory.clone().store(word, value);
            }
            kept(&bench, ticket);
            bench.table.keep_instead(ticket, &secret(2, 1500));
            bench.table.forget(1, ticket);
            bench.reclaim_dead();
        }
    }
}
