//! Pinned maps: adopted with their content, or rejected and left unchanged.

use aya::maps::{Array, MapData};
use lb_common::{
    ABI_VERSION, family,
    member::control,
    proto,
    vip::{VipKey, target},
};
use lb_dataplane::{Dataplane, DataplaneError, LoadOptions, Opened, Pins, RingName, catalog};

use crate::host::{Bpffs, pattern, small};

#[test]
fn adopts_a_data_path_with_its_content() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    Dataplane::unload(&pins).unwrap();
    let key = VipKey::new(&lb_common::address_v4(1), family::V4, proto::TCP, 80);
    let (program, image) = {
        let (mut dataplane, opened) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(opened, Opened::Fresh);
        let image = dataplane.rings.stage(&pattern(3)).unwrap();
        dataplane
            .vips
            .swap_ring(9, Some(RingName { image, size: 101 }))
            .unwrap();
        dataplane
            .add_service(&key, target::pack(target::VIP, 9))
            .unwrap();
        dataplane
            .members
            .set_control(17, control::pack(control::DOWN, 4, 2))
            .unwrap();
        (dataplane.program_id().unwrap(), image)
    };
    for _ in 0..2 {
        let (mut dataplane, opened) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(opened, Opened::Adopted);
        assert_ne!(
            dataplane.program_id().unwrap(),
            program,
            "this binary's own program"
        );
        let ring = dataplane.vips.ring(9).unwrap().unwrap();
        assert_eq!(ring, RingName { image, size: 101 });
        assert_eq!(dataplane.rings.words(image).unwrap(), pattern(3));
        assert_eq!(
            dataplane.services.get(&key).unwrap(),
            Some(target::pack(target::VIP, 9))
        );
        assert_eq!(dataplane.services.iter().count(), 1);
        let present: Vec<_> = dataplane
            .members
            .present()
            .map(|(index, _)| index)
            .collect();
        assert_eq!(present, [17]);
        for seed in 0..6 {
            assert_ne!(
                dataplane.rings.stage(&pattern(seed)).unwrap(),
                image,
                "in use"
            );
        }
    }
    Dataplane::unload(&pins).unwrap();
    assert!(!pins.folder().exists());
    Dataplane::unload(&pins).unwrap();
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Fresh);
}

#[test]
fn rejects_incompatible_maps_and_keeps_them() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    drop(Dataplane::open(&small(), &pins).unwrap());
    let assert_rejected = |options: &LoadOptions, what: &str, map: &str| {
        let error = Dataplane::open(options, &pins).unwrap_err();
        assert!(
            matches!(error, DataplaneError::Incompatible { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(what) && text.contains(map) && text.contains("unload"),
            "{text}"
        );
        assert_eq!(
            std::fs::read_dir(pins.maps()).unwrap().count(),
            catalog(&small(), 1).len()
        );
    };
    // Other settings.
    assert_rejected(
        &LoadOptions {
            track_buckets: 128,
            ..small()
        },
        "size 64",
        "TRACK",
    );
    // A map of another type under one of our names.
    let path = pins.maps().join("SAMPLES");
    std::fs::remove_file(&path).unwrap();
    Array::<MapData, u64>::create(4096, 0)
        .unwrap()
        .pin(&path)
        .unwrap();
    assert_rejected(&small(), "type Array", "SAMPLES");
    // Another version.
    let abi = pins.folder().join("abi");
    std::fs::remove_file(&abi).unwrap();
    let mut version = Array::<MapData, u32>::create(1, 0).unwrap();
    version.set(0, 77, 0).unwrap();
    version.pin(&abi).unwrap();
    assert_rejected(&small(), "version 77", "abi");
}

#[test]
fn removes_an_interrupted_start() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    drop(Dataplane::open(&small(), &pins).unwrap());
    std::fs::remove_file(pins.folder().join("abi")).unwrap();
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Fresh);
    assert_eq!(Dataplane::open(&small(), &pins).unwrap().1, Opened::Adopted);
}

#[test]
fn names_a_missing_folder() {
    let error = Dataplane::open(&small(), &Pins::at("/nonexistent/bpf")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/nonexistent/bpf") && text.contains("mount"),
        "{text}"
    );
}

/// An upgrade is stopped before anything was changed, not by a controller that refuses to start.
#[test]
fn the_package_is_not_installed_over_a_layout_that_it_cannot_migrate() {
    let bpffs = Bpffs::new();
    let pins = bpffs.pins();
    drop(Dataplane::open(&small(), &pins).unwrap());
    let abi = pins.folder().join("abi");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/debian/preinst");
    let install = || {
        let mut command = std::process::Command::new("sh");
        command
            .arg(script)
            .arg("upgrade")
            .env("EVENKEEL_ABI_PIN", &abi);
        command.output().unwrap()
    };
    let set_version = |number| {
        std::fs::remove_file(&abi).unwrap();
        let mut version = Array::<MapData, u32>::create(1, 0).unwrap();
        version.set(0, number, 0).unwrap();
        version.pin(&abi).unwrap();
    };
    for (number, fits) in [
        (ABI_VERSION, true),
        (ABI_VERSION - 1, true),
        (3, false),
        (77, false),
    ] {
        set_version(number);
        let output = install();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), fits, "layout {number}: {text}");
        let named = text.contains(&format!("have layout {number}")) && text.contains("unload");
        assert_eq!(named, !fits, "{text}");
    }
    std::fs::remove_file(&abi).unwrap();
    assert!(install().status.success(), "nothing is loaded");
}
