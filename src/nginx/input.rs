//! Bytes that the stock proxy has read and the session machine has not taken yet.

use std::collections::VecDeque;
use std::ptr::NonNull;

use nginx_sys::{ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_post_event, ngx_posted_events};

/// Buffers of the proxy that are not taken in full.
#[derive(Default)]
pub struct Input {
    /// The oldest; most often the only one, and then nothing is allocated.
    first: Option<NonNull<ngx_buf_t>>,
    more: VecDeque<NonNull<ngx_buf_t>>,
    /// The stream ends behind them.
    last: bool,
}

impl Input {
    /// Takes the links' buffers.
    ///
    /// # Safety
    ///
    /// The chain is the proxy's; its buffers live until they are taken.
    pub unsafe fn append(&mut self, mut chain: *mut ngx_chain_t) {
        // SAFETY: the chain is the proxy's, and valid during the call.
        unsafe {
            while let Some(link) = chain.as_ref() {
                if remaining(link.buf) > 0 {
                    self.push(link.buf);
                }
                self.last |= (*link.buf).last_buf() == 1;
                chain = link.next;
            }
        }
    }

    fn push(&mut self, buf: *mut ngx_buf_t) {
        let buf = NonNull::new(buf);
        match self.first {
            None => self.first = buf,
            Some(_) => self.more.extend(buf),
        }
    }

    /// The oldest buffer.
    pub fn front(&self) -> Option<*mut ngx_buf_t> {
        self.first.map(NonNull::as_ptr)
    }

    /// The oldest buffer is taken in full.
    pub fn pop(&mut self) {
        self.first = self.more.pop_front();
        if self.first.is_none() {
            // Idle sessions keep no memory.
            self.more = VecDeque::new();
        }
    }

    /// Whether there is more to take, be it the end of the stream.
    pub fn waits(&self) -> bool {
        self.first.is_some() || self.last
    }

    /// Whether the end of the stream has come and everything before it is taken; true once.
    pub fn ends_now(&mut self) -> bool {
        let ends = self.last && self.first.is_none();
        self.last &= !ends;
        ends
    }
}

/// Tells the proxy, by a bit in `buffered` of where the bytes go, whether there is more to come.
///
/// # Safety
///
/// `dst` is an open connection or null.
pub unsafe fn mark(dst: *mut ngx_connection_t, waits: bool) {
    // SAFETY: an open connection, or none yet.
    if let Some(dst) = unsafe { dst.as_mut() } {
        let others = dst.buffered() & !HELD;
        dst.set_buffered(if waits { others | HELD } else { others });
    }
}

/// Our bit in `buffered`, beside nginx's 0x0f for what is below the filters and 0x10 of the write filter.
pub const HELD: u32 = 0x20;

/// The kernel ends a read before an urgent byte, and nginx takes a short read for the last one until an
/// event that never comes: the rest of Synch and ABOR would stay in the socket.
///
/// # Safety
///
/// `c` is open.
pub unsafe fn read_past_urgent(c: *mut ngx_connection_t) {
    let mut at_mark: i32 = 0;
    // SAFETY: an open connection; the call writes one number.
    unsafe {
        let read = (*c).read;
        if (*read).ready() == 1 || (*read).eof() == 1 {
            return;
        }
        let asked = libc::ioctl((*c).fd, SIOCATMARK, &raw mut at_mark);
        if asked == 0 && at_mark != 0 {
            (*read).set_ready(1);
            // Unknown; 0 would mean "nothing", and is what the short read has left there.
            (*read).available = -1;
            ngx_post_event(read, &raw mut ngx_posted_events);
        }
    }
}

/// Whether the next byte is the urgent one; libc does not name it on Linux.
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Bytes of a buffer that are not taken.
///
/// # Safety
///
/// `buf` is a buffer of the proxy's.
pub unsafe fn remaining(buf: *mut ngx_buf_t) -> usize {
    // SAFETY: `pos` is never behind `last`.
    unsafe { (*buf).last.offset_from_unsigned((*buf).pos) }
}
