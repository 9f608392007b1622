//! What nginx sees of us: the module, its directives, and where it hooks in.

use std::ffi::{CStr, c_char, c_void};
use std::mem::offset_of;
use std::ptr;

use nginx_sys::{
    NGX_CONF_1MORE, NGX_CONF_FLAG, NGX_CONF_TAKE1, NGX_ERROR, NGX_OK, NGX_STREAM_MAIN_CONF,
    NGX_STREAM_MODULE, NGX_STREAM_SRV_CONF, NGX_STREAM_SRV_CONF_OFFSET, ngx_array_push,
    ngx_command_t, ngx_conf_set_flag_slot, ngx_conf_set_msec_slot, ngx_conf_t, ngx_cycle_t,
    ngx_int_t, ngx_module_t, ngx_str_t, ngx_stream_conf_ctx_t, ngx_stream_core_main_conf_t,
    ngx_stream_handler_pt, ngx_stream_module_t, ngx_stream_phases_NGX_STREAM_LOG_PHASE,
    ngx_stream_phases_NGX_STREAM_PREACCESS_PHASE, ngx_stream_phases_NGX_STREAM_PREREAD_PHASE,
    ngx_stream_phases_NGX_STREAM_SSL_PHASE, ngx_stream_session_t, ngx_uint_t,
};

use super::conf::{self, MainConf, SrvConf, directives};
use super::context::{self, Context};
use super::guard::{guarded, keep_panics};
use super::stock::{self, CONF_ERROR, core_main_conf, text};
use super::{check, control, data, dialled, listener, meet, tls, variables, zone};

ngx::ngx_modules!(ngx_stream_ftp_proxy_module);

/// The module as nginx loads it.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // nginx's name
pub static mut ngx_stream_ftp_proxy_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: NGX_STREAM_MODULE as ngx_uint_t,
    init_module: Some(init_module),
    init_process: Some(init_process),
    ..ngx_module_t::default()
};

static CONTEXT: ngx_stream_module_t = ngx_stream_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(create_main_conf),
    init_main_conf: None,
    create_srv_conf: Some(create_srv_conf),
    merge_srv_conf: Some(merge_srv_conf),
};

static mut COMMANDS: [ngx_command_t; 15] = [
    directive(
        c"ftp_ctrl",
        NGX_STREAM_SRV_CONF | NGX_CONF_1MORE,
        set_ftp_ctrl,
        0,
    ),
    directive(
        c"ftp_data",
        NGX_STREAM_SRV_CONF | NGX_CONF_1MORE,
        set_ftp_data,
        0,
    ),
    directive(
        c"ftp_data_timeout",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        ngx_conf_set_msec_slot,
        offset_of!(SrvConf, data_timeout),
    ),
    directive(
        c"ftp_data_peer",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_data_peer,
        0,
    ),
    directive(
        c"ftp_client_mode",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_client_mode,
        0,
    ),
    directive(
        c"ftp_server_mode",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_server_mode,
        0,
    ),
    directive(
        c"ftp_pasv_trust",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_1MORE,
        set_ftp_pasv_trust,
        0,
    ),
    directive(
        c"ftp_original_dst",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(SrvConf, original_dst),
    ),
    directive(
        c"ftp_auth_tls",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_auth_tls,
        0,
    ),
    directive(
        c"ftp_data_tls",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_data_tls,
        0,
    ),
    directive(
        c"ftp_data_tls_reuse",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_data_tls_reuse,
        0,
    ),
    directive(
        c"ftp_data_tls_close_notify",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_TAKE1,
        set_ftp_data_tls_close_notify,
        0,
    ),
    directive(
        c"ftp_proxy_auth_tls",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(SrvConf, proxy_auth_tls),
    ),
    // The same under the name that OpenNJet's configurations have for it.
    directive(
        c"njtmesh_dest",
        NGX_STREAM_MAIN_CONF | NGX_STREAM_SRV_CONF | NGX_CONF_FLAG,
        ngx_conf_set_flag_slot,
        offset_of!(SrvConf, original_dst),
    ),
    ngx_command_t::empty(),
];

type Setter = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

const fn directive(name: &'static CStr, type_: u32, set: Setter, offset: usize) -> ngx_command_t {
    ngx_command_t {
        name: text(name),
        type_: type_ as ngx_uint_t,
        set: Some(set),
        conf: NGX_STREAM_SRV_CONF_OFFSET,
        offset,
        post: ptr::null_mut(),
    }
}

/// Our place in arrays of configurations and contexts.
pub fn ctx_index() -> usize {
    // SAFETY: nginx writes it while it loads modules, before anything of ours runs.
    unsafe { ngx_stream_ftp_proxy_module.ctx_index }
}

/// Our configuration of the session's `stream` block.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn main_conf<'a>(s: *mut ngx_stream_session_t) -> &'a MainConf {
    // SAFETY: nginx made it; it lives as long as the cycle, which outlives the session.
    unsafe { &*(*(*s).main_conf.add(ctx_index())).cast::<MainConf>() }
}

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    keep_panics();
    // SAFETY: nginx's configuration context.
    guarded(unsafe { (*cf).log }, NGX_ERROR as ngx_int_t, || {
        // SAFETY: this is when variables are declared, and the block's own context is in `cf`.
        let declared = unsafe {
            stock::begin_stream(cf);
            control::begin_filters();
            variables::declare(cf)
        };
        match declared {
            Some(()) => NGX_OK as ngx_int_t,
            None => NGX_ERROR as ngx_int_t,
        }
    })
}

unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx's configuration context.
    guarded(unsafe { (*cf).log }, NGX_ERROR as ngx_int_t, || {
        // SAFETY: `cf` is in the `stream` block, all of which has been read.
        let done = unsafe { check::check(cf).and_then(|()| install(cf)) };
        match done {
            Some(()) => NGX_OK as ngx_int_t,
            None => NGX_ERROR as ngx_int_t,
        }
    })
}

