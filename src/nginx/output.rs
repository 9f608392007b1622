//! Buffer chains that the filter sends: one batch for each call, memory only while bytes are on their way.

use std::cell::Cell;
use std::mem::{self, ManuallyDrop};
use std::ptr;

use nginx_sys::{
    NGX_OK, ngx_buf_t, ngx_chain_t, ngx_connection_t, ngx_int_t, ngx_stream_session_t, ngx_uint_t,
};

use super::control;
use super::input::HELD;

/// Bytes under way to one side above which no more are made, so that a peer that does not read costs this
/// much memory and not all there is.
pub const LIMIT: usize = 16_384;

/// Bytes of a batch whose memory is kept for the next.
const LARGEST_SPARE: usize = 4096;

thread_local! {
    /// Memory of the last batch, of whatever session: nearly all are sent at once.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };

    /// Its link: idle sessions have none.
    static SPARE_LINK: Cell<Option<Box<Link>>> = const { Cell::new(None) };
}

/// A batch under way. nginx gets a pointer to the first field, and keeps one to the second.
#[repr(C)]
struct Link {
    chain: ngx_chain_t,
    buf: ngx_buf_t,
}

impl Link {
    fn new() -> Box<Self> {
        // SAFETY: zeroes are a link to nowhere, and an empty buffer.
        let new = || Box::new(unsafe { mem::zeroed() });
        SPARE_LINK.take().unwrap_or_else(new)
    }
}

/// What goes to one side.
pub struct Output {
    from_upstream: ngx_uint_t,
    batch: Vec<u8>,
    /// The first of our links that have not been sent.
    busy: *mut ngx_chain_t,
    under_way: usize,
}

impl Output {
    /// Nothing under way. `from_upstream` is the filter's direction: 1 toward the client.
    pub fn new(from_upstream: ngx_uint_t) -> Self {
        Self {
            from_upstream,
            batch: Vec::new(),
            busy: ptr::null_mut(),
            under_way: 0,
        }
    }

    /// Adds to the batch.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.batch.capacity() == 0 {
            self.batch = SPARE.take();
            self.batch.reserve(bytes.len());
        }
        self.batch.extend_from_slice(bytes);
    }

    /// Whether no more should be added now.
    pub fn is_full(&self) -> bool {
        self.batch.len().saturating_add(self.under_way) >= LIMIT
    }

    /// Hands the batch to the next filter, with the end of the stream if this is the `last`; without
    /// either, what was buffered before is tried again.
    ///
    /// # Safety
    ///
    /// `s` is alive and `dst` is its connection of this side, or null if that is not there yet.
    pub unsafe fn send(
        &mut self,
        s: *mut ngx_stream_session_t,
        dst: *mut ngx_connection_t,
        last: bool,
    ) -> ngx_int_t {
        // SAFETY: the caller's promise.
        unsafe {
            let mut chain = ptr::null_mut();
            if !self.batch.is_empty() || last {
                chain = self.link(last);
            } else if dst.is_null() || (*dst).buffered() & !HELD == 0 {
                return NGX_OK as ngx_int_t;
            }
            let sent = control::next_filter(s, chain, self.from_upstream);
            self.recycle(sent == NGX_OK as ngx_int_t);
            sent
        }
    }

    /// The batch as a link at the end of `busy`.
    fn link(&mut self, last: bool) -> *mut ngx_chain_t {
        let mut link = Link::new();
        let batch = ManuallyDrop::new(mem::take(&mut self.batch));
        self.under_way += batch.len();
        let buf = &mut link.buf;
        buf.start = batch.as_ptr().cast_mut();
        // SAFETY: the vector has as many bytes, and room for as many.
        unsafe {
            buf.end = buf.start.add(batch.capacity());
            buf.last = buf.start.add(batch.len());
        }
        buf.pos = buf.start;
        buf.set_temporary((!batch.is_empty()).into());
        buf.set_flush(1);
        buf.set_last_buf(last.into());
        let link = Box::into_raw(link);
        let chain = link.cast::<ngx_chain_t>();
        // SAFETY: the link is ours until `recycle` or `clear` takes it back, and so are all behind `busy`.
        unsafe {
            (*chain).buf = &raw mut (*link).buf;
            (*chain).next = ptr::null_mut();
            let mut end = &mut self.busy;
            while let Some(link) = end.as_mut() {
                end = &mut link.next;
            }
            *end = chain;
        }
        chain
    }

    /// Gives back the memory of what was sent. Filters copy our links and not the buffers: where they have not sent
    /// `all` they may still have an empty one, which looks as if it were sent.
    fn recycle(&mut self, all: bool) {
        self.under_way = 0;
        // SAFETY: `busy` holds links of our own; whoever sends moves `pos`.
        unsafe {
            while let Some(link) = self.busy.as_mut() {
                let buf = &mut *link.buf;
                let empty = buf.start == buf.last;
                if buf.pos != buf.last || empty && !all {
                    break;
                }
                release(buf);
                let sent = self.busy.cast::<Link>();
                self.busy = link.next;
                SPARE_LINK.set(Some(Box::from_raw(sent)));
            }
            let mut link = self.busy;
            while let Some(busy) = link.as_ref() {
                self.under_way += (*busy.buf).last.offset_from_unsigned((*busy.buf).pos);
                link = busy.next;
            }
        }
    }

    /// Gives back all memory: the session is over.
    pub fn clear(&mut self) {
        self.batch = Vec::new();
        // SAFETY: nothing is sent after the pool's cleanups have begun.
        unsafe {
            while let Some(link) = self.busy.as_mut() {
                release(&mut *link.buf);
                let unsent = self.busy.cast::<Link>();
                self.busy = link.next;
                drop(Box::from_raw(unsent));
            }
        }
    }
}

/// Frees the batch that `link` put into the buffer.
unsafe fn release(buf: &mut ngx_buf_t) {
    // SAFETY: start and end are those of a vector that was forgotten in `link`.
    unsafe {
        let capacity = buf.end.offset_from_unsigned(buf.start);
        let batch = Vec::from_raw_parts(buf.start, 0, capacity);
        if capacity <= LARGEST_SPARE {
            SPARE.set(batch);
        }
    }
    buf.start = ptr::null_mut();
    buf.end = ptr::null_mut();
    buf.pos = ptr::null_mut();
    buf.last = ptr::null_mut();
}
