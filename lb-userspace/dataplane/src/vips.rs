//! The VIPs.
//!
//! An entry has two owners: the mask of the sampled flows follows the traffic, everything else the configuration. So
//! [`Vips::read`] and [`Vips::write`] leave the mask out, and it has a pair of its own.

use std::mem::offset_of;

use lb_common::vip::Vip;

use super::{error::Result, mapping::Mapped, rings::ImageIndex};

/// The VIP array.
#[derive(Debug)]
pub struct Vips {
    pub(super) table: Mapped<Vip>,
}

/// Ring of a VIP: an image and the number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingName {
    /// The image.
    pub image: ImageIndex,
    /// Slots.
    pub size: u32,
}

impl RingName {
    /// What the ring word of a VIP means; `None` when it has no ring.
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        match (word >> 32) as u32 {
            0 => None,
            size => Some(Self {
                image: ImageIndex(word as u32),
                size,
            }),
        }
    }

    /// The ring word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        Vip::pack_ring(self.image.0, self.size)
    }
}

impl Vips {
    /// A VIP as the kernel has it; its mask is given as 0.
    pub fn read(&self, vip: u16) -> Result<Vip> {
        let sample_mask = 0;
        let found = self.table.read(vip.into())?;
        Ok(Vip {
            sample_mask,
            ..found
        })
    }

    /// Writes a VIP, but not its mask; its ring word comes last. For VIPs that no service names yet: several words
    /// don't change in one step.
    pub fn write(&self, vip: u16, value: &Vip) -> Result<()> {
        const { assert!(offset_of!(Vip, ring) == 0) };
        let sample_mask = self.sample_mask(vip)?.into();
        let kept = Vip {
            sample_mask,
            ..*value
        };
        self.table.write_first_word_last(vip.into(), &kept)
    }

    /// Samples one flow in `mask + 1` of a VIP from now on; a power of two minus one.
    pub fn set_sample_mask(&self, vip: u16, mask: u32) -> Result<()> {
        let place = offset_of!(Vip, sample_mask);
        self.table.store_word(vip.into(), place, mask.into())
    }

    /// The mask of a VIP's sampled flows.
    pub fn sample_mask(&self, vip: u16) -> Result<u32> {
        let word = self
            .table
            .load_word(vip.into(), offset_of!(Vip, sample_mask))?;
        Ok(word as u32)
    }

    /// Points a VIP to another ring in one step. The image of the ring before may be retired now.
    pub fn swap_ring(&self, vip: u16, ring: Option<RingName>) -> Result<()> {
        let word = ring.map_or(0, RingName::pack);
        self.table
            .store_word(vip.into(), offset_of!(Vip, ring), word)
    }

    /// The ring of a VIP.
    pub fn ring(&self, vip: u16) -> Result<Option<RingName>> {
        Ok(RingName::unpack(
            self.table.load_word(vip.into(), offset_of!(Vip, ring))?,
        ))
    }

    /// All VIPs that have a ring.
    pub fn rings(&self) -> impl Iterator<Item = (u16, RingName)> + '_ {
        (0..self.table.len() as u16).filter_map(|vip| Some((vip, self.ring(vip).ok()??)))
    }

    /// Removes a VIP that no service names any more.
    pub fn clear(&self, vip: u16) -> Result<()> {
        self.swap_ring(vip, None)?;
        self.table.write(vip.into(), &bytemuck::Zeroable::zeroed())
    }
}
