//! The little of FTP that both ends of the bench speak: lines, replies, ports, file names.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::tls::{Client, Link};

/// Longest line accepted, in bytes.
const MAX_LINE: usize = 1024;

/// How long a blocking read waits before the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes of a control connection, cut into lines.
#[derive(Default)]
pub struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// Takes what the connection has. `false`: its end, or nothing more will come.
    pub fn fill(&mut self, link: &mut Link) -> bool {
        let mut chunk = [0; MAX_LINE];
        match link.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.bytes.extend(chunk.iter().take(count));
                self.bytes.len() <= 16 * MAX_LINE
            }
            Err(error) => is_transient(&error),
        }
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

/// Would the same call succeed later?
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The size that a name like `z1024` stands for.
pub fn size_of(name: &str) -> Option<u64> {
    name.strip_prefix('z')?.parse().ok()
}

/// The code of a line that ends a reply, `None` for the lines before it.
pub fn final_code(line: &str) -> Option<u16> {
    let (code, rest) = line.split_at_checked(3)?;
    if rest.starts_with('-') {
        return None;
    }
    code.parse().ok()
}

/// Where a 227 or 229 says the data connection goes; a 229 means the address of `control`.
pub fn passive_target(line: &str, control: SocketAddr) -> Option<SocketAddr> {
    let inner = line.split_once('(')?.1.split_once(')')?.0;
    if line.starts_with("229") {
        let port = inner.trim_matches('|').parse().ok()?;
        return Some(SocketAddr::new(control.ip(), port));
    }
    let mut numbers = [0; 6];
    let mut fields = inner.split(',');
    for number in &mut numbers {
        *number = fields.next()?.parse().ok()?;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    Some(SocketAddr::from(([a, b, c, d], port)))
}

/// A control connection whose reads block; for the modes in which speed is not measured.
pub struct Control {
    link: Link,
    lines: Lines,
}

impl Control {
    /// Connects in clear; the greeting is still to be read.
    pub fn connect(target: SocketAddr) -> Result<Self, Error> {
        Self::connect_with(target, None)
    }

    /// Connects, for implicit TLS if there is a `client` for it.
    pub fn connect_with(target: SocketAddr, client: Option<&Client>) -> Result<Self, Error> {
        let stream = TcpStream::connect(target).doing("control connect")?;
        stream.set_nodelay(true).doing("TCP_NODELAY")?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .doing("read timeout")?;
        Ok(Self {
            link: Link::client(stream, client, None)?,
            lines: Lines::default(),
        })
    }

    /// Sends one command.
    pub fn send(&mut self, command: &str) -> Result<(), Error> {
        send_line(&mut self.link, command)
    }

    /// Reads one reply, which must have `code`; returns its last line.
    pub fn expect(&mut self, code: u16) -> Result<String, Error> {
        loop {
            while let Some(line) = self.lines.next_line() {
                match final_code(&line) {
                    Some(got) if got == code => return Ok(line),
                    Some(_) => return Err(Error::Peer(format!("not a {code}: {line}"))),
                    None => {}
                }
            }
            let held = self.lines.bytes.len();
            if !self.lines.fill(&mut self.link) {
                return Err(Error::Peer("control connection was closed".into()));
            }
            if self.lines.bytes.len() == held {
                return Err(Error::Stalled(PATIENCE.as_secs()));
            }
        }
    }

    /// Reads the reply to PASV.
    pub fn expect_passive(&mut self) -> Result<SocketAddr, Error> {
        let line = self.expect(227)?;
        let control = self.link.socket().peer_addr().doing("getpeername")?;
        passive_target(&line, control).ok_or(Error::Peer(line))
    }

    /// Gives the connection away, for a loop that does not block.
    pub fn into_link(self) -> Link {
        self.link
    }
}

/// Sends `line` at once: it is short and the send buffer of a control connection is empty.
pub fn send_line(link: &mut Link, line: &str) -> Result<(), Error> {
    link.write_line(line).doing("control write")
}

/// Connects and logs in, in clear.
pub fn log_in(target: SocketAddr) -> Result<Control, Error> {
    log_in_with(target, None)
}

/// Connects and logs in, with implicit TLS for control and data if there is a `client` for it.
pub fn log_in_with(target: SocketAddr, client: Option<&Client>) -> Result<Control, Error> {
    let mut control = Control::connect_with(target, client)?;
    control.expect(220)?;
    if client.is_some() {
        for command in ["PBSZ 0", "PROT P"] {
            control.send(command)?;
            control.expect(200)?;
        }
    }
    control.send("USER bench")?;
    control.expect(331)?;
    control.send("PASS bench")?;
    control.expect(230)?;
    control.send("TYPE I")?;
    control.expect(200)?;
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passive_replies_name_a_target() {
        let control = SocketAddr::from(([127, 0, 0, 9], 21));
        let pasv = passive_target("227 Entering (127,0,0,1,78,33).", control);
        assert_eq!(pasv, Some(SocketAddr::from(([127, 0, 0, 1], 20001))));
        let epsv = passive_target("229 Entering (|||20001|)", control);
        assert_eq!(epsv, Some(SocketAddr::from(([127, 0, 0, 9], 20001))));
        assert_eq!(passive_target("227 Entering (127,0,0,1,78)", control), None);
        assert_eq!(
            passive_target("227 Entering (1,2,3,4,256,1)", control),
            None
        );
    }

    #[test]
    fn only_the_last_line_of_a_reply_has_a_code() {
        assert_eq!(final_code("230-Hello"), None);
        assert_eq!(final_code("230 Hello"), Some(230));
        assert_eq!(final_code(" 23"), None);
    }

    #[test]
    fn a_name_tells_its_size() {
        assert_eq!(size_of("z1024"), Some(1024));
        assert_eq!(size_of("1024"), None);
    }
}
