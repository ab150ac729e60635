//! Plan and apply from the command line, with guards.

use lab::configuration::{Configuration, Guard, State};
use lab::service::{Kind, vip_name};
use lab::topology::Family;

use crate::site::{Site, build, can_run};

const FLOWS: usize = 100;

fn echo(family: Family) -> String {
    vip_name(Kind::Echo, family)
}

fn guarded(configuration: &mut Configuration) {
    for vip in &mut configuration.vips {
        vip.guard = Guard {
            max_share: 0.5,
            ..Guard::default()
        };
    }
}

#[test]
fn plans_applies_and_rolls_back_a_change() {
    if !can_run("apply") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, guarded);
    let flows = site.open(FLOWS);
    let before = site.node.configuration().clone();
    let same = site.write("same.toml", &before);
    let after = site.changed(|c| {
        c.vip(&echo(Family::V4)).backend("backend-0").weight = 30;
        c.vip(&echo(Family::V6)).backend("backend-1").state = State::Drain;
    });
    let file = site.write("new.toml", &after);
    let (same, file) = (same.to_str().unwrap(), file.to_str().unwrap());

    let picture = site.snapshot();
    let plan = site.operator.run(&["plan", same, "--json"]).unwrap();
    assert_eq!(plan.assert_code(0).json()["verdict"], "nothing");
    let plan = site.operator.run(&["plan", file, "--json"]).unwrap();
    let plan = plan.assert_code(2).json();
    assert_eq!(plan["verdict"], "allowed");
    assert_eq!(plan["vips"].as_array().unwrap().len(), 2, "{plan}");
    assert!(site.snapshot() == picture, "a plan changes nothing");
    assert_eq!(site.revisions().len(), 1);

    let said = site
        .operator
        .run(&["apply", file, "--json", "--why", "a trial"]);
    let said = said.unwrap().assert_code(0);
    println!("apply of two VIPs: {:?}", said.took);
    let revision = &said.json()["revision"];
    assert_eq!(
        (&revision["number"], &revision["why"]),
        (&2.into(), &"a trial".into())
    );
    assert_eq!(revision["state"], "applied");
    site.assert_kernel("applied", &after);
    flows.assert_alive("applied");
    // The active configuration needs no change.
    site.operator.run(&["plan", file]).unwrap().assert_code(0);

    site.operator.run(&["rollback"]).unwrap().assert_code(0);
    site.assert_kernel("rolled back", &before);
    flows.assert_alive("rolled back");
    assert_eq!(site.assert_settled("at the end"), 3);
    drop(flows);
    site.check_health();
}

#[test]
fn a_refused_change_has_no_effect() {
    if !can_run("refusal") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, guarded);
    let flows = site.open(FLOWS);
    // If one of two VIPs may not change, neither does.
    let bad = site.changed(|c| {
        c.vip(&echo(Family::V4)).backend("backend-0").weight = 90;
        c.vip(&echo(Family::V6)).backend("backend-1").weight = 5000;
    });
    let file = site.write("bad.toml", &bad);
    let file = file.to_str().unwrap();
    let picture = site.snapshot();

    let plan = site.operator.run(&["plan", file, "--json"]).unwrap();
    assert_eq!(plan.assert_code(3).json()["verdict"], "refused");
    let said = site
        .operator
        .run(&["apply", file, "--json"])
        .unwrap()
        .assert_code(3);
    assert_eq!(said.json()["code"], "refused", "{said:?}");
    assert!(said.err.contains("backend-1"), "{said:?}");
    let said = site.operator.run(&["apply", file]).unwrap().assert_code(3);
    assert!(said.err.contains("nothing was changed"), "{said:?}");

    // Nor does an invalid file, a change of a missing object, or one based on an old revision.
    let broken = lab.balancers[0].directory().join("broken.toml");
    let text = bad.to_toml(lab.balancers[0].directory());
    std::fs::write(&broken, text.replace("weight = 90", "wieght = 90")).unwrap();
    let broken = broken.to_str().unwrap();
    let said = site
        .operator
        .run(&["apply", broken])
        .unwrap()
        .assert_code(1);
    assert!(said.err.contains("wieght"), "{said:?}");
    let said = site.operator.run(&["backend", "drain", "nobody"]).unwrap();
    assert!(said.assert_code(1).err.contains("nobody"));
    let weight = [
        "backend",
        "weight",
        "web-ipv4/backend-0",
        "90",
        "--base",
        "7",
    ];
    let said = site.operator.run(&weight).unwrap().assert_code(1);
    assert!(said.err.contains("revision 1"), "{said:?}");

    assert!(site.snapshot() == picture, "nothing changed in the kernel");
    assert_eq!(site.revisions().len(), 1, "{:?}", site.revisions());
    flows.assert_alive("refused");

    // The guard is the reason.
    let force = ["apply", file, "--force", "max_share", "--json"];
    let said = site.operator.run(&force).unwrap().assert_code(0);
    assert_eq!(
        said.json()["revision"]["forced"],
        serde_json::json!(["max_share"])
    );
    site.assert_kernel("forced", &bad);
    flows.assert_alive("forced");
    site.assert_settled("at the end");
    drop(flows);
    site.check_health();
}
