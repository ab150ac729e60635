//! Sources of members (`backends_from`): asks DNS, and keeps the last answers on disk.
//!
//! ```text
//! followed ──► Asker ── a task per source ──► dns ──► Engine::source_answered ──► engine/membership
//!                            └── sleeps as long as the engine says ──┘
//! ```
//!
//! What an answer changes is decided by `lb_model::membership`; it is installed by the engine, like
//! everything that changes the node.

mod asker;
#[cfg(test)]
mod asker_tests;
pub(crate) mod dns;
pub(crate) mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_model::{
    config::Config,
    membership::{self, Known, Member, MemberSet, MemberSource, SourceKey},
};
use tokio::sync::watch;

pub(crate) use self::asker::Followed;
use crate::engine::Engine;

/// Asks the sources of the active configuration until the engine ends.
pub(crate) async fn run(engine: Engine, followed: watch::Receiver<Followed>) {
    asker::run(engine, followed).await;
}

/// What a source answers to a question of the doctor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As `backends_from` has it.
    pub source: String,
    /// The VIPs that use it.
    pub vips: Vec<String>,
    /// The number of members.
    pub answer: Result<usize, String>,
}

/// Asks the DNS sources of a configuration once, and gives its VIPs the members that fit.
pub async fn ask_all(config: &mut Config) -> Vec<Asked> {
    let keys: BTreeSet<SourceKey> = config.vips.iter().filter_map(SourceKey::of).collect();
    let is_asked = |key: &SourceKey| !matches!(key.source, MemberSource::Api { .. });
    let settings = &config.sources;
    let answers = keys.into_iter().filter(is_asked).map(|key| async {
        let answer = dns::ask(&key, settings).await;
        (
            key,
            answer
                .map(|found| found.members)
                .map_err(|error| error.to_string()),
        )
    });
    let answers = futures_util::future::join_all(answers).await;
    let mut sets: BTreeMap<SourceKey, MemberSet> = BTreeMap::new();
    let mut asked = Vec::new();
    for (key, answer) in answers {
        let vips = config.vips.iter();
        let vips = vips.filter(|vip| SourceKey::of(vip).as_ref() == Some(&key));
        let vips = vips.map(|vip| vip.name.clone()).collect();
        let answer = answer.and_then(|members| set_of(config, &key, members));
        asked.push(Asked {
            source: key.to_string(),
            vips,
            answer: answer
                .as_ref()
                .map(|set| set.members().len())
                .map_err(Clone::clone),
        });
        sets.insert(key, answer.unwrap_or_default());
    }
    membership::admit_what_fits(config, |key| members_of(&sets, key));
    asked
}

fn members_of<'a>(sets: &'a BTreeMap<SourceKey, MemberSet>, key: &SourceKey) -> &'a [Known] {
    sets.get(key).map_or(&[], MemberSet::members)
}

/// The set of an answer, or why its members can't be backends of the VIPs.
fn set_of(config: &Config, key: &SourceKey, members: Vec<Member>) -> Result<MemberSet, String> {
    membership::check_members(&members).map_err(|why| why.to_string())?;
    let members = members.into_iter().map(|member| (member, false));
    let set = MemberSet::restored(members, Duration::ZERO);
    let only = BTreeMap::from([(key.clone(), set.clone())]);
    let filled = membership::admit(&mut config.clone(), |key| members_of(&only, key));
    filled.map_err(|why| why.to_string())?;
    Ok(set)
}
