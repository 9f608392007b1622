//! No panic leaves an entry point: it ends one session, never the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nginx_sys::{NGX_LOG_ALERT, ngx_log_t};
use ngx::ngx_log_error;

/// Runs `entry`; a panic in it is logged as an alert, and `otherwise` is what nginx gets then.
pub fn guarded<T>(log: *mut ngx_log_t, otherwise: T, entry: impl FnOnce() -> T) -> T {
    // Nothing of a session is used again after its entry point has failed, and the zone's lock is released
    // on the way out, with its mark set.
    catch_unwind(AssertUnwindSafe(entry)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        ngx_log_error!(NGX_LOG_ALERT, log, "panic in ftp module: {text}");
        otherwise
    })
}
