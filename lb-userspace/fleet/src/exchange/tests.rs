//! Exchanges of real TLS connections on the loopback interface.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use lb_etcd::{Certificates, Pair};
use tokio::time::{sleep, timeout};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn facts() -> Facts {
    Facts {
        abi: 7,
        table_size: 1,
        seed_fingerprint: "seed".to_owned(),
        version: "1".to_owned(),
    }
}

fn cells(update: &Update) -> Vec<u32> {
    update.cells().map(|cell| cell.tag).collect()
}

fn told(tags: impl IntoIterator<Item = u32>) -> Vec<Update> {
    let cells = tags.into_iter().map(|tag| ToldCell {
        at: 0,
        tag,
        member: 1,
        closed: false,
        idle_s: 0,
        ended: false,
    });
    Update::default().with(Vec::new(), cells)
}

/// A node whose table has these flows.
struct Node {
    exchange: Exchange,
    peers: watch::Sender<Option<Peers>>,
    changes: broadcast::Sender<Arc<Update>>,
    told: mpsc::Receiver<(String, Update)>,
    listen: SocketAddr,
    again: watch::Sender<()>,
}

impl Node {
    fn start(name: &str, tls: Tls, flows: u32, edit: impl FnOnce(&mut Settings, &mut u32)) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listen = port.local_addr().unwrap();
        drop(port);
        let (events, mut inbox) = mpsc::channel(8);
        let changes = Exchange::changes();
        let (sender, told_here) = mpsc::channel(4096);
        let answers = changes.clone();
        tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                match event {
                    Event::Asked(reply) => {
                        let mut all = told(0..flows);
                        all.last_mut().unwrap().is_complete = true;
                        let _ = reply.send((all, answers.subscribe()));
                    }
                    Event::Told { from, update } => sender.send((from, *update)).await.unwrap(),
                }
            }
        });
        let mut settings = Settings {
            fleet: "test".to_owned(),
            node: name.to_owned(),
            listen,
            tls,
            facts: facts(),
        };
        let mut buckets = 4;
        edit(&mut settings, &mut buckets);
        let tables = Tables {
            buckets,
            events,
            counters: Arc::default(),
            again: watch::Sender::default(),
        };
        let again = tables.again.clone();
        let peers = watch::Sender::new(None);
        let exchange = Exchange::start(settings, peers.subscribe(), tables);
        Self {
            exchange,
            peers,
            changes,
            told: told_here,
            listen,
            again,
        }
    }

    fn ask(&self, nodes: &[(&str, &Self)]) {
        let nodes = nodes.iter();
        let peers = nodes.map(|(name, node)| ((*name).to_owned(), node.listen.to_string()));
        self.peers.send_replace(Some(peers.collect()));
    }

    async fn state(&self, name: &str, is: impl Fn(&PeerState) -> bool) -> PeerState {
        let mut states = self.exchange.states();
        let found = states.wait_for(|states| states.nodes.get(name).is_some_and(&is));
        let found = timeout(LIMIT, found).await;
        let states = found
            .unwrap_or_else(|_| panic!("{:?}", self.exchange.states()))
            .unwrap();
        states.nodes[name].clone()
    }

    /// Asks nobody any more.
    async fn ask_none(&self) {
        self.ask(&[]);
        let mut states = self.exchange.states();
        let none = states.wait_for(|states| states.nodes.is_empty());
        timeout(LIMIT, none).await.unwrap().unwrap();
    }

    async fn error(&self, name: &str) -> String {
        self.state(name, |state| state.error.is_some())
            .await
            .error
            .unwrap()
    }

    /// The tags of the next flows that were told.
    async fn next(&mut self) -> Vec<u32> {
        let (_, update) = timeout(LIMIT, self.told.recv()).await.unwrap().unwrap();
        cells(&update)
    }
}

fn tls(certificates: &Certificates, identity: Pair) -> Tls {
    Tls {
        ca: certificates.ca.clone(),
        client: Some(identity),
    }
}

fn certificates(folder: &Path) -> Certificates {
    Certificates::new(folder, Ipv4Addr::LOCALHOST.into())
}

