//! Conditions of announcing: an announcer that does not answer, sessions that are down, and addresses that
//! routers do not get, or only as worse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;

use super::{Condition, Severity, backends::listed};
use crate::node::{Announced, AnnouncedAddress, Announcement, Announcing, BgpSession, DrainPhase};

/// How long an address may wait to be announced, when nothing but time is missing, in seconds. Longer than
/// after a usual start.
const WAITS_S: f64 = 15.0;

/// Since when addresses are missing in the announcer's answers.
pub(super) type Unknown = BTreeMap<IpAddr, Timestamp>;

/// All conditions of announcing.
pub(super) fn conditions(
    announcing: &Announcing,
    unknown: &mut Unknown,
    now: Timestamp,
) -> Vec<Condition> {
    let missing: BTreeSet<IpAddr> = announcing.unknown().collect();
    unknown.retain(|address, _| missing.contains(address));
    for address in missing {
        unknown.entry(address).or_insert(now);
    }
    let waits = |since: &Timestamp| now.duration_since(*since).as_secs_f64() < WAITS_S;
    let unknown = unknown.iter().filter(|(_, since)| !waits(since));
    let unknown = unknown.map(|(address, _)| *address).collect();
    let answer = match &announcing.answer {
        Ok(answer) => answer,
        Err(error) => return vec![no_answer(announcing, error)],
    };
    let mut conditions = sessions(announcing, answer);
    conditions.extend(table(answer));
    // A drained node does what it was told.
    if answer.drain == DrainPhase::No {
        conditions.extend(addresses(announcing, answer, unknown));
    }
    conditions
}

fn no_answer(announcing: &Announcing, error: &str) -> Condition {
    let number = announcing.wanted.len();
    let summary =
        format!("`evenkeel announce` does not answer: {number} addresses are to be announced");
    let condition = Condition::new("announcer", "announcer", Severity::Critical, summary);
    condition.cause(format!(
        "{error}; unless it runs, no router knows the VIPs: see `systemctl status evenkeel-announce`"
    ))
}

/// Peers without a session, and those to which some routes are not sent.
fn sessions(announcing: &Announcing, answer: &Announced) -> Vec<Condition> {
    let is_alone = !answer.sessions.iter().any(|session| session.is_up);
    let condition = |name: &str, severity, summary: String| {
        let key = format!("announce_session:{name}");
        Condition::new(key, "announce_session", severity, summary)
    };
    let known = answer.sessions.iter().filter_map(|session| {
        let BgpSession {
            peer: name,
            address,
            ..
        } = session;
        if session.is_up {
            let problem = session.problems.first()?;
            let summary = format!("the session with {name} ({address}) is incomplete");
            return Some(condition(name, Severity::Warning, summary).cause(problem));
        }
        let severity = match is_alone {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let summary = match is_alone {
            true => format!("no BGP session with {name} ({address}), nor with another peer"),
            false => format!("no BGP session with {name} ({address})"),
        };
        let why = session.last_error.as_deref().unwrap_or("no answer yet");
        let cause = format!("{}: {why}; see `evenkeel doctor`", session.state);
        Some(condition(name, severity, summary).cause(cause))
    });
    let is_known = |name: &&String| answer.sessions.iter().any(|known| known.peer == **name);
    let unknown = announcing.peers.iter().filter(|name| !is_known(name));
    let unknown = unknown.map(|name| {
        let summary = format!("`evenkeel announce` does not know the configured peer {name}");
        condition(name, Severity::Warning, summary)
            .cause("its configuration is older: `systemctl reload evenkeel-announce`")
    });
    known.chain(unknown).collect()
}

/// A routing table that lacks routes.
fn table(answer: &Announced) -> Option<Condition> {
    let table = answer.table.as_ref().filter(|table| !table.in_sync)?;
    let summary = format!("routing table {} lacks announced addresses", table.number);
    let condition = Condition::new(
        "not_announced:in_sync",
        "not_announced",
        Severity::Critical,
        summary,
    );
    Some(condition.cause(table.last_error.clone().unwrap_or_default()))
}

/// What addresses with the same condition have in common.
#[derive(Default)]
struct Group<'a> {
    addresses: Vec<IpAddr>,
    vips: Vec<&'a String>,
    cause: Option<String>,
}

