//! Votes: what the nodes of a fleet say of the health of members.
//!
//! A vote is a hint and never an order: a node forwards by its own checks, because only they tell what it
//! can reach. From the votes follow
//!
//! - which of its checks a node hurries ([`Ballots::hear`]), so that all nodes see a failure at nearly the
//!   same time;
//! - which members are down *for the fleet*: for more than half of the nodes that have judged them. A fault
//!   of one node's own path is none of these;
//! - where nodes disagree for [`DISAGREE_AFTER`];
//! - which node is itself suspect: for as long, it has seen more than a quarter of its members down, and all
//!   others have seen them up.
//!
//! Pure: the caller passes the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long nodes may disagree: checks of one may be later than those of another.
pub const DISAGREE_AFTER: Duration = Duration::from_millis(3500);

/// The votes of a node that is silent for this long no longer count.
pub const SILENT_AFTER: Duration = Duration::from_secs(4);

/// They are forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// A node is suspect if it sees more than this part of its members down, against all others.
const SUSPECT_ABOVE: (usize, usize) = (1, 4);

/// What a node says of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Opinion {
    /// It has no verdict: there are no checks, they have not judged yet, or they can't tell.
    #[default]
    Unjudged,
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// A node's vote on a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// What it says.
    pub opinion: Opinion,
    /// Whether its last checks contradict that, but are too few to change it; or, of a member that is down,
    /// whether it is only held down.
    pub is_uncertain: bool,
    /// Why, for people; may be empty while nobody disagrees.
    pub why: String,
}

impl Vote {
    /// The vote on a member whose checks succeed.
    #[must_use]
    pub const fn up() -> Self {
        Self {
            opinion: Opinion::Up,
            is_uncertain: false,
            why: String::new(),
        }
    }
}

/// The votes of a node by member: all members that it has.
pub type Votes<M> = BTreeMap<M, Vote>;

#[derive(Clone, Debug)]
struct Ballot<M> {
    votes: Votes<M>,
    heard: Duration,
}

/// The votes of all nodes. `M` identifies a member.
#[derive(Clone, Debug)]
pub struct Ballots<M> {
    own: Votes<M>,
    others: BTreeMap<String, Ballot<M>>,
    /// Since when nodes disagree on a member.
    disagree: BTreeMap<M, Duration>,
    /// The members that are down for the fleet, and since when.
    down: BTreeMap<M, Duration>,
}

impl<M> Default for Ballots<M> {
    fn default() -> Self {
        Self {
            own: BTreeMap::new(),
            others: BTreeMap::new(),
            disagree: BTreeMap::new(),
            down: BTreeMap::new(),
        }
    }
}

/// A member that is down for the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down<M> {
    /// The member.
    pub member: M,
    /// Nodes that see it down.
    pub nodes: usize,
    /// Nodes that have judged it.
    pub of: usize,
    /// Since when.
    pub since: Duration,
}

/// A member that nodes see differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement<M> {
    /// The member.
    pub member: M,
    /// Nodes that see it down, with their reasons.
    pub down: Vec<(String, String)>,
    /// Nodes that see it up, likewise.
    pub up: Vec<(String, String)>,
    /// Since when.
    pub since: Duration,
}

/// What follows from the votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<M> {
    /// Nodes whose votes count, with this one.
    pub nodes: usize,
    /// Members that are down for the fleet.
    pub down: Vec<Down<M>>,
    /// Members that nodes see differently for longer than [`DISAGREE_AFTER`].
    pub disagreements: Vec<Disagreement<M>>,
    /// The node that is itself suspect, the number of members that it alone sees down, and the number that
    /// it has judged.
    pub suspect: Option<(String, usize, usize)>,
}

impl<M: Clone + Ord> Ballots<M> {
    /// Sets the votes of this node.
    pub fn set_own(&mut self, votes: Votes<M>) {
        self.own = votes;
    }

    /// Notes what another node says. Returns the members whose checks here are to hurry: those of which
    /// its vote is new, and another one than here, or the same, but uncertain.
    pub fn hear(&mut self, node: &str, votes: Votes<M>, now: Duration) -> Vec<M> {
        let before = self.others.get(node).map(|ballot| &ballot.votes);
        let up = Vote::up();
        let is_new = |member: &M, vote: &Vote| {
            let before = before.and_then(|votes| votes.get(member)).unwrap_or(&up);
            (before.opinion, before.is_uncertain) != (vote.opinion, vote.is_uncertain)
        };
        let differs = |member: &M, vote: &Vote| match self.own.get(member) {
            None => false,
            Some(own) => {
                vote.opinion != Opinion::Unjudged
                    && vote.is_uncertain == (own.opinion == vote.opinion)
            }
        };
        let hurry = votes
            .iter()
            .filter(|(member, vote)| is_new(member, vote) && differs(member, vote))
            .map(|(member, _)| member.clone())
            .collect();
        let ballot = Ballot { votes, heard: now };
        self.others.insert(node.to_owned(), ballot);
        hurry
    }

