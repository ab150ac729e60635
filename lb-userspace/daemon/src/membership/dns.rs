//! Asks DNS for the members of a source.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType, rdata::SRV},
    },
    system_conf,
};
use lb_common::ring::MAX_MEMBERS;
use lb_model::{
    config::{BackendState, Sources},
    membership::{Families, Member, MemberSource, SourceKey, name_of},
};
use tokio::time::timeout;

/// Weight of the members of `dns:`, the default of configured backends.
const WEIGHT: u32 = 100;

/// Targets of SRV records that are asked for at the same time.
const AT_ONCE: usize = 16;

/// What a source has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) members: Vec<Member>,
    /// How long the answer is valid.
    pub(crate) ttl: Duration,
}

/// Why a source has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{name}: no such name (NXDOMAIN)")]
    NoSuchName { name: String },
    #[error("{name}: no {what} (no data)")]
    NoData { name: String, what: &'static str },
    #[error("{name}: the DNS server failed ({code})")]
    Response { name: String, code: String },
    #[error("{name}: no DNS server answered within {within:?}")]
    Timeout { name: String, within: Duration },
    #[error("{name}: {why}")]
    Failed { name: String, why: String },
}

/// Asks a source once. In any case it ends after a few times `settings.timeout`.
pub(crate) async fn ask(key: &SourceKey, settings: &Sources) -> Result<Found, AskError> {
    let name = match &key.source {
        MemberSource::Dns { name, .. } | MemberSource::Srv { name } => name,
        MemberSource::Api { name } => {
            let why = "is set, not asked".to_owned();
            let name = name.clone();
            return Err(AskError::Failed { name, why });
        }
    };
    let asker = Asker::new(name, settings)?;
    let answer = async {
        match &key.source {
            MemberSource::Dns { name, port } => asker.members(name, *port, key.families).await,
            _ => asker.targets(name, key.families).await,
        }
    };
    // Several servers, a second try over TCP and the targets of SRV records each have `timeout`.
    let within = settings.timeout * 5;
    let late = |_| AskError::Timeout {
        name: name.clone(),
        within,
    };
    timeout(within, answer).await.map_err(late)?
}

struct Asker {
    resolver: TokioResolver,
    timeout: Duration,
}

