//! An event of our own about a connection: at a later time, or at the next turn of the event loop.

use std::mem;

use nginx_sys::{
    ngx_add_timer, ngx_connection_t, ngx_del_timer, ngx_delete_posted_event, ngx_event_t,
    ngx_msec_t, ngx_post_event, ngx_posted_events,
};

/// What the event calls.
pub type Handler = unsafe extern "C" fn(*mut ngx_event_t);

/// It does not come any more when this is gone.
pub struct Timer(Box<ngx_event_t>);

impl Timer {
    /// An event that has not been set, whose `data` is the connection.
    ///
    /// # Safety
    ///
    /// `c` outlives it.
    pub unsafe fn new(c: *mut ngx_connection_t, handler: Handler) -> Self {
        // SAFETY: zeroes are an event that is nowhere.
        unsafe {
            let mut event: Box<ngx_event_t> = Box::new(mem::zeroed());
            event.data = c.cast();
            event.log = (*c).log;
            event.handler = Some(handler);
            Self(event)
        }
    }

    /// Calls the handler in so many milliseconds, unless it is to be called already.
    pub fn start(&mut self, after: ngx_msec_t) {
        if self.0.timer_set() == 0 {
            // SAFETY: the event is taken out of nginx's tree before it goes.
            unsafe { ngx_add_timer(&raw mut *self.0, after) };
        }
    }

    /// Calls the handler at the next turn of the event loop.
    pub fn post(&mut self) {
        // SAFETY: the event is taken out of nginx's queue before it goes.
        unsafe { ngx_post_event(&raw mut *self.0, &raw mut ngx_posted_events) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and in nginx's queue or tree.
        unsafe {
            if self.0.posted() == 1 {
                ngx_delete_posted_event(&raw mut *self.0);
            }
            if self.0.timer_set() == 1 {
                ngx_del_timer(&raw mut *self.0);
            }
        }
    }
}