    /// Notes that a node is there, with the votes that it has told.
    pub fn note_alive(&mut self, node: &str, now: Duration) {
        if let Some(ballot) = self.others.get_mut(node) {
            ballot.heard = now;
        }
    }

    /// Whether another node sees a member down or is uncertain: then it wants to know why this one does not.
    #[must_use]
    pub fn is_contested(&self, member: &M) -> bool {
        let mut votes = self.others.values().filter_map(|it| it.votes.get(member));
        votes.any(|vote| vote.opinion == Opinion::Down || vote.is_uncertain)
    }

    /// The members that nodes see differently, for however short a time.
    pub fn disputed(&self) -> impl Iterator<Item = &M> {
        self.disagree.keys()
    }

    /// What follows now. `own`: the name of this node.
    pub fn judge(&mut self, own: &str, now: Duration) -> Standing<M> {
        let age = |ballot: &Ballot<M>| now.saturating_sub(ballot.heard);
        self.others
            .retain(|_, ballot| age(ballot) < FORGOTTEN_AFTER);
        // A node that was silent for a moment does not repeat its votes.
        let others = self.others.iter();
        let others = others.filter(|(_, ballot)| age(ballot) < SILENT_AFTER);
        let others = others.map(|(node, ballot)| (node.as_str(), &ballot.votes));
        let nodes: Vec<(&str, &Votes<M>)> =
            std::iter::once((own, &self.own)).chain(others).collect();
        let (mut down, mut differ) = (BTreeMap::new(), BTreeMap::new());
        for member in members_down(&nodes) {
            let (against, in_favour) = divide(&nodes, member);
            let (seen_down, judged) = (against.len(), against.len() + in_favour.len());
            // One node alone is no majority.
            if seen_down * 2 > judged && judged > 1 {
                down.insert(member.clone(), (seen_down, judged));
            }
            if !in_favour.is_empty() {
                differ.insert(member.clone(), (owned(&against), owned(&in_favour)));
            }
        }
        keep_times(&mut self.down, down.keys(), now);
        keep_times(&mut self.disagree, differ.keys(), now);
        let lasting = self.disagree.iter();
        let lasting = lasting.filter(|(_, since)| now.saturating_sub(**since) >= DISAGREE_AFTER);
        let suspect = suspect(&nodes, lasting.map(|(member, _)| member));
        let count = nodes.len();
        let since = &self.down;
        let down = down.into_iter().map(|(member, (nodes, of))| Down {
            since: since[&member],
            member,
            nodes,
            of,
        });
        let since = &self.disagree;
        let disagreements = differ.into_iter().filter_map(|(member, (down, up))| {
            let since = since[&member];
            let is_over = now.saturating_sub(since) >= DISAGREE_AFTER;
            is_over.then_some(Disagreement {
                member,
                down,
                up,
                since,
            })
        });
        Standing {
            nodes: count,
            down: down.collect(),
            disagreements: disagreements.collect(),
            suspect,
        }
    }
}

/// The members that a node sees down.
fn members_down<'a, M: Ord>(nodes: &[(&str, &'a Votes<M>)]) -> BTreeSet<&'a M> {
    let votes = nodes.iter().flat_map(|(_, votes)| votes.iter());
    let down = votes.filter(|(_, vote)| vote.opinion == Opinion::Down);
    down.map(|(member, _)| member).collect()
}

type Side<'a> = Vec<(&'a str, &'a str)>;

/// The nodes that see a member down, and those that see it up.
fn divide<'a, M: Ord>(nodes: &[(&'a str, &'a Votes<M>)], member: &M) -> (Side<'a>, Side<'a>) {
    let votes = |opinion| {
        let votes = nodes.iter().filter_map(move |(node, votes)| {
            let vote = votes.get(member)?;
            (vote.opinion == opinion).then_some((*node, vote.why.as_str()))
        });
        votes.collect()
    };
    (votes(Opinion::Down), votes(Opinion::Up))
}

fn owned(side: &Side<'_>) -> Vec<(String, String)> {
    let side = side.iter();
    side.map(|(node, why)| ((*node).to_owned(), (*why).to_owned()))
        .collect()
}

