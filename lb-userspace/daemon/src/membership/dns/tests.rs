use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, rdata::SRV},
};
use lb_model::config::Sources;
use tokio::{net::UdpSocket, task::JoinSet};

use super::{
    records::{Ports, Targets, Weighted},
    *,
};

/// What a server does with each question.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Silent,
    Code(ResponseCode),
    /// Bytes that are no message.
    Garbage,
    /// The reply does not fit, and nothing listens on TCP.
    Truncated,
    NoData,
    /// One address, 10.0.0.7, and 30 targets.
    Good,
    /// The same, in three quarters of the timeout.
    Slow,
}

/// A server over UDP on the loopback interface, until it is dropped.
struct Server {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, socket) = (socket.local_addr().unwrap(), Arc::new(socket));
        let questions = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&questions);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                asked.fetch_add(1, Relaxed);
                let Some(reply) = reply(behaviour, &buffer[..length]) else {
                    continue;
                };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    if let Behaviour::Slow = behaviour {
                        tokio::time::sleep(TIMEOUT * 3 / 4).await;
                    }
                    socket.send_to(&reply, from).await.unwrap();
                });
            }
        });
        Self {
            address,
            questions,
            _task: task,
        }
    }

    fn questions(&self) -> usize {
        self.questions.load(Relaxed)
    }
}

fn reply(behaviour: Behaviour, question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut message = Message::response(question.id, question.op_code);
    match behaviour {
        Behaviour::Silent => return None,
        // Only the identifier is right.
        Behaviour::Garbage => {
            let mut bytes = question.id.to_be_bytes().to_vec();
            bytes.extend([0xff; 40]);
            return Some(bytes);
        }
        Behaviour::Code(code) => message.metadata.response_code = code,
        Behaviour::Truncated => message.metadata.truncation = true,
        Behaviour::NoData => {}
        Behaviour::Good | Behaviour::Slow => {
            let name = query.name().clone();
            match query.query_type() {
                RecordType::SRV => {
                    for number in 0..30 {
                        let target = Name::from_ascii(format!("b{number}.lab.")).unwrap();
                        let srv = RData::SRV(SRV::new(1, 1, 80, target));
                        message.add_answer(Record::from_rdata(name.clone(), 5, srv));
                    }
                }
                _ => {
                    let address = RData::A(Ipv4Addr::new(10, 0, 0, 7).into());
                    message.add_answer(Record::from_rdata(name, 5, address));
                }
            }
        }
    }
    message.add_query(query);
    Some(message.to_vec().unwrap())
}

const TIMEOUT: Duration = Duration::from_millis(400);

fn settings(servers: &[&Server]) -> Sources {
    Sources {
        dns_servers: servers.iter().map(|server| server.address).collect(),
        timeout: TIMEOUT,
        ..Sources::default()
    }
}

fn key(source: &str) -> SourceKey {
    SourceKey {
        source: source.parse().unwrap(),
        families: Families::V4,
    }
}

async fn ask_two(source: &str, first: &Server, second: &Server) -> Result<Found, AskError> {
    ask(&key(source), &settings(&[first, second])).await
}

#[tokio::test]
async fn the_next_server_is_asked_whatever_is_wrong_with_the_first() {
    use Behaviour::*;
    for behaviour in [
        Silent,
        Code(ResponseCode::ServFail),
        Code(ResponseCode::Refused),
        Code(ResponseCode::FormErr),
        Code(ResponseCode::NotImp),
        Garbage,
        Truncated,
    ] {
        let (first, second) = (Server::start(behaviour).await, Server::start(Good).await);
        let found = ask_two("dns:web.lab", &first, &second).await;
        let found = found.unwrap_or_else(|error| panic!("{behaviour:?}: {error}"));
        assert_eq!(found.members.len(), 1, "{behaviour:?}");
        assert!(first.questions() > 0, "{behaviour:?}");
    }
}

#[tokio::test]
async fn an_answer_without_addresses_is_an_answer() {
    for (behaviour, expected) in [
        (
            Behaviour::Code(ResponseCode::NXDomain),
            "web.lab: no such name (NXDOMAIN)",
        ),
        (Behaviour::NoData, "web.lab: no IPv4 addresses (no data)"),
    ] {
        let first = Server::start(behaviour).await;
        let second = Server::start(Behaviour::Good).await;
        let error = ask_two("dns:web.lab", &first, &second).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(second.questions(), 0);
    }
}

