//! Counters. Each CPU has its own block, so nothing is shared. A failure to count never changes a
//! verdict. The block also holds the trace of the last packet ([`crate::trace`]).

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use lb_common::{
    counters::{CpuBlock, MemberCounters, VipCounters},
    reason::{COUNTED_REASONS, Reason},
    ring::{MAX_MEMBERS, MemberIndex},
    vip::MAX_VIPS,
};

use crate::maps::CPUS;

unsafe extern "C" {
    /// The only element of its map: one block per possible CPU, linked by the loader like the
    /// tables ([`crate::tables`]). A per-CPU array would not do: its elements have 32 KiB at most,
    /// so node, VIPs and members would take a lookup each, and reading them a system call per
    /// entry.
    static COUNTERS: CpuBlock;
}

/// Returns the number of this CPU.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_smp_processor_id() }
}

/// Returns the block of this CPU.
#[inline(always)]
pub(crate) fn block() -> Option<*mut CpuBlock> {
    let cpu = cpu();
    if cpu >= CPUS.load() {
        core::hint::cold_path();
        return None;
    }
    Some((&raw const COUNTERS).cast_mut().wrapping_add(cpu as usize))
}

/// Counts a packet under its reason.
#[inline(always)]
pub(crate) fn count_reason(reason: u32) {
    if let Some(block) = block() {
        let reason = reason as usize & (COUNTED_REASONS - 1);
        // SAFETY: in bounds; the block of this CPU, which nothing else writes while the program
        // runs.
        unsafe { (*block).node.reasons[reason] += 1 };
    }
}

/// Counts a transmitted packet under its reason and in the counters of its member.
#[inline(always)]
pub(crate) fn count_sent(
    reason: Reason,
    member: MemberIndex,
    change: impl FnOnce(&mut MemberCounters),
) {
    if let Some(block) = block() {
        let member = member as usize & (MAX_MEMBERS as usize - 1);
        // SAFETY: as in `count_reason`.
        unsafe {
            (*block).node.reasons[reason as usize] += 1;
            change(
                &mut *(&raw mut (*block).members)
                    .cast::<MemberCounters>()
                    .add(member),
            );
        }
    }
}

/// Updates the counters of a VIP.
#[inline(always)]
pub(crate) fn count_vip(vip: u16, change: impl FnOnce(&mut VipCounters)) {
    if let Some(block) = block() {
        let vip = vip as usize & (MAX_VIPS as usize - 1);
        // SAFETY: as in `count_reason`.
        change(unsafe { &mut *(&raw mut (*block).vips).cast::<VipCounters>().add(vip) });
    }
}