/// The only node that sees a member down for certain, if all others that have it see it up, and these are
/// half of all nodes at least.
fn alone<'a, M: Ord>(nodes: &[(&'a str, &Votes<M>)], member: &M) -> Option<&'a str> {
    let votes = nodes.iter();
    let votes = votes.filter_map(|(node, votes)| Some((*node, votes.get(member)?)));
    let (up, others): (Vec<_>, Vec<_>) = votes.partition(|(_, vote)| vote.opinion == Opinion::Up);
    match others[..] {
        [(node, vote)] if vote.opinion == Opinion::Down && !vote.is_uncertain => {
            (up.len() * 2 >= nodes.len()).then_some(node)
        }
        _ => None,
    }
}

/// `differ`: the members that nodes see differently.
fn suspect<'a, M: Ord + 'a>(
    nodes: &[(&str, &Votes<M>)],
    differ: impl Iterator<Item = &'a M>,
) -> Option<(String, usize, usize)> {
    let (part, whole) = SUSPECT_ABOVE;
    let mut alone_with: BTreeMap<&str, usize> = BTreeMap::new();
    for node in differ.filter_map(|member| alone(nodes, member)) {
        *alone_with.entry(node).or_default() += 1;
    }
    // Two nodes can't be against all others; but with a few members each, both can be over the limit.
    let mut over = alone_with.iter().filter_map(|(node, down)| {
        let (_, votes) = nodes.iter().find(|(name, _)| name == node)?;
        let judged = votes.values();
        let judged = judged.filter(|vote| vote.opinion != Opinion::Unjudged);
        let judged = judged.count();
        (down * whole > judged * part).then(|| ((*node).to_owned(), *down, judged))
    });
    let first = over.next();
    first.filter(|_| over.next().is_none())
}

