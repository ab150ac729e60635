//! 5. Two nodes with the same configuration select the same members: flows continue when moved between them.

use lab::balancer::binary;
use lab::configuration::{Forward, State};
use lab::node::Node;
use lab::service::{FAMILIES, Kind, vip_name};
use lab::topology::{Family, Layout};
use lb_common::{proto, ring::MemberIndex};

use crate::site::{Site, assert_alive, build_with_balancers, can_run, configuration};

const FLOWS: usize = 500;

/// Returns the address of the member of each slot, and the hash key: everything that selects a member.
fn choice(node: &Node<'_>, site: &Site<'_>, family: Family) -> (Vec<[u64; 2]>, String) {
    let view = node.view().unwrap();
    let vip = view.vip(site.lab.vip(family, 1), Kind::Echo.port(), proto::TCP);
    let vip = vip.unwrap().unwrap();
    let address = |index: MemberIndex| view.members.read(index).unwrap().address;
    let ring = view.ring(vip).unwrap().unwrap();
    let slots = ring.members().iter().map(|member| address(*member));
    let key = format!("{:?}", view.vips.read(vip).unwrap().hash_key);
    (slots.collect(), key)
}

fn packets(node: &Node<'_>) -> u64 {
    let view = node.view().unwrap();
    let present: Vec<MemberIndex> = view.members.present().map(|(index, _)| index).collect();
    let counted = present
        .into_iter()
        .map(|index| view.counters.member(index).unwrap().packets);
    counted.sum()
}

#[test]
fn flows_continue_on_another_node() {
    if !can_run("two nodes") {
        return;
    }
    let lab = build_with_balancers(Layout::TwoArm, 2);
    let mut site = Site::start(&lab, Forward::Ipip);
    let second = configuration(&lab, 1, Forward::Ipip);
    let mut second = Node::start(&lab.balancers[1], &binary().unwrap(), second).unwrap();
    for family in FAMILIES {
        assert!(choice(&site.node, &site, family) == choice(&second, &site, family));
    }
    let loads = FAMILIES.map(|family| site.open(family, FLOWS));
    assert_eq!(packets(&second), 0);
    lab.route_vips_via(1).unwrap();
    assert_alive("on the second node", &loads);
    let passed = packets(&second);
    assert!(passed > FLOWS as u64, "they went there: {passed} packets");

    // Both nodes change, take over flows of a failed node, and get new flows.
    for node in [&mut site.node, &mut second] {
        node.reload(|configuration| {
            for family in FAMILIES {
                let vip = configuration.vip(&vip_name(Kind::Echo, family));
                vip.backend("backend-0").state = State::Drain;
            }
        })
        .unwrap();
    }
    let late = FAMILIES.map(|family| site.open(family, FLOWS));
    assert_alive("changed", loads.iter().chain(&late));
    // Flows from before the change are in transition on both nodes and can move as well.
    lab.route_vips_via(0).unwrap();
    assert_alive("back on the first node", &loads);
    drop((loads, late));
    site.check_health();
}
