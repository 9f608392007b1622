//! A control connection: the stream filter feeds its bytes to the [`Session`] machine and carries out what
//! that decides.
//!
//! Every byte is copied: the proxy's own buffer is free as soon as the machine has taken it. What the
//! machine does not take (the peer of the bytes it makes does not read, or too many replies are
//! outstanding) stays in the proxy's buffer, which then fills up and stops the proxy from reading.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ptr::{self, NonNull};
use std::{fmt, slice};

use libc::{SO_OOBINLINE, SOL_SOCKET};
use nginx_sys::{
    NGX_DECLINED, NGX_ERROR, NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, NGX_STREAM_FORBIDDEN,
    ngx_add_timer, ngx_buf_t, ngx_chain_t, ngx_cidr_match, ngx_connection_t, ngx_event_handler_pt,
    ngx_event_t, ngx_handle_write_event, ngx_int_t, ngx_log_t, ngx_post_event, ngx_posted_events,
    ngx_str_t, ngx_stream_complex_value, ngx_stream_filter_pt, ngx_stream_session_t,
    ngx_stream_top_filter, ngx_stream_upstream_t, ngx_uint_t,
};
use ngx::ngx_log_error;

use super::conf::{SrvConf, ipv4};
use super::context::{self, Context};
use super::guard::guarded;
use super::output::Output;
use super::tls::{self, Handshake};
use super::zone::{self, Reclaimed, Words, Zone};
use super::{address, socket, stock};
use crate::ftp::HostPort;
use crate::ftp::command::Transfer;
use crate::ports::{Host, Peer, Request, ReserveError, Reserved, Table, Ticket, Tls};
use crate::session::{Actions, Mode, Note, Passive, Session, Terms, Unavailable};

/// Data connections of one session that are looked after at the same time; more are only a client's
/// that asks for ports and lets the transfers run on.
const MAX_TAKEN: usize = 4;

/// The state of a control connection.
pub struct Control {
    machine: Session,
    outside: Outside,
    from_client: Input,
    from_server: Input,
    handshake: Option<Handshake>,
    /// The client's last bytes ended within a line.
    mid_line: bool,
    /// The proxy's own handler of the client's write event, once ours is in its place.
    timeout_handler: Option<ngx_event_handler_pt>,
}

/// Buffers of the proxy that are not taken in full.
#[derive(Default)]
struct Input {
    /// The oldest; most often the only one, and then nothing is allocated.
    first: Option<NonNull<ngx_buf_t>>,
    more: VecDeque<NonNull<ngx_buf_t>>,
    /// The stream ends behind them.
    last: bool,
}

