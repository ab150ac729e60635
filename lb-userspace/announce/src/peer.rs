//! Configuration of a peer.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// A BGP peer: a router to which routes are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique among the peers of a [`Speaker`](crate::Speaker).
    pub name: String,
    /// Not link-local: that would need an interface.
    pub address: IpAddr,
    /// TCP port, usually [`Peer::PORT`].
    pub port: u16,
    pub remote_as: u32,
    pub local_as: u32,
    /// BGP Identifier of this node; not 0.0.0.0, and different from the peer's.
    pub router_id: Ipv4Addr,
    /// Source address of the BGP and BFD sessions; by default the kernel selects it.
    pub source: Option<IpAddr>,
    /// Proposed hold time, whole seconds from 3 to 65535; the smaller of both sides' is used.
    pub hold_time: Duration,
    /// Key of the TCP MD5 signature option (RFC 2385).
    pub password: Option<Password>,
    /// Sends TTL 255 and accepts only TTL 255 (GTSM, RFC 5082). The peer must do the same.
    pub ttl_security: bool,
    /// TTL for a peer in another AS that is not on a connected network; without it, 1.
    pub multihop: Option<u8>,
    pub bfd: Option<Bfd>,
    /// NEXT_HOP of IPv4 routes; by default the local address of the session, if that is IPv4.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes; by default the local address of the session, if that is IPv6.
    pub next_hop_v6: Option<Ipv6Addr>,
}

/// A BFD session with a peer (RFC 5881: single hop).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Interval of transmission and of expected reception; 10 ms to 60 s.
    pub interval: Duration,
    /// How many packets may be lost in a row before the session goes down, as the peer counts them; not 0.
    pub multiplier: u8,
}

/// A password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// A password is not possible as a TCP MD5 key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("password has {0} bytes; must have between 1 and {most}", most = Password::MOST_BYTES)]
pub struct PasswordError(pub usize);

/// A peer's configuration is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("AS numbers must not be 0")]
    As,
    #[error("peer address {0} must not be link-local")]
    LinkLocal(IpAddr),
    #[error("router ID must not be 0.0.0.0")]
    RouterId,
    #[error("hold time {0:?} must be whole seconds between 3 s and 65535 s")]
    HoldTime(Duration),
    #[error("source {source_address} and peer {peer} must be of the same address family")]
    Source {
        source_address: IpAddr,
        peer: IpAddr,
    },
    #[error(
        "ttl_security and multihop exclude each other: TTL 255 is only seen on a connected network"
    )]
    TtlSecurityMultihop,
    #[error("multihop must not be 0")]
    Multihop,
    #[error(
        "BFD here is single hop and needs a peer on a connected network; remove multihop or bfd"
    )]
    BfdMultihop,
    #[error("BFD interval {0:?} must be between 10 ms and 60 s")]
    BfdInterval(Duration),
    #[error("BFD multiplier must not be 0")]
    BfdMultiplier,
}

impl Peer {
    /// TCP port of BGP.
    pub const PORT: u16 = 179;
    /// Default hold time. Keepalives are sent every third of it.
    pub const HOLD_TIME: Duration = Duration::from_secs(9);

    /// Returns a peer with only the required values, the others at their defaults.
    pub fn new(
        name: &str,
        address: IpAddr,
        remote_as: u32,
        local_as: u32,
        router_id: Ipv4Addr,
    ) -> Self {
        Self {
            name: name.to_owned(),
            address,
            port: Self::PORT,
            remote_as,
            local_as,
            router_id,
            source: None,
            hold_time: Self::HOLD_TIME,
            password: None,
            ttl_security: false,
            multihop: None,
            bfd: None,
            next_hop_v4: None,
            next_hop_v6: None,
        }
    }

    /// Fails if the values do not fit together. The speaker reports the error in the status of the peer
    /// and does not connect to it.
    pub fn check(&self) -> Result<(), PeerError> {
        if self.remote_as == 0 || self.local_as == 0 {
            return Err(PeerError::As);
        }
        if let IpAddr::V6(address) = self.address
            && address.is_unicast_link_local()
        {
            return Err(PeerError::LinkLocal(self.address));
        }
        if self.router_id.is_unspecified() {
            return Err(PeerError::RouterId);
        }
        let whole = self.hold_time.subsec_nanos() == 0;
        if !whole || !(3..=65535).contains(&self.hold_time.as_secs()) {
            return Err(PeerError::HoldTime(self.hold_time));
        }
        if let Some(source) = self.source
            && source.is_ipv4() != self.address.is_ipv4()
        {
            return Err(PeerError::Source {
                source_address: source,
                peer: self.address,
            });
        }
        match self.multihop {
            Some(0) => return Err(PeerError::Multihop),
            Some(_) if self.ttl_security => return Err(PeerError::TtlSecurityMultihop),
            Some(_) if self.bfd.is_some() => return Err(PeerError::BfdMultihop),
            _ => {}
        }
        self.bfd.map_or(Ok(()), Bfd::check)
    }

    /// Whether the peer is in the same AS.
    pub(crate) fn is_internal(&self) -> bool {
        self.local_as == self.remote_as
    }
}

impl Bfd {
    fn check(self) -> Result<(), PeerError> {
        let limits = Duration::from_millis(10)..=Duration::from_secs(60);
        if !limits.contains(&self.interval) {
            return Err(PeerError::BfdInterval(self.interval));
        }
        if self.multiplier == 0 {
            return Err(PeerError::BfdMultiplier);
        }
        Ok(())
    }
}

impl Default for Bfd {
    /// 3 × 100 ms.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            multiplier: 3,
        }
    }
}

impl Password {
    /// `TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h.
    pub const MOST_BYTES: usize = 80;

    /// Fails if the text is empty or longer than the kernel accepts.
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if (1..=Self::MOST_BYTES).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PasswordError(text.len()))
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let id = Ipv4Addr::new(10, 0, 0, 2);
        Peer::new("r1", Ipv4Addr::new(10, 0, 0, 1).into(), 65000, 65001, id)
    }

    #[test]
    fn checks_values() {
        assert_eq!(peer().check(), Ok(()));
        let broken = |change: fn(&mut Peer)| {
            let mut peer = peer();
            change(&mut peer);
            peer.check().unwrap_err().to_string()
        };
        assert!(broken(|peer| peer.hold_time = Duration::ZERO).contains("hold time 0"));
        assert!(broken(|peer| peer.hold_time = Duration::from_millis(3500)).contains("3.5s"));
        assert!(broken(|peer| peer.remote_as = 0).contains("AS"));
        let link_local = broken(|peer| peer.address = [0xfe80, 0, 0, 0, 0, 0, 0, 1].into());
        assert!(link_local.contains("fe80::1"), "{link_local}");
        assert!(broken(|peer| peer.source = Some(Ipv6Addr::LOCALHOST.into())).contains("family"));
        let both = broken(|peer| (peer.ttl_security, peer.multihop) = (true, Some(3)));
        assert!(both.contains("ttl_security"));
        let fast = Bfd {
            interval: Duration::from_millis(1),
            multiplier: 3,
        };
        assert_eq!(fast.check(), Err(PeerError::BfdInterval(fast.interval)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let mut peer = peer();
        peer.password = Some(Password::new("hunter2").unwrap());
        assert!(!format!("{peer:?}").contains("hunter2"));
        assert_eq!(Password::new(""), Err(PasswordError(0)));
        assert_eq!(Password::new(&"x".repeat(81)), Err(PasswordError(81)));
    }
}
