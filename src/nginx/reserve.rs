//! A data port for what the server or the client announced: where the data connection goes, where it comes from, what
//! the other side is told.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, ngx_cidr_match, ngx_int_t, ngx_str_t,
    ngx_stream_complex_value, ngx_stream_complex_value_t,
};

use super::conf::directives;
use super::outside::Outside;
use super::zone::{self, Reclaimed, Words};
use super::{address, context, socket, stock, tls};
use crate::ftp::HostPort;
use crate::ftp::command::Transfer;
use crate::ports::{Host, Peer, Request, ReserveError, Table, Ticket, Tls, Way};
use crate::session::{Announced, Asked, Mode, Passive};

impl Outside {
    /// Where the data connection goes: to the control connection's peer, or to the address in a 227 if
    /// the admin trusts it.
    unsafe fn target(&self, host: Option<Ipv4Addr>, port: u16) -> Option<SocketAddr> {
        // SAFETY: the upstream is connected.
        unsafe {
            if let Some(host) = host {
                let announced = SocketAddr::from((host, port));
                let (mut storage, _) = address::write(announced);
                let trusted = self.conf().trusted();
                if !trusted.is_null()
                    && ngx_cidr_match((&raw mut storage).cast(), trusted) == NGX_OK as ngx_int_t
                {
                    return Some(announced);
                }
            }
            let mut peer = address::read((*self.upstream()).peer.sockaddr)?;
            peer.set_port(port);
            Some(peer)
        }
    }

