//! The memory a table lives in, as 64-bit words; who maps and locks it is not this file's concern.

/// A fixed number of 64-bit words.
///
/// An implementation over shared memory must let every store reach the memory whole and in program order
/// (an atomic store with release order does): a process that is killed leaves a prefix of its stores behind,
/// and nothing else.
pub trait Memory {
    /// The number of words; never changes.
    fn words(&self) -> usize;

    /// The word at `word`, or 0 if there is none.
    fn load(&self, word: usize) -> u64;

    /// Replaces the word at `word`; nothing happens if there is none.
    fn store(&mut self, word: usize, value: u64);
}

/// A table in a process's own memory, for tests and measurements.
impl Memory for Vec<u64> {
    fn words(&self) -> usize {
        self.len()
    }

    fn load(&self, word: usize) -> u64 {
        self.get(word).copied().unwrap_or(0)
    }

    fn store(&mut self, word: usize, value: u64) {
        if let Some(place) = self.get_mut(word) {
            *place = value;
        }
    }
}