#[tokio::test]
async fn an_error_has_every_server_with_what_is_wrong() {
    let silent = Server::start(Behaviour::Silent).await;
    let failed = Server::start(Behaviour::Code(ResponseCode::ServFail)).await;
    let cut = Server::start(Behaviour::Truncated).await;
    let settings = settings(&[&silent, &failed, &cut]);
    let error = ask(&key("dns:web.lab"), &settings).await.unwrap_err();
    let expected = format!(
        "web.lab: DNS lookup failed: {}: no reply within 400ms; {}: SERVFAIL; {}: truncated reply, and TCP failed: ",
        silent.address, failed.address, cut.address
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn a_silent_server_costs_its_timeout_once() {
    let silent = Server::start(Behaviour::Silent).await;
    let good = Server::start(Behaviour::Good).await;
    let begun = Instant::now();
    let found = ask_two("srv:_web._tcp.lab", &silent, &good).await.unwrap();
    assert_eq!(found.members.len(), 1, "30 targets with the same address");
    assert_eq!(found.members[0].weight, 30);
    assert!(begun.elapsed() < 2 * TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_question_with_all_its_lookups_has_a_limit() {
    let silent = Server::start(Behaviour::Silent).await;
    let slow = Server::start(Behaviour::Slow).await;
    let begun = Instant::now();
    let error = ask_two("srv:_web._tcp.lab", &silent, &slow).await;
    let expected = format!(
        "_web._tcp.lab: no complete answer within 2.4s; {}: no reply within 400ms",
        silent.address
    );
    assert_eq!(error.unwrap_err().to_string(), expected);
    assert!(begun.elapsed() < 8 * TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_limited_number_of_sources_is_asked_at_once() {
    let silent = Server::start(Behaviour::Silent).await;
    let mut all = JoinSet::new();
    for number in 0..3 * SOURCES {
        let settings = Sources {
            timeout: Duration::from_secs(30),
            ..settings(&[&silent])
        };
        all.spawn(async move { ask(&key(&format!("dns:n{number}.lab")), &settings).await });
    }
    // Shorter than the time after which a lost question is sent again.
    tokio::time::sleep(Duration::from_millis(80)).await;
    let asked = silent.questions();
    assert!((1..=SOURCES).contains(&asked), "{asked} questions at once");
}

fn srv(target: &str, port: u16, weight: u16) -> SRV {
    let target = Name::from_ascii(target).unwrap();
    SRV::new(1, weight, port, target)
}

fn addresses(count: u32) -> BTreeSet<IpAddr> {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    (first..first + count)
        .map(|bits| Ipv4Addr::from(bits).into())
        .collect()
}

#[test]
fn records_of_one_address_and_port_are_one_member() {
    let records = [
        srv("a.lab.", 80, 10),
        srv("A.lab.", 80, 0),
        srv("b.lab.", 80, 65_535),
        srv("b.lab.", 81, 1),
    ];
    let targets = Targets::of("_web._tcp.lab", &records.iter().collect::<Vec<_>>()).unwrap();
    let mut weighted = Weighted::default();
    for (target, ports) in &targets.0 {
        weighted.add(target, ports, &addresses(1)).unwrap();
    }
    let members = weighted.into_members();
    let members: Vec<_> = members.iter().map(|it| (it.port, it.weight)).collect();
    assert_eq!(members, [(Some(80), 65_535), (Some(81), 1)]);
}

#[test]
fn more_members_than_a_node_can_have_are_not_built() {
    // 12 million members of one target.
    let records: Vec<SRV> = (1..=3000).map(|port| srv("a.lab.", port, 1)).collect();
    let targets = Targets::of("_web._tcp.lab", &records.iter().collect::<Vec<_>>()).unwrap();
    let mut weighted = Weighted::default();
    let error = weighted.add("a.lab", &targets.0["a.lab"], &addresses(4000));
    assert_eq!(
        error.unwrap_err().to_string(),
        "a.lab: SRV records with 3000 ports for 4000 addresses: at most 4096 backends are possible on a node"
    );
    assert!(weighted.into_members().is_empty());

    // Several targets which are possible each.
    let ports: Ports = BTreeMap::from([(80, 1)]);
    let mut weighted = Weighted::default();
    weighted.add("a.lab", &ports, &addresses(4096)).unwrap();
    weighted.add("b.lab", &ports, &addresses(4096)).unwrap();
    let error = weighted.add("c.lab", &ports, &addresses(4097));
    error.unwrap_err();
    let other = Ports::from([(81, 1)]);
    let error = weighted.add("d.lab", &other, &addresses(10)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "d.lab: with this SRV target, 4106 members: at most 4096 backends are possible on a node"
    );

    let records: Vec<SRV> = (0..5000).map(|port| srv("a.lab.", port, 1)).collect();
    let error = Targets::of("_web._tcp.lab", &records.iter().collect::<Vec<_>>()).err();
    let error = error.unwrap().to_string();
    assert!(error.contains("5000 SRV records: at most 4096"), "{error}");
}
