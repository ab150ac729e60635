//! The draws of ports for one client of `nat`, see [`PortChoice`](lb_common::nat::PortChoice).

/// Fewest draws that a configuration may give to a client: with fewer, a client that keeps a few
/// connections open finds no port for more.
pub const MIN_NAT_DRAWS: u32 = 16;

/// Returns how many times ports are drawn, with repetition, for a client that may use this share of them: each port
/// stays undrawn with probability (1 − 1/ports)^draws. 0, without a limit, for a share of 1.
#[must_use]
pub fn nat_draws(share: f64, ports: u16) -> u32 {
    let undrawn = 1.0 - share;
    if undrawn <= 0.0 {
        return 0;
    }
    let draws = -undrawn.ln() * f64::from(ports);
    (draws.round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::{
        hash::{self, HashKey},
        nat::{NatSource, PORT_TRIES, PortChoice},
        vip::Vip,
    };

    use super::*;

    const HASH_KEY: HashKey = HashKey {
        k0: 1,
        k1: 0x2d35_8dcc_aa6c_78a5,
        k2: 0x8bb8_4b93_962e_acc9,
        k3: 4,
    };

    fn choice(client: u64, ports: u16, draws: u32, flow_hash: u64) -> PortChoice {
        let source = NatSource {
            address: [0; 2],
            first_port: 0,
            ports,
            draws,
        };
        let vip = Vip {
            hash_key: HASH_KEY,
            ..bytemuck::Zeroable::zeroed()
        };
        PortChoice::new(&source, &vip, &[client, 0], flow_hash)
    }

    /// The ports that a client with this address may use.
    fn drawn(client: u64, share: f64, ports: u16) -> BTreeSet<u16> {
        let draws = nat_draws(share, ports);
        let len = u64::from(if draws == 0 { ports.into() } else { draws });
        // The first attempt of these flows is each of the draws.
        let flows = (0..len).map(|n| (n << 32).div_ceil(len));
        flows
            .map(|flow_hash| choice(client, ports, draws, flow_hash).nth(0))
            .collect()
    }

    #[test]
    fn a_client_may_use_its_share_of_the_ports() {
        for ports in [256, 1000, 16_384, 65_535] {
            for share in [0.01, 0.25, 0.5, 0.9, 1.0] {
                let drawn = drawn(7, share, ports);
                assert!(drawn.iter().all(|&port| port < ports));
                let off = drawn.len() as f64 / f64::from(ports) - share;
                let deviation = (share * (1.0 - share) / f64::from(ports)).sqrt();
                assert!(off.abs() <= 5.0 * deviation, "{ports} {share}: {off}");
            }
        }
    }

    /// What two clients have in common is what chance explains, also if their addresses are neighbours.
    #[test]
    fn clients_have_different_ports() {
        const PORTS: u16 = 16_384;
        for client in 1..100 {
            let [one, other] = [client, client + 1].map(|client| drawn(client, 0.5, PORTS));
            let common = one.intersection(&other).count() as f64 / f64::from(PORTS);
            assert!((common - 0.25).abs() < 0.02, "{client}: {common}");
        }
    }

    /// Of few draws every flow tries all, of many nearly as many as it has attempts. A step from attempt to
    /// attempt that shares a factor with 177, the draws for half of 256 ports, would try three.
    #[test]
    fn every_flow_tries_many_ports() {
        for draws in [3, 16, 177, 11_356, 16_384] {
            // Drawn from so many that they rarely repeat, and not drawn.
            for (ports, draws) in [(65_535, draws), (draws as u16, 0)] {
                let tried = |flow| {
                    let choice = choice(7, ports, draws, hash::hash_word(&HASH_KEY, flow));
                    let ports = (0..PORT_TRIES).map(|attempt| choice.nth(attempt));
                    ports.collect::<BTreeSet<_>>().len()
                };
                let fewest = (0..10_000).map(tried).min().unwrap();
                let len = if draws == 0 { ports.into() } else { draws };
                let most = PORT_TRIES.min(len) as usize;
                assert!(fewest >= most * 3 / 4, "{draws} draws of {ports}: {fewest}");
            }
        }
    }
}
