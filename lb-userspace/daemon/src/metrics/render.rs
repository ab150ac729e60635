//! Renders a snapshot as the page.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lb_common::{
    counters::{MemberCounters, VipCounters},
    limit::LimitCounters,
    reason::REASONS,
};

use lb_dataplane::{Overfull, Spills};
use lb_model::config::BoundFactor;

use super::{
    Snapshot, announce,
    family::{self, *},
    fleet,
    page::{Labels, Page, Samples, labels},
    process, sources,
};
use crate::{
    node::{BoundUse, FileState, MemberPhase, MemberState, VipState},
    revision::RevisionState,
    traffic::{MemberTotals, VipTotals},
};

/// Approximate size of a sample.
const SAMPLE_BYTES: usize = 90;

#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let vips = &snapshot.state.vips;
    let members: usize = vips.iter().map(|vip| vip.members.len()).sum();
    let samples = members * 24 + vips.len() * 32 + 200;
    let mut page = Page::with_capacity(samples * SAMPLE_BYTES);
    node(&mut page, snapshot);
    changes(&mut page, snapshot);
    fleet::render(&mut page, snapshot.state.fleet.as_ref());
    maps(&mut page, snapshot);
    alerts(&mut page, snapshot);
    announce::families(&mut page, snapshot);
    sources::families(&mut page, snapshot);
    usage(&mut page);
    self::vips(&mut page, snapshot);
    vip_counters(&mut page, snapshot);
    self::members(&mut page, snapshot);
    member_counters(&mut page, snapshot);
    page.into_text()
}

