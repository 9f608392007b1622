//! The server configuration: what of it others ask for, and merging. What needs all of it is in `check`.

pub mod directives;

use std::ffi::{c_char, c_void};
use std::{mem, ptr};

use nginx_sys::{
    ngx_array_t, ngx_conf_t, ngx_flag_t, ngx_msec_t, ngx_pcalloc, ngx_pool_cleanup_add, ngx_str_t,
    ngx_stream_complex_value_t, ngx_stream_session_t, ngx_stream_upstream_init_peer_pt,
    ngx_stream_upstream_srv_conf_t, ngx_uint_t,
};

use super::listener::Inherited;
use super::stock::CONF_OK;
use super::zone::Zone;
use crate::session::{AuthTls, ClientModes, ServerMode};

/// `ftp_data_peer same`: only the control client's address may use its reservation.
pub const PEER_SAME: ngx_uint_t = 0;
/// `ftp_data_peer any`.
pub const PEER_ANY: ngx_uint_t = 1;

pub(super) const UNSET: ngx_uint_t = ngx_uint_t::MAX;
const UNSET_MSEC: ngx_msec_t = ngx_msec_t::MAX;
const UNSET_FLAG: ngx_flag_t = -1;
const UNSET_LIST: *mut ngx_array_t = ptr::without_provenance_mut(usize::MAX);

/// Our part of a `server` (or, for what is inherited, of `stream`).
#[repr(C)]
pub struct SrvConf {
    pub(super) ctrl: *mut Zone,
    pub(super) data: *mut Zone,
    /// Where `ftp_ctrl` or `ftp_data` stands.
    pub(super) file: ngx_str_t,
    pub(super) line: ngx_uint_t,
    proxy_ip: *mut ngx_stream_complex_value_t,
    server_ip: *mut ngx_stream_complex_value_t,
    client_mode: ngx_uint_t,
    server_mode: ngx_uint_t,
    /// In milliseconds.
    pub data_timeout: ngx_msec_t,
    pub(super) data_peer: ngx_uint_t,
    pasv_trust: *mut ngx_array_t,
    /// Of a data server: the proxy's configuration with `proxy_ssl` the other way round, null if no session of the
    /// zone can need it.
    pub(super) other_proxy: *mut c_void,
    pub(super) proxy_ssl: ngx_flag_t,
    auth_tls: ngx_uint_t,
    data_tls: ngx_uint_t,
    tls_reuse: ngx_uint_t,
    tls_close_notify: ngx_uint_t,
    /// `proxy_ssl_session_reuse` of a control server, for its data connections.
    pub(super) resumes_tls: bool,
    /// Of a data server: what its connections have from their listening sockets.
    pub(super) inherited: Inherited,
    /// `ftp_proxy_auth_tls`.
    pub proxy_auth_tls: ngx_flag_t,
    /// `ftp_original_dst`.
    pub original_dst: ngx_flag_t,
}

impl SrvConf {
    /// The server has `ftp_ctrl`.
    pub fn is_control(&self) -> bool {
        !self.ctrl.is_null()
    }

    /// The server has `ftp_data`.
    pub fn is_data(&self) -> bool {
        !self.data.is_null()
    }

    /// The server's zone, if it has one.
    pub fn zone(&self) -> Option<&Zone> {
        // SAFETY: zones live in the cycle's pool, as this does.
        unsafe { self.ctrl.as_ref().or(self.data.as_ref()) }
    }

    /// `ftp_data_peer any`.
    pub fn any_peer(&self) -> bool {
        self.data_peer == PEER_ANY
    }

    /// The proxy's configuration for a data connection whose server's leg is TLS or not, where it is another one
    /// than the server's own.
    pub fn proxy_for(&self, tls: bool) -> Option<*mut c_void> {
        let other = tls != (self.proxy_ssl == 1) && !self.other_proxy.is_null();
        other.then_some(self.other_proxy)
    }

    /// Whether the server's own proxy does TLS with servers, or does not, as told.
    pub fn is_proxied_so(&self, tls: bool) -> bool {
        tls == (self.proxy_ssl == 1)
    }

    /// `ftp_client_mode`.
    pub fn client_modes(&self) -> ClientModes {
        match self.client_mode {
            1 => ClientModes::Active,
            2 => ClientModes::Any,
            _ => ClientModes::Passive,
        }
    }

    /// `ftp_server_mode`.
    pub fn server_mode(&self) -> ServerMode {
        match self.server_mode {
            1 => ServerMode::Passive,
            2 => ServerMode::Active,
            _ => ServerMode::Client,
        }
    }

    /// `ftp_auth_tls`.
    pub fn auth_tls(&self) -> AuthTls {
        match self.auth_tls {
            1 => AuthTls::On,
            2 => AuthTls::Only,
            _ => AuthTls::Off,
        }
    }

    /// `ftp_data_tls_reuse required`.
    pub fn tls_reuse_required(&self) -> bool {
        self.tls_reuse == 1
    }

    /// `ftp_data_tls_close_notify required`.
    pub fn close_notify_required(&self) -> bool {
        self.tls_close_notify == 1
    }

    /// `ftp_proxy_auth_tls on`.
    pub fn proxy_auth_tls(&self) -> bool {
        self.proxy_auth_tls == 1
    }

