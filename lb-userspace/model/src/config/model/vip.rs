//! `[[vip]]`, `[[vip.backend]]`, `[vip.guard]` and `[vip.scaling]`.

use std::net::IpAddr;

use lb_common::{family_of, hash::HashKey};

use super::{
    Affinity, BackendState, Bound, Forward, Fraction, HashSeed, Health, Limit, Protocol, Skew,
    Track, VipAnnounce,
};
use crate::{
    config::{hash_key::hash_key, keys::value_of, kind},
    membership::MemberSource,
    ring::{Identity, RingSize},
};

table! {
    /// A VIP and its backends.
    Vip as TypedVip, "vip";
    keys {
        /// The name in metrics and commands; unique.
        name: String, [required "a name for metrics and commands: `name = \"api\"`"], kind::name(), Live;
        /// The address that clients connect to.
        address: IpAddr, [required "the address that clients connect to: `address = \"203.0.113.10\"`"],
            kind::address(), ReplacesVip;
        /// The port that clients connect to; 0: any port.
        port: u16, [required "the port that clients connect to, or 0 for any: `port = 443`"],
            kind::port(0), ReplacesVip;
        /// The protocol.
        protocol: Protocol, [required "`protocol = \"tcp\"` or `protocol = \"udp\"`"], kind::word::<Protocol>(), ReplacesVip;
        /// How packets reach the backends: by MAC address, for which they must be on the same link (a
        /// route through a gateway is not enough); in an outer IP header; or with source and
        /// destination rewritten.
        forward: Forward,
            [required "how packets reach the backends: `forward = \"l2\"`, \"ipip\" or \"nat\""],
            kind::word::<Forward>(), ReplacesVip;
        /// What a backend is chosen by: the whole flow, or only the client's address.
        affinity: Affinity, [default Affinity::Flow], kind::word::<Affinity>(), ReplacesVip;
        /// Which flows are tracked: those in slots that changed, all, or none (for services whose
        /// clients don't mind another backend, such as DNS). `nat` requires `"always"`.
        track: Track,
            [derived TypedVip::default_track, "`\"on-change\"` for TCP, `\"always\"` for UDP and `nat`"],
            kind::word::<Track>(), Live;
        /// Slots of the ring. The share of every backend is exact to one slot.
        ring_size: RingSize, [default RingSize::default()], kind::ring_size(), ReplacesVip;
        /// Where the backends come from, instead of `[[vip.backend]]`: the addresses of a DNS name,
        /// SRV records, or what `PUT /v1/sources/NAME` sets. [Sources of backends](sources.md) has the
        /// rules.
        backends_from: MemberSource, [optional "backends are listed in `[[vip.backend]]`"],
            kind::member_source(), Live;
    }
    resolved {
        /// How backends are checked; `None`: all count as healthy.
        health: Option<Health>;
        /// Limits for changes.
        guard: Guard;
        /// Limits for traffic.
        limit: Limit;
        /// Bounds of the new flows of each backend.
        bound: Bound;
        /// Utilisation that is wanted.
        scaling: Scaling;
        /// When shares count as skewed.
        skew: Skew;
        /// How the VIP is announced.
        announce: VipAnnounce;
        /// What the operator sets for backends of `backends_from`, in the order of the file.
        overrides: Vec<Override>;
        /// In the order of the file; at least one. With `backends_from`, whatever the source names.
        backends: Vec<Backend>;
    }
}

impl TypedVip {
    /// UDP has no SYN by which a new flow is recognised, and `nat` has to remember ports.
    fn default_track(&self) -> Option<Track> {
        Some(
            match (value_of(&self.protocol)?, value_of(&self.forward)?) {
                (_, Forward::Nat) | (Protocol::Udp, _) => Track::Always,
                (Protocol::Tcp, _) => Track::OnChange,
            },
        )
    }
}

impl Vip {
    /// The address family as the maps have it.
    #[must_use]
    pub const fn family(&self) -> u8 {
        family_of(self.address)
    }

