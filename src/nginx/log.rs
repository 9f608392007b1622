//! Lines in nginx's log. They are written out of line: the buffer of one would make the stack frame of whoever may
//! write it larger by half a page, and callers are on the way of every transfer.

use std::fmt;

use nginx_sys::{ngx_log_t, ngx_uint_t};

/// Whether lines of this level are written.
pub fn wants(log: *mut ngx_log_t, level: ngx_uint_t) -> bool {
    // SAFETY: every log in this room is that of a connection, a cycle or a configuration in use.
    unsafe { level <= (*log).log_level }
}

/// Writes a line, whatever its level.
#[cold]
#[inline(never)]
pub fn write(log: *mut ngx_log_t, level: ngx_uint_t, text: fmt::Arguments<'_>) {
    ngx::ngx_log_error!(level, log, "{text}");
}

/// Writes a line if its level is wanted; only then is it put together.
macro_rules! ngx_log_error {
    ($level:expr, $log:expr, $($text:tt)+) => {{
        let (level, log) = ($level as nginx_sys::ngx_uint_t, $log);
        if $crate::nginx::log::wants(log, level) {
            $crate::nginx::log::write(log, level, format_args!($($text)+));
        }
    }};
}
pub(super) use ngx_log_error;