/// What the machine acts on.
struct Outside {
    s: *mut ngx_stream_session_t,
    id: u64,
    to_client: Output,
    to_server: Output,
    current: Option<Reserved>,
    /// The last port that was reserved.
    port: Option<u16>,
    /// What `proxy_ip` has yielded: it is evaluated in memory that lives as long as the session.
    proxy_ip: Option<Ipv4Addr>,
    mode: Option<Mode>,
    /// Earlier reservations whose data connection may still be open.
    earlier: VecDeque<Ticket>,
    closing: bool,
    /// A handshake with the client begins when everything before it has been sent.
    start_tls: bool,
    /// The server that the client dialled, of a transparent control server.
    destination: Option<SocketAddr>,
    /// The proxy puts a PROXY protocol header before the client's first bytes.
    proxy_protocol: bool,
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

/// The session ends: nginx closes both connections.
struct Ended;

fn ok(rc: ngx_int_t) -> Result<(), Ended> {
    match rc == NGX_ERROR as ngx_int_t {
        true => Err(Ended),
        false => Ok(()),
    }
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
        let client = address::read((*c).sockaddr).map(|client| Host::from_socket(&client));
        let over_ipv4 = client.is_some_and(|client| client.ip().is_ipv4());
        let control = Control {
            machine: Session::new(Terms {
                client_is_ipv4: over_ipv4,
                auth: conf.auth_tls(),
                implicit_tls: (*s).ssl() == 1,
                data_tls_required: conf.data_tls_required(),
                server_tls: stock::proxies_tls(s),
            }),
            outside: Outside {
                s,
                id: zone::random((*c).log),
                to_client: Output::new(1),
                to_server: Output::new(0),
                current: None,
                port: None,
                proxy_ip: None,
                mode: None,
                earlier: VecDeque::new(),
                closing: false,
                start_tls: false,
                destination,
                proxy_protocol: false,
            },
            from_client: Input::default(),
            from_server: Input::default(),
            handshake: None,
            mid_line: false,
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
        self.outside.destination
    }

    /// How it was asked for.
    pub fn mode(&self) -> Option<Mode> {
        self.outside.mode
    }

    /// What the machine knows.
    pub fn machine(&self) -> &Session {
        &self.machine
    }

    /// The session is over.
    pub fn end(&mut self) {
        self.outside.release();
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
            mark(self.outside.upstream_connection(), &self.from_client);
            mark((*self.session()).connection, &self.from_server);
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
            let mut begun = false;
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
                begun |= bytes.starts_with(b"1");
                self.machine.from_server(bytes, &mut self.outside);
                (*buf).pos = (*buf).last;
                self.from_server.pop();
            }
            let ended = self.from_server.ends_now();
            if ended {
                self.machine.server_ended(&mut self.outside);
            }
            self.outside.send_to_client(ended)?;
            // The proxy's own PBSZ and PROT follow the reply to the login.
            self.outside.send_to_server(false)?;
            self.start_tls_if_asked();
            self.mark_held();
            if begun {
                // A transfer begins: Synch and ABOR may stand behind its command.
                read_past_urgent((*self.session()).connection);
            }
            self.wake_client_side();
        }
        self.outside.close_if_asked()
    }

    /// 234 is with the kernel: the next bytes on the wire are TLS.
    unsafe fn start_tls_if_asked(&mut self) {
        // SAFETY: the session is alive, and nothing is buffered toward the client.
        unsafe {
            let s = self.session();
            if self.outside.start_tls && (*(*s).connection).buffered() & !HELD == 0 {
                self.outside.start_tls = false;
                self.handshake = Some(tls::begin(s));
            }
        }
    }

    /// The handshake is over.
    pub fn end_handshake(&mut self, fine: bool) -> Option<Handshake> {
        if fine {
            self.machine.secured();
        }
        self.handshake.take()
    }

    /// The client's bytes that waited for the server, or for the client to read, may be taken now: the
    /// proxy comes back for them when the server's socket is writable.
    unsafe fn wake_client_side(&mut self) {
        let waiting = self.from_client.first.is_some() || self.from_client.last;
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
            (*write).handler = Some(on_client_write);
        }
    }
}

unsafe fn mark(dst: *mut ngx_connection_t, input: &Input) {
    // SAFETY: an open connection, or none yet.
    if let Some(dst) = unsafe { dst.as_mut() } {
        let held = input.first.is_some() || input.last;
        let others = dst.buffered() & !HELD;
        dst.set_buffered(if held { others | HELD } else { others });
    }
}

/// Our bit in `buffered`, beside nginx's 0x0f for what is below the filters and 0x10 of the write filter.
pub const HELD: u32 = 0x20;

/// Bytes of the client that are looked at before its answers are sent.
const PIECE: usize = 1024;

/// The kernel ends a read before an urgent byte, and nginx takes a short read for the last one until an
/// event that never comes: the rest of Synch and ABOR would stay in the socket.
unsafe fn read_past_urgent(c: *mut ngx_connection_t) {
    let mut at_mark: i32 = 0;
    // SAFETY: an open connection; the call writes one number.
    unsafe {
        let read = (*c).read;
        if (*read).ready() == 1 || (*read).eof() == 1 {
            return;
        }
        let asked = libc::ioctl((*c).fd, SIOCATMARK, &raw mut at_mark);
        if asked == 0 && at_mark != 0 {
            (*read).set_ready(1);
            // Unknown; 0 would mean "nothing", and is what the short read has left there.
            (*read).available = -1;
            ngx_post_event(read, &raw mut ngx_posted_events);
        }
    }
}