    /// The key of the VIP's flow hash.
    #[must_use]
    pub fn hash_key(&self, seed: &HashSeed) -> HashKey {
        let protocol = self.protocol.number();
        hash_key(
            seed.bytes(),
            self.address,
            self.family(),
            protocol,
            self.port,
        )
    }
}

table! {
    /// A backend of a VIP. Its `port` is 0 if packets keep theirs.
    Backend as TypedBackend, "vip.backend";
    keys {
        /// The name in metrics and commands; unique in the VIP. Renaming moves no flow.
        name: String, [required "a name, unique in its VIP: `name = \"api-1\"`"], kind::name(), Live;
        /// The backend's own address, not that of a VIP. Address and port are unique in the VIP.
        address: IpAddr, [required "the backend's own address: `address = \"10.0.1.11\"`"],
            kind::address(), NewBackend;
        /// The port of the backend. May differ from the VIP's only with `nat`; not for a VIP of any
        /// port.
        port: u16, [default 0, "the VIP's"], kind::port(1), NewBackend;
        /// Its share of new flows is the weight over the sum of the weights; 0: none.
        weight: u32, [default 100], kind::integer(0..=65_535), Live;
        /// New flows per second that it can take, for plans, alerts and `vip.bound`.
        capacity: u32, [optional "unknown"], kind::integer(1..=u32::MAX), Live;
        /// The operator's setting: serves; keeps its flows and gets no new ones; gets no packets.
        state: BackendState, [default BackendState::default()], kind::word::<BackendState>(), Live;
    }
}

impl TypedBackend {
    /// The backend of a VIP with this port, which is the default of its own.
    pub(in crate::config) fn resolve_with(&self, vip_port: Option<u16>) -> Option<Backend> {
        let mut backend = self.resolve()?;
        if self.port.is_none() {
            backend.port = vip_port?;
        }
        Some(backend)
    }
}

impl Backend {
    /// What its place in the ring depends on.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity {
            address: self.address,
            port: self.port,
        }
    }
}

table! {
    /// What the operator sets for a backend of `backends_from`, whatever its source says. It waits for a
    /// backend that is not there.
    Override as TypedOverride, "vip.override";
    keys {
        /// The name of the backend, as `evenkeel status` shows it.
        name: String, [required "the name of a backend: `name = \"10.0.0.7\"`"], kind::name(), Live;
        /// As of a configured backend.
        state: BackendState, [optional "as the source says"], kind::word::<BackendState>(), Live;
        /// As of a configured backend.
        weight: u32, [optional "as the source says"], kind::integer(0..=65_535), Live;
    }
}

table! {
    /// Limits that a change must keep unless the guard is forced.
    #[derive(Copy)]
    Guard as TypedGuard, "vip.guard", with Default;
    keys {
        /// Largest share of the ring that one backend may have. Without it, a change may not give
        /// a backend more than half of the ring and more than twice what it had, unless that only
        /// follows from the number of backends, as when one of two is drained; `1` allows all.
        max_share: Fraction, [optional "see there"], kind::share(), Live;
        /// Largest share of the ring that one change may move. To remove one of four backends moves
        /// its quarter and a little more: leave room.
        max_moved: Fraction, [default Fraction::ALL], kind::share(), Live;
        /// Fewest eligible backends that a change may leave.
        min_backends: u32, [default 1], kind::integer(1..=4096), Live;
    }
}

table! {
    /// How much of the capacity of a VIP's backends is to be used.
    #[derive(Copy)]
    Scaling as TypedScaling, "vip.scaling", with Default;
    keys {
        /// Wanted utilisation of the eligible backends' `capacity`: "backends wanted" is computed
        /// from it.
        target_utilisation: Fraction, [default Fraction::from_millionths(700_000)], kind::share(), Live;
        /// Utilisation from which on an alert fires, at least `target_utilisation`; from 1.0 on it is
        /// critical.
        alert_utilisation: Fraction, [default Fraction::from_millionths(900_000)], kind::share(), Live;
    }
}