pub(super) fn flag(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

fn node(page: &mut Page, snapshot: &Snapshot) {
    let state = &snapshot.state;
    let node = &state.node;
    page.family(BUILD_INFO, |s| s.add(&[node.version], 1.0));
    page.single(START_TIME, seconds(node.started_at));
    page.single(STATUS_TIME, seconds(state.at));
    page.single(ADOPTED, flag(node.adopted));
    page.single(PROGRAM_ID, node.program_id.into());
    page.family(INTERFACE_INFO, |s| {
        for interface in &node.interfaces {
            s.add(&[&interface.name, interface.mode.as_str()], 1.0);
        }
    });
    page.family(INTERFACE_OK, |s| {
        for interface in &node.interfaces {
            let is_ours = interface.program_id == Some(node.program_id);
            s.add(&[&interface.name], flag(is_ours));
        }
    });
    page.family(PACKETS, |s| {
        for reason in REASONS {
            let fate = format!("{:?}", reason.fate).to_lowercase();
            let count = state.reasons.get(reason.name).copied().unwrap_or(0);
            s.add(&[&fate, reason.name], count as f64);
        }
    });
}

fn changes(page: &mut Page, snapshot: &Snapshot) {
    if let Some(revision) = &snapshot.state.revision {
        let is_pending = matches!(
            revision.state,
            RevisionState::Applying
                | RevisionState::Baking { .. }
                | RevisionState::AwaitingConfirm { .. }
        );
        page.single(REVISION, revision.number as f64);
        page.single(REVISION_TIME, seconds(revision.at));
        page.single(REVISION_PENDING, flag(is_pending));
    }
    page.family(CONFIG_FILE, |s| {
        let current = snapshot.state.file.state.as_str();
        for state in FileState::NAMES {
            s.add(&[state], flag(state == current));
        }
    });
    let facts = &snapshot.facts;
    page.family(CHANGES, |s| {
        let changes = &facts.changes;
        for (result, count) in [
            ("applied", changes.applied),
            ("unchanged", changes.unchanged),
            ("refused", changes.refused),
            ("invalid", changes.invalid),
            ("rolled_back", changes.rolled_back),
            ("failed", changes.failed),
        ] {
            s.add(&[result], count as f64);
        }
    });
    page.single(RING_BUILDS, facts.ring_builds as f64);
    page.single(RING_BUILD_SECONDS, facts.ring_build_seconds);
    page.single(HEALTH_SWAPS, facts.reactions.count as f64);
    page.single(HEALTH_SWAP_SECONDS, facts.reactions.seconds);
    page.single(HEALTH_SWAP_SLOWEST, facts.reactions.slowest);
}

fn maps(page: &mut Page, snapshot: &Snapshot) {
    let maps = &snapshot.facts.maps;
    page.family(MAP_ENTRIES, |s| {
        for map in maps {
            add_some(s, &[&map.name], map.entries.map(|entries| entries as f64));
        }
    });
    page.family(MAP_MAX_ENTRIES, |s| {
        for map in maps {
            s.add(&[&map.name], map.max_entries as f64);
        }
    });
    page.family(MAP_BYTES, |s| {
        for map in maps {
            add_some(s, &[&map.name], map.bytes.map(|bytes| bytes as f64));
        }
    });
}

pub(super) fn add_some(samples: &mut Samples, labels: &[&str], value: Option<f64>) {
    if let Some(value) = value {
        samples.add(labels, value);
    }
}

fn alerts(page: &mut Page, snapshot: &Snapshot) {
    page.family(ALERTS, |s| {
        for firing in &snapshot.firing {
            let severity = firing.severity.as_str();
            s.add(&[&firing.kind, severity], firing.count as f64);
        }
    });
    page.single(ALERTS_REFUSED, snapshot.refused as f64);
    // Two webhooks of one host differ in their paths, which may be secret: their counts are added up.
    let names: BTreeSet<&str> = snapshot.receivers.iter().map(|r| &*r.receiver).collect();
    let sum = |name: &str, count: fn(&crate::alerts::ReceiverCounts) -> u64| {
        let same = snapshot.receivers.iter().filter(|r| r.receiver == name);
        same.map(count).sum::<u64>() as f64
    };
    page.family(NOTIFICATIONS, |s| {
        for name in &names {
            s.add(&[name, "sent"], sum(name, |r| r.sent));
            s.add(&[name, "failed"], sum(name, |r| r.failed));
        }
    });
    page.family(SUPERSEDED, |s| {
        for name in &names {
            s.add(&[name], sum(name, |r| r.superseded));
        }
    });
}

fn usage(page: &mut Page) {
    if let Some(usage) = process::usage() {
        page.single(CPU_SECONDS, usage.cpu_seconds);
        page.single(MEMORY, usage.memory_bytes);
        page.single(OPEN_FDS, usage.open_files);
    }
}

fn vips(page: &mut Page, snapshot: &Snapshot) {
    let vips = &snapshot.state.vips;
    let mut each = |family: &'static family::Family, value: &dyn Fn(&VipState) -> Option<f64>| {
        page.family(family, |s| {
            for vip in vips {
                add_some(s, &[&vip.name], value(vip));
            }
        });
    };
    let peak = |vip: &VipState| {
        let totals = snapshot.totals.vips.get(vip.name.as_str());
        totals.map(|totals| totals.peak_new_flows_per_s)
    };
    each(VIP_RATE, &|vip| Some(vip.rates.new_flows_per_s));
    each(VIP_PEAK, &peak);
    each(VIP_CAPACITY, &|vip| Some(vip.capacity()?.eligible_capacity));
    each(VIP_UTILISATION, &|vip| Some(vip.capacity()?.utilisation));
    each(VIP_TARGET, &|vip| Some(vip.target_utilisation));
    each(VIP_HEADROOM, &|vip| {
        Some(vip.capacity()?.headroom_after_failure)
    });
    each(VIP_WANTED, &|vip| {
        Some(vip.capacity()?.wanted_backends.into())
    });
    each(VIP_ELIGIBLE, &|vip| {
        let eligible = vip.members.iter().filter(|member| member.is_eligible());
        Some(eligible.count() as f64)
    });
    each(VIP_PANIC, &|vip| Some(flag(vip.panic)));
    each(VIP_SLOTS, &|vip| Some(vip.ring.total.into()));
    each(VIP_TRANSITION, &|vip| Some(vip.ring.in_transition.into()));
    each(VIP_SETTLING, &|vip| Some(vip.ring.settling.into()));
    each(VIP_TRACKED, &|vip| Some(vip.tracked_flows as f64));
    vip_labels(page, vips);
}

/// Families with additional labels.
fn vip_labels(page: &mut Page, vips: &[VipState]) {
    page.family(VIP_INFO, |s| {
        for vip in vips {
            let (address, port) = (vip.address.to_string(), vip.port.to_string());
            let protocol = vip.protocol.to_string();
            let labels = [&*address, vip.forward_name(), &port, &protocol, &vip.name];
            s.add(&labels, 1.0);
        }
    });
    page.family(VIP_BACKENDS, |s| {
        for vip in vips {
            for phase in MemberPhase::ALL {
                let members = vip.members.iter().filter(|member| member.phase == phase);
                s.add(&[phase.as_str(), &vip.name], members.count() as f64);
            }
        }
    });
}

