//! The checks that need the whole configuration, for which nginx calls at the end of the `stream` block, and what
//! is made then: TLS for servers whose `listen` does not say so, and the proxy's other configuration.

use std::fmt::Display;
use std::ptr;

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_LOG_EMERG, NGX_LOG_WARN, ngx_conf_t, ngx_inet_get_port, ngx_stream_conf_ctx_t,
    ngx_stream_core_srv_conf_t, sockaddr,
};

use super::auth;
use super::conf::directives::MIXED;
use super::conf::{MainConf, SrvConf, UNSET};
use super::module::{ctx_index, hidden_upstream};
#[cfg(not(nginx_listen_in_ports))]
use super::stock::core_conf;
use super::stock::{self, core_main_conf};
use super::zone::Zone;
use crate::session::AuthTls;

/// What only the whole configuration can tell: conflicting handlers, zones without a range or with two
/// minds, ports nobody listens on. `None` when nginx must not start.
///
/// # Safety
///
/// `cf` is in the `stream` block, at its end.
pub unsafe fn check(cf: *mut ngx_conf_t) -> Option<()> {
    // SAFETY: every server is complete and merged.
    unsafe {
        let proxy = stock::proxy_handler(cf).map(|handler| handler as usize);
        let main = core_main_conf((*cf).ctx.cast::<ngx_stream_conf_ctx_t>());
        let servers: &[*mut ngx_stream_core_srv_conf_t] = (*main).servers.as_slice();
        let mut zones: Vec<*mut Zone> = Vec::new();
        for &core in servers {
            let conf = of_server(core);
            let Some(zone) = conf.ctrl.as_mut().or(conf.data.as_mut()) else {
                continue;
            };
            if (*core).handler.map(|handler| handler as usize) != proxy {
                return wrong(
                    cf,
                    conf,
                    match conf.is_data() {
                        true => MIXED,
                        false => "\"ftp_ctrl\" needs \"proxy_pass\"",
                    },
                );
            }
            if conf.is_data() && zone.data_server.is_null() {
                zone.data_server = (*core).ctx;
            }
            let name = zone.name;
            if (*zone.shm).shm.size == 0 {
                return wrong(
                    cf,
                    conf,
                    format_args!(
                        "zone \"{name}\" has no size: no \"ftp_ctrl\" says \"zone={name}:size\""
                    ),
                );
            }
            if conf.is_control() && zone.min_port == 0 {
                return wrong(cf, conf, format_args!("zone \"{name}\" has no port range"));
            }
            if conf.data_timeout == 0 {
                return wrong(cf, conf, "\"ftp_data_timeout\" must not be 0");
            }
            if zone.peer == UNSET {
                zone.peer = conf.data_peer;
            }
            if zone.peer != conf.data_peer {
                return wrong(
                    cf,
                    conf,
                    format_args!(
                        "\"ftp_data_peer\" differs between the servers of zone \"{name}\""
                    ),
                );
            }
            if conf.is_control() && !zones.contains(&(zone as *mut Zone)) {
                zones.push(zone);
            }
        }
        for listen in listens(cf) {
            check_listen(cf, &listen)?;
        }
        check_tls(cf, servers)?;
        for zone in zones {
            warn_of_uncovered(cf, &*zone);
        }
        check_auth(cf, servers)?;
    }
    Some(())
}

/// Servers that have to do TLS with clients without a `listen ... ssl` that says so: control servers with AUTH,
/// and the data servers of zones whose clients may want their data private.
unsafe fn check_tls(
    cf: *mut ngx_conf_t,
    servers: &[*mut ngx_stream_core_srv_conf_t],
) -> Option<()> {
    // SAFETY: every server is complete.
    unsafe {
        let mut private: Vec<*mut Zone> = Vec::new();
        let mut control = Vec::new();
        for listen in listens(cf) {
            let conf = of_server(listen.server);
            if conf.is_control() && listen.ssl {
                private.push(conf.ctrl);
                control.push(listen.server);
            }
        }
        for &core in servers {
            let conf = of_server(core);
            if !conf.is_control() || conf.auth_tls() == AuthTls::Off {
                continue;
            }
            private.push(conf.ctrl);
            if !stock::can_do_tls(cf, (*core).ctx, (conf.file, conf.line)) {
                return wrong(cf, conf, "\"ftp_auth_tls\" needs \"ssl_certificate\"");
            }
            control.push(core);
        }
        check_server_tls(cf, servers)?;
        for &core in servers {
            let conf = of_server(core);
            if private.contains(&conf.data)
                && !stock::can_do_tls(cf, (*core).ctx, (conf.file, conf.line))
            {
                return wrong(
                    cf,
                    conf,
                    "\"ftp_data\" needs \"ssl_certificate\": control servers of its zone do TLS",
                );
            }
        }
        for &core in servers {
            if control.contains(&core) {
                warn_of_short_sessions(cf, core);
            }
        }
    }
    Some(())
}

