//! Upgrade, reboot, damage, a second controller, unload.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::loaded_links;
use lab::balancer::binary;
use lab::configuration::{Health, State};
use lab::link::ip_output;
use lab::process::finish;
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Lab};
use serde_json::Value;

use crate::site::{Site, browse, build, can_run};

const FLOWS: usize = 100;

fn echo() -> String {
    vip_name(Kind::Echo, Family::V4)
}

/// Returns the id of the program on the balancer's interface.
fn program(lab: &Lab) -> Option<u64> {
    let text = ip_output(&lab.balancers[0].ns, "-json link show dev eth0").unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}

/// Returns the id of the link of a program.
fn link(program: u64) -> Option<u32> {
    let mut links = loaded_links().filter_map(Result::ok);
    let found = links.find(|link| u64::from(link.program_id()) == program);
    found.map(|link| link.id())
}

#[test]
fn an_upgrade_replaces_the_program_in_its_link() {
    if !can_run("upgrade") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(FLOWS);
    let old = program(&lab).unwrap();
    let attached_by = link(old).unwrap();
    let new_binary = lab.balancers[0].directory().join("evenkeel-new");
    std::fs::copy(binary().unwrap(), &new_binary).unwrap();
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let browsing = scope.spawn(|| browse(&lab, &stop));
        site.node.stop().unwrap();
        assert_eq!(program(&lab), Some(old), "it stays while nobody is there");
        site.node.balancer.set_binary(&new_binary);
        let started = site.node.restart();
        let changed = site.operator.run(&["backend", "drain", "backend-0"]);
        stop.store(true, Ordering::Relaxed);
        started.unwrap();
        changed.unwrap().assert_code(0);
        browsing.join().unwrap()
    });
    assert_eq!(report.failed, 0, "{report:?}");
    let new = program(&lab).unwrap();
    assert_ne!(new, old, "another program");
    assert_eq!(link(new), Some(attached_by), "in the same link");
    let status = site.operator.get("/v1/status").unwrap();
    assert_eq!(status["node"]["adopted"], true);
    assert_eq!(status["node"]["program_id"].as_u64(), Some(new));
    assert_eq!(site.assert_settled("upgraded"), 2);
    flows.assert_alive("upgraded");
    drop(flows);
    site.check_health();
}

fn try_unload(site: &Site<'_>) -> Output {
    let mut command = site.node.balancer.command();
    command
        .arg("unload")
        .arg("--bpffs")
        .arg(site.node.balancer.bpffs());
    let inside = site.lab.balancers[0].ns.entry();
    finish(&inside, command, "").unwrap()
}

fn unload(site: &Site<'_>) {
    let output = try_unload(site);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn activates_the_newest_revision_after_a_reboot() {
    if !can_run("reboot") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let drain = ["backend", "drain", &format!("{}/backend-0", echo())];
    site.operator.run(&drain).unwrap().assert_code(0);
    let weight = ["backend", "weight", &format!("{}/backend-1", echo()), "30"];
    site.operator.run(&weight).unwrap().assert_code(0);
    let wanted = site.changed(|c| {
        c.vip(&echo()).backend("backend-0").state = State::Drain;
        c.vip(&echo()).backend("backend-1").weight = 30;
    });
    site.assert_kernel("changed", &wanted);

    // After a reboot, only files remain.
    site.node.kill();
    unload(&site);
    assert_eq!(program(&lab), None);
    assert!(site.node.view().is_err(), "the maps are gone");
    site.node.restart().unwrap();
    site.assert_kernel("after a reboot", &wanted);
    assert_eq!(site.assert_settled("after a reboot"), 3, "no new revision");
    let flows = site.open(FLOWS);
    assert!(flows.backends().contains("backend-1"));
    let status = site.operator.get("/v1/status").unwrap();
    assert_eq!(status["node"]["adopted"], false);

    // The newest revision is damaged, and the host reboots again.
    drop(flows);
    site.node.kill();
    unload(&site);
    let newest = site
        .node
        .balancer
        .state_dir()
        .join("revisions/00000003.revision");
    let text = std::fs::read_to_string(&newest).unwrap();
    std::fs::write(&newest, &text[..text.len() - 7]).unwrap();
    let logged = site.node.balancer.log().len();
    site.node.restart().unwrap();
    let log = site.node.balancer.log()[logged..].to_owned();
    let loud = log
        .lines()
        .find(|line| line.contains("ERROR") && line.contains("revision 3"));
    assert!(loud.is_some_and(|line| line.contains("damaged")), "{log}");
    let good = site.changed(|c| c.vip(&echo()).backend("backend-0").state = State::Drain);
    site.assert_kernel("the newest is damaged", &good);
    assert_eq!(site.node.active().unwrap().0, 2);
    let flows = site.open(FLOWS);
    // Its number is not reused.
    site.operator.run(&weight).unwrap().assert_code(0);
    assert_eq!(site.node.active().unwrap().0, 4);
    site.assert_kernel("changed again", &wanted);
    flows.assert_alive("changed again");
    drop(flows);
    site.check_health();
}

#[test]
fn rejects_a_second_controller() {
    if !can_run("second controller") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(FLOWS);
    let picture = site.snapshot();
    let pid = site.node.balancer.controller().unwrap().pid();
    let text = site
        .node
        .configuration()
        .to_toml(lab.balancers[0].directory());
    let second = |name: &str, text: &str, bpffs: &std::path::Path| {
        let file = lab.balancers[0].directory().join(name);
        std::fs::write(&file, text).unwrap();
        let mut command: Command = site.node.balancer.command();
        command
            .args(["run", "--config"])
            .arg(&file)
            .arg("--bpffs")
            .arg(bpffs);
        command.env("NO_COLOR", "1");
        let output = finish(&lab.balancers[0].ns.entry(), command, "").unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("pid {pid}")), "{said}");
        said
    };
    let bpffs = site.node.balancer.bpffs();
    second("same.toml", &text, bpffs);
    let other = text
        .replace("/state\"", "/other\"")
        .replace("api.sock", "other.sock");
    let said = second("other.toml", &other, bpffs);
    assert!(said.contains(bpffs.to_str().unwrap()), "{said}");
    assert!(site.snapshot() == picture, "the second changed nothing");
    assert_eq!(site.operator.controller(), Some(pid.into()));
    flows.assert_alive("a second was refused");
    drop(flows);
    site.check_health();
}

