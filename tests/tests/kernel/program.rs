//! The balancer's program in the kernel: it loads, runs and reads the clock.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};
use lab::skip::skip;
use lb_dataplane::{Dataplane, LoadOptions};

use crate::host::{Bpffs, small};

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
    const MOST: u32 = 375_000;
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

/// Names of the maps that the instructions of a program refer to.
fn maps_of(program: u32) -> BTreeSet<String> {
    let mut programs = loaded_programs().map(Result::unwrap);
    let found = programs.find(|info| info.id() == program).unwrap();
    let ids = found.map_ids().unwrap().unwrap();
    let maps = loaded_maps().map(Result::unwrap);
    let maps = maps.filter(|map| ids.contains(&map.id()));
    maps.map(|map| map.name_as_str().unwrap().to_owned())
        .collect()
}

/// Every function of the capture refers to one of its maps, and only functions that a program calls are
/// loaded with it. So this is exact: without a capture, no instruction of it exists.
#[test]
fn the_program_contains_nothing_of_the_capture() {
    let bpffs = Bpffs::new();
    let (dataplane, _) = Dataplane::open(&small(), &bpffs.pins()).unwrap();
    let (capturing, _) = dataplane.capture_loader().unwrap().load(4096).unwrap();
    let [ordinary, capturing] =
        [dataplane.program_id(), capturing.id()].map(|id| maps_of(id.unwrap()));
    let added: BTreeSet<&str> = capturing
        .difference(&ordinary)
        .map(|name| &**name)
        .collect();
    // The kernel keeps 15 characters.
    let expected = [
        "CAPTURE_COUNTS",
        "CAPTURE_FILTER",
        "CAPTURE_FRAMES",
        "CAPTURE_RECORDS",
    ];
    assert_eq!(
        added,
        expected.map(|name| &name[..name.len().min(15)]).into()
    );
    assert!(ordinary.is_subset(&capturing));
    drop(dataplane);
    Dataplane::unload(&bpffs.pins()).unwrap();
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
