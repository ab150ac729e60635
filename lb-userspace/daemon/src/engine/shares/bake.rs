//! Shares in the first seconds after a change: a sequential test per member of each changed VIP reports
//! as early as possible that a member gets far too many flows.

use std::collections::BTreeMap;

use super::{ShareMonitor, thresholds};
use crate::{reconciler::VipReport, revision::RevisionNumber, traffic::Traffic};
use lb_model::config::{self, Fraction};
use lb_skew::{AfterChange, ChangedMember, Reference, Verdict};

/// The tests of one change.
#[derive(Debug, Default)]
pub(in crate::engine) struct ShareTrial {
    vips: BTreeMap<String, VipTrial>,
}

#[derive(Debug)]
struct VipTrial {
    test: AfterChange,
    members: Vec<String>,
    shares: Vec<f64>,
    note: &'static str,
}

impl ShareTrial {
    /// Begins the tests of VIPs as they are now, after the change.
    pub(in crate::engine) fn begin(
        number: RevisionNumber,
        vips: &[String],
        monitor: &ShareMonitor,
        config: &config::Config,
        report: &[VipReport],
    ) -> Self {
        let mut trial = Self::default();
        let changed = config.vips.iter().filter(|vip| vips.contains(&vip.name));
        for vip in changed {
            let Some(reported) = report.iter().find(|r| r.name == vip.name) else {
                continue;
            };
            let members = reported.members.iter().filter(|member| !member.leaving);
            let members = members.map(|member| {
                let before = monitor.changes.before(&vip.name, number, &member.name);
                let mut backends = vip.backends.iter();
                let configured = backends.find(|b| b.name == member.name);
                ChangedMember {
                    name: member.name.as_str().into(),
                    table_share: member.table_share,
                    share_before: before.unwrap_or(member.table_share),
                    capacity: configured.and_then(|b| b.capacity).map(f64::from),
                }
            });
            let members: Vec<ChangedMember> = members.collect();
            // A guard that allows everything says nothing about what is normal.
            let cap = vip.guard.max_share.filter(|cap| *cap != Fraction::ALL);
            let allowed = cap.map(Fraction::as_f64);
            let (names, shares) = members
                .iter()
                .map(|member| (member.name.to_string(), member.table_share))
                .unzip();
            let dispersion = monitor.dispersion(&vip.name);
            let test = AfterChange::new(&thresholds(&vip.skew), dispersion, allowed, members);
            let vip_trial = VipTrial {
                test,
                members: names,
                shares,
                note: "not enough new flows yet",
            };
            trial.vips.insert(vip.name.clone(), vip_trial);
        }
        trial
    }

    /// Takes the counters. Returns why the change should be rolled back, if it should.
    pub(in crate::engine) fn judge(
        &mut self,
        report: &[VipReport],
        traffic: &Traffic,
    ) -> Option<String> {
        for (name, vip) in &mut self.vips {
            let Some(reported) = report.iter().find(|r| r.name == *name) else {
                continue;
            };
            if let Some(why) = vip.judge(reported, traffic) {
                return Some(why);
            }
        }
        None
    }

    pub(in crate::engine) fn notes(&self) -> impl Iterator<Item = String> {
        let vips = self.vips.iter();
        vips.map(|(name, vip)| format!("shares of VIP {name}: {}", vip.note))
    }
}

impl VipTrial {
    fn judge(&mut self, report: &VipReport, traffic: &Traffic) -> Option<String> {
        let share = |name: &String| {
            let mut members = report.members.iter().filter(|member| !member.leaving);
            let member = members.find(|member| member.name == *name);
            member.map_or(0.0, |member| member.table_share)
        };
        let shares: Vec<f64> = self.members.iter().map(share).collect();
        if shares != self.shares {
            self.test.table_changed(&shares);
            self.shares = shares;
        }
        let count = |name: &String| traffic.ring_flows(&report.name, name);
        let counts: Vec<u64> = self.members.iter().map(count).collect();
        match self.test.observe(&counts) {
            Verdict::RollBack {
                member,
                observed_share,
                expected_share,
                against,
                ..
            } => {
                let basis = match against {
                    Reference::Table => "by its table share",
                    Reference::Fair => "by an even share, or its share before",
                };
                let gets = match report.assignment {
                    Some(_) => "would get, without its bound,",
                    None => "gets",
                };
                Some(format!(
                    "backend {member} of VIP {} {gets} {:.0} % of new flows since the change (expected {:.0} % {basis})",
                    report.name,
                    observed_share * 100.0,
                    expected_share * 100.0,
                ))
            }
            Verdict::Accept => {
                self.note = "every backend gets its share";
                None
            }
            Verdict::Undecided => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytemuck::Zeroable as _;
    use lb_common::counters::MemberCounters;
    use lb_dataplane::Spills;

    use super::{
        super::{
            Histories,
            tests::samples::{config, reports},
        },
        *,
    };
    use crate::traffic::{MemberSample, Sample};

    /// Twenty seconds with so many new flows of two backends with equal shares, and so many that the first
    /// one spilled to the other one.
    fn verdict(new_flows: [u64; 2], spilled: u64) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let (config, began) = (config(1), Instant::now());
        let reports = reports(&config, 2);
        let monitor = ShareMonitor::new(folder.path(), Histories::default());
        let vips = ["v0".to_owned()];
        let mut trial = ShareTrial::begin(2, &vips, &monitor, &config, &reports);
        let mut traffic = Traffic::new("test");
        (0..20).find_map(|second| {
            let spills = [(spilled, 0), (0, spilled)].map(|(spilled, received)| Spills {
                spilled: second * spilled,
                received: second * received,
            });
            let members = reports[0].members.iter().zip(new_flows).zip(spills);
            let members = members.map(|((member, new_flows), spills)| MemberSample {
                vip: "v0",
                backend: &member.name,
                index: member.index,
                generation: 1,
                counters: MemberCounters {
                    new_flows: second * new_flows,
                    ..MemberCounters::zeroed()
                },
                spills: Some(spills),
            });
            traffic.observe(&Sample {
                at: began + Duration::from_secs(second),
                wall: "2026-11-22T19:30:00Z".parse().unwrap(),
                members: members.collect(),
                vips: Vec::new(),
            });
            trial.judge(&reports, &traffic)
        })
    }

    #[test]
    fn spilled_flows_are_no_reason_to_roll_back() {
        // The first backend has little capacity.
        assert_eq!(verdict([10, 190], 90), None);
        let why = verdict([10, 190], 0).unwrap();
        assert!(why.starts_with("backend b1 of VIP v0 gets 9"), "{why}");
        // Nor do they hide that the ring is not as intended.
        let why = verdict([100, 100], 90).unwrap();
        assert!(why.starts_with("backend b0 of VIP v0 gets 9"), "{why}");
    }
}
