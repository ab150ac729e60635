//! 3. A member that fails breaks only its own flows; its recovery breaks none.

use lab::configuration::{Forward, State};
use lab::deadline::until;
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Layout};

use crate::site::{LIMIT, Site, assert_alive, build, can_run};

const FLOWS: usize = 600;
const FAILED: usize = 1;

fn fail_and_return(layout: Layout, forward: Forward, family: Family) {
    let lab = build(layout);
    let mut site = Site::start(&lab, forward);
    let name = vip_name(Kind::Echo, family);
    let failed = lab.backends[FAILED].name.clone();
    let load = site.open(family, FLOWS);
    let lost = load.snapshot().per_backend()[&failed];

    site.servers.kill_echo(FAILED);
    site.node
        .reload(|c| c.vip(&name).backend(&failed).state = State::Disabled)
        .unwrap();
    until("the failed member's flows are broken", LIMIT, || {
        Ok(load.snapshot().broken().count() as u64 >= lost)
    })
    .unwrap();
    let meanwhile = site.open(family, FLOWS);
    assert_eq!(meanwhile.snapshot().per_backend().get(&failed), None);
    load.wait_answers(3, LIMIT).unwrap();
    let report = load.snapshot();
    assert_eq!(
        report.broken().count() as u64,
        lost,
        "{:?}",
        report.faults()
    );
    for flow in report.broken() {
        assert_eq!(flow.backend.as_ref(), Some(&failed), "{flow:?}");
    }

    site.servers.restart_echo(&lab, FAILED).unwrap();
    site.node
        .reload(|c| c.vip(&name).backend(&failed).state = State::Up)
        .unwrap();
    let after = site.open(family, FLOWS);
    assert!(after.snapshot().per_backend()[&failed] > 0);
    assert_alive("the member is back", [&meanwhile, &after]);
    load.wait_answers(3, LIMIT).unwrap();
    let report = load.snapshot();
    assert_eq!(
        report.broken().count() as u64,
        lost,
        "{:?}",
        report.faults()
    );
    drop((load, meanwhile, after));
    site.check_health();
}

#[test]
fn a_failure_breaks_only_the_members_own_flows_of_ipip() {
    if can_run("failure with ipip") {
        fail_and_return(Layout::OneArm, Forward::Ipip, Family::V6);
    }
}

#[test]
fn a_failure_breaks_only_the_members_own_flows_of_nat() {
    if can_run("failure with nat") {
        fail_and_return(Layout::OneArm, Forward::Nat, Family::V6);
    }
}
