//! The end of a TLS leg to the server that has been sent everything. Closed at once, as the stock proxy does, the kernel
//! would make a reset of it as soon as there are bytes to be read, a server's TLS 1.3 tickets among them, and throw
//! away what the server has not been sent yet; and close_notify would be lost where the socket has no room for it.
//!
//! So another descriptor of the same socket outlives the session: close_notify, FIN, and then it reads until the server
//! has closed, too.

use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{F_DUPFD_CLOEXEC, SHUT_WR};
use nginx_sys::{
    ERR_clear_error, NGX_OK, SSL, SSL_ERROR_WANT_WRITE, SSL_RECEIVED_SHUTDOWN, SSL_free,
    SSL_get_error, SSL_set_ex_data, SSL_set_fd, SSL_set_quiet_shutdown, SSL_set_shutdown,
    SSL_shutdown, SSL_up_ref, ngx_add_timer, ngx_close_connection, ngx_connection_t, ngx_cycle,
    ngx_del_timer, ngx_event_actions, ngx_event_t, ngx_get_connection, ngx_handle_read_event,
    ngx_handle_write_event, ngx_int_t, ngx_msec_t, ngx_post_event, ngx_posted_events,
    ngx_ssl_connection_index,
};

use super::guard::guarded;

/// Milliseconds for each of the two: until there is room for close_notify, and until the server closes.
const PATIENCE: ngx_msec_t = 30_000;

/// Bytes of the server's that are read in vain, more than tickets ever are.
const MAX_READ: usize = 65_536;

/// One in so many connections of a worker may linger; others are closed as nginx does it.
const SHARE: usize = 8;

/// How many do.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// What is left of the leg.
struct Linger {
    c: *mut ngx_connection_t,
    tls: *mut SSL,
    /// The TLS object is on this descriptor, and close_notify under way: OpenSSL goes on with it when called again.
    begun: bool,
    /// close_notify and FIN have been sent.
    told: bool,
    read: usize,
}

/// Takes over the end of a connection that is about to be closed.
///
/// # Safety
///
/// `pc` is open, TLS is up on it, and nothing is buffered for it.
pub unsafe fn take_over(pc: *mut ngx_connection_t) {
    // SAFETY: the caller's promise. What is made here goes in `end`.
    unsafe {
        let (Some(tls), Some(cycle)) = ((*pc).ssl.as_mut(), ngx_cycle.as_ref()) else {
            return;
        };
        let many = LINGERING.load(Ordering::Relaxed) >= cycle.connection_n / SHARE;
        if many || cycle.free_connection_n == 0 {
            return;
        }
        let fd = libc::fcntl((*pc).fd, F_DUPFD_CLOEXEC, 0);
        if fd < 0 {
            return;
        }
        let c = ngx_get_connection(fd, cycle.log);
        if c.is_null() {
            libc::close(fd);
            return;
        }
        LINGERING.fetch_add(1, Ordering::Relaxed);
        // The socket lives on: what the event loop knows of the other descriptor would, too.
        if let Some(forget) = ngx_event_actions.del_conn {
            forget(pc, 0);
        }
        SSL_up_ref(tls.connection);
        // The proxy is to close without a word.
        tls.set_no_send_shutdown(1);
        let linger = Linger {
            c,
            tls: tls.connection,
            begun: false,
            told: false,
            read: 0,
        };
        (*c).data = Box::into_raw(Box::new(linger)).cast();
        for event in [(*c).read, (*c).write] {
            (*event).log = cycle.log;
            (*event).handler = Some(on_event);
        }
        ngx_post_event((*c).write, &raw mut ngx_posted_events);
    }
}

unsafe extern "C" fn on_event(event: *mut ngx_event_t) {
    // SAFETY: the event of a connection that `take_over` has made.
    unsafe {
        let c = (*event).data.cast::<ngx_connection_t>();
        let linger = (*c).data.cast::<Linger>();
        let over = (*c).close() == 1 || (*event).timedout() == 1;
        let goes_on = guarded((*c).log, false, || !over && (*linger).proceed());
        if !goes_on {
            drop(Box::from_raw(linger));
        }
    }
}

impl Linger {
    /// Whether there is something to wait for.
    unsafe fn proceed(&mut self) -> bool {
        // SAFETY: the connection and its TLS are ours.
        unsafe {
            if !self.told && !self.tell() {
                return self.wait();
            }
            self.told && self.read_in_vain() && self.wait()
        }
    }

    /// Sends close_notify and FIN. Whether the socket has had room.
    unsafe fn tell(&mut self) -> bool {
        // SAFETY: as above. The proxy has let go of the TLS object.
        unsafe {
            let c = self.c;
            if !self.begun {
                self.begun = true;
                SSL_set_ex_data(self.tls, ngx_ssl_connection_index, c.cast());
                SSL_set_fd(self.tls, (*c).fd);
                SSL_set_quiet_shutdown(self.tls, 0);
                SSL_set_shutdown(self.tls, SSL_RECEIVED_SHUTDOWN as i32);
            }
            let rc = SSL_shutdown(self.tls);
            let full = rc < 0 && SSL_get_error(self.tls, rc) == SSL_ERROR_WANT_WRITE as i32;
            // Or nginx would find it at its next call, and wonder.
            ERR_clear_error();
            if full {
                (*(*c).write).set_ready(0);
                return false;
            }
            self.told = true;
            libc::shutdown((*c).fd, SHUT_WR);
            if (*(*c).write).timer_set() == 1 {
                ngx_del_timer((*c).write);
            }
            ngx_add_timer((*c).read, PATIENCE);
        }
        true
    }

    /// Reads what there is. Whether more may come.
    unsafe fn read_in_vain(&mut self) -> bool {
        let mut scrap = [0u8; 4096];
        // SAFETY: the socket does not block; the buffer has the length that is told.
        unsafe {
            while self.read < MAX_READ {
                let fd = (*self.c).fd;
                let received = libc::recv(fd, scrap.as_mut_ptr().cast(), scrap.len(), 0);
                match usize::try_from(received) {
                    Ok(0) => return false,
                    Ok(count) => self.read += count,
                    Err(_) => {
                        (*(*self.c).read).set_ready(0);
                        let error = std::io::Error::last_os_error();
                        return error.kind() == std::io::ErrorKind::WouldBlock;
                    }
                }
            }
        }
        false
    }

    unsafe fn wait(&mut self) -> bool {
        // SAFETY: as above.
        unsafe {
            let (read, write) = ((*self.c).read, (*self.c).write);
            if self.told {
                return ngx_handle_read_event(read, 0) == NGX_OK as ngx_int_t;
            }
            if (*write).timer_set() == 0 {
                ngx_add_timer(write, PATIENCE);
            }
            ngx_handle_write_event(write, 0) == NGX_OK as ngx_int_t
        }
    }
}

impl Drop for Linger {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: nobody else has them.
        unsafe {
            SSL_free(self.tls);
            ngx_close_connection(self.c);
        }
    }
}
