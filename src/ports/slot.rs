//! One slot: how a reservation is packed into words, in the order that survives a kill at any store.

use super::layout::{Layout, field, header, kept};
use super::reservation::{MAX_NAME, MAX_PATH, MAX_USER, MAX_VERB};
use super::{
    Host, Memory, Mode, Msec, Owner, Peer, Request, Reservation, Taken, Text, Ticket, Tls, Verb,
    Way,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The life of a slot. It shares one word with the id, so that both change in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Waiting,
    Taken,
    /// No reservation, but bytes kept for some.
    Kept,
}

/// The greatest id: two bits of the word are the state's.
pub(super) const MAX_ID: u64 = u64::MAX >> 2;

fn pack_state(id: u64, state: State) -> u64 {
    let bits = match state {
        State::Free => 0,
        State::Waiting => 1,
        State::Taken => 2,
        State::Kept => 3,
    };
    id << 2 | bits
}

fn unpack_state(word: u64) -> (u64, State) {
    let state = match word & 3 {
        1 => State::Waiting,
        2 => State::Taken,
        3 => State::Kept,
        _ => State::Free,
    };
    (word >> 2, state)
}

/// Address, port and scope in three words; `[0; 3]` is none. Every value of the words has a meaning or is
/// none, so that nothing read from memory can be wrong in a way that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed(pub [u64; 3]);

const ANY: u8 = 1;
const IPV4: u8 = 4;
const IPV6: u8 = 6;
/// No address but a ticket.
const TICKET: u8 = 7;

impl Packed {
    const NONE: Self = Self([0; 3]);

    /// The key of a reservation.
    pub fn key(port: u16, peer: Peer) -> Self {
        match peer {
            Peer::Any => Self::new(ANY, port, 0, 0),
            Peer::Host(host) => Self::address(host.ip(), port, host.scope()),
        }
    }

    fn socket(socket: &SocketAddr) -> Self {
        let scope = match socket {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self::address(socket.ip(), socket.port(), scope)
    }

    fn address(ip: IpAddr, port: u16, scope: u32) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::new(IPV4, port, scope, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => Self::new(IPV6, port, scope, v6.to_bits()),
        }
    }

    fn new(tag: u8, port: u16, scope: u32, bits: u128) -> Self {
        let head = u64::from(port) | u64::from(tag) << 16 | u64::from(scope) << 32;
        Self([head, (bits >> 64) as u64, bits as u64])
    }

    fn tag(self) -> u8 {
        (self.0[0] >> 16) as u8
    }

    pub fn port(self) -> u16 {
        self.0[0] as u16
    }

    fn scope(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    fn ip(self) -> Option<IpAddr> {
        let [_, high, low] = self.0;
        match self.tag() {
            IPV4 => Some(Ipv4Addr::from_bits(low as u32).into()),
            IPV6 => Some(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()),
            _ => None,
        }
    }

    /// The peer of a key; `None` in a slot that was never used.
    pub fn peer(self) -> Option<Peer> {
        match self.tag() {
            ANY => Some(Peer::Any),
            _ => Some(Peer::Host(Host::new(self.ip()?, self.scope()))),
        }
    }

    fn ticket(ticket: Ticket) -> Self {
        let head = u64::from(TICKET) << 16;
        Self([head, ticket.slot.into(), ticket.id])
    }

    fn to_ticket(self) -> Option<Ticket> {
        let [_, slot, id] = self.0;
        let ticket = Ticket::from_words([slot, id])?;
        (self.tag() == TICKET).then_some(ticket)
    }

    fn to_socket(self) -> Option<SocketAddr> {
        Some(match self.ip()? {
            IpAddr::V4(v4) => SocketAddrV4::new(v4, self.port()).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, self.port(), 0, self.scope()).into(),
        })
    }

    /// Spreads keys over 64 bits; the top bits choose the bucket.
    pub fn hash(self, seed: u64) -> u64 {
        self.0.into_iter().fold(seed, |hash, word| mix(hash ^ word))
    }
}

