//! Changes with a bake, and changes that must be confirmed.

use std::time::Instant;

use lab::configuration::{Configuration, Health};
use lab::deadline::until;
use lab::service::{Kind, backend, vip_name};
use lab::topology::Family;

use crate::site::{BACKENDS, FORWARD, LIMIT, Site, build, can_run};

const FLOWS: usize = 100;

fn web() -> String {
    vip_name(Kind::Web, Family::V4)
}

fn echo() -> String {
    vip_name(Kind::Echo, Family::V4)
}

fn checked(configuration: &mut Configuration) {
    configuration.vip(&web()).health = Some(Health::new("http", "vip"));
}

/// Returns the shares of the web VIP's ring, in the order of the backends.
fn shares(site: &Site<'_>) -> Vec<f64> {
    let shares = site.node.shares(&web()).unwrap();
    shares.into_iter().map(|share| share.table).collect()
}

fn wait_healthy(site: &Site<'_>, backends: usize) {
    until("the backends are healthy", LIMIT, || {
        let vip = site.operator.get(&format!("/v1/vips/{}", web()))?;
        let members = vip["members"].as_array().unwrap();
        let healthy = |member: &&serde_json::Value| member["health"]["healthy"] == true;
        Ok(members.iter().filter(healthy).count() == backends)
    })
    .unwrap();
}

#[test]
fn rolls_back_when_a_backend_dies() {
    if !can_run("bake") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, checked);
    wait_healthy(&site, BACKENDS);
    let flows = site.open(FLOWS);
    let before = shares(&site);
    let after = site.changed(|c| {
        c.vip(&web()).backend("backend-0").weight = 50;
        c.vip(&echo()).backend("backend-2").weight = 10;
    });
    let file = site.write("new.toml", &after);
    let operator = site.operator.clone();
    let said = std::thread::scope(|scope| {
        let apply = ["apply", file.to_str().unwrap(), "--bake", "5m", "--json"];
        let waiting = scope.spawn(move || operator.run(&apply).unwrap());
        until("it is watched", LIMIT, || Ok(site.revisions().len() == 2)).unwrap();
        site.wait_state(2, "baking");
        let during = shares(&site);
        assert!(during[0] < 0.2, "it is in the kernel: {during:?}");
        flows.assert_alive("watched");
        // During the bake, another change is refused, and `history` says why.
        let other = site
            .operator
            .run(&["backend", "drain", "backend-3"])
            .unwrap();
        assert!(other.assert_code(1).err.contains("revision 2 is baking"));

        site.servers.kill_nginx(1);
        let died = Instant::now();
        let said = waiting.join().unwrap();
        println!("undone {:?} after a backend died", died.elapsed());
        said
    });
    let revision = &said.assert_code(4).json()["revision"];
    assert_eq!(revision["state"], "rolled_back", "{revision}");
    let reason = revision["reason"].as_str().unwrap();
    assert!(reason.contains("backend-1"), "{reason}");
    let (number, running) = site.node.active().unwrap();
    assert_eq!((number, &running.vips[0]), (1, &before_of(&site)));
    // The old configuration, without the dead backend.
    let now = shares(&site);
    assert_eq!(now[1], 0.0, "{now:?}");
    assert!(
        (now[0] - now[2]).abs() < 0.001 && now[0] > before[0],
        "{now:?}"
    );
    flows.assert_alive("undone");

    site.servers.restart_nginx(&lab, 1).unwrap();
    wait_healthy(&site, BACKENDS);
    until("the table is as before", LIMIT, || {
        Ok(shares(&site) == before)
    })
    .unwrap();
    flows.assert_alive("revived");
    site.assert_settled("at the end");
    drop(flows);
    site.check_health();
}

/// Returns the first VIP of the configuration file, which has no health checks.
fn before_of(site: &Site<'_>) -> lab::configuration::Vip {
    site.node.configuration().vips[0].clone()
}

#[test]
fn rolls_back_when_a_new_backend_never_listens() {
    if !can_run("bake of a new backend") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |c| {
        checked(c);
        c.vip(&web()).backends.truncate(BACKENDS - 1);
    });
    wait_healthy(&site, BACKENDS - 1);
    let flows = site.open(FLOWS);
    site.servers.kill_nginx(BACKENDS - 1);
    let before = shares(&site);
    let newcomer = backend(
        &lab.backends[BACKENDS - 1],
        FORWARD,
        Kind::Web,
        Family::V4,
        100,
    );
    let address = newcomer.address.to_string();
    let name = format!("{}/{}", web(), newcomer.name);
    let add = ["backend", "add", &name, &address, "--bake", "8s", "--json"];
    let said = site.operator.run(&add).unwrap();
    println!("undone after {:?}", said.took);
    let revision = said.assert_code(4).json()["revision"].clone();
    let reason = revision["reason"].as_str().unwrap();
    assert!(reason.contains(&newcomer.name), "{reason}");
    assert_eq!(shares(&site), before);
    let pages = crate::site::pages(&lab.clients[0], &lab, 200);
    assert_eq!(pages.failed, 0, "{pages:?}");
    flows.assert_alive("undone");
    site.assert_settled("at the end");
    drop(flows);
}

#[test]
fn rolls_back_without_confirmation() {
    if !can_run("confirm") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(FLOWS);
    let before = site.node.configuration().clone();
    let after = site.changed(|c| c.vip(&echo()).backend("backend-0").weight = 20);
    let file = site.write("new.toml", &after);
    let file = file.to_str().unwrap();

    let said = site
        .operator
        .run(&["apply", file, "--confirm", "3s", "--json"]);
    let revision = said.unwrap().assert_code(4).json()["revision"].clone();
    assert_eq!(revision["state"], "rolled_back", "{revision}");
    assert!(revision["reason"].as_str().unwrap().contains("confirmed"));
    site.assert_kernel("nobody confirmed", &before);
    flows.assert_alive("nobody confirmed");

    // Killed while it waits: the next controller continues to wait.
    let apply = ["apply", file, "--confirm", "10s", "--no-wait", "--json"];
    let said = site.operator.run(&apply).unwrap().assert_code(0);
    assert_eq!(said.json()["revision"]["state"], "awaiting_confirm");
    site.node.kill();
    site.assert_kernel("killed", &after);
    flows.assert_alive("killed");
    site.node.restart().unwrap();
    let revision = site.wait_state(3, "rolled_back");
    println!("undone after a restart: {}", revision["reason"]);
    site.assert_kernel("nobody confirmed after a restart", &before);
    flows.assert_alive("nobody confirmed after a restart");

    // Confirmed in time and killed: kept after the deadline.
    let apply = ["apply", file, "--confirm", "8s", "--no-wait"];
    site.operator.run(&apply).unwrap().assert_code(0);
    let deadline = Instant::now() + std::time::Duration::from_secs(9);
    let said = site
        .operator
        .run(&["confirm", "--json"])
        .unwrap()
        .assert_code(0);
    assert_eq!(said.json()["state"], "applied");
    site.node.kill();
    site.node.restart().unwrap();
    until("the deadline has passed", LIMIT, || {
        Ok(Instant::now() > deadline)
    })
    .unwrap();
    assert_eq!(site.info(4)["state"], "applied");
    site.assert_kernel("confirmed", &after);
    flows.assert_alive("confirmed");
    // No change is waiting any more.
    let said = site.operator.run(&["confirm"]).unwrap().assert_code(1);
    assert!(said.err.contains("no change is waiting"), "{said:?}");
    assert_eq!(site.assert_settled("at the end"), 4);
    drop(flows);
    site.check_health();
}