#[tokio::test]
async fn everything_is_told_and_then_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let all = certificates(folder.path());
    let same = |_: &mut Settings, _: &mut u32| {};
    let one = Node::start("lb-1", tls(&all, all.node("lb-1")), 100_000, same);
    let mut two = Node::start("lb-2", tls(&all, all.node("lb-2")), 3, same);
    assert!(
        !two.exchange.states().borrow().were_asked(),
        "no node is known"
    );
    two.ask(&[("lb-1", &one), ("lb-2", &two)]);
    two.state("lb-1", |state| state.connected).await;
    assert!(two.exchange.states().borrow().were_asked());
    assert!(!two.exchange.states().borrow().nodes.contains_key("lb-2"));
    let mut tags = two.next().await;
    tags.extend(two.next().await);
    assert_eq!(tags, (0..100_000).collect::<Vec<_>>());
    for change in told([7, 8]) {
        one.changes.send(Arc::new(change)).unwrap();
    }
    assert_eq!(two.next().await, [7, 8]);
    // It missed something.
    two.again.send_replace(());
    assert_eq!(two.next().await.len() + two.next().await.len(), 100_000);
    // Heartbeats keep a connection on which nothing is told.
    sleep(SILENCE + HEARTBEAT).await;
    assert!(two.exchange.states().borrow().nodes["lb-1"].connected);
    // More changes than a slow node can be behind: it is told everything again.
    for tag in 0..10 * BACKLOG as u32 {
        one.changes.send(Arc::new(told([tag]).remove(0))).unwrap();
    }
    let again = async { while two.next().await.len() < 60_000 {} };
    timeout(LIMIT, again).await.unwrap();
    // The other node ends, and is asked until it is back.
    drop(one);
    two.error("lb-1").await;
    two.ask_none().await;
}

#[tokio::test]
async fn only_nodes_that_prove_their_name_are_believed() {
    let folder = tempfile::tempdir().unwrap();
    let all = certificates(folder.path());
    let same = |_: &mut Settings, _: &mut u32| {};
    let asks = Node::start("lb-1", tls(&all, all.node("lb-1")), 1, same);
    let other_name = Node::start("lb-2", tls(&all, all.node("lb-3")), 1, same);
    let no_name = Node::start("lb-4", tls(&all, all.client.clone()), 1, same);
    let stranger = Node::start("lb-5", tls(&all, all.stranger.clone()), 1, same);
    asks.ask(&[
        ("lb-2", &other_name),
        ("lb-4", &no_name),
        ("lb-5", &stranger),
    ]);
    for (node, text) in [
        ("lb-2", "does not have the name lb-2"),
        ("lb-4", "does not have the name lb-4"),
        ("lb-5", "is not believed"),
    ] {
        let error = asks.error(node).await;
        assert!(error.contains(text), "{node}: {error}");
        assert!(!asks.exchange.states().borrow().nodes[node].connected);
    }
    // And who asks needs a certificate of the authority.
    stranger.ask(&[("lb-1", &asks)]);
    let error = stranger.error("lb-1").await;
    assert!(error.contains("refuses this node's certificate"), "{error}");
}

#[tokio::test]
async fn nodes_that_choose_otherwise_do_not_talk() {
    let folder = tempfile::tempdir().unwrap();
    let all = certificates(folder.path());
    let start = |edit: fn(&mut Settings, &mut u32)| {
        Node::start("lb-1", tls(&all, all.node("lb-1")), 1, edit)
    };
    let two = Node::start("lb-2", tls(&all, all.node("lb-2")), 1, |_, _| {});
    for (edit, text) in [
        (
            (|settings, _| settings.fleet = "other".to_owned()) as fn(&mut Settings, &mut u32),
            "of the fleets other and test",
        ),
        (|settings, _| settings.facts.abi = 8, "different versions"),
        (
            |settings, _| settings.facts.seed_fingerprint.clear(),
            "different hash seeds",
        ),
        (|_, buckets| *buckets = 8, "set node.track_flows alike"),
    ] {
        let one = start(edit);
        two.ask(&[("lb-1", &one)]);
        let error = two.error("lb-1").await;
        assert!(error.contains(text), "{error}");
        two.ask_none().await;
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let all = certificates(folder.path());
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let node = Node::start("lb-1", tls(&all, all.node("lb-1")), 1, |settings, _| {
        settings.listen = address;
    });
    let wait = |is_wrong: bool| {
        let exchange = &node.exchange;
        async move {
            while exchange.listen_error().is_some() != is_wrong {
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(LIMIT, wait(true)).await.unwrap();
    drop(taken);
    timeout(LIMIT, wait(false)).await.unwrap();
}