    /// The address that a 227 tells the client.
    unsafe fn announced(&mut self) -> Option<Ipv4Addr> {
        // SAFETY: the session is alive.
        unsafe {
            let c = (*self.s).connection;
            let value = self.conf().proxy_ip();
            if !value.is_null() {
                if self.proxy_ip.is_none() {
                    self.proxy_ip = self.evaluate(value, "proxy_ip", directives::ipv4);
                }
                return self.proxy_ip;
            }
            let local = match (*c).proxy_protocol.as_ref() {
                Some(header) if header.dst_addr.len > 0 => {
                    let text = str::from_utf8(header.dst_addr.as_bytes()).ok()?;
                    text.parse::<IpAddr>().ok().map(|ip| Host::new(ip, 0))
                }
                _ if self.destination.is_some() => {
                    self.destination.as_deref().map(Host::from_socket)
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

    /// The address that PORT and EPRT tell the server.
    unsafe fn told_to_server(&mut self) -> Option<IpAddr> {
        // SAFETY: the session is alive and its upstream connected.
        unsafe {
            let value = self.conf().server_ip();
            if value.is_null() {
                let local = socket::local(self.upstream_connection())?;
                return Some(Host::from_socket(&local).ip());
            }
            if self.server_ip.is_none() {
                self.server_ip = self.evaluate(value, "server_ip", directives::ip);
            }
            self.server_ip
        }
    }

    /// The value of a parameter of `ftp_ctrl`, in memory that lives as long as the session.
    unsafe fn evaluate<T>(
        &self,
        value: *mut ngx_stream_complex_value_t,
        name: &str,
        parse: fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        // SAFETY: the session is alive.
        unsafe {
            let mut text: ngx_str_t = std::mem::zeroed();
            let s = self.s;
            let evaluated = context::hidden(s, || ngx_stream_complex_value(s, value, &mut text));
            if evaluated != NGX_OK as ngx_int_t {
                return None;
            }
            let found = parse(text.as_bytes());
            if found.is_none() {
                ngx_log_error!(
                    NGX_LOG_ERR,
                    self.log(),
                    "invalid \"{name}\" address \"{}\"",
                    text.as_bytes().escape_ascii()
                );
            }
            found
        }
    }

    /// The client's host.
    unsafe fn client(&self) -> Option<Host> {
        // SAFETY: the session is alive.
        let client = unsafe { address::read((*(*self.s).connection).sockaddr) };
        client.map(|client| Host::from_socket(&client))
    }

    /// The server's host.
    unsafe fn server(&self) -> Option<Host> {
        // SAFETY: the upstream is connected.
        let server = unsafe { address::read((*self.upstream()).peer.sockaddr) };
        server.map(|server| Host::from_socket(&server))
    }

    fn log_no_client(&self) {
        ngx_log_error!(
            NGX_LOG_ERR,
            self.log(),
            "client has no address for data connections"
        );
    }

    fn log_no_server(&self) {
        ngx_log_error!(
            NGX_LOG_ERR,
            self.log(),
            "upstream has no address for data connections"
        );
    }

    /// Reserves a port for the client in place of what there is. What stands in the way is logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_passive(&mut self, passive: &Passive<'_>) -> Option<HostPort> {
        // SAFETY: the caller's promise.
        unsafe {
            let host = match passive.mode {
                Mode::Pasv => self.announced()?,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let Some(target) = self.target(passive.host, passive.port) else {
                self.log_no_server();
                return None;
            };
            let from = self.client();
            if from.is_none() && !self.conf().any_peer() {
                self.log_no_client();
                return None;
            }
            let port = self.reserve_port(&Wanted {
                from,
                target,
                local: self.source_for(&target),
                mate: None,
                mode: passive.mode,
                way: Way::ToServer,
                tls: self.tls(passive.protected, passive.server_protected),
                user: passive.user,
                transfer: passive.transfer,
            })?;
            Some(HostPort { host, port })
        }
    }

    /// Reserves a port for the server in place of what there is; its connection goes to the client's announced
    /// `port`. What stands in the way is logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_for_active(
        &mut self,
        asked: &Asked<'_>,
        port: u16,
    ) -> Option<SocketAddr> {
        // SAFETY: the caller's promise.
        unsafe {
            let told = self.told_to_server()?;
            // Nobody else is ever dialled.
            let Some(client) = self.client() else {
                self.log_no_client();
                return None;
            };
            let from = self.server();
            if from.is_none() && !self.conf().any_peer() {
                self.log_no_server();
                return None;
            }
            let port = self.reserve_port(&Wanted {
                from,
                target: client.at(port),
                local: self.source_for_client(client),
                mate: None,
                mode: asked.mode,
                way: Way::ToClient,
                tls: self.tls(asked.protected, asked.server_protected),
                user: asked.user,
                transfer: None,
            })?;
            Some(SocketAddr::new(told, port))
        }
    }

    /// Reserves what a data connection needs that the proxy begins: to the client's announced `port`, and to where
    /// the server listens. It takes a port's number, though nobody will connect there. What stands in the way is
    /// logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_for_neither(
        &mut self,
        asked: &Asked<'_>,
        port: u16,
        server: Announced,
    ) -> Option<()> {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(client) = self.client() else {
                self.log_no_client();
                return None;
            };
            let Some(target) = self.target(server.host, server.port) else {
                self.log_no_server();
                return None;
            };
            if self.zone()?.data_server.is_null() {
                let name = &self.zone()?.name;
                ngx_log_error!(
                    NGX_LOG_ERR,
                    self.log(),
                    "no \"ftp_data\" in zone \"{name}\""
                );
                return None;
            }
            self.reserve_port(&Wanted {
                from: Some(client),
                target,
                local: self.source_for(&target),
                mate: None,
                mode: asked.mode,
                way: Way::Neither,
                tls: self.tls(asked.protected, asked.server_protected),
                user: asked.user,
                transfer: None,
            })?;
            let dial = (client.at(port), self.source_for_client(client));
            self.dial = Some(Box::new(dial));
            Some(())
        }
    }

    /// Reserves a port for the server in place of what there is; another one for the client is to follow. What stands
    /// in the way is logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_from_server(&mut self, asked: &Asked<'_>) -> Option<SocketAddr> {
        // SAFETY: the caller's promise.
        unsafe {
            let told = self.told_to_server()?;
            let from = self.server();
            if from.is_none() && !self.conf().any_peer() {
                self.log_no_server();
                return None;
            }
            let Some(client) = self.client() else {
                self.log_no_client();
                return None;
            };
            let port = self.reserve_port(&Wanted {
                from,
                target: client.at(0),
                local: None,
                mate: None,
                mode: asked.mode,
                way: Way::FromServer,
                tls: Tls::default(),
                user: asked.user,
                transfer: None,
            })?;
            self.from_server = self.current.take();
            Some(SocketAddr::new(told, port))
        }
    }

