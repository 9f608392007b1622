//! How a data connection ends: whether each side has got everything, which is asked while both sockets are open.

use std::cell::LazyCell;
use std::fmt;

use nginx_sys::{ngx_chain_t, ngx_stream_upstream_t};

use super::Data;
use crate::nginx::{context, socket};
use crate::ports::Verb;

/// How a data connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No reservation was taken.
    Refused,
    /// Bytes may be missing, on one leg at least.
    Cut {
        /// The client has all that the server sent.
        client_has_all: bool,
    },
    /// Everything arrived.
    Complete,
    /// The server's connection has gone to the session of its client.
    HandedOver,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Cut { .. } => "cut",
            Self::Complete => "complete",
            Self::HandedOver => "handed over",
        })
    }
}

/// What each side has got of the transfer.
pub(super) struct Legs {
    client_has_all: bool,
    pub server_has_all: bool,
}

impl Legs {
    pub fn ending(&self) -> Ending {
        let client_has_all = self.client_has_all;
        if client_has_all && self.server_has_all {
            Ending::Complete
        } else {
            Ending::Cut { client_has_all }
        }
    }

    /// A side is at its end when it has sent FIN, nothing was wrong with either side, and all that was read
    /// is with the kernel. Then the other side has everything. Toward a side that has not ended, that is so
    /// only if nothing came from it, and it is not the one that had something to send, by the transfer command; a
    /// server that has sent does not receive.
    ///
    /// # Safety
    ///
    /// The session's connections are open.
    pub unsafe fn of(data: &Data) -> Self {
        let (s, tls) = (data.s, data.tls);
        let none = Self {
            client_has_all: false,
            server_has_all: false,
        };
        // SAFETY: the session's connections are open.
        unsafe {
            let upstream: &ngx_stream_upstream_t = &*(*s).upstream;
            let (c, pc) = ((*s).connection, upstream.peer.connection);
            let in_clear = tls && (*c).ssl.is_null();
            if pc.is_null() || upstream.connected() == 0 || in_clear || data.unsafe_client {
                return none;
            }
            if socket::failed(c, data.notified) || socket::failed(pc, false) {
                return none;
            }
            let chains = [
                upstream.upstream_out,
                upstream.upstream_busy,
                upstream.downstream_out,
                upstream.downstream_busy,
            ];
            let buffered = (*c).buffered() | (*pc).buffered() != 0
                || chains.iter().any(|chain| has_bytes(*chain));
            let notified = data.notified || !tls || !context::conf(s).close_notify_required();
            let client_ended = socket::has_ended(c) && notified;
            let server_ended = socket::has_ended(pc);
            if buffered || !(client_ended || server_ended) {
                return none;
            }
            let (from_client, from_server) = ((*s).received != 0, upstream.received != 0);
            // Asked for only where the bytes do not tell.
            let verb = LazyCell::new(|| data.verb().unwrap_or_else(|| Verb::new(b"")));
            Self {
                client_has_all: server_ended || !(from_server || is_download(&verb)),
                server_has_all: client_ended || !(from_client || !from_server && is_upload(&verb)),
            }
        }
    }
}

unsafe fn has_bytes(mut chain: *mut ngx_chain_t) -> bool {
    // SAFETY: a chain of the proxy's.
    unsafe {
        while let Some(link) = chain.as_ref() {
            if (*link.buf).pos != (*link.buf).last {
                return true;
            }
            chain = link.next;
        }
    }
    false
}

/// The client is to send a file.
fn is_upload(verb: &Verb) -> bool {
    matches!(verb.as_bytes(), b"STOR" | b"STOU" | b"APPE")
}

/// The server is to send a file or a listing.
fn is_download(verb: &Verb) -> bool {
    !verb.as_bytes().is_empty() && !is_upload(verb)
}