/// Whether the next byte is the urgent one; libc does not name it on Linux.
const SIOCATMARK: libc::Ioctl = 0x8905;

unsafe fn remaining(buf: *mut ngx_buf_t) -> usize {
    // SAFETY: `pos` is never behind `last`.
    unsafe { (*buf).last.offset_from_unsigned((*buf).pos) }
}

impl Input {
    /// Takes the links' buffers.
    unsafe fn append(&mut self, mut chain: *mut ngx_chain_t) {
        // SAFETY: the chain is the proxy's, and valid during the call.
        unsafe {
            while let Some(link) = chain.as_ref() {
                if remaining(link.buf) > 0 {
                    self.push(link.buf);
                }
                self.last |= (*link.buf).last_buf() == 1;
                chain = link.next;
            }
        }
    }

    fn push(&mut self, buf: *mut ngx_buf_t) {
        let buf = NonNull::new(buf);
        match self.first {
            None => self.first = buf,
            Some(_) => self.more.extend(buf),
        }
    }

    fn front(&self) -> Option<*mut ngx_buf_t> {
        self.first.map(NonNull::as_ptr)
    }

    fn pop(&mut self) {
        self.first = self.more.pop_front();
        if self.first.is_none() {
            // Idle sessions keep no memory.
            self.more = VecDeque::new();
        }
    }

    /// Whether the end of the stream has come and everything before it is taken; true once.
    fn ends_now(&mut self) -> bool {
        let ends = self.last && self.first.is_none();
        self.last &= !ends;
        ends
    }
}

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

// --- what the machine acts on ---

impl Outside {
    fn log(&self) -> *mut ngx_log_t {
        // SAFETY: the session outlives its state.
        unsafe { (*(*self.s).connection).log }
    }

