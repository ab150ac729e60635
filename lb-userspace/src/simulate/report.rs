//! What came of a simulation.

use std::{collections::BTreeMap, fmt};

use lb_common::reason::REASONS;
use serde::Serialize;

use lb_daemon::reconciler::MemberShare;
use lb_dataplane::{Dataplane, DataplaneError};

/// How many packets met which fate, by XDP's verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// Sent out of the interface that they came in by.
    pub tx: u64,
    /// Sent out of another.
    pub redirect: u64,
    /// Left to the host.
    pub pass: u64,
    /// Dropped.
    pub drop: u64,
    /// The program failed. Never.
    pub aborted: u64,
}

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

impl Verdicts {
    pub(super) const fn count(&mut self, verdict: u32) {
        match verdict {
            TX => self.tx += 1,
            REDIRECT => self.redirect += 1,
            PASS => self.pass += 1,
            DROP => self.drop += 1,
            _ => self.aborted += 1,
        }
    }
}

/// Name of a verdict.
pub(super) const fn verdict_name(verdict: u32) -> &'static str {
    match verdict {
        TX => "tx",
        REDIRECT => "redirect",
        PASS => "pass",
        DROP => "drop",
        _ => "aborted",
    }
}

/// Whether a verdict puts the packet on a wire.
pub(super) const fn is_sent(verdict: u32) -> bool {
    matches!(verdict, TX | REDIRECT)
}

/// Packets by reason; those that no packet had are left out.
pub(super) fn reasons(
    dataplane: &Dataplane,
) -> Result<BTreeMap<&'static str, u64>, DataplaneError> {
    let counts = dataplane.counters.node()?.reasons;
    let counted = REASONS.iter().zip(counts).filter(|(_, count)| *count > 0);
    Ok(counted
        .map(|(reason, count)| (reason.name, count))
        .collect())
}

/// Tracked flows, and sessions of `nat`, which have two entries each.
pub(super) fn tracked_flows(dataplane: &Dataplane) -> Result<u64, DataplaneError> {
    let sessions = dataplane.sessions.count()?;
    let entries = sessions.flows + sessions.embryonic;
    Ok((dataplane.tracking.count() + entries.div_ceil(2)) as u64)
}

/// The result of a simulation. Its JSON form is part of the outside surface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Packets that were run.
    pub packets: u64,
    /// By verdict.
    pub verdicts: Verdicts,
    /// By reason.
    pub reasons: BTreeMap<&'static str, u64>,
    /// What each member got.
    pub members: Vec<MemberShare>,
    /// Flows that have an entry: in the tracking table, or a session of `nat`.
    pub tracked_flows: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdicts {
            tx,
            redirect,
            pass,
            drop,
            aborted,
        } = self.verdicts;
        writeln!(
            f,
            "{} packets: {tx} tx, {redirect} redirect, {pass} pass, {drop} drop, {aborted} aborted; \
             {} tracked flows\n",
            self.packets, self.tracked_flows
        )?;
        for (name, count) in &self.reasons {
            writeln!(f, "  {name:<22}{count:>12}")?;
        }
        let width = |text: fn(&MemberShare) -> &str, title: &str| {
            let widths = self
                .members
                .iter()
                .map(|member| text(member).chars().count());
            widths.max().unwrap_or(0).max(title.len())
        };
        let vip_width = width(|member| &member.vip, "VIP");
        let backend_width = width(|member| &member.backend, "backend");
        writeln!(
            f,
            "\n{:<vip_width$}  {:<backend_width$}  {:>10}  {:>12}  {:>10}  {:>9}  {:>9}  {:>9}",
            "VIP", "backend", "packets", "bytes", "new flows", "intended", "table", "observed"
        )?;
        for member in &self.members {
            writeln!(
                f,
                "{:<vip_width$}  {:<backend_width$}  {:>10}  {:>12}  {:>10}  {:>7.3} %  {:>7.3} %  {:>7.3} %",
                member.vip,
                member.backend,
                member.packets,
                member.bytes,
                member.new_flows,
                100.0 * member.intended_share,
                100.0 * member.table_share,
                100.0 * member.observed_share,
            )?;
        }
        Ok(())
    }
}