/// Returns the names in a folder, none if it does not exist.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn reserved_ports(lab: &Lab) -> String {
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    lab.balancers[0].ns.enter(read).unwrap()
}

#[test]
fn unload_removes_everything() {
    if !can_run("unload") {
        return;
    }
    let lab = build();
    let before = (reserved_ports(&lab), filters(&lab));
    let mut site = Site::start(&lab, |c| {
        let web = c.vip(&vip_name(Kind::Web, Family::V4));
        web.health = Some(Health::new("http", "vip"));
    });
    let flows = site.open(FLOWS);
    let id = program(&lab).unwrap();
    let attached_by = link(id).unwrap();
    let log = site.node.balancer.log();
    assert_ne!(filters(&lab), before.1, "checks go the VIP's way: {log}");
    flows.assert_alive("before unload");
    // Refused while a controller runs.
    let refused = try_unload(&site);
    let pid = site.node.balancer.controller().unwrap().pid();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("pid {pid}")), "{said}");
    flows.assert_alive("unload was refused");
    site.node.stop().unwrap();
    unload(&site);
    // The kernel itself creates two files there.
    let mut pins = names(site.node.balancer.bpffs());
    pins.retain(|name| !name.ends_with(".debug"));
    assert_eq!(pins, Vec::<String>::new(), "pins");
    assert_eq!(program(&lab), None, "program");
    let mut links = loaded_links().filter_map(Result::ok);
    assert!(links.all(|link| link.id() != attached_by), "link");
    assert_eq!(
        (reserved_ports(&lab), filters(&lab)),
        before,
        "ports and tc"
    );
    // The lock is released: a controller with another state folder may start.
    let text = site
        .node
        .configuration()
        .to_toml(lab.balancers[0].directory());
    let other = text.replace("/state\"", "/other\"");
    site.node.balancer.write_configuration(&other).unwrap();
    site.node.restart().unwrap();
    site.node.stop().unwrap();
    // Again, with nothing to remove.
    unload(&site);
    unload(&site);
    drop(flows);
}

/// Returns the programs at the traffic-control hooks of the node's interface, attached as filters or by tcx.
fn filters(lab: &Lab) -> String {
    let ns = &lab.balancers[0].ns;
    let tc = |direction: &str| {
        let mut command = lab::tool::command("tc").unwrap();
        command.args(["filter", "show", "dev", "eth0", direction]);
        let output = finish(&ns.entry(), command, "").unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let tcx = ns.enter(|| tcx_programs("eth0"));
    format!("{}{}{tcx} by tcx", tc("ingress"), tc("egress"))
}

/// Returns the number of programs attached by tcx.
fn tcx_programs(interface: &str) -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};
    [TcAttachType::Ingress, TcAttachType::Egress]
        .map(|place| {
            SchedClassifier::query_tcx(interface, place).map_or(0, |(_, found)| found.len())
        })
        .iter()
        .sum()
}
