//! What an explanation reads: the maps, and names for the VIPs and members in them.

use lb_common::{nat::NatSource, ring::MemberIndex};

use crate::{
    Bounds, Dataplane, EgressTable, Limits, Mapped, Members, PinnedView, Rings, Services, Sessions,
    Tracking, Vips, clock,
};

/// The maps that decide about a packet.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    pub services: &'a Services,
    pub vips: &'a Vips,
    pub rings: &'a Rings,
    pub members: &'a Members,
    pub tracking: &'a Tracking,
    pub sessions: &'a Sessions,
    pub nat_sources: &'a Mapped<NatSource>,
    pub egress: &'a EgressTable,
    /// None if the data path is of a build without limits.
    pub limits: Option<&'a Limits>,
    /// None if the data path is of a build without bounds.
    pub bounds: Option<&'a Bounds>,
    /// Time for rate limits in nanoseconds.
    pub now_ns: u64,
    /// Time of the data path in seconds; none if unknown.
    pub now_s: Option<u64>,
}

impl std::fmt::Debug for Tables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl<'a> From<&'a Dataplane> for Tables<'a> {
    fn from(dataplane: &'a Dataplane) -> Self {
        Self {
            services: &dataplane.services,
            vips: &dataplane.vips,
            rings: &dataplane.rings,
            members: &dataplane.members,
            tracking: &dataplane.tracking,
            sessions: &dataplane.sessions,
            nat_sources: &dataplane.nat_sources,
            egress: &dataplane.egress,
            limits: Some(&dataplane.limits),
            bounds: Some(&dataplane.bounds),
            now_ns: dataplane.limit_clock(),
            now_s: dataplane.now_s().ok(),
        }
    }
}

impl<'a> From<&'a PinnedView> for Tables<'a> {
    fn from(view: &'a PinnedView) -> Self {
        Self {
            services: &view.services,
            vips: &view.vips,
            rings: &view.rings,
            members: &view.members,
            tracking: &view.tracking,
            sessions: &view.sessions,
            nat_sources: &view.nat_sources,
            egress: &view.egress,
            limits: view.limits.as_ref(),
            bounds: view.bounds.as_ref(),
            now_ns: clock::monotonic_ns(),
            now_s: None,
        }
    }
}

/// Names for what the maps know by index.
pub trait Names {
    fn vip(&self, index: u16) -> Option<String>;

    /// Name of a member's backend.
    fn member(&self, index: MemberIndex) -> Option<String>;

    /// The state of a member, in more detail than in the maps: these do not tell an up member from
    /// a draining one.
    fn member_state(&self, _index: MemberIndex) -> Option<String> {
        None
    }

    /// Name of an interface in the network namespace of the calling thread.
    fn interface(&self, ifindex: u32) -> Option<String> {
        let name = nix::net::if_::if_indextoname(ifindex).ok()?;
        name.into_string().ok()
    }
}

/// Everything an explanation reads.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub tables: Tables<'a>,
    pub names: &'a dyn Names,
    /// Index of the interface that receives the packet. `None`: the one that transmits it.
    pub ingress: Option<u32>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}
