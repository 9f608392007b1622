//! The operations on the table. Each but `serve` and `served` is to be called with the memory's lock held, and holds on
//! to nothing afterwards.

use super::layout::{LAYOUT, Layout, LayoutError, MAGIC, header};
use super::reclaim::Reaper;
use super::slot::{Packed, Slots, State};
use super::{
    Host, Memory, Msec, Owner, Peer, Request, Reservation, Reserved, Stage, Taken, Ticket, Verb,
    Way,
};
use std::ops::RangeInclusive;

/// Milliseconds from one look at every slot in vain to the next.
pub(super) const SWEEP_PAUSE: Msec = 1000;

/// Why nothing was reserved. Neither is the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Every port that was looked at has a reservation for this peer: the range is too small.
    #[error("no free port")]
    NoPort,
    /// Every slot is in use: the memory is too small.
    #[error("no free reservation")]
    NoSlot,
}

/// Where data connections may come to, as the last configuration has it. Sessions of an older one that lives on
/// must not wait elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The configuration's number.
    pub generation: u32,
    /// Its range.
    pub ports: RangeInclusive<u16>,
}

/// How many slots are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reserved and not yet used, expired ones that nobody has looked at included.
    pub waiting: usize,
    /// In use by a data connection.
    pub taken: usize,
    /// In use for secrets, see [`Table::keep`].
    pub kept: usize,
    /// To be had.
    pub free: usize,
}

/// The table of reservations in `M`.
pub struct Table<M> {
    pub(super) slots: Slots<M>,
    /// The cache was found wrong.
    pub(super) doubt: bool,
}

impl<M: Memory> Table<M> {
    /// Makes an empty table, whatever the memory held before.
    ///
    /// # Errors
    ///
    /// [`LayoutError::TooSmall`] if no reservation fits.
    pub fn format(mut memory: M) -> Result<Self, LayoutError> {
        let layout = Layout::new(&memory)?;
        // No table until it is complete.
        for word in 0..memory.words() {
            memory.store(word, 0);
        }
        memory.store(header::LAYOUT, LAYOUT);
        memory.store(header::WORDS, memory.words() as u64);
        let mut table = Self {
            slots: Slots { memory, layout },
            doubt: true,
        };
        table.trust();
        table.slots.memory.store(header::MAGIC, MAGIC);
        Ok(table)
    }

    /// The table that another process made here.
    ///
    /// # Errors
    ///
    /// Any [`LayoutError`]: the memory holds no table, or not one that this code understands.
    pub fn open(memory: M) -> Result<Self, LayoutError> {
        let layout = Layout::of(&memory)?;
        Ok(Self::open_again(memory, layout))
    }

    /// The same once more, in memory where [`open`](Self::open) or [`format`](Self::format) has found this layout or made it.
    pub fn open_again(memory: M, layout: Layout) -> Self {
        Self {
            slots: Slots { memory, layout },
            doubt: false,
        }
    }

    /// Where its parts are.
    pub fn layout(&self) -> Layout {
        self.slots.layout
    }

    /// Reserves a port of `ports` for one connection from `request.peer`.
    ///
    /// The port is a random one whose key (port and peer) was not used in the last [`COOLING`](super::COOLING)
    /// milliseconds; failing that, of a few that were, the one whose data connection ended longest ago; failing that
    /// the one that was given back longest ago without one, for it may still come; failing that one on which the
    /// same session's data connection is still open. At most [`PROBES`](super::PROBES) ports are looked at, or
    /// twice as many if none is to be had but from the dead.
    ///
    /// Two slots, in turn, are looked at as well and freed if their reservation has expired or `dead` says so of
    /// its owner (`request.owner` is alive). If no slot is free, every slot is, at most once a second: that call costs O(n), all others
    /// the same however many ports and reservations there are. `reclaimed` hears of all that was freed this way.
    ///
    /// # Errors
    ///
    /// [`ReserveError::NoSlot`] if all slots are in use, [`ReserveError::NoPort`] if all ports that were looked
    /// at are in use for this peer, or the range is empty.
    #[allow(clippy::too_many_arguments)] // What comes from outside, comes as an argument.
    pub fn reserve(
        &mut self,
        now: Msec,
        request: &Request<'_>,
        ports: RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        dead: &mut dyn FnMut(Owner) -> bool,
        reclaimed: &mut dyn FnMut(&Reservation),
    ) -> Result<Reserved, ReserveError> {
        let mut reaper = Reaper::new(now, dead, reclaimed).spare(request.owner);
        self.begin();
        self.seed(random);
        self.sweep(&mut reaper);
        let reserved = self.reserve_in(request, &ports, random, &mut reaper);
        self.end();
        reserved
    }