/// A control connection may be idle for longer than nginx knows its TLS session, and then no data connection can
/// resume that, though it has to.
unsafe fn warn_of_short_sessions(cf: *mut ngx_conf_t, core: *mut ngx_stream_core_srv_conf_t) {
    // SAFETY: the server is complete, and has TLS.
    let (log, conf, timeouts) = unsafe {
        (
            (*cf).log,
            of_server(core),
            stock::session_timeouts((*core).ctx),
        )
    };
    if conf.tls_reuse_required() && timeouts.is_some_and(|(tls, proxy)| tls < proxy) {
        let (file, line) = (&conf.file, conf.line);
        ngx_log_error!(
            NGX_LOG_WARN,
            log,
            "\"ssl_session_timeout\" is less than \"proxy_timeout\": \"ftp_data_tls_reuse required\" \
             refuses data connections of older sessions in {file}:{line}"
        );
    }
}

/// Data servers whose zone has a control server with `proxy_ssl on`, or that have it themselves, need both kinds of
/// proxy: which one, every session tells.
unsafe fn check_server_tls(
    cf: *mut ngx_conf_t,
    servers: &[*mut ngx_stream_core_srv_conf_t],
) -> Option<()> {
    // SAFETY: every server is complete, and changed only here.
    unsafe {
        let mut zones: Vec<*mut Zone> = Vec::new();
        for &core in servers {
            let conf = of_server(core);
            if conf.is_control() && stock::has_proxy_ssl((*core).ctx) {
                zones.push(conf.ctrl);
                // Between control connections it would spend tickets that are meant for data connections, and let
                // the server take one user's for another's.
                let conf = conf_of((*core).ctx);
                (*conf).resumes_tls = stock::take_session_reuse((*core).ctx);
            }
        }
        for &core in servers {
            let ctx = (*core).ctx;
            let conf = conf_of(ctx);
            if !(*conf).is_data() {
                continue;
            }
            let own = stock::has_proxy_ssl(ctx);
            (*conf).proxy_ssl = own.into();
            if own || zones.contains(&(*conf).data) {
                let Some(other) = stock::other_proxy_ssl(cf, ctx, hidden_upstream()) else {
                    return wrong(cf, &*conf, "\"ftp_data\" cannot do TLS with servers");
                };
                (*conf).other_proxy = other;
            }
        }
    }
    Some(())
}

/// Control servers with `proxy_ssl on` get our content handler before the proxy's, and every upstream our peer before
/// its own: with a variable in `proxy_pass` it may be any.
unsafe fn check_auth(
    cf: *mut ngx_conf_t,
    servers: &[*mut ngx_stream_core_srv_conf_t],
) -> Option<()> {
    // SAFETY: every server is complete, and changed only here.
    unsafe {
        let ctx = (*cf).ctx.cast::<ngx_stream_conf_ctx_t>();
        let main = (*(*ctx).main_conf.add(ctx_index())).cast::<MainConf>();
        for &core in servers {
            let conf = of_server(core);
            let tls = stock::has_proxy_ssl((*core).ctx);
            if conf.is_control() && conf.proxy_auth_tls() && !tls {
                return wrong(cf, conf, "\"ftp_proxy_auth_tls\" needs \"proxy_ssl on\"");
            }
            if !conf.is_control() || !tls {
                continue;
            }
            (*main).content = (*core).handler.replace(auth::content);
        }
        if (*main).content.is_none() {
            return Some(());
        }
        for &upstream in stock::upstreams(ctx) {
            let init = (*upstream).peer.init.replace(auth::init_peer);
            (*main).keep_balancer(upstream, init);
        }
    }
    Some(())
}

unsafe fn check_listen(cf: *mut ngx_conf_t, listen: &Listen) -> Option<()> {
    // SAFETY: every server is complete.
    unsafe {
        let (conf, default) = (of_server(listen.server), of_server(listen.default));
        if (conf.ctrl, conf.data) != (default.ctrl, default.data) {
            let conf = if conf.file.len > 0 { conf } else { default };
            return wrong(
                cf,
                conf,
                "servers of one address must have the same \"ftp_ctrl\" or \"ftp_data\" zone",
            );
        }
        // Both count before the client's hello has named a server.
        let early = |conf: &SrvConf| (conf.auth_tls(), conf.tls_reuse_required());
        if conf.is_control() && early(conf) != early(default) {
            return wrong(
                cf,
                conf,
                "servers of one address must have the same \"ftp_auth_tls\" and \"ftp_data_tls_reuse\"",
            );
        }
        let name = match (conf.is_control(), conf.is_data()) {
            (true, _) => "ftp_ctrl",
            (_, true) => "ftp_data",
            _ => return Some(()),
        };
        if listen.datagrams {
            return wrong(
                cf,
                conf,
                format_args!("\"{name}\" does not support \"udp\""),
            );
        }
        if conf.is_data() && i32::from((*listen.address).sa_family) == libc::AF_UNIX {
            return wrong(cf, conf, "\"ftp_data\" does not support unix sockets");
        }
    }
    Some(())
}

