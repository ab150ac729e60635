//! Which VIPs there should be. The configuration is the only record of which Service has which address, so a
//! restart forgets nothing, and two instances can't give different ones: a configuration that has changed since it
//! was read is not replaced.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;

use crate::{
    pool::Pool,
    service::{Family, Forward, Port, ServiceKey, Wanted, is_deleted, is_ours, published, read},
    text::{Index, Tables, Vip, source_name},
};

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `loadBalancerClass` of our Services.
    pub class: String,
    /// What the names of all our VIPs begin with.
    pub cluster: String,
    /// The pools.
    pub pools: Vec<Pool>,
    /// How packets reach the backends of Services that don't say.
    pub forward: Forward,
}

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These VIPs.
    Vips(Vec<Vip>),
    /// Nothing any more: it is deleted, or no longer ours.
    Nothing,
    /// What it has, for this reason.
    Unchanged(String),
}

/// What all Services get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Services with an outcome.
    pub services: BTreeMap<ServiceKey, Outcome>,
    /// VIPs of Services that are gone.
    pub orphans: Vec<String>,
}

impl Decision {
    fn vips(&self, key: &ServiceKey) -> Option<&[Vip]> {
        match self.services.get(key)? {
            Outcome::Vips(vips) => Some(vips),
            Outcome::Nothing => Some(&[]),
            Outcome::Unchanged(_) => None,
        }
    }

    /// Whether what is decided for a Service differs from a configuration.
    #[must_use]
    pub fn differs(&self, index: &Index<'_>, cluster: &str, key: &ServiceKey) -> bool {
        let Some(vips) = self.vips(key) else {
            return false;
        };
        let known = index.of(&key.prefix(cluster));
        known.len() != vips.len() || vips.iter().any(|vip| !index.has(vip))
    }

    /// Makes what is decided for a Service true in a configuration.
    pub fn apply(&self, tables: &mut Tables, cluster: &str, key: &ServiceKey) {
        let Some(vips) = self.vips(key) else { return };
        let index = tables.index();
        let known = index.of(&key.prefix(cluster)).iter();
        let unwanted: Vec<String> = known
            .filter(|(name, _)| vips.iter().all(|vip| vip.name != *name))
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let missing: Vec<&Vip> = vips.iter().filter(|vip| !index.has(vip)).collect();
        for name in &unwanted {
            tables.remove(name);
        }
        for vip in missing {
            tables.set(vip);
        }
    }
}

/// Whether a VIP belongs to the Service with this prefix.
#[must_use]
pub fn is_of(vip: &str, prefix: &str) -> bool {
    let rest = vip
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('.'));
    rest.is_some_and(|rest| !rest.contains('.'))
}

/// Name of the VIP of a port.
#[must_use]
pub fn vip_name(prefix: &str, port: &Port, family: Family) -> String {
    let suffix = match family {
        Family::V4 => "",
        Family::V6 => "-v6",
    };
    format!("{prefix}.{}-{}{suffix}", port.protocol, port.number)
}

/// What is wanted of each Service, and its VIPs' prefix.
struct Asked<'a> {
    key: ServiceKey,
    prefix: String,
    published: Vec<IpAddr>,
    /// Addresses of its VIPs.
    recorded: Vec<IpAddr>,
    /// Names of its VIPs.
    known: Vec<&'a str>,
    wanted: Wanted,
}

/// Decides. `services` are all of the cluster, `index` is that of the configuration. A new VIP is only added if its
/// source is `served`, which means that it has a backend: a guard would refuse it.
#[must_use]
pub fn decide(
    settings: &Settings,
    services: &[Arc<Service>],
    tables: &Tables,
    served: &dyn Fn(&str) -> bool,
) -> Decision {
    let index = tables.index();
    let mut decision = Decision::default();
    let mut sorted: Vec<_> = services.iter().collect();
    // Of two that want the same address, the older one gets it.
    sorted.sort_by_cached_key(|it| (it.metadata.creation_timestamp.clone(), ServiceKey::of(it)));
    let mut asked = Vec::new();
    let mut prefixes = BTreeSet::new();
    for service in sorted {
        let key = ServiceKey::of(service);
        let prefix = key.prefix(&settings.cluster);
        let known = index.of(&prefix);
        let is_ours = is_ours(service, &settings.class) && !is_deleted(service);
        if !prefixes.insert(prefix.clone()) {
            let problem = format!("another Service has VIPs with the names {prefix}.…");
            decision.services.insert(key, Outcome::Unchanged(problem));
        } else if is_ours {
            match read(service, settings.forward) {
                Ok(wanted) => asked.push(Asked {
                    key,
                    prefix,
                    published: published(service),
                    recorded: known.iter().map(|(_, address)| *address).collect(),
                    known: known.iter().map(|(name, _)| *name).collect(),
                    wanted,
                }),
                Err(problem) => {
                    let outcome = Outcome::Unchanged(problem);
                    decision.services.insert(key, outcome);
                }
            }
        } else if !known.is_empty() {
            decision.services.insert(key, Outcome::Nothing);
        }
    }
    let ours = format!("{}.", settings.cluster);
    let names = tables.addresses().map(|(name, _)| name);
    decision.orphans = names
        .filter(|name| {
            let prefix = name.rsplit_once('.').map_or("", |(prefix, _)| prefix);
            name.starts_with(&ours) && !prefixes.contains(prefix)
        })
        .map(str::to_owned)
        .collect();
    let is_served = |asked: &Asked<'_>| {
        let mut names = asked.wanted.ports.iter().flat_map(|port| {
            let families = asked.wanted.families.iter();
            families.map(|family| vip_name(&asked.prefix, port, *family))
        });
        names.any(|name| served(&source_name(&name, asked.wanted.forward)))
    };
    // Those that wait take no address from others.
    let (asked, waiting): (Vec<_>, Vec<_>) =
        (asked.into_iter()).partition(|it| !it.recorded.is_empty() || is_served(it));
    // But they keep the one that their clients know.
    let reserved: Vec<IpAddr> = (waiting.iter())
        .flat_map(|it| it.published.iter().copied())
        .filter(|address| settings.pools.iter().any(|pool| pool.has(address)))
        .collect();
    for it in waiting {
        let outcome = Outcome::Unchanged("no endpoint is ready yet".to_owned());
        decision.services.insert(it.key, outcome);
    }
    let addresses = allocate(settings, &asked, tables, &reserved);
    for (asked, addresses) in asked.into_iter().zip(addresses) {
        let outcome = match addresses {
            Ok(addresses) => {
                let mut vips = vips(&asked, &addresses);
                vips.retain(|vip| asked.known.contains(&&*vip.name) || served(&vip.source()));
                Outcome::Vips(vips)
            }
            Err(problem) => Outcome::Unchanged(problem),
        };
        decision.services.insert(asked.key, outcome);
    }
    decision
}

