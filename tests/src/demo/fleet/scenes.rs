//! The scenes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lb_api::{FleetNodeState, FleetRolloutState, RevisionInfo, RevisionState};

use super::document;
use super::proof::Conditions;
use super::report::{Report, Scene};
use super::site::{LIMIT, NODES, Site, name};
use super::traffic::Traffic;
use crate::deadline;
use crate::traffic::steady::Finished;

/// Between two looks at the router's route: for measuring, and for waiting.
const MEASURE: Duration = Duration::ZERO;
const WAIT: Duration = Duration::from_millis(50);
/// How long traffic is watched in a state.
const WATCH: Duration = Duration::from_secs(3);
/// A request that takes longer has lost a packet: TCP sends a SYN again after a second.
const SLOW: Duration = Duration::from_millis(900);
/// The weight of the mistake: two zeros too many.
const MISTAKE: u32 = 10_000;

/// Plays all scenes.
pub(super) fn play(
    site: &mut Site<'_>,
    mut traffic: Traffic<'_>,
    report: &mut Report,
) -> Result<()> {
    type Play = fn(&mut Site<'_>, &mut Traffic<'_>, &mut Report) -> Result<Scene>;
    let scenes: [(&str, Play); 5] = [
        ("Three nodes share the traffic", shared),
        ("A change with a mistake", mistake),
        ("A node is killed", killed),
        ("A node is drained for maintenance", drained),
        ("A node is rebooted", rebooted),
    ];
    for (number, (title, play)) in (1..).zip(scenes) {
        report.say(&format!("\n{number}. {title}"));
        let scene = play(site, &mut traffic, report).with_context(|| title.to_owned())?;
        report.end(scene);
    }
    report.say("");
    Ok(())
}

/// The state before anything happens.
fn shared(site: &mut Site<'_>, traffic: &mut Traffic<'_>, report: &mut Report) -> Result<Scene> {
    let mut scene = Scene::new("shared");
    let before = site.new_flows()?;
    deadline::pause(WATCH)?;
    let flows = site.new_flows()?;
    let flows: Vec<u64> = flows.iter().zip(before).map(|(a, b)| a - b).collect();
    let total: u64 = flows.iter().sum();
    let share = |flows: &u64| 100.0 * *flows as f64 / total.max(1) as f64;
    let shares = flows.iter().enumerate();
    let shares: Vec<String> = shares
        .map(|(node, flows)| format!("{} {:.0} %", name(node), share(flows)))
        .collect();
    report.fact(&format!("share of new connections: {}", shares.join(", ")));
    scene.expect(flows.iter().all(|flows| share(flows) > 10.0), || {
        "a node has hardly any traffic".to_owned()
    });
    scene.judge(traffic.cut()?, None);
    Ok(scene)
}

/// The change of the outage: nearly all traffic would go to one backend.
fn mistake(site: &mut Site<'_>, traffic: &mut Traffic<'_>, report: &mut Report) -> Result<Scene> {
    let mut scene = Scene::new("mistake");
    let vips = document::vips()?;
    let weight = format!("weight = {MISTAKE}\n");
    let mut text = vips;
    for backend in ["web-1", "echo-1"] {
        let line = format!("name = \"{backend}\"\n");
        text = document::replace(&text, &[(&line, format!("{line}{weight}"))])?;
    }
    let file = site.fleet.write("mistake.toml", &text)?;
    report.fact(&format!(
        "mistake.toml gives one of three backends weight {MISTAKE} instead of 100: 98 % of all traffic"
    ));
    let before: Vec<usize> = (0..NODES)
        .map(|node| Ok(revisions(site, node)?.len()))
        .collect::<Result<_>>()?;

    let apply = ["fleet", "apply", &file];
    report.command("lb-1", &["fleet", "apply", "mistake.toml"]);
    let (code, shown) = site.command(0, &apply)?.finish()?;
    tell(report, code, &shown);
    scene.expect(code == 3, || {
        format!("the guards did not refuse it: exit code {code}")
    });
    let changed = changed(site, &before)?;
    scene.expect(changed.is_empty(), || {
        format!("the refused change was made on {}", changed.join(", "))
    });
    report.fact("no node was changed. Now somebody in a hurry overrides the guard:");

    let force = ["--force", "max_share", "--bake", "30s"];
    report.command(
        "lb-1",
        &[&["fleet", "apply", "mistake.toml"], &force[..]].concat(),
    );
    let (code, shown) = site.command(0, &[&apply, &force[..]].concat())?.finish()?;
    tell(report, code, &shown);
    scene.expect(code == 4, || {
        format!("the canary did not catch it: exit code {code}")
    });
    canary(site, report, &mut scene, &before)?;
    scene.judge(traffic.cut()?, None);
    Ok(scene)
}

