//! Instances and an API server, without a node.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

use std::{net::TcpListener, sync::atomic::Ordering::Relaxed, time::Duration};

use kube::{Client, Config};
use lb_kube::{cluster::Cluster, connect, lease::Election, plan::Settings, service::Forward};
use lb_kube_api::{Place, Server};
use serde_json::json;
use tokio::time::{sleep, timeout};

const MANIFEST: &str = include_str!("../../../../deploy/kubernetes/evenkeel-kube.yml");
const LIMIT: Duration = Duration::from_secs(60);

fn start() -> (Server, Client) {
    // The other test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::start(TcpListener::bind("127.0.0.1:0").unwrap(), MANIFEST);
    let url = format!("http://{}", server.address).parse().unwrap();
    let client = connect(Config::new(url)).unwrap();
    (server, client)
}

/// Services without EndpointSlices are known, but not their backends.
fn put(server: &Server, name: &str, address: &str) {
    let service = json!({
        "spec": { "type": "LoadBalancer", "loadBalancerClass": "c", "ports": [{ "port": 80 }] },
    });
    server.put(&Place::new("services", "shop", name), service);
    let slice = json!({
        "metadata": { "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": [{ "port": 8080 }],
        "endpoints": [{ "addresses": [address] }],
    });
    server.put(&Place::new("endpointslices", "shop", name), slice);
}

#[tokio::test]
async fn watches_outlive_faults_and_forget_nothing() {
    let (server, client) = start();
    server.faults.fail_every.store(2, Relaxed);
    put(&server, "a", "10.0.0.1");
    let cluster = Cluster::watch(&client);
    timeout(LIMIT, cluster.ready()).await.unwrap();
    let settings = Settings {
        class: "c".into(),
        cluster: "k8s".into(),
        pools: Vec::new(),
        forward: Forward::Nat,
    };
    let names = || {
        let mut names: Vec<_> = cluster.members(&settings).into_keys().collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["k8s.shop.a.tcp-80.nat"]);
    server.set_down(true);
    put(&server, "b", "10.0.0.2");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(names(), ["k8s.shop.a.tcp-80.nat"]);
    // It is back, and has forgotten what happened meanwhile: all is listed again.
    server.faults.forgets.store(true, Relaxed);
    server.set_down(false);
    sleep(Duration::from_millis(200)).await;
    server.faults.forgets.store(false, Relaxed);
    let both = async {
        while names().len() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, both).await.unwrap();
    server.objects.lose(&Place::new("services", "shop", "a"));
    let one = async {
        while names() != ["k8s.shop.b.tcp-80.nat"] {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, one).await.unwrap();
}

#[tokio::test]
async fn one_instance_leads_and_gives_the_lease_back() {
    let (server, client) = start();
    let election = |name: &str| Election::new(&client, "evenkeel", name.to_owned());
    let (mut first, mut second) = (election("a"), election("b"));
    assert!(!first.leads());
    for _ in 0..3 {
        first.run().await.unwrap();
        second.run().await.unwrap();
        assert_eq!((first.leads(), second.leads()), (true, false));
    }
    // Only its own.
    second.release().await.unwrap();
    first.run().await.unwrap();
    assert!(first.leads());
    server.set_down(true);
    assert!(first.run().await.is_err());
    assert!(first.leads(), "for a while");
    server.set_down(false);
    first.release().await.unwrap();
    second.run().await.unwrap();
    first.run().await.unwrap();
    assert_eq!((first.leads(), second.leads()), (false, true));
    // Two that begin at the same time: one creates it, the other loses.
    server
        .objects
        .lose(&Place::new("leases", "evenkeel", "evenkeel-kube"));
    let (mut one, mut other) = (election("c"), election("d"));
    let (a, b) = tokio::join!(one.run(), other.run());
    a.unwrap();
    b.unwrap();
    assert!(one.leads() != other.leads());
    assert_eq!(server.denied(), [""; 0]);
}
