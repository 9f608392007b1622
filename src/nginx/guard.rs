//! No panic leaves an entry point: it ends one session, never the worker.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};

use super::log::ngx_log_error;
use nginx_sys::{NGX_LOG_ALERT, ngx_log_t};

thread_local! {
    /// What the last panic said and where it was.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics for the alert instead of writing them to stderr. The hook is of the copy of
/// `std` in this library, and goes with it.
pub fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let text = describe(info);
        LAST.with(|last| last.replace(text));
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("no message");
    match info.location() {
        Some(place) => format!("{}:{}: {text}", place.file(), place.line()),
        None => text.to_owned(),
    }
}

/// Runs `entry`; a panic in it is logged as an alert, and `otherwise` is what nginx gets then.
pub fn guarded<T>(log: *mut ngx_log_t, otherwise: T, entry: impl FnOnce() -> T) -> T {
    // What follows a panic in a session, its access log and its end, reads state that may be behind but is
    // whole: nothing of it has `unsafe` invariants. The zone's lock is released on the way out.
    catch_unwind(AssertUnwindSafe(entry)).unwrap_or_else(|_| {
        let text = LAST.with(RefCell::take);
        ngx_log_error!(NGX_LOG_ALERT, log, "panic in ftp module at {text}");
        otherwise
    })
}