fn vips(asked: &Asked<'_>, addresses: &[IpAddr]) -> Vec<Vip> {
    let Asked { prefix, wanted, .. } = asked;
    let of_address = |address: &IpAddr| {
        let address = *address;
        wanted.ports.iter().map(move |port| Vip {
            name: vip_name(prefix, port, Family::of(&address)),
            address,
            port: port.number,
            protocol: port.protocol,
            forward: wanted.forward,
            by_source: wanted.by_source,
            health: wanted.health.clone(),
        })
    };
    addresses.iter().flat_map(of_address).collect()
}

type Allocated = Result<Vec<IpAddr>, String>;

/// Addresses for each Service. First all keep what they have, by the configuration or else by their status; then
/// those get one that have none.
fn allocate(
    settings: &Settings,
    asked: &[Asked<'_>],
    tables: &Tables,
    reserved: &[IpAddr],
) -> Vec<Allocated> {
    let mut taken: BTreeSet<IpAddr> = tables.addresses().map(|(_, address)| address).collect();
    taken.extend(reserved);
    let kept: Vec<Vec<IpAddr>> = (asked.iter())
        .map(|asked| keep(settings, asked, &mut taken))
        .collect();
    (asked.iter().zip(kept))
        .map(|(asked, kept)| add(settings, asked, kept, &mut taken))
        .collect()
}

/// The addresses that a Service has and may keep, one for each family at most.
fn keep(settings: &Settings, asked: &Asked<'_>, taken: &mut BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let wanted = &asked.wanted;
    let may_have = |address: &IpAddr, family| {
        let of_family: Vec<_> = of_family(&wanted.addresses, family).collect();
        Family::of(address) == family && (of_family.is_empty() || of_family.contains(&address))
    };
    let mut kept = Vec::new();
    for family in &wanted.families {
        let mut in_configuration = (asked.recorded.iter()).filter(|it| may_have(it, *family));
        // A status may be forged or old: it counts only for an address of a pool that nobody has.
        let mut in_status = (asked.published.iter()).filter(|it| {
            may_have(it, *family)
                && !taken.contains(it)
                && pools(settings, asked, *family).any(|pool| pool.has(it))
        });
        if let Some(address) = in_configuration
            .next()
            .or_else(|| in_status.next())
            .copied()
        {
            taken.insert(address);
            kept.push(address);
        }
    }
    kept
}

fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = &IpAddr> {
    (addresses.iter()).filter(move |address| Family::of(address) == family)
}

fn pools<'a>(
    settings: &'a Settings,
    asked: &'a Asked<'a>,
    family: Family,
) -> impl Iterator<Item = &'a Pool> {
    let of_name = |pool: &&Pool| (asked.wanted.pool.as_ref()).is_none_or(|name| *name == pool.name);
    let pools = settings.pools.iter().filter(of_name);
    pools.filter(move |pool| pool.family == family)
}

/// Adds the addresses that a Service lacks.
fn add(
    settings: &Settings,
    asked: &Asked<'_>,
    mut addresses: Vec<IpAddr>,
    taken: &mut BTreeSet<IpAddr>,
) -> Allocated {
    let wanted = &asked.wanted;
    let mut missing = None;
    for family in &wanted.families {
        if of_family(&addresses, *family).next().is_some() {
            continue;
        }
        let mut requested = of_family(&wanted.addresses, *family);
        let found = match requested.next() {
            Some(address) if !pools(settings, asked, *family).any(|pool| pool.has(address)) => {
                return Err(format!(
                    "the address {address} is requested, and is of no pool"
                ));
            }
            Some(address) if taken.contains(address) && !asked.recorded.contains(address) => {
                return Err(format!(
                    "the address {address} is requested, and another VIP has it"
                ));
            }
            Some(address) => Some(*address),
            None => pools(settings, asked, *family).find_map(|pool| pool.free(taken)),
        };
        match found {
            Some(address) => {
                taken.insert(address);
                addresses.push(address);
            }
            None => missing = Some(*family),
        }
    }
    match missing {
        Some(family) if addresses.is_empty() || wanted.needs_all_families => {
            let pool = wanted.pool.as_deref().map_or_else(
                || "no pool".to_owned(),
                |name| format!("the pool {name:?} does not exist, or"),
            );
            let has = if wanted.pool.is_some() {
                "has no"
            } else {
                "has a"
            };
            Err(format!("{pool} {has} free {} address", family.name()))
        }
        _ => Ok(addresses),
    }
}
