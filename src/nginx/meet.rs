//! A client in passive mode before a server in active mode: both connect, each to a port of its own, maybe to different
//! workers. Whoever comes first waits in the preaccess phase. Then the server's socket goes to the worker that has the
//! client's connection, where it becomes the stock proxy's ready peer, and the session that it came with ends.
//!
//! ```text
//! client first   waits;  server: sends its socket to the client's worker, ends
//! server first   waits;  client: waits, and wakes the server's worker; server: as above
//! ```
//!
//! Which one is first, the table tells, under its lock: a reservation's mate is taken or not, and by which worker. A
//! worker has a door, a datagram socket with an abstract name made of what tells it from all other processes. A filter
//! lets in what begins with a password of this nginx's processes: the kernel drops anything else on the sender's side. A
//! stranger's descriptor would be ours to close, and closing can block: SO_LINGER, FUSE.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::{io, mem, ptr};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN,
    CMSG_NXTHDR, CMSG_SPACE, SCM_CREDENTIALS, SCM_RIGHTS, SO_ATTACH_FILTER, SOL_SOCKET, iovec,
    msghdr, sock_filter, sock_fprog, sockaddr_un, socklen_t, ucred,
};
use nginx_sys::{
    NGX_DONE, NGX_LOG_ALERT, NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, NGX_STREAM_BAD_GATEWAY,
    ngx_add_timer, ngx_close_connection, ngx_connection_t, ngx_cycle, ngx_del_timer, ngx_event_t,
    ngx_get_connection, ngx_handle_read_event, ngx_int_t, ngx_log_t, ngx_stream_core_run_phases,
    ngx_stream_finalize_session, ngx_stream_session_handler, ngx_stream_session_t, ngx_uint_t,
};
use ngx::ngx_log_error;

use super::active::{self, Other, act};
use super::context;
use super::guard::guarded;
use super::socket;
use super::zone::{self, Zone};
use crate::ports::{Msec, Owner, Reservation, Taken, Ticket, Way};

/// A session that waits, among those of all workers and zones: its number, which nobody can guess, and its ticket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    session: u64,
    ticket: Ticket,
}

impl Key {
    /// That of a reservation.
    fn own(taken: &Taken) -> Self {
        Self {
            session: taken.session,
            ticket: taken.ticket,
        }
    }

    fn of(reservation: &Reservation) -> Self {
        Self {
            session: reservation.session,
            ticket: reservation.ticket,
        }
    }
}

thread_local! {
    /// Who waits in this worker.
    static WAITING: RefCell<HashMap<Key, *mut ngx_stream_session_t>> = RefCell::default();
}

/// Milliseconds until a full door is tried again.
const AGAIN: Msec = 20;

/// What became of an attempt to meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The mate is not there yet, or knows and does the rest; or its door is full, and is tried again.
    Waiting,
    /// The server's socket is with the client's worker, and this connection's is out of the event loop.
    Gone,
    /// The mate does not come any more, or is out of reach, which is logged.
    Lost,
}

/// How a look for the mate went, where nothing failed.
enum Seen {
    /// It is not there yet.
    NotYet,
    /// It knows, and does the rest.
    Woken,
    /// It has got the socket.
    Given,
    /// It will not come; or its socket is on the way already.
    Over,
}

/// The session begins to wait. False where it cannot.
///
/// # Safety
///
/// `s` is in the preaccess phase, with a reservation that has been taken, and the door is open.
pub unsafe fn wait(s: *mut ngx_stream_session_t, reservation: &Taken) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        WAITING.with_borrow_mut(|waiting| waiting.insert(Key::own(reservation), s));
        act(
            c,
            match reservation.way {
                Way::FromClient => c"waiting for server",
                _ => c"waiting for client",
            },
        );
        (*(*c).read).handler = Some(on_read);
        (*(*c).write).handler = Some(on_timer);
        ngx_handle_read_event((*c).read, 0) == NGX_OK as ngx_int_t
    }
}

/// The session waits no more, if it ever did.
pub fn forget(own: &Taken) {
    if !matches!(own.way, Way::FromClient | Way::FromServer) {
        return;
    }
    WAITING.with_borrow_mut(|waiting| waiting.remove(&Key::own(own)));
}