/// Keeps the times of those that are still there, and adds those that are new.
fn keep_times<'a, M: Clone + Ord + 'a>(
    times: &mut BTreeMap<M, Duration>,
    now_there: impl Iterator<Item = &'a M>,
    now: Duration,
) {
    let mut before = std::mem::take(times);
    *times = now_there
        .map(|member| (member.clone(), before.remove(member).unwrap_or(now)))
        .collect();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Votes on members 0, 1, …: `u`p, `d`own, `f`ailing (up, uncertain), `h`eld down, `?`.
    fn votes(text: &str) -> Votes<usize> {
        let vote = |letter| Vote {
            opinion: match letter {
                'u' | 'f' => Opinion::Up,
                'd' | 'h' => Opinion::Down,
                _ => Opinion::Unjudged,
            },
            is_uncertain: matches!(letter, 'f' | 'h'),
            why: format!("says {letter}"),
        };
        text.chars().map(vote).enumerate().collect()
    }

    /// Ballots of the node "a" and of "b", "c" …, at 0 s.
    fn ballots(nodes: &[&str]) -> Ballots<usize> {
        let mut ballots = Ballots::default();
        ballots.set_own(votes(nodes[0]));
        for (name, text) in ["b", "c", "d", "e"].iter().zip(&nodes[1..]) {
            ballots.hear(name, votes(text), at(0));
        }
        ballots
    }

    /// The standing 3.4 s and 5 s after the first one, with all nodes there.
    fn judge(mut ballots: Ballots<usize>) -> Standing<usize> {
        let mut standing = ballots.judge("a", at(0));
        for now in [Duration::from_millis(3400), at(5)] {
            assert_eq!(
                (&standing.disagreements[..], &standing.suspect),
                (&[][..], &None)
            );
            for node in ["b", "c", "d", "e"] {
                ballots.note_alive(node, now);
            }
            standing = ballots.judge("a", now);
        }
        standing
    }

    fn down(standing: &Standing<usize>) -> Vec<(usize, usize, usize)> {
        let down = standing.down.iter();
        down.map(|down| (down.member, down.nodes, down.of))
            .collect()
    }

    #[test]
    fn a_majority_of_those_that_have_judged_decides() {
        for (nodes, wanted) in [
            (&["du", "du", "uu"][..], &[(0, 2, 3)][..]),
            (&["du", "uu", "uu"], &[]),
            (&["du", "uu"], &[]),
            (&["d", "?", "?"], &[]),
            (&["u", "d", "d", "?", "u"], &[]),
            (&["u", "d", "d", "?", "?"], &[(0, 2, 3)]),
            // A node that does not have the member says nothing of it.
            (&["du", "", "d"], &[(0, 2, 2)]),
        ] {
            assert_eq!(down(&judge(ballots(nodes))), wanted, "{nodes:?}");
        }
    }

    #[test]
    fn a_disagreement_names_nodes_and_both_reasons() {
        let standing = judge(ballots(&["uu", "ud", "uu"]));
        let [found] = &standing.disagreements[..] else {
            panic!("{standing:?}");
        };
        assert_eq!((found.member, found.since), (1, at(0)));
        assert_eq!(found.down, [("b".to_owned(), "says d".to_owned())]);
        let up = ["a", "c"].map(|node| (node.to_owned(), "says u".to_owned()));
        assert_eq!(found.up, up);
        assert_eq!(standing.down, []);
        assert_eq!(judge(ballots(&["?d", "ud", "?d"])).disagreements, []);
    }

    #[test]
    fn a_lone_node_that_sees_many_down_is_suspect() {
        let suspect = |nodes: &[&str]| judge(ballots(nodes)).suspect;
        let b = |down, of| Some(("b".to_owned(), down, of));
        assert_eq!(suspect(&["uuuuuuuu", "dddddddd", "uuuuuuuu"]), b(8, 8));
        assert_eq!(suspect(&["uuuuuuuu", "ddduuuuu", "uuuuuuuu"]), b(3, 8));
        assert_eq!(
            suspect(&["uuuuuuuu", "dduuuuuu", "uuuuuuuu"]),
            None,
            "a quarter"
        );
        assert_eq!(suspect(&["uuuuuuuu", "dduu????", "uuuuuuuu"]), b(2, 4));
        assert_eq!(suspect(&["uuuu", "dddd", "uddd"]), None, "not alone");
        assert_eq!(suspect(&["uuuu", "dddd"]), b(4, 4));
        assert_eq!(suspect(&["dddd", "????"]), None, "nobody else has judged");
        assert_eq!(
            suspect(&["dduu", "uudd"]),
            None,
            "each is against the other"
        );
        let own = judge(ballots(&["dddd", "uuuu", "uuuu"])).suspect;
        assert_eq!(own, Some(("a".to_owned(), 4, 4)));
    }

    #[test]
    fn votes_of_silent_nodes_do_not_count() {
        let mut ballots = ballots(&["u", "d", "d"]);
        assert_eq!(ballots.judge("a", at(0)).nodes, 3);
        ballots.note_alive("b", at(3));
        let standing = ballots.judge("a", at(5));
        assert_eq!((standing.nodes, down(&standing)), (2, vec![]));
        // It is heard again, and has nothing new to say.
        for node in ["b", "c"] {
            ballots.note_alive(node, at(9));
        }
        let standing = ballots.judge("a", at(9));
        assert_eq!((standing.nodes, down(&standing)), (3, vec![(0, 2, 3)]));
    }

    #[test]
    fn times_start_anew_after_an_agreement() {
        let mut ballots = ballots(&["u", "d"]);
        ballots.judge("a", at(0));
        ballots.hear("b", votes("u"), at(2));
        ballots.judge("a", at(2));
        ballots.hear("b", votes("d"), at(4));
        ballots.judge("a", at(4));
        ballots.note_alive("b", at(6));
        assert_eq!(ballots.judge("a", at(6)).disagreements, []);
    }

    #[test]
    fn checks_hurry_for_what_is_new() {
        let mut ballots = ballots(&["uuuu"]);
        let mut hear = |text| ballots.hear("b", votes(text), at(0));
        assert_eq!(hear("uuuu"), [0; 0]);
        assert_eq!(hear("fuuu"), [0], "its first check has failed");
        assert_eq!(hear("fuuu"), [0; 0], "once");
        assert_eq!(hear("duuu"), [0]);
        assert_eq!(hear("d?uud"), [0; 0], "no verdict, and no such member here");
        assert_eq!(hear("uuuu"), [0; 0], "as here");
        assert_eq!(hear("huuu"), [0; 0], "only held down");
        ballots.set_own(votes("duuu"));
        assert_eq!(ballots.hear("c", votes("uuuu"), at(0)), [0; 0]);
        assert_eq!(ballots.hear("b", votes("uuud"), at(0)), [0, 3]);
        assert_eq!(
            ballots.hear("c", votes("fuuu"), at(0)),
            [0; 0],
            "down here already"
        );
        assert!(ballots.is_contested(&3) && !ballots.is_contested(&1));
    }

    proptest! {
        /// What one node alone says makes no member down for three nodes and more, and no other node
        /// suspect.
        #[test]
        fn one_node_alone_changes_nothing_for_the_fleet(
            odd in prop::collection::vec("[ud?fh]", 1..9),
            nodes in 3_usize..6,
        ) {
            let odd = odd.concat();
            let even = "u".repeat(odd.len());
            let mut texts = vec![even.as_str(); nodes];
            texts[1] = &odd;
            let standing = judge(ballots(&texts));
            prop_assert_eq!(down(&standing), vec![]);
            let suspect = standing.suspect.map(|(node, ..)| node);
            prop_assert!(suspect.is_none_or(|node| node == "b"));
        }
    }
}
