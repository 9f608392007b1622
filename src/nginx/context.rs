//! What hangs on an nginx session: a [`Control`] or a [`Data`], freed with the connection's pool.

use std::ffi::c_void;
use std::ptr;

use nginx_sys::{ngx_pool_cleanup_add, ngx_stream_session_t};

use super::conf::SrvConf;
use super::control::Control;
use super::data::Data;
use super::guard::guarded;
use super::module;

/// The state of one session.
pub enum Context {
    /// A control connection.
    Control(Box<Control>),
    /// A data connection.
    Data(Box<Data>),
}

/// The session's state, if it is one of ours.
///
/// # Safety
///
/// `s` is alive, and no other reference to its state is in use.
pub unsafe fn of<'a>(s: *mut ngx_stream_session_t) -> Option<&'a mut Context> {
    // SAFETY: `ctx` has a place for every module; ours is null or was set by `attach`.
    unsafe {
        (*(*s).ctx.add(module::ctx_index()))
            .cast::<Context>()
            .as_mut()
    }
}

/// The control connection's state.
///
/// # Safety
///
/// As for [`of`].
pub unsafe fn control<'a>(s: *mut ngx_stream_session_t) -> Option<&'a mut Control> {
    // SAFETY: the caller's promise.
    match unsafe { of(s) } {
        Some(Context::Control(control)) => Some(control),
        _ => None,
    }
}

/// The data connection's state.
///
/// # Safety
///
/// As for [`of`].
pub unsafe fn data<'a>(s: *mut ngx_stream_session_t) -> Option<&'a mut Data> {
    // SAFETY: the caller's promise.
    match unsafe { of(s) } {
        Some(Context::Data(data)) => Some(data),
        _ => None,
    }
}

/// Our configuration of the session's server.
///
/// # Safety
///
/// `s` is alive.
pub unsafe fn conf<'a>(s: *mut ngx_stream_session_t) -> &'a SrvConf {
    // SAFETY: nginx made and merged it; it lives as long as the cycle, which outlives the session.
    unsafe { &*(*(*s).srv_conf.add(module::ctx_index())).cast::<SrvConf>() }
}

/// Runs `work` while the session seems to have no state: what nginx evaluates meanwhile may ask for our
/// variables, and the caller holds the state already.
///
/// # Safety
///
/// `s` is alive and stays so.
pub unsafe fn hidden<T>(s: *mut ngx_stream_session_t, work: impl FnOnce() -> T) -> T {
    // SAFETY: as in `of`; what was there is put back.
    unsafe {
        let place = (*s).ctx.add(module::ctx_index());
        let context = place.replace(ptr::null_mut());
        let done = work();
        place.write(context);
        done
    }
}

/// Hangs `context` on the session. `None` where there is no memory.
///
/// # Safety
///
/// `s` is alive and has none yet.
pub unsafe fn attach(s: *mut ngx_stream_session_t, context: Context) -> Option<()> {
    // SAFETY: the pool lives as long as the connection, and what comes with the cleanup has room for the context
    // and is aligned for pointers; the cleanup runs once, when the pool is destroyed.
    unsafe {
        let pool = (*(*s).connection).pool;
        let cleanup = ngx_pool_cleanup_add(pool, size_of::<Context>()).as_mut()?;
        cleanup.data.cast::<Context>().write(context);
        cleanup.handler = Some(detach);
        *(*s).ctx.add(module::ctx_index()) = cleanup.data;
    }
    Some(())
}

unsafe extern "C" fn detach(data: *mut c_void) {
    // SAFETY: `attach` wrote it, and nobody uses it once the pool is being destroyed.
    let context = unsafe { data.cast::<Context>().read() };
    let log = context.log();
    guarded(log, (), || match context {
        Context::Control(mut control) => control.finish(),
        Context::Data(mut data) => data.finish(),
    });
}

impl Context {
    fn log(&self) -> *mut nginx_sys::ngx_log_t {
        let s = match self {
            Self::Control(control) => control.session(),
            Self::Data(data) => data.session(),
        };
        if s.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: session and log are in the pool, whose memory goes after its cleanups; the connection is free
        // by now, but keeps its fields until another one is accepted.
        unsafe { (*(*s).connection).log }
    }
}
