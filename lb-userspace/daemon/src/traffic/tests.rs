//! Totals over everything that can happen to counters.

use bytemuck::Zeroable;
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use super::*;

mod bounds;
mod limits;
mod stored;

const EPOCH: &str = "boot-1 map-7";

/// A kernel with one VIP: members by index, and a clock.
struct Node {
    start: Instant,
    second: u64,
    members: BTreeMap<MemberIndex, (String, u32, MemberCounters)>,
    own: VipCounters,
    limits: Option<LimitCounters>,
    overfull: Option<Overfull>,
    spills: BTreeMap<MemberIndex, Spills>,
}

impl Node {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            second: 0,
            members: BTreeMap::new(),
            own: VipCounters::zeroed(),
            limits: None,
            overfull: None,
            spills: BTreeMap::new(),
        }
    }

    fn put(&mut self, index: MemberIndex, generation: u32, backend: &str) {
        let zero = MemberCounters::zeroed();
        self.members
            .insert(index, (backend.to_owned(), generation, zero));
    }

    fn count(&mut self, index: MemberIndex, new_flows: u64) {
        let counters = &mut self.members.get_mut(&index).unwrap().2;
        counters.new_flows += new_flows;
        counters.packets += 10 * new_flows;
        counters.bytes += 1000 * new_flows;
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.second as i64).unwrap()
    }

    fn sample(&self) -> Sample<'_> {
        Sample {
            at: self.start + Duration::from_secs(self.second),
            wall: self.wall(),
            members: self
                .members
                .iter()
                .map(|(&index, (backend, generation, counters))| MemberSample {
                    vip: "api",
                    backend,
                    index,
                    generation: *generation,
                    counters: *counters,
                    spills: self.spills.get(&index).copied(),
                })
                .collect(),
            vips: vec![VipSample {
                vip: "api",
                index: 3,
                counters: self.own,
                limits: self.limits,
                overfull: self.overfull,
            }],
        }
    }

    /// A second goes by, then everything is read.
    fn tick(&mut self, traffic: &mut Traffic) -> bool {
        self.second += 1;
        traffic.observe(&self.sample())
    }
}

fn flows(traffic: &Traffic, backend: &str) -> u64 {
    traffic.member("api", backend).unwrap().totals().new_flows
}

#[test]
fn a_reused_index_does_not_change_the_former_member() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.count(0, 5);
    assert!(node.tick(&mut traffic), "a member came");
    node.count(0, 5);
    assert!(!node.tick(&mut traffic));
    assert_eq!(flows(&traffic, "a"), 10);
    // It leaves; b gets the index, and has already counted more than a had when it is first read.
    node.put(0, 2, "b");
    node.count(0, 25);
    assert!(node.tick(&mut traffic));
    assert_eq!((flows(&traffic, "a"), flows(&traffic, "b")), (10, 25));
    // a returns under another index.
    node.put(1, 1, "a");
    node.count(1, 3);
    assert!(node.tick(&mut traffic));
    assert_eq!((flows(&traffic, "a"), flows(&traffic, "b")), (13, 25));
    assert_eq!(traffic.vip("api").unwrap().totals.new_flows, 38);
}

#[test]
fn a_renamed_member_counts_from_the_rename() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "old");
    node.count(0, 5);
    node.tick(&mut traffic);
    node.members.get_mut(&0).unwrap().0 = "new".to_owned();
    node.count(0, 2);
    assert!(node.tick(&mut traffic));
    assert_eq!((flows(&traffic, "old"), flows(&traffic, "new")), (5, 2));
}

#[test]
fn two_members_can_share_a_name() {
    // The backend got another address: the old member leaves while the new one serves.
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.put(1, 1, "a");
    node.count(0, 5);
    node.count(1, 7);
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 12);
    node.members.remove(&0);
    node.count(1, 1);
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 13);
}

#[test]
fn reset_counters_are_added() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.count(0, 100);
    node.own.track_hits = 50;
    node.tick(&mut traffic);
    node.put(0, 1, "a");
    node.count(0, 30);
    node.own.track_hits = 2;
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 130);
    assert_eq!(traffic.vip("api").unwrap().counters.track_hits, 52);
}

