//! A client in active mode before a server in passive mode: both listen, so the proxy begins the data connection itself.
//!
//! The worker of the control connection connects to the client, and makes that connection a session of a data
//! server, as nginx makes one of a connection that it has accepted. Its phases stop until the client has answered;
//! from then on it is an ordinary one, which the stock proxy connects to the server's port. Where the client does not
//! answer the server is connected all the same, and reset: it waits, and is the one to tell on the control connection.

use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, ptr};

use nginx_sys::{
    NGX_LOG_ERR, NGX_LOG_INFO, NGX_OK, NGX_STREAM_BAD_GATEWAY, NGX_STREAM_MODULE, ngx_add_timer,
    ngx_atomic_t, ngx_close_connection, ngx_connection_t, ngx_create_pool, ngx_del_timer,
    ngx_destroy_pool, ngx_event_t, ngx_get_connection, ngx_handle_read_event,
    ngx_handle_write_event, ngx_int_t, ngx_log_t, ngx_palloc, ngx_pcalloc, ngx_pool_t,
    ngx_post_event, ngx_posted_events, ngx_stream_conf_ctx_t, ngx_stream_core_run_phases,
    ngx_stream_finalize_session, ngx_stream_session_handler, ngx_stream_session_t,
    ngx_stream_variable_value_t, ngx_uint_t,
};
use ngx::ngx_log_error;

use super::active::{self, act, failure};
use super::context::{self, Context};
use super::data::Data;
use super::guard::guarded;
use super::{address, socket, stock};
use crate::ports::Taken;

/// A data connection to begin.
pub struct Dial {
    /// The data server's configuration.
    pub server: *mut ngx_stream_conf_ctx_t,
    /// What was reserved for it, taken.
    pub reservation: Taken,
    /// Where the client listens.
    pub client: SocketAddr,
    /// Where the connection to it comes from.
    pub source: Option<SocketAddr>,
}

/// Begins it. `None` where it cannot be; the log says why.
///
/// # Safety
///
/// `control` is a session whose connection is open, of the cycle that has the data server.
pub unsafe fn begin(control: *mut ngx_stream_session_t, dial: &Dial) -> Option<()> {
    // SAFETY: the caller's promise; what is made here belongs to the connection's pool from then on.
    unsafe {
        let parent = (*control).connection;
        let (fd, started) = connect(dial, (*parent).log)?;
        let pool = ngx_create_pool((*(*parent).listening).pool_size, (*parent).log);
        let c = match pool.is_null() {
            true => ptr::null_mut(),
            false => ngx_get_connection(fd, (*parent).log),
        };
        if c.is_null() {
            libc::close(fd);
        }
        if pool.is_null() || c.is_null() {
            if !pool.is_null() {
                ngx_destroy_pool(pool);
            }
            return None;
        }
        let s = fill(c, pool, parent, dial);
        let Some(s) = s else {
            ngx_close_connection(c);
            ngx_destroy_pool(pool);
            return None;
        };
        // What closes a session's connection counts it out.
        count_active();
        let data = Data::begun(s, dial.reservation, started.is_err());
        if context::attach(s, Context::Data(Box::new(data))).is_none() {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
            return None;
        }
        act(c, c"connecting to client");
        match started {
            Ok(()) => wait(s),
            Err(error) => log_failure((*c).log, &error),
        }
        ngx_stream_core_run_phases(s);
    }
    Some(())
}

/// A socket that connects, or why it does not. Closing it, also before there is anything else of the connection, is a
/// reset: a FIN would look like an empty file.
unsafe fn connect(dial: &Dial, log: *mut ngx_log_t) -> Option<(i32, io::Result<()>)> {
    // SAFETY: addresses have the lengths that are told.
    unsafe {
        let (to, length) = address::write(dial.client);
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = libc::socket(to.ss_family.into(), kind, 0);
        if fd < 0 {
            let error = io::Error::last_os_error();
            ngx_log_error!(NGX_LOG_ERR, log, "no socket for a data connection: {error}");
            return None;
        }
        let _ = socket::set_reset(fd, true);
        if let Some(source) = dial.source {
            let on: i32 = 1;
            let option = libc::IP_BIND_ADDRESS_NO_PORT;
            libc::setsockopt(fd, libc::IPPROTO_IP, option, (&raw const on).cast(), 4);
            let (from, length) = address::write(source);
            if libc::bind(fd, (&raw const from).cast(), length) != 0 {
                return Some((fd, Err(io::Error::last_os_error())));
            }
        }
        let rc = libc::connect(fd, (&raw const to).cast(), length);
        let error = io::Error::last_os_error();
        Some(match rc {
            0 => (fd, Ok(())),
            _ if error.raw_os_error() == Some(libc::EINPROGRESS) => (fd, Ok(())),
            _ => (fd, Err(error)),
        })
    }
}

