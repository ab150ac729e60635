//! The active configuration with other members of a source.

use std::collections::{HashMap, HashSet};

use lb_common::ring::MAX_MEMBERS;
use lb_model::{
    config::{Backend, BackendState, Config, Vip},
    membership::{self, Inadmissible, Known, MemberKey, MemberSet, SourceKey, Stage},
    ring::Identity,
};

use super::has;
use crate::engine::change::ChangeControl;

pub(super) const NOBODY_SERVES: &str = "no member that gets new flows now would go on to, because it is drained, disabled or has weight 0, or there is none. \
                             Only a set with `allow_empty` takes VIPs out of service";

impl ChangeControl {
    /// The VIPs that use a source.
    pub(super) fn users<'a>(&'a self, key: &'a SourceKey) -> impl Iterator<Item = &'a Vip> {
        let vips = self.running.config.vips.iter();
        vips.filter(move |vip| SourceKey::of(vip).as_ref() == Some(key))
    }

    /// Whether all VIPs that use a source have all members that it names: a rollback may have left some out.
    pub(super) fn has_all(&self, key: &SourceKey, set: &MemberSet) -> bool {
        self.users(key).all(|vip| {
            let backends: HashSet<Identity> = vip.backends.iter().map(Backend::identity).collect();
            let members = set.members().iter();
            let mut named = members.filter(|known| known.stage == Stage::Present);
            named.all(|known| backends.contains(&known.member.identity_in(vip)))
        })
    }

    /// Follows the sources of the active configuration. What they have answered is written by the next tick.
    pub(super) fn follow_sources(&mut self) {
        self.membership.follow(&self.running.config);
    }

    /// The active configuration with the set that an answer leads to. What it names must fit, and neither
    /// this source nor another one may lose a backend that gets new flows by it. Without room for both
    /// those that are to go and new ones, the new ones wait.
    pub(super) fn with_answer(
        &self,
        key: &SourceKey,
        set: &MemberSet,
        eligible: &[HashSet<MemberKey>],
        allow_empty: bool,
    ) -> Result<Config, String> {
        let users = self.users(key).map(|vip| vip.name.as_str());
        let eligible: HashMap<&str, &HashSet<MemberKey>> = users.zip(eligible).collect();
        let is_eligible = |vip: &Vip, known: &Known| {
            let eligible = eligible.get(vip.name.as_str());
            eligible.is_some_and(|all| all.contains(&known.member.key()))
        };
        let counts = |vip: &Vip, before: Option<&Vip>, known: &Known, why: &Inadmissible| {
            let is_twin = matches!(why, Inadmissible::Twin { .. });
            match (SourceKey::of(vip).as_ref() == Some(key), known.stage) {
                (true, Stage::Present) => true,
                (true, Stage::Missing { .. }) => !is_twin && is_eligible(vip, known),
                (false, Stage::Present | Stage::Missing { .. }) => {
                    !is_twin && before.is_some_and(|before| has(before, known))
                }
                (_, Stage::Leaving { .. }) => false,
            }
        };
        let config = match self.with_set(key, set.members(), counts) {
            Err(Inadmissible::Room { .. }) if self.has_room_for(key, set) => {
                let running = self.running.config.vips.iter();
                let running: Vec<&Vip> = running
                    .filter(|vip| eligible.contains_key(&*vip.name))
                    .collect();
                let is_backend = |known: &&Known| running.iter().any(|vip| has(vip, known));
                let known: Vec<Known> = set.members().iter().filter(is_backend).cloned().collect();
                self.with_set(key, &known, counts)
            }
            filled => filled,
        };
        let config = config.map_err(|why| why.to_string())?;
        let stays = |vip: &Vip| {
            let named = set.members().iter().filter(|known| is_eligible(vip, known));
            let eligible: HashSet<Identity> =
                named.map(|known| known.member.identity_in(vip)).collect();
            let mut serving = vip.backends.iter().filter(|backend| serves(backend));
            serving.any(|it| eligible.is_empty() || eligible.contains(&it.identity()))
        };
        let mut vips = config.vips.iter().zip(&self.running.config.vips);
        let emptied = vips.find(|(vip, before)| {
            let is_user = eligible.contains_key(&*vip.name);
            is_user && before.backends.iter().any(serves) && !stays(vip)
        });
        match emptied {
            Some((vip, _)) if !allow_empty => Err(format!("VIP {}: {NOBODY_SERVES}", vip.name)),
            _ => Ok(config),
        }
    }

    /// Whether there is room for what an answer names, without what it does not name.
    fn has_room_for(&self, key: &SourceKey, set: &MemberSet) -> bool {
        let members = set.members().iter();
        let named = members
            .filter(|known| known.stage == Stage::Present)
            .count();
        let is_user = |vip: &&Vip| SourceKey::of(vip).as_ref() == Some(key);
        let (users, others): (Vec<&Vip>, Vec<&Vip>) =
            self.running.config.vips.iter().partition(is_user);
        let others: usize = others.iter().map(|vip| vip.backends.len()).sum();
        let mut rings = users.iter().map(|vip| vip.ring_size.get() as usize);
        rings.all(|slots| named <= slots) && named * users.len() + others <= MAX_MEMBERS as usize
    }

    /// The active configuration without members that have been drained.
    pub(super) fn with_retired(&self, key: &SourceKey, set: &MemberSet) -> Config {
        let filled = self.with_set(key, set.members(), |_, _, _, _| false);
        // Nothing counts.
        filled.unwrap_or_else(|_| self.running.config.clone())
    }

    /// The active configuration with other members of a source. `counts` gets the VIP as it was before, too.
    fn with_set(
        &self,
        key: &SourceKey,
        members: &[Known],
        counts: impl Fn(&Vip, Option<&Vip>, &Known, &Inadmissible) -> bool,
    ) -> Result<Config, Inadmissible> {
        let running = &self.running.config;
        let vips = running.vips.iter();
        let before: HashMap<&str, &Vip> = vips.map(|vip| (vip.name.as_str(), vip)).collect();
        let members_of = |other: &SourceKey| match other == key {
            true => members,
            false => self.membership.members(other),
        };
        let mut config = running.clone();
        membership::admit_required(&mut config, members_of, |vip, known, why| {
            counts(vip, before.get(vip.name.as_str()).copied(), known, why)
        })?;
        Ok(config)
    }
}

/// Whether a backend may get new flows.
fn serves(backend: &Backend) -> bool {
    backend.state == BackendState::Up && backend.weight > 0
}