/// Tells which nodes had the change, for how long.
fn canary(site: &Site<'_>, report: &Report, scene: &mut Scene, before: &[usize]) -> Result<()> {
    let all_undone = || {
        let fleet = site.fleet.fleet(0)?;
        let in_sync = fleet
            .nodes
            .iter()
            .all(|node| node.state == FleetNodeState::InSync);
        let rollout = fleet.rollout.map(|rollout| rollout.state);
        Ok(in_sync && rollout == Some(FleetRolloutState::Undone))
    };
    deadline::until("all nodes run the head again", LIMIT, all_undone)?;
    let changed = changed(site, before)?;
    let others = (0..NODES).map(name).filter(|name| !changed.contains(name));
    let others: Vec<String> = others.collect();
    for node in 0..NODES {
        let last = revisions(site, node)?.pop().context("no revision")?;
        if let (true, RevisionState::RolledBack { at, .. }) =
            (changed.contains(&name(node)), &last.state)
        {
            let active = Duration::try_from(at.duration_since(last.at))?;
            scene.undone = Some(active);
            report.fact(&format!(
                "only the canary {} had the change, for {:.1} s; never changed: {}",
                name(node),
                active.as_secs_f64(),
                others.join(", ")
            ));
        }
    }
    scene.expect(changed.len() == 1, || {
        format!("not only the canary was changed: {}", changed.join(", "))
    });
    scene.expect(scene.undone.is_some(), || "it was not undone".to_owned());
    Ok(())
}

fn revisions(site: &Site<'_>, node: usize) -> Result<Vec<RevisionInfo>> {
    let all = site.fleet.nodes[node].operator().get("/v1/revisions")?;
    serde_json::from_value(all).context("revisions")
}

/// Returns the nodes that have more revisions than before.
fn changed(site: &Site<'_>, before: &[usize]) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for (node, before) in before.iter().enumerate() {
        if revisions(site, node)?.len() > *before {
            changed.push(name(node));
        }
    }
    Ok(changed)
}

/// Prints what matters of a command's output: guards that refuse, and the outcome.
fn tell(report: &Report, code: i32, shown: &str) {
    // A wrapped line goes on with deep indentation.
    const INDENT: &str = "\n            ";
    let mut text = shown.to_owned();
    while let Some(at) = text.find(INDENT) {
        let rest = text.split_off(at);
        text += " ";
        text += rest.trim_start();
    }
    let matters = |line: &&str| {
        let line = line.trim_start();
        line.starts_with('✗') || line.starts_with("evenkeel: ") || line.contains(": undone: ")
    };
    for line in text.lines().filter(matters) {
        report.fact(line.trim());
    }
    report.fact(&format!("(exit code {code})"));
}

/// Without a word: the link is down, and all processes are killed.
fn killed(site: &mut Site<'_>, traffic: &mut Traffic<'_>, report: &mut Report) -> Result<Scene> {
    const NODE: usize = 2;
    let mut scene = Scene::new("killed");
    report.fact(
        "lb-3 loses power: its link is down, all its processes are killed (SIGKILL); its sessions end without a packet",
    );
    let start = Instant::now();
    site.cut_power(NODE)?;
    site.wait_hops(&[0, 1], MEASURE)?;
    let withdrawn = start.elapsed();
    scene.withdrawn = Some(withdrawn);
    let noticed = Instant::now();
    report.fact(&format!(
        "the router notices by BFD (3 × 100 ms), and routes everything to lb-1 and lb-2 after {} ms",
        withdrawn.as_millis()
    ));
    deadline::pause(WATCH)?;
    report.fact("the power is back, and lb-3 boots: without the program and its tables");
    boot(site, NODE, report, &mut scene)?;
    deadline::pause(WATCH)?;
    let counted = traffic.cut()?;
    let waited = |request: &&Finished| request.took > SLOW && request.began < noticed;
    report.fact(&format!(
        "requests that took longer than {} ms, because their first packet went to the dead node: {}",
        SLOW.as_millis(),
        counted.requests.iter().filter(waited).count()
    ));
    // What was in progress on the node may be known to it alone.
    scene.judge(counted, Some(noticed));
    Ok(scene)
}

