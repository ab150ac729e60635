//! Nothing is announced that does not forward: boots of a node.

use lab::traffic::syn;

use super::*;

/// Boots in a test run; `EVENKEEL_BOOTS` asks for more.
const BOOTS: usize = 2;

/// `announce.settle` in the configuration.
const SETTLE: Duration = Duration::from_secs(1);

fn boots() -> usize {
    let wanted = std::env::var("EVENKEEL_BOOTS").ok();
    wanted.map_or(BOOTS, |number| {
        number.parse().expect("EVENKEEL_BOOTS is a number")
    })
}

/// Each boot has no data path, empty tables, and knows no neighbour; in each second one, the backend comes up
/// last. When the router has its first route, a connection is opened through it at once: its first SYN must be
/// answered.
#[test]
fn nothing_is_announced_that_does_not_forward() {
    with_routers("announce after a boot", &plan(), |kind, site| {
        let _nginx = serve(site).unwrap();
        let backend = &site.nodes[1];
        let mut node = Node::start(site, 0, node_v4(1)).unwrap();
        let mut times = Vec::new();
        for boot in 0..boots() {
            node.announcer.kill();
            node.balancer.kill();
            node.unload();
            ip(&node.host.ns, &["neigh flush all"]).unwrap();
            let is_late = boot % 2 == 1;
            if is_late {
                ip(&backend.ns, &["link set eth0 down"]).unwrap();
            }
            node.wait_route(false);
            let start = Instant::now();
            node.announcer = start_announce(node.host, &node.balancer).unwrap();
            // Ready before the address has been proven for a second.
            node.run().unwrap();
            if is_late {
                node.wait_state("withheld");
                std::thread::sleep(SETTLE);
                assert!(
                    site.next_hops(vip()).unwrap().is_empty(),
                    "{kind:?}, boot {boot}"
                );
                ip(&backend.ns, &["link set eth0 up"]).unwrap();
            }
            deadline::until("the first route to the VIP", LIMIT, || {
                Ok(!site.next_hops(vip())?.is_empty())
            })
            .unwrap();
            let to = SocketAddr::new(vip(), 80);
            let connected = syn::connect(&site.router_host, to, LIMIT);
            times.push(start.elapsed());
            let again =
                connected.unwrap_or_else(|error| panic!("{kind:?}, boot {boot}: {error:#}"));
            assert_eq!(again, 0, "{kind:?}, boot {boot}: the first SYN was lost");
        }
        times.sort_unstable();
        println!(
            "{kind:?}: {} boots, each first SYN answered; from the start to the first connection {:.1?} to {:.1?}, \
             median {:.1?}",
            times.len(),
            times[0],
            times[times.len() - 1],
            times[times.len() / 2],
        );
    });
}
