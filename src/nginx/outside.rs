//! What the session machine of a control connection acts on: the two connections, the zone, the log.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ptr;

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_ERROR, NGX_LOG_ERR, NGX_LOG_INFO, ngx_buf_t, ngx_connection_t, ngx_handle_write_event,
    ngx_int_t, ngx_log_t, ngx_stream_session_t, ngx_stream_upstream_t,
};

use super::conf::SrvConf;
use super::context;
use super::data;
use super::dialled::{self, Dial};
use super::hold::Hold;
use super::input::HELD;
use super::meet;
use super::output::Output;
use super::reserve::GivenBack;
use super::resume::Resumable;
use super::zone::{self, Zone};
use crate::ftp::HostPort;
use crate::ftp::command::Transfer;
use crate::ports::{Host, Reserved, Ticket};
use crate::session::{Actions, Announced, Asked, Mode, Note, Passive, Unavailable, Word};

/// Data connections of one session that are looked after at the same time; more are only a client's
/// that asks for ports and lets the transfers run on.
const MAX_TAKEN: usize = 4;

/// What the machine acts on.
pub struct Outside {
    /// The nginx session.
    pub s: *mut ngx_stream_session_t,
    /// The number that the session shares with its data connections.
    pub id: u64,
    /// Replies.
    pub to_client: Output,
    /// Commands.
    pub to_server: Output,
    /// The reservation that a data connection may take, or has taken.
    pub current: Option<Reserved>,
    /// Where both connect, what is reserved for the server; `current` is the client's.
    pub from_server: Option<Reserved>,
    /// The last port that was reserved, of the client's leg or the server's.
    pub port: Option<u16>,
    /// What `proxy_ip` has yielded: it is evaluated in memory that lives as long as the session.
    pub proxy_ip: Option<Ipv4Addr>,
    /// The same for `server_ip`.
    pub server_ip: Option<IpAddr>,
    /// Where the client of a data connection listens that the proxy will begin, and where the connection to it comes
    /// from.
    pub dial: Option<Box<(SocketAddr, Option<SocketAddr>)>>,
    /// What the server says of a transfer is held.
    pub hold: Option<Hold>,
    /// How the last data port was asked for.
    pub mode: Option<Mode>,
    /// Earlier reservations whose data connection may still be open.
    pub earlier: VecDeque<Ticket>,
    /// Both connections are to be closed.
    pub closing: bool,
    /// TLS sessions with the client are this control session's own, see [`super::tls`].
    pub own_tls_context: bool,
    /// The client's last TLS session is one that a data port has brought.
    pub ticket_given: bool,
    /// The TLS session with the server, for data connections.
    pub resumable: Resumable,
    /// A handshake with the client begins when everything before it has been sent.
    pub start_tls: bool,
    /// The server that the client dialled, of a transparent control server.
    pub destination: Option<Box<SocketAddr>>,
    /// The proxy puts a PROXY protocol header before the client's first bytes.
    pub proxy_protocol: bool,
}

/// The session ends: nginx closes both connections.
pub struct Ended;

fn ok(rc: ngx_int_t) -> Result<(), Ended> {
    match rc == NGX_ERROR as ngx_int_t {
        true => Err(Ended),
        false => Ok(()),
    }
}

impl Outside {
    /// The connection's log.
    pub fn log(&self) -> *mut ngx_log_t {
        // SAFETY: the session outlives its state.
        unsafe { (*(*self.s).connection).log }
    }

