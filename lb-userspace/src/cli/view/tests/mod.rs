//! Snapshots of the text of fixed values: what an operator sees.

mod bound;
pub(in crate::cli) mod fixtures;
pub(in crate::cli) mod fleet;
mod limits;

use super::{View, alerts, events, members, paint::Paint, plan, problems, revisions, status};
use lb_api::{MemberState, MemberStatus, Plan, PlanVerdict, RevisionInfo, Status, VipStatus};

/// A view without colours.
pub(in crate::cli) fn plain(width: usize) -> View {
    View {
        paint: Paint::PLAIN,
        width: Some(width),
    }
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap()
}

#[test]
fn the_status() {
    let text = status::status(plain(80), &fixtures::status(), false);
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn a_status_with_all_problems() {
    let text = status::status(plain(80), &fixtures::with_problems(), false);
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn the_status_of_a_node_without_vips() {
    let empty = Status {
        vips: Vec::new(),
        revision: None,
        ..fixtures::status()
    };
    insta::assert_snapshot!(status::status(plain(80), &empty, false));
}

#[test]
fn shows_what_is_announced() {
    let mut status = fixtures::status();
    let all = lb_api::AnnounceSummary {
        error: None,
        drain: lb_api::DrainState::No,
        announced: 3,
        worse: 0,
        withheld: 0,
        sessions: 2,
        peers: 2,
    };
    let mut line = |announce: &lb_api::AnnounceSummary| {
        status.announce = Some(announce.clone());
        let text = status::status(plain(80), &status, false);
        let mut lines = text.lines().filter(|it| it.starts_with("announced: "));
        lines.next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        line(&all),
        "announced: 3 of 3 addresses, 2 of 2 BGP sessions"
    );
    let some = lb_api::AnnounceSummary {
        announced: 1,
        worse: 1,
        withheld: 1,
        sessions: 0,
        ..all.clone()
    };
    assert_eq!(
        line(&some),
        "announced: 1 of 3 addresses, 1 as worse, 0 of 2 BGP sessions"
    );
    let drained = lb_api::AnnounceSummary {
        drain: lb_api::DrainState::Drained,
        peers: 0,
        ..all.clone()
    };
    assert_eq!(line(&drained), "announced: the node is drained");
    let gone = lb_api::AnnounceSummary {
        error: Some("nothing listens on /run/a.sock".to_owned()),
        ..all
    };
    assert_eq!(
        line(&gone),
        "announced: no answer from the announcer: nothing listens on /run/a.sock"
    );
}

#[test]
fn shows_the_use_of_the_capacity() {
    let mut known = fixtures::status();
    known.vips[0].peak_new_flows_per_s = 4100.0;
    known.vips[0].capacity = Some(lb_api::CapacityStatus {
        eligible_new_flows_per_s: 5000.0,
        utilisation: 0.2468,
        target_utilisation: 0.7,
        headroom_after_failure: -234.0,
        eligible_backends: 3,
        wanted_backends: 1,
    });
    let text = status::status(plain(200), &known, false);
    let line = "capacity: 25 % of 5.0k new flows/s (peak 4.1k, target 70 %); 234 short if the largest backend fails; 3 backends, 1 needed";
    assert!(text.contains(line), "{text}");
    let text = status::status(plain(80), &known, false);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn shows_what_is_over_limits() {
    let mut status = fixtures::status();
    let source = |source: &str, share| lb_api::ExcessSource {
        source: source.into(),
        share,
    };
    let limit = lb_api::LimitStatus {
        source_on_excess: "count".into(),
        on_excess: "second_syn".into(),
        ..Default::default()
    };
    status.vips[0].limit = Some(limit.clone());
    let text = status::status(plain(300), &status, false);
    assert!(!text.contains("limits"), "{text}");
    status.vips[0].limit = Some(lb_api::LimitStatus {
        source_packets_per_s: 1234.0,
        new_flows_per_s: 7.0,
        denied_per_s: 90.0,
        sources: vec![source("198.51.100.7", 0.61), source("192.0.2.0/24", 0.004)],
        ..limit
    });
    let text = status::status(plain(300), &status, false);
    let line = "limits: 1.2k packets/s over the limit of sources (count), 7 new flows/s over the limit of the VIP (second_syn), 90 packets/s from denied sources; from 198.51.100.7 61 %\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn shows_the_use_of_nat_ports() {
    let mut status = fixtures::status();
    let vip = &mut status.vips[0];
    vip.forward = "nat".into();
    vip.tracked_flows = 15_000;
    for (member, in_use) in vip.members.iter_mut().zip([1_966, 13_107, 0]) {
        member.nat_ports = Some(lb_api::NatPorts {
            in_use,
            over: 3_000,
            total: 16_384,
        });
    }
    let text = status::status(plain(120), &status, false);
    let line = "  15k sessions, most to api-2: 13107 of 16384 nat ports in use (80 %)\n";
    assert!(text.contains(line) && !text.contains('!'), "{text}");

    status.vips[0].members[1].nat_ports.as_mut().unwrap().in_use += 1;
    let text = status::status(plain(120), &status, false);
    let line = "  ! api-2: 13108 of 16384 nat ports in use (80 %)\n";
    assert!(text.contains(line), "{text}");
    problems::retain(&mut status);
    assert_eq!(status.vips[0].members.len(), 1);
    assert!(problems::problems(plain(120), &status).contains("! api/api-2: 13108 of"));
}

#[test]
fn colours_only_if_enabled() {
    let view = View {
        paint: Paint::COLORED,
        width: None,
    };
    let colored = status::status(view, &fixtures::with_problems(), false);
    assert!(colored.contains("\x1b[31mdown\x1b[0m"), "{colored:?}");
    let plain = status::status(plain(80), &fixtures::with_problems(), false);
    assert!(!plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn a_plan_that_is_allowed() {
    let text = plan::plan(plain(80), &fixtures::plan());
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn a_plan_that_is_refused() {
    let text = plan::plan(plain(80), &fixtures::refused());
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn a_plan_without_changes() {
    let nothing = Plan {
        base: 7,
        verdict: PlanVerdict::Nothing,
        vips: Vec::new(),
        other: Vec::new(),
        warnings: Vec::new(),
    };
    insta::assert_snapshot!(plan::plan(plain(80), &nothing));
}

#[test]
fn a_plan_shows_its_warnings() {
    let warned = Plan {
        base: 7,
        verdict: PlanVerdict::Allowed,
        vips: Vec::new(),
        other: Vec::new(),
        warnings: vec!["nat_source 10.0.1.200 is not an address of this host".into()],
    };
    let text = plan::plan(plain(80), &warned);
    let expected = "warning: nat_source 10.0.1.200 is not an address of this host\n\n";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_plan_that_adds_and_removes_vips() {
    insta::assert_snapshot!(plan::plan(plain(80), &fixtures::vips_added_and_removed()));
}

#[test]
fn the_history() {
    let text = revisions::history(plain(80), &fixtures::revisions());
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn revisions_one_by_one() {
    let revisions = fixtures::revisions();
    let text: Vec<String> = revisions
        .iter()
        .map(|revision| {
            revisions::details(plain(80), revision)
                + &revisions::line(plain(80), revision, fixtures::now())
                + &revisions::outcome(plain(80), revision)
        })
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

/// The reason of a change and the reason of its rollback are both in JSON.
#[test]
fn revisions_survive_json() {
    for mut revision in fixtures::revisions() {
        revision.why = Some("ticket 4711".into());
        let text = serde_json::to_string(&revision).unwrap();
        let read: RevisionInfo = serde_json::from_str(&text).unwrap();
        assert_eq!(read, revision, "{text}");
    }
}

#[test]
fn the_progress_of_a_change() {
    let lines = fixtures::progress().map(|progress| revisions::progress(&progress));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_lists_of_vips_and_backends() {
    let mut vips = fixtures::status().vips;
    vips.push(VipStatus {
        name: "dns".into(),
        address: "2001:db8::53".parse().unwrap(),
        port: 0,
        protocol: "udp".into(),
        forward: "l2".into(),
        members: Vec::new(),
        ..vips[0].clone()
    });
    let text = format!(
        "{}\n{}",
        members::vips(plain(80), &vips),
        members::backends(plain(80), &vips)
    );
    insta::assert_snapshot!(text);
}

#[test]
fn the_alerts() {
    let text = alerts::alerts(plain(80), &fixtures::alerts(), fixtures::now());
    insta::assert_snapshot!(text);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn the_events() {
    let lines = fixtures::events().map(|event| events::event(plain(80), &event));
    insta::assert_snapshot!(lines.concat());
}

#[test]
fn shortens_long_names_on_a_terminal_only() {
    let mut status = fixtures::status();
    status.vips[0].members[0].backend = "a-very-long-name-of-a-backend-in-zone-1".into();
    let narrow = status::status(plain(80), &status, false);
    assert!(widest(&narrow) <= 80 && narrow.contains('…'), "{narrow}");
    let view = View {
        paint: Paint::PLAIN,
        width: None,
    };
    assert!(!status::status(view, &status, false).contains('…'));
}

/// 64 VIPs with 64 backends each, of which one host is down.
#[test]
fn the_status_of_a_large_node_is_short() {
    let mut status = fixtures::status();
    let down = fixtures::with_problems().vips[0].members[1].clone();
    let vip = &mut status.vips[0];
    vip.members = vec![vip.members[0].clone(); 63];
    vip.members.push(MemberStatus {
        state: MemberState::Down,
        ..down
    });
    status.vips = vec![status.vips[0].clone(); 64];
    let text = status::status(plain(80), &status, false);
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
    assert!(
        text.contains("4096 backends: `evenkeel status VIP`"),
        "{text}"
    );
    assert!(text.contains("… and "), "{text}");
    status.vips.truncate(1);
    let whole = status::status(plain(80), &status, true);
    assert!(whole.lines().count() > 64, "{whole}");
    problems::retain(&mut status);
    assert_eq!(status.vips[0].members.len(), 1);
    assert!(problems::any(&status));
    let text = problems::problems(plain(80), &status);
    assert!(
        text.contains("! api/") && text.lines().count() < 20,
        "{text}"
    );
    let mut fine = fixtures::status();
    fine.alerts.clear();
    problems::retain(&mut fine);
    assert_eq!(problems::problems(plain(80), &fine), "no problems\n");
}

#[test]
fn an_alert_that_is_clearing_says_so() {
    let mut alert = fixtures::alerts().remove(0);
    let now = alert.since + jiff::SignedDuration::from_secs(600);
    alert.resolves_at = Some(now + jiff::SignedDuration::from_secs(90));
    alert.vips = vec!["api".into(), "web".into()];
    let text = alerts::alerts(plain(80), &[alert], now);
    assert!(text.starts_with("clearing backend_down"), "{text}");
    assert!(
        text.contains("resolved in 1m30s unless it returns") && text.contains("VIPs: api, web"),
        "{text}"
    );
}
