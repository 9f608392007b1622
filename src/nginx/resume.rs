//! TLS sessions with the server, handed from a control connection to its data connections in any worker: many servers
//! refuse a data connection that does not resume its control connection's session.
//!
//! One is kept in the zone for each control session: written before a data port is reserved, read when the data
//! connection begins its handshake, and written again when the server gives that a newer ticket, for some take each
//! only once. `proxy_ssl_session_reuse off` turns it off.

use std::ptr;

use nginx_sys::{
    ERR_clear_error, OPENSSL_cleanse, SSL, SSL_CTRL_SET_MAX_PROTO_VERSION, SSL_SESSION,
    SSL_SESSION_free, SSL_SESSION_get_protocol_version, SSL_SESSION_get0_peer, SSL_ctrl,
    SSL_get_options, SSL_get_session, SSL_get_verify_result, SSL_session_reused, SSL_set_session,
    SSL_version, TLS1_2_VERSION, TLS1_3_VERSION, X509_V_OK, d2i_SSL_SESSION, i2d_SSL_SESSION,
    ngx_connection_t, ngx_ssl_get0_session,
};

use super::zone::{self, Zone};
use crate::ports::{self, MAX_KEPT, Ticket};

/// OpenSSL's `SSL_OP_NO_TLSv1_2`, a macro that the bindings do not have.
const NO_TLS_1_2: u64 = 1 << 27;

/// A TLS session as bytes, wiped when it goes.
struct Secret {
    bytes: [u8; MAX_KEPT],
    length: usize,
}

impl Secret {
    fn new() -> Self {
        Self {
            bytes: [0; MAX_KEPT],
            length: 0,
        }
    }

    /// `None` if it is greater than what is kept. The server's certificate, the greater part of it by size and by far
    /// by the time that reading it takes, is only wanted where it is `verified`.
    unsafe fn of(session: *mut SSL_SESSION, verified: bool) -> Option<Self> {
        let mut secret = Self::new();
        // SAFETY: the session is alive; OpenSSL writes as many bytes as it has said before.
        unsafe {
            let length = i2d_SSL_SESSION(session, ptr::null_mut());
            secret.length = usize::try_from(length).ok()?;
            if secret.length == 0 || secret.length > MAX_KEPT {
                return None;
            }
            let mut place = secret.bytes.as_mut_ptr();
            i2d_SSL_SESSION(session, &raw mut place);
        }
        if !verified {
            let whole = secret.bytes.get_mut(..secret.length);
            secret.length = whole.map_or(0, ports::drop_certificate);
        }
        Some(secret)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: the array, and its length.
        unsafe { OPENSSL_cleanse(self.bytes.as_mut_ptr().cast(), self.bytes.len()) }
    }
}

/// What a control session has in the zone.
#[derive(Default)]
pub struct Resumable {
    kept: Option<Ticket>,
    /// The session that was kept last, to know a newer one; it is not followed.
    last: *mut SSL_SESSION,
}

impl Resumable {
    /// Keeps the session of the server's connection, if it has a newer one than before. Where there is no room the
    /// data connections will begin their own.
    ///
    /// # Safety
    ///
    /// `pc` is open.
    #[inline(never)] // The secret's buffer is not for the stack of those without TLS.
    pub unsafe fn keep(
        &mut self,
        pc: *mut ngx_connection_t,
        zone: &Zone,
        verified: bool,
    ) -> Option<Ticket> {
        // SAFETY: the connection has its session as long as its TLS.
        unsafe {
            let tls = (*pc).ssl.as_ref()?;
            let session = SSL_get_session(tls.connection);
            if session.is_null() || session == self.last {
                return self.kept;
            }
            let secret = Secret::of(session, verified)?;
            let kept = self.kept;
            self.kept = zone
                .with(|table| {
                    if let Some(kept) = kept {
                        if table.keep_instead(kept, secret.as_bytes()) {
                            return Some(kept);
                        }
                        table.forget(zone::now(), kept);
                    }
                    table.keep(zone::now(), zone::this_worker(), secret.as_bytes())
                })
                .flatten();
            if self.kept.is_some() {
                self.last = session;
            }
        }
        self.kept
    }

