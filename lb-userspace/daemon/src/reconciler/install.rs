//! Moves the tables from one snapshot to another, in an order that no packet can notice.
//!
//! 1. NAT sources, then members: nothing refers to the new ones yet.
//! 2. Services of removed VIPs.
//! 3. New VIPs, and the rings of existing ones: each by one store. Many of them go in [`Rounds`]; the
//!    later ones follow step 6.
//! 4. Services of new VIPs.
//! 5. Everything is read back and compared.
//! 6. After a grace period, unreferenced entries are cleared.
//!
//! After a failure, the same functions restore the old state.

use std::collections::BTreeSet;

use lb_common::{
    limit::Limit,
    member::{Member, NextHop, control},
    ring::MemberIndex,
    vip::Vip,
};

use super::{
    entry::NO_NAT_SOURCE,
    error::{ReconcilerError, Result},
    parallel::in_parallel,
    state::{ServiceKey, Snapshot, State, VipState},
};
use crate::fault;
use lb_dataplane::{Dataplane, DataplaneError, ImageIndex, MOST_SPARE_IMAGES};

/// A fault point in front of a write to a map: a test may make it fail.
fn point(name: &str) -> Result<()> {
    fault::point(name).map_err(ReconcilerError::Fault)
}

/// Rings that are changed together: all of new VIPs, which have none to go on with, and of others at
/// most as many as there are spare images. There is no room for a second image of every VIP.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) first: Vec<u16>,
    pub(super) later: Vec<u16>,
}

impl Rounds {
    /// The rounds for the changed rings of a state.
    pub(super) fn of(state: &State) -> Self {
        let changed = changed_rings(state);
        let (used, mut first): (Vec<_>, Vec<_>) =
            changed.partition(|(_, vip)| vip.image().is_some());
        let (with_new, later) = used.split_at(used.len().min(MOST_SPARE_IMAGES));
        first.extend(with_new);
        Self {
            first: first.iter().map(|(index, _)| **index).collect(),
            later: later.iter().map(|(index, _)| **index).collect(),
        }
    }
}

fn changed_rings(state: &State) -> impl Iterator<Item = (&u16, &VipState)> {
    state.vips.iter().filter(|(_, vip)| vip.dirty)
}

/// Stages the changed rings of some VIPs before any is swapped in; returns their images.
pub(super) fn stage(
    dataplane: &mut Dataplane,
    next: &mut State,
    vips: &[u16],
) -> Result<Vec<ImageIndex>> {
    if vips.is_empty() {
        return Ok(Vec::new());
    }
    // After one grace period for all of them, if too few are spare.
    let images = dataplane.rings.take(vips.len())?;
    let rings = &dataplane.rings;
    let staged = next
        .vips
        .iter_mut()
        .filter(|(index, _)| vips.contains(index));
    let jobs = staged.map(|(_, vip)| vip).zip(images.iter().copied());
    let filled = in_parallel(
        jobs.collect(),
        |(vip, image): (&mut VipState, ImageIndex)| {
            let filled = rings.fill(image, &vip.ring.to_image());
            (vip, image, filled)
        },
    );
    let staged = filled.into_iter().map(|(vip, image, filled)| {
        point("map: stage a ring")?;
        filled?;
        Ok((vip, image))
    });
    match staged.collect::<Result<Vec<_>>>() {
        Ok(staged) => {
            for (vip, image) in staged {
                let size = vip.ring.size();
                vip.entry.ring = Vip::pack_ring(image.0, size);
                vip.dirty = false;
            }
            Ok(images)
        }
        Err(error) => {
            for image in images {
                dataplane.rings.retire(image);
            }
            Err(error)
        }
    }
}

fn images_of(state: &State) -> BTreeSet<ImageIndex> {
    let names = state.vips.values().filter_map(VipState::image);
    names.map(|ring| ring.image).collect()
}

/// Gives back the images that `from` uses and `to` does not.
fn retire_unnamed(dataplane: &mut Dataplane, from: &State, to: &State) {
    for image in images_of(from).difference(&images_of(to)) {
        dataplane.rings.retire(*image);
    }
}