#[test]
fn totals_never_decrease_after_a_crash() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.count(0, 100);
    node.tick(&mut traffic);
    let ledger = traffic.to_ledger(false);
    // Eight more seconds are shown to the world and never saved.
    for _ in 0..8 {
        node.count(0, 10);
        node.tick(&mut traffic);
    }
    assert_eq!(flows(&traffic, "a"), 180);
    let (mut traffic, error) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
    assert!(error.is_none(), "{error:?}");
    // Nobody controlled for a while; the kernel went on counting.
    node.count(0, 1000);
    node.second += 60;
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 1180);
    assert_eq!(traffic.vip("api").unwrap().totals.new_flows, 1180);
    // What was counted before the start is no rate of now.
    assert_eq!(traffic.vip("api").unwrap().rates, Rates::default());
}

#[test]
fn recreated_maps_start_at_0() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.count(0, 100);
    node.tick(&mut traffic);
    let (stopped, killed) = (traffic.to_ledger(true), traffic.to_ledger(false));
    // Index and generation are the same by chance, and there were more flows than before.
    node.put(0, 1, "a");
    node.count(0, 150);
    let (mut traffic, error) = Traffic::from_ledger("boot-2 map-7", &stopped, node.wall());
    assert!(error.is_none(), "{error:?}");
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 250);
    // Something was shown that is not in the ledger: better 0 than a little less than before, which Prometheus
    // would take for a new start and count everything again.
    let (mut traffic, error) = Traffic::from_ledger("boot-2 map-7", &killed, node.wall());
    assert!(
        matches!(error, Some(LedgerError::LostCounters)),
        "{error:?}"
    );
    node.tick(&mut traffic);
    assert_eq!(flows(&traffic, "a"), 150);
}

#[test]
fn rates_shares_and_windows_follow_the_last_seconds() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.put(1, 1, "b");
    node.count(0, 1_000_000);
    node.tick(&mut traffic);
    assert!(traffic.window("api", Duration::from_secs(10)).is_none());
    for _ in 0..30 {
        node.count(0, 30);
        node.count(1, 10);
        node.tick(&mut traffic);
    }
    for _ in 0..10 {
        node.count(0, 10);
        node.count(1, 10);
        node.tick(&mut traffic);
    }
    let a = traffic.member("api", "a").unwrap();
    assert_eq!(a.rates.new_flows_per_s, 10.0);
    assert_eq!(
        (a.rates.packets_per_s, a.rates.bytes_per_s),
        (100.0, 10_000.0)
    );
    // 40 seconds are there: 30 × 30 + 10 × 10 of 40 × 30 + 10 × 20.
    assert_eq!(a.observed_share, Some(1000.0 / 1400.0));
    let vip = traffic.vip("api").unwrap();
    assert_eq!(vip.rates.new_flows_per_s, 20.0);
    assert_eq!(vip.peak_new_flows_per_s, 40.0);
    let window = traffic.window("api", Duration::from_secs(20)).unwrap();
    assert_eq!((window.seconds, window.total.new_flows), (20.0, 600));
    let members: Vec<_> = window.members.iter().map(|(_, t)| t.new_flows).collect();
    assert_eq!(members, [400, 200]);
    let newest = traffic.newest("api").unwrap();
    assert_eq!((newest.seconds, newest.total.new_flows), (1.0, 20));
    // A reading that came late is no busy second.
    node.count(0, 50);
    node.second += 4;
    node.tick(&mut traffic);
    let newest = traffic.newest("api").unwrap();
    assert_eq!((newest.seconds, newest.total.new_flows), (5.0, 50));
}

#[test]
fn members_count_only_while_present() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    for _ in 0..20 {
        node.count(0, 10);
        node.tick(&mut traffic);
    }
    node.put(1, 1, "b");
    node.count(1, 10);
    node.tick(&mut traffic);
    let rate = |traffic: &Traffic, name| {
        let rates = traffic.member("api", name).unwrap().rates;
        rates.new_flows_per_s
    };
    assert_eq!((rate(&traffic, "a"), rate(&traffic, "b")), (9.0, 1.0));
    node.members.remove(&1);
    for _ in 0..200 {
        node.tick(&mut traffic);
    }
    assert_eq!((rate(&traffic, "a"), rate(&traffic, "b")), (0.0, 0.0));
    assert_eq!(flows(&traffic, "b"), 10);
    assert_eq!(traffic.copy().vips["api"].members.len(), 1);
    assert_eq!(traffic.member("api", "a").unwrap().observed_share, None);
}