    fn conf(&self) -> &'static SrvConf {
        // SAFETY: the session is alive.
        unsafe { context::conf(self.s) }
    }

    fn is_full(&self) -> bool {
        self.to_client.is_full() || self.to_server.is_full()
    }

    unsafe fn upstream(&self) -> *mut ngx_stream_upstream_t {
        // SAFETY: the session is alive.
        unsafe { (*self.s).upstream }
    }

    unsafe fn upstream_connection(&self) -> *mut ngx_connection_t {
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
    unsafe fn is_of_client(&self, buf: *const ngx_buf_t) -> bool {
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

    unsafe fn send_to_client(&mut self, last: bool) -> Result<(), Ended> {
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

    unsafe fn send_to_server(&mut self, last: bool) -> Result<(), Ended> {
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

    fn close_if_asked(&mut self) -> Result<(), Ended> {
        if !self.closing {
            return Ok(());
        }
        // Unread bytes make the kernel send a reset, which may overtake our last reply.
        let mut scrap = [0u8; 4096];
        // SAFETY: the socket is open and does not block; the buffer has the length that is told.
        unsafe {
            let c = (*self.s).connection;
            if !(*c).ssl.is_null() || (*c).buffered() & !HELD != 0 {
                return Err(Ended);
            }
            let fd = (*c).fd;
            libc::shutdown(fd, libc::SHUT_WR);
            for _ in 0..16 {
                if libc::recv(fd, scrap.as_mut_ptr().cast(), scrap.len(), 0) <= 0 {
                    break;
                }
            }
        }
        Err(Ended)
    }

    fn zone(&self) -> Option<&'static Zone> {
        self.conf().zone()
    }

    /// Whether a data connection of this session is open.
    fn has_taken(&mut self) -> bool {
        let Some(zone) = self.zone() else {
            return false;
        };
        let current = self.current.map(|reserved| reserved.ticket);
        let tickets = self.earlier.iter().copied().chain(current);
        zone.with(|table| tickets.into_iter().any(|ticket| table.is_taken(ticket)))
            .unwrap_or(false)
    }

    /// Where the data connection goes: to the control connection's peer, or to the address in a 227 if
    /// the admin trusts it.
    unsafe fn target(&self, passive: &Passive<'_>) -> Option<SocketAddr> {
        // SAFETY: the upstream is connected.
        unsafe {
            if let Some(host) = passive.host {
                let announced = SocketAddr::from((host, passive.port));
                let (mut storage, _) = address::write(announced);
                let trusted = self.conf().trusted();
                if !trusted.is_null()
                    && ngx_cidr_match((&raw mut storage).cast(), trusted) == NGX_OK as ngx_int_t
                {
                    return Some(announced);
                }
            }
            let mut peer = address::read((*self.upstream()).peer.sockaddr)?;
            peer.set_port(passive.port);
            Some(peer)
        }
    }

    /// The address that a 227 tells the client.
    unsafe fn announced(&mut self) -> Option<Ipv4Addr> {
        // SAFETY: the session is alive.
        unsafe {
            let c = (*self.s).connection;
            let value = self.conf().proxy_ip();
            if !value.is_null() && self.proxy_ip.is_some() {
                return self.proxy_ip;
            }
            if !value.is_null() {
                let mut text: ngx_str_t = std::mem::zeroed();
                let s = self.s;
                let evaluated =
                    context::hidden(s, || ngx_stream_complex_value(s, value, &mut text));
                if evaluated != NGX_OK as ngx_int_t {
                    return None;
                }
                let found = ipv4(text.as_bytes());
                if found.is_none() {
                    ngx_log_error!(
                        NGX_LOG_ERR,
                        self.log(),
                        "invalid \"proxy_ip\" address \"{}\"",
                        text.as_bytes().escape_ascii()
                    );
                }
                self.proxy_ip = found;
                return found;
            }
            let local = match (*c).proxy_protocol.as_ref() {
                Some(header) if header.dst_addr.len > 0 => {
                    let text = str::from_utf8(header.dst_addr.as_bytes()).ok()?;
                    text.parse::<IpAddr>().ok().map(|ip| Host::new(ip, 0))
                }
                _ if self.destination.is_some() => {
                    self.destination.map(|dialled| Host::from_socket(&dialled))
                }
                _ => socket::local(c).map(|local| Host::from_socket(&local)),
            };
            match local?.ip() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(ip) => {
                    ngx_log_error!(
                        NGX_LOG_ERR,
                        self.log(),
                        "no \"proxy_ip\" for PASV: the connection came to \"{ip}\""
                    );
                    None
                }
            }
        }
    }

    /// Where the data connection comes from, if the kernel would not choose it: of a control connection that
    /// `proxy_bind` has given an address the same one. To the same host the kernel chooses alike for both;
    /// another host may need another source; and an address that is not ours can be had again only by
    /// `proxy_bind ... transparent` on the data server.
    unsafe fn source_for(&self, target: &SocketAddr) -> Option<SocketAddr> {
        // SAFETY: the upstream is connected.
        unsafe {
            let peer = &(*self.upstream()).peer;
            if peer.local.is_null() || peer.transparent() == 1 {
                return None;
            }
            let server = address::read(peer.sockaddr);
            let same_host = server.is_some_and(|server| server.ip() == target.ip());
            socket::local(peer.connection).filter(|_| same_host)
        }
    }

    unsafe fn reserve_port(&mut self, passive: &Passive<'_>) -> Option<HostPort> {
        // SAFETY: the session is alive and its upstream connected.
        unsafe {
            let log = self.log();
            let conf = self.conf();
            let zone = self.zone()?;
            let host = match passive.mode {
                Mode::Pasv => self.announced()?,
                Mode::Epsv => Ipv4Addr::UNSPECIFIED,
            };
            let Some(target) = self.target(passive) else {
                ngx_log_error!(
                    NGX_LOG_ERR,
                    log,
                    "upstream has no address for data connections"
                );
                return None;
            };
            let client = address::read((*(*self.s).connection).sockaddr);
            let client = client.map(|client| Host::from_socket(&client));
            let peer = match client {
                _ if conf.any_peer() => Peer::Any,
                Some(host) => Peer::Host(host),
                None => {
                    ngx_log_error!(
                        NGX_LOG_ERR,
                        log,
                        "client has no address for data connections"
                    );
                    return None;
                }
            };
            let local = self.source_for(&target);
            let verb = passive.transfer.map_or("", |transfer| transfer.verb);
            let request = Request {
                peer,
                target,
                local,
                session: self.id,
                mode: passive.mode.into(),
                tls: Tls {
                    client: passive.protected,
                    server: passive.server_protected,
                },
                owner: zone::this_worker(),
                deadline: zone::now().saturating_add(conf.data_timeout as u64),
                user: passive.user,
                verb: verb.as_bytes(),
                path: passive.transfer.map_or(b"", |transfer| transfer.path),
                name: match passive.server_protected {
                    true => (*self.upstream()).ssl_name.as_bytes(),
                    false => b"",
                },
            };
            let mut reclaimed = Reclaimed::default();
            let old = self.current.take();
            let done = zone.with(|table| {
                let given_back = old.map(|old| GivenBack::to(table, old.ticket));
                let reserved = table.reserve(
                    zone::now(),
                    &request,
                    zone.ports(),
                    &mut || zone::random(log),
                    &mut zone::is_dead,
                    &mut |reservation| reclaimed.push(reservation),
                );
                (given_back, reserved)
            });
            let (given_back, reserved) = done?;
            if let Some(given_back) = given_back {
                self.note_given_back(given_back);
            }
            reclaimed.log(log);
            let name = &zone.name;
            let whom = Whom(client);
            match reserved {
                Ok(reserved) => {
                    let (port, session) = (reserved.port, self.id);
                    self.current = Some(reserved);
                    self.port = Some(port);
                    ngx_log_error!(
                        NGX_LOG_INFO,
                        log,
                        "ftp reserved port {port} for {whom}, target {target}, session {session:016x}"
                    );
                    Some(HostPort { host, port })
                }
                Err(ReserveError::NoPort) => {
                    let (min, max) = (zone.min_port, zone.max_port);
                    ngx_log_error!(
                        NGX_LOG_ERR,
                        log,
                        "no free port for {whom} in zone \"{name}\" ({min}-{max}): widen the range"
                    );
                    None
                }
                Err(ReserveError::NoSlot) => {
                    ngx_log_error!(
                        NGX_LOG_ERR,
                        log,
                        "no free reservation in zone \"{name}\": increase its size"
                    );
                    None
                }
            }
        }
    }
}

/// What became of a reservation that its control session does not want any more.
enum GivenBack {
    /// It waited on this port, which is free now.
    Released(u16),
    /// A data connection has it.
    Taken(Ticket),
    /// It was gone.
    Gone,
}

impl GivenBack {
    fn to(table: &mut Table<Words>, ticket: Ticket) -> Self {
        match table.release(zone::now(), ticket) {
            Some(port) => Self::Released(port),
            None if table.is_taken(ticket) => Self::Taken(ticket),
            None => Self::Gone,
        }
    }
}

impl Outside {
    fn note_given_back(&mut self, given_back: GivenBack) {
        match given_back {
            GivenBack::Released(port) => {
                ngx_log_error!(NGX_LOG_INFO, self.log(), "ftp released port {port}");
            }
            GivenBack::Taken(ticket) => {
                if self.earlier.len() == MAX_TAKEN {
                    self.earlier.pop_front();
                }
                self.earlier.push_back(ticket);
            }
            GivenBack::Gone => {}
        }
    }
}

/// The client in a log line.
struct Whom(Option<Host>);

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(host) => host.fmt(f),
            None => f.write_str("any client"),
        }
    }
}

impl From<Mode> for crate::ports::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Pasv => Self::Pasv,
            Mode::Epsv => Self::Epsv,
        }
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
        let reserved = unsafe { self.reserve_port(&passive) };
        if reserved.is_none() {
            self.release();
        }
        reserved.ok_or(Unavailable)
    }

    fn release(&mut self) {
        let (Some(zone), Some(reserved)) = (self.zone(), self.current.take()) else {
            return;
        };
        if let Some(given_back) = zone.with(|table| GivenBack::to(table, reserved.ticket)) {
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