/// Boots a node, and tells what it waited for before it was announced.
fn boot(site: &mut Site<'_>, node: usize, report: &Report, scene: &mut Scene) -> Result<()> {
    let start = Instant::now();
    let conditions = Conditions::watch(&site.announce_socket(node))?;
    site.boot(node)?;
    site.wait_hops(&[0, 1, 2], WAIT)?;
    let routed = Instant::now();
    let announced = routed - start;
    scene.announced = Some(announced);
    let unmet = conditions.finish();
    report.fact(&format!(
        "the router routes to it again {:.1} s after its processes were started: it announces the VIP once it has \
         proven that it forwards packets to it. Conditions (`evenkeel announce why`) were met:",
        announced.as_secs_f64()
    ));
    for (name, at) in &unmet {
        let after = (*at - start).as_secs_f64();
        report.fact(&format!("  after {after:.1} s `{name}`: {}", meaning(name)));
    }
    scene.expect(!unmet.is_empty(), || "announced without a proof".to_owned());
    let early = unmet.iter().any(|(_, at)| *at > routed);
    scene.expect(!early, || "announced before it was proven".to_owned());
    Ok(())
}

/// Returns what a condition means (`docs/announcing.md`).
fn meaning(condition: &str) -> &'static str {
    match condition {
        "linked" => "the program is attached",
        "forwards" => "test packets to all VIPs are forwarded",
        "warm" => "all backends are checked, and the other nodes have told the past of connections",
        _ => "test packets have been forwarded for 5 s",
    }
}

/// An operator takes a node out and brings it back.
fn drained(site: &mut Site<'_>, traffic: &mut Traffic<'_>, report: &mut Report) -> Result<Scene> {
    const NODE: usize = 0;
    let mut scene = Scene::new("drained");
    let drain = ["node", "drain", "--wait"];
    report.command("lb-1", &drain);
    let start = Instant::now();
    let mut command = site.command(NODE, &drain)?;
    let moved = site.wait_hops(&[1, 2], MEASURE)?;
    scene.withdrawn = Some(moved);
    deadline::until("the drain returns", LIMIT, || {
        Ok(command.exited()?.is_some())
    })?;
    let returned = start.elapsed();
    let (code, shown) = command.finish()?;
    scene.expect(code == 0, || format!("`node drain` failed: {shown}"));
    report.fact(&format!(
        "the router routes everything to lb-2 and lb-3 after {} ms (announced as worse); withdrawn after {:.1} s",
        moved.as_millis(),
        returned.as_secs_f64()
    ));
    let before = site.new_flows()?[NODE];
    deadline::pause(WATCH)?;
    let flows = site.new_flows()?[NODE] - before;
    report.fact(&format!(
        "new connections through lb-1 in the next {} s: {flows}",
        WATCH.as_secs()
    ));
    scene.expect(flows == 0, || {
        format!("{flows} new connections through the drained node")
    });
    report.command("lb-1", &["node", "undrain"]);
    let start = Instant::now();
    let (code, shown) = site.command(NODE, &["node", "undrain"])?.finish()?;
    scene.expect(code == 0, || format!("`node undrain` failed: {shown}"));
    site.wait_hops(&[0, 1, 2], MEASURE)?;
    let back = start.elapsed();
    scene.announced = Some(back);
    report.fact(&format!(
        "the router routes to it again after {} ms: it was proven all the time",
        back.as_millis()
    ));
    deadline::pause(WATCH)?;
    scene.judge(traffic.cut()?, None);
    Ok(scene)
}

/// As for a new kernel: services are stopped, everything in memory is gone.
fn rebooted(site: &mut Site<'_>, traffic: &mut Traffic<'_>, report: &mut Report) -> Result<Scene> {
    const NODE: usize = 1;
    let mut scene = Scene::new("rebooted");
    report.say("   lb-2$ systemctl reboot");
    let start = Instant::now();
    site.shut_down(NODE)?;
    site.wait_hops(&[0, 2], MEASURE)?;
    let withdrawn = start.elapsed();
    scene.withdrawn = Some(withdrawn);
    report.fact(&format!(
        "its announcer withdraws the VIP as it stops: the router routes everything to lb-1 and lb-3 after {} ms",
        withdrawn.as_millis()
    ));
    deadline::pause(WATCH)?;
    report.fact("it boots: without the program and its tables");
    boot(site, NODE, report, &mut scene)?;
    deadline::pause(WATCH)?;
    scene.judge(traffic.cut()?, None);
    Ok(scene)
}
