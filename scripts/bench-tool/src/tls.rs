//! TLS for either side of the proxy: what configures it, and connections that are in clear or under TLS.
//! Which connections are which, and how many have to resume, the callers decide.
//!
//! It is OpenSSL's, as that of many FTP clients and servers is: a client that resumes its control connection's
//! session on one data connection after the other, and a server with tickets that let it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::ssl::{
    self, ErrorCode, Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode,
    SslStream, SslVerifyMode,
};

use crate::error::{Doing, Error};
use crate::sys::{self, Interest};

/// Handshakes of one side, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// With a certificate and a signature.
    pub full: u64,
    /// Of an earlier session.
    pub resumed: u64,
}

impl Handshakes {
    /// Counts the one of `link`, which is over; nothing if that is in clear.
    pub fn count(&mut self, link: &Link) {
        match link {
            Link::Tls(tls) if tls.stream.ssl().session_reused() => self.resumed += 1,
            Link::Tls(_) => self.full += 1,
            Link::Plain(_) => {}
        }
    }

    /// Reads `full=N` and `resumed=N` among the words of a line.
    pub fn parse(line: &str) -> Option<Self> {
        let number = |name| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name))?;
            value.parse().ok()
        };
        Some(Self {
            full: number("full=")?,
            resumed: number("resumed=")?,
        })
    }

    /// Those since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            full: self.full - earlier.full,
            resumed: self.resumed - earlier.resumed,
        }
    }
}

/// What all TLS connections of a client have in common.
pub struct Client {
    context: SslContext,
    resume: bool,
}

impl Client {
    /// Trusts one certificate; data connections resume, or make full handshakes.
    pub fn new(certificate: &Path, resume: bool) -> Result<Self, Error> {
        let mut builder = builder()?;
        builder.set_ca_file(certificate).doing("certificate")?;
        builder.set_verify(SslVerifyMode::PEER);
        Ok(Self {
            context: builder.build(),
            resume,
        })
    }
}

/// What all TLS connections of a server have in common. Its tickets can be used by any connection, as often as the
/// client likes.
pub struct Server(SslContext);

impl Server {
    /// With the certificate and key of two PEM files.
    pub fn new(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let mut builder = builder()?;
        let format = SslFiletype::PEM;
        builder
            .set_certificate_file(certificate, format)
            .doing("certificate")?;
        builder.set_private_key_file(key, format).doing("key")?;
        Ok(Self(builder.build()))
    }
}

fn builder() -> Result<SslContextBuilder, Error> {
    let mut builder = SslContext::builder(SslMethod::tls()).doing("TLS")?;
    builder.set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    Ok(builder)
}

/// A connection in clear or under TLS.
pub enum Link {
    /// In clear.
    Plain(TcpStream),
    /// Under TLS, from its first byte on.
    Tls(Box<Tls>),
}

/// A connection under TLS.
pub struct Tls {
    stream: SslStream<TcpStream>,
    /// Lines that wait for the handshake.
    waiting: Vec<u8>,
    /// What was tried last waits for room in the socket.
    wants_room: bool,
    /// close_notify is sent.
    finished: bool,
}

impl Link {
    /// As a TLS client, if there is one; a data connection resumes the session of its `control` connection, if the
    /// client does that. Nothing is sent yet.
    pub fn client(
        socket: TcpStream,
        client: Option<&Client>,
        control: Option<&Self>,
    ) -> Result<Self, Error> {
        let Some(client) = client else {
            return Ok(Self::Plain(socket));
        };
        let address = socket.peer_addr().doing("getpeername")?.ip();
        let mut ssl = Ssl::new(&client.context).doing("TLS")?;
        ssl.param_mut().set_ip(address).doing("TLS")?;
        ssl.set_connect_state();
        if let Some(Self::Tls(control)) = control.filter(|_| client.resume)
            && let Some(session) = control.stream.ssl().session()
        {
            // SAFETY: all connections of a client have the same context.
            unsafe { ssl.set_session(session) }.doing("TLS session")?;
        }
        Self::secured(ssl, socket)
    }

    /// As a TLS server, if there is one.
    pub fn server(socket: TcpStream, server: Option<&Server>) -> Result<Self, Error> {
        let Some(Server(context)) = server else {
            return Ok(Self::Plain(socket));
        };
        let mut ssl = Ssl::new(context).doing("TLS")?;
        ssl.set_accept_state();
        Self::secured(ssl, socket)
    }

