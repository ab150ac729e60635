//! Per-CPU rate limits.

use aya_ebpf::btf_maps::PerCpuArray;
use lb_common::node::Budget;

/// Uses one unit of this second's budget; false if nothing is left.
#[inline(always)]
pub(crate) fn take(budget: &PerCpuArray<Budget, 1>, now_s: u64, limit: u64) -> bool {
    let Some(budget) = budget.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's entry; nothing else uses it while the program runs.
    let budget = unsafe { &mut *budget };
    if budget.second != now_s {
        budget.second = now_s;
        budget.used = 0;
    }
    if budget.used >= limit {
        return false;
    }
    budget.used += 1;
    true
}

/// Whether nothing is left of this second's budget.
#[inline(always)]
pub(crate) fn is_spent(budget: &PerCpuArray<Budget, 1>, now_s: u64, limit: u64) -> bool {
    budget.get_ptr_mut(0).is_none_or(|budget| {
        // SAFETY: as in `take`.
        let budget = unsafe { &*budget };
        budget.second == now_s && budget.used >= limit
    })
}
