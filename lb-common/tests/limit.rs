//! Rate limits: cells against the algorithm by its definition, and the table of sources against one without
//! a limit of size.

use std::{cell::Cell as Mutable, collections::HashMap};

use lb_common::{
    hash::{HashKey, flow_hash_v4},
    limit::{
        Draw, LINES, LONGEST_BURST_NS, Line, Rate, SYN_BLOCK_WORDS, SYN_BLOCKS, UNIT_NS, WAYS,
        draw, place, syn_bits, syn_block, units,
    },
};
use proptest::prelude::*;

const KEY: HashKey = HashKey {
    k0: 0x0123_4567_89ab_cdef,
    k1: 0xb492_b66f_be98_f273,
    k2: 0x9ae1_6a3b_2f90_404f,
    k3: 0xfedc_ba98_7654_3210,
};

fn draw_from(rate: &Rate, line: &mut Line, tag: u64, now_ns: u64) -> Draw {
    let cells = Mutable::from_mut(&mut line[..]).as_slice_of_cells();
    draw(
        rate,
        tag,
        units(now_ns),
        |way| cells[way].get(),
        |way, addition| cells[way].set(cells[way].get().wrapping_add(addition)),
        |way, word| cells[way].set(word),
    )
}

proptest! {
    /// In no window is more admitted than rate × time + burst, and what is refused is over it.
    #[test]
    fn admits_rate_and_burst_in_every_window(
        per_s in 1..500_000_u32,
        burst in 1..1000_u32,
        start_ns in 0..u64::MAX / 2,
        gaps in prop::collection::vec((0..3_u32, 0..2_000_000_000_u64), 1..300),
    ) {
        let burst = burst.min(per_s.saturating_mul(3600));
        let rate = Rate::new(per_s, burst, 1);
        let mut line = [0; WAYS];
        let mut now_ns = start_ns;
        let mut admitted = Vec::new();
        for (scale, gap) in gaps {
            // From bursts to pauses.
            now_ns += gap / u64::from(per_s) / 10_u64.pow(2 * scale);
            if draw_from(&rate, &mut line, 7, now_ns) != Draw::Over {
                admitted.push(now_ns);
            }
        }
        for (first, from_ns) in admitted.iter().enumerate() {
            for (last, to_ns) in admitted.iter().enumerate().skip(first) {
                let count = (last - first + 1) as f64;
                // The clock is cut to units.
                let seconds = (to_ns - from_ns + UNIT_NS) as f64 / 1e9;
                let most = f64::from(per_s).mul_add(seconds, f64::from(burst));
                prop_assert!(count <= most + 1e-6, "{count} in {seconds} s, at most {most}");
            }
        }
    }

    /// The rate that is admitted is less than what was asked for by less than one in a hundred.
    #[test]
    fn rates_are_rounded_by_little(per_s in 1..500_000_u32) {
        let rate = Rate::new(per_s, 1, 1);
        let real = 1e9 / (rate.cost * UNIT_NS) as f64;
        prop_assert!(real <= f64::from(per_s) && real > f64::from(per_s) * 0.99, "{real}");
    }

    /// A cell that has been idle for days, until the time wrapped around, is free again.
    #[test]
    fn old_cells_are_no_debt(
        start_ns in 0..u64::MAX / 4,
        idle_ns in 0..u64::MAX / 4,
        burst in 1..1000_u32,
    ) {
        let rate = Rate::new(100, burst, 1);
        let mut line = [0; WAYS];
        for _ in 0..burst {
            prop_assert_eq!(draw_from(&rate, &mut line, 7, start_ns), Draw::Admitted);
        }
        prop_assert_eq!(draw_from(&rate, &mut line, 7, start_ns), Draw::Over);
        // Three days after the last draw the clock is where it was; half a minute around that is lost.
        const WRAP_NS: u64 = UNIT_NS << 44;
        for idle_ns in [idle_ns, WRAP_NS - LONGEST_BURST_NS, WRAP_NS - 60_000_000_000] {
            let (wrapped_ns, mut line) = (idle_ns % WRAP_NS, line);
            if (60_000_000_000..WRAP_NS - 30_000_000_000).contains(&wrapped_ns) {
                let now_ns = start_ns + idle_ns;
                prop_assert_eq!(draw_from(&rate, &mut line, 7, now_ns), Draw::Admitted);
            }
        }
    }

    #[test]
    fn notes_of_syns_spare_the_epoch(hash: u64) {
        for (word, bit) in syn_bits(hash) {
            prop_assert!((1..SYN_BLOCK_WORDS).contains(&word) && bit.is_power_of_two());
        }
    }
}