    /// The configuration of the session's server.
    pub fn conf(&self) -> &'static SrvConf {
        // SAFETY: the session is alive.
        unsafe { context::conf(self.s) }
    }

    /// Whether one of the two sides does not read what is made for it.
    pub fn is_full(&self) -> bool {
        self.to_client.is_full() || self.to_server.is_full()
    }

    /// What the proxy keeps of the session; null before the content phase.
    ///
    /// # Safety
    ///
    /// The session is alive.
    pub unsafe fn upstream(&self) -> *mut ngx_stream_upstream_t {
        // SAFETY: the session is alive.
        unsafe { (*self.s).upstream }
    }

    /// The connection to the server; null before it is there.
    ///
    /// # Safety
    ///
    /// The session is alive.
    pub unsafe fn upstream_connection(&self) -> *mut ngx_connection_t {
        // SAFETY: null, or the proxy's.
        unsafe {
            let upstream = self.upstream();
            match upstream.is_null() {
                true => ptr::null_mut(),
                false => (*upstream).peer.connection,
            }
        }
    }

    /// Whether the buffer has bytes that the client sent: read by the proxy, or prereads.
    pub unsafe fn is_of_client(&self, buf: *const ngx_buf_t) -> bool {
        let within = |of: *const ngx_buf_t| {
            // SAFETY: null, or a buffer that lives as long as the session.
            unsafe { !of.is_null() && (*buf).pos >= (*of).start && (*buf).pos < (*of).end }
        };
        // SAFETY: the upstream is connected.
        unsafe {
            !self.proxy_protocol
                || within(&raw const (*self.upstream()).downstream_buf)
                || within((*(*self.s).connection).buffer)
        }
    }

    /// Sends what was replied.
    ///
    /// # Safety
    ///
    /// The session is alive.
    pub unsafe fn send_to_client(&mut self, last: bool) -> Result<(), Ended> {
        // SAFETY: the session is alive.
        unsafe {
            let c = (*self.s).connection;
            ok(self.to_client.send(self.s, c, last))?;
            // A reply of our own may be sent while the proxy waits for something else.
            match (*c).buffered() & !HELD {
                0 => Ok(()),
                _ => ok(ngx_handle_write_event((*c).write, 0)),
            }
        }
    }

    /// Sends what was forwarded.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn send_to_server(&mut self, last: bool) -> Result<(), Ended> {
        // SAFETY: the session is alive and its upstream connected.
        unsafe {
            let pc = self.upstream_connection();
            ok(self.to_server.send(self.s, pc, last))?;
            match pc.as_ref() {
                Some(open) if open.buffered() & !HELD != 0 => {
                    ok(ngx_handle_write_event((*pc).write, 0))
                }
                _ => Ok(()),
            }
        }
    }

    /// An error if the machine has asked for the end.
    pub fn close_if_asked(&mut self) -> Result<(), Ended> {
        match self.closing {
            true => Err(self.drain_client()),
            false => Ok(()),
        }
    }

    /// Shuts the client's connection down and reads what it has sent.
    #[cold]
    fn drain_client(&mut self) -> Ended {
        // Unread bytes make the kernel send a reset, which may overtake our last reply.
        let mut scrap = [0u8; 4096];
        // SAFETY: the socket is open and does not block; the buffer has the length that is told.
        unsafe {
            let c = (*self.s).connection;
            if !(*c).ssl.is_null() || (*c).buffered() & !HELD != 0 {
                return Ended;
            }
            let fd = (*c).fd;
            libc::shutdown(fd, libc::SHUT_WR);
            for _ in 0..16 {
                if libc::recv(fd, scrap.as_mut_ptr().cast(), scrap.len(), 0) <= 0 {
                    break;
                }
            }
        }
        Ended
    }

    /// The zone of its server.
    pub fn zone(&self) -> Option<&'static Zone> {
        self.conf().zone()
    }

    /// Whether a data connection of this session is open.
    pub fn has_taken(&mut self) -> bool {
        let Some(zone) = self.zone() else {
            return false;
        };
        let current = self.current.map(|reserved| reserved.ticket);
        let tickets = self.earlier.iter().copied().chain(current);
        zone.with(|table| tickets.into_iter().any(|ticket| table.is_taken(ticket)))
            .unwrap_or(false)
    }
}

impl Outside {
    /// What is reserved, for one data connection; it is not any more.
    pub fn take_all(&mut self) -> [Option<Reserved>; 2] {
        [self.current.take(), self.from_server.take()]
    }

    /// Logs, or remembers, what became of what was reserved for one data connection.
    pub fn note_given_back(&mut self, given_back: [Option<GivenBack>; 2]) {
        let both = given_back.iter().all(Option::is_some);
        for given_back in given_back.into_iter().flatten() {
            match given_back {
                GivenBack::Released(port) => {
                    ngx_log_error!(NGX_LOG_INFO, self.log(), "ftp released port {port}");
                }
                GivenBack::Taken(ticket) => {
                    if both {
                        self.wake(ticket);
                    }
                    if self.earlier.len() == MAX_TAKEN {
                        self.earlier.pop_front();
                    }
                    self.earlier.push_back(ticket);
                }
                GivenBack::Gone => {}
            }
        }
    }