impl Asker {
    /// A resolver for one question and what follows from it: `/etc/resolv.conf` is read each time.
    fn new(name: &str, settings: &Sources) -> Result<Self, AskError> {
        let failed = |why: String| AskError::Failed {
            name: name.to_owned(),
            why,
        };
        let config = match &settings.dns_servers[..] {
            [] => {
                let (system, _) = system_conf::read_system_conf()
                    .map_err(|error| failed(format!("can't use /etc/resolv.conf: {error}")))?;
                let servers = system.name_servers().to_vec();
                ResolverConfig::from_parts(None, Vec::new(), servers)
            }
            servers => {
                let servers = servers.iter().map(|server| {
                    let at = |mut connection: ConnectionConfig| {
                        connection.port = server.port();
                        connection
                    };
                    let connections =
                        vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
                    NameServerConfig::new(server.ip(), true, connections)
                });
                ResolverConfig::from_parts(None, Vec::new(), servers.collect())
            }
        };
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        set_options(builder.options_mut(), settings.timeout);
        let resolver = builder.build().map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            resolver,
            timeout: settings.timeout,
        })
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, AskError> {
        // With a dot at the end, so that no search domain is added.
        let absolute = Name::from_ascii(format!("{name}."));
        let looked_up = match absolute {
            Ok(absolute) => self.resolver.lookup(absolute, kind).await,
            Err(error) => Err(error.into()),
        };
        looked_up.map_err(|error| self.explain(name, kind, &error))
    }

    fn explain(&self, name: &str, kind: RecordType, error: &NetError) -> AskError {
        let name = name.to_owned();
        match error {
            NetError::Timeout => AskError::Timeout {
                name,
                within: self.timeout,
            },
            NetError::Dns(DnsError::NoRecordsFound(no_records)) => match no_records.response_code {
                ResponseCode::NXDomain => AskError::NoSuchName { name },
                ResponseCode::NoError => AskError::NoData {
                    name,
                    what: match kind {
                        RecordType::A => "IPv4 addresses",
                        RecordType::AAAA => "IPv6 addresses",
                        _ => "SRV records",
                    },
                },
                code => AskError::Response {
                    name,
                    code: short(code),
                },
            },
            NetError::Dns(DnsError::ResponseCode(code)) => AskError::Response {
                name,
                code: short(*code),
            },
            other => AskError::Failed {
                name,
                why: other.to_string(),
            },
        }
    }

    /// The addresses of a name, sorted, and their TTL in seconds.
    async fn addresses(
        &self,
        name: &str,
        families: Families,
    ) -> Result<(BTreeSet<IpAddr>, u32), AskError> {
        match families {
            Families::V4 => self.of_kind(name, RecordType::A).await,
            Families::V6 => self.of_kind(name, RecordType::AAAA).await,
            Families::Both => {
                let (v4, v6) = tokio::join!(
                    self.of_kind(name, RecordType::A),
                    self.of_kind(name, RecordType::AAAA)
                );
                match (v4, v6) {
                    (Ok((mut all, ttl)), Ok((v6, ttl_v6))) => {
                        all.extend(v6);
                        Ok((all, ttl.min(ttl_v6)))
                    }
                    // One family is enough, but only if the other one is known to be empty.
                    (Ok(found), Err(AskError::NoData { .. }))
                    | (Err(AskError::NoData { .. }), Ok(found)) => Ok(found),
                    (Err(AskError::NoData { name, .. }), Err(AskError::NoData { .. })) => {
                        Err(AskError::NoData {
                            name,
                            what: "addresses",
                        })
                    }
                    (Err(AskError::NoData { .. }), Err(error))
                    | (Err(error), _)
                    | (_, Err(error)) => Err(error),
                }
            }
        }
    }

    async fn of_kind(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<(BTreeSet<IpAddr>, u32), AskError> {
        let lookup = self.lookup(name, kind).await?;
        let (mut addresses, mut ttl) = (BTreeSet::new(), u32::MAX);
        for record in lookup.answers() {
            let address = match &record.data {
                RData::A(v4) if kind == RecordType::A => IpAddr::V4(v4.0),
                RData::AAAA(v6) if kind == RecordType::AAAA => IpAddr::V6(v6.0),
                // The CNAME that leads to the addresses may change sooner than they.
                RData::CNAME(_) => {
                    ttl = ttl.min(record.ttl);
                    continue;
                }
                _ => continue,
            };
            addresses.insert(address);
            ttl = ttl.min(record.ttl);
        }
        match addresses.is_empty() {
            true => Err(AskError::NoData {
                name: name.to_owned(),
                what: "addresses",
            }),
            false => Ok((addresses, ttl)),
        }
    }

    async fn members(
        &self,
        name: &str,
        port: Option<u16>,
        families: Families,
    ) -> Result<Found, AskError> {
        let (addresses, ttl) = self.addresses(name, families).await?;
        let members = addresses.into_iter().map(|address| Member {
            name: name_of(address, None),
            address,
            port,
            weight: WEIGHT,
            state: BackendState::Up,
        });
        Ok(Found {
            members: members.collect(),
            ttl: Duration::from_secs(ttl.into()),
        })
    }

    /// The members that SRV records name. One target without an answer makes the whole answer a failure:
    /// its members would be missing.
    async fn targets(&self, name: &str, families: Families) -> Result<Found, AskError> {
        let lookup = self.lookup(name, RecordType::SRV).await?;
        let mut ttl = u32::MAX;
        let mut records: Vec<&SRV> = Vec::new();
        for record in lookup.answers() {
            if let RData::SRV(srv) = &record.data {
                records.push(srv);
                ttl = ttl.min(record.ttl);
            }
        }
        let used = of_lowest_priority(name, &records)?;
        // Several records may have the same target.
        let names: BTreeSet<String> = used.iter().map(|srv| target_of(srv)).collect();
        let answers: Vec<_> = stream::iter(names)
            .map(|target| async {
                let found = self.addresses(&target, families).await?;
                Ok((target, found))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut addresses = BTreeMap::new();
        for answer in answers {
            let (target, (found, target_ttl)) = answer?;
            ttl = ttl.min(target_ttl);
            addresses.insert(target, found);
        }
        Ok(Found {
            members: members_of(&used, &addresses),
            ttl: Duration::from_secs(ttl.into()),
        })
    }
}

fn set_options(options: &mut ResolverOpts, timeout: Duration) {
    options.timeout = timeout;
    // The source is asked again soon anyway.
    options.attempts = 1;
    options.cache_size = 0;
    options.edns0 = true;
    options.use_hosts_file = ResolveHosts::Never;
    options.num_concurrent_reqs = 1;
    options.preserve_intermediates = true;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
}

/// The name of a response code, as tools print it.
fn short(code: ResponseCode) -> String {
    match code {
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        other => other.to_string(),
    }
}

fn target_of(srv: &SRV) -> String {
    let target = srv.target.to_ascii().to_ascii_lowercase();
    target.trim_end_matches('.').to_owned()
}

/// The records with the lowest priority number.
fn of_lowest_priority<'a>(name: &str, records: &[&'a SRV]) -> Result<Vec<&'a SRV>, AskError> {
    let failed = |why: &str| AskError::Failed {
        name: name.to_owned(),
        why: why.to_owned(),
    };
    let lowest = records.iter().map(|srv| srv.priority).min();
    let lowest = lowest.ok_or_else(|| failed("no SRV records"))?;
    let used: Vec<&SRV> = records
        .iter()
        .copied()
        .filter(|srv| srv.priority == lowest)
        .collect();
    if used.iter().any(|srv| srv.target.is_root()) {
        return Err(failed("the service is not offered (SRV target \".\")"));
    }
    if used.len() > MAX_MEMBERS as usize {
        let count = used.len();
        return Err(failed(&format!(
            "{count} SRV records: at most {MAX_MEMBERS} are possible"
        )));
    }
    Ok(used)
}

/// The members of records and the addresses of their targets. Records that lead to the same address and port
/// are one member with the sum of their weights.
fn members_of(records: &[&SRV], addresses: &BTreeMap<String, BTreeSet<IpAddr>>) -> Vec<Member> {
    let mut weights: BTreeMap<(IpAddr, u16), u32> = BTreeMap::new();
    for srv in records {
        for address in addresses.get(&target_of(srv)).into_iter().flatten() {
            // RFC 2782: a target with weight 0 has a very small chance of being selected.
            let weight = u32::from(srv.weight.max(1));
            let sum = weights.entry((*address, srv.port)).or_default();
            *sum = (*sum + weight).min(u16::MAX.into());
        }
    }
    let members = weights.into_iter().map(|((address, port), weight)| Member {
        name: name_of(address, Some(port)),
        address,
        port: Some(port),
        weight,
        state: BackendState::Up,
    });
    members.collect()
}