unsafe fn install(cf: *mut ngx_conf_t) -> Option<()> {
    // SAFETY: the phases' arrays exist until the configuration is complete.
    unsafe {
        let main = core_main_conf((*cf).ctx.cast::<ngx_stream_conf_ctx_t>());
        // Handlers run in the opposite order of their registration, so that a stranger is refused before
        // `limit_conn` counts it. Those of the log phase run in order: an access log still sees what the
        // last one gives back.
        push(
            main,
            ngx_stream_phases_NGX_STREAM_PREACCESS_PHASE,
            Some(preaccess),
        )?;
        push(
            main,
            ngx_stream_phases_NGX_STREAM_PREREAD_PHASE,
            Some(data::preread),
        )?;
        push(main, ngx_stream_phases_NGX_STREAM_LOG_PHASE, Some(log))?;
        tls::install(cf);
        push(
            main,
            ngx_stream_phases_NGX_STREAM_SSL_PHASE,
            Some(tls::ssl_phase),
        )?;
        control::install_filter();
    }
    Some(())
}

unsafe fn push(
    main: *mut ngx_stream_core_main_conf_t,
    phase: u32,
    handler: ngx_stream_handler_pt,
) -> Option<()> {
    // SAFETY: the elements of the array are handlers.
    unsafe {
        let phase = (*main).phases.get_mut(phase as usize)?;
        let place = ngx_array_push(&mut phase.handlers).cast::<ngx_stream_handler_pt>();
        *place.as_mut()? = handler;
    }
    Some(())
}

/// A session begins: a control connection gets its state, a data connection must have been reserved.
unsafe extern "C" fn preaccess(s: *mut ngx_stream_session_t) -> ngx_int_t {
    // SAFETY: nginx's session, alive while its phases run.
    unsafe {
        let log = (*(*s).connection).log;
        guarded(log, NGX_ERROR as ngx_int_t, || {
            let conf = context::conf(s);
            if conf.is_control() {
                control::begin(s, conf)
            } else if conf.is_data() {
                data::begin(s, conf)
            } else {
                nginx_sys::NGX_DECLINED as ngx_int_t
            }
        })
    }
}

/// A session is over, its connection still open; access logs have been written.
unsafe extern "C" fn log(s: *mut ngx_stream_session_t) -> ngx_int_t {
    // SAFETY: nginx's session.
    unsafe {
        guarded((*(*s).connection).log, (), || match context::of(s) {
            Some(Context::Control(control)) => control.end(),
            Some(Context::Data(data)) => data.end(),
            None => {}
        });
    }
    NGX_OK as ngx_int_t
}

unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx's cycle.
    guarded(unsafe { (*cycle).log }, (), || {
        // SAFETY: the new cycle's sockets and log are open.
        unsafe {
            meet::agree_on_password((*cycle).log);
            listener::make_transparent(cycle);
            listener::prepare(cycle);
            listener::clean_up_after(cycle);
            zone::serve_all(cycle);
        }
    });
    NGX_OK as ngx_int_t
}

unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx's cycle.
    guarded(unsafe { (*cycle).log }, (), || {
        zone::become_worker();
        dialled::find_statistics();
        tls::find_tickets();
        // SAFETY: this is a worker, before it accepts anything.
        unsafe {
            control::restore_filters();
            zone::reclaim_all(cycle);
            // Once more: a module of another file that an old configuration had may have cleaned them.
            listener::prepare(cycle);
        }
    });
    NGX_OK as ngx_int_t
}

unsafe extern "C" fn create_main_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: nginx's configuration context.
    unsafe { guarded((*cf).log, ptr::null_mut(), || conf::create_main(cf).cast()) }
}

unsafe extern "C" fn create_srv_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: nginx's configuration context.
    unsafe { guarded((*cf).log, ptr::null_mut(), || conf::create(cf).cast()) }
}

unsafe extern "C" fn merge_srv_conf(
    cf: *mut ngx_conf_t,
    prev: *mut c_void,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: both were made by `create_srv_conf`.
    unsafe {
        guarded((*cf).log, CONF_ERROR, || {
            conf::merge(&*prev.cast::<SrvConf>(), &mut *conf.cast::<SrvConf>())
        })
    }
}

macro_rules! setter {
    ($name:ident, $set:path) => {
        unsafe extern "C" fn $name(
            cf: *mut ngx_conf_t,
            _command: *mut ngx_command_t,
            conf: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: nginx calls a directive's setter with the configuration of ours for that block.
            unsafe {
                guarded((*cf).log, CONF_ERROR, || {
                    $set(cf, &mut *conf.cast::<SrvConf>())
                })
            }
        }
    };
}

setter!(set_ftp_ctrl, directives::ftp_ctrl);
setter!(set_ftp_data, directives::ftp_data);
setter!(set_ftp_data_peer, directives::ftp_data_peer);
setter!(set_ftp_client_mode, directives::ftp_client_mode);
setter!(set_ftp_server_mode, directives::ftp_server_mode);
setter!(set_ftp_pasv_trust, directives::ftp_pasv_trust);
setter!(set_ftp_auth_tls, directives::ftp_auth_tls);
setter!(set_ftp_data_tls, directives::ftp_data_tls);
setter!(set_ftp_data_tls_reuse, directives::ftp_data_tls_reuse);
setter!(
    set_ftp_data_tls_close_notify,
    directives::ftp_data_tls_close_notify
);

/// The name of the upstream that stands for "wherever the reservation says".
pub fn hidden_upstream() -> ngx_str_t {
    text(c"ftp_data_reservation")
}