#[test]
fn peaks_last_an_hour_across_restarts() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    for _ in 0..20 {
        node.count(0, 70);
        node.tick(&mut traffic);
    }
    let ledger = traffic.to_ledger(false);
    let peak = |traffic: &Traffic| traffic.vip("api").unwrap().peak_new_flows_per_s;
    assert_eq!(peak(&traffic), 70.0);
    let (mut traffic, _) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
    for second in 0..3700 {
        node.tick(&mut traffic);
        if !(3500..3600).contains(&second) {
            assert_eq!(peak(&traffic) == 70.0, second < 3500, "{second}");
        }
    }
}

/// What can happen to a member between two readings.
#[derive(Clone, Debug)]
enum Happening {
    Counts(u16, u64),
    /// Another member, or the same again, gets the index; its counters begin at 0.
    Given(u16, usize, u64),
    Leaves(u16),
    Read,
    Saved,
    Killed,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        (0..3_u16, 0..50_u64).prop_map(|(index, n)| Counts(index, n)),
        (0..3_u16, 0..4_usize, 0..50_u64).prop_map(|(index, name, n)| Given(index, name, n)),
        (0..3_u16).prop_map(Leaves),
        Just(Read),
        Just(Read),
        Just(Saved),
        Just(Killed),
    ]
}

proptest! {
    /// Whatever happens: no total goes backwards, and what was counted and read is in it once.
    #[test]
    fn no_total_goes_backwards(happenings in prop::collection::vec(happening(), 1..80)) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
        let mut generation = 0;
        let mut ledger = traffic.to_ledger(true);
        let mut shown = [0; 4];
        let mut truth = [0; 4];
        for happening in happenings {
            // A reading comes before an index is given away, as the controller does it.
            let gives_away = matches!(happening, Happening::Given(..) | Happening::Leaves(_));
            if gives_away || matches!(happening, Happening::Read) {
                if node.tick(&mut traffic) || gives_away {
                    ledger = traffic.to_ledger(false);
                }
                for (name, shown) in NAMES.iter().zip(&mut shown) {
                    let now = traffic.member("api", name).map_or(0, |m| m.counters.new_flows);
                    prop_assert!(now >= *shown, "{name}: {now} after {shown}");
                    *shown = now;
                }
            }
            match happening {
                Happening::Counts(index, n) if node.members.contains_key(&index) => {
                    node.count(index, n);
                    let name = &node.members[&index].0;
                    truth[NAMES.iter().position(|n| n == name).unwrap()] += n;
                }
                Happening::Given(index, name, n) => {
                    generation += 1;
                    node.put(index, generation, NAMES[name]);
                    node.count(index, n);
                    truth[name] += n;
                }
                Happening::Leaves(index) => {
                    node.members.remove(&index);
                }
                Happening::Saved => ledger = traffic.to_ledger(false),
                Happening::Killed => {
                    let (again, error) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
                    prop_assert!(error.is_none());
                    traffic = again;
                }
                _ => {}
            }
        }
        node.tick(&mut traffic);
        for (name, truth) in NAMES.iter().zip(truth) {
            let total = traffic.member("api", name).map_or(0, |m| m.counters.new_flows);
            prop_assert_eq!(total, truth, "{}", name);
        }
    }
}

/// Not a test of time: prints what a second costs. `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_4096_members() {
    let names: Vec<(String, String)> = (0..4096)
        .map(|i| (format!("vip-{}", i / 64), format!("backend-{i}")))
        .collect();
    let mut traffic = Traffic::new(EPOCH);
    let start = Instant::now();
    let mut spent = Duration::ZERO;
    let mut read = Duration::ZERO;
    // Processor time: others may be at work on this machine.
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    for second in 0..200_u64 {
        let counters = MemberCounters {
            packets: second * 1000,
            bytes: second * 100_000,
            new_flows: second * 100,
            ..MemberCounters::zeroed()
        };
        let members = names
            .iter()
            .enumerate()
            .map(|(i, (vip, backend))| MemberSample {
                vip,
                backend,
                index: i as u16,
                generation: 1,
                counters,
                spills: None,
            });
        let sample = Sample {
            at: start + Duration::from_secs(second),
            wall: Timestamp::UNIX_EPOCH,
            members: members.collect(),
            vips: Vec::new(),
        };
        let begun = now();
        traffic.observe(&sample);
        spent += now() - begun;
        let begun = now();
        for (vip, backend) in &names {
            std::hint::black_box(traffic.member(vip, backend));
        }
        read += now() - begun;
    }
    let begun = now();
    let ledger = traffic.to_ledger(false);
    println!(
        "4096 members: observe {:?}, all rates and shares {:?}, ledger {:?} ({} KiB)",
        spent / 200,
        read / 200,
        now() - begun,
        ledger.len() / 1024
    );
}
