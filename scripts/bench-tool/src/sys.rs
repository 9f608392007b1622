//! The few system calls that `std` lacks; nearly all `unsafe` of the tool.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Events taken out of the kernel at once.
const BATCH: usize = 256;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, a connection or an end of file.
    Read,
    /// Room in the send buffer.
    Write,
    /// Whichever comes first.
    Both,
}

impl Interest {
    fn bits(self) -> u32 {
        match self {
            Self::Read => libc::EPOLLIN as u32,
            Self::Write => libc::EPOLLOUT as u32,
            Self::Both => Self::Read.bits() | Self::Write.bits(),
        }
    }
}

/// A level-triggered epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// An instance that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH],
        })
    }

    /// Watches `source` until it is closed; its events carry `token`.
    pub fn add(&self, source: &impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, interest, token)
    }

    /// Waits for something else of a `source` that is watched.
    pub fn change(&self, source: &impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, interest, token)
    }

    fn control(
        &self,
        operation: i32,
        source: &impl AsFd,
        interest: Interest,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: both descriptors are borrowed and open, the event lives over the call.
        check(unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                operation,
                source.as_fd().as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Puts the tokens of what is ready into `tokens`, none after `timeout` milliseconds.
    pub fn wait(&mut self, timeout: i32, tokens: &mut Vec<u64>) -> io::Result<()> {
        tokens.clear();
        let room = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `room` events into the vector that long.
        let ready = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout)
        };
        let ready = match check(ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => usize::try_from(other?).unwrap_or(0),
        };
        tokens.extend(self.events.iter().take(ready).map(|event| event.u64));
        Ok(())
    }
}

/// Reads at most `max` bytes of `stream` without copying them out of the kernel.
/// Returns 0 at the end of the stream.
pub fn discard(stream: &TcpStream, max: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket drops the bytes, nothing is written to the null pointer.
    let count = unsafe { libc::recv(stream.as_raw_fd(), ptr::null_mut(), max, libc::MSG_TRUNC) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Makes the queue of connections that wait for `accept` as long as the system allows;
/// an overflow of it would cost a second per connection.
pub fn widen_backlog(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed and open; no pointers are passed.
    check(unsafe { libc::listen(listener.as_raw_fd(), i32::MAX) })?;
    Ok(())
}

/// Sends SIGHUP.
pub fn hang_up(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::kill(pid, libc::SIGHUP) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
