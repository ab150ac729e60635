//! The rules by which members come and go.

mod admitted;

use std::{
    collections::{BTreeSet, HashSet},
    net::Ipv4Addr,
    time::Duration,
};

use proptest::{collection::btree_set, prelude::*};

use super::*;
use crate::config::BackendState;

const PACE: Pace = Pace {
    interval: Duration::from_secs(5),
    explicit: false,
    allow_empty: false,
};

const SET_BY_HAND: Pace = Pace {
    explicit: true,
    ..PACE
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn member(number: u8) -> Member {
    let address = Ipv4Addr::new(10, 0, 0, number).into();
    Member {
        name: name_of(address, None),
        address,
        port: None,
        weight: 100,
        state: BackendState::Up,
    }
}

fn members(numbers: impl IntoIterator<Item = u8>) -> Vec<Member> {
    numbers.into_iter().map(member).collect()
}

fn number(member: &Member) -> u8 {
    match member.address {
        std::net::IpAddr::V4(v4) => v4.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    }
}

/// The numbers of the members that are not leaving.
fn staying(set: &MemberSet) -> Vec<u8> {
    set.staying().map(number).collect()
}

/// A set, and the time of its last answer.
#[derive(Default)]
struct Source {
    set: MemberSet,
    at: u64,
    held: Held,
}

impl Source {
    fn answers(&mut self, numbers: impl IntoIterator<Item = u8>, pace: Pace) -> Changes {
        self.answers_while(numbers, pace, &[(0..=255).collect()])
    }

    /// With the members that are eligible in each VIP.
    fn answers_while(
        &mut self,
        numbers: impl IntoIterator<Item = u8>,
        pace: Pace,
        eligible: &[Vec<u8>],
    ) -> Changes {
        self.names(&members(numbers), pace, eligible)
    }

    fn names(&mut self, answer: &[Member], pace: Pace, eligible: &[Vec<u8>]) -> Changes {
        self.at += 5;
        let eligible: Vec<_> = eligible.iter().map(|vip| keys(vip)).collect();
        let answer = self.set.answered(answer, seconds(self.at), pace, &eligible);
        let answer = answer.expect("an answer");
        self.set = answer.set;
        self.held = answer.held;
        answer.changes
    }
}

fn keys(numbers: &[u8]) -> HashSet<MemberKey> {
    numbers.iter().map(|number| member(*number).key()).collect()
}

#[test]
fn new_members_come_at_once_and_missing_ones_go_after_two_answers() {
    let mut source = Source::default();
    assert_eq!(source.answers([1, 2, 3, 4], PACE).added.len(), 4);
    assert!(source.answers([1, 2, 3], PACE).is_empty());
    assert_eq!(staying(&source.set), [1, 2, 3, 4]);
    let words = source.held.words().unwrap();
    assert_eq!(words, "1 of 4 missing, waiting for a second answer");
    let changes = source.answers([1, 2, 3, 5], PACE);
    assert_eq!(
        (number(&changes.added[0]), number(&changes.leaving[0])),
        (5, 4)
    );
    assert_eq!(staying(&source.set), [1, 2, 3, 5]);
    assert_eq!(source.held.words(), None);
}

#[test]
fn two_answers_count_as_one_if_they_come_too_soon() {
    let mut source = Source::default();
    source.answers([1, 2], PACE);
    source.answers([1], PACE);
    source.at -= 4;
    assert!(source.answers([1], PACE).is_empty());
    assert_eq!(source.answers([1], PACE).leaving.len(), 1);
}

#[test]
fn a_failure_between_two_answers_makes_them_one() {
    let mut source = Source::default();
    source.answers([1, 2], PACE);
    source.answers([1], PACE);
    source.set = source.set.failed();
    assert!(source.answers([1], PACE).is_empty());
    assert_eq!(staying(&source.set), [1, 2]);
}

#[test]
fn at_most_half_of_the_members_go_in_a_step() {
    let mut source = Source::default();
    source.answers(0..10, PACE);
    source.answers([0], PACE);
    let mut sizes = Vec::new();
    for _ in 0..5 {
        source.answers([0], PACE);
        sizes.push(staying(&source.set).len());
    }
    assert_eq!(sizes, [5, 3, 2, 1, 1]);
}

#[test]
fn the_last_eligible_member_stays_until_another_is_eligible() {
    let mut source = Source::default();
    source.answers([1, 2], PACE);
    for _ in 0..6 {
        source.answers_while([3, 4], PACE, &[vec![1, 2]]);
    }
    assert_eq!(staying(&source.set), [2, 3, 4]);
    assert_eq!(source.held.next_step, 1);
    source.answers([3, 4], PACE);
    assert_eq!(staying(&source.set), [3, 4]);
}

/// A VIP whose checks fail for all others must not lose its last one because another VIP has more.
#[test]
fn the_last_eligible_member_of_each_vip_stays() {
    let mut source = Source::default();
    source.answers([1, 2, 3, 4], PACE);
    for _ in 0..6 {
        source.answers_while([5, 6], PACE, &[vec![2], vec![1, 2, 3, 4, 5, 6]]);
    }
    assert_eq!(staying(&source.set), [2, 5, 6]);
    for _ in 0..6 {
        source.answers_while([5, 6], PACE, &[vec![2], vec![2]]);
    }
    assert_eq!(staying(&source.set), [2, 5, 6]);
    source.answers_while([5, 6], PACE, &[vec![2, 5], vec![2, 5]]);
    assert_eq!(staying(&source.set), [5, 6]);
}

#[test]
fn steps_are_an_interval_apart_whatever_asks_for_them() {
    let mut source = Source::default();
    source.answers(0..8, SET_BY_HAND);
    assert_eq!(source.answers([0], SET_BY_HAND).leaving.len(), 4);
    for _ in 0..4 {
        source.at -= 4;
        assert!(source.answers([0], SET_BY_HAND).leaving.is_empty());
    }
    assert_eq!((staying(&source.set).len(), source.held.next_step), (4, 3));
    assert_eq!(source.answers([0], SET_BY_HAND).leaving.len(), 2);
}

#[test]
fn a_named_member_may_move_to_another_address() {
    let mut source = Source::default();
    let named = |number: u8| Member {
        name: "canary".to_owned(),
        ..member(number)
    };
    let all = [vec![1, 2, 3, 4]];
    source.names(&[member(1), named(2)], SET_BY_HAND, &all);
    let changes = source.names(&[member(1), named(3)], SET_BY_HAND, &all);
    assert_eq!((changes.added.len(), changes.leaving.len()), (1, 1));
    let names = |source: &Source| -> Vec<String> {
        let members = source.set.members().iter();
        members.map(|known| known.member.name.clone()).collect()
    };
    assert_eq!(names(&source), ["10.0.0.1", "10.0.0.2", "canary"]);
    // Each goes on to the next one's place; a name that looks like a place is no obstacle.
    let moved = [
        Member {
            name: "10.0.0.3".to_owned(),
            ..member(1)
        },
        named(4),
    ];
    source.names(&moved, SET_BY_HAND, &all);
    assert_eq!(
        names(&source),
        ["10.0.0.3", "10.0.0.2", "10.0.0.3-2", "canary"]
    );
    let all: Vec<Member> = source
        .set
        .members()
        .iter()
        .map(|it| it.member.clone())
        .collect();
    check_members(&all).unwrap();
}

#[test]
fn the_answer_of_a_source_that_no_vip_uses_replaces_the_last_one() {
    let answer = MemberSet::replaced(&members([3]), false).unwrap();
    assert_eq!((staying(&answer.set), answer.held.of), (vec![3], 1));
    assert_eq!(MemberSet::replaced(&[], false), None);
    assert!(MemberSet::replaced(&[], true).is_some());
}

#[test]
fn a_set_of_one_is_replaced_by_another() {
    let mut source = Source::default();
    source.answers([1], PACE);
    source.answers([2], PACE);
    assert_eq!(staying(&source.set), [1, 2]);
    source.answers([2], PACE);
    assert_eq!(staying(&source.set), [2]);
}

#[test]
fn members_that_are_set_by_hand_go_at_once_but_only_half_of_them() {
    let mut source = Source::default();
    source.answers([1, 2, 3, 4], SET_BY_HAND);
    assert_eq!(source.answers([1], SET_BY_HAND).leaving.len(), 2);
    assert_eq!(
        source.held.words().unwrap().split(',').next(),
        Some("1 of 2 missing")
    );
    assert_eq!(source.answers([1], SET_BY_HAND).leaving.len(), 1);
    assert_eq!(staying(&source.set), [1]);
}

#[test]
fn an_answer_that_takes_all_out_of_service_must_be_meant() {
    let mut source = Source::default();
    source.answers([1, 2, 3], SET_BY_HAND);
    let with = |change: fn(&mut Member)| {
        let mut all = members([1, 2]);
        all.iter_mut().for_each(change);
        all
    };
    let drained = with(|member| member.state = BackendState::Drain);
    let without_weight = with(|member| {
        if member.weight > 0 && number(member) == 1 {
            member.weight = 0;
        } else {
            member.state = BackendState::Disabled;
        }
    });
    for answer in [Vec::new(), drained, without_weight] {
        let answered = source.set.answered(&answer, seconds(99), SET_BY_HAND, &[]);
        assert_eq!(answered, None);
        assert_eq!(MemberSet::replaced(&answer, false), None);
    }
    let pace = Pace {
        allow_empty: true,
        ..SET_BY_HAND
    };
    for left in [1, 0] {
        source.answers([], pace);
        assert_eq!(staying(&source.set).len(), left);
    }
}

#[test]
fn a_member_that_comes_back_while_it_leaves_is_up_again() {
    let mut source = Source::default();
    source.answers([1, 2], SET_BY_HAND);
    source.answers([1], SET_BY_HAND);
    assert_eq!(source.set.members()[1].state(), BackendState::Drain);
    let changes = source.answers([1, 2], PACE);
    assert_eq!(changes.returned.len(), 1);
    assert_eq!(source.set.members()[1].state(), BackendState::Up);
}

#[test]
fn a_leaving_member_is_removed_when_it_is_done() {
    let mut source = Source::default();
    source.answers([1, 2], SET_BY_HAND);
    source.answers([1], SET_BY_HAND);
    let retire = |set: &MemberSet, after: u64| {
        let at = seconds(source.at + after);
        set.retired(at, |_, leaving| leaving >= seconds(30))
    };
    assert!(retire(&source.set, 29).1.is_empty());
    let (set, gone) = retire(&source.set, 30);
    assert_eq!((staying(&set), number(&gone[0])), (vec![1], 2));
    assert_eq!(set.members().len(), 1);
}

#[test]
fn weights_and_states_change_at_once() {
    let mut set = MemberSet::default();
    let mut all = members([1, 2]);
    set = set.answered(&all, seconds(0), PACE, &[]).unwrap().set;
    (all[0].weight, all[0].state) = (7, BackendState::Disabled);
    let answer = set.answered(&all, seconds(5), PACE, &[]).unwrap();
    assert!(answer.changes.is_empty());
    assert_eq!(answer.set.members()[0].member.weight, 7);
    assert_eq!(answer.set.members()[0].state(), BackendState::Disabled);
}

/// An answer, or a failure.
fn step() -> impl Strategy<Value = Option<BTreeSet<u8>>> {
    prop_oneof![
        1 => Just(None),
        4 => btree_set(0..12_u8, 1..12).prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a source answers, and whichever members are healthy.
    #[test]
    fn no_answer_takes_more_than_half_of_the_members(
        steps in proptest::collection::vec((step(), btree_set(0..12_u8, 0..12)), 1..20),
    ) {
        let mut set = MemberSet::default();
        let mut last: Option<BTreeSet<u8>> = None;
        for (index, (answer, healthy)) in steps.into_iter().enumerate() {
            let healthy_now = healthy.clone();
            let is_eligible = |member: &Member| healthy_now.contains(&number(member));
            let (before, serving) = (
                staying(&set),
                set.staying().filter(|member| is_eligible(member)).count(),
            );
            let Some(named) = answer else {
                set = set.failed();
                last = None;
                prop_assert_eq!(staying(&set), before);
                continue;
            };
            let at = seconds(5 * index as u64);
            let healthy: Vec<u8> = healthy.iter().copied().collect();
            let result = set.answered(&members(named.iter().copied()), at, PACE, &[keys(&healthy)]);
            let result = result.unwrap();
            let gone: Vec<u8> = result.changes.leaving.iter().map(number).collect();
            prop_assert!(gone.len() <= before.len() / 2);
            let eligible_gone = result.changes.leaving.iter().filter(|it| is_eligible(it)).count();
            prop_assert!(eligible_gone <= serving / 2);
            // What goes was missing twice in a row.
            for number in &gone {
                prop_assert!(!named.contains(number));
                prop_assert!(last.as_ref().is_some_and(|last| !last.contains(number)));
            }
            // What is named is there.
            let now = staying(&result.set);
            prop_assert!(named.iter().all(|number| now.contains(number)));
            prop_assert_eq!(result.held.of, now.len());
            set = result.set;
            last = Some(named);
        }
    }

    /// A source that keeps its answer gets its way.
    #[test]
    fn a_lasting_answer_is_reached(
        before in btree_set(0..60_u8, 1..40),
        after in btree_set(0..60_u8, 1..40),
    ) {
        let mut source = Source::default();
        source.answers(before, PACE);
        for _ in 0..10 {
            source.answers(after.clone(), PACE);
        }
        let now: BTreeSet<u8> = staying(&source.set).into_iter().collect();
        prop_assert_eq!(now, after);
        prop_assert!(!source.held.any());
    }
}
