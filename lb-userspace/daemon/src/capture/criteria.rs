//! What to capture, and the filter for it.

use lb_common::capture::{Filter, condition, insert};
use lb_model::edit::hint;

use crate::{
    engine::{EngineError, EngineResult},
    reconciler::{MemberReport, VipReport},
};

/// Which packets to capture, and when to stop.
#[derive(Clone, Debug)]
pub struct Criteria {
    pub vips: Vec<String>,
    /// VIP, if one was named, and backend.
    pub backends: Vec<(Option<String>, String)>,
    /// All conditions that do not depend on names.
    pub rest: Filter,
    /// Seconds.
    pub for_s: Option<u32>,
    /// Packets.
    pub count: Option<u64>,
}

impl Criteria {
    /// # Errors
    ///
    /// It names something that does not exist.
    pub fn check_names(&self, report: &[VipReport]) -> EngineResult<()> {
        let vips: Vec<String> = report.iter().map(|vip| vip.name.clone()).collect();
        let named = self.backends.iter().filter_map(|(vip, _)| vip.as_ref());
        for name in self.vips.iter().chain(named) {
            if !vips.contains(name) {
                let hint = hint(name, &vips);
                return Err(EngineError::NotFound(format!(
                    "there is no VIP {name:?}{hint}"
                )));
            }
        }
        for (vip, backend) in &self.backends {
            let vips = report.iter().filter(|found| is_named(vip.as_ref(), found));
            let members = vips.flat_map(|vip| &vip.members);
            let names: Vec<String> = members.map(|member| member.name.clone()).collect();
            if !names.contains(backend) {
                let whose = vip.as_ref();
                let whose = whose.map_or_else(
                    || "no VIP has a".into(),
                    |vip| format!("VIP {vip:?} has no"),
                );
                let hint = hint(backend, &names);
                return Err(EngineError::NotFound(format!(
                    "{whose} backend {backend:?}{hint}"
                )));
            }
        }
        Ok(())
    }

    /// The filter, with the VIPs and members that have the names now.
    #[must_use]
    pub fn filter(&self, report: &[VipReport]) -> Filter {
        let mut filter = self.rest;
        if !self.vips.is_empty() {
            filter.conditions |= condition::VIP;
            for vip in report.iter().filter(|vip| self.vips.contains(&vip.name)) {
                insert(&mut filter.vips, vip.index);
            }
        }
        if !self.backends.is_empty() {
            filter.conditions |= condition::MEMBER;
            for vip in report {
                let is_wanted = |member: &&MemberReport| {
                    self.backends
                        .iter()
                        .any(|(of, name)| is_named(of.as_ref(), vip) && *name == member.name)
                };
                for member in vip.members.iter().filter(is_wanted) {
                    insert(&mut filter.members, member.index);
                }
            }
        }
        filter
    }
}

fn is_named(name: Option<&String>, vip: &VipReport) -> bool {
    name.is_none_or(|name| *name == vip.name)
}