    /// The control session is over.
    pub fn forget(&mut self, zone: &Zone) {
        if let Some(kept) = self.kept.take() {
            zone.with(|table| table.forget(zone::now(), kept));
        }
    }
}

/// A data connection is about to begin its handshake with the server. The session that it may resume, null for none.
///
/// # Safety
///
/// `pc` has TLS ready and has not sent a byte.
pub unsafe fn resume(
    pc: *mut ngx_connection_t,
    zone: &Zone,
    kept: Ticket,
    verifies: bool,
) -> *mut SSL_SESSION {
    let mut secret = Secret::new();
    let bytes = &mut secret.bytes;
    let found = zone.with(|table| table.kept(kept, bytes).map(<[u8]>::len));
    let Some(length) = found.flatten() else {
        return ptr::null_mut();
    };
    // SAFETY: OpenSSL reads so many bytes; what it makes of them is ours to free.
    unsafe {
        let mut bytes = secret.bytes.as_ptr();
        let session = d2i_SSL_SESSION(ptr::null_mut(), &raw mut bytes, length as _);
        if session.is_null() {
            // Or nginx would find why at its next call, and wonder.
            ERR_clear_error();
            return session;
        }
        let tls = (*(*pc).ssl).connection;
        let version = SSL_SESSION_get_protocol_version(session);
        let allowed = version != TLS1_2_VERSION as i32 || SSL_get_options(tls) & NO_TLS_1_2 == 0;
        let set = allowed && SSL_set_session(tls, session) == 1;
        SSL_SESSION_free(session);
        // What the control connection has not verified, a data connection has to.
        let verified = SSL_get_verify_result(tls) == i64::from(X509_V_OK)
            && set
            && !SSL_SESSION_get0_peer(SSL_get_session(tls)).is_null();
        if !set || (verifies && !verified) {
            SSL_set_session(tls, ptr::null_mut());
            ERR_clear_error();
            return ptr::null_mut();
        }
        if version < TLS1_3_VERSION as i32 {
            // A server that can do 1.3 would choose it, and there the session means nothing.
            let newest = SSL_CTRL_SET_MAX_PROTO_VERSION as i32;
            SSL_ctrl(tls, newest, version.into(), ptr::null_mut());
        }
        session
    }
}

/// The handshake with the server is done. With TLS 1.2 a newer ticket comes with it, of which `renew` does not hear.
///
/// # Safety
///
/// `pc` is open.
pub unsafe fn renew_if_changed(
    pc: *mut ngx_connection_t,
    zone: &Zone,
    kept: Ticket,
    resumed: *mut SSL_SESSION,
    verified: bool,
) {
    // SAFETY: the connection has its session as long as its TLS.
    unsafe {
        let Some(tls) = (*pc).ssl.as_ref() else {
            return;
        };
        let session = SSL_get_session(tls.connection);
        if SSL_version(tls.connection) < TLS1_3_VERSION as i32 && session != resumed {
            keep_newer(tls.connection, session, zone, kept, verified);
        }
    }
}

/// The server has given a data connection a newer session: the next one resumes that.
///
/// # Safety
///
/// Called by the proxy with the new session in `pc`.
pub unsafe fn renew(pc: *mut ngx_connection_t, zone: &Zone, kept: Ticket, verified: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let session = ngx_ssl_get0_session(pc);
        keep_newer((*(*pc).ssl).connection, session, zone, kept, verified);
    }
}

unsafe fn keep_newer(
    tls: *mut SSL,
    session: *mut SSL_SESSION,
    zone: &Zone,
    kept: Ticket,
    verified: bool,
) {
    // SAFETY: the session is that of this TLS connection.
    unsafe {
        // One that does not come from the control connection's is nothing to resume.
        if SSL_session_reused(tls) != 1 || session.is_null() {
            return;
        }
        if let Some(secret) = Secret::of(session, verified) {
            zone.with(|table| table.keep_instead(kept, secret.as_bytes()));
        }
    }
}