/// Addresses that are not announced, or as worse: one condition for all that lack the same.
fn addresses(announcing: &Announcing, answer: &Announced, unknown: Vec<IpAddr>) -> Vec<Condition> {
    let mut groups: BTreeMap<(bool, &str), Group<'_>> = BTreeMap::new();
    let wanted = |known: &&AnnouncedAddress| announcing.wanted.contains(&known.address);
    for known in answer.addresses.iter().filter(wanted) {
        let Some(reason) = &known.reason else {
            continue;
        };
        if known.waits && known.for_s < WAITS_S {
            continue;
        }
        let is_withheld = known.state == Announcement::Withheld;
        let group = groups.entry((is_withheld, &reason.name)).or_default();
        group.addresses.push(known.address);
        group.vips.extend(&known.vips);
        group.cause.get_or_insert_with(|| reason.to_string());
    }
    if !unknown.is_empty() {
        let group = groups.entry((true, "unknown")).or_default();
        group.addresses = unknown;
        let cause = "`evenkeel announce` has not found a VIP of it in the data path".to_owned();
        group.cause = Some(
            answer
                .unmet
                .iter()
                .fold(cause, |cause, unmet| format!("{cause}; {unmet}")),
        );
    }
    let groups = groups.into_iter();
    groups
        .map(|((is_withheld, name), group)| condition(is_withheld, name, group))
        .collect()
}