fn vip_counters(page: &mut Page, snapshot: &Snapshot) {
    let vips = &snapshot.state.vips;
    let mut each = |family, value: fn(&VipTotals) -> u64| {
        page.family(family, |s| {
            for vip in vips {
                let totals = snapshot.totals.vips.get(vip.name.as_str());
                add_some(s, &[&vip.name], totals.map(|totals| value(totals) as f64));
            }
        });
    };
    // Destructured, so that a new counter can't be forgotten.
    let VipCounters {
        track_hits: _,
        track_misses: _,
        track_inserts: _,
        track_full: _,
        no_member: _,
        nat_sessions: _,
        nat_no_port: _,
        nat_reused: _,
    } = bytemuck::Zeroable::zeroed();
    each(VIP_PACKETS, |vip| vip.totals.packets);
    each(VIP_BYTES, |vip| vip.totals.bytes);
    each(VIP_NEW_FLOWS, |vip| vip.totals.new_flows);
    each(VIP_HITS, |vip| vip.counters.track_hits);
    each(VIP_MISSES, |vip| vip.counters.track_misses);
    each(VIP_INSERTS, |vip| vip.counters.track_inserts);
    each(VIP_FULL, |vip| vip.counters.track_full);
    each(VIP_NO_MEMBER, |vip| vip.counters.no_member);
    each(VIP_NAT_SESSIONS, |vip| vip.counters.nat_sessions);
    each(VIP_NAT_NO_PORT, |vip| vip.counters.nat_no_port);
    each(VIP_NAT_REUSED, |vip| vip.counters.nat_reused);
    limit_counters(page, snapshot);
    bounds(page, snapshot);
}

/// The counters of VIPs with limits.
fn limit_counters(page: &mut Page, snapshot: &Snapshot) {
    let vips = snapshot.state.vips.iter();
    let limited: Vec<(&str, &LimitCounters)> = vips
        .filter(|vip| vip.limit.is_some())
        .filter_map(|vip| Some((&*vip.name, &snapshot.totals.vips.get(&*vip.name)?.limits)))
        .collect();
    // Destructured, so that a new counter can't be forgotten.
    let LimitCounters {
        source_flows: _,
        source_packets: _,
        vip_flows: _,
        vip_packets: _,
        denied: _,
        exempted: _,
        first_syns: _,
        second_syns: _,
        evicted: _,
        drawn: _,
    } = bytemuck::Zeroable::zeroed();
    page.family(VIP_LIMITED, |s| {
        for (vip, limits) in &limited {
            for (limit, packets) in [
                ("source_new_flows", limits.source_flows),
                ("source_packets", limits.source_packets),
                ("new_flows", limits.vip_flows),
                ("packets", limits.vip_packets),
            ] {
                s.add(&[limit, vip], packets as f64);
            }
        }
    });
    let mut each = |family, count: fn(&LimitCounters) -> u64| {
        page.family(family, |s| {
            for (vip, limits) in &limited {
                s.add(&[vip], count(limits) as f64);
            }
        });
    };
    each(VIP_DENIED, |limits| limits.denied);
    each(VIP_EXEMPTED, |limits| limits.exempted);
    each(VIP_FIRST_SYNS, |limits| limits.first_syns);
    each(VIP_SECOND_SYNS, |limits| limits.second_syns);
    each(VIP_EVICTED, |limits| limits.evicted);
}

/// The metrics of VIPs with bounds.
fn bounds(page: &mut Page, snapshot: &Snapshot) {
    let vips = snapshot.state.vips.iter();
    let bounded: Vec<(&str, &BoundUse, &VipTotals)> = vips
        .filter_map(|vip| {
            let totals = snapshot.totals.vips.get(&*vip.name)?;
            Some((&*vip.name, vip.bound.as_ref()?, totals))
        })
        .collect();
    page.family(VIP_BOUND_FACTOR, |s| {
        for (vip, used, _) in &bounded {
            add_some(s, &[vip], used.bound.factor.map(BoundFactor::as_f64));
        }
    });
    page.family(VIP_UNPLACED, |s| {
        for (vip, _, totals) in &bounded {
            // Destructured, so that a new counter can't be forgotten.
            let Overfull { all_full, no_room } = totals.overfull;
            s.add(&["all_full", vip], all_full as f64);
            s.add(&["no_room", vip], no_room as f64);
        }
    });
    let mut each = |family, count: fn(&Spills) -> u64| {
        page.family(family, |s| {
            for (vip, _, totals) in &bounded {
                for (backend, totals) in &totals.members {
                    s.add(&[backend, vip], count(&totals.spills) as f64);
                }
            }
        });
    };
    let Spills {
        spilled: _,
        received: _,
    } = Spills::default();
    each(BACKEND_SPILLED, |spills| spills.spilled);
    each(BACKEND_RECEIVED, |spills| spills.received);
}

