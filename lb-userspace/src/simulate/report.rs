//! Report of a simulation.

use std::{collections::BTreeMap, fmt};

use lb_common::reason::REASONS;
use serde::Serialize;

use lb_daemon::reconciler::MemberShare;
use lb_dataplane::{Dataplane, DataplaneError};

/// Numbers of packets by XDP verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// Transmitted on the receiving interface.
    pub tx: u64,
    /// Redirected to another interface.
    pub redirect: u64,
    /// Passed to the host.
    pub pass: u64,
    pub drop: u64,
    /// The program failed. Expected: 0.
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

pub(super) const fn verdict_name(verdict: u32) -> &'static str {
    match verdict {
        TX => "tx",
        REDIRECT => "redirect",
        PASS => "pass",
        DROP => "drop",
        _ => "aborted",
    }
}

/// Whether a verdict transmits the packet.
pub(super) const fn is_transmitted(verdict: u32) -> bool {
    matches!(verdict, TX | REDIRECT)
}

/// Packets by reason, without zeros.
pub(super) fn reasons(
    dataplane: &Dataplane,
) -> Result<BTreeMap<&'static str, u64>, DataplaneError> {
    let counts = dataplane.counters.node()?.reasons;
    let counted = REASONS.iter().zip(counts).filter(|(_, count)| *count > 0);
    Ok(counted
        .map(|(reason, count)| (reason.name, count))
        .collect())
}

/// Tracked flows, including `nat` sessions: two entries each, but one while embryonic.
pub(super) fn tracked_flows(dataplane: &Dataplane) -> Result<u64, DataplaneError> {
    let sessions = dataplane.sessions.count()?;
    let sessions = sessions.flows.div_ceil(2) + sessions.embryonic;
    Ok((dataplane.tracking.count() + sessions) as u64)
}

/// The result of a simulation. Its JSON is a public interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub packets: u64,
    pub verdicts: Verdicts,
    pub reasons: BTreeMap<&'static str, u64>,
    pub members: Vec<MemberShare>,
    /// Entries in the tracking table and `nat` sessions.
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
        write!(
            f,
            "\n{:<vip_width$}  {:<backend_width$}  {:>10}  {:>12}  {:>10}  {:>9}  {:>9}  {:>9}",
            "VIP", "backend", "packets", "bytes", "new flows", "intended", "table", "observed"
        )?;
        let has_spilled = self.members.iter().any(|member| member.spilled > 0);
        if has_spilled {
            write!(f, "  {:>10}  {:>10}", "spilled", "received")?;
        }
        writeln!(f)?;
        for member in &self.members {
            write!(
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
            if has_spilled {
                write!(f, "  {:>10}  {:>10}", member.spilled, member.received)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