/// Makes the tables hold `to`, of which the first round is staged, given that they hold `from`. At any
/// time, `to` names the images that the tables hold, or those of the round that failed.
pub(super) fn advance(
    dataplane: &mut Dataplane,
    from: &State,
    to: &mut State,
    mut staged: Vec<ImageIndex>,
    later: &[u16],
) -> Result<()> {
    install(dataplane, &from.snapshot(), &to.snapshot())?;
    verify_rings(dataplane, to, &staged)?;
    retire_unnamed(dataplane, from, to);
    for round in later.chunks(MOST_SPARE_IMAGES) {
        staged = stage(dataplane, to, round)?;
        for (index, vip) in to.vips.iter().filter(|(index, _)| round.contains(index)) {
            swap_ring(dataplane, *index, &vip.entry)?;
            verify_vip(dataplane, *index, &vip.entry)?;
        }
        verify_rings(dataplane, to, &staged)?;
        retire_unnamed(dataplane, from, to);
    }
    Ok(())
}

/// Makes the tables hold `old` again after [`advance`] failed on the way from it to `reached`. Returns it
/// with its images: rings whose images were given away are changed again, when the rest is restored.
pub(super) fn go_back(dataplane: &mut Dataplane, old: &State, reached: &State) -> Result<State> {
    let mut back = way_back(dataplane, old, reached);
    let changed: Vec<u16> = changed_rings(&back).map(|(index, _)| *index).collect();
    advance(dataplane, reached, &mut back, Vec::new(), &changed)?;
    Ok(back)
}

fn way_back(dataplane: &Dataplane, old: &State, reached: &State) -> State {
    let mut back = old.clone();
    let in_use = images_of(reached);
    for (index, vip) in &mut back.vips {
        let (Some(was), Some(now)) = (vip.image(), reached.vips.get(index)) else {
            continue;
        };
        let is_kept = now.image() == Some(was);
        if !is_kept && (in_use.contains(&was.image) || dataplane.rings.is_free(was.image)) {
            vip.entry.ring = now.entry.ring;
            vip.dirty = true;
        }
    }
    back
}

/// Makes the tables hold `to`, given that they hold `from`.
pub(super) fn install(dataplane: &mut Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    write_sources(dataplane, from, to)?;
    write_members(dataplane, from, to)?;
    write_bounds(dataplane, from, to)?;
    write_limits(dataplane, from, to)?;
    let mut freed = false;
    for key in from.services.keys() {
        if !to.services.contains_key(key) {
            point("map: remove a service")?;
            freed |= dataplane.services.remove(&key.vip_key())?;
        }
    }
    write_vips(dataplane, from, to)?;
    for (key, target) in &to.services {
        if from.services.get(key) != Some(target) {
            point("map: add a service")?;
            dataplane.add_service(&key.vip_key(), *target)?;
        }
    }
    if from.lists != to.lists {
        point("map: remove prefixes")?;
        dataplane
            .limits
            .set_lists(to.lists.listed(), to.denying())?;
    }
    verify(dataplane, to)?;
    freed |= from.vips.keys().any(|vip| !to.vips.contains_key(vip));
    freed |= from
        .members
        .keys()
        .any(|member| !to.members.contains_key(member));
    if freed {
        dataplane.rings.grace_period()?;
        dataplane.services.settle();
    }
    clear(dataplane, from, to)
}

fn write_sources(dataplane: &Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    for (&index, source) in &to.sources {
        if from.sources.get(&index) != Some(source) {
            point("map: write a NAT source")?;
            dataplane.nat_sources.write(index.into(), source)?;
        }
    }
    Ok(())
}

/// Whether two entries differ only in words that may change while packets flow.
fn differ_in_words(a: &Member, b: &Member) -> bool {
    let words = Member {
        control: b.control,
        next_hop: b.next_hop,
        ..*a
    };
    words == *b && control::generation(a.control) == control::generation(b.control)
}

