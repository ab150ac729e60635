//! The balancer's program in the kernel: it loads, runs and reads the clock.

use std::time::{Duration, Instant};

use lab::skip::skip;
use lb_dataplane::{Dataplane, LoadOptions};

use crate::host::small;

#[test]
fn loads_and_runs_with_default_options() {
    let dataplane = Dataplane::load(&LoadOptions::default()).unwrap();
    let frame = [0; 60];
    let run = dataplane.run(&frame).unwrap();
    assert!(run.frame.len() >= frame.len(), "{run:?}");
    dataplane.run_traced(&frame).unwrap();
    assert!(
        dataplane
            .run(&[0; 3])
            .unwrap_err()
            .to_string()
            .contains("evenkeel_lb")
    );
    assert_eq!(dataplane.tracking.count(), 0);
    assert_eq!(dataplane.sessions.count().unwrap().flows, 0);
    assert_eq!(dataplane.samples.read().unwrap().len(), 0);
    assert_eq!(dataplane.counters.member(0).unwrap().packets, 0);
    dataplane.counters.vip(0).unwrap();
    dataplane.counters.node().unwrap();
}

/// A start takes as long as the verifier takes, and it refuses a program of a million instructions,
/// counted on every path that it follows. Other kernels count a little differently.
#[test]
fn the_verifier_follows_few_paths() {
    const MOST: u32 = 350_000;
    let dataplane = Dataplane::load(&LoadOptions::default()).unwrap();
    let id = dataplane.program_id().unwrap();
    let program = aya::programs::loaded_programs()
        .map(Result::unwrap)
        .find(|program| program.id() == id)
        .unwrap();
    let Some(instructions) = program.verified_instruction_count() else {
        skip(
            "the_verifier_follows_few_paths",
            "this kernel doesn't count verified instructions (Linux 5.16 does)",
        );
        return;
    };
    println!("the verifier followed {instructions} instructions");
    assert!(
        instructions <= MOST,
        "{instructions}: which loop is followed with every combination of values? (docs/adr/0004-stages.md)"
    );
}

#[test]
fn the_clock_counts_about_seconds() {
    let dataplane = Dataplane::load(&LoadOptions {
        jiffies_shift: None,
        ..small()
    })
    .unwrap();
    let start = dataplane.now_s().unwrap();
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(3000));
    let ticks = dataplane.now_s().unwrap() - start;
    println!(
        "{ticks} of the data path's seconds in {:?}",
        began.elapsed()
    );
    assert!((2..=5).contains(&ticks), "{ticks}");
}