    fn reserve_in(
        &mut self,
        request: &Request<'_>,
        ports: &RangeInclusive<u16>,
        random: &mut dyn FnMut() -> u64,
        reaper: &mut Reaper<'_>,
    ) -> Result<Reserved, ReserveError> {
        if self.oldest_free().is_none() && !self.make_room(reaper) {
            return Err(ReserveError::NoSlot);
        }
        let pick = self
            .pick(request, ports, random, reaper)
            .ok_or(ReserveError::NoPort)?;
        let free = pick.slot.or_else(|| self.oldest_free());
        let slot = free.ok_or(ReserveError::NoSlot)?;
        let id = self.slots.new_id().ok_or(ReserveError::NoSlot)?;
        let key = Packed::key(pick.port, request.peer);
        self.note_use(slot);
        self.unlist(slot);
        // A slot of the same key stays in the index where it is: other workers have that in their caches.
        if pick.slot.is_none() {
            self.unindex(slot);
        }
        self.slots.fill(slot, id, key, request);
        if pick.slot.is_none() {
            self.index(slot);
        }
        self.count(slot, true);
        Ok(Reserved {
            ticket: Ticket { slot, id },
            port: pick.port,
        })
    }

    /// Looks at every slot for one to free, unless that was in vain a moment ago: a full table must not make
    /// each request for a port dear.
    fn make_room(&mut self, reaper: &mut Reaper<'_>) -> bool {
        let now = reaper.now;
        let swept = self.slots.memory.load(header::SWEPT);
        if swept != 0 && now.saturating_sub(swept) < SWEEP_PAUSE {
            return false;
        }
        let found = self.reclaim_all(reaper) > 0;
        self.slots
            .memory
            .store(header::SWEPT, if found { 0 } else { now });
        found
    }

    /// The reservation that a connection from `peer` to `port` may take now: the one for this host, else the
    /// one for anybody.
    pub fn find(&mut self, now: Msec, port: u16, peer: Host) -> Option<Ticket> {
        self.trust();
        let exact = self.find_key(now, Packed::key(port, peer.into()));
        let found = exact.or_else(|| {
            let (_, anys) = self.hosts_and_anys();
            (anys != 0).then(|| self.find_key(now, Packed::key(port, Peer::Any)))?
        });
        if self.doubt {
            // For whoever comes next, which may be another process.
            self.end();
        }
        found
    }

    fn find_key(&mut self, now: Msec, key: Packed) -> Option<Ticket> {
        let mut walk = self.walk(key);
        while let Some(slot) = self.step(&mut walk) {
            let (id, state) = self.slots.id_and_state(slot);
            if state == State::Waiting && !self.slots.expired(slot, now) {
                return Some(Ticket { slot, id });
            }
        }
        None
    }

    /// Gives a waiting reservation to the connection from `peer` to `port`, handled by the worker `owner`.
    /// Nobody can take it again; only [`finish`](Self::finish) frees it.
    ///
    /// `None` if the ticket's reservation is gone, taken, past its deadline, or not for this port and peer.
    pub fn take(
        &mut self,
        now: Msec,
        ticket: Ticket,
        port: u16,
        peer: Host,
        owner: Owner,
    ) -> Option<Taken> {
        if self.slots.state_of(ticket)? != State::Waiting || self.slots.expired(ticket.slot, now) {
            return None;
        }
        let key = self.slots.key(ticket.slot);
        if key.port() != port || !key.peer()?.admits(peer) {
            return None;
        }
        let taken = self.slots.taken(ticket)?;
        self.slots.hand_over(ticket.slot, ticket.id, owner);
        Some(taken)
    }

    /// Gives a waiting reservation back. Answers its port, or `None` if the ticket's reservation is gone or
    /// taken, which it then stays.
    pub fn release(&mut self, now: Msec, ticket: Ticket) -> Option<u16> {
        self.end_of_life(now, ticket, State::Waiting)
    }

    /// Ends a taken reservation when its connection ends. Answers whether it did; a waiting one stays.
    pub fn finish(&mut self, now: Msec, ticket: Ticket) -> bool {
        self.end_of_life(now, ticket, State::Taken).is_some()
    }

