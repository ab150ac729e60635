//! Where an explanation comes from: the tables, and names for what is in them.

use lb_common::{nat::NatSource, ring::MemberIndex};

use crate::{
    Dataplane, EgressTable, Mapped, Members, PinnedView, Rings, Services, Sessions, Tracking, Vips,
};

/// The tables that decide about a packet.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// Which packets are for which VIP.
    pub services: &'a Services,
    /// The VIPs.
    pub vips: &'a Vips,
    /// The ring images.
    pub rings: &'a Rings,
    /// The members.
    pub members: &'a Members,
    /// The tracking table.
    pub tracking: &'a Tracking,
    /// Sessions of `nat`.
    pub sessions: &'a Sessions,
    /// Addresses that `nat` sends from.
    pub nat_sources: &'a Mapped<NatSource>,
    /// Interfaces that frames leave through.
    pub egress: &'a EgressTable,
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
        }
    }
}

/// What people call the things that the tables know by number.
pub trait Names {
    /// Name of a VIP.
    fn vip(&self, index: u16) -> Option<String>;

    /// Name of the backend of a member.
    fn member(&self, index: MemberIndex) -> Option<String>;

    /// More about the state of a member than the tables say: they know no difference between one
    /// that is up and one that drains.
    fn member_state(&self, _index: MemberIndex) -> Option<String> {
        None
    }

    /// Name of an interface, in the network namespace of the calling thread.
    fn interface(&self, ifindex: u32) -> Option<String> {
        let name = nix::net::if_::if_indextoname(ifindex).ok()?;
        name.into_string().ok()
    }
}

/// No names: things are called by their number.
#[derive(Clone, Copy, Debug)]
pub struct Unnamed;

impl Names for Unnamed {
    fn vip(&self, _index: u16) -> Option<String> {
        None
    }

    fn member(&self, _index: MemberIndex) -> Option<String> {
        None
    }
}

/// Everything that an explanation needs.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The tables.
    pub tables: Tables<'a>,
    /// Names.
    pub names: &'a dyn Names,
    /// Index of the interface that the packet is taken to come in by. `None`: the one that it leaves
    /// by.
    pub ingress: Option<u32>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl<'a> Sources<'a> {
    /// A data path, and names for what is in it. Packets are taken to come in by the
    /// interface with the index `ingress`.
    #[must_use]
    pub fn of(dataplane: &'a Dataplane, names: &'a dyn Names, ingress: Option<u32>) -> Self {
        Self {
            tables: dataplane.into(),
            names,
            ingress,
        }
    }
}