/// The members of a VIP, each name once: a leaving member with the name of a configured one is omitted.
fn named_once(vip: &VipState) -> Vec<&MemberState> {
    let mut seen = BTreeSet::new();
    let members = vip.members.iter();
    members
        .filter(|member| seen.insert(&*member.backend))
        .collect()
}

/// Label names of all member families.
const MEMBER_LABELS: &[&str] = MEMBER_PACKETS.labels;

fn members(page: &mut Page, snapshot: &Snapshot) {
    let rows = snapshot.state.vips.iter().flat_map(|vip| {
        let members = named_once(vip).into_iter();
        members.map(|member| (labels(MEMBER_LABELS, &[&member.backend, &vip.name]), member))
    });
    let mut rows: Vec<(Labels, &MemberState)> = rows.collect();
    let mut each = |family, value: fn(&MemberState) -> Option<f64>| {
        page.rows(family, &mut rows, |member| value(member));
    };
    each(MEMBER_STATE, |member| {
        Some(match member.phase {
            MemberPhase::Down => 0.0,
            MemberPhase::Up => 1.0,
            MemberPhase::Draining => 2.0,
            MemberPhase::Disabled => 3.0,
            MemberPhase::Leaving => 4.0,
        })
    });
    each(MEMBER_ELIGIBLE, |member| Some(flag(member.is_eligible())));
    each(MEMBER_WEIGHT, |member| Some(member.weight.into()));
    each(MEMBER_EFFECTIVE, |member| {
        Some(member.effective_weight.into())
    });
    each(MEMBER_INTENDED, |member| Some(member.intended_share));
    each(MEMBER_TABLE, |member| Some(member.table_share));
    each(MEMBER_OBSERVED, |member| member.observed_share);
    each(MEMBER_CAPACITY, |member| member.capacity.map(f64::from));
    each(MEMBER_RATE, |member| Some(member.rates.new_flows_per_s));
    each(MEMBER_TRACKED, |member| Some(member.tracked_flows as f64));
    each(MEMBER_PORTS_IN_USE, |member| {
        Some(member.nat_ports?.in_use.into())
    });
    each(MEMBER_PORTS, |member| Some(member.nat_ports?.total.into()));
    each(MEMBER_HEALTHY, |member| {
        Some(flag(member.health.as_ref()?.healthy))
    });
    each(MEMBER_LATENCY, |member| {
        Some(member.health.as_ref()?.latency?.as_secs_f64())
    });
    each(MEMBER_DAMPED, |member| {
        Some(flag(member.health.as_ref()?.damped))
    });
    each(MEMBER_ROUTE, |member| {
        Some(flag(member.route_problem.is_none()))
    });
}

fn member_counters(page: &mut Page, snapshot: &Snapshot) {
    let rows = snapshot.state.vips.iter().flat_map(|vip| {
        let totals = snapshot.totals.vips.get(vip.name.as_str());
        let members = totals.into_iter().flat_map(|totals| &totals.members);
        members.map(|(backend, totals)| (labels(MEMBER_LABELS, &[backend, &vip.name]), totals))
    });
    let mut rows: Vec<(Labels, &MemberTotals)> = rows.collect();
    let mut each = |family, value: fn(&MemberCounters) -> u64| {
        page.rows(family, &mut rows, |totals| {
            Some(value(&totals.counters) as f64)
        });
    };
    // Destructured, so that a new counter can't be forgotten.
    let MemberCounters {
        packets: _,
        bytes: _,
        new_flows: _,
        resets: _,
        kept: _,
        icmp_errors: _,
        reply_packets: _,
        reply_bytes: _,
    } = bytemuck::Zeroable::zeroed();
    each(MEMBER_PACKETS, |counters| counters.packets);
    each(MEMBER_BYTES, |counters| counters.bytes);
    each(MEMBER_NEW_FLOWS, |counters| counters.new_flows);
    each(MEMBER_RESETS, |counters| counters.resets);
    each(MEMBER_KEPT, |counters| counters.kept);
    each(MEMBER_ICMP, |counters| counters.icmp_errors);
    each(MEMBER_REPLY_PACKETS, |counters| counters.reply_packets);
    each(MEMBER_REPLY_BYTES, |counters| counters.reply_bytes);
}
