//! Asks DNS for the members of a source.

mod records;
mod servers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures_util::{StreamExt as _, stream};
use hickory_resolver::{
    lookup::Lookup,
    proto::rr::{Name, RData, RecordType, rdata::SRV},
};
use lb_common::ring::MAX_MEMBERS;
use lb_model::{
    config::{BackendState, Sources},
    membership::{Families, Member, MemberSource, SourceKey, name_of},
};
use tokio::{sync::Semaphore, time::timeout};

use self::{
    records::{Targets, Weighted},
    servers::{Reply, Servers},
};

/// Weight of the members of `dns:`, the default of configured backends.
const WEIGHT: u32 = 100;

/// Sources that are asked at the same time. With [`TARGETS`] names of two families each, this is at most
/// 256 lookups and as many sockets; dnsmasq, for one, forwards no more than 150 at once by default, and
/// most sources need one or two.
const SOURCES: usize = 32;

/// Targets of the SRV records of a source that are looked up at the same time.
const TARGETS: usize = 4;

static TURNS: Semaphore = Semaphore::const_new(SOURCES);

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
    /// What was wrong with each server.
    #[error("{name}: DNS lookup failed: {servers}")]
    Lookup { name: String, servers: String },
    /// The servers that failed until then, after a semicolon.
    #[error("{name}: no complete answer within {within:?}{servers}")]
    Late {
        name: String,
        within: Duration,
        servers: String,
    },
    #[error("{name}: {why}")]
    Failed { name: String, why: String },
}

impl AskError {
    fn failed(name: &str, why: impl Into<String>) -> Self {
        Self::Failed {
            name: name.to_owned(),
            why: why.into(),
        }
    }

    /// The question itself has panicked.
    pub(super) fn panicked(key: &SourceKey, message: &str) -> Self {
        Self::failed(&key.to_string(), format!("internal error: {message}"))
    }

    /// More members than a node can have.
    fn too_many(name: &str, what: &str) -> Self {
        let why = format!("{what}: at most {MAX_MEMBERS} backends are possible on a node");
        Self::failed(name, why)
    }
}

/// Asks a source once, when it is its turn. From then on it takes at most [`Servers::limit`].
pub(crate) async fn ask(key: &SourceKey, settings: &Sources) -> Result<Found, AskError> {
    let name = match &key.source {
        MemberSource::Dns { name, .. } | MemberSource::Srv { name } => name,
        MemberSource::Api { name } => return Err(AskError::failed(name, "is set, not asked")),
    };
    // The wait is not a part of the time limit. An error would mean that the semaphore is closed.
    let _turn = TURNS.acquire().await;
    let servers = Servers::new(settings).map_err(|why| AskError::failed(name, why))?;
    let asker = Asker {
        servers: &servers,
        families: key.families,
    };
    let answer = async {
        match &key.source {
            MemberSource::Dns { port, .. } => asker.members(name, *port).await,
            _ => asker.targets(name).await,
        }
    };
    let within = servers.limit();
    let late = |_| AskError::Late {
        name: name.clone(),
        within,
        servers: servers.problems(),
    };
    timeout(within, answer).await.map_err(late)?
}

/// A question to a source, and what follows from its answer.
struct Asker<'a> {
    servers: &'a Servers,
    families: Families,
}

impl Asker<'_> {
    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, AskError> {
        // With a dot at the end, so that no search domain is added.
        let absolute = Name::from_ascii(format!("{name}."));
        let absolute = absolute.map_err(|error| AskError::failed(name, error.to_string()))?;
        match self.servers.lookup(&absolute, kind).await {
            Ok(Reply::Found(lookup)) => Ok(lookup),
            Ok(Reply::NoSuchName) => Err(AskError::NoSuchName { name: name.into() }),
            Ok(Reply::NoData) => Err(no_data(name, kind)),
            Err(servers) => Err(AskError::Lookup {
                name: name.into(),
                servers,
            }),
        }
    }

    /// The addresses of a name, sorted, and their TTL in seconds.
    async fn addresses(&self, name: &str) -> Result<(BTreeSet<IpAddr>, u32), AskError> {
        let (v4, v6) = match self.families {
            Families::V4 => return self.of_kind(name, RecordType::A).await,
            Families::V6 => return self.of_kind(name, RecordType::AAAA).await,
            Families::Both => tokio::join!(
                self.of_kind(name, RecordType::A),
                self.of_kind(name, RecordType::AAAA)
            ),
        };
        match (v4, v6) {
            (Ok((mut all, ttl)), Ok((v6, ttl_v6))) => {
                all.extend(v6);
                at_most(name, all.len(), "addresses")?;
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
            (Err(AskError::NoData { .. }), Err(error)) | (Err(error), _) | (_, Err(error)) => {
                Err(error)
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
        at_most(name, addresses.len(), "addresses")?;
        match addresses.is_empty() {
            true => Err(no_data(name, kind)),
            false => Ok((addresses, ttl)),
        }
    }

    async fn members(&self, name: &str, port: Option<u16>) -> Result<Found, AskError> {
        let (addresses, ttl) = self.addresses(name).await?;
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
    async fn targets(&self, name: &str) -> Result<Found, AskError> {
        let lookup = self.lookup(name, RecordType::SRV).await?;
        let mut ttl = u32::MAX;
        let mut records: Vec<&SRV> = Vec::new();
        for record in lookup.answers() {
            if let RData::SRV(srv) = &record.data {
                records.push(srv);
                ttl = ttl.min(record.ttl);
            }
        }
        let targets = Targets::of(name, &records)?;
        let mut weighted = Weighted::default();
        // Added one after the other, so that no more than the members and a few answers are in memory.
        let mut answers = stream::iter(targets.0)
            .map(|(target, ports)| async move {
                let answer = self.addresses(&target).await;
                (target, ports, answer)
            })
            .buffer_unordered(TARGETS);
        while let Some((target, ports, answer)) = answers.next().await {
            let (addresses, target_ttl) = answer?;
            ttl = ttl.min(target_ttl);
            weighted.add(&target, &ports, &addresses)?;
        }
        Ok(Found {
            members: weighted.into_members(),
            ttl: Duration::from_secs(ttl.into()),
        })
    }
}

fn no_data(name: &str, kind: RecordType) -> AskError {
    AskError::NoData {
        name: name.to_owned(),
        what: match kind {
            RecordType::A => "IPv4 addresses",
            RecordType::AAAA => "IPv6 addresses",
            _ => "SRV records",
        },
    }
}

fn at_most(name: &str, count: usize, what: &str) -> Result<(), AskError> {
    match count > MAX_MEMBERS as usize {
        true => Err(AskError::too_many(name, &format!("{count} {what}"))),
        false => Ok(()),
    }
}
