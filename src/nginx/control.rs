//! A control connection: the stream filter feeds its bytes to the [`Session`] machine and carries out what
//! that decides.
//!
//! Every byte is copied: the proxy's own buffer is free as soon as the machine has taken it. What the
//! machine does not take (the peer of the bytes it makes does not read, or too many replies are
//! outstanding) stays in the proxy's buffer, which then fills up and stops the proxy from reading.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::slice;

use super::log::ngx_log_error;
use libc::{SO_OOBINLINE, SOL_SOCKET};
use nginx_sys::{
    NGX_DECLINED, NGX_ERROR, NGX_LOG_INFO, NGX_OK, NGX_STREAM_FORBIDDEN, ngx_add_timer,
    ngx_chain_t, ngx_connection_t, ngx_event_handler_pt, ngx_event_t, ngx_int_t, ngx_msec_t,
    ngx_post_event, ngx_posted_events, ngx_stream_filter_pt, ngx_stream_session_t,
    ngx_stream_top_filter, ngx_uint_t,
};

use super::auth::Auth;
use super::conf::SrvConf;
use super::context::{self, Context};
use super::guard::guarded;
use super::input::{HELD, Input, mark, read_past_urgent, remaining};
use super::output::Output;
use super::outside::{Ended, Outside};
use super::resume::Resumable;
use super::timer::Timer;
use super::tls::{self, Handshake};
use super::{address, socket, stock, zone};
use crate::ports::Host;
use crate::session::{Actions, Mode, Modes, ServerTls, Session, Terms};

/// The state of a control connection.
pub struct Control {
    machine: Session,
    outside: Outside,
    from_client: Input,
    from_server: Input,
    handshake: Option<Box<Handshake>>,
    /// TLS toward the server.
    auth: Option<Box<Auth>>,
    /// The client's last bytes ended within a line.
    mid_line: bool,
    /// The next look for urgent bytes.
    urgent: Option<Timer>,
    /// The proxy's own handler of the client's write event, once ours is in its place.
    timeout_handler: Option<ngx_event_handler_pt>,
}

// --- the filter ---

static mut NEXT_FILTER: ngx_stream_filter_pt = None;

/// Puts the filter in front of the others.
///
/// # Safety
///
/// Called once for each configuration, by the one thread that reads it.
pub unsafe fn install_filter() {
    // SAFETY: nginx builds its filter chain anew for every configuration, before ours is added to it.
    unsafe {
        NEXT_FILTER = ngx_stream_top_filter;
        ngx_stream_top_filter = Some(filter);
        IS_WHOLE = true;
    }
}

/// The filters of the configuration in force, while another one is read.
static mut IN_FORCE: ngx_stream_filter_pt = None;
/// No other one is being read, nor was one given up half-way.
static mut IS_WHOLE: bool = true;

/// A configuration is being read.
///
/// # Safety
///
/// Called by the one thread that reads it.
pub unsafe fn begin_filters() {
    // SAFETY: nginx builds the chain anew later on.
    unsafe {
        if IS_WHOLE {
            IN_FORCE = ngx_stream_top_filter;
            IS_WHOLE = false;
        }
    }
}

/// A worker begins. Where a reload has failed half-way, nginx leaves the master with a chain that ends before us, and
/// workers that are started again would inherit it.
///
/// # Safety
///
/// Called before anything is accepted.
pub unsafe fn restore_filters() {
    // SAFETY: what is in force was a whole chain, of modules that are still loaded.
    unsafe {
        let in_force = IN_FORCE;
        if !IS_WHOLE && in_force.is_some() {
            ngx_stream_top_filter = in_force;
        }
    }
}

/// Calls the filter after ours.
///
/// # Safety
///
/// As for nginx's `ngx_stream_top_filter`.
pub unsafe fn next_filter(
    s: *mut ngx_stream_session_t,
    chain: *mut ngx_chain_t,
    from_upstream: ngx_uint_t,
) -> ngx_int_t {
    // SAFETY: set before the first connection, and the caller's promise. A filter behind ours may evaluate
    // variables, ours among them, while the caller holds the session's state.
    unsafe {
        match NEXT_FILTER {
            Some(next) => context::hidden(s, || next(s, chain, from_upstream)),
            None => NGX_ERROR as ngx_int_t,
        }
    }
}

