//! A data port for what the server announced: where the data connection goes, where it comes from, what the client
//! is told.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, ngx_cidr_match, ngx_int_t, ngx_str_t,
    ngx_stream_complex_value,
};

use super::conf::ipv4;
use super::outside::Outside;
use super::zone::{self, Reclaimed, Words};
use super::{address, context, socket};
use crate::ftp::HostPort;
use crate::ports::{Host, Peer, Request, ReserveError, Table, Ticket, Tls};
use crate::session::{Mode, Passive};

impl Outside {
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

    /// Reserves a port in place of the current one. What stands in the way is logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_port(&mut self, passive: &Passive<'_>) -> Option<HostPort> {
        // SAFETY: the session is alive and its upstream connected.
        unsafe {
            let log = self.log();
            let conf = self.conf();
            let zone = self.zone()?;
            let host = match passive.mode {
                Mode::Pasv => self.announced()?,
                _ => Ipv4Addr::UNSPECIFIED,
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
            let kept = match passive.server_protected && self.conf().resumes_tls {
                true => self.resumable.keep(self.upstream_connection(), zone),
                false => None,
            };
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
                    resumed: passive.protected && self.own_tls_context,
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
                kept,
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
pub enum GivenBack {
    /// It waited on this port, which is free now.
    Released(u16),
    /// A data connection has it.
    Taken(Ticket),
    /// It was gone.
    Gone,
}

impl GivenBack {
    /// Gives a waiting reservation back to the table.
    pub fn to(table: &mut Table<Words>, ticket: Ticket) -> Self {
        match table.release(zone::now(), ticket) {
            Some(port) => Self::Released(port),
            None if table.is_taken(ticket) => Self::Taken(ticket),
            None => Self::Gone,
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
            Mode::Pasv | Mode::Port => Self::Pasv,
            Mode::Epsv | Mode::Eprt => Self::Epsv,
        }
    }
}
