//! Who may connect to a data port: one canonical host address, or anybody.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// A canonical host address, equal however the socket spelled it.
///
/// An IPv4 address mapped into IPv6 is the IPv4 address. The scope id counts for IPv6 link-local addresses
/// (fe80::/10, RFC 4007) and is 0 otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    ip: IpAddr,
    scope: u32,
}

impl Host {
    /// The host with this address; `scope` is the interface index of a link-local address.
    pub fn new(ip: IpAddr, scope: u32) -> Self {
        let ip = ip.to_canonical();
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let scope = if link_local { scope } else { 0 };
        Self { ip, scope }
    }

    /// The host of a socket address; the port does not count.
    pub fn from_socket(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::new(IpAddr::V4(*v4.ip()), 0),
            SocketAddr::V6(v6) => Self::new(IpAddr::V6(*v6.ip()), v6.scope_id()),
        }
    }

    /// A socket address of this host.
    pub fn at(&self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// The address, never IPv4-mapped.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The interface index of a link-local address, else 0.
    pub fn scope(&self) -> u32 {
        self.scope
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => write!(f, "{}", self.ip),
            scope => write!(f, "{}%{scope}", self.ip),
        }
    }
}

/// Who may connect to a reserved port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Only this host; other hosts may have reservations on the same port.
    Host(Host),
    /// Anybody: the peer check is off, and the port holds one reservation.
    Any,
}

impl Peer {
    /// Whether a connection from `host` is the one that is waited for.
    pub fn admits(&self, host: Host) -> bool {
        match self {
            Peer::Host(expected) => *expected == host,
            Peer::Any => true,
        }
    }
}

impl From<Host> for Peer {
    fn from(host: Host) -> Self {
        Peer::Host(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(ip: &str, scope: u32) -> Host {
        Host::new(ip.parse().unwrap(), scope)
    }

    #[test]
    fn mapped_ipv4_is_ipv4() {
        assert_eq!(host("::ffff:192.0.2.7", 0), host("192.0.2.7", 0));
        assert_eq!(
            Host::from_socket(&"[::ffff:192.0.2.7]:2121".parse().unwrap()),
            Host::from_socket(&"192.0.2.7:40000".parse().unwrap()),
        );
    }

    #[test]
    fn compatible_ipv4_is_not_ipv4() {
        assert_ne!(host("::192.0.2.7", 0), host("192.0.2.7", 0));
    }

    #[test]
    fn scope_counts_for_link_local_only() {
        assert_ne!(host("fe80::1", 1), host("fe80::1", 2));
        assert_ne!(host("febf::1", 1), host("febf::1", 2));
        assert_eq!(host("2001:db8::1", 1), host("2001:db8::1", 2));
        assert_eq!(host("fec0::1", 1).scope(), 0);
        assert_eq!(host("192.0.2.7", 3).scope(), 0);
        assert_eq!(host("::ffff:192.0.2.7", 3).scope(), 0);
        assert_eq!(
            Host::from_socket(&"[fe80::1%3]:21".parse().unwrap()),
            host("fe80::1", 3)
        );
    }

    #[test]
    fn scope_is_shown_when_it_counts() {
        assert_eq!(host("fe80::1", 2).to_string(), "fe80::1%2");
        assert_eq!(host("2001:db8::1", 2).to_string(), "2001:db8::1");
        assert_eq!(host("::ffff:192.0.2.7", 0).to_string(), "192.0.2.7");
    }

    #[test]
    fn socket_address_keeps_the_scope() {
        assert_eq!(host("fe80::1", 2).at(5), "[fe80::1%2]:5".parse().unwrap());
        let mapped = host("::ffff:192.0.2.7", 0).at(5);
        assert_eq!(mapped, "192.0.2.7:5".parse().unwrap());
    }

    #[test]
    fn any_admits_every_host() {
        assert!(Peer::Any.admits(host("192.0.2.7", 0)));
        assert!(Peer::from(host("192.0.2.7", 0)).admits(host("::ffff:192.0.2.7", 0)));
        assert!(!Peer::from(host("192.0.2.7", 0)).admits(host("192.0.2.8", 0)));
    }
}
