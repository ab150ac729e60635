//! The backends of a VIP, by EndpointSlices and nodes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::Node,
    discovery::v1::{Endpoint, EndpointSlice},
};
use lb_api::{MemberIntent, NewMember};

use crate::service::{Family, Forward, Port, Wanted};

/// The label of an EndpointSlice with the name of its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of nodes that no load balancer is to use.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint of nodes that the cluster's autoscaler removes.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Largest weight of a backend.
const LARGEST_WEIGHT: u32 = 65_535;

/// Returns the backends of a port, sorted; none if nothing is known of them, which is no reason to remove any: a
/// Service with a selector has an EndpointSlice of each family even when no pod matches, and while a port is renamed,
/// its slices follow later.
#[must_use]
pub fn members(
    wanted: &Wanted,
    port: &Port,
    family: Family,
    slices: &[Arc<EndpointSlice>],
    nodes: &[Arc<Node>],
) -> Option<Vec<NewMember>> {
    let is_pods = wanted.forward == Forward::Nat;
    let relevant = (slices.iter()).filter(|it| !is_pods || it.address_type == family.name());
    let relevant: Vec<_> = relevant.collect();
    let of_port: Vec<OfPort<'_>> = (relevant.iter())
        .filter_map(|slice| Some((*slice, number(slice, port)?)))
        .collect();
    let has_endpoints = relevant.iter().any(|slice| !slice.endpoints.is_empty());
    if relevant.is_empty() || (of_port.is_empty() && has_endpoints) {
        return None;
    }
    if is_pods {
        return Some(pods(&of_port));
    }
    if nodes.is_empty() {
        return None;
    }
    if wanted.local {
        let counts = nodes_with_endpoints(&of_port);
        let count = |node: &str| counts.get(node).copied();
        return Some(of_nodes(wanted.forward, family, nodes, count));
    }
    let all = |_: &str| Some(Count::default());
    Some(of_nodes(wanted.forward, family, nodes, all))
}

/// Number of the port in a slice; none if it has no such port.
fn number(slice: &EndpointSlice, port: &Port) -> Option<u16> {
    let mut ports = slice.ports.iter().flatten();
    let of_port = ports.find(|it| {
        let protocol = it.protocol.as_deref().unwrap_or("TCP");
        it.name.as_deref().unwrap_or_default() == port.name
            && protocol.eq_ignore_ascii_case(port.protocol)
    })?;
    u16::try_from(of_port.port?).ok()
}

/// What an endpoint may get: new connections, only those that it has, or nothing.
fn state(endpoint: &Endpoint) -> Option<MemberIntent> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // What is not said counts as ready (API of EndpointSlice).
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (serving, conditions.terminating.unwrap_or(false)) {
        // `publishNotReadyAddresses` makes terminating pods ready as well.
        (_, true) if serving || ready => Some(MemberIntent::Drain),
        (_, false) if serving || ready => Some(MemberIntent::Up),
        _ => None,
    }
}

type OfPort<'a> = (&'a Arc<EndpointSlice>, u16);

fn pods(slices: &[OfPort<'_>]) -> Vec<NewMember> {
    let mut found: BTreeMap<(IpAddr, u16), MemberIntent> = BTreeMap::new();
    for (slice, port) in slices {
        for endpoint in &slice.endpoints {
            // Of several addresses of an endpoint, only the first counts (API of EndpointSlice).
            let address = endpoint.addresses.first().and_then(|it| it.parse().ok());
            let (Some(address), Some(state)) = (address, state(endpoint)) else {
                continue;
            };
            // While an endpoint moves from one slice to another, it is in both.
            let known = found.entry((address, *port)).or_insert(state);
            if state == MemberIntent::Up {
                *known = state;
            }
        }
    }
    let members = found.into_iter().map(|((address, port), state)| NewMember {
        name: None,
        address,
        port: Some(port),
        weight: None,
        state,
    });
    members.collect()
}

/// Endpoints of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    up: u32,
    drain: u32,
}

