//! Which word of the memory is what: header, buckets, slots.

use super::Memory;
use super::reservation::{MAX_NAME, MAX_PATH, MAX_USER};

/// The version of the layout. It belongs to the identity of the memory: tables of different versions never
/// share any.
pub const LAYOUT: u64 = 6;

/// "ftpports" in a little-endian dump.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"ftpports");

/// The words of the header.
pub(super) mod header {
    pub const MAGIC: usize = 0;
    pub const LAYOUT: usize = 1;
    /// Size of the memory the table was laid out in.
    pub const WORDS: usize = 2;
    /// Not 0 while somebody changes the table, or was killed changing it.
    pub const MARK: usize = 3;
    /// Greater than every id ever given.
    pub const NEXT_ID: usize = 4;
    /// The slot at which the next sweep begins.
    pub const CURSOR: usize = 5;
    /// Secret of the index, so that no client can choose its bucket; 0 until the first reservation.
    pub const SEED: usize = 6;
    /// Cache: the slot that has been free longest.
    pub const FREE_HEAD: usize = 7;
    /// Cache: the slot that was freed last.
    pub const FREE_TAIL: usize = 8;
    /// Cache: how many live slots expect a certain host.
    pub const HOSTS: usize = 9;
    /// Cache: how many live slots expect anybody.
    pub const ANYS: usize = 10;
    /// When every slot was last looked at in vain.
    pub const SWEPT: usize = 11;
    /// Cache: how many slots hold secrets.
    pub const KEPT: usize = 12;
    /// Cache: all slots from this one on were never used.
    pub const USED: usize = 13;
    /// Which ports are served and by which workers, see [`Served`](crate::ports::Served); 0 until somebody says so.
    pub const SERVED: usize = 14;
    /// Words of the header, two cache lines.
    pub const SIZE: usize = 16;
}

/// The words of a slot; all that a search looks at is in the first cache line.
pub(super) mod field {
    use super::{MAX_NAME, MAX_PATH, MAX_USER};

    /// Id and state, see [`State`](crate::ports::slot::State).
    pub const STATE: usize = 0;
    /// Port and expected peer, three words; all 0 in a slot that was never used.
    pub const KEY: usize = 1;
    /// Cache: neighbours in the bucket.
    pub const BUCKET: usize = 4;
    /// Deadline of a WAITING slot, and when a FREE one was freed, without meaning in a TAKEN one. The highest bit says of a
    /// FREE slot whether it had been TAKEN, and of a TAKEN one whether the client is connected, or its end has begun.
    pub const WHEN: usize = 5;
    pub const SESSION: usize = 6;
    pub const OWNER: usize = 7;
    /// Cache: neighbours in the free list.
    pub const FREE: usize = 8;
    /// Three words.
    pub const TARGET: usize = 9;
    /// Three words, all 0 if there is none; the mate's ticket where both connect.
    pub const LOCAL: usize = 12;
    /// Mode, TLS, way and the lengths of user, verb, path and name.
    pub const TEXTS: usize = 15;
    pub const VERB: usize = 16;
    /// The id of what is kept for the data connection; its slot stands in TEXTS.
    pub const KEPT: usize = 17;
    pub const USER: usize = 18;
    pub const PATH: usize = USER + MAX_USER / 8;
    pub const NAME: usize = PATH + MAX_PATH / 8;
    /// Words of a slot, whole cache lines.
    pub const SIZE: usize = (NAME + MAX_NAME / 8).next_multiple_of(8);
}

/// The words of a KEPT slot that differ from those of a reservation.
pub(super) mod kept {
    use super::field;

    /// The slot that goes on, plus 1, or 0.
    pub const NEXT: usize = field::SESSION;
    /// Its id.
    pub const NEXT_ID: usize = field::TARGET;
    /// Bytes in all, in the first slot.
    pub const LENGTH: usize = NEXT_ID + 1;
    /// The bytes, to the slot's end.
    pub const DATA: usize = LENGTH + 1;
}

/// A bound for 32-bit links; 7 GiB of memory are beyond any zone.
const MAX_SLOTS: usize = 1 << 24;

/// The number of reservations that fit into `words` 64-bit words: one for each 584 bytes or so.
pub const fn capacity(words: usize) -> usize {
    // One bucket for each slot; the slots then begin on a cache line.
    let fit = words.saturating_sub(header::SIZE + 7) / (field::SIZE + 1);
    if fit > MAX_SLOTS { MAX_SLOTS } else { fit }
}

/// Why memory cannot hold or does not hold a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not even one reservation fits.
    #[error("is too small")]
    TooSmall,
    /// There is no table in it.
    #[error("holds no table of reservations")]
    NoTable,
    /// The table was laid out by another version.
    #[error("holds a table of layout {0}, not {LAYOUT}")]
    Version(u64),
    /// The table was laid out in memory of another size.
    #[error("holds a table of another size")]
    Size,
}

/// Where a table's parts are in its memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of slots and of buckets, at least 1.
    pub(super) slots: u32,
    slots_at: usize,
}

impl Layout {
    /// The only layout for memory of this size.
    pub(super) fn new(memory: &impl Memory) -> Result<Self, LayoutError> {
        match u32::try_from(capacity(memory.words())) {
            Ok(0) | Err(_) => Err(LayoutError::TooSmall),
            Ok(slots) => {
                let slots_at = (header::SIZE + slots as usize).next_multiple_of(8);
                Ok(Self { slots, slots_at })
            }
        }
    }

    /// The layout of the table that the memory says it holds.
    pub(super) fn of(memory: &impl Memory) -> Result<Self, LayoutError> {
        let layout = Self::new(memory)?;
        if memory.load(header::MAGIC) != MAGIC {
            return Err(LayoutError::NoTable);
        }
        match memory.load(header::LAYOUT) {
            LAYOUT => {}
            other => return Err(LayoutError::Version(other)),
        }
        if memory.load(header::WORDS) != memory.words() as u64 {
            return Err(LayoutError::Size);
        }
        Ok(layout)
    }

    /// The word of a bucket; a hash is spread evenly over the buckets.
    pub(super) fn bucket(&self, hash: u64) -> usize {
        let bucket = (u128::from(hash) * u128::from(self.slots)) >> 64;
        header::SIZE + bucket as usize
    }

    /// The words of all buckets.
    pub(super) fn buckets(&self) -> std::ops::Range<usize> {
        header::SIZE..header::SIZE + self.slots as usize
    }

    /// The word of a field of a slot, which must be less than `slots`.
    pub(super) fn word(&self, slot: u32, field: usize) -> usize {
        self.slots_at + slot as usize * field::SIZE + field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_stay_inside_the_memory() {
        for words in 0..4000 {
            let memory = vec![0; words];
            match Layout::new(&memory) {
                Err(error) => {
                    assert_eq!((error, capacity(words)), (LayoutError::TooSmall, 0));
                }
                Ok(layout) => {
                    assert_eq!(layout.slots as usize, capacity(words));
                    assert!(layout.buckets().end <= layout.word(0, 0));
                    assert!(layout.word(layout.slots - 1, field::SIZE - 1) < words);
                    assert!(layout.buckets().contains(&layout.bucket(0)));
                    assert!(layout.buckets().contains(&layout.bucket(u64::MAX)));
                }
            }
        }
    }

    #[test]
    fn a_mebibyte_holds_seventeen_hundred_reservations() {
        assert!(capacity((1 << 20) / 8) > 1700);
        assert_eq!(capacity(usize::MAX), MAX_SLOTS);
    }
}
