//! Taking back what nobody will use: reservations past their deadline and those of dead workers.

use super::layout::header;
use super::slot::State;
use super::{Memory, Msec, Owner, Reservation, Table};

/// Slots that each reservation looks at in turn.
const SWEEP: u32 = 2;

/// Whom to take from and whom to tell, for the length of one call.
pub(super) struct Reaper<'a> {
    pub now: Msec,
    dead: &'a mut dyn FnMut(Owner) -> bool,
    reclaimed: &'a mut dyn FnMut(&Reservation),
    /// Answers so far: there are few workers and many slots, and each question may cost a system call.
    known: [Option<(Owner, bool)>; 16],
}

impl<'a> Reaper<'a> {
    pub fn new(
        now: Msec,
        dead: &'a mut dyn FnMut(Owner) -> bool,
        reclaimed: &'a mut dyn FnMut(&Reservation),
    ) -> Self {
        Self {
            now,
            dead,
            reclaimed,
            known: [None; 16],
        }
    }

    /// This owner is alive, it asks.
    pub fn spare(mut self, owner: Owner) -> Self {
        if let Some(first) = self.known.first_mut() {
            *first = Some((owner, false));
        }
        self
    }

    fn is_dead(&mut self, owner: Owner) -> bool {
        for place in &mut self.known {
            match place {
                Some((known, dead)) if *known == owner => return *dead,
                Some(_) => {}
                None => {
                    let dead = (self.dead)(owner);
                    *place = Some((owner, dead));
                    return dead;
                }
            }
        }
        (self.dead)(owner)
    }
}

impl<M: Memory> Table<M> {
    /// Frees the slot if its reservation has expired; says whether it did.
    pub(super) fn reclaim_expired(&mut self, slot: u32, reaper: &mut Reaper<'_>) -> bool {
        let expired = self.slots.expired(slot, reaper.now);
        if expired {
            self.reclaim(slot, reaper);
        }
        expired
    }

    /// Frees the slot if its reservation has expired or its owner is dead; says whether it did.
    pub(super) fn reclaim_useless(&mut self, slot: u32, reaper: &mut Reaper<'_>) -> bool {
        if self.reclaim_expired(slot, reaper) {
            return true;
        }
        let live = self.slots.state(slot) != State::Free;
        let useless = live && reaper.is_dead(self.slots.owner(slot));
        if useless {
            self.reclaim(slot, reaper);
        }
        useless
    }

    fn reclaim(&mut self, slot: u32, reaper: &mut Reaper<'_>) {
        let reservation = self.slots.read(slot);
        self.free(slot, reaper.now);
        if let Some(reservation) = reservation {
            (reaper.reclaimed)(&reservation);
        }
    }

    /// A live slot becomes the last of the free ones.
    pub(super) fn free(&mut self, slot: u32, now: Msec) {
        self.slots.clear(slot, now);
        self.count(slot, false);
        self.push_free(slot);
    }

    /// Looks at the next few of the slots that were ever used.
    pub(super) fn sweep(&mut self, reaper: &mut Reaper<'_>) {
        let used = self.used();
        let mut cursor = self.slots.memory.load(header::CURSOR);
        for _ in 0..SWEEP.min(used) {
            let slot = u32::try_from(cursor).ok().filter(|slot| *slot < used);
            let slot = slot.unwrap_or(0);
            self.reclaim_useless(slot, reaper);
            cursor = u64::from(slot) + 1;
        }
        self.slots.memory.store(header::CURSOR, cursor);
    }

    /// Looks at every slot: O(n). Answers how many it freed.
    pub(super) fn reclaim_all(&mut self, reaper: &mut Reaper<'_>) -> usize {
        (0..self.slots.layout.slots)
            .filter(|slot| self.reclaim_useless(*slot, reaper))
            .count()
    }
}
