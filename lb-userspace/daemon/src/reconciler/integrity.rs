//! Compares the kernel's maps with the state, by digest.
//!
//! After a swap everything is read back ([`super::install`]). Another process may write to the pinned
//! maps later, so [`Reconciler::check_entries`] and [`Reconciler::check_ring`] compare again. A ring
//! is half a megabyte, so rings are checked one at a time.

use std::collections::BTreeMap;

use lb_common::{member::control, ring::MemberIndex};
use sha2::{Digest as _, Sha256};

use super::{Reconciler, error::Result, state::ServiceKey};
use lb_dataplane::Dataplane;
use lb_model::transition::RingState;

/// SHA-256 of the expected entries and of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    pub expected: [u8; 32],
    pub found: [u8; 32],
}

impl Digests {
    #[must_use]
    pub fn agree(&self) -> bool {
        self.expected == self.found
    }

    /// The first 8 bytes of the kernel's digest in hex.
    #[must_use]
    pub fn short(&self) -> String {
        let bytes = self.found.iter().take(8);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

#[derive(Default)]
struct Digester {
    expected: Sha256,
    found: Sha256,
}

impl Digester {
    fn add(&mut self, expected: &[u8], found: &[u8]) {
        self.expected.update(expected);
        self.found.update(found);
    }

    fn finish(self) -> Digests {
        Digests {
            expected: self.expected.finalize().into(),
            found: self.found.finalize().into(),
        }
    }
}

impl Reconciler {
    /// Compares the entries of members, bounds, VIPs, limits, NAT sources and services with the kernel's. Not the
    /// prefixes of lists: there may be millions.
    ///
    /// # Errors
    ///
    /// A table can't be read.
    pub fn check_entries(&self, dataplane: &Dataplane) -> Result<Digests> {
        let snapshot = self.state.snapshot();
        let mut both = Digester::default();
        for (&index, member) in &snapshot.members {
            let found = dataplane.members.read(index)?;
            both.add(bytemuck::bytes_of(member), bytemuck::bytes_of(&found));
        }
        // No other member may serve.
        let present = dataplane.members.present();
        for (index, member) in present.filter(|(index, _)| !snapshot.members.contains_key(index)) {
            if control::state(member.control) == control::SERVING {
                both.add(&[], &index.to_ne_bytes());
            }
        }
        for (&index, vip) in &snapshot.vips {
            let found = dataplane.vips.read(index)?;
            both.add(bytemuck::bytes_of(vip), bytemuck::bytes_of(&found));
        }
        for (&index, limit) in &snapshot.limits {
            let found = dataplane.limits.read(index)?;
            both.add(bytemuck::bytes_of(limit), bytemuck::bytes_of(&found));
        }
        for (&index, bound) in &snapshot.bounds {
            let found = dataplane.bounds.read(index)?;
            both.add(bytemuck::bytes_of(bound), bytemuck::bytes_of(&found));
        }
        for (&index, candidates) in &snapshot.candidates {
            let found = dataplane.bounds.candidates(index)?;
            both.add(bytemuck::bytes_of(candidates), bytemuck::bytes_of(&found));
        }
        for (&index, source) in &snapshot.sources {
            let found = dataplane.nat_sources.read(index.into())?;
            both.add(bytemuck::bytes_of(source), bytemuck::bytes_of(&found));
        }
        for (key, target) in &snapshot.services {
            let found = dataplane.services.get(&ServiceKey::vip_key(*key))?;
            both.add(&target.to_ne_bytes(), &found.unwrap_or(0).to_ne_bytes());
        }
        Ok(both.finish())
    }

    /// Compares a VIP's ring with the kernel's; none if the VIP is unknown or has no ring.
    ///
    /// # Errors
    ///
    /// The ring can't be read.
    pub fn check_ring(&self, dataplane: &Dataplane, vip: u16) -> Result<Option<Digests>> {
        let Some(state) = self.state.vips.get(&vip) else {
            return Ok(None);
        };
        let Some(ring) = state.image() else {
            return Ok(None);
        };
        let mut both = Digester::default();
        let (expected, found) = (state.ring.to_image(), dataplane.rings.words(ring.image)?);
        both.add(
            bytemuck::cast_slice(&expected),
            bytemuck::cast_slice(&found),
        );
        Ok(Some(both.finish()))
    }

    /// Table share of each member in the kernel's ring of a VIP; none if it can't be read or is
    /// inconsistent.
    #[must_use]
    pub fn shares_found(
        &self,
        dataplane: &Dataplane,
        vip: u16,
    ) -> Option<BTreeMap<MemberIndex, f64>> {
        let state = self.state.vips.get(&vip)?;
        let words = dataplane.rings.words(state.image()?.image).ok()?;
        let size = state.ring.size();
        let ring = RingState::from_image(&words, size, 0).ok()?;
        let slots = ring.slots_per_member().into_iter();
        Some(
            slots
                .map(|(member, slots)| (member, f64::from(slots) / f64::from(size.max(1))))
                .collect(),
        )
    }

    /// Indexes of the VIPs, for [`Self::check_ring`].
    #[must_use]
    pub fn vip_indexes(&self) -> Vec<u16> {
        self.state.vips.keys().copied().collect()
    }
}
