//! Pairs the VIPs of the running configuration with those of the candidate.

use crate::config::{Backend, Config, Vip};
use lb_api::VipAction;

/// A VIP before and after a change.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The VIP in the running configuration; none if it is new.
    pub before: Option<&'a Vip>,
    /// The VIP in the candidate; none if it is removed.
    pub after: Option<&'a Vip>,
    /// The effect on the VIP; [`VipAction::Changed`] also if nothing changes.
    pub action: VipAction,
}

impl Pair<'_> {
    /// The VIP's name: the new one, unless it is removed.
    #[must_use]
    pub fn name(&self) -> &str {
        self.after.or(self.before).map_or("", |vip| &vip.name)
    }

    /// Whether the change affects the VIP. The order of backends does not matter.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) if self.action == VipAction::Changed => {
                in_order(before) != in_order(after)
            }
            _ => true,
        }
    }
}

fn in_order(vip: &Vip) -> Vip {
    let mut vip = vip.clone();
    vip.backends.sort_by_key(Backend::identity);
    vip
}

/// The VIPs of both configurations: those of the candidate in its order, then the removed ones.
#[must_use]
pub fn pairs<'a>(running: Option<&'a Config>, candidate: &'a Config) -> Vec<Pair<'a>> {
    let mut old: Vec<&Vip> = running.map_or(Vec::new(), |config| config.vips.iter().collect());
    let mut take = |is: &dyn Fn(&Vip) -> bool| {
        let at = old.iter().position(|vip| is(vip))?;
        Some(old.remove(at))
    };
    let new_seed = running.is_some_and(|c| c.node.hash_seed != candidate.node.hash_seed);
    // By service first, so that two VIPs that swap their names are not mixed up.
    let same_service: Vec<Option<&Vip>> = candidate
        .vips
        .iter()
        .map(|vip| take(&|other| service(other) == service(vip)))
        .collect();
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (vip, same) in candidate.vips.iter().zip(same_service) {
        let before = same.or_else(|| take(&|other| other.name == vip.name));
        let action = match before {
            None => VipAction::Added,
            Some(before) if new_seed || is_replaced(before, vip) => VipAction::Replaced,
            Some(_) => VipAction::Changed,
        };
        pairs.push(Pair {
            before,
            after: Some(vip),
            action,
        });
    }
    pairs.extend(old.into_iter().map(|vip| Pair {
        before: Some(vip),
        after: None,
        action: VipAction::Removed,
    }));
    pairs
}

const fn service(vip: &Vip) -> (std::net::IpAddr, u16, u8) {
    (vip.address, vip.port, vip.protocol.number())
}

/// Whether flows of one would break in the other: their keys, slots or forwarding mode differ.
fn is_replaced(before: &Vip, after: &Vip) -> bool {
    service(before) != service(after)
        || before.forward != after.forward
        || before.affinity != after.affinity
        || before.ring_size != after.ring_size
}
