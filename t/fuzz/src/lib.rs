//! Fuzz targets for the pure rooms: each is a function that takes any bytes and panics if what must hold does not.
//!
//! | target | bytes are | what must hold |
//! | --- | --- | --- |
//! | [`session`] | a script of both sides' bytes | no inner address, no byte that depends on a cut, order, memory |
//! | [`wire`] | one line, reply or argument | what is written is read again as the same |
//! | [`table`] | operations, kills, damage | agreement with a model, no panic, no endless walk |
//!
//! libFuzzer enters through `fuzz_targets/`; the tests below run the same functions over `corpus/` and over some
//! thousand inputs made by a generator that always makes the same ones.

mod feed;
mod heap;
pub mod session;
pub mod table;
#[cfg(test)]
mod tests;
pub mod wire;