    /// A data connection that may be waiting for another one is not to wait in vain.
    fn wake(&self, ticket: Ticket) {
        let found = self
            .zone()
            .and_then(|zone| zone.with(|table| table.read(ticket)));
        if let Some(reservation) = found.flatten() {
            meet::wake(&reservation);
        }
    }
}

impl Outside {
    /// Begins the data connection that [`Actions::reserve_dialled`] has reserved. `None` where that cannot be, for which
    /// there is a line in the log.
    unsafe fn begin_data(&mut self) -> Option<()> {
        let (zone, reserved) = (self.zone()?, self.current?);
        let (client, source) = *self.dial.take()?;
        let (now, owner) = (zone::now(), zone::this_worker());
        let host = Host::from_socket(&client);
        let taken = zone.with(|table| table.take(now, reserved.ticket, reserved.port, host, owner));
        let Some(reservation) = taken.flatten() else {
            let port = reserved.port;
            ngx_log_error!(
                NGX_LOG_INFO,
                self.log(),
                "ftp refused port {port}: not reserved"
            );
            return None;
        };
        data::log_match(self.log(), &reservation);
        let dial = Dial {
            server: zone.data_server,
            reservation,
            client,
            source,
        };
        // SAFETY: the session is alive, its connection open.
        let begun = unsafe { dialled::begin(self.s, &dial) };
        if begun.is_none() {
            zone.with(|table| table.finish(now, reserved.ticket));
        }
        begun
    }
}

impl Actions for Outside {
    fn forward(&mut self, bytes: &[u8]) {
        self.to_server.push(bytes);
    }

    fn reply(&mut self, bytes: &[u8]) {
        self.to_client.push(bytes);
    }

    fn reserve(&mut self, passive: Passive<'_>) -> Result<HostPort, Unavailable> {
        self.mode = Some(passive.mode);
        // SAFETY: replies come from a connected upstream.
        let reserved = unsafe { self.reserve_passive(&passive) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn reserve_active(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
    ) -> Result<SocketAddr, Unavailable> {
        self.mode = Some(asked.mode);
        // SAFETY: the machine waits for the server's greeting, so the upstream is connected.
        let reserved = unsafe { self.reserve_for_active(&asked, address.port()) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn reserve_dialled(
        &mut self,
        asked: Asked<'_>,
        address: SocketAddr,
        server: Announced,
    ) -> Result<(), Unavailable> {
        self.mode = Some(asked.mode);
        // SAFETY: as above.
        let reserved = unsafe { self.reserve_for_neither(&asked, address.port(), server) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn dial(&mut self) -> Result<(), Unavailable> {
        // SAFETY: the session is alive, and of the cycle that its zone is of.
        unsafe { self.begin_data() }.ok_or(Unavailable)
    }

    fn is_on_its_way(&mut self, word: Word) -> bool {
        self.looks_for_data(word)
    }

    fn reserve_for_server(&mut self, asked: Asked<'_>) -> Result<SocketAddr, Unavailable> {
        self.mode = Some(asked.mode);
        // SAFETY: as above.
        let reserved = unsafe { self.reserve_from_server(&asked) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn reserve_for_client(&mut self, asked: Asked<'_>) -> Result<HostPort, Unavailable> {
        // SAFETY: as above.
        let reserved = unsafe { self.reserve_from_client(&asked) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn release(&mut self) {
        self.dial = None;
        let Some(zone) = self.zone() else {
            return;
        };
        let all = self.take_all();
        let given_back = zone.with(|table| {
            all.map(|reserved| reserved.map(|reserved| GivenBack::to(table, reserved.ticket)))
        });
        if let Some(given_back) = given_back {
            self.note_given_back(given_back);
        }
    }

    fn annotate(&mut self, transfer: Transfer<'_>) {
        #[cfg(feature = "panic-test")]
        if let (b"panic", Some(zone)) = (transfer.path, self.zone()) {
            zone.with(|_| std::panic::panic_any("asked for by a test"));
        }
        if let (Some(zone), Some(reserved)) = (self.zone(), self.current) {
            let verb = transfer.verb.as_bytes();
            zone.with(|table| table.annotate(reserved.ticket, verb, transfer.path));
        }
    }

    fn note(&mut self, note: Note) {
        let level = match note.is_of_client() {
            true => NGX_LOG_INFO,
            false => NGX_LOG_ERR,
        };
        ngx_log_error!(level, self.log(), "{note}");
    }

    fn start_tls(&mut self) {
        self.start_tls = true;
    }

    fn close(&mut self) {
        self.closing = true;
    }
}
