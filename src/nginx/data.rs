//! A data connection, from the accepted socket to its end.
//!
//! ```text
//! PREACCESS  begin    is (port, peer) reserved? a stranger is reset
//!                     active mode: take the reservation, see `active`
//! PREREAD    preread  take the reservation: one connection, once
//! CONTENT    stock proxy, whose peer is in `peer`; at its end both sockets are still open: `ending`
//! LOG        end      the client gets FIN or reset; the reservation is given back
//! ```
//!
//! It looks at no byte of the transfer.

mod ending;
mod peer;

pub use ending::Ending;
pub use peer::init_upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::ptr;

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_DECLINED, NGX_DONE, NGX_ERROR, NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, NGX_STREAM_BAD_GATEWAY,
    NGX_STREAM_FORBIDDEN, NGX_STREAM_OK, SSL_SESSION, ngx_addr_t,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_SET as NODELAY_SET,
    ngx_connection_tcp_nodelay_e_NGX_TCP_NODELAY_UNSET as NODELAY_UNSET, ngx_int_t, ngx_log_t,
    ngx_post_event, ngx_posted_events, ngx_stream_session_t,
};

use super::active::{self, Other};
use super::address;
use super::conf::SrvConf;
use super::context::{self, Context};
use super::early::{self, Early};
use super::guard::guarded;
use super::hello::Hello;
use super::meet::{self, Met};
use super::socket::{self, set_reset_at_close};
use super::stock;
use super::tls::{self, Handshake};
use super::zone::{self, Zone};
use crate::ports::{Host, Reservation, Taken, Ticket, Verb, Way};

/// The state of a data connection.
pub struct Data {
    s: *mut ngx_stream_session_t,
    port: u16,
    /// Who has connected.
    peer: Host,
    found: Option<Ticket>,
    taken: Option<Taken>,
    /// In active mode the other leg, until the stock proxy has it.
    other: Option<Other>,
    /// The client is being dialled, and phases wait.
    waits: bool,
    /// The mate will not come.
    alone: bool,
    /// The client was dialled in vain: the server is only to see a reset.
    doomed: bool,
    /// The client's leg begins with a handshake.
    tls: bool,
    handshake: Option<Handshake>,
    /// The client's handshake has been begun.
    shaken: bool,
    /// Our own hello to the server has to wait.
    hello: Option<Box<Hello>>,
    /// The server was seen connected while it waited.
    was_connected: bool,
    /// The client's handshake is not to be had, or not as it must be.
    unsafe_client: bool,
    /// The TLS session that the server may resume, to know another one; it is not followed.
    resumed: *mut SSL_SESSION,
    /// The client has sent close_notify.
    notified: bool,
    early: Early,
    /// The reservation's target, for nginx.
    target: *mut ngx_addr_t,
    ending: Ending,
}

impl Data {
    /// The nginx session.
    pub fn session(&self) -> *mut ngx_stream_session_t {
        self.s
    }

    /// The port that the connection came to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How it ended, or would if it did now.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// The reservation as the control session has described it by now.
    pub fn reservation(&self) -> Option<Reservation> {
        let ticket = self.taken?.ticket;
        self.zone()?.with(|table| table.read(ticket))?
    }

    /// The session's last transfer command, empty before.
    fn verb(&self) -> Option<Verb> {
        let ticket = self.taken?.ticket;
        self.zone()?.with(|table| table.verb(ticket))?
    }

    /// Whether the transfer command is known by now, or will not be, for there is no reservation.
    pub fn is_named(&self) -> bool {
        self.verb().is_none_or(|verb| !verb.as_bytes().is_empty())
    }

    /// For the end of what the client sends.
    pub fn early(&mut self) -> &mut Early {
        &mut self.early
    }

    /// The control session whose TLS session the client has to resume.
    pub fn tls_context(&self) -> Option<u64> {
        let taken = self.taken.filter(|taken| taken.tls.resumed)?;
        Some(taken.session)
    }

    /// What keeps the proxy's hello back.
    pub fn hello(&mut self) -> Option<&mut Hello> {
        self.hello.as_deref_mut()
    }

    /// The proxy's hello waits no more.
    pub fn release_hello(&mut self, was_connected: bool) {
        self.was_connected = was_connected;
        self.hello = None;
    }

    /// The client's handshake is under way.
    pub fn is_shaking(&self) -> bool {
        self.handshake.is_some()
    }

