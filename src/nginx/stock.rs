//! What we borrow of the stock proxy, `ngx_stream_proxy_module`, which no header declares: its content
//! handler, by way of the directive `proxy_pass`, and a few of its settings, by the offsets that its own
//! directives write them to.

use std::ffi::{CStr, c_char, c_void};
use std::{mem, ptr};

use super::log::ngx_log_error;
use nginx_sys::{
    NGX_LOG_ERR, NGX_OK, ngx_array_t, ngx_command_t, ngx_conf_t, ngx_event_connect_peer,
    ngx_flag_t, ngx_int_t, ngx_module_t, ngx_msec_t, ngx_palloc, ngx_peer_connection_t, ngx_ssl_t,
    ngx_str_t, ngx_stream_conf_ctx_t, ngx_stream_content_handler_pt, ngx_stream_core_srv_conf_t,
    ngx_stream_module_t, ngx_stream_session_t, ngx_stream_upstream_main_conf_t,
    ngx_stream_upstream_srv_conf_t, ngx_uint_t,
};

unsafe extern "C" {
    static mut ngx_stream_proxy_module: ngx_module_t;
    static mut ngx_stream_core_module: ngx_module_t;
    static mut ngx_stream_upstream_module: ngx_module_t;
    static mut ngx_stream_ssl_module: ngx_module_t;
}

/// An nginx string over static bytes; nginx compares names as C strings, so a NUL stands behind them.
pub const fn text(text: &'static CStr) -> ngx_str_t {
    ngx_str_t {
        len: text.count_bytes(),
        data: text.as_ptr().cast_mut().cast(),
    }
}

/// `proxy_pass name;` in the server that `cf` is in.
///
/// # Safety
///
/// `cf` is in a `server` block; `name` lives as long as the configuration.
pub unsafe fn proxy_pass(cf: *mut ngx_conf_t, name: ngx_str_t) -> *mut c_char {
    // SAFETY: the setter is called as nginx itself calls it: with the server's own proxy configuration, and
    // two arguments.
    unsafe {
        let Some(command) = command(c"proxy_pass") else {
            return c"is not available".as_ptr().cast_mut();
        };
        let ctx = (*cf).ctx.cast::<ngx_stream_conf_ctx_t>();
        let conf = *(*ctx).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        call_setter(cf, command, conf, name)
    }
}

/// The content handler that `proxy_pass` installs, found by running the directive on a configuration
/// that nobody uses.
///
/// # Safety
///
/// `cf` is in the `stream` block.
pub unsafe fn proxy_handler(cf: *mut ngx_conf_t) -> ngx_stream_content_handler_pt {
    // SAFETY: the setter sees a copy of the array of configurations, in which the two it writes to are
    // scratch ones; a value with a variable makes it add no upstream.
    unsafe {
        let command = command(c"proxy_pass")?;
        let module = ngx_stream_proxy_module.ctx.cast::<ngx_stream_module_t>();
        let create = (*module).create_srv_conf?;
        let stream = (*cf).ctx.cast::<ngx_stream_conf_ctx_t>();
        let count = nginx_sys::ngx_stream_max_module;
        let mut confs: Vec<*mut c_void> = (0..count).map(|i| *(*stream).srv_conf.add(i)).collect();
        let mut core: ngx_stream_core_srv_conf_t = mem::zeroed();
        let proxy = create(cf);
        if proxy.is_null() {
            return None;
        }
        *confs.get_mut(ngx_stream_proxy_module.ctx_index)? = proxy;
        *confs.get_mut(ngx_stream_core_module.ctx_index)? = (&raw mut core).cast();
        let mut scratch = *stream;
        scratch.srv_conf = confs.as_mut_ptr();
        let ctx = mem::replace(&mut (*cf).ctx, (&raw mut scratch).cast());
        let answer = call_setter(cf, command, proxy, text(c"$remote_addr"));
        (*cf).ctx = ctx;
        answer.is_null().then_some(core.handler)?
    }
}

unsafe fn call_setter(
    cf: *mut ngx_conf_t,
    command: *mut ngx_command_t,
    conf: *mut c_void,
    argument: ngx_str_t,
) -> *mut c_char {
    // SAFETY: `args` is put back before the array on this stack goes.
    unsafe {
        let mut values = [(*command).name, argument];
        let mut args: ngx_array_t = mem::zeroed();
        args.elts = values.as_mut_ptr().cast();
        args.nelts = values.len();
        args.size = mem::size_of::<ngx_str_t>();
        args.nalloc = values.len();
        args.pool = (*cf).pool;
        let saved = mem::replace(&mut (*cf).args, &raw mut args);
        let answer = match (*command).set {
            Some(set) => set(cf, command, conf),
            None => c"is not available".as_ptr().cast_mut(),
        };
        (*cf).args = saved;
        answer
    }
}

