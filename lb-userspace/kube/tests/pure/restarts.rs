//! Restarts of the controller at any moment: no address is given twice, and none moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_kube::{plan::decide, text::Tables};
use proptest::{prelude::*, test_runner::Config};
use serde_json::json;

use super::*;

/// What happens between two restarts.
#[derive(Clone, Debug)]
enum Step {
    /// A Service is made, or its deletion is begun.
    Make(u8),
    Delete(u8),
    /// The controller starts, decides, and writes the VIPs of these Services before it is killed, or all of them.
    Run(u32),
    /// Addresses get into the status of these Services.
    Publish(u32),
    /// The configuration is replaced by an older one, as by a rollback.
    RollBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..12_u8).prop_map(Step::Make),
        1 => (0..12_u8).prop_map(Step::Delete),
        6 => any::<u32>().prop_map(Step::Run),
        2 => any::<u32>().prop_map(Step::Publish),
        1 => Just(Step::RollBack),
    ];
    prop::collection::vec(step, 100)
}

struct World {
    services: BTreeMap<u8, Option<IpAddr>>,
    deleted: BTreeSet<u8>,
    tables: Tables,
    older: Tables,
}

impl World {
    fn objects(&self) -> Vec<Arc<Service>> {
        let object = |(number, published): (&u8, &Option<IpAddr>)| {
            service(&format!("s{number}"), |object| {
                if let Some(address) = published {
                    let ip = address.to_string();
                    object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": ip }] } });
                }
                if self.deleted.contains(number) {
                    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
            })
        };
        self.services.iter().map(object).collect()
    }

    fn address(&self, number: u8) -> Option<IpAddr> {
        let name = format!("k8s.default.s{number}.tcp-80");
        let mut all = self.tables.addresses();
        Some(all.find(|(known, _)| *known == name)?.1)
    }

    fn run(&mut self, chosen: u32) {
        let settings = settings(&["192.0.2.0/29"]);
        let decision = decide(&settings, &self.objects(), &self.tables, &|_| true);
        let older = self.tables.clone();
        for (at, key) in decision.services.keys().enumerate() {
            if chosen & (1 << at) != 0 {
                decision.apply(&mut self.tables, "k8s", key);
            }
        }
        for orphan in &decision.orphans {
            self.tables.remove(orphan);
        }
        self.older = older;
        // A Service that is deleted goes once its VIPs are gone.
        let gone: Vec<u8> = (self.deleted.iter().copied())
            .filter(|number| self.address(*number).is_none())
            .collect();
        for number in gone {
            self.services.remove(&number);
            self.deleted.remove(&number);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Make(number) if !self.deleted.contains(&number) => {
                self.services.entry(number).or_default();
            }
            Step::Delete(number) if self.services.contains_key(&number) => {
                self.deleted.insert(number);
            }
            Step::Run(chosen) => self.run(chosen),
            Step::Publish(chosen) => {
                for number in self.services.keys().copied().collect::<Vec<_>>() {
                    if let (true, Some(address)) =
                        (chosen & (1 << number) != 0, self.address(number))
                    {
                        self.services.insert(number, Some(address));
                    }
                }
            }
            Step::RollBack => self.tables = self.older.clone(),
            Step::Make(_) | Step::Delete(_) => {}
        }
    }
}

proptest! {
    // 200 times 100 steps, of which half are restarts.
    #![proptest_config(Config::with_cases(200))]

    #[test]
    fn restarts_give_no_address_twice_and_move_none(steps in steps()) {
        let mut world = World {
            services: BTreeMap::new(),
            deleted: BTreeSet::new(),
            tables: Tables::read("").unwrap(),
            older: Tables::read("").unwrap(),
        };
        for step in &steps {
            let before: Vec<_> = (world.services.keys())
                .map(|number| (*number, world.address(*number)))
                .collect();
            world.step(step);
            let all: Vec<IpAddr> = world.tables.addresses().map(|(_, address)| address).collect();
            let different: BTreeSet<&IpAddr> = all.iter().collect();
            prop_assert_eq!(all.len(), different.len(), "{:?}: {:?}", step, all);
            if matches!(step, Step::RollBack) {
                continue;
            }
            for (number, address) in before {
                let is_there = world.services.contains_key(&number) && !world.deleted.contains(&number);
                if let (true, Some(address)) = (is_there, address) {
                    prop_assert_eq!(world.address(number), Some(address), "{:?}", step);
                }
            }
        }
    }
}