/// Makes a session of the connection, as nginx does when it has accepted one.
unsafe fn fill(
    c: *mut ngx_connection_t,
    pool: *mut ngx_pool_t,
    parent: *mut ngx_connection_t,
    dial: &Dial,
) -> Option<*mut ngx_stream_session_t> {
    // SAFETY: memory of the pool, as large as what it holds; zeroes are values of all of it.
    unsafe {
        let log = ngx_palloc(pool, size_of::<ngx_log_t>()).cast::<ngx_log_t>();
        let s = ngx_pcalloc(pool, size_of::<ngx_stream_session_t>()).cast::<ngx_stream_session_t>();
        let slots = nginx_sys::ngx_stream_max_module * size_of::<*mut ()>();
        let ctx = ngx_pcalloc(pool, slots).cast::<*mut c_void>();
        let main = stock::core_main_conf(dial.server);
        let values = (*main).variables.nelts * size_of::<ngx_stream_variable_value_t>();
        let variables = ngx_pcalloc(pool, values).cast::<ngx_stream_variable_value_t>();
        let client = address::in_pool(pool, dial.client);
        let text = address::host_in_pool(pool, dial.client);
        let none = log.is_null() || s.is_null() || ctx.is_null() || variables.is_null();
        let text = text.filter(|_| !none && !client.is_null())?;

        *log = *(*parent).log;
        let errors = (*stock::core_conf(dial.server)).error_log;
        (*log).file = (*errors).file;
        (*log).next = (*errors).next;
        (*log).writer = (*errors).writer;
        (*log).wdata = (*errors).wdata;
        (*log).log_level = (*errors).log_level;
        (*log).data = s.cast();
        (*pool).log = log;

        (*c).listening = (*parent).listening;
        (*c).sockaddr = (*client).sockaddr;
        (*c).socklen = (*client).socklen;
        (*c).addr_text = text;
        (*c).pool = pool;
        (*c).log = log;
        (*s).connection = c;
        active::fill(c, s);
        (*log).connection = (*c).number;

        (*s).signature = NGX_STREAM_MODULE;
        (*s).main_conf = (*dial.server).main_conf;
        (*s).srv_conf = (*dial.server).srv_conf;
        (*s).ctx = ctx;
        (*s).variables = variables;
        let now = nginx_sys::ngx_cached_time;
        (*s).start_sec = (*now).sec;
        (*s).start_msec = (*now).msec;
        Some(s)
    }
}

/// Waits for the client's answer.
unsafe fn wait(s: *mut ngx_stream_session_t) {
    // SAFETY: the session is fresh.
    unsafe {
        let (read, write) = ((*(*s).connection).read, (*(*s).connection).write);
        (*read).handler = Some(on_answer);
        (*write).handler = Some(on_answer);
        let fine = NGX_OK as ngx_int_t;
        if ngx_handle_read_event(read, 0) != fine || ngx_handle_write_event(write, 0) != fine {
            (*(*s).connection).set_close(1);
            ngx_post_event(write, &raw mut ngx_posted_events);
        } else if let Some(timeout) = stock::connect_timeout(s) {
            ngx_add_timer(write, timeout);
        }
    }
}

/// The client has answered, or it is too late, or the worker ends.
unsafe extern "C" fn on_answer(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection whose session is alive.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let s = (*c).data.cast::<ngx_stream_session_t>();
        if (*c).close() == 1 {
            ngx_stream_finalize_session(s, NGX_STREAM_BAD_GATEWAY as ngx_uint_t);
            return;
        }
        let failure = match (*event).timedout() {
            1 => Some(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            _ => failure(c),
        };
        if let Some(failure) = &failure {
            log_failure((*c).log, failure);
        }
        if (*(*c).write).timer_set() == 1 {
            ngx_del_timer((*c).write);
        }
        (*event).set_timedout(0);
        (*(*c).read).handler = Some(ngx_stream_session_handler);
        (*(*c).write).handler = Some(active::ignore);
        guarded((*c).log, (), || {
            if let Some(data) = context::data(s) {
                data.answered(failure.is_none());
            }
        });
        ngx_stream_core_run_phases(s);
    }
}

fn log_failure(log: *mut ngx_log_t, failure: &io::Error) {
    ngx_log_error!(NGX_LOG_INFO, log, "ftp client does not listen: {failure}");
}

/// `ngx_stat_active`, where nginx is built with its status module: no header of ours may tell.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// Looks for it. For the start of a worker.
pub fn find_statistics() {
    // SAFETY: the name of a variable that nginx exports, if it has it.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ngx_stat_active".as_ptr()) };
    ACTIVE.store(found.expose_provenance(), Ordering::Relaxed);
}

fn count_active() {
    let place = ptr::with_exposed_provenance::<*mut ngx_atomic_t>(ACTIVE.load(Ordering::Relaxed));
    // SAFETY: null, or nginx's pointer to a number in shared memory.
    unsafe {
        if let Some(number) = place.as_ref()
            && !number.is_null()
        {
            (*number.cast::<AtomicUsize>()).fetch_add(1, Ordering::Relaxed);
        }
    }
}
