//! Counting. Each CPU has a block of its own, so nothing is shared; a counter that is missing never changes a
//! verdict. The trace of the last packet ([`crate::trace`]) is in the block, too.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use lb_common::{
    counters::{CpuBlock, MemberCounters, VipCounters},
    reason::{COUNTED_REASONS, Reason},
    ring::{MAX_MEMBERS, MemberIndex},
    vip::MAX_VIPS,
};

use crate::maps::CPUS;

unsafe extern "C" {
    /// The only element of its map, linked by the loader as the tables are ([`crate::table`]): one block for each CPU
    /// that the machine may have. A per-CPU array has elements of 32 KiB at most, so that node, VIPs and
    /// members would take a lookup each, and the controller a system call for each entry.
    static COUNTERS: CpuBlock;
}

/// The block of this CPU.
#[inline(always)]
pub(crate) fn block() -> Option<*mut CpuBlock> {
    // SAFETY: takes nothing, reads the CPU's number.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if cpu >= CPUS.load() {
        return None;
    }
    Some((&raw const COUNTERS).cast_mut().wrapping_add(cpu as usize))
}

/// Counts a packet of the node under its reason.
#[inline(always)]
pub(crate) fn count_reason(reason: u32) {
    if let Some(block) = block() {
        let reason = reason as usize & (COUNTED_REASONS - 1);
        // SAFETY: the block of this CPU, which nothing else writes while the program runs; inside of it.
        unsafe { (*block).node.reasons[reason] += 1 };
    }
}

/// Counts a packet that is sent, under its reason and in the counters of its member.
#[inline(always)]
pub(crate) fn count_sent(
    reason: Reason,
    member: MemberIndex,
    change: impl FnOnce(&mut MemberCounters),
) {
    if let Some(block) = block() {
        let member = member as usize & (MAX_MEMBERS as usize - 1);
        // SAFETY: as for reasons.
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

/// Changes the counters of a VIP.
#[inline(always)]
pub(crate) fn count_vip(vip: u16, change: impl FnOnce(&mut VipCounters)) {
    if let Some(block) = block() {
        let vip = vip as usize & (MAX_VIPS as usize - 1);
        // SAFETY: as for reasons.
        change(unsafe { &mut *(&raw mut (*block).vips).cast::<VipCounters>().add(vip) });
    }
}
