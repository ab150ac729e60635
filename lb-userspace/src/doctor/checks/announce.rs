//! Checks on announcing: the announcer, its peers, and what a router's side may lack.

use lb_api::{AddressState, AddressStatus, AnnounceStatus, DrainState, PeerStatus};
use lb_model::config::{AnnouncePeer, Config};

use super::HOST;
use crate::doctor::{Findings, Host};

const CHECK: &str = "announce";

pub(in super::super) fn announce(host: &Host, config: &Config, findings: &mut Findings) {
    let Some(announce) = &config.announce else {
        return;
    };
    if host.version().is_some_and(|version| version < (5, 14)) {
        findings.problem(
            CHECK,
            HOST,
            format!(
                "Linux {}: whether a VIP forwards can't be tried, so nothing is announced",
                host.kernel
            ),
            "use Linux 5.14 or newer, or announce the VIPs by a routing daemon of this host",
        );
    }
    match &host.announcer {
        Some(Ok(status)) => of_status(status, &announce.peers, findings),
        Some(Err(why)) => findings.warn(
            CHECK,
            HOST,
            format!("`evenkeel announce` does not answer: {why}"),
            "start it (`systemctl enable --now evenkeel-announce`): until then no router knows the VIPs",
        ),
        None => {}
    }
}

fn of_status(status: &AnnounceStatus, configured: &[AnnouncePeer], findings: &mut Findings) {
    let is_known = |name: &str| status.peers.iter().any(|peer| peer.name == name);
    for peer in configured.iter().filter(|peer| !is_known(&peer.name)) {
        findings.warn(
            CHECK,
            &peer.name,
            "`evenkeel announce` does not know this peer: its configuration is another one",
            "`systemctl reload evenkeel-announce`",
        );
    }
    for peer in &status.peers {
        let known = configured.iter().find(|it| it.name == peer.name);
        of_peer(peer, known, findings);
    }
    if let Some(kernel) = &status.kernel {
        let subject = format!("table {}", kernel.table);
        match &kernel.last_error {
            Some(error) if !kernel.in_sync => {
                findings.problem(CHECK, &subject, error, "see the log of `evenkeel announce`");
            }
            _ => findings.ok(CHECK, &subject, format!("routes: {}", kernel.routes)),
        }
        if let Some(route) = kernel.foreign.first() {
            let number = kernel.foreign.len();
            let finding = format!("routes of others: {number}, such as {route}");
            let advice =
                "use a table of its own (announce.table): the daemon exports these routes too";
            findings.warn(CHECK, &subject, finding, advice);
        }
    }
    if status.drain != DrainState::No {
        let finding = "the node is drained, so nothing is announced";
        findings.warn(
            CHECK,
            HOST,
            finding,
            "when its work is done: `evenkeel node undrain`",
        );
    }
    for known in &status.addresses {
        of_address(known, findings);
    }
}

fn of_address(known: &AddressStatus, findings: &mut Findings) {
    let subject = known.address.to_string();
    let Some(reason) = known.reason() else {
        // Withheld for no reason of its own: the node is drained.
        if known.state == AddressState::Announced {
            findings.ok(CHECK, &subject, "announced");
        }
        return;
    };
    let state = match known.state {
        AddressState::Worse => "announced as worse",
        _ if known.waits() => "not announced yet",
        _ => "not announced",
    };
    let advice = match &*reason.name {
        "linked" => {
            "start the controller: it attaches the program (`systemctl start evenkeel`)".to_owned()
        }
        "provable" => "restart `evenkeel announce` if the tables are of another version".to_owned(),
        "controller" => "start the controller: `systemctl start evenkeel`".to_owned(),
        "table" => "remove that route: a routing daemon may announce it, whatever this node proves"
            .to_owned(),
        _ => format!("see `evenkeel announce why {subject}`"),
    };
    let finding = format!("{state}: {}: {}", reason.name, reason.text);
    findings.warn(CHECK, &subject, finding, advice);
}

fn of_peer(peer: &PeerStatus, configured: Option<&AnnouncePeer>, findings: &mut Findings) {
    let name = &peer.name;
    if !peer.is_up() {
        let error = peer.last_error.as_deref().unwrap_or("no answer yet");
        let finding = format!("{} with {}: {error}", peer.state, peer.address);
        findings.problem(CHECK, name, finding, advice(error));
        return;
    }
    for problem in &peer.problems {
        let advice = "enable the address family for this neighbour on the router, or set next_hop_v4 or next_hop_v6";
        findings.warn(CHECK, name, problem, advice);
    }
    let has_bfd = configured.is_some_and(|peer| peer.bfd);
    if has_bfd && peer.bfd.as_deref() != Some("Up") {
        findings.warn(
            CHECK,
            name,
            format!("BFD is {}", peer.bfd.as_deref().unwrap_or("not running")),
            "enable BFD for this neighbour on the router, and let UDP port 3784 through; until then a silent death \
             of this node is noticed by the hold time only",
        );
    }
    findings.ok(
        CHECK,
        name,
        format!("established; routes: {}", peer.routes_sent),
    );
}

