//! What can end a run, split by blame.

use std::io;

/// Why a run is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong use of the tool.
    #[error("{0}")]
    Usage(String),
    /// The other side did not do what FTP or the size of the file asks for.
    #[error("{0}")]
    Peer(String),
    /// Nothing moved for too long.
    #[error("nothing moved for {0} seconds")]
    Stalled(u64),
    /// The system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Names the action that failed.
pub trait Doing<T> {
    /// Turns an I/O error into one that says what was tried.
    fn doing(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            doing: what,
            source,
        })
    }
}
