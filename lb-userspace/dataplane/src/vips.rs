//! The VIP table.
//!
//! The sample mask of an entry follows the traffic, everything else the configuration. So
//! [`Vips::read`] and [`Vips::write`] exclude the mask, which has its own functions.

use std::mem::offset_of;

use lb_common::vip::Vip;

use super::{error::Result, mapping::Mapped, rings::ImageIndex};

#[derive(Debug)]
pub struct Vips {
    pub(super) table: Mapped<Vip>,
}

/// The ring of a VIP: an image and its number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingName {
    pub image: ImageIndex,
    /// Number of slots.
    pub size: u32,
}

impl RingName {
    /// Decodes a VIP's ring word; none if it has no ring.
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

    /// Encodes the ring word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        Vip::pack_ring(self.image.0, self.size)
    }
}

impl Vips {
    /// Reads a VIP, with a sample mask of 0.
    pub fn read(&self, vip: u16) -> Result<Vip> {
        let sample_mask = 0;
        let found = self.table.read(vip.into())?;
        Ok(Vip {
            sample_mask,
            ..found
        })
    }

    /// Writes a VIP except its sample mask, the ring word last. Not atomic: for VIPs that no service
    /// refers to yet.
    pub fn write(&self, vip: u16, value: &Vip) -> Result<()> {
        const { assert!(offset_of!(Vip, ring) == 0) };
        let sample_mask = self.sample_mask(vip)?.into();
        let kept = Vip {
            sample_mask,
            ..*value
        };
        self.table.write_first_word_last(vip.into(), &kept)
    }

    /// Samples one in `mask + 1` flows of a VIP; the mask is a power of two minus one.
    pub fn set_sample_mask(&self, vip: u16, mask: u32) -> Result<()> {
        let place = offset_of!(Vip, sample_mask);
        self.table.store_word(vip.into(), place, mask.into())
    }

    pub fn sample_mask(&self, vip: u16) -> Result<u32> {
        let word = self
            .table
            .load_word(vip.into(), offset_of!(Vip, sample_mask))?;
        Ok(word as u32)
    }

    /// Replaces a VIP's ring atomically. The old ring's image may then be retired.
    pub fn swap_ring(&self, vip: u16, ring: Option<RingName>) -> Result<()> {
        let word = ring.map_or(0, RingName::pack);
        self.table
            .store_word(vip.into(), offset_of!(Vip, ring), word)
    }

    pub fn ring(&self, vip: u16) -> Result<Option<RingName>> {
        Ok(RingName::unpack(
            self.table.load_word(vip.into(), offset_of!(Vip, ring))?,
        ))
    }

    /// All VIPs that have a ring.
    pub fn rings(&self) -> impl Iterator<Item = (u16, RingName)> + '_ {
        (0..self.table.len() as u16).filter_map(|vip| Some((vip, self.ring(vip).ok()??)))
    }

    /// Removes a VIP that no service refers to any more.
    pub fn clear(&self, vip: u16) -> Result<()> {
        self.swap_ring(vip, None)?;
        self.table.write(vip.into(), &bytemuck::Zeroable::zeroed())
    }
}