    /// Begins the client's handshake, if there is to be one and has not been.
    ///
    /// # Safety
    ///
    /// The session is proxied.
    pub unsafe fn begin_handshake(&mut self) {
        if self.tls && !self.shaken && !self.doomed {
            self.shaken = true;
            // SAFETY: the caller's promise; nothing has been sent to the client yet.
            self.handshake = Some(unsafe { tls::begin(self.s) });
        }
    }

    /// The client's handshake is over; the server's bytes may come.
    ///
    /// # Safety
    ///
    /// The client's connection is open.
    pub unsafe fn end_handshake(&mut self, fine: bool) -> Option<Handshake> {
        self.unsafe_client = !fine;
        // SAFETY: the caller's promise.
        unsafe {
            tls::note_close((*self.s).connection, &raw mut self.notified);
            if fine {
                early::watch(self.s, &mut self.early);
            }
            let upstream = (*self.s).upstream;
            let pc = (*upstream).peer.connection;
            if !pc.is_null() && (*upstream).connected() == 1 {
                tls::hold(pc, false);
                ngx_post_event((*pc).read, &raw mut ngx_posted_events);
            }
        }
        self.handshake.take()
    }

    /// A session that the proxy begins, on a connection to the client that is being made, or has failed.
    pub fn begun(s: *mut ngx_stream_session_t, taken: Taken, failed: bool) -> Self {
        // SAFETY: the session is alive.
        let client = unsafe { address::read((*(*s).connection).sockaddr) };
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut data = Self::new(s, taken.port, Host::from_socket(&client.unwrap_or(nowhere)));
        data.receive(taken);
        data.waits = !failed;
        data.doomed = failed;
        // SAFETY: as above.
        unsafe { data.mark_doomed() };
        data
    }

    fn new(s: *mut ngx_stream_session_t, port: u16, peer: Host) -> Self {
        Self {
            s,
            port,
            peer,
            found: None,
            taken: None,
            other: None,
            waits: false,
            alone: false,
            doomed: false,
            tls: false,
            handshake: None,
            shaken: false,
            hello: None,
            was_connected: false,
            unsafe_client: false,
            resumed: ptr::null_mut(),
            notified: false,
            early: Early::default(),
            target: ptr::null_mut(),
            ending: Ending::Refused,
        }
    }

    /// The client has answered, or has not: phases may go on.
    ///
    /// # Safety
    ///
    /// The session's connection is open.
    pub unsafe fn answered(&mut self, fine: bool) {
        self.waits = false;
        self.doomed = !fine;
        if fine {
            self.reach();
        }
        // SAFETY: the caller's promise.
        unsafe { self.mark_doomed() };
    }

    /// The client is connected, as its control connection may want to know; see `hold`.
    fn reach(&self) {
        if let (Some(zone), Some(taken)) = (self.zone(), self.taken) {
            zone.with(|table| table.reach(taken.ticket));
        }
    }

    unsafe fn mark_doomed(&self) {
        if self.doomed {
            // SAFETY: the session's connection is open.
            unsafe { (*(*self.s).connection).set_error(1) };
        }
    }

    /// The client has answered the session that the server has begun: the two change places, and phases may go on.
    ///
    /// # Safety
    ///
    /// Both are connected.
    pub unsafe fn exchange(&mut self) -> bool {
        self.waits = false;
        let s = self.s;
        // SAFETY: the caller's promise.
        let exchanged = unsafe {
            self.other
                .as_mut()
                .is_some_and(|other| active::exchange(s, other))
        };
        if exchanged {
            self.reach();
        }
        exchanged
    }

    fn go_on(&self) -> ngx_int_t {
        match self.waits {
            true => NGX_DONE as ngx_int_t,
            false => NGX_DECLINED as ngx_int_t,
        }
    }

    /// Gives the reservation back; more than once does nothing.
    pub fn finish(&mut self) {
        self.other = None;
        if let Some(taken) = &self.taken {
            meet::forget(taken);
        }
        let (Some(zone), Some(taken)) = (self.zone(), self.taken) else {
            return;
        };
        zone.with(|table| table.finish(zone::now(), taken.ticket));
    }

    /// The TLS session that its control session has in the zone.
    fn kept(&self) -> Option<(&'static Zone, Ticket)> {
        Some((self.zone()?, self.taken?.kept?))
    }

    fn zone(&self) -> Option<&'static Zone> {
        // SAFETY: the session outlives its state.
        unsafe { context::conf(self.s).zone() }
    }
}

// --- phases ---