unsafe extern "C" fn filter(
    s: *mut ngx_stream_session_t,
    chain: *mut ngx_chain_t,
    from_upstream: ngx_uint_t,
) -> ngx_int_t {
    // SAFETY: nginx calls filters with a session whose upstream is connected. The state is used by nobody
    // else meanwhile: `next_filter` hides it.
    unsafe {
        let Some(control) = context::control(s) else {
            return next_filter(s, chain, from_upstream);
        };
        let log = (*(*s).connection).log;
        guarded(log, NGX_ERROR as ngx_int_t, || {
            control.meet_proxy();
            let done = match from_upstream {
                0 => control.client_bytes(chain),
                _ => control.server_bytes(chain),
            };
            match done {
                Ok(()) => NGX_OK as ngx_int_t,
                Err(Ended) => NGX_ERROR as ngx_int_t,
            }
        })
    }
}

/// Whether the connection comes from a balancer that tells of another client, which nobody has put in its place.
unsafe fn is_balancer(c: *mut ngx_connection_t, peer: SocketAddr) -> bool {
    // SAFETY: an open connection.
    let Some(header) = (unsafe { (*c).proxy_protocol.as_ref() }) else {
        return false;
    };
    let told = str::from_utf8(header.src_addr.as_bytes()).ok();
    let told = told.and_then(|told| told.parse::<IpAddr>().ok());
    told.is_some_and(|told| Host::new(told, 0).ip() != peer.ip())
}

/// A control connection begins.
///
/// # Safety
///
/// `s` is a session of a server with `ftp_ctrl`, in the preaccess phase.
pub unsafe fn begin(s: *mut ngx_stream_session_t, conf: &SrvConf) -> ngx_int_t {
    // SAFETY: the caller's promise.
    unsafe {
        let c = (*s).connection;
        let destination = match conf.original_dst() {
            true => socket::original_destination(c),
            false => None,
        };
        if conf.original_dst() && destination.is_none() {
            ngx_log_error!(
                NGX_LOG_INFO,
                (*c).log,
                "ftp refused control connection: no original destination"
            );
            socket::set_reset_at_close(c, true);
            return NGX_STREAM_FORBIDDEN as ngx_int_t;
        }
        // Synch before ABOR arrives out of band; nginx would lose it, and with it the line's start.
        let on: i32 = 1;
        libc::setsockopt((*c).fd, SOL_SOCKET, SO_OOBINLINE, (&raw const on).cast(), 4);
        let client = address::read((*c).sockaddr).map(|mut client| {
            client.set_ip(Host::from_socket(&client).ip());
            client
        });
        let control = Control {
            machine: Session::new(Terms {
                modes: Modes {
                    client,
                    behind_balancer: client.is_some_and(|client| is_balancer(c, client)),
                    allowed: conf.client_modes(),
                    server: conf.server_mode(),
                },
                auth: conf.auth_tls(),
                implicit_tls: (*s).ssl() == 1,
                // What a name in the client's hello decides is known when the server is connected.
                data_tls_required: false,
                server_tls: ServerTls::None,
            }),
            outside: Outside {
                s,
                id: zone::random((*c).log),
                to_client: Output::new(1),
                to_server: Output::new(0),
                current: None,
                port: None,
                proxy_ip: None,
                server_ip: None,
                dial: None,
                hold: None,
                from_server: None,
                mode: None,
                earlier: VecDeque::new(),
                own_tls_context: conf.tls_reuse_required(),
                ticket_given: false,
                resumable: Resumable::default(),
                closing: false,
                start_tls: false,
                destination: destination.map(Box::new),
                proxy_protocol: false,
            },
            from_client: Input::default(),
            from_server: Input::default(),
            handshake: None,
            auth: None,
            mid_line: false,
            urgent: None,
            timeout_handler: None,
        };
        match context::attach(s, Context::Control(Box::new(control))) {
            Some(()) => NGX_DECLINED as ngx_int_t,
            None => NGX_ERROR as ngx_int_t,
        }
    }
}

impl Control {
    /// The nginx session.
    pub fn session(&self) -> *mut ngx_stream_session_t {
        self.outside.s
    }

    /// The number that this and its data connections share.
    pub fn id(&self) -> u64 {
        self.outside.id
    }

    /// The last data port given to the client.
    pub fn data_port(&self) -> Option<u16> {
        self.outside.port
    }