/// The server's `proxy_timeout` in milliseconds.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn proxy_timeout(s: *mut ngx_stream_session_t) -> Option<ngx_msec_t> {
    // SAFETY: the directive writes an `ngx_msec_t` there.
    unsafe { setting(s, c"proxy_timeout") }
}

/// The server's `proxy_connect_timeout` in milliseconds.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn connect_timeout(s: *mut ngx_stream_session_t) -> Option<ngx_msec_t> {
    // SAFETY: the directive writes an `ngx_msec_t` there.
    unsafe { setting(s, c"proxy_connect_timeout") }
}

/// Whether the server has `proxy_ssl_verify on`.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn verifies_servers(s: *mut ngx_stream_session_t) -> bool {
    // SAFETY: the directive writes an `ngx_flag_t` there.
    unsafe { setting::<ngx_flag_t>(s, c"proxy_ssl_verify") == Some(1) }
}

/// Turns `proxy_ssl_session_reuse` off in a server. Whether it was on.
///
/// # Safety
///
/// `ctx` is the context of a `server` block, and everything is merged.
pub unsafe fn take_session_reuse(ctx: *mut ngx_stream_conf_ctx_t) -> bool {
    // SAFETY: the directive writes an `ngx_flag_t` there.
    unsafe {
        let conf = *(*ctx).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        command(c"proxy_ssl_session_reuse").is_some_and(|reuse| {
            let flag = conf.byte_add((*reuse).offset).cast::<ngx_flag_t>();
            flag.replace(0) == 1
        })
    }
}

/// Whether a server's configuration has `proxy_ssl on`.
///
/// # Safety
///
/// `ctx` is the context of a `server` block, and everything is merged.
pub unsafe fn has_proxy_ssl(ctx: *const ngx_stream_conf_ctx_t) -> bool {
    // SAFETY: the directive writes an `ngx_flag_t` there.
    unsafe {
        let conf = *(*ctx).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        command(c"proxy_ssl")
            .is_some_and(|ssl| conf.byte_add((*ssl).offset).cast::<ngx_flag_t>().read() == 1)
    }
}

/// The same proxy configuration with `proxy_ssl` the other way round, and all else inherited. `None` where it
/// cannot be made; nginx has said why.
///
/// # Safety
///
/// `ctx` is the context of a `server` block with `proxy_pass name`, and everything is merged.
pub unsafe fn other_proxy_ssl(
    cf: *mut ngx_conf_t,
    ctx: *mut ngx_stream_conf_ctx_t,
    name: ngx_str_t,
) -> Option<*mut c_void> {
    // SAFETY: the module's own functions make, fill and merge its configuration, as nginx would have them do.
    // `cf` is in a scratch copy of the server meanwhile, for the setter writes the core's configuration too.
    unsafe {
        let (ssl, pass) = (command(c"proxy_ssl")?, command(c"proxy_pass")?);
        let module = ngx_stream_proxy_module.ctx.cast::<ngx_stream_module_t>();
        let (create, merge) = ((*module).create_srv_conf?, (*module).merge_srv_conf?);
        let present = *(*ctx).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        let other = create(cf);
        if other.is_null() {
            return None;
        }
        let on = !has_proxy_ssl(ctx);
        other
            .byte_add((*ssl).offset)
            .cast::<ngx_flag_t>()
            .write(on.into());
        let saved = mem::replace(&mut (*cf).ctx, ctx.cast());
        let passed = call_setter(cf, pass, other, name);
        (*cf).ctx = saved;
        let merged = passed.is_null() && merge(cf, present, other).is_null();
        merged.then_some(other)
    }
}

/// Gives the session a copy of its server's configurations with another one of the proxy's.
///
/// # Safety
///
/// `s` is alive and not proxied yet; `proxy` is from `other_proxy_ssl`.
pub unsafe fn use_proxy_conf(s: *mut ngx_stream_session_t, proxy: *mut c_void) -> bool {
    // SAFETY: the array has a place for every module, and lives in the connection's pool.
    unsafe {
        let count = nginx_sys::ngx_stream_max_module;
        let size = count * mem::size_of::<*mut c_void>();
        let confs = ngx_palloc((*(*s).connection).pool, size).cast::<*mut c_void>();
        if confs.is_null() {
            return false;
        }
        confs.copy_from_nonoverlapping((*s).srv_conf, count);
        confs.add(ngx_stream_proxy_module.ctx_index).write(proxy);
        (*s).srv_conf = confs;
    }
    true
}