fn write_members(dataplane: &mut Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    let mut rewritten = Vec::new();
    for (&index, new) in &to.members {
        match from.members.get(&index) {
            Some(old) if old == new => {}
            Some(old) if differ_in_words(old, new) => {
                point("map: change a member")?;
                dataplane.members.set_control(index, new.control)?;
                point("map: change a member's next hop")?;
                let next_hop = NextHop::unpack(new.next_hop);
                dataplane.members.set_next_hop(index, next_hop)?;
            }
            Some(old) if control::generation(old.control) == control::generation(new.control) => {
                rewritten.push((index, old, new));
            }
            _ => {
                point("map: write a member")?;
                dataplane.counters.reset_member(index)?;
                dataplane.bounds.reset_member(index)?;
                dataplane.members.write(index, new)?;
            }
        }
    }
    rewrite_members(dataplane, &rewritten)
}

/// Between two words a flow may be judged by a mixture, which only decides where it goes.
fn write_bounds(dataplane: &Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    for (&index, bound) in &to.bounds {
        if from.bounds.get(&index) != Some(bound) {
            point("map: write a bound")?;
            dataplane.bounds.write(index, bound)?;
        }
    }
    for (&index, candidates) in &to.candidates {
        if from.candidates.get(&index) != Some(candidates) {
            point("map: write candidates")?;
            dataplane.bounds.set_candidates(index, candidates)?;
        }
    }
    Ok(())
}

/// Changes several words of members in use. Meanwhile they have no next hop and a NAT source without
/// ports, so that nothing is sent to them. Takes two grace periods of some milliseconds, in which
/// packets to these members are dropped.
fn rewrite_members(
    dataplane: &mut Dataplane,
    members: &[(MemberIndex, &Member, &Member)],
) -> Result<()> {
    if members.is_empty() {
        return Ok(());
    }
    let quiet = |entry: &Member| Member {
        next_hop: 0,
        nat_source: NO_NAT_SOURCE,
        ..*entry
    };
    for (index, old, _) in members {
        point("map: quiesce a member")?;
        dataplane.members.write(*index, &quiet(old))?;
    }
    dataplane.rings.grace_period()?;
    for (index, _, new) in members {
        point("map: rewrite a member")?;
        dataplane.members.write(*index, &quiet(new))?;
    }
    dataplane.rings.grace_period()?;
    for (index, _, new) in members {
        point("map: enable a member")?;
        dataplane.members.write(*index, new)?;
    }
    Ok(())
}

/// Writes lists and limits before a VIP refers to them. Until the end, the lists of both states are there:
/// a VIP moves from one to another with the word that names them.
fn write_limits(dataplane: &mut Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    if from.lists != to.lists {
        point("map: add prefixes")?;
        let mut both = from.lists.listed_with(&to.lists);
        // On the way back from a change that failed here, not all of its prefixes found room.
        let (there, wanted) = (dataplane.limits.listed(), to.lists.listed());
        both.retain(|prefix, _| there.contains_key(prefix) || wanted.contains_key(prefix));
        let denying = from.denying() | to.denying();
        dataplane.limits.set_lists(&both, denying)?;
    }
    for (&index, limit) in &to.limits {
        if !from.vips.contains_key(&index) {
            dataplane.limits.reset(index)?;
        }
        let before = from.limits.get(&index);
        if before != Some(limit) {
            point("map: write limits")?;
            dataplane.limits.write(index, limit)?;
        }
        // What was used up counts in times of the old rates, and may be another VIP's.
        if !before.is_some_and(|before| have_equal_rates(before, limit)) {
            dataplane.limits.refill(index)?;
        }
    }
    Ok(())
}

/// Whether the limits of a VIP as a whole are the same.
fn have_equal_rates(a: &Limit, b: &Limit) -> bool {
    (a.vip_flows, a.vip_packets, a.chunk) == (b.vip_flows, b.vip_packets, b.chunk)
}

fn write_vips(dataplane: &mut Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    for (&index, new) in &to.vips {
        match from.vips.get(&index) {
            Some(old) if old == new => {}
            // Only the ring word and the word with the tracking mode differ: each is stored
            // atomically.
            Some(_) => swap_ring(dataplane, index, new)?,
            None => {
                point("map: write a VIP")?;
                dataplane.counters.reset_vip(index)?;
                dataplane.bounds.reset_vip(index);
                dataplane.vips.write(index, new)?;
            }
        }
    }
    Ok(())
}