fn condition(is_withheld: bool, name: &str, group: Group<'_>) -> Condition {
    let Group {
        addresses,
        mut vips,
        cause,
    } = group;
    let (key, severity, state) = match is_withheld {
        true => ("not_announced", Severity::Critical, "not announced"),
        false => (
            "announced_as_worse",
            Severity::Warning,
            "announced as worse than other nodes",
        ),
    };
    vips.sort_unstable();
    vips.dedup();
    let of_vips = match vips.is_empty() {
        true => String::new(),
        false => format!(" ({})", listed(&vips)),
    };
    let summary = match &addresses[..] {
        [one] => format!("{one}{of_vips} is {state}"),
        several => format!(
            "{} addresses are {state}: {}",
            several.len(),
            listed(several.iter().map(ToString::to_string))
        ),
    };
    let first = addresses.first().map(ToString::to_string);
    let cause = format!(
        "{}; `evenkeel announce why {}` shows all conditions",
        cause.unwrap_or_default(),
        first.unwrap_or_default()
    );
    let key = format!("{key}:{name}");
    let condition = Condition::new(key, "not_announced", severity, summary).cause(cause);
    match &vips[..] {
        [one] => condition.vip(*one),
        _ => condition,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;

    use super::*;
    use crate::{metrics::example::example, node::Unmet};

    fn announcing(change: impl FnOnce(&mut Announced)) -> Announcing {
        let mut known = example(3, 1).state.announcing.unwrap();
        let answer = Arc::make_mut(known.answer.as_mut().unwrap());
        answer.table = None;
        change(answer);
        known
    }

    fn found(announcing: &Announcing) -> Vec<(String, Severity, String, String)> {
        let (mut unknown, start) = (Unknown::new(), Timestamp::UNIX_EPOCH);
        conditions(announcing, &mut unknown, start);
        let later = start + SignedDuration::from_secs_f64(WAITS_S);
        let found = conditions(announcing, &mut unknown, later).into_iter();
        let texts = |it: Condition| (it.key, it.severity, it.summary, it.cause.unwrap());
        found.map(texts).collect()
    }

    fn unmet(name: &str, text: &str) -> Unmet {
        Unmet {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_node_that_announces_all_has_no_condition() {
        assert_eq!(found(&announcing(|_| {})), []);
    }

    #[test]
    fn an_announcer_that_does_not_answer_is_critical() {
        let mut known = announcing(|_| {});
        known.answer = Err("nothing listens on /run/a.sock".to_owned());
        let found = found(&known);
        let [(key, Severity::Critical, summary, cause)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(key, "announcer");
        assert!(summary.ends_with("3 addresses are to be announced"));
        assert!(cause.starts_with("nothing listens on /run/a.sock;"));
    }

    #[test]
    fn a_session_that_is_down_is_named_with_its_error() {
        let down = |answer: &mut Announced, number: usize| {
            let session = &mut answer.sessions[number];
            (session.is_up, session.state) = (false, "Connect".to_owned());
            session.last_error = Some("connection refused".to_owned());
        };
        let one = found(&announcing(|status| down(status, 1)));
        let [(key, Severity::Warning, summary, cause)] = &one[..] else {
            panic!("{one:?}");
        };
        assert_eq!(key, "announce_session:tor-2");
        assert_eq!(summary, "no BGP session with tor-2 (192.0.2.1)");
        assert!(cause.starts_with("Connect: connection refused;"), "{cause}");
        let both = found(&announcing(|status| (0..2).for_each(|it| down(status, it))));
        assert!(both.iter().all(|it| it.1 == Severity::Critical), "{both:?}");
        assert_eq!(both.len(), 2);
        // A family that is not sent, and a peer of a newer configuration.
        let mut known = announcing(|status| {
            status.sessions[0].problems = vec!["IPv6 routes are not sent".to_owned()];
        });
        known.peers.push("tor-3".to_owned());
        let keys: Vec<_> = found(&known).into_iter().map(|it| it.0).collect();
        assert_eq!(keys, ["announce_session:tor-1", "announce_session:tor-3"]);
    }

    #[test]
    fn addresses_that_lack_the_same_are_one_condition() {
        let known = announcing(|status| {
            for (number, address) in status.addresses.iter_mut().enumerate() {
                address.state = Announcement::Withheld;
                address.for_s = 1.0;
                address.reason = Some(unmet("forwards", &format!("vip-{number}: NO_MEMBER")));
            }
            status.addresses[2].state = Announcement::Worse;
            status.addresses[2].reason = Some(unmet("controller", "last heartbeat 31 s ago"));
        });
        let found = found(&known);
        let [worse, withheld] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(worse.0, "announced_as_worse:controller");
        assert_eq!(worse.1, Severity::Warning);
        assert_eq!(
            worse.2,
            "203.0.113.2 (vip-2) is announced as worse than other nodes"
        );
        assert_eq!(
            worse.3,
            "controller: last heartbeat 31 s ago; `evenkeel announce why 203.0.113.2` shows all conditions"
        );
        assert_eq!(withheld.0, "not_announced:forwards");
        assert_eq!(withheld.1, Severity::Critical);
        assert_eq!(
            withheld.2,
            "2 addresses are not announced: 203.0.113.0, 203.0.113.1"
        );
        assert!(withheld.3.starts_with("forwards: vip-0: NO_MEMBER;"));
    }

    #[test]
    fn an_address_may_wait_for_some_seconds() {
        let waits = |for_s| {
            found(&announcing(|status| {
                let address = &mut status.addresses[0];
                (address.state, address.for_s) = (Announcement::Withheld, for_s);
                address.waits = true;
                address.reason = Some(unmet("settled", "forwards for 2 s, 20 s are needed"));
            }))
        };
        assert_eq!(waits(14.0), []);
        assert_eq!(waits(15.0)[0].0, "not_announced:settled");
    }

    #[test]
    fn a_drained_node_is_no_alarm() {
        let drained = announcing(|status| {
            status.drain = DrainPhase::Drained;
            for address in &mut status.addresses {
                address.state = Announcement::Withheld;
            }
        });
        assert_eq!(found(&drained), []);
    }

    #[test]
    fn an_address_that_the_announcer_does_not_know_is_not_announced() {
        let known = announcing(|status| {
            status.addresses.remove(1);
            status.unmet = vec![unmet("provable", "layout 7, not 6")];
        });
        let (mut unknown, start) = (Unknown::new(), Timestamp::UNIX_EPOCH);
        let mut after = |seconds| {
            conditions(
                &known,
                &mut unknown,
                start + SignedDuration::from_secs(seconds),
            )
            .len()
        };
        assert_eq!([0, 14, 15].map(&mut after), [0, 0, 1]);
        let found = found(&known);
        assert!(
            found[0]
                .3
                .contains("in the data path; provable: layout 7, not 6;"),
            "{found:?}"
        );
        assert_eq!(found[0].0, "not_announced:unknown");
        assert_eq!(found[0].2, "203.0.113.1 is not announced");
    }

    #[test]
    fn a_table_out_of_sync_is_critical() {
        let mut known = example(1, 1).state.announcing.unwrap();
        let status = Arc::make_mut(known.answer.as_mut().unwrap());
        let table = status.table.as_mut().unwrap();
        (table.in_sync, table.last_error) = (false, Some("EPERM".to_owned()));
        let found = found(&known);
        assert_eq!(found[0].0, "not_announced:in_sync");
        assert_eq!(found[0].3, "EPERM");
    }
}
