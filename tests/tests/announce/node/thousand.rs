//! 1,000 VIPs: their proofs, their routes, and one more.

use std::fmt::Write as _;

use super::*;

const VIPS: u32 = 1000;
/// How long the processor time of the announcer is measured.
const MEASURED: Duration = Duration::from_secs(2);

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(203, 0, 112, 0)) + number).into()
}

fn configure(vips: u32) -> String {
    let mut text = String::new();
    for number in 0..vips {
        let vip = web(node_v4(1)).replace("\"web\"", &format!("\"web-{number}\"\nring_size = 251"));
        let vip = vip.replace(
            &format!("\"{}\"", super::vip()),
            &format!("\"{}\"", address(number)),
        );
        let _ = write!(text, "{vip}");
    }
    text
}

/// The number of routes to VIPs in the router's kernel.
fn routes(site: &Site) -> Result<usize> {
    let text = lab::link::ip_output(&site.router_host.ns, "-4 route show proto bird")?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with("203.0."))
        .count())
}

/// Processor time of a process so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|it| it.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 on all architectures that run this.
    Duration::from_millis(ticks * 10)
}

#[test]
fn a_thousand_vips_are_announced_and_one_more_changes_no_other() {
    if !lab::skip::can_run("announce 1,000 VIPs", &["ip", "bird", "birdc"]) {
        return;
    }
    let site = Site::new(&RouterPlan::default()).unwrap();
    let host = &site.nodes[0];
    let start = Instant::now();
    let mut node = Node::with(&site, 0, &by_bgp(node_v4(0)), &configure(VIPS)).unwrap();
    deadline::until(
        "1,000 routes",
        LIMIT,
        || Ok(routes(&site)? == VIPS as usize),
    )
    .unwrap();
    println!(
        "1,000 VIPs are routed {:?} after the start",
        start.elapsed()
    );

    // `setpriv` has become the announcer.
    let pid = node.announcer.pid();
    let (before, since) = (processor_time(pid), Instant::now());
    std::thread::sleep(MEASURED);
    let used = (processor_time(pid) - before).as_secs_f64() / since.elapsed().as_secs_f64();
    println!(
        "proving 1,000 VIPs takes {:.1} % of a processor",
        used * 100.0
    );

    let text = configuration(host, &by_bgp(node_v4(0)), &configure(VIPS + 1));
    let start = Instant::now();
    assert_eq!(node.state().unwrap()["peers"][0]["state"], "Established");
    node.balancer.reload(&text).unwrap();
    let added = address(VIPS);
    deadline::until("a route to one more VIP", LIMIT, || {
        Ok(!site.next_hops(added)?.is_empty())
    })
    .unwrap();
    println!(
        "one more VIP is routed {:?} after the reload",
        start.elapsed()
    );
    assert_eq!(routes(&site).unwrap(), VIPS as usize + 1);
    let mut peer = Value::Null;
    deadline::until("all routes are sent", LIMIT, || {
        peer = node.state()?["peers"][0].clone();
        Ok(peer["routes_sent"] == VIPS + 1)
    })
    .unwrap();
    assert_eq!(peer["flaps"], 0, "{peer:#}");
    // The same session.
    let age_s = peer["for_s"].as_f64().unwrap();
    assert!(age_s >= start.elapsed().as_secs_f64() - 1.0, "{peer:#}");
}
