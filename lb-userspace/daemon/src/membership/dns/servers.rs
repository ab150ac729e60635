//! DNS servers, asked one after the other until one answers.
//!
//! hickory's own pool is not used for that: all servers of a pool share one deadline, so a silent server
//! takes the time of the others, and an answer such as SERVFAIL ends the lookup. Each server here has
//! resolvers of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

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
        rr::{Name, RecordType},
    },
    system_conf,
};
use lb_model::config::{MAX_DNS_SERVERS, Sources};
use tokio::time::timeout;

/// Part of the time limit that does not depend on the number of servers, in timeouts: for servers that
/// answer, but slowly.
const SLOW: usize = 4;

/// What a server says. It ends a lookup.
pub(super) enum Reply {
    Found(Lookup),
    NoSuchName,
    NoData,
}

/// Why the next server is asked.
#[derive(Debug)]
struct Problem {
    what: String,
    /// Whether nothing came back, so that the server is likely to cost its timeout again.
    is_silent: bool,
}

/// The servers for all lookups of one question to a source.
pub(super) struct Servers {
    addresses: Vec<SocketAddr>,
    timeout: Duration,
    learnt: Mutex<Learnt>,
}

/// What lookups have learnt for those that follow.
struct Learnt {
    /// Indexes of the servers in the order in which they are asked: the one that answered last comes first,
    /// silent ones come last.
    order: Vec<usize>,
    /// What was last wrong with a server.
    problems: BTreeMap<usize, String>,
}

impl Servers {
    /// Those of the settings, or of `/etc/resolv.conf`, which is read each time.
    pub(super) fn new(settings: &Sources) -> Result<Self, String> {
        let addresses = match settings.dns_servers.is_empty() {
            false => settings.dns_servers.clone(),
            true => {
                let (system, _) = system_conf::read_system_conf()
                    .map_err(|error| format!("can't use /etc/resolv.conf: {error}"))?;
                of_system(&system)
            }
        };
        match addresses.is_empty() {
            true => Err(
                "no DNS server in /etc/resolv.conf: add one, or set `sources.dns_servers`".into(),
            ),
            false => Ok(Self::at(addresses, settings.timeout)),
        }
    }

    pub(super) fn at(addresses: Vec<SocketAddr>, timeout: Duration) -> Self {
        let learnt = Learnt {
            order: (0..addresses.len()).collect(),
            problems: BTreeMap::new(),
        };
        Self {
            addresses,
            timeout,
            learnt: Mutex::new(learnt),
        }
    }

    /// Limit of a question with all its lookups: every server may be silent once, and the others slow.
    pub(super) fn limit(&self) -> Duration {
        let timeouts = self.addresses.len() + SLOW;
        self.timeout * u32::try_from(timeouts).unwrap_or(u32::MAX)
    }

    /// Asks the servers in order. The error has what was wrong with each one.
    pub(super) async fn lookup(&self, name: &Name, kind: RecordType) -> Result<Reply, String> {
        let mut asked = BTreeMap::new();
        while let Some(index) = self.next(&asked) {
            match self.ask(index, name, kind).await {
                Ok(reply) => {
                    self.answered(index);
                    return Ok(reply);
                }
                Err(problem) => {
                    asked.insert(index, problem.what.clone());
                    self.failed(index, problem);
                }
            }
        }
        Err(self.list(&asked))
    }

    async fn ask(&self, index: usize, name: &Name, kind: RecordType) -> Result<Reply, Problem> {
        let address = self.addresses[index];
        let is_cut = AtomicBool::new(false);
        let over_udp_or_tcp = async {
            let udp = resolver(address, ConnectionConfig::udp(), self.timeout)?;
            match udp.lookup(name.clone(), kind).await {
                Err(NetError::Truncated) => {
                    is_cut.store(true, Relaxed);
                    let tcp = resolver(address, ConnectionConfig::tcp(), self.timeout)?;
                    tcp.lookup(name.clone(), kind).await
                }
                looked_up => looked_up,
            }
        };
        let looked_up = timeout(self.timeout, over_udp_or_tcp).await;
        let replied = judge(looked_up.unwrap_or(Err(NetError::Timeout)), self.timeout);
        replied.map_err(|problem| match is_cut.load(Relaxed) {
            true => Problem {
                what: format!("truncated reply, and TCP failed: {}", problem.what),
                is_silent: problem.is_silent,
            },
            false => problem,
        })
    }