unsafe fn of_server<'a>(core: *mut ngx_stream_core_srv_conf_t) -> &'a SrvConf {
    // SAFETY: every server has our configuration.
    unsafe { &*conf_of((*core).ctx) }
}

/// The context of the (default) server at a listening address.
///
/// # Safety
///
/// `served` is part of a cycle's listening socket.
pub unsafe fn server_at(served: &nginx_sys::ngx_stream_addr_conf_t) -> *mut ngx_stream_conf_ctx_t {
    #[cfg(nginx_listen_in_ports)]
    // SAFETY: every address has a default server.
    let ctx = unsafe { (*served.default_server).ctx };
    #[cfg(not(nginx_listen_in_ports))]
    let ctx = served.ctx;
    ctx
}

/// Our configuration of a server.
///
/// # Safety
///
/// `ctx` is the context of a `server` block.
pub unsafe fn conf_of(ctx: *mut ngx_stream_conf_ctx_t) -> *mut SrvConf {
    // SAFETY: every server has our configuration.
    unsafe { (*(*ctx).srv_conf.add(ctx_index())).cast() }
}

unsafe fn wrong(cf: *mut ngx_conf_t, conf: &SrvConf, text: impl Display) -> Option<()> {
    let (file, line) = (&conf.file, conf.line);
    // SAFETY: nginx's configuration context.
    let log = unsafe { (*cf).log };
    ngx_log_error!(NGX_LOG_EMERG, log, "{text} in {file}:{line}");
    None
}

/// Ports of the range on which a data connection would be refused by the kernel.
unsafe fn warn_of_uncovered(cf: *mut ngx_conf_t, zone: &Zone) {
    // SAFETY: nginx's configuration context.
    let log = unsafe { (*cf).log };
    let mut listened = vec![false; 1 << 16];
    let mut redirected = false;
    // SAFETY: the listening sockets are known by now.
    unsafe {
        for listen in listens(cf) {
            let conf = of_server(listen.server);
            if !ptr::eq(conf.data, zone) {
                continue;
            }
            redirected |= conf.original_dst();
            let port = usize::from(ngx_inet_get_port(listen.address));
            if let Some(place) = listened.get_mut(port) {
                *place = true;
            }
        }
    }
    // A redirect rule may feed the others.
    if redirected {
        return;
    }
    let covered = |port: &u16| listened.get(usize::from(*port)) == Some(&true);
    let name = &zone.name;
    let mut ports = zone.ports().peekable();
    while let Some(first) = ports.next() {
        if covered(&first) {
            continue;
        }
        let mut last = first;
        while let Some(port) = ports.next_if(|port| !covered(port)) {
            last = port;
        }
        ngx_log_error!(
            NGX_LOG_WARN,
            log,
            "ports \"{first}-{last}\" of zone \"{name}\" have no \"ftp_data\" listener, \
             nor one with \"ftp_original_dst on\""
        );
    }
}

/// A server at a listening address.
struct Listen {
    address: *mut sockaddr,
    datagrams: bool,
    ssl: bool,
    server: *mut ngx_stream_core_srv_conf_t,
    /// The server that counts until TLS tells another by its name.
    default: *mut ngx_stream_core_srv_conf_t,
}

#[cfg(not(nginx_listen_in_ports))]
unsafe fn listens(cf: *mut ngx_conf_t) -> Vec<Listen> {
    // SAFETY: the elements are of this type up to 1.25.4, where an address has one server.
    unsafe {
        let main = core_main_conf((*cf).ctx.cast());
        let all = (*main).listen.as_slice::<nginx_sys::ngx_stream_listen_t>();
        let one = |listen: &nginx_sys::ngx_stream_listen_t| Listen {
            address: listen.sockaddr,
            datagrams: listen.type_ != libc::SOCK_STREAM,
            ssl: listen.ssl() == 1,
            server: core_conf(listen.ctx),
            default: core_conf(listen.ctx),
        };
        all.iter().map(one).collect()
    }
}

#[cfg(nginx_listen_in_ports)]
unsafe fn listens(cf: *mut ngx_conf_t) -> Vec<Listen> {
    use nginx_sys::{ngx_stream_conf_addr_t, ngx_stream_conf_port_t};
    let mut all = Vec::new();
    // SAFETY: the elements are of these types from 1.25.5 on; the list is null without any `listen`.
    unsafe {
        let main = core_main_conf((*cf).ctx.cast());
        let Some(ports) = (*main).ports.as_ref() else {
            return all;
        };
        let ports: &[ngx_stream_conf_port_t] = ports.as_slice();
        let addresses = ports
            .iter()
            .flat_map(|port| port.addrs.as_slice::<ngx_stream_conf_addr_t>());
        for address in addresses {
            let servers: &[*mut ngx_stream_core_srv_conf_t] = address.servers.as_slice();
            all.extend(servers.iter().map(|&server| Listen {
                address: address.opt.sockaddr,
                datagrams: address.opt.type_ != libc::SOCK_STREAM,
                ssl: address.opt.ssl() == 1,
                server,
                default: address.default_server,
            }));
        }
    }
    all
}