    fn end_of_life(&mut self, now: Msec, ticket: Ticket, expected: State) -> Option<u16> {
        if self.slots.state_of(ticket)? != expected {
            return None;
        }
        let port = self.slots.key(ticket.slot).port();
        self.begin();
        self.free(ticket.slot, now);
        self.end();
        Some(port)
    }

    /// Whether the ticket's reservation is in use by a data connection.
    pub fn is_taken(&self, ticket: Ticket) -> bool {
        self.slots.state_of(ticket) == Some(State::Taken)
    }

    /// Says that the client is connected to the data connection that has taken the ticket's reservation. Answers whether
    /// there is one.
    pub fn reach(&mut self, ticket: Ticket) -> bool {
        let taken = self.is_taken(ticket);
        if taken {
            self.slots.reach(ticket.slot);
        }
        taken
    }

    /// How far the ticket's data connection has come; `None` if it is over, or can come no more.
    pub fn stage(&self, now: Msec, ticket: Ticket) -> Option<Stage> {
        let slot = ticket.slot;
        match self.slots.state_of(ticket)? {
            State::Waiting => (!self.slots.expired(slot, now)).then_some(Stage::Waiting),
            State::Taken if self.slots.is_reached(slot) => Some(Stage::Reached),
            State::Taken => Some(Stage::Taken(self.slots.owner(slot))),
            State::Free | State::Kept => None,
        }
    }

    /// Notes the session's last transfer command, waiting or taken. Answers whether the ticket's reservation
    /// still is.
    pub fn annotate(&mut self, ticket: Ticket, verb: &[u8], path: &[u8]) -> bool {
        let state = self.slots.state_of(ticket);
        let live = matches!(state, Some(State::Waiting | State::Taken));
        if live {
            self.slots.annotate(ticket.slot, verb, path);
        }
        live
    }

    /// Tells a reservation that another one has become its mate. Answers whether it still is there.
    pub fn join(&mut self, ticket: Ticket, mate: Ticket) -> bool {
        let state = self.slots.state_of(ticket);
        let live = matches!(state, Some(State::Waiting | State::Taken));
        if live {
            self.slots.join(ticket.slot, mate);
        }
        live
    }

    /// Who connects to whom; `None` if the ticket's reservation is gone.
    pub fn way(&self, ticket: Ticket) -> Option<Way> {
        self.slots.state_of(ticket)?;
        Some(self.slots.way(ticket.slot))
    }

    /// A copy of the ticket's reservation, expired or not; `None` if it is gone.
    pub fn read(&self, ticket: Ticket) -> Option<Reservation> {
        self.slots.state_of(ticket)?;
        self.slots.read(ticket.slot)
    }

    /// Frees every reservation that has expired or whose owner `dead` says is dead, tells `reclaimed` of each and
    /// answers how many there were. Looks at every slot: for the start of a worker. `dead` is asked about an
    /// owner once, as long as there are no more than a handful of them.
    pub fn reclaim_dead(
        &mut self,
        now: Msec,
        dead: &mut dyn FnMut(Owner) -> bool,
        reclaimed: &mut dyn FnMut(&Reservation),
    ) -> usize {
        self.begin();
        let freed = self.reclaim_all(&mut Reaper::new(now, dead, reclaimed));
        self.end();
        freed
    }

    /// The session's last transfer command, empty before; `None` if the ticket's reservation is gone.
    pub fn verb(&self, ticket: Ticket) -> Option<Verb> {
        match self.slots.state_of(ticket)? {
            State::Waiting | State::Taken => Some(self.slots.verb(ticket.slot)),
            State::Free | State::Kept => None,
        }
    }

    /// Says what is served from now on. One store: the lock is not needed.
    pub fn serve(&mut self, served: &Served) {
        let (first, last) = (*served.ports.start(), *served.ports.end());
        let word = u64::from(served.generation) << 32 | u64::from(first) << 16 | u64::from(last);
        self.slots.memory.store(header::SERVED, word);
    }

    /// What is served, if anybody has said. The lock is not needed.
    pub fn served(&self) -> Option<Served> {
        let word = self.slots.memory.load(header::SERVED);
        (word != 0).then_some(Served {
            generation: (word >> 32) as u32,
            ports: (word >> 16) as u16..=word as u16,
        })
    }

    /// Counts the slots; looks at every one.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for slot in 0..self.slots.layout.slots {
            match self.slots.state(slot) {
                State::Free => counts.free += 1,
                State::Waiting => counts.waiting += 1,
                State::Taken => counts.taken += 1,
                State::Kept => counts.kept += 1,
            }
        }
        counts
    }
}