    /// The first server in order that was not asked yet.
    fn next(&self, asked: &BTreeMap<usize, String>) -> Option<usize> {
        let learnt = lock(&self.learnt);
        let mut order = learnt.order.iter().copied();
        order.find(|index| !asked.contains_key(index))
    }

    fn answered(&self, index: usize) {
        let order = &mut lock(&self.learnt).order;
        order.retain(|other| *other != index);
        order.insert(0, index);
    }

    fn failed(&self, index: usize, problem: Problem) {
        let mut learnt = lock(&self.learnt);
        if problem.is_silent {
            learnt.order.retain(|other| *other != index);
            learnt.order.push(index);
        }
        learnt.problems.insert(index, problem.what);
    }

    /// What is wrong with servers so far, each after a semicolon.
    pub(super) fn problems(&self) -> String {
        match self.list(&lock(&self.learnt).problems) {
            none if none.is_empty() => none,
            some => format!("; {some}"),
        }
    }

    fn list(&self, problems: &BTreeMap<usize, String>) -> String {
        let problems = problems.iter();
        let problems: Vec<String> = problems
            .map(|(index, what)| format!("{}: {what}", self.addresses[*index]))
            .collect();
        problems.join("; ")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The servers of `/etc/resolv.conf`, as many as can be configured.
fn of_system(system: &ResolverConfig) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let servers = system.name_servers().iter().filter_map(|server| {
        let connection = server.connections.first()?;
        Some(SocketAddr::new(server.ip, connection.port))
    });
    servers
        .filter(|server| seen.insert(*server))
        .take(MAX_DNS_SERVERS)
        .collect()
}

/// A resolver that asks one server, over one protocol.
fn resolver(
    address: SocketAddr,
    mut connection: ConnectionConfig,
    timeout: Duration,
) -> Result<TokioResolver, NetError> {
    connection.port = address.port();
    let server = NameServerConfig::new(address.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    set_options(builder.options_mut(), timeout);
    builder.build()
}

fn set_options(options: &mut ResolverOpts, timeout: Duration) {
    options.timeout = timeout;
    // Lost datagrams are sent again within the timeout; other failures are for the next server.
    options.attempts = 0;
    options.cache_size = 0;
    options.edns0 = true;
    options.use_hosts_file = ResolveHosts::Never;
    options.num_concurrent_reqs = 1;
    options.preserve_intermediates = true;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
}

fn judge(looked_up: Result<Lookup, NetError>, timeout: Duration) -> Result<Reply, Problem> {
    let (what, is_silent) = match looked_up {
        Ok(lookup) => return Ok(Reply::Found(lookup)),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => return Ok(Reply::NoSuchName),
            ResponseCode::NoError => return Ok(Reply::NoData),
            code => (short(code), false),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => (short(code), false),
        Err(NetError::Timeout) => (format!("no reply within {timeout:?}"), true),
        Err(NetError::Io(error)) => (error.to_string(), true),
        Err(other) => (other.to_string(), false),
    };
    Err(Problem { what, is_silent })
}

/// The name of a response code, as tools print it.
fn short(code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_resolv_conf_are_asked_in_their_order() {
        let mut text =
            String::from("search example.com\nnameserver 10.0.0.2\nnameserver fd00::1\n");
        for number in [2, 3, 4, 5, 6, 7, 8, 9, 10, 11] {
            text += &format!("nameserver 10.0.0.{number}\n");
        }
        let (system, _) = system_conf::parse_resolv_conf(text).unwrap();
        let servers = of_system(&system);
        let first = ["10.0.0.2:53", "[fd00::1]:53", "10.0.0.3:53"];
        assert_eq!(servers[..3], first.map(|server| server.parse().unwrap()));
        assert_eq!(servers.len(), MAX_DNS_SERVERS);
    }

    #[test]
    fn the_server_that_answered_is_asked_first_and_silent_ones_last() {
        let servers = (0..4).map(|number| SocketAddr::from(([10, 0, 0, number], 53)));
        let servers = Servers::at(servers.collect(), Duration::from_secs(2));
        assert_eq!(servers.limit(), Duration::from_secs(16));
        let problem = |is_silent| Problem {
            what: "REFUSED".to_owned(),
            is_silent,
        };
        servers.failed(0, problem(true));
        servers.failed(1, problem(false));
        assert_eq!(lock(&servers.learnt).order, [1, 2, 3, 0]);
        servers.answered(2);
        assert_eq!(lock(&servers.learnt).order, [2, 1, 3, 0]);
        assert_eq!(
            servers.problems(),
            "; 10.0.0.0:53: REFUSED; 10.0.0.1:53: REFUSED"
        );
    }
}
