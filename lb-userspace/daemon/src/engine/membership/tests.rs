//! What is kept of sources, in memory and on disk.

use lb_common::member::NextHop;
use lb_model::config::{self, BackendState};

use super::*;
use crate::reconciler::MemberReport;

fn key(source: &str) -> SourceKey {
    let source: MemberSource = source.parse().unwrap();
    let families = match source {
        MemberSource::Api { .. } => membership::Families::Both,
        _ => membership::Families::V4,
    };
    SourceKey { source, families }
}

fn members(count: usize) -> Vec<Member> {
    let member = |index: usize| {
        let [_, _, a, b] = (index as u32).to_be_bytes();
        let address: IpAddr = [10, 1, a, b].into();
        Member {
            name: membership::name_of(address, None),
            address,
            port: None,
            weight: 100,
            state: BackendState::Up,
        }
    };
    (0..count).map(member).collect()
}

/// A configuration with one VIP for each source.
fn config(sources: &[&str]) -> Config {
    let mut text = "[node]\ninterfaces = [\"eth0\"]\n\
                    hash_seed = \"000102030405060708090a0b0c0d0e0f\"\n"
        .to_owned();
    for (index, source) in sources.iter().enumerate() {
        text += &format!(
            "[[vip]]\nname = \"v{index}\"\naddress = \"10.0.0.{}\"\nport = 80\nprotocol = \"tcp\"\n\
             forward = \"l2\"\nbackends_from = \"{source}\"\n",
            index + 1
        );
    }
    match config::parse("a.toml", &text) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

/// Sources in a folder of their own.
struct Kept {
    folder: tempfile::TempDir,
    membership: Membership,
}

impl Kept {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let membership = Membership::open(folder.path());
        Self { folder, membership }
    }

    fn answers(&mut self, source: &str, count: usize) -> &mut Source {
        let answer = MemberSet::replaced(&members(count), true).unwrap();
        let source = self.membership.sources.entry(key(source)).or_default();
        source.set = answer.set;
        source.answered_at = Some(crate::engine::now());
        source
    }

    /// Answers to a plan.
    fn plans(&mut self, source: &str, count: usize) {
        let source = self.answers(source, count);
        source.fresh = Some(std::mem::take(&mut source.set));
    }

    fn restart(&mut self) {
        self.membership.finish();
        self.membership = Membership::open(self.folder.path());
    }

    fn count(&self, source: &str) -> usize {
        self.membership.members_for(&key(source), false).len()
    }
}

/// A rollback needs what the VIP had, however long that is ago.
#[test]
fn the_members_of_a_source_that_was_used_stay() {
    let mut kept = Kept::new();
    kept.answers("dns:web", 3);
    kept.membership.follow(&config(&["dns:web"]));
    kept.membership.follow(&config(&[]));
    kept.plans("dns:planned", 2);
    kept.membership.follow(&config(&[]));
    for source in kept.membership.sources.values_mut() {
        let long_ago = source.unused_since.map(|_| Duration::ZERO);
        source.unused_since = long_ago;
    }
    kept.membership.started -= Duration::from_secs(86_400);
    kept.membership.prune();
    assert_eq!((kept.count("dns:web"), kept.count("dns:planned")), (3, 2));
    // What was only planned is not written.
    kept.restart();
    kept.membership.follow(&config(&[]));
    assert_eq!((kept.count("dns:web"), kept.count("dns:planned")), (3, 0));
}

/// A plan, or a late answer, asks while a change that has left the source is on trial.
#[test]
fn a_rollback_has_the_members_from_before_whatever_is_planned() {
    for (is_rollback, count) in [(true, 3), (false, 1)] {
        let mut kept = Kept::new();
        let web = config(&["dns:web"]);
        kept.answers("dns:web", 3);
        kept.membership.follow(&web);
        kept.membership.follow(&config(&[]));
        let fresh = MemberSet::replaced(&members(1), false).unwrap().set;
        let source = kept.membership.sources.get_mut(&key("dns:web")).unwrap();
        source.fresh = Some(fresh);
        let of_rollback = kept.membership.members_for(&key("dns:web"), true).len();
        assert_eq!((of_rollback, kept.count("dns:web")), (3, 1));
        kept.membership.adopt(&web, is_rollback);
        assert_eq!(kept.membership.members(&key("dns:web")).len(), count);
        assert_eq!(kept.count("dns:web"), count);
    }
}

