//! Collects what the sources of each VIP send, in windows of ten seconds, from the sampled flows.
//!
//! Memory: a window keeps the 64 busiest sources of a VIP by new flows, and the 64 by packets; fewer if
//! there are more than 16 VIPs, so that a node keeps at most 4,096 sources per window. A source takes 24
//! bytes: 1.1 MB per VIP and hour, 35 MB per node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    hash::is_sampled,
    ip_of, proto,
    sample::{FlowKey, FlowSample, MAX_ADDED_PER_S},
};

use super::{histories::Histories, sampling::Sampling};
use crate::{
    reconciler::{ServiceId, VipReport, reported},
    traffic::{Totals, Traffic},
};
use lb_model::{
    config,
    sources::{Counts, SourceHistory, SourceRates, WINDOW_S, Window, source_of},
};

/// Sources kept per window and measure: of all VIPs together, and of one.
const KEPT_OF_NODE: usize = 1024;
const KEPT_OF_VIP: usize = 64;
/// Ticks come a little early or late.
const TOLERANCE_S: f64 = 0.5;

/// What a sampled flow did between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delta {
    vip: u16,
    hash: u32,
    source: u64,
    new_flows: u32,
    packets: u32,
}

impl Delta {
    /// `syns` and `packets` are those since the last reading; `is_new`: the flow was not there.
    pub(super) fn new(
        key: &FlowKey,
        flow: &FlowSample,
        syns: u32,
        packets: u64,
        is_new: bool,
    ) -> Self {
        let new_flows = if key.protocol == proto::TCP {
            syns
        } else {
            is_new.into()
        };
        Self {
            vip: flow.vip,
            hash: flow.hash,
            source: source_of(ip_of(&key.source, key.family)),
            new_flows,
            packets: u32::try_from(packets).unwrap_or(u32::MAX),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct SourceMonitor {
    histories: Histories,
    open: Option<OpenWindow>,
    /// When the first window began: rates of the VIPs are over shorter times before.
    started_s: Option<f64>,
}

/// The window that has not ended.
#[derive(Debug, Default)]
struct OpenWindow {
    began_s: f64,
    /// The same in the data path's seconds.
    began: u64,
    deltas: Vec<Delta>,
    is_overrun: bool,
    vips: BTreeMap<ServiceId, OpenVip>,
}

#[derive(Clone, Copy, Debug)]
struct OpenVip {
    index: u16,
    /// At the beginning.
    totals: Totals,
    peak: SourceRates,
}

/// Time of a reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Seconds since the monitor was started.
    pub(super) at_s: f64,
    /// The data path's seconds.
    pub(super) now: u64,
}

impl SourceMonitor {
    pub(super) fn new(histories: Histories) -> Self {
        Self {
            histories,
            ..Self::default()
        }
    }

    /// Takes what the sampled flows did since the last reading, of which `begun` were added to the map
    /// in the last second.
    pub(super) fn take(
        &mut self,
        moment: Moment,
        deltas: &[Delta],
        begun: u64,
        (vips, report): (&[config::Vip], &[VipReport]),
        sampling: &Sampling,
        traffic: &Traffic,
    ) {
        let started_s = *self.started_s.get_or_insert(moment.at_s);
        if let Some(open) = &mut self.open {
            open.deltas.extend_from_slice(deltas);
            // A CPU may have spent its budget.
            open.is_overrun |= begun >= MAX_ADDED_PER_S;
            if moment.at_s - started_s > WINDOW_S - TOLERANCE_S {
                open.note_peaks(vips, traffic);
            }
        }
        let is_over = |open: &OpenWindow| moment.at_s - open.began_s > WINDOW_S - TOLERANCE_S;
        if self.open.as_ref().is_none_or(is_over) {
            let next = OpenWindow::begin(moment, vips, report, traffic);
            if let Some(ended) = self.open.replace(next) {
                self.end(ended, moment, vips, report, sampling, traffic);
            }
        }
    }

    fn end(
        &self,
        mut ended: OpenWindow,
        moment: Moment,
        vips: &[config::Vip],
        report: &[VipReport],
        sampling: &Sampling,
        traffic: &Traffic,
    ) {
        let seconds = moment.at_s - ended.began_s;
        // All VIPs without traffic share one window.
        let idle = Arc::new(Window {
            seconds,
            ..Window::default()
        });
        let kept = (KEPT_OF_NODE / vips.len().max(1)).clamp(2, KEPT_OF_VIP);
        ended
            .deltas
            .sort_unstable_by_key(|delta| (delta.vip, delta.source, delta.hash));
        let mut histories = self.histories.lock_sources();
        histories.retain(|service, _| vips.iter().any(|vip| ServiceId::of(vip) == *service));
        for (vip, vip_report) in reported(vips, report) {
            let service = ServiceId::of(vip);
            let begun = ended.vips.get(&service);
            let Some(begun) = begun.filter(|begun| begun.index == vip_report.index) else {
                continue;
            };
            let totals = traffic
                .vip(&vip.name)
                .map_or(begun.totals, |vip| vip.totals);
            let packets = totals.packets.saturating_sub(begun.totals.packets);
            let history = histories.entry(service);
            let history = history.or_insert_with(|| SourceHistory::new(vip.address));
            if packets == 0 {
                history.push(Arc::clone(&idle));
                continue;
            }
            let mask = sampling.coarsest(begun.index, ended.began);
            let (sources, is_cut) = busiest(ended.deltas_of(begun.index), mask, kept);
            history.push(Arc::new(Window {
                seconds,
                mask,
                new_flows: totals.new_flows.saturating_sub(begun.totals.new_flows),
                packets,
                peak: begun.peak,
                sources,
                is_cut,
                is_overrun: ended.is_overrun,
            }));
        }
    }
}

impl OpenWindow {
    fn begin(
        moment: Moment,
        vips: &[config::Vip],
        report: &[VipReport],
        traffic: &Traffic,
    ) -> Self {
        let vips = reported(vips, report).map(|(vip, report)| {
            let counted = traffic.vip(&vip.name);
            let open = OpenVip {
                index: report.index,
                totals: counted.map_or(Totals::default(), |counted| counted.totals),
                peak: SourceRates::default(),
            };
            (ServiceId::of(vip), open)
        });
        Self {
            began_s: moment.at_s,
            began: moment.now,
            vips: vips.collect(),
            ..Self::default()
        }
    }

    fn note_peaks(&mut self, vips: &[config::Vip], traffic: &Traffic) {
        for vip in vips {
            let open = self.vips.get_mut(&ServiceId::of(vip));
            if let (Some(open), Some(counted)) = (open, traffic.vip(&vip.name)) {
                let (peak, rates) = (&mut open.peak, counted.rates);
                peak.new_flows = peak.new_flows.max(rates.new_flows_per_s);
                peak.packets = peak.packets.max(rates.packets_per_s);
            }
        }
    }

    /// Those of a VIP; `deltas` is sorted.
    fn deltas_of(&self, vip: u16) -> &[Delta] {
        let first = self.deltas.partition_point(|delta| delta.vip < vip);
        let rest = &self.deltas[first..];
        &rest[..rest.partition_point(|delta| delta.vip == vip)]
    }
}

/// The busiest sources of a VIP by each measure, and whether there are more. `deltas` is sorted by source and
/// hash; only flows that `mask` samples are counted.
fn busiest(deltas: &[Delta], mask: u32, kept: usize) -> (Box<[(u64, Counts)]>, bool) {
    let mut sources: Vec<(u64, Counts)> = Vec::new();
    for flow in deltas.chunk_by(|a, b| (a.source, a.hash) == (b.source, b.hash)) {
        let Delta { source, hash, .. } = flow[0];
        if !is_sampled(hash.into(), mask) {
            continue;
        }
        let sum = |part: fn(&Delta) -> u32| flow.iter().map(part).fold(0, u32::saturating_add);
        let (new_flows, packets) = (sum(|delta| delta.new_flows), sum(|delta| delta.packets));
        let counts = Counts {
            new_flows,
            opened: (new_flows > 0).into(),
            packets,
            flows: (packets > 0).into(),
        };
        match sources.last_mut() {
            Some((last, all)) if *last == source => all.add(&counts),
            _ => sources.push((source, counts)),
        }
    }
    if sources.len() <= kept {
        return (sources.into(), false);
    }
    let mut chosen = BTreeSet::new();
    for measure in [
        |counts: &Counts| counts.new_flows,
        |counts: &Counts| counts.packets,
    ] {
        sources.select_nth_unstable_by_key(kept, |(source, counts)| {
            (std::cmp::Reverse(measure(counts)), *source)
        });
        chosen.extend(sources[..kept].iter().map(|(source, _)| *source));
    }
    let is_cut = chosen.len() < sources.len();
    sources.retain(|(source, _)| chosen.contains(source));
    sources.sort_unstable_by_key(|(source, _)| *source);
    (sources.into(), is_cut)
}