    fn secured(ssl: Ssl, socket: TcpStream) -> Result<Self, Error> {
        let stream = SslStream::new(ssl, socket).doing("TLS")?;
        Ok(Self::Tls(Box::new(Tls {
            stream,
            waiting: Vec::new(),
            wants_room: false,
            finished: false,
        })))
    }

    /// The connection below TLS.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.stream.get_ref(),
        }
    }

    /// Is it under TLS, done or still to come?
    pub fn is_secured(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What to wait for, if it is `in_clear` where there is no TLS. Under TLS either direction may need the other.
    pub fn interest(&self, in_clear: Interest) -> Interest {
        match self {
            Self::Plain(_) => in_clear,
            Self::Tls(tls) if tls.wants_room => Interest::Both,
            Self::Tls(_) => Interest::Read,
        }
    }

    /// Reads into `bytes`, making the handshake first. Returns 0 at the end, which is close_notify under TLS.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(tls) => tls.read(bytes),
        }
    }

    /// Drops at most as many bytes as `scratch` has. Returns 0 at the end.
    pub fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => sys::discard(socket, scratch.len()),
            Self::Tls(tls) => tls.read(scratch),
        }
    }

    /// Writes some of `bytes`. What would block has to be tried again with the same bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => {
                let outcome = tls.stream.ssl_write(bytes);
                tls.judge(outcome)
            }
        }
    }

    /// Writes a line at once, or right behind the handshake: it is short and the send buffer of a control connection
    /// is empty.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        let text = format!("{line}\r\n");
        match self {
            Self::Plain(socket) => socket.write_all(text.as_bytes()),
            Self::Tls(tls) => {
                tls.waiting.extend(text.as_bytes());
                tls.write_waiting()
            }
        }
    }

    /// Takes in what has arrived for a side that only sends: handshake and tickets. An end is an error.
    pub fn attend(&mut self) -> io::Result<()> {
        let Self::Tls(tls) = self else {
            return Ok(());
        };
        match tls.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends what is sent, with close_notify under TLS; to be called again until it does not block.
    pub fn finish(&mut self) -> io::Result<()> {
        let Self::Tls(tls) = self else {
            return Ok(());
        };
        if !tls.finished {
            let outcome = tls.stream.shutdown();
            tls.judge(outcome.map(|_| 0))?;
            tls.finished = true;
        }
        Ok(())
    }
}

impl Tls {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.stream.ssl().is_init_finished() {
            let outcome = self.stream.do_handshake();
            self.judge(outcome.map(|()| 0))?;
        }
        self.write_waiting()?;
        let outcome = self.stream.ssl_read(bytes);
        self.judge(outcome)
    }

    /// Writes the lines that waited, if the handshake is over.
    fn write_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() || !self.stream.ssl().is_init_finished() {
            return Ok(());
        }
        let outcome = self.stream.ssl_write(&self.waiting);
        self.judge(outcome)?;
        self.waiting.clear();
        Ok(())
    }

    /// The same as a result of I/O: the end is 0, and what would block says so.
    fn judge(&mut self, outcome: Result<usize, ssl::Error>) -> io::Result<usize> {
        self.wants_room = false;
        let error = match outcome {
            Ok(count) => return Ok(count),
            Err(error) => error,
        };
        match error.code() {
            ErrorCode::ZERO_RETURN => Ok(0),
            ErrorCode::WANT_READ => Err(io::ErrorKind::WouldBlock.into()),
            ErrorCode::WANT_WRITE => {
                self.wants_room = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
            _ => Err(error.into_io_error().unwrap_or_else(io::Error::other)),
        }
    }
}

impl<T> Doing<T> for Result<T, ErrorStack> {
    fn doing(self, what: &'static str) -> Result<T, Error> {
        self.map_err(io::Error::other).doing(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_tells_the_handshakes() {
        let earlier = Handshakes::parse("211 full=3 resumed=40");
        let expected = Handshakes {
            full: 3,
            resumed: 40,
        };
        assert_eq!(earlier, Some(expected));
        assert_eq!(Handshakes::parse("211 full=3"), None);
    }
}
