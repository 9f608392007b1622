//! How many bytes of the heap a thread holds, for bounds on memory that the module's own types do not tell.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: all is done by the system's allocator; what is counted beside it is a number of the thread's own, which
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

fn add(bytes: isize) {
    HELD.with(|held| held.set(held.get() + bytes));
}

/// Bytes that this thread holds now, but for what it allocated within [`uncounted`].
pub fn held() -> isize {
    HELD.with(Cell::get)
}

/// Does what belongs to the test and not to what is tested.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = held();
    let result = work();
    HELD.with(|held| held.set(before));
    result
}