fn swap_ring(dataplane: &Dataplane, index: u16, entry: &Vip) -> Result<()> {
    point("map: swap a ring")?;
    Ok(dataplane.vips.write(index, entry)?)
}

fn verify_vip(dataplane: &Dataplane, index: u16, entry: &Vip) -> Result<()> {
    if dataplane.vips.read(index)? == *entry {
        Ok(())
    } else {
        Err(ReconcilerError::Readback {
            table: "VIPS",
            index: index.into(),
        })
    }
}

/// Reads the entries back and compares them.
fn verify(dataplane: &Dataplane, snapshot: &Snapshot) -> Result<()> {
    let wrong = |table, index: u16| ReconcilerError::Readback {
        table,
        index: index.into(),
    };
    for (&index, member) in &snapshot.members {
        if dataplane.members.read(index)? != *member {
            return Err(wrong("MEMBERS", index));
        }
    }
    for (&index, vip) in &snapshot.vips {
        verify_vip(dataplane, index, vip)?;
    }
    for (&index, limit) in &snapshot.limits {
        if dataplane.limits.read(index)? != *limit {
            return Err(wrong("LIMITS", index));
        }
    }
    for (&index, bound) in &snapshot.bounds {
        if dataplane.bounds.read(index)? != *bound {
            return Err(wrong("BOUNDS", index));
        }
    }
    for (&index, candidates) in &snapshot.candidates {
        if dataplane.bounds.candidates(index)? != *candidates {
            return Err(wrong("CANDIDATES", index));
        }
    }
    for (&index, source) in &snapshot.sources {
        if dataplane.nat_sources.read(index.into())? != *source {
            return Err(wrong("NAT_SOURCES", index));
        }
    }
    for (key, target) in &snapshot.services {
        if dataplane.services.get(&key.vip_key())? != Some(*target) {
            return Err(wrong("VIP_TABLE", ServiceKey::port(*key)));
        }
    }
    Ok(())
}

/// Reads the swapped-in rings back and compares them.
pub(super) fn verify_rings(
    dataplane: &Dataplane,
    state: &State,
    swapped: &[ImageIndex],
) -> Result<()> {
    let read = state.vips.iter().filter_map(|(&index, vip)| {
        let image = vip.image()?.image;
        swapped.contains(&image).then_some((index, vip, image))
    });
    let verified = in_parallel(read.collect(), |(index, vip, image)| {
        let verified = dataplane.rings.verify(image, &vip.ring.to_image());
        verified.map_err(|error| match error {
            DataplaneError::Readback { .. } => ReconcilerError::Readback {
                table: "RINGS (of VIP)",
                index: index.into(),
            },
            other => other.into(),
        })
    });
    verified.into_iter().collect()
}

/// Clears unreferenced entries, and the flows of removed members.
fn clear(dataplane: &mut Dataplane, from: &Snapshot, to: &Snapshot) -> Result<()> {
    let gone = from
        .members
        .keys()
        .filter(|index| !to.members.contains_key(index));
    let gone: BTreeSet<MemberIndex> = gone.copied().collect();
    if !gone.is_empty() {
        dataplane.tracking.purge_members(&gone);
        dataplane.sessions.remove_members(&gone)?;
    }
    for member in gone {
        point("map: clear a member")?;
        dataplane.members.clear(member)?;
    }
    for &index in from
        .vips
        .keys()
        .filter(|index| !to.vips.contains_key(index))
    {
        point("map: clear a VIP")?;
        dataplane.vips.clear(index)?;
    }
    for &index in from
        .sources
        .keys()
        .filter(|index| !to.sources.contains_key(index))
    {
        let empty = bytemuck::Zeroable::zeroed();
        point("map: clear a NAT source")?;
        dataplane.nat_sources.write(index.into(), &empty)?;
    }
    Ok(())
}
