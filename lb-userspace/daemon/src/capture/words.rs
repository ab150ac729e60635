//! Names for the numbers in records.

use std::collections::HashMap;

use lb_common::{
    reason::REASONS,
    ring::MemberIndex,
    trace::{NONE, Trace, decision},
};

use crate::reconciler::VipReport;

/// XDP actions, by number.
pub(crate) const VERDICTS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];

/// Names of VIPs and backends by index.
#[derive(Debug, Default)]
pub(super) struct Names {
    vips: HashMap<u16, String>,
    backends: HashMap<MemberIndex, String>,
}

impl Names {
    pub(super) fn of(report: &[VipReport]) -> Self {
        let vips = report.iter().map(|vip| (vip.index, vip.name.clone()));
        let members = report.iter().flat_map(|vip| &vip.members);
        Self {
            vips: vips.collect(),
            backends: members
                .map(|member| (member.index, member.name.clone()))
                .collect(),
        }
    }

    /// What happened to a packet: `tx to api/api-1, counted as FORWARDED; slot 17; chosen by ring;
    /// from eth0`.
    pub(super) fn describe(&self, trace: &Trace, interface: &str) -> String {
        let verdict = VERDICTS.get(trace.verdict as usize).unwrap_or(&"?");
        let reason = REASONS.get(trace.reason as usize).map_or("?", |r| r.name);
        let mut text = (*verdict).to_owned();
        if trace.vip != NONE {
            let vip = self.vips.get(&trace.vip);
            let vip = vip.map_or_else(|| format!("VIP {}", trace.vip), String::clone);
            if trace.member == NONE || trace.member >= NO_BACKEND {
                text += &format!(", VIP {vip}");
            } else {
                let backend = self.backends.get(&trace.member);
                let backend =
                    backend.map_or_else(|| format!("member {}", trace.member), String::clone);
                text += &format!(" to {vip}/{backend}");
            }
        }
        text += &format!(", counted as {reason}");
        // Without a lookup in the ring there is no hash.
        if trace.slot_hash != 0 {
            text += &format!("; slot {}", trace.slot);
        }
        if let Some(decision) = decision_name(trace.decision) {
            text += &format!("; chosen by {decision}");
        }
        text + &format!("; from {interface}")
    }
}

/// Slots without a member have a number above all members.
const NO_BACKEND: u16 = lb_common::ring::MAX_MEMBERS as u16;

/// How the member was found; none if none was looked up.
fn decision_name(number: u32) -> Option<&'static str> {
    Some(match number {
        decision::RING => "ring",
        decision::TRACKED => "tracking entry",
        decision::OPENED => "ring: new flow in a slot in transition",
        decision::PREVIOUS => "previous backend of the slot",
        decision::TAKEN_OVER => "ring: previous backend of the slot is down",
        decision::SESSION => "NAT session",
        decision::FRAGMENT => "first fragment",
        decision::SPILLED => "spilled: the slot's backend is full",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use lb_common::reason::Reason;

    use super::*;

    #[test]
    fn every_decision_has_words() {
        let named = |number| decision_name(number).is_some();
        assert!((decision::RING..=decision::SPILLED).all(named));
        assert!(!named(decision::NOT_MADE) && !named(decision::SPILLED + 1));
    }

    #[test]
    fn describes_what_happened() {
        let names = Names {
            vips: [(3, "api".to_owned())].into(),
            backends: [(5, "api-1".to_owned())].into(),
        };
        let sent = Trace {
            slot_hash: 1,
            reason: Reason::Forwarded as u32,
            verdict: 3,
            slot: 17,
            vip: 3,
            member: 5,
            decision: decision::RING,
            ..Trace::EMPTY
        };
        let dropped = Trace {
            reason: Reason::NoMember as u32,
            verdict: 1,
            vip: 3,
            ..Trace::EMPTY
        };
        let foreign = Trace {
            reason: Reason::NoVip as u32,
            verdict: 2,
            ..Trace::EMPTY
        };
        let unknown = Trace {
            vip: 4,
            member: 6,
            ..sent
        };
        for (trace, expected) in [
            (
                sent,
                "tx to api/api-1, counted as FORWARDED; slot 17; chosen by ring; from eth0",
            ),
            (dropped, "drop, VIP api, counted as NO_MEMBER; from eth0"),
            (foreign, "pass, counted as NO_VIP; from eth0"),
            (
                unknown,
                "tx to VIP 4/member 6, counted as FORWARDED; slot 17; chosen by ring; from eth0",
            ),
        ] {
            assert_eq!(names.describe(&trace, "eth0"), expected);
        }
    }
}
