//! A view of the pinned maps of a node, for tests and for commands that work without a controller.
//!
//! Nothing is loaded or pinned. Ring images that the controller creates after [`PinnedView::open`] are
//! not in the view: open another.

use std::{io, net::IpAddr};

use aya::maps::{Map, MapData, MapError};
use lb_common::{
    address_of,
    member::Member,
    nat::NatSource,
    proto,
    ring::MemberIndex,
    vip::{VipKey, target},
};

use super::{
    Bounds, Counters, EgressTable, Limits, Mapped, Members, Pins, Rings, Services, Sessions,
    Tracking, Vips,
    catalog::{name, part},
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result, chain},
    maps::{mapped_from, part_of},
};
use lb_model::transition::RingState;

/// The pinned maps of a node.
pub struct PinnedView {
    pub vips: Vips,
    pub members: Members,
    pub services: Services,
    pub rings: Rings,
    pub counters: Counters,
    pub tracking: Tracking,
    pub egress: EgressTable,
    pub sessions: Sessions,
    pub nat_sources: Mapped<NatSource>,
    /// None if the data path is of a build without limits.
    pub limits: Option<Limits>,
    /// None if the data path is of a build without bounds.
    pub bounds: Option<Bounds>,
}

impl std::fmt::Debug for PinnedView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedView").finish_non_exhaustive()
    }
}

impl PinnedView {
    /// Opens the pinned maps without changing anything.
    ///
    /// # Errors
    ///
    /// Nothing is pinned, or it is of another version.
    pub fn open(pins: &Pins) -> Result<Self> {
        pins.check_version()?;
        let tables = pinned_data(pins, name::TABLES)?;
        let vips = Vips {
            table: part_of(&tables, &part::VIPS)?,
        };
        let named: Vec<_> = vips.rings().map(|(_, ring)| ring.image).collect();
        Ok(Self {
            members: Members {
                table: part_of(&tables, &part::MEMBERS)?,
            },
            services: Services::new(part_of(&tables, &part::SERVICES)?),
            rings: Rings::adopt(pinned(pins, name::RINGS)?, Some(pins.images()), named)?,
            vips,
            counters: Counters::of(&pinned_data(pins, name::COUNTERS)?)?,
            tracking: Tracking::new(mapped_from(name::TRACK, &pinned(pins, name::TRACK)?)?),
            egress: EgressTable {
                table: part_of(&tables, &part::EGRESS)?,
                devices: pinned_as(pins, name::DEVICES)?,
            },
            sessions: Sessions {
                requests: mapped_from(name::NAT_REQUESTS, &pinned(pins, name::NAT_REQUESTS)?)?,
                replies: mapped_from(name::NAT_REPLIES, &pinned(pins, name::NAT_REPLIES)?)?,
                embryonic: mapped_from(name::NAT_NEW, &pinned(pins, name::NAT_NEW)?)?,
                index: mapped_from(name::NAT_INDEX, &pinned(pins, name::NAT_INDEX)?)?,
            },
            nat_sources: part_of(&tables, &part::NAT_SOURCES)?,
            limits: Limits::of(|name| pinned(pins, name)).ok(),
            bounds: Bounds::of(|name| pinned(pins, name)).ok(),
        })
    }

    /// The VIP that packets to this address, port and protocol belong to.
    pub fn vip(&self, address: IpAddr, port: u16, protocol: u8) -> Result<Option<u16>> {
        debug_assert!(protocol == proto::TCP || protocol == proto::UDP);
        let (address, family) = address_of(address);
        let key = VipKey::new(&address, family, protocol, port.to_be());
        let found = self.services.get(&key)?;
        Ok(found
            .filter(|&found| target::kind(found) == target::VIP)
            .map(target::index))
    }

    pub fn members_of(&self, vip: u16) -> impl Iterator<Item = (MemberIndex, Member)> + '_ {
        self.members
            .present()
            .filter(move |(_, member)| member.vip == vip)
    }

    /// The ring of a VIP; none if it has none, or one that is newer than this view.
    pub fn ring(&self, vip: u16) -> Result<Option<RingState>> {
        let Some(ring) = self.vips.ring(vip)? else {
            return Ok(None);
        };
        let Ok(words) = self.rings.words(ring.image) else {
            return Ok(None);
        };
        Ok(RingState::from_image(&words, ring.size, 0).ok())
    }
}

fn pinned_data(pins: &Pins, name: &'static str) -> Result<MapData> {
    let path = pins.maps().join(name);
    MapData::from_pin(&path).map_err(|error| DataplaneError::Pin {
        operation: "open pinned map",
        kernel: io::Error::other(chain(&error)).to_string(),
        path,
        hint: MISMATCH_HINT,
    })
}

fn pinned(pins: &Pins, name: &'static str) -> Result<Map> {
    Map::from_map_data(pinned_data(pins, name)?)
        .map_err(|error| DataplaneError::map("open", name, &error, MISMATCH_HINT))
}

fn pinned_as<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<T> {
    T::try_from(pinned(pins, name)?)
        .map_err(|error| DataplaneError::map("open", name, &error, PRIVILEGE_HINT))
}