/// A data connection begins.
///
/// # Safety
///
/// `s` is a session of a server with `ftp_data`, in the preaccess phase.
pub unsafe fn begin(s: *mut ngx_stream_session_t, conf: &SrvConf) -> ngx_int_t {
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        if let Some(data) = context::data(s) {
            return data.go_on();
        }
        // Whatever goes wrong from here on, a FIN would look like the end of a file. That holds for a worker
        // that is killed, too.
        if !conf.inherited.reset {
            set_reset_at_close(c, true);
        }
        if conf.inherited.nodelay && (*c).tcp_nodelay() == NODELAY_UNSET {
            (*c).set_tcp_nodelay(NODELAY_SET);
        }
        let peer = address::read((*c).sockaddr);
        let local = match conf.original_dst() {
            true => socket::dialled(c),
            false => socket::local(c),
        };
        let (Some(local), Some(peer), Some(zone)) = (local, peer, conf.zone()) else {
            ngx_log_error!(NGX_LOG_ERR, (*c).log, "data connection without an address");
            return FAILED;
        };
        let (port, peer) = (local.port(), Host::from_socket(&peer));
        let found = zone.with(|table| {
            let ticket = table.find(zone::now(), port, peer)?;
            Some((ticket, table.way(ticket)?))
        });
        let (found, way) = found.flatten().unzip();
        let mut data = Data::new(s, port, peer);
        data.found = found;
        data.tls = (*s).ssl() == 1;
        if context::attach(s, Context::Data(Box::new(data))).is_none() {
            return FAILED;
        }
        // Not yet: see `tls`.
        (*s).set_ssl(0);
        match way {
            Some(Way::ToServer) => NGX_DECLINED as ngx_int_t,
            Some(Way::ToClient) => context::data(s).map_or(FAILED, |data| data.dial()),
            Some(Way::FromClient | Way::FromServer) => {
                context::data(s).map_or(FAILED, |data| data.begin_to_meet())
            }
            Some(Way::Neither) | None => refuse((*c).log, port),
        }
    }
}

const FAILED: ngx_int_t = NGX_ERROR as ngx_int_t;

/// A connection has got its reservation.
pub fn log_match(log: *mut ngx_log_t, reservation: &Taken) {
    let (port, target) = (reservation.port, reservation.target);
    let session = reservation.session;
    ngx_log_error!(
        NGX_LOG_INFO,
        log,
        "ftp matched port {port}, target {target}, session {session:016x}"
    );
}

fn log_alone(log: *mut ngx_log_t, port: u16) {
    ngx_log_error!(NGX_LOG_INFO, log, "ftp nobody to meet on port {port}");
}

fn refuse(log: *mut ngx_log_t, port: u16) -> ngx_int_t {
    ngx_log_error!(NGX_LOG_INFO, log, "ftp refused port {port}: not reserved");
    NGX_STREAM_FORBIDDEN as ngx_int_t
}

/// Takes the reservation that `begin` found, after the stock checks have passed.
///
/// # Safety
///
/// Called by nginx in the preread phase.
pub unsafe extern "C" fn preread(s: *mut ngx_stream_session_t) -> ngx_int_t {
    // SAFETY: nginx's session.
    unsafe {
        let log = (*(*s).connection).log;
        guarded(log, NGX_ERROR as ngx_int_t, || {
            let Some(data) = context::data(s) else {
                return NGX_DECLINED as ngx_int_t;
            };
            let taken = data.taken.is_some() || data.take(log).is_some();
            if taken && !data.choose_proxy() {
                return NGX_ERROR as ngx_int_t;
            }
            if taken && data.tls {
                tls::hold((*s).connection, true);
            }
            match taken {
                // Not `NGX_DECLINED`: another preread handler would wait for bytes that a download
                // never brings.
                true => NGX_OK as ngx_int_t,
                false => refuse(log, data.port),
            }
        })
    }
}

impl Data {
    /// Active mode: the reservation is taken and the client dialled.
    unsafe fn dial(&mut self) -> ngx_int_t {
        // SAFETY: the session is in the preaccess phase.
        unsafe {
            let log = (*(*self.s).connection).log;
            let Some(taken) = self.take(log) else {
                return refuse(log, self.port);
            };
            match active::dial(self.s, &taken) {
                Ok(other) => {
                    self.other = Some(other);
                    self.waits = true;
                    self.go_on()
                }
                Err(rc) => rc,
            }
        }
    }