/// Endpoints of both families are the same pods: those of one slice type are counted.
fn nodes_with_endpoints(slices: &[OfPort<'_>]) -> BTreeMap<String, Count> {
    let first = slices.iter().map(|(slice, _)| &slice.address_type).min();
    let mut found: BTreeMap<(String, String), MemberIntent> = BTreeMap::new();
    for (slice, _) in (slices.iter()).filter(|(slice, _)| Some(&slice.address_type) == first) {
        for endpoint in &slice.endpoints {
            let address = endpoint.addresses.first();
            let (Some(node), Some(address), Some(state)) =
                (&endpoint.node_name, address, state(endpoint))
            else {
                continue;
            };
            let known = found
                .entry((node.clone(), address.clone()))
                .or_insert(state);
            if state == MemberIntent::Up {
                *known = state;
            }
        }
    }
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for ((node, _), state) in found {
        let count = counts.entry(node).or_default();
        match state {
            MemberIntent::Up => count.up += 1,
            MemberIntent::Drain | MemberIntent::Disabled => count.drain += 1,
        }
    }
    counts
}

/// The nodes that `of` has a count for. One without endpoints that are up is drained; a count of nothing is that
/// of nodes which need no endpoints.
fn of_nodes(
    forward: Forward,
    family: Family,
    nodes: &[Arc<Node>],
    of: impl Fn(&str) -> Option<Count>,
) -> Vec<NewMember> {
    let mut members: Vec<(NewMember, bool)> = (nodes.iter())
        .filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            let count = of(name)?;
            let labels = node.metadata.labels.as_ref();
            if labels.is_some_and(|labels| labels.contains_key(EXCLUDED)) {
                return None;
            }
            let needs_endpoints = count != Count::default();
            let is_leaving = is_to_be_deleted(node) || (needs_endpoints && count.up == 0);
            let is_cautious = is_cordoned(node) || (!needs_endpoints && !is_ready(node));
            let member = NewMember {
                name: node_name(name),
                address: node_address(node, forward, family)?,
                port: None,
                weight: needs_endpoints.then(|| count.up.clamp(1, LARGEST_WEIGHT)),
                state: match is_leaving || is_cautious {
                    true => MemberIntent::Drain,
                    false => MemberIntent::Up,
                },
            };
            Some((member, is_leaving))
        })
        .collect();
    members.sort_by_key(|(member, _)| member.address);
    // Two nodes can't be told apart by one address.
    members.dedup_by_key(|(member, _)| member.address);
    // A control plane that has lost sight of all nodes, or a cluster that is cordoned, is no reason to serve nobody.
    if (members.iter()).all(|(member, _)| member.state != MemberIntent::Up) {
        let cautious = members.iter_mut().filter(|(_, is_leaving)| !is_leaving);
        cautious.for_each(|(member, _)| member.state = MemberIntent::Up);
    }
    members.into_iter().map(|(member, _)| member).collect()
}

/// A name of a node, if it can be one of a backend.
fn node_name(name: &str) -> Option<String> {
    (name.len() <= 63).then(|| name.to_owned())
}

fn is_cordoned(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.is_some_and(|spec| spec.unschedulable == Some(true))
}

/// Whether the cluster's autoscaler is about to remove the node.
fn is_to_be_deleted(node: &Node) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
}

fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .and_then(|it| it.conditions.as_deref())
        .unwrap_or_default()
        .iter();
    conditions.any(|it| it.type_ == "Ready" && it.status == "True")
}

/// The first internal address of the family; for `ipip` one of the other family will do.
fn node_address(node: &Node, forward: Forward, family: Family) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    let internal = addresses.iter().filter(|it| it.type_ == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|it| it.address.parse().ok()).collect();
    let of_family = internal.iter().find(|it| Family::of(it) == family);
    let any = internal.first().filter(|_| forward == Forward::Ipip);
    of_family.or(any).copied()
}