    /// The server that the client dialled, of a transparent control server.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.outside.destination.as_deref().copied()
    }

    /// How it was asked for.
    pub fn mode(&self) -> Option<Mode> {
        self.outside.mode
    }

    /// The number that TLS sessions of this control session, and no other, are marked with.
    pub fn tls_context(&self) -> Option<u64> {
        self.outside.own_tls_context.then_some(self.id())
    }

    /// The server is to speak TLS, explicit or not, which only now is known: a name in the client's hello may have chosen it.
    pub fn expect_tls(&mut self, explicit: bool) {
        self.auth = Some(Box::new(Auth::new(explicit)));
    }

    /// TLS toward the server, if it is on.
    pub fn auth(&mut self) -> Option<&mut Auth> {
        self.auth.as_deref_mut()
    }

    /// There is something for the client, whether or not the server sends more: has the filter called at the next turn.
    ///
    /// # Safety
    ///
    /// The client's connection is open.
    pub unsafe fn call_filter(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            let c = (*self.session()).connection;
            (*c).set_buffered((*c).buffered() | HELD);
            ngx_post_event((*c).write, &raw mut ngx_posted_events);
        }
    }

    /// What the machine knows.
    pub fn machine(&self) -> &Session {
        &self.machine
    }

    /// The session is over.
    pub fn end(&mut self) {
        self.outside.hold = None;
        self.urgent = None;
        self.outside.release();
        if let Some(zone) = self.outside.zone() {
            self.outside.resumable.forget(zone);
        }
    }

    /// The connection's pool is being destroyed.
    pub fn finish(&mut self) {
        self.end();
        self.outside.to_client.clear();
        self.outside.to_server.clear();
    }

    /// Bytes of the client, on their way to the server.
    unsafe fn client_bytes(&mut self, chain: *mut ngx_chain_t) -> Result<(), Ended> {
        // SAFETY: as for `filter`.
        unsafe {
            self.from_client.append(chain);
            self.outside.send_to_server(false)?;
            self.take_client_bytes()?;
            let ended = self.from_client.ends_now();
            if ended {
                self.machine.client_ended(&mut self.outside);
            }
            self.outside.send_to_client(false)?;
            self.outside.send_to_server(ended)?;
            self.start_tls_if_asked();
            self.mark_held();
            if self.mid_line {
                read_past_urgent((*self.session()).connection);
            }
        }
        self.outside.close_if_asked()
    }

    /// Tells the proxy, which sees only `buffered`, that there is more for either side: or it would take the
    /// other side's FIN for the end.
    unsafe fn mark_held(&mut self) {
        // SAFETY: the connections are open.
        unsafe {
            mark(self.outside.upstream_connection(), self.from_client.waits());
            let greeting = self.auth().is_some_and(|auth| auth.has_greeting());
            mark(
                (*self.session()).connection,
                self.from_server.waits() || greeting || self.machine.holds(),
            );
        }
    }

    unsafe fn take_client_bytes(&mut self) -> Result<(), Ended> {
        // SAFETY: the proxy's buffers stay as they are until `pos` reaches `last`.
        unsafe {
            while let Some(buf) = self.from_client.front() {
                if self.outside.is_full() {
                    self.outside.send_to_client(false)?;
                    self.outside.send_to_server(false)?;
                    if self.outside.is_full() {
                        break;
                    }
                }
                let bytes = slice::from_raw_parts((*buf).pos, remaining(buf));
                self.mid_line = !bytes.ends_with(b"\n");
                let taken = match self.outside.is_of_client(buf) {
                    true => {
                        // A piece at a time: answers to a flood are sent before more are made.
                        let piece = bytes.get(..PIECE).unwrap_or(bytes);
                        self.machine.from_client(piece, &mut self.outside)
                    }
                    // The PROXY protocol header that the proxy itself puts in front.
                    false => {
                        self.outside.to_server.push(bytes);
                        bytes.len()
                    }
                };
                (*buf).pos = (*buf).pos.add(taken);
                if (*buf).pos == (*buf).last {
                    self.from_client.pop();
                } else if taken == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Bytes of the server, on their way to the client.
    unsafe fn server_bytes(&mut self, chain: *mut ngx_chain_t) -> Result<(), Ended> {
        // SAFETY: as for `filter`.
        unsafe {
            self.from_server.append(chain);
            self.outside.send_to_client(false)?;
            if let Some(greeting) = self.auth().and_then(Auth::greeting) {
                self.machine.from_server(&greeting, &mut self.outside);
            }
            if self.machine.holds() && self.from_server.front().is_none() {
                // All of it may be taken but not said.
                self.machine.from_server(b"", &mut self.outside);
            }
            while let Some(buf) = self.from_server.front() {
                if self.outside.start_tls || self.handshake.is_some() {
                    break;
                }
                if self.outside.to_client.is_full() {
                    self.outside.send_to_client(false)?;
                    if self.outside.to_client.is_full() {
                        break;
                    }
                }
                let bytes = slice::from_raw_parts((*buf).pos, remaining(buf));
                let taken = self.machine.from_server(bytes, &mut self.outside);
                (*buf).pos = (*buf).pos.add(taken);
                if (*buf).pos == (*buf).last {
                    self.from_server.pop();
                } else if taken == 0 {
                    break;
                }
            }
            let ended = !self.machine.holds() && self.from_server.ends_now();
            if ended {
                self.machine.server_ended(&mut self.outside);
            }
            self.outside.send_to_client(ended)?;
            // The proxy's own PBSZ and PROT follow the reply to the login.
            self.outside.send_to_server(false)?;
            self.start_tls_if_asked();
            self.mark_held();
            self.look_again_if_held();
            if self.machine.has_begun() {
                self.look_for_urgent();
            }
            self.wake_client_side();
        }
        self.outside.close_if_asked()
    }

    /// A transfer begins: Synch and ABOR may stand behind its command. Not at once, which would be a system call for each of
    /// many small files.
    unsafe fn look_for_urgent(&mut self) {
        // SAFETY: the client's connection outlives the state.
        let timer = || unsafe { Timer::new((*self.outside.s).connection, on_urgent_timer) };
        self.urgent.get_or_insert_with(timer).start(URGENT_PAUSE);
    }

    /// What the server says of a transfer may be said soon.
    fn look_again_if_held(&mut self) {
        if !self.machine.holds() {
            self.outside.hold = None;
        } else if let Some(hold) = &mut self.outside.hold {
            hold.look_again();
        }
    }

    /// 234 is with the kernel: the next bytes on the wire are TLS.
    unsafe fn start_tls_if_asked(&mut self) {
        // SAFETY: the session is alive, and nothing is buffered toward the client.
        unsafe {
            let s = self.session();
            if self.outside.start_tls && (*(*s).connection).buffered() & !HELD == 0 {
                self.outside.start_tls = false;
                self.handshake = Some(Box::new(tls::begin(s)));
            }
        }
    }

    /// The handshake is over.
    pub fn end_handshake(&mut self, fine: bool) -> Option<Handshake> {
        if fine {
            self.machine.secured();
        }
        self.handshake.take().map(|handshake| *handshake)
    }

    /// The client's bytes that waited for the server, or for the client to read, may be taken now: the
    /// proxy comes back for them when the server's socket is writable.
    unsafe fn wake_client_side(&mut self) {
        let waiting = self.from_client.waits();
        if waiting && self.machine.takes_commands() && !self.outside.is_full() {
            // SAFETY: the upstream is connected.
            unsafe {
                let pc = self.outside.upstream_connection();
                if !pc.is_null() {
                    ngx_post_event((*pc).write, &raw mut ngx_posted_events);
                }
            }
        }
    }

    /// The first bytes come through: looks at the proxy's settings, and puts our handler before its own where
    /// `proxy_timeout` ends the session.
    unsafe fn meet_proxy(&mut self) {
        if self.timeout_handler.is_some() {
            return;
        }
        // SAFETY: the proxy has set its handlers before anything is filtered, and sets them no more.
        unsafe {
            let write = (*(*self.outside.s).connection).write;
            self.timeout_handler = Some((*write).handler);
            self.outside.proxy_protocol = stock::sends_proxy_protocol(self.outside.s);
            let server_tls = match (*self.outside.upstream_connection()).ssl.is_null() {
                true => ServerTls::None,
                false if self.auth().is_some_and(|auth| auth.is_explicit()) => ServerTls::Explicit,
                false => ServerTls::Implicit,
            };
            let data_tls_required = self.outside.conf().data_tls_required();
            self.machine.chosen(server_tls, data_tls_required);
            (*write).handler = Some(on_client_write);
            let server = address::read((*self.outside.upstream()).peer.sockaddr);
            let server = server.map(|server| Host::from_socket(&server).ip());
            self.machine
                .connected(server.map(|server| server.is_ipv4()));
        }
    }
}

/// Milliseconds from the beginning of a transfer to the look for urgent bytes.
const URGENT_PAUSE: ngx_msec_t = 50;

unsafe extern "C" fn on_urgent_timer(event: *mut ngx_event_t) {
    // SAFETY: the timer ends with the state of its connection's session.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        read_past_urgent(c);
        if let Some(control) = context::control((*c).data.cast()) {
            // Idle sessions keep no memory.
            control.urgent = None;
        }
    }
}

/// Bytes of the client that are looked at before its answers are sent.
const PIECE: usize = 1024;

/// The client's write event: new room in its socket, or `proxy_timeout`. While a data connection of the
/// session is open the control connection is not idle; the data server's own timeout bounds that.
unsafe extern "C" fn on_client_write(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection whose session has a control state, which put us here.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        let Some(control) = context::control(s) else {
            return;
        };
        let Some(Some(proxy)) = control.timeout_handler else {
            return;
        };
        let idle = (*event).timedout() == 1 && (*event).delayed() == 0 && (*c).close() == 0;
        let transfers = guarded((*c).log, false, || idle && control.outside.has_taken());
        if transfers && let Some(timeout) = stock::proxy_timeout(s) {
            (*event).set_timedout(0);
            ngx_add_timer(event, timeout);
            return;
        }
        proxy(event);
    }
}
