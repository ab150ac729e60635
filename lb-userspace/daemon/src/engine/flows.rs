//! The flows that the data path samples, with names.

use std::{cmp::Reverse, sync::Arc};

use lb_common::sample::{FlowKey, FlowSample};
use lb_model::edit::hint;

use super::{EngineError, EngineResult, data_path::DataPath, shares::samples::show};
use crate::reconciler::VipReport;

/// A flow that the data path samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledFlow {
    /// In the syntax of `explain`.
    pub flow: String,
    pub vip: String,
    /// The backend that the last packet was sent to.
    pub backend: String,
    pub counts: FlowSample,
    /// Since the first packet, in seconds of the data path.
    pub age_s: u32,
    /// Since the last packet, likewise.
    pub idle_s: u32,
}

/// The sampled flows of a VIP and a backend, or of all; those with most bytes first.
pub(super) fn sampled(
    data_path: &mut DataPath,
    vip: Option<&str>,
    backend: Option<&str>,
) -> EngineResult<Vec<SampledFlow>> {
    let report = data_path.reconciler.report();
    check_names(&report, vip, backend)?;
    let dataplane = &data_path.dataplane;
    let read = || Ok((dataplane.now_s()?, dataplane.samples.read()?));
    let (now_s, flows) = read().map_err(|error: lb_dataplane::DataplaneError| {
        EngineError::Failed(format!("can't read the sampled flows: {error}"))
    })?;
    let named = flows.iter().filter_map(|flow| named(&report, now_s, flow));
    let mut flows: Vec<SampledFlow> = named
        .filter(|flow| vip.is_none_or(|vip| flow.vip == vip))
        .filter(|flow| backend.is_none_or(|backend| flow.backend == backend))
        .collect();
    flows.sort_by_cached_key(|flow| (Reverse(flow.counts.bytes), flow.flow.clone()));
    Ok(flows)
}

fn check_names(
    report: &Arc<[VipReport]>,
    vip: Option<&str>,
    backend: Option<&str>,
) -> EngineResult<()> {
    let vips: Vec<String> = report.iter().map(|vip| vip.name.clone()).collect();
    if let Some(name) = vip
        && !vips.iter().any(|known| known == name)
    {
        let hint = hint(name, &vips);
        return Err(EngineError::NotFound(format!(
            "there is no VIP {name:?}{hint}"
        )));
    }
    let members = report.iter().flat_map(|vip| &vip.members);
    let names: Vec<String> = members.map(|member| member.name.clone()).collect();
    match backend {
        Some(name) if !names.iter().any(|known| known == name) => {
            let hint = hint(name, &names);
            Err(EngineError::NotFound(format!(
                "no VIP has a backend {name:?}{hint}"
            )))
        }
        _ => Ok(()),
    }
}

/// None if the flow is of a VIP or member that is gone.
fn named(
    report: &[VipReport],
    now_s: u64,
    (key, sample): &(FlowKey, FlowSample),
) -> Option<SampledFlow> {
    let vip = report.iter().find(|vip| vip.index == sample.vip)?;
    let mut members = vip.members.iter();
    let member = members.find(|member| member.index == sample.member)?;
    let since = |second: u32| (now_s as u32).saturating_sub(second);
    Some(SampledFlow {
        flow: show(key),
        vip: vip.name.clone(),
        backend: member.name.clone(),
        counts: *sample,
        age_s: since(sample.first_s),
        idle_s: since(sample.last_s),
    })
}
