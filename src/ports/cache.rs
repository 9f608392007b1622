//! The index by key and the list of free slots: a cache that is checked where it is read and rebuilt from the
//! slots when it cannot be trusted.
//!
//! A FREE slot stays in the index under its last key, which is how a key is known to have been used lately. No
//! slot is believed because a link leads to it: its state and key are looked at, and a walk ends after as many
//! steps as there are slots.

use super::layout::{field, header};
use super::slot::{Packed, State};
use super::{Memory, Peer, Table};

/// A walk along a bucket.
pub(super) struct Walk {
    key: Packed,
    at: Option<u32>,
    steps_left: u32,
}

/// A doubly linked list through the slots. In a word of a slot are its two neighbours, in a word of its own
/// the head; a link is the number of the slot plus 1, or 0.
#[derive(Clone, Copy)]
struct List {
    links: usize,
    head: usize,
    /// Where the tail is stored, if anybody asks for it.
    tail: Option<usize>,
}

const FREE: List = List {
    links: field::FREE,
    head: header::FREE_HEAD,
    tail: Some(header::FREE_TAIL),
};

type Link = Option<u32>;

fn pack_link(link: Link) -> u64 {
    link.map_or(0, |slot| u64::from(slot) + 1)
}

impl<M: Memory> Table<M> {
    /// Starts a change: from here on a kill leaves the mark behind.
    pub(super) fn begin(&mut self) {
        self.trust();
        self.slots.memory.store(header::MARK, 1);
    }

    /// Ends a change. If the cache turned out to be wrong the mark stays, and the next user rebuilds.
    pub(super) fn end(&mut self) {
        self.slots.memory.store(header::MARK, u64::from(self.doubt));
    }

    /// Makes sure that the cache can be read.
    pub(super) fn trust(&mut self) {
        if self.doubt || self.slots.memory.load(header::MARK) != 0 {
            self.rebuild();
            self.slots.memory.store(header::MARK, 0);
        }
    }

    /// Makes the cache anew from the slots: O(n). The order in which slots were freed is lost.
    pub(super) fn rebuild(&mut self) {
        self.slots.memory.store(header::MARK, 1);
        self.doubt = false;
        for bucket in self.slots.layout.buckets() {
            self.slots.memory.store(bucket, 0);
        }
        for word in [
            header::FREE_HEAD,
            header::FREE_TAIL,
            header::HOSTS,
            header::ANYS,
            header::KEPT,
            header::USED,
        ] {
            self.slots.memory.store(word, 0);
        }
        let mut next_id = self.slots.memory.load(header::NEXT_ID).max(1);
        for slot in 0..self.slots.layout.slots {
            let (id, state) = self.slots.id_and_state(slot);
            next_id = next_id.max(id.saturating_add(1));
            if state != State::Free || self.slots.when(slot) != 0 {
                self.note_use(slot);
            }
            self.index(slot);
            match state {
                State::Free => self.push_free(slot),
                State::Waiting | State::Taken | State::Kept => self.count(slot, true),
            }
        }
        self.slots.memory.store(header::NEXT_ID, next_id);
    }

    /// Draws the index's secret if there is none yet, in a table that was never used.
    pub(super) fn seed(&mut self, random: &mut dyn FnMut() -> u64) {
        if self.slots.memory.load(header::SEED) == 0 {
            self.slots.memory.store(header::SEED, random() | 1);
            self.rebuild();
        }
    }

    /// Starts a walk over all slots of this key, free ones too.
    pub(super) fn walk(&mut self, key: Packed) -> Walk {
        let head = self.slots.memory.load(self.bucket(key));
        Walk {
            key,
            at: self.link(head),
            steps_left: self.slots.layout.slots,
        }
    }

    /// The next slot of the walk's key.
    pub(super) fn step(&mut self, walk: &mut Walk) -> Option<u32> {
        while let Some(slot) = walk.at {
            if walk.steps_left == 0 {
                self.doubt = true;
                return None;
            }
            walk.steps_left -= 1;
            walk.at = self.links(BUCKET_LINKS, slot).1;
            if self.slots.key(slot) == walk.key {
                return Some(slot);
            }
        }
        None
    }

    /// The slot that has been free longest.
    pub(super) fn oldest_free(&mut self) -> Option<u32> {
        let head = self.free_head();
        if head.is_none() && self.doubt {
            self.rebuild();
            return self.free_head();
        }
        head
    }

    /// A list that does not begin with a free slot is wrong, and so is one with an end and no beginning.
    fn free_head(&mut self) -> Link {
        let head = self.slots.memory.load(header::FREE_HEAD);
        let Some(head) = self.link(head) else {
            self.doubt |= self.slots.memory.load(header::FREE_TAIL) != 0;
            return None;
        };
        let free = self.slots.state(head) == State::Free;
        self.doubt |= !free;
        free.then_some(head)
    }