    /// Reserves a port for the client, beside that for the server. What stands in the way is logged.
    ///
    /// # Safety
    ///
    /// The session is alive and its upstream connected.
    pub unsafe fn reserve_from_client(&mut self, asked: &Asked<'_>) -> Option<HostPort> {
        // SAFETY: the caller's promise.
        unsafe {
            let mate = self.from_server?.ticket;
            let host = match asked.mode {
                Mode::Pasv => self.announced()?,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let from = self.client();
            if from.is_none() && !self.conf().any_peer() {
                self.log_no_client();
                return None;
            }
            let Some(server) = self.server() else {
                self.log_no_server();
                return None;
            };
            let port = self.reserve_port(&Wanted {
                from,
                target: server.at(0),
                local: None,
                mate: Some(mate),
                mode: asked.mode,
                way: Way::FromClient,
                tls: self.tls(asked.protected, asked.server_protected),
                user: asked.user,
                transfer: None,
            })?;
            let own = self.current?.ticket;
            self.zone()?.with(|table| table.join(mate, own));
            Some(HostPort { host, port })
        }
    }

    /// Where connections to the client come from: the address that it knows, for clients that look. The system
    /// chooses where that is none of this machine's interfaces, or not known.
    unsafe fn source_for_client(&self, client: Host) -> Option<SocketAddr> {
        // SAFETY: the session is alive.
        unsafe {
            let c = (*self.s).connection;
            if !(*c).proxy_protocol.is_null() || self.destination.is_some() {
                return None;
            }
            let local = Host::from_socket(&socket::local(c)?);
            (local.ip().is_ipv4() == client.ip().is_ipv4()).then(|| local.at(0))
        }
    }

    /// What each leg is.
    fn tls(&self, client: bool, server: bool) -> Tls {
        Tls {
            client,
            server,
            resumed: client && self.own_tls_context,
        }
    }

    /// Reserves a port in place of the current one. What stands in the way is logged.
    unsafe fn reserve_port(&mut self, wanted: &Wanted<'_>) -> Option<u16> {
        // SAFETY: the session is alive and its upstream connected.
        unsafe {
            let log = self.log();
            let zone = self.zone()?;
            let served = match wanted.way {
                // Nobody has to come to its port.
                Way::Neither => Some(zone.ports()),
                _ => zone.served(),
            };
            let Some(ports) = served else {
                let name = &zone.name;
                ngx_log_error!(
                    NGX_LOG_ERR,
                    log,
                    "no worker serves the old zone \"{name}\" any more: clients have to log in anew"
                );
                return None;
            };
            let kept = match wanted.tls.server && self.conf().resumes_tls {
                true => self.resumable.keep(
                    self.upstream_connection(),
                    zone,
                    stock::verifies_servers(self.s),
                ),
                false => None,
            };
            let request = Request {
                peer: match wanted.from {
                    Some(host) if !self.conf().any_peer() => Peer::Host(host),
                    _ => Peer::Any,
                },
                target: wanted.target,
                local: wanted.local,
                mate: wanted.mate,
                session: self.id,
                mode: wanted.mode.into(),
                way: wanted.way,
                tls: wanted.tls,
                owner: zone::this_worker(),
                deadline: zone::now().saturating_add(self.conf().data_timeout as u64),
                user: wanted.user,
                verb: wanted
                    .transfer
                    .map_or(b"", |transfer| transfer.verb.as_bytes()),
                path: wanted.transfer.map_or(b"", |transfer| transfer.path),
                name: match wanted.tls.server {
                    true => (*self.upstream()).ssl_name.as_bytes(),
                    false => b"",
                },
                kept,
            };
            let mut reclaimed = Reclaimed::default();
            let old = match wanted.mate {
                Some(_) => [None, None],
                None => self.take_all(),
            };
            let done = zone.with(|table| {
                let given_back = old.map(|old| old.map(|old| GivenBack::to(table, old.ticket)));
                let reserved = table.reserve(
                    zone::now(),
                    &request,
                    ports.clone(),
                    &mut || zone::random(log),
                    &mut zone::is_dead,
                    &mut |reservation| reclaimed.push(reservation),
                );
                (given_back, reserved)
            });
            let (given_back, reserved) = done?;
            self.note_given_back(given_back);
            reclaimed.log(log);
            let name = &zone.name;
            let (whom, target) = (Whom(wanted.from), wanted.target);
            match reserved {
                Ok(reserved) => {
                    let (port, session) = (reserved.port, self.id);
                    self.current = Some(reserved);
                    self.port = Some(port);
                    if wanted.tls.client {
                        tls::give_ticket((*self.s).connection, &mut self.ticket_given);
                    }
                    ngx_log_error!(
                        NGX_LOG_INFO,
                        log,
                        "ftp reserved port {port} for {whom}, target {target}, session {session:016x}"
                    );
                    Some(port)
                }
                Err(ReserveError::NoPort) => {
                    let (min, max) = ports.into_inner();
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

/// What a port is reserved for.
struct Wanted<'a> {
    /// Who connects to it; `None` where that has no address and anybody may.
    from: Option<Host>,
    target: SocketAddr,
    local: Option<SocketAddr>,
    /// What was reserved for the server, which stays.
    mate: Option<Ticket>,
    mode: Mode,
    way: Way,
    tls: Tls,
    user: &'a [u8],
    transfer: Option<Transfer<'a>>,
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

/// Who may connect, in a log line.
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
            Mode::Port => Self::Port,
            Mode::Eprt => Self::Eprt,
        }
    }
}