/// Two million forged SYNs a second: how many pass because they look like repeated ones.
#[test]
fn few_first_syns_look_like_second_ones() {
    const PER_EPOCH: u32 = 4_300_000;
    let mut filters = vec![vec![[0_u64; SYN_BLOCK_WORDS]; SYN_BLOCKS as usize]; 2];
    let has = |filters: &[Vec<[u64; SYN_BLOCK_WORDS]>], hash| {
        let block = syn_block(hash) as usize;
        let mut filters = filters.iter();
        filters.any(|filter| {
            syn_bits(hash)
                .iter()
                .all(|(word, bit)| filter[block][*word] & bit != 0)
        })
    };
    let mut wrong = 0;
    for step in 0..2 * PER_EPOCH {
        let hash = flow_hash_v4(&KEY, step.wrapping_mul(0x9e37_79b1), u64::from(step >> 7));
        // The first epoch fills one filter, the second begins with the other one empty.
        let epoch = (step / PER_EPOCH) as usize;
        if epoch == 1 && has(&filters, hash) {
            wrong += 1;
            continue;
        }
        for (word, bit) in syn_bits(hash) {
            filters[epoch][syn_block(hash) as usize][word] |= bit;
        }
        assert!(has(&filters, hash));
    }
    println!("{wrong} of {PER_EPOCH}");
    assert!(wrong < PER_EPOCH / 10, "{wrong}");
}

/// A million sources in a table of one MiB, of which a thousand are far over their limit: fewer than one
/// decision in a thousand differs from that of a table with room for all.
#[test]
fn a_million_sources_fit_one_mib() {
    const SOURCES: u32 = 1_000_000;
    const HEAVY: u32 = 1000;
    assert_eq!(size_of::<Line>() * LINES as usize, 1 << 20);
    let mut table = vec![[0; WAYS]; LINES as usize];
    let mut exact: HashMap<u32, Line> = HashMap::new();
    // Ten flows a second, twenty at once.
    let rate = Rate::new(10, 20, 1);
    let mut random = 1_u64;
    let (mut wrong, mut over, mut evicted, mut all) = (0_u32, 0_u32, 0_u32, 0_u32);
    // Each source opens one flow in the second, the heavy ones a hundred: 1.1 million.
    for step in 0..SOURCES + HEAVY * 100 {
        random = random.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        let number = (random >> 33) as u32;
        let source = if number.is_multiple_of(11) {
            number / 11 % HEAVY
        } else {
            number % SOURCES
        };
        let now_ns = u64::from(step) * 1_000_000_000 / u64::from(SOURCES + HEAVY * 100);
        let (line, tag) = place(flow_hash_v4(&KEY, source, 0));
        let found = draw_from(&rate, &mut table[line as usize], tag, now_ns);
        let own = exact.entry(source).or_default();
        let expected = draw_from(&rate, own, tag, now_ns);
        all += 1;
        wrong += u32::from((found == Draw::Over) != (expected == Draw::Over));
        over += u32::from(expected == Draw::Over);
        evicted += u32::from(found == Draw::Evicted);
    }
    println!("{all} decisions, {over} over the limit, {evicted} evictions, {wrong} wrong");
    assert!(over > 50_000, "{over}: the test shows nothing");
    assert!(wrong * 1000 < all, "{wrong} of {all}");
}