/// A step of the SplitMix64 generator: every bit depends on every bit.
pub(super) fn mix(word: u64) -> u64 {
    let mut x = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Mode, TLS, way and text lengths in one word.
#[derive(Clone, Copy)]
struct Texts {
    mode: Mode,
    way: Way,
    tls: Tls,
    user: usize,
    verb: usize,
    path: usize,
    name: usize,
    /// The slot of what is kept.
    kept: u32,
}

impl Texts {
    fn pack(self) -> u64 {
        let mode = match self.mode {
            Mode::Pasv => 0,
            Mode::Epsv => 1,
            Mode::Port => 2,
            Mode::Eprt => 3,
        };
        let tls = u64::from(self.tls.client) << 2
            | u64::from(self.tls.server) << 3
            | u64::from(self.tls.resumed) << 7;
        let way = match self.way {
            Way::ToServer => 0,
            Way::ToClient => 1 << 4,
            Way::Neither => 2 << 4,
            Way::FromClient => 3 << 4,
            Way::FromServer => 4 << 4,
        };
        let lengths = [self.user, self.verb, self.path, self.name];
        let shifts = [8, 16, 24, 32];
        let shifted = lengths
            .iter()
            .zip(shifts)
            .map(|(length, shift)| (*length as u64) << shift);
        let kept = u64::from(self.kept) << KEPT_SHIFT;
        mode | tls | way | kept | shifted.fold(0, |all, length| all | length)
    }

    /// A length that cannot be is 0.
    fn unpack(word: u64) -> Self {
        let length = |shift: u32, max: usize| match (word >> shift & 0xff) as usize {
            length if length <= max => length,
            _ => 0,
        };
        Self {
            tls: Tls {
                client: word & 4 != 0,
                server: word & 8 != 0,
                resumed: word & 0x80 != 0,
            },
            mode: match word & 3 {
                0 => Mode::Pasv,
                1 => Mode::Epsv,
                2 => Mode::Port,
                _ => Mode::Eprt,
            },
            way: match word >> 4 & 7 {
                0 => Way::ToServer,
                1 => Way::ToClient,
                2 => Way::Neither,
                3 => Way::FromClient,
                _ => Way::FromServer,
            },
            user: length(8, MAX_USER),
            verb: length(16, MAX_VERB),
            path: length(24, MAX_PATH),
            name: length(32, MAX_NAME),
            kept: (word >> KEPT_SHIFT) as u32,
        }
    }
}

/// Above this bit of the texts' word is the number of a slot, 24 bits.
const KEPT_SHIFT: u32 = 40;

/// A part of a name would be another name.
fn whole<const MAX: usize>(name: &[u8]) -> &[u8] {
    if name.len() > MAX { b"" } else { name }
}

/// In the time of a FREE slot: it had been TAKEN. In that of a TAKEN one: the client is connected.
const USED: u64 = 1 << 63;

/// The slots and the header, without the cache.
pub(super) struct Slots<M> {
    pub memory: M,
    pub layout: Layout,
}

impl<M: Memory> Slots<M> {
    pub fn get(&self, slot: u32, field: usize) -> u64 {
        self.memory.load(self.layout.word(slot, field))
    }

    pub fn set(&mut self, slot: u32, field: usize, value: u64) {
        self.memory.store(self.layout.word(slot, field), value);
    }

    fn get_packed(&self, slot: u32, field: usize) -> Packed {
        Packed([
            self.get(slot, field),
            self.get(slot, field + 1),
            self.get(slot, field + 2),
        ])
    }

    fn set_packed(&mut self, slot: u32, field: usize, value: Packed) {
        for (at, word) in value.0.into_iter().enumerate() {
            self.set(slot, field + at, word);
        }
    }

    pub fn id_and_state(&self, slot: u32) -> (u64, State) {
        unpack_state(self.get(slot, field::STATE))
    }

    pub fn state(&self, slot: u32) -> State {
        self.id_and_state(slot).1
    }

    pub fn key(&self, slot: u32) -> Packed {
        self.get_packed(slot, field::KEY)
    }

    pub fn owner(&self, slot: u32) -> Owner {
        Owner(self.get(slot, field::OWNER))
    }

    pub fn session(&self, slot: u32) -> u64 {
        self.get(slot, field::SESSION)
    }

    pub fn way(&self, slot: u32) -> Way {
        Texts::unpack(self.get(slot, field::TEXTS)).way
    }

    /// The deadline of a WAITING slot, the time of freeing of a FREE one; 0 in one that was never used.
    pub fn when(&self, slot: u32) -> Msec {
        self.get(slot, field::WHEN) & !USED
    }

    /// Whether the connection that the last reservation of a FREE slot was for has come, and been taken.
    pub fn was_used(&self, slot: u32) -> bool {
        self.get(slot, field::WHEN) & USED != 0
    }

    /// Whether the client of a TAKEN slot is connected; one that is half-way to FREE has nobody any more who would be.
    pub fn is_reached(&self, slot: u32) -> bool {
        self.get(slot, field::WHEN) & USED != 0
    }

    /// Says so of a TAKEN slot, in one store.
    pub fn reach(&mut self, slot: u32) {
        let when = self.get(slot, field::WHEN);
        self.set(slot, field::WHEN, when | USED);
    }

    /// Whether the slot waits for a connection that may no longer come.
    pub fn expired(&self, slot: u32, now: Msec) -> bool {
        self.state(slot) == State::Waiting && self.when(slot) <= now
    }

    /// The state of the ticket's slot, if the slot still is the ticket's and lives.
    pub fn state_of(&self, ticket: Ticket) -> Option<State> {
        if ticket.slot >= self.layout.slots {
            return None;
        }
        match self.id_and_state(ticket.slot) {
            (_, State::Free) => None,
            (id, state) => (id == ticket.id).then_some(state),
        }
    }

    /// An id that was never given before and will never be given again, even if this worker is killed before
    /// it uses it. `None` only if all 2^62 are used up.
    pub fn new_id(&mut self) -> Option<u64> {
        let id = self.memory.load(header::NEXT_ID);
        if id >= MAX_ID {
            return None;
        }
        self.memory.store(header::NEXT_ID, id + 1);
        Some(id)
    }

    /// Makes a FREE slot WAITING; the last store brings it to life.
    pub fn fill(&mut self, slot: u32, id: u64, key: Packed, request: &Request<'_>) {
        self.set_packed(slot, field::KEY, key);
        self.set(slot, field::SESSION, request.session);
        self.set(slot, field::OWNER, request.owner.0);
        self.set_packed(slot, field::TARGET, Packed::socket(&request.target));
        let local = request.local.as_ref().map_or(Packed::NONE, Packed::socket);
        let local = request.mate.map_or(local, Packed::ticket);
        self.set_packed(slot, field::LOCAL, local);
        let texts = Texts {
            mode: request.mode,
            way: request.way,
            tls: request.tls,
            user: self.put_text::<MAX_USER>(slot, field::USER, request.user),
            verb: self.put_text::<MAX_VERB>(slot, field::VERB, request.verb),
            path: self.put_text::<MAX_PATH>(slot, field::PATH, request.path),
            name: self.put_text::<MAX_NAME>(slot, field::NAME, whole::<MAX_NAME>(request.name)),
            kept: request.kept.map_or(0, |kept| kept.slot),
        };
        let kept = request.kept.map_or(0, |kept| kept.id);
        self.set(slot, field::KEPT, kept);
        self.set(slot, field::TEXTS, texts.pack());
        self.set(slot, field::WHEN, request.deadline & !USED);
        self.set(slot, field::STATE, pack_state(id, State::Waiting));
    }

    /// Makes a WAITING slot TAKEN. The owner goes first: a worker killed in between leaves a reservation that
    /// is its own, waiting or not, and dies with it.
    pub fn hand_over(&mut self, slot: u32, id: u64, owner: Owner) {
        self.set(slot, field::OWNER, owner.0);
        self.set(slot, field::STATE, pack_state(id, State::Taken));
    }

    /// Makes a live slot FREE. The time goes first: a worker killed in between leaves a WAITING slot that has
    /// expired, or a TAKEN one, where the time has no meaning.
    pub fn clear(&mut self, slot: u32, now: Msec) {
        let (id, state) = self.id_and_state(slot);
        if state == State::Kept {
            for word in kept::DATA..field::SIZE {
                self.set(slot, word, 0);
            }
        }
        // 0 is "never used".
        let used = if state == State::Taken { USED } else { 0 };
        self.set(slot, field::WHEN, now.max(1) & !USED | used);
        self.set(slot, field::STATE, pack_state(id, State::Free));
    }

    /// Makes a FREE slot KEPT. It lives before the bytes come, so that they will be wiped whatever happens; that they
    /// are complete, the length says.
    pub fn keep(&mut self, slot: u32, id: u64, owner: Owner, next: Option<Ticket>, bytes: &[u8]) {
        // It has no key, and is in no index.
        self.set_packed(slot, field::KEY, Packed::NONE);
        self.set(slot, field::OWNER, owner.0);
        self.set(slot, kept::LENGTH, 0);
        let (link, next_id) = next.map_or((0, 0), |next| (u64::from(next.slot) + 1, next.id));
        self.set(slot, kept::NEXT, link);
        self.set(slot, kept::NEXT_ID, next_id);
        self.set(slot, field::STATE, pack_state(id, State::Kept));
        self.put_kept(slot, bytes);
    }

    /// Stores the bytes of a KEPT slot, and wipes what is behind them.
    pub fn put_kept(&mut self, slot: u32, bytes: &[u8]) {
        let mut chunks = bytes.chunks(8);
        for field in kept::DATA..field::SIZE {
            let mut word = [0; 8];
            for (place, byte) in word.iter_mut().zip(chunks.next().unwrap_or_default()) {
                *place = *byte;
            }
            self.set(slot, field, u64::from_le_bytes(word));
        }
    }

    /// Copies as many bytes of a KEPT slot.
    pub fn copy_kept(&self, slot: u32, bytes: &mut [u8]) {
        for (chunk, field) in bytes.chunks_mut(8).zip(kept::DATA..field::SIZE) {
            let word = self.get(slot, field).to_le_bytes();
            for (place, byte) in chunk.iter_mut().zip(word) {
                *place = byte;
            }
        }
    }

    /// Where a KEPT slot goes on.
    pub fn next_kept(&self, slot: u32) -> Option<Ticket> {
        let link = self.get(slot, kept::NEXT).checked_sub(1)?;
        let id = self.get(slot, kept::NEXT_ID);
        Some(Ticket {
            slot: u32::try_from(link).ok()?,
            id,
        })
    }

    /// Gives a reservation its mate; whoever reads after a kill half-way finds none.
    pub fn join(&mut self, slot: u32, mate: Ticket) {
        let [head, number, id] = Packed::ticket(mate).0;
        self.set(slot, field::LOCAL, 0);
        self.set(slot, field::LOCAL + 1, number);
        self.set(slot, field::LOCAL + 2, id);
        self.set(slot, field::LOCAL, head);
    }

    /// Replaces verb and path; whoever reads after a kill half-way finds both empty.
    pub fn annotate(&mut self, slot: u32, verb: &[u8], path: &[u8]) {
        let mut texts = Texts::unpack(self.get(slot, field::TEXTS));
        (texts.verb, texts.path) = (0, 0);
        self.set(slot, field::TEXTS, texts.pack());
        texts.verb = self.put_text::<MAX_VERB>(slot, field::VERB, verb);
        texts.path = self.put_text::<MAX_PATH>(slot, field::PATH, path);
        self.set(slot, field::TEXTS, texts.pack());
    }

    /// A copy of a live slot; `None` if it is FREE.
    pub fn read(&self, slot: u32) -> Option<Reservation> {
        let (id, state) = self.id_and_state(slot);
        if !matches!(state, State::Waiting | State::Taken) {
            return None;
        }
        let key = self.key(slot);
        let texts = Texts::unpack(self.get(slot, field::TEXTS));
        Some(Reservation {
            ticket: Ticket { slot, id },
            taken: state == State::Taken,
            port: key.port(),
            peer: key.peer()?,
            target: self.get_packed(slot, field::TARGET).to_socket()?,
            local: self.get_packed(slot, field::LOCAL).to_socket(),
            mate: self.get_packed(slot, field::LOCAL).to_ticket(),
            session: self.session(slot),
            mode: texts.mode,
            way: texts.way,
            tls: texts.tls,
            owner: self.owner(slot),
            deadline: self.when(slot),
            user: self.text(slot, field::USER, texts.user),
            verb: self.text(slot, field::VERB, texts.verb),
            path: self.text(slot, field::PATH, texts.path),
            name: self.text(slot, field::NAME, texts.name),
            kept: self.kept_for(slot, texts),
        })
    }

    fn kept_for(&self, slot: u32, texts: Texts) -> Option<Ticket> {
        match self.get(slot, field::KEPT) {
            0 => None,
            id => Some(Ticket {
                slot: texts.kept,
                id,
            }),
        }
    }

    /// The verb of a live slot.
    pub fn verb(&self, slot: u32) -> Verb {
        let texts = Texts::unpack(self.get(slot, field::TEXTS));
        self.text(slot, field::VERB, texts.verb)
    }

    /// What a data connection takes of a live slot.
    pub fn taken(&self, ticket: Ticket) -> Option<Taken> {
        let slot = ticket.slot;
        let texts = Texts::unpack(self.get(slot, field::TEXTS));
        Some(Taken {
            ticket,
            port: self.key(slot).port(),
            way: texts.way,
            deadline: self.when(slot),
            target: self.get_packed(slot, field::TARGET).to_socket()?,
            local: self.get_packed(slot, field::LOCAL).to_socket(),
            session: self.session(slot),
            tls: texts.tls,
            kept: self.kept_for(slot, texts),
        })
    }

    /// Stores the first `MAX` bytes and says how many those are; touches no more words than they need.
    fn put_text<const MAX: usize>(&mut self, slot: u32, field: usize, text: &[u8]) -> usize {
        let text = text.get(..MAX).unwrap_or(text);
        for (at, chunk) in text.chunks(8).enumerate() {
            let mut word = [0; 8];
            for (place, byte) in word.iter_mut().zip(chunk) {
                *place = *byte;
            }
            self.set(slot, field + at, u64::from_le_bytes(word));
        }
        text.len()
    }

    fn text<const MAX: usize>(&self, slot: u32, field: usize, length: usize) -> Text<MAX> {
        let words = (0..length.div_ceil(8)).map(|at| self.get(slot, field + at));
        Text::collect(words.flat_map(u64::to_le_bytes).take(length))
    }
}