    /// Puts a slot that died at the end of the free list; its key stays in the index.
    pub(super) fn push_free(&mut self, slot: u32) {
        let tail = self.slots.memory.load(header::FREE_TAIL);
        let tail = self.link(tail);
        self.set_links(FREE.links, slot, (tail, None));
        match tail {
            Some(tail) => {
                self.doubt |= self.links(FREE.links, tail).1.is_some();
                self.set_next(FREE.links, tail, Some(slot));
            }
            None => {
                self.doubt |= self.slots.memory.load(FREE.head) != 0;
                self.slots.memory.store(FREE.head, pack_link(Some(slot)));
            }
        }
        self.slots
            .memory
            .store(header::FREE_TAIL, pack_link(Some(slot)));
    }

    /// Takes a FREE slot out of the free list.
    pub(super) fn unlist(&mut self, slot: u32) {
        self.remove(FREE, slot);
    }

    /// Takes a slot out of the index, before its key changes.
    pub(super) fn unindex(&mut self, slot: u32) {
        let key = self.slots.key(slot);
        if key.peer().is_some() {
            let head = self.bucket(key);
            self.remove(
                List {
                    links: BUCKET_LINKS,
                    head,
                    tail: None,
                },
                slot,
            );
        }
    }

    /// Puts a slot into the index under its key.
    pub(super) fn index(&mut self, slot: u32) {
        let key = self.slots.key(slot);
        if key.peer().is_none() {
            return;
        }
        let bucket = self.bucket(key);
        let head = self.slots.memory.load(bucket);
        let head = self.link(head);
        self.set_links(BUCKET_LINKS, slot, (None, head));
        if let Some(head) = head {
            self.set_previous(BUCKET_LINKS, head, Some(slot));
        }
        self.slots.memory.store(bucket, pack_link(Some(slot)));
    }

    /// Counts a live slot in or out.
    pub(super) fn count(&mut self, slot: u32, born: bool) {
        let word = match self.slots.key(slot).peer() {
            Some(Peer::Host(_)) => header::HOSTS,
            Some(Peer::Any) => header::ANYS,
            None => header::KEPT,
        };
        let before = self.slots.memory.load(word);
        let after = if born {
            before.checked_add(1)
        } else {
            before.checked_sub(1)
        };
        self.doubt |= after.is_none();
        self.slots.memory.store(word, after.unwrap_or(before));
    }

    /// A slot is about to be used, maybe for the first time.
    pub(super) fn note_use(&mut self, slot: u32) {
        if slot >= self.used() {
            let used = u64::from(slot) + 1;
            self.slots.memory.store(header::USED, used);
        }
    }

    /// The first slot of those at the end that were never used.
    pub(super) fn used(&self) -> u32 {
        let used = self.slots.memory.load(header::USED);
        let slots = self.slots.layout.slots;
        u32::try_from(used).map_or(slots, |used| used.min(slots))
    }

    /// How many slots hold secrets.
    pub(super) fn kept_slots(&self) -> u64 {
        self.slots.memory.load(header::KEPT)
    }

    /// How many live slots expect a certain host, and how many anybody.
    pub(super) fn hosts_and_anys(&self) -> (u64, u64) {
        (
            self.slots.memory.load(header::HOSTS),
            self.slots.memory.load(header::ANYS),
        )
    }

    fn bucket(&self, key: Packed) -> usize {
        self.slots
            .layout
            .bucket(key.hash(self.slots.memory.load(header::SEED)))
    }

    fn remove(&mut self, list: List, slot: u32) {
        let (previous, next) = self.links(list.links, slot);
        match previous {
            Some(previous) => {
                self.doubt |= self.links(list.links, previous).1 != Some(slot);
                self.set_next(list.links, previous, next);
            }
            None => {
                self.doubt |= self.slots.memory.load(list.head) != pack_link(Some(slot));
                self.slots.memory.store(list.head, pack_link(next));
            }
        }
        match (next, list.tail) {
            (Some(next), _) => {
                self.doubt |= self.links(list.links, next).0 != Some(slot);
                self.set_previous(list.links, next, previous);
            }
            (None, Some(tail)) => {
                self.doubt |= self.slots.memory.load(tail) != pack_link(Some(slot));
                self.slots.memory.store(tail, pack_link(previous));
            }
            (None, None) => {}
        }
    }

    /// A link that leads nowhere ends the list and casts doubt on it.
    fn link(&mut self, word: u64) -> Link {
        let slot = word.checked_sub(1)?;
        let slot = u32::try_from(slot)
            .ok()
            .filter(|slot| *slot < self.slots.layout.slots);
        self.doubt |= slot.is_none();
        slot
    }

    /// The previous and the next slot.
    fn links(&mut self, links: usize, slot: u32) -> (Link, Link) {
        let word = self.slots.get(slot, links);
        (self.link(word >> 32), self.link(word & u64::from(u32::MAX)))
    }

    fn set_links(&mut self, links: usize, slot: u32, (previous, next): (Link, Link)) {
        self.slots
            .set(slot, links, pack_link(previous) << 32 | pack_link(next));
    }

    fn set_next(&mut self, links: usize, slot: u32, next: Link) {
        let (previous, _) = self.links(links, slot);
        self.set_links(links, slot, (previous, next));
    }

    fn set_previous(&mut self, links: usize, slot: u32, previous: Link) {
        let (_, next) = self.links(links, slot);
        self.set_links(links, slot, (previous, next));
    }
}

const BUCKET_LINKS: usize = field::BUCKET;