    /// Both connect: the reservation is taken, and the mate looked for.
    unsafe fn begin_to_meet(&mut self) -> ngx_int_t {
        // SAFETY: the session is in the preaccess phase.
        unsafe {
            let log = (*(*self.s).connection).log;
            // Before anybody can see that this one is there, and come.
            if !meet::open_door() {
                return FAILED;
            }
            let Some(taken) = self.take(log) else {
                return refuse(log, self.port);
            };
            self.waits = true;
            match meet::wait(self.s, &taken) {
                true => self.meet(),
                false => FAILED,
            }
        }
    }

    /// Looks for the mate. `NGX_DONE` where the session waits for it, else how it ends.
    ///
    /// # Safety
    ///
    /// The session waits.
    pub unsafe fn meet(&mut self) -> ngx_int_t {
        let (Some(zone), Some(taken)) = (self.zone(), self.taken) else {
            return FAILED;
        };
        // SAFETY: the caller's promise.
        unsafe {
            let c = (*self.s).connection;
            if zone::now() >= taken.deadline {
                log_alone((*c).log, self.port);
                return NGX_STREAM_BAD_GATEWAY as ngx_int_t;
            }
            match meet::attempt(c, zone, &taken, &mut self.alone) {
                Met::Waiting => NGX_DONE as ngx_int_t,
                Met::Gone => {
                    self.ending = Ending::HandedOver;
                    NGX_STREAM_OK as ngx_int_t
                }
                Met::Lost => {
                    log_alone((*c).log, self.port);
                    NGX_STREAM_BAD_GATEWAY as ngx_int_t
                }
            }
        }
    }

    /// The server's connection has come to this session, its client's: phases may go on. False where it is not for it.
    pub fn join(&mut self, server: Other) -> bool {
        let Some(taken) = self.taken.filter(|taken| taken.way == Way::FromClient) else {
            return false;
        };
        meet::forget(&taken);
        self.other = Some(server);
        self.waits = false;
        true
    }

    /// The server's leg is TLS if its control connection has agreed on that, whatever `proxy_ssl` says here.
    unsafe fn choose_proxy(&self) -> bool {
        let tls = self.taken.is_some_and(|taken| taken.tls.server);
        // SAFETY: the session is not proxied yet.
        unsafe {
            let conf = context::conf(self.s);
            match conf.proxy_for(tls) {
                Some(proxy) => stock::use_proxy_conf(self.s, proxy),
                None if conf.is_proxied_so(tls) => true,
                None => {
                    // An older configuration had `proxy_ssl on`, and its control session lives on.
                    let what = "no server of its zone has \"proxy_ssl on\" any more";
                    ngx_log_error!(NGX_LOG_ERR, (*(*self.s).connection).log, "{what}");
                    false
                }
            }
        }
    }

    fn take(&mut self, log: *mut ngx_log_t) -> Option<Taken> {
        let (port, peer) = (self.port, self.peer);
        let (zone, ticket) = (self.zone()?, self.found?);
        let taken =
            zone.with(|table| table.take(zone::now(), ticket, port, peer, zone::this_worker()));
        let reservation = taken.flatten()?;
        log_match(log, &reservation);
        self.receive(reservation);
        self.taken
    }

    fn receive(&mut self, reservation: Taken) {
        self.taken = Some(reservation);
        self.tls |= reservation.tls.client;
        self.ending = Ending::Cut {
            client_has_all: false,
        };
    }
}

impl Data {
    /// The session is over and its connection still open: a client that has everything gets a FIN, any other
    /// the reset that it has had coming since the beginning.
    ///
    /// # Safety
    ///
    /// Called in the log phase.
    pub unsafe fn end(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            let c = (*self.s).connection;
            let clean = match self.ending {
                Ending::Refused => Some(false),
                Ending::Cut { client_has_all } => Some(client_has_all),
                Ending::Complete => Some(true),
                // The socket is another connection's by now.
                Ending::HandedOver => None,
            };
            if let Some(clean) = clean {
                set_reset_at_close(c, !clean);
                if clean {
                    tls::say_goodbye(c);
                }
            }
            if let Some(taken) = self.taken {
                let (port, target, ending, peer) =
                    (self.port, taken.target, self.ending, self.peer);
                let session = taken.session;
                // The other leg is closed by now: nginx's own context would tell of 0 bytes.
                let handler = (*(*c).log).handler.take();
                ngx_log_error!(
                    NGX_LOG_INFO,
                    (*c).log,
                    "ftp finished port {port} of {peer}, target {target}, session {session:016x}: {ending}"
                );
                (*(*c).log).handler = handler;
            }
        }
        self.finish();
    }
}