/// What to look at on the router.
fn advice(error: &str) -> &'static str {
    match error {
        _ if error.contains("refused") => {
            "configure BGP on the router with this node as a neighbour; BIRD refuses for `error wait time` after an error"
        }
        _ if error.contains("Administrative") => {
            "the router's side is shut down: enable this neighbour there"
        }
        _ if error.contains("AS is") => "correct announce.peer.peer_as, or the AS of the router",
        _ if error.contains("no reply") => {
            "compare the passwords; check the route to the router, and that TCP port 179 is let through"
        }
        _ if error.contains("before the session was established") => {
            "compare the AS numbers, the passwords and TTL security of both sides; the router's log names the reason"
        }
        _ => "compare the settings of this neighbour on the router",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Level,
        checks::sample::{config, host, level},
    };

    const TABLES: &str = "[announce]\nlocal_as = 65001\nrouter_id = \"10.0.1.2\"\n[[announce.peer]]\nname = \"tor-1\"\n\
                          address = \"10.0.1.1\"\npeer_as = 65000\nbfd = true\n";

    fn peer() -> PeerStatus {
        PeerStatus {
            name: "tor-1".to_owned(),
            address: [10, 0, 1, 1].into(),
            state: "Established".to_owned(),
            for_s: 60.0,
            last_error: None,
            flaps: 0,
            routes_sent: 1,
            acknowledged: true,
            bfd: Some("Up".to_owned()),
            problems: Vec::new(),
        }
    }

    fn found(answer: Result<PeerStatus, String>) -> Level {
        let mut host = host();
        host.announcer = Some(answer.map(|peer| AnnounceStatus {
            via: lb_api::AnnounceVia::Bgp,
            drain: lb_api::DrainState::No,
            drain_error: None,
            peers: vec![peer],
            kernel: None,
            checks: Vec::new(),
            addresses: Vec::new(),
        }));
        level(CHECK, |findings| announce(&host, &config(TABLES), findings))
    }

    #[test]
    fn tells_what_the_sessions_lack() {
        assert_eq!(found(Ok(peer())), Level::Ok);
        assert_eq!(found(Err("no such file".to_owned())), Level::Warning);
        let mut idle = peer();
        idle.state = "Idle".to_owned();
        idle.last_error = Some("connect: Connection refused (os error 111)".to_owned());
        assert_eq!(found(Ok(idle)), Level::Problem);
        let mut silent = peer();
        silent.bfd = Some("Down".to_owned());
        assert_eq!(found(Ok(silent)), Level::Warning);
        let mut half = peer();
        half.problems = vec!["IPv6 routes are not sent: not supported by the peer".to_owned()];
        assert_eq!(found(Ok(half)), Level::Warning);
    }

    /// The findings on a status that is otherwise right.
    fn findings(change: impl FnOnce(&mut AnnounceStatus)) -> Vec<(Level, String)> {
        let check = |name: &str, text: &str| lb_api::AnnounceCheck {
            name: name.to_owned(),
            is_met: false,
            text: text.to_owned(),
        };
        let mut status = AnnounceStatus {
            via: lb_api::AnnounceVia::Bgp,
            drain: DrainState::No,
            drain_error: None,
            peers: vec![peer()],
            kernel: None,
            checks: Vec::new(),
            addresses: vec![AddressStatus {
                address: [203, 0, 113, 10].into(),
                state: AddressState::Withheld,
                for_s: 1.0,
                vips: vec!["web".to_owned()],
                checks: vec![
                    check("wanted", "the node is drained"),
                    check("forwards", "web: NO_MEMBER"),
                    check("settled", "has to forward for 5 s"),
                ],
            }],
        };
        change(&mut status);
        let mut host = host();
        host.announcer = Some(Ok(status));
        let mut findings = Findings::default();
        announce(&host, &config(TABLES), &mut findings);
        let findings = findings.0.into_iter();
        let of_address = findings.filter(|it| it.subject != "tor-1");
        of_address.map(|it| (it.level, it.finding)).collect()
    }

    #[test]
    fn an_address_is_told_with_the_condition_that_matters_most() {
        let why = "not announced: forwards: web: NO_MEMBER";
        assert_eq!(findings(|_| {}), [(Level::Warning, why.to_owned())]);
        let waits = findings(|status| drop(status.addresses[0].checks.remove(1)));
        let why = "not announced yet: settled: has to forward for 5 s";
        assert_eq!(waits, [(Level::Warning, why.to_owned())]);
        let drained = findings(|status| {
            status.drain = DrainState::Drained;
            status.addresses[0].checks.truncate(1);
        });
        let why = "the node is drained, so nothing is announced";
        assert_eq!(drained, [(Level::Warning, why.to_owned())]);
    }

    #[test]
    fn old_kernels_can_prove_nothing() {
        let mut host = host();
        host.kernel = "5.10.0-32-amd64".to_owned();
        assert_eq!(
            level(CHECK, |findings| announce(&host, &config(TABLES), findings)),
            Level::Problem
        );
    }
}