/// Looks for the mate of a session that waits. It may be told the same twice before it gives up: `over` says that it
/// was told once.
///
/// # Safety
///
/// `c` is the session's connection.
pub unsafe fn attempt(c: *mut ngx_connection_t, zone: &Zone, own: &Taken, over: &mut bool) -> Met {
    // SAFETY: the caller's promise.
    unsafe {
        let left = own.deadline.saturating_sub(zone::now());
        let wait = match look((*c).fd, zone, own) {
            Ok(Seen::NotYet | Seen::Woken) => left,
            Ok(Seen::Given) => {
                // It lives on elsewhere: closing it here does not take it out of the kernel's list.
                active::detach(c);
                return Met::Gone;
            }
            Ok(Seen::Over) if *over => return Met::Lost,
            Ok(Seen::Over) => {
                // By then the door has been looked at, too.
                *over = true;
                AGAIN.min(left)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => AGAIN.min(left),
            Err(error) => {
                let log = (*c).log;
                ngx_log_error!(NGX_LOG_ERR, log, "another worker is out of reach: {error}");
                return Met::Lost;
            }
        };
        ngx_add_timer((*c).write, wait.max(1) as _);
        Met::Waiting
    }
}

fn look(fd: RawFd, zone: &Zone, own: &Taken) -> io::Result<Seen> {
    // The mate may have become one, or have come, since the reservation was taken.
    let found = zone.with(|table| {
        let mate = table.read(own.ticket)?.mate?;
        Some(table.read(mate))
    });
    let mate = match found.flatten() {
        None => return Ok(Seen::NotYet),
        Some(None) => return Ok(Seen::Over),
        Some(Some(mate)) => mate,
    };
    if !mate.taken {
        return Ok(Seen::NotYet);
    }
    if zone::is_dead(mate.owner) {
        // Its name may be somebody else's by now.
        return Ok(Seen::Over);
    }
    if own.way == Way::FromClient {
        send(mate.owner, Key::of(&mate), None)?;
        return Ok(Seen::Woken);
    }
    send(mate.owner, Key::of(&mate), Some(fd))?;
    Ok(Seen::Given)
}

/// A control session does not want what it has reserved for both, one of which has come: that one looks again, if it
/// still waits.
pub fn wake(reservation: &Reservation) {
    // SAFETY: this is a worker. What cannot be told is seen when the time is up.
    if unsafe { open_door() } && !zone::is_dead(reservation.owner) {
        let _ = send(reservation.owner, Key::of(reservation), None);
    }
}

/// Bytes, FIN or a reset of whoever waits. The former two wait with it: a file may be empty.
unsafe extern "C" fn on_read(event: *mut ngx_event_t) {
    // SAFETY: the event of a session's connection.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let gone = socket::is_reset(c);
        if gone {
            ngx_log_error!(NGX_LOG_INFO, (*c).log, "ftp data connection was reset");
        }
        if gone || (*c).close() == 1 || ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
        }
    }
}

/// The time is up, or a full door is tried again.
unsafe extern "C" fn on_timer(event: *mut ngx_event_t) {
    // SAFETY: the event of a session's connection.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        if (*event).timedout() == 1 {
            (*event).set_timedout(0);
            again((*c).data.cast());
        }
    }
}

/// Looks for the mate once more, if there is time left.
unsafe fn again(s: *mut ngx_stream_session_t) {
    // SAFETY: the session waits; what refers to its state has ended when nginx ends it.
    unsafe {
        let log = (*(*s).connection).log;
        let failed = NGX_STREAM_BAD_GATEWAY as ngx_int_t;
        let rc = guarded(log, failed, || {
            context::data(s).map_or(failed, |data| data.meet())
        });
        if rc != NGX_DONE as ngx_int_t {
            ngx_stream_finalize_session(s, rc as ngx_uint_t);
        }
    }
}

// --- doors ---

thread_local! {
    /// This worker's.
    static DOOR: Cell<Option<RawFd>> = const { Cell::new(None) };
}

/// The words of a message: the password, and whom it is for. A socket comes with it, or it only wakes.
type Words = [u64; 5];

/// What a message begins with: drawn before the first worker is forked, the same in all of them.
static PASSWORD: OnceLock<[u64; 2]> = OnceLock::new();

/// What makes names that nobody can know, and take, before their workers do; drawn as the password is.
static NAMES: OnceLock<RandomState> = OnceLock::new();

/// Draws the password, once. For the master.
pub fn agree_on_password(log: *mut ngx_log_t) {
    NAMES.get_or_init(RandomState::new);
    PASSWORD.get_or_init(|| [zone::random(log), zone::random(log)]);
}