/// It is set before a VIP uses it.
#[test]
fn what_is_set_for_later_survives_restarts() {
    let mut kept = Kept::new();
    kept.plans("api:later", 2);
    let source = kept.membership.sources.get_mut(&key("api:later")).unwrap();
    source.wanted = Some((members(2), false));
    kept.membership.follow(&config(&[]));
    for _ in 0..2 {
        kept.restart();
        kept.membership.follow(&config(&[]));
        assert_eq!(kept.count("api:later"), 2);
        assert_eq!(kept.membership.states(&config(&[])).len(), 1);
    }
    kept.membership.adopt(&config(&["api:later"]), false);
    assert_eq!(kept.membership.members(&key("api:later")).len(), 2);
}

#[test]
fn what_was_only_planned_is_forgotten_first() {
    let mut kept = Kept::new();
    kept.answers("dns:used", 4096);
    kept.answers("dns:web", 1);
    kept.membership.follow(&config(&["dns:used"]));
    kept.membership.follow(&config(&["dns:web"]));
    kept.answers("api:set", 4096).is_set = true;
    for index in 0..4 {
        kept.plans(&format!("dns:planned-{index}"), 4096);
        kept.membership.follow(&config(&["dns:web"]));
        kept.membership.prune();
    }
    let counts = |kept: &Kept| -> Vec<usize> {
        let planned = (0..4).map(|index| kept.count(&format!("dns:planned-{index}")));
        planned.collect()
    };
    assert_eq!(counts(&kept), [0, 4096, 4096, 4096]);
    assert_eq!(
        (kept.count("dns:used"), kept.count("api:set")),
        (4096, 4096)
    );
    assert!(kept.membership.is_changed);
}

/// Half of the members have gone: the others must go too, however often the controller starts.
#[test]
fn what_was_set_and_is_not_reached_survives_restarts() {
    let mut kept = Kept::new();
    let wanted = Some((members(1), false));
    kept.answers("api:web", 4).wanted.clone_from(&wanted);
    kept.membership.follow(&config(&["api:web"]));
    for _ in 0..3 {
        kept.restart();
        kept.membership.follow(&config(&["api:web"]));
        assert_eq!(kept.membership.sources[&key("api:web")].wanted, wanted);
    }
}

#[test]
fn a_source_that_was_emptied_is_not_one_that_was_never_set() {
    let mut kept = Kept::new();
    let config = config(&["api:web"]);
    kept.membership.follow(&config);
    let error = |kept: &Kept| kept.membership.states(&config)[0].error.clone();
    assert!(error(&kept).unwrap().contains("never set"));
    kept.answers("api:web", 0);
    assert_eq!(error(&kept), None);
    kept.restart();
    kept.membership.follow(&config);
    assert_eq!(error(&kept), None);
}

/// Also if nothing says why, as when nobody asks.
#[test]
fn a_source_fails_when_its_last_answer_is_old() {
    let mut kept = Kept::new();
    let config = config(&["dns:web"]);
    kept.membership.follow(&config);
    let is_failing = |kept: &Kept| kept.membership.states(&config)[0].is_failing;
    let limit = config.sources.interval_max * INTERVALS;
    let source = kept.answers("dns:web", 1);
    source.answered_at = source.answered_at.map(|at| at - 2 * limit);
    // A controller that has just started asks first.
    assert!(!is_failing(&kept));
    kept.membership.started -= 2 * limit;
    assert!(is_failing(&kept));
    kept.answers("dns:web", 1);
    assert!(!is_failing(&kept));
}

#[test]
fn a_plan_does_not_count_as_a_failure() {
    let mut kept = Kept::new();
    kept.answers("dns:planned", 1);
    kept.answers("dns:web", 1);
    kept.membership.follow(&config(&["dns:web"]));
    for (source, failures) in [("dns:planned", 0), ("dns:web", 1)] {
        let source = kept.membership.sources.get_mut(&key(source)).unwrap();
        source.has_failed("no answer".to_owned());
        assert_eq!(source.failures, failures);
    }
}

/// In panic mode, backends that are down serve: an answer must not take the last of them.
#[test]
fn what_serves_in_panic_mode_is_eligible() {
    let vip = &config(&["dns:web"]).vips[0];
    let mut member = MemberReport {
        index: 1,
        generation: 1,
        name: "b".to_owned(),
        check_name: "b".to_owned(),
        identity: members(1)[0].identity_in(vip),
        wanted: BackendState::Up,
        healthy: false,
        proven: true,
        leaving: false,
        weight: 1,
        effective_weight: 1,
        next_hop: Some(NextHop {
            mac: [0; 6],
            egress: 1,
        }),
        nat_source: None,
        intended_share: 1.0,
        table_share: 1.0,
    };
    assert!(update::is_eligible(vip, &member));
    // Down outside panic mode, or without a route.
    member.effective_weight = 0;
    assert!(!update::is_eligible(vip, &member));
    (member.effective_weight, member.next_hop) = (1, None);
    assert!(!update::is_eligible(vip, &member));
}