    /// `ftp_data_tls required`.
    pub fn data_tls_required(&self) -> bool {
        self.data_tls == 1
    }

    /// `ftp_original_dst on`: what counts is the address that the client dialled.
    pub fn original_dst(&self) -> bool {
        self.original_dst == 1
    }

    /// The networks of `ftp_pasv_trust`, null for none.
    pub fn trusted(&self) -> *mut ngx_array_t {
        self.pasv_trust
    }

    /// `proxy_ip`, null where the default counts.
    pub fn proxy_ip(&self) -> *mut ngx_stream_complex_value_t {
        self.proxy_ip
    }

    /// `server_ip`, null where the default counts.
    pub fn server_ip(&self) -> *mut ngx_stream_complex_value_t {
        self.server_ip
    }
}

/// Our part of the `stream` block: what of the stock modules comes after us.
#[derive(Default)]
pub struct MainConf {
    /// The proxy's content handler, where ours is in its place.
    pub content: Option<unsafe extern "C" fn(*mut ngx_stream_session_t)>,
    /// What initialised a peer of an upstream before us.
    balancers: Vec<(
        *mut ngx_stream_upstream_srv_conf_t,
        ngx_stream_upstream_init_peer_pt,
    )>,
}

impl MainConf {
    /// Notes an upstream's own.
    pub fn keep_balancer(
        &mut self,
        upstream: *mut ngx_stream_upstream_srv_conf_t,
        init: ngx_stream_upstream_init_peer_pt,
    ) {
        self.balancers.push((upstream, init));
    }

    /// An upstream's own.
    pub fn balancer(
        &self,
        upstream: *mut ngx_stream_upstream_srv_conf_t,
    ) -> ngx_stream_upstream_init_peer_pt {
        let known = self.balancers.iter().find(|(known, _)| *known == upstream);
        known.and_then(|(_, init)| *init)
    }
}

/// A new main configuration, null without memory.
///
/// # Safety
///
/// Called by nginx with its configuration context.
pub unsafe fn create_main(cf: *mut ngx_conf_t) -> *mut MainConf {
    // SAFETY: the box goes with the configuration's pool.
    unsafe {
        let Some(cleanup) = ngx_pool_cleanup_add((*cf).pool, 0).as_mut() else {
            return ptr::null_mut();
        };
        let main = Box::into_raw(Box::<MainConf>::default());
        cleanup.handler = Some(free_main);
        cleanup.data = main.cast();
        main
    }
}

unsafe extern "C" fn free_main(main: *mut c_void) {
    // SAFETY: `create_main` made it of a box, and the configuration is gone.
    drop(unsafe { Box::from_raw(main.cast::<MainConf>()) });
}

/// A new configuration with nothing set, null without memory.
///
/// # Safety
///
/// Called by nginx with its configuration context.
pub unsafe fn create(cf: *mut ngx_conf_t) -> *mut SrvConf {
    // SAFETY: zeroes are a value of `SrvConf`: null pointers and numbers.
    unsafe {
        let conf = ngx_pcalloc((*cf).pool, mem::size_of::<SrvConf>()).cast::<SrvConf>();
        if let Some(conf) = conf.as_mut() {
            conf.data_timeout = UNSET_MSEC;
            conf.data_peer = UNSET;
            conf.client_mode = UNSET;
            conf.server_mode = UNSET;
            conf.pasv_trust = UNSET_LIST;
            conf.original_dst = UNSET_FLAG;
            conf.auth_tls = UNSET;
            conf.data_tls = UNSET;
            conf.tls_reuse = UNSET;
            conf.tls_close_notify = UNSET;
            conf.proxy_auth_tls = UNSET_FLAG;
        }
        conf
    }
}

/// Takes over from the block around what is not set in this one.
pub fn merge(prev: &SrvConf, conf: &mut SrvConf) -> *mut c_char {
    fn inherit<T: PartialEq + Copy>(value: &mut T, outer: T, unset: T, default: T) {
        if *value == unset {
            *value = if outer == unset { default } else { outer };
        }
    }
    inherit(
        &mut conf.data_timeout,
        prev.data_timeout,
        UNSET_MSEC,
        60_000,
    );
    inherit(&mut conf.data_peer, prev.data_peer, UNSET, PEER_SAME);
    inherit(&mut conf.client_mode, prev.client_mode, UNSET, 0);
    inherit(&mut conf.server_mode, prev.server_mode, UNSET, 0);
    inherit(
        &mut conf.pasv_trust,
        prev.pasv_trust,
        UNSET_LIST,
        ptr::null_mut(),
    );
    inherit(&mut conf.auth_tls, prev.auth_tls, UNSET, 0);
    inherit(&mut conf.data_tls, prev.data_tls, UNSET, 0);
    inherit(&mut conf.tls_reuse, prev.tls_reuse, UNSET, 0);
    inherit(&mut conf.tls_close_notify, prev.tls_close_notify, UNSET, 0);
    inherit(&mut conf.proxy_auth_tls, prev.proxy_auth_tls, UNSET_FLAG, 0);
    inherit(&mut conf.original_dst, prev.original_dst, UNSET_FLAG, 0);
    CONF_OK
}
