//! Remembers SYNs for a few seconds, to tell their retransmissions: two filters, of which one is of the
//! current epoch. [`lb_common::limit::syn_bits`] has the places.

use core::hint::black_box;

use lb_common::limit::{SYN_BLOCK_WORDS, SYN_BLOCKS, SYN_EPOCH_SHIFT, syn_bits, syn_block};

use crate::maps::{FIRST_SYNS, below};

/// Whether a SYN with this hash was noted in this epoch or the one before. With very many SYNs, some of
/// others are taken for it.
#[inline(always)]
pub(crate) fn was_seen(hash: u64, now_ns: u64) -> bool {
    black_box(first_syn_was_seen(hash, epoch(now_ns))) != 0
}

/// Notes a SYN.
#[inline(always)]
pub(crate) fn note(hash: u64, now_ns: u64) {
    black_box(first_syn_note(hash, epoch(now_ns)));
}

/// Never 0, which is in unused blocks.
#[inline(always)]
const fn epoch(now_ns: u64) -> u64 {
    (now_ns >> SYN_EPOCH_SHIFT) + 1
}

#[inline(always)]
fn block(hash: u64, epoch: u64) -> Option<*mut u64> {
    let block = FIRST_SYNS.get_ptr_mut(syn_block(hash) + (epoch as u32 & 1) * SYN_BLOCKS);
    block.map(<*mut _>::cast::<u64>)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn first_syn_was_seen(hash: u64, now: u64) -> u32 {
    let noted = |epoch| block(hash, epoch).is_some_and(|block| has_noted(block, epoch, hash));
    (noted(now) || noted(now - 1)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn first_syn_note(hash: u64, epoch: u64) -> u32 {
    let Some(now) = block(hash, epoch) else {
        return 0;
    };
    // SAFETY: in bounds of the block, as below. Two CPUs may lose a note.
    unsafe {
        if now.read_volatile() != epoch {
            for word in 1..SYN_BLOCK_WORDS {
                now.add(word).write_volatile(0);
            }
            now.write_volatile(epoch);
        }
        for (word, bit) in syn_bits(hash) {
            let word = now.add(below::<SYN_BLOCK_WORDS>(word));
            word.write_volatile(word.read_volatile() | bit);
        }
    }
    0
}

#[inline(always)]
fn has_noted(block: *mut u64, epoch: u64, hash: u64) -> bool {
    // SAFETY: in bounds of the block.
    let load = |word| unsafe { block.add(below::<SYN_BLOCK_WORDS>(word)).read_volatile() };
    let mut missing = load(0) ^ epoch;
    for (word, bit) in syn_bits(hash) {
        missing |= bit & !load(word);
    }
    missing == 0
}
