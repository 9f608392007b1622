//! Which port of the range a reservation gets.

use super::reclaim::Reaper;
use super::slot::{Packed, State, mix};
use super::{Memory, Msec, Peer, Request, Table};
use std::ops::RangeInclusive;

/// How long after its end a key is avoided, in milliseconds: a late connection meant for the last reservation
/// must not meet the next.
pub const COOLING: Msec = 5000;

/// The most ports one search looks at. A range of no more ports is walked from a random start, so that none of
/// them is missed.
pub const PROBES: u32 = 64;

/// The most ports one search looks at when it already has one that merely was used lately, and whose connection has
/// come. A busy client keeps all its keys warm; the better of two is older than most, and far cheaper to find than the
/// oldest: each costs two cache misses. In a narrow range keys are soon used again, and more of them are looked at.
const fn choice(ports: u64) -> u32 {
    if ports <= PROBES as u64 { 8 } else { 2 }
}

/// Accepted connections that one session may have on a key when it gets the key once more. A session needs
/// one; the bound keeps a bucket short whatever a session does.
const MAX_TAKEN: u32 = 4;

/// What is wrong with a usable port, least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blemish {
    None,
    /// Its key was freed at this time, not long ago, when the data connection that was meant had ended.
    Cooling(Msec),
    /// Its key was freed at this time, not long ago, and the connection that was meant may still come: of a server
    /// whose client has gone, with the wrong file for the next session.
    Unused(Msec),
    /// The same session's data connection is still open; it was accepted, so nothing can be mixed up.
    Taken,
}

/// A port to reserve.
#[derive(Clone, Copy)]
pub(super) struct Pick {
    pub port: u16,
    /// A free slot of the same key. It must be the one to use, or a key would gather free slots.
    pub slot: Option<u32>,
    blemish: Blemish,
}

/// Frees a slot whose reservation does not count any more.
type Reclaim<M> = fn(&mut Table<M>, u32, &mut Reaper<'_>) -> bool;

/// Ports that may not be given although no slot of their key says so.
struct Barred([u64; 1024]);

impl Barred {
    fn bar(&mut self, port: u16) {
        if let Some(word) = self.0.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    fn bars(&self, port: u16) -> bool {
        self.0
            .get(usize::from(port / 64))
            .is_some_and(|word| word >> (port % 64) & 1 != 0)
    }
}

impl<M: Memory> Table<M> {
    /// The best port among those probed; `None` if all of them are in use for this peer, and not by the dead.
    pub(super) fn pick(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        reaper: &mut Reaper<'_>,
    ) -> Option<Pick> {
        // Whether an owner lives may cost a system call: nobody asks while there are ports to be had.
        self.probe(request, ports, random, reaper, Self::reclaim_expired)
            .or_else(|| self.probe(request, ports, random, reaper, Self::reclaim_useless))
    }

    fn probe(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        reaper: &mut Reaper<'_>,
        reclaim: Reclaim<M>,
    ) -> Option<Pick> {
        let (hosts, _) = self.hosts_and_anys();
        match request.peer == Peer::Any && hosts != 0 {
            true => self.probe_around_hosts(request, ports, random, reaper, reclaim),
            false => self.probe_ports(request, ports, random, reaper, reclaim, None),
        }
    }

    #[cold]
    #[inline(never)] // Barred ports are not for the stack of every other search.
    fn probe_around_hosts(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        reaper: &mut Reaper<'_>,
        reclaim: Reclaim<M>,
    ) -> Option<Pick> {
        let barred = self.barred(reaper, reclaim);
        self.probe_ports(request, ports, random, reaper, reclaim, Some(&barred))
    }

    fn probe_ports(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        reaper: &mut Reaper<'_>,
        reclaim: Reclaim<M>,
        barred: Option<&Barred>,
    ) -> Option<Pick> {
        let first = u64::from(*ports.start());
        let size = u64::from(*ports.end()).checked_sub(first)? + 1;
        // One number that nobody can guess is enough for all of a search.
        let mut drawn = random();
        let start = drawn % size;
        let mut best: Option<Pick> = None;
        for probe in 0..size.min(PROBES.into()) {
            if probe >= choice(size).into()
                && best.is_some_and(|best| best.blemish < Blemish::Unused(0))
            {
                break;
            }
            let offset = match probe {
                0 => start,
                _ if size <= PROBES.into() => (start + probe) % size,
                _ => {
                    drawn = mix(drawn);
                    ((u128::from(drawn) * u128::from(size)) >> 64) as u64
                }
            };
            let port = (first + offset) as u16;
            if barred.is_some_and(|barred| barred.bars(port)) {
                continue;
            }
            let Some(pick) = self.examine(port, request, reaper, reclaim) else {
                continue;
            };
            if pick.blemish == Blemish::None {
                return Some(pick);
            }
            if best.is_none_or(|best| pick.blemish < best.blemish) {
                best = Some(pick);
            }
        }
        best
    }

    /// Looks at the slots of one key; `None` if a reservation on it forbids another.
    fn examine(
        &mut self,
        port: u16,
        request: &Request<'_>,
        reaper: &mut Reaper<'_>,
        reclaim: Reclaim<M>,
    ) -> Option<Pick> {
        if request.peer != Peer::Any && self.held_for_anybody(port, reaper, reclaim) {
            return None;
        }
        let mut pick = Pick {
            port,
            slot: None,
            blemish: Blemish::None,
        };
        let mut taken = 0;
        let mut walk = self.walk(Packed::key(port, request.peer));
        while let Some(slot) = self.step(&mut walk) {
            reclaim(self, slot, reaper);
            let blemish = match self.slots.state(slot) {
                State::Waiting | State::Kept => return None,
                State::Taken => {
                    taken += 1;
                    if self.slots.session(slot) != request.session || taken > MAX_TAKEN {
                        return None;
                    }
                    Blemish::Taken
                }
                State::Free => {
                    pick.slot = Some(slot);
                    let freed = self.slots.when(slot);
                    match freed.saturating_add(COOLING) > reaper.now {
                        false => Blemish::None,
                        true if self.slots.was_used(slot) => Blemish::Cooling(freed),
                        true => Blemish::Unused(freed),
                    }
                }
            };
            pick.blemish = pick.blemish.max(blemish);
        }
        Some(pick)
    }

    /// Whether a reservation that anybody may use is on this port. Those and reservations for certain hosts
    /// meet in one table only after a reload that changed the peer check.
    fn held_for_anybody(
        &mut self,
        port: u16,
        reaper: &mut Reaper<'_>,
        reclaim: Reclaim<M>,
    ) -> bool {
        let (_, anys) = self.hosts_and_anys();
        if anys == 0 {
            return false;
        }
        let mut walk = self.walk(Packed::key(port, Peer::Any));
        while let Some(slot) = self.step(&mut walk) {
            reclaim(self, slot, reaper);
            if self.slots.state(slot) != State::Free {
                return true;
            }
        }
        false
    }

    /// For a reservation that anybody may use: the ports of all others. The index cannot be asked for those,
    /// so this looks at every slot, but only after a reload that turned the peer check off and until the last
    /// reservation from before has ended.
    fn barred(&mut self, reaper: &mut Reaper<'_>, reclaim: Reclaim<M>) -> Barred {
        let mut barred = Barred([0; 1024]);
        for slot in 0..self.slots.layout.slots {
            reclaim(self, slot, reaper);
            let key = self.slots.key(slot);
            let for_host = matches!(key.peer(), Some(Peer::Host(_)));
            if for_host && self.slots.state(slot) != State::Free {
                barred.bar(key.port());
            }
        }
        barred
    }
}