/// Drops at the door what does not begin with the password, while it is still the sender's.
unsafe fn lock_door(door: RawFd) -> io::Result<()> {
    const LOAD_WORD: u16 = (BPF_LD | BPF_W | BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
    const RETURN: u16 = (BPF_RET | BPF_K) as u16;
    let Some(password) = PASSWORD.get() else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let step = |code, unequal, k| sock_filter {
        code,
        jt: 0,
        jf: unequal,
        k,
    };
    let mut steps = Vec::with_capacity(10);
    for (at, word) in password.iter().enumerate() {
        // The filter reads in network order what is sent in ours.
        let word = u64::from_be_bytes(word.to_ne_bytes());
        for (half, k) in [(0, (word >> 32) as u32), (4, word as u32)] {
            let place = at as u32 * 8 + half;
            steps.push(step(LOAD_WORD, 0, place));
            // The last step refuses; the filter has ten.
            steps.push(step(JUMP_IF_EQUAL, 7 - place as u8 / 2, k));
        }
    }
    steps.push(step(RETURN, 0, u32::MAX));
    steps.push(step(RETURN, 0, 0));
    let program = sock_fprog {
        len: steps.len() as _,
        filter: steps.as_mut_ptr(),
    };
    let (place, size) = ((&raw const program).cast(), size_of::<sock_fprog>());
    // SAFETY: an open socket; the kernel copies the program.
    match unsafe { libc::setsockopt(door, SOL_SOCKET, SO_ATTACH_FILTER, place, size as _) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As large as what comes along: a socket, and who sends it.
const CONTROL: usize = 128;

/// An abstract name: nobody else has the same pid and start, nor can foresee the rest.
fn name(owner: Owner) -> (sockaddr_un, socklen_t) {
    // SAFETY: zeroes are an address.
    let mut address: sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    let secret = NAMES.get().map_or(0, |names| names.hash_one(owner.0));
    let text = format!("\0ngx_stream_ftp_proxy.{:016x}.{secret:016x}", owner.0);
    for (place, byte) in address.sun_path.iter_mut().zip(text.bytes()) {
        *place = byte as _;
    }
    let length = mem::offset_of!(sockaddr_un, sun_path) + text.len();
    (address, length as socklen_t)
}

/// Opens this worker's door, once. False where there can be none.
///
/// # Safety
///
/// Called in a worker.
pub unsafe fn open_door() -> bool {
    if DOOR.get().is_some() {
        return true;
    }
    // SAFETY: the cycle of a worker that serves connections; the socket is open, options and addresses have the sizes
    // that are told.
    unsafe {
        let log = (*ngx_cycle).log;
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_UNIX, kind, 0);
        let (address, length) = name(zone::this_worker());
        let on: i32 = 1;
        let bound = fd >= 0
            && libc::setsockopt(fd, SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4) == 0
            && lock_door(fd).is_ok()
            && libc::bind(fd, (&raw const address).cast(), length) == 0;
        if !bound {
            let error = io::Error::last_os_error();
            ngx_log_error!(NGX_LOG_ALERT, log, "no way between workers: {error}");
        }
        let c = match bound {
            true => ngx_get_connection(fd, log),
            false => ptr::null_mut(),
        };
        if c.is_null() {
            if fd >= 0 {
                libc::close(fd);
            }
            return false;
        }
        (*(*c).read).handler = Some(on_message);
        (*(*c).read).log = log;
        (*(*c).write).log = log;
        // A worker that ends does not mind that it is open.
        (*(*c).read).set_channel(1);
        if ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
            ngx_close_connection(c);
            return false;
        }
        DOOR.set(Some(fd));
        true
    }
}

/// Sends a message to the worker's door, maybe our own, with a socket or to wake.
fn send(to: Owner, key: Key, fd: Option<RawFd>) -> io::Result<()> {
    let Some(door) = DOOR.get() else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let Some([first, second]) = PASSWORD.get() else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let [slot, id] = key.ticket.to_words();
    let mut words: Words = [*first, *second, key.session, slot, id];
    let (mut address, length) = name(to);
    let mut bytes = iovec {
        iov_base: (&raw mut words).cast(),
        iov_len: size_of::<Words>(),
    };
    let mut control = [0u64; CONTROL / 8];
    // SAFETY: the message and what it points to live during the call; the macros stay within `control`.
    unsafe {
        let mut message: msghdr = mem::zeroed();
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = length;
        message.msg_iov = &raw mut bytes;
        message.msg_iovlen = 1;
        if let Some(fd) = fd {
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = CMSG_SPACE(size_of::<RawFd>() as _) as _;
            let header = CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = SOL_SOCKET;
            (*header).cmsg_type = SCM_RIGHTS;
            (*header).cmsg_len = CMSG_LEN(size_of::<RawFd>() as _) as _;
            CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        }
        match libc::sendmsg(door, &raw const message, libc::MSG_NOSIGNAL) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Somebody is at the door.
unsafe extern "C" fn on_message(event: *mut ngx_event_t) {
    // SAFETY: the event of the door's connection.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let log = (*c).log;
        while let Some((key, fd)) = guarded(log, None, || receive((*c).fd)) {
            let s = WAITING.with_borrow(|waiting| waiting.get(&key).copied());
            match (s, fd) {
                (Some(s), Some(fd)) => join(s, fd),
                (Some(s), None) => again(s),
                // It is gone. So is, with this, a socket: reset, as it has been set to.
                (None, _) => {}
            }
        }
        (*event).set_ready(0);
        if ngx_handle_read_event(event, 0) != NGX_OK as ngx_int_t {
            ngx_log_error!(NGX_LOG_ALERT, log, "no way between workers any more");
        }
    }
}

/// The server's socket has come to the client's session, which goes on.
unsafe fn join(s: *mut ngx_stream_session_t, fd: OwnedFd) {
    // SAFETY: the session waits; what refers to its state has ended when nginx goes on with it.
    unsafe {
        let c = (*s).connection;
        let joined = guarded((*c).log, false, || {
            let server = Other::of_socket(s, fd);
            match (context::data(s), server) {
                (Some(data), Some(server)) => data.join(server),
                _ => false,
            }
        });
        if !joined {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
            return;
        }
        if (*(*c).write).timer_set() == 1 {
            ngx_del_timer((*c).write);
        }
        act(c, c"initializing session");
        (*(*c).read).handler = Some(ngx_stream_session_handler);
        (*(*c).write).handler = Some(active::ignore);
        ngx_stream_core_run_phases(s);
    }
}

/// The next message of a process of our own user's; `None` where there is none. All others are dropped.
unsafe fn receive(door: RawFd) -> Option<(Key, Option<OwnedFd>)> {
    loop {
        let mut words: Words = [0; 5];
        let mut bytes = iovec {
            iov_base: (&raw mut words).cast(),
            iov_len: size_of::<Words>(),
        };
        let mut control = [0u64; CONTROL / 8];
        // SAFETY: the message and what it points to live during the call; descriptors that have come are ours.
        unsafe {
            let mut message: msghdr = mem::zeroed();
            message.msg_iov = &raw mut bytes;
            message.msg_iovlen = 1;
            message.msg_control = (&raw mut control).cast();
            message.msg_controllen = CONTROL as _;
            let got = libc::recvmsg(door, &raw mut message, libc::MSG_CMSG_CLOEXEC);
            if got < 0 {
                return None;
            }
            let (friend, mut sockets) = attached(&message);
            if friend && message.msg_flags & libc::MSG_CTRUNC != 0 {
                // The kernel has closed it, which is a reset.
                let what = "another worker's socket is lost: no descriptor for it";
                ngx_log_error!(NGX_LOG_ERR, (*ngx_cycle).log, "{what}");
            }
            let [_, _, session, slot, id] = words;
            let ticket = Ticket::from_words([slot, id]);
            if let (true, Some(ticket)) = (friend && got as usize == size_of::<Words>(), ticket) {
                return Some((Key { session, ticket }, sockets.pop()));
            }
        }
    }
}

/// Whether the sender is of our own user's, and the sockets that have come.
unsafe fn attached(message: &msghdr) -> (bool, Vec<OwnedFd>) {
    let mut friend = false;
    let mut sockets = Vec::new();
    // SAFETY: the kernel has filled the message; the macros stay within it.
    unsafe {
        let mut header = CMSG_FIRSTHDR(message);
        while let Some(part) = header.as_ref() {
            let data = CMSG_DATA(header);
            match (part.cmsg_level, part.cmsg_type) {
                (SOL_SOCKET, SCM_CREDENTIALS) => {
                    let sender = data.cast::<ucred>().read_unaligned();
                    friend = sender.uid == libc::geteuid();
                }
                (SOL_SOCKET, SCM_RIGHTS) => {
                    let length = part.cmsg_len.saturating_sub(CMSG_LEN(0) as _);
                    for place in 0..length / size_of::<RawFd>() {
                        let fd = data.cast::<RawFd>().add(place).read_unaligned();
                        sockets.push(OwnedFd::from_raw_fd(fd));
                    }
                }
                _ => {}
            }
            header = CMSG_NXTHDR(message, header);
        }
    }
    (friend, sockets)
}