/// Connects to a peer whose address is known, as the proxy would have it done after `get`: for a `get` that has something
/// to do with the connection before the proxy has it.
///
/// # Safety
///
/// Called from within the peer's `get`.
pub unsafe fn connect(peer: *mut ngx_peer_connection_t) -> ngx_int_t {
    unsafe extern "C" fn is_chosen(_: *mut ngx_peer_connection_t, _: *mut c_void) -> ngx_int_t {
        NGX_OK as ngx_int_t
    }
    // SAFETY: nginx asks the copy for nothing but its fields.
    unsafe {
        let mut own = *peer;
        own.get = Some(is_chosen);
        let connected = ngx_event_connect_peer(&raw mut own);
        (*peer).connection = own.connection;
        connected
    }
}

/// Logs that a server has taken its time over TLS, of which the proxy says nothing.
///
/// # Safety
///
/// Called from within the peer's `free`.
pub unsafe fn log_slow_handshake(peer: *mut ngx_peer_connection_t) {
    // SAFETY: the connection is open, if there is one.
    unsafe {
        let Some(pc) = (*peer).connection.as_ref() else {
            return;
        };
        let waits = pc.ssl.as_ref().is_some_and(|tls| tls.handshaked() == 0);
        if waits && (*pc.write).timedout() == 1 {
            let what = "server did not finish the TLS handshake within \"proxy_connect_timeout\"";
            ngx_log_error!(NGX_LOG_ERR, (*peer).log, "{what}");
        }
    }
}

/// Whether the server has `proxy_protocol on`.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn sends_proxy_protocol(s: *mut ngx_stream_session_t) -> bool {
    // SAFETY: the directive writes an `ngx_flag_t` there.
    unsafe { setting::<ngx_flag_t>(s, c"proxy_protocol") == Some(1) }
}

unsafe fn setting<T: Copy>(s: *mut ngx_stream_session_t, name: &CStr) -> Option<T> {
    // SAFETY: the caller names a directive that writes a `T` into the proxy's configuration.
    unsafe {
        let offset: ngx_uint_t = (*command(name)?).offset;
        let conf = *(*s).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        Some(conf.byte_add(offset).cast::<T>().read())
    }
}

unsafe fn command(name: &CStr) -> Option<*mut ngx_command_t> {
    // SAFETY: the array ends with an entry of an empty name.
    unsafe {
        let mut command = ngx_stream_proxy_module.commands;
        while (*command).name.len > 0 {
            if (*command).name.as_bytes() == name.to_bytes() {
                return Some(command);
            }
            command = command.add(1);
        }
    }
    None
}

/// The core's configuration of a server.
///
/// # Safety
///
/// `ctx` is the context of a `server` block.
pub unsafe fn core_conf(ctx: *const ngx_stream_conf_ctx_t) -> *mut ngx_stream_core_srv_conf_t {
    // SAFETY: nginx made one for every server.
    unsafe { (*(*ctx).srv_conf.add(ngx_stream_core_module.ctx_index)).cast() }
}

/// The core's main configuration.
///
/// # Safety
///
/// `ctx` is the context of the `stream` block or of a server in it.
pub unsafe fn core_main_conf(
    ctx: *const ngx_stream_conf_ctx_t,
) -> *mut nginx_sys::ngx_stream_core_main_conf_t {
    // SAFETY: nginx made one.
    unsafe { (*(*ctx).main_conf.add(ngx_stream_core_module.ctx_index)).cast() }
}

/// The upstreams that are known so far.
///
/// # Safety
///
/// `ctx` is the context of the `stream` block or of a server in it.
pub unsafe fn upstreams<'a>(
    ctx: *const ngx_stream_conf_ctx_t,
) -> &'a [*mut ngx_stream_upstream_srv_conf_t] {
    // SAFETY: nginx made the list; its elements are pointers to upstreams.
    unsafe {
        let index = ngx_stream_upstream_module.ctx_index;
        let main = (*(*ctx).main_conf.add(index)).cast::<ngx_stream_upstream_main_conf_t>();
        (*main).upstreams.as_slice()
    }
}

/// The context of the `stream` block itself: at its end nginx leaves that of a server in `cf`.
#[cfg(not(nginx_listen_in_ports))]
static mut STREAM: *mut ngx_stream_conf_ctx_t = ptr::null_mut();

/// A `stream` block begins.
///
/// # Safety
///
/// Called before it is read, by the one thread that reads it.
pub unsafe fn begin_stream(cf: *mut ngx_conf_t) {
    #[cfg(not(nginx_listen_in_ports))]
    // SAFETY: the caller's promise.
    unsafe {
        STREAM = (*cf).ctx.cast();
    }
    #[cfg(nginx_listen_in_ports)]
    let _ = cf;
}

#[cfg(nginx_listen_in_ports)]
type SslConf = nginx_sys::ngx_stream_ssl_srv_conf_t;
#[cfg(not(nginx_listen_in_ports))]
type SslConf = nginx_sys::ngx_stream_ssl_conf_t;

