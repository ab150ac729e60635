//! Random flows: the same seed gives the same flows on every machine and in every version.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::packet::{Flow, first_frame};
use lb_model::config::Vip;

/// Number of draws without a new flow after which the VIP's flows count as exhausted.
const MAX_DRAWS: u32 = 1000;

/// SplitMix64 (Steele, Lea, Flood, 2014). Part of the output: `rand` promises no stable streams and
/// has no SplitMix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A port from `first` to 65,535.
    fn port_from(&mut self, first: u16) -> u16 {
        let ports = u64::from(u16::MAX - first) + 1;
        first + (((self.next() >> 32) * ports) >> 32) as u16
    }
}

/// Distinct flows to the VIPs in turn.
#[derive(Debug)]
pub struct Flows {
    vips: VecDeque<Vip>,
    taken: HashSet<(IpAddr, u16)>,
    seen: HashSet<Flow>,
    random: Random,
}

impl Flows {
    #[must_use]
    pub fn new(vips: &[Vip], seed: u64) -> Self {
        Self {
            taken: vips.iter().map(|vip| (vip.address, vip.port)).collect(),
            vips: vips.iter().cloned().collect(),
            seen: HashSet::new(),
            random: Random(seed),
        }
    }

    /// The first packet of the next flow; `None` if the flows are exhausted or there is no VIP.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        let vip = self.vips.pop_front()?;
        let drawn = (0..MAX_DRAWS).find_map(|_| {
            let flow = self.draw(&vip);
            let other = vip.port == 0 && self.taken.contains(&(vip.address, flow.dest_port));
            (!other && self.seen.insert(flow)).then_some(flow)
        });
        self.vips.push_back(vip);
        drawn.map(|flow| first_frame(&flow))
    }

    fn draw(&mut self, vip: &Vip) -> Flow {
        let source = match vip.address {
            // 198.18.0.0/15
            IpAddr::V4(_) => {
                let host = (self.random.next() >> 47) as u32;
                Ipv4Addr::from(0xc612_0000 | host).into()
            }
            // 2001:2::/48
            IpAddr::V6(_) => {
                let host =
                    u128::from(self.random.next()) | u128::from(self.random.next() >> 48) << 64;
                Ipv6Addr::from(0x2001_0002_0000 << 80 | host).into()
            }
        };
        Flow {
            protocol: vip.protocol,
            source,
            dest: vip.address,
            source_port: self.random.port_from(1024),
            dest_port: match vip.port {
                0 => self.random.port_from(1),
                port => port,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vips(text: &str) -> Vec<Vip> {
        let head =
            "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n";
        lb_model::config::parse("f", &format!("{head}{text}"))
            .unwrap()
            .vips
    }

    const TWO: &str = r#"
[[vip]]
name = "a"
address = "203.0.113.1"
port = 0
protocol = "udp"
forward = "l2"
[[vip.backend]]
name = "b"
address = "10.0.0.1"
[[vip]]
name = "c"
address = "2001:db8::1"
port = 443
protocol = "tcp"
forward = "l2"
[[vip.backend]]
name = "d"
address = "fd00::1"
"#;

    #[test]
    fn a_seed_gives_the_same_distinct_flows() {
        let frames = |seed| {
            let mut flows = Flows::new(&vips(TWO), seed);
            (0..500)
                .map(|_| flows.next_frame().unwrap())
                .collect::<Vec<_>>()
        };
        let first = frames(1);
        assert_eq!(first, frames(1));
        assert_ne!(first, frames(2));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 500);
        let v4 = first.iter().filter(|frame| frame[12] == 8).count();
        assert_eq!(v4, 250, "round robin over the VIPs");
        assert!(
            first
                .iter()
                .filter(|f| f[12] == 8)
                .all(|f| f[26] == 198 && f[27] & !1 == 18)
        );
        assert!(
            first
                .iter()
                .filter(|f| f[12] != 8)
                .all(|f| f[22..28] == [0x20, 1, 0, 2, 0, 0])
        );
    }

    #[test]
    fn without_vips_there_are_no_flows() {
        assert_eq!(Flows::new(&[], 1).next_frame(), None);
    }
}