/// The server's TLS with clients, and `ssl_handshake_timeout` in milliseconds.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn tls_of(s: *mut ngx_stream_session_t) -> (*mut ngx_ssl_t, ngx_msec_t) {
    // SAFETY: the ssl module made its configuration of the server.
    unsafe {
        let conf = (*(*s).srv_conf.add(ngx_stream_ssl_module.ctx_index)).cast::<SslConf>();
        (&raw mut (*conf).ssl, (*conf).handshake_timeout)
    }
}

/// `ssl_session_timeout` and `proxy_timeout` of a server, in milliseconds.
///
/// # Safety
///
/// `ctx` is the context of a `server` block with TLS, and everything is merged.
pub unsafe fn session_timeouts(ctx: *const ngx_stream_conf_ctx_t) -> Option<(u64, u64)> {
    // SAFETY: the ssl module made and merged its configuration of the server, and so did the proxy, whose directive
    // writes an `ngx_msec_t` there.
    unsafe {
        let ssl = (*(*ctx).srv_conf.add(ngx_stream_ssl_module.ctx_index)).cast::<SslConf>();
        let tls = u64::try_from((*ssl).session_timeout).ok()?;
        let offset: ngx_uint_t = (*command(c"proxy_timeout")?).offset;
        let proxy = *(*ctx).srv_conf.add(ngx_stream_proxy_module.ctx_index);
        let proxy = proxy.byte_add(offset).cast::<ngx_msec_t>().read();
        Some((tls.saturating_mul(1000), u64::try_from(proxy).ok()?))
    }
}

/// Whether the server can do TLS with its clients, made so if it only has to be: up to 1.25.4 nginx prepares that
/// for servers with `listen ... ssl` alone.
///
/// # Safety
///
/// `ctx` is the context of a `server` block, and everything is merged.
pub unsafe fn can_do_tls(
    cf: *mut ngx_conf_t,
    ctx: *mut ngx_stream_conf_ctx_t,
    place: (ngx_str_t, ngx_uint_t),
) -> bool {
    // SAFETY: the ssl module made and merged its configuration of the server.
    unsafe {
        let slot = (*ctx).srv_conf.add(ngx_stream_ssl_module.ctx_index);
        if (*(*slot).cast::<SslConf>()).ssl.ctx.is_null() {
            prepare_tls(cf, slot, place);
        }
        !(*(*slot).cast::<SslConf>()).ssl.ctx.is_null()
    }
}

#[cfg(nginx_listen_in_ports)]
unsafe fn prepare_tls(
    _cf: *mut ngx_conf_t,
    _slot: *mut *mut c_void,
    _place: (ngx_str_t, ngx_uint_t),
) {
}

/// Makes a configuration as `listen ... ssl` would have, which inherits everything from the present one.
#[cfg(not(nginx_listen_in_ports))]
unsafe fn prepare_tls(
    cf: *mut ngx_conf_t,
    slot: *mut *mut c_void,
    (file, line): (ngx_str_t, ngx_uint_t),
) {
    // SAFETY: the module's own functions make and merge its configuration, as nginx would have them do.
    unsafe {
        let parent = (*slot).cast::<SslConf>();
        if (*parent).certificates.is_null() {
            return;
        }
        let module = ngx_stream_ssl_module.ctx.cast::<ngx_stream_module_t>();
        let (Some(create), Some(merge)) = ((*module).create_srv_conf, (*module).merge_srv_conf)
        else {
            return;
        };
        let Some(child) = create(cf).cast::<SslConf>().as_mut() else {
            return;
        };
        child.listen = 1;
        (child.file, child.line) = (file.data, line);
        // Of these the parent has its own only: without `listen` they are not merged.
        let outer = (*(*STREAM).srv_conf.add(ngx_stream_ssl_module.ctx_index)).cast::<SslConf>();
        for conf in [parent, outer] {
            if child.builtin_session_cache == -1 {
                child.builtin_session_cache = (*conf).builtin_session_cache;
            }
            if child.session_tickets == -1 {
                child.session_tickets = (*conf).session_tickets;
            }
            if child.session_ticket_keys.addr() == usize::MAX {
                child.session_ticket_keys = (*conf).session_ticket_keys;
            }
            if child.shm_zone.is_null() {
                child.shm_zone = (*conf).shm_zone;
            }
        }
        if merge(cf, parent.cast(), ptr::from_mut(child).cast()).is_null() {
            *slot = ptr::from_mut(child).cast();
        }
    }
}

/// `NGX_CONF_OK`.
pub const CONF_OK: *mut c_char = ptr::null_mut();
/// `NGX_CONF_ERROR`: the setter has logged what is wrong.
pub const CONF_ERROR: *mut c_char = ptr::without_provenance_mut(usize::MAX);
