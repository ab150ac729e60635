//! Services of Kubernetes as VIPs: real nodes, an etcd and pods with traffic, and an API server that fails.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::balancer::{sibling, start_announce};
use lab::host::Host;
use lab::nginx::Nginx;
use lab::process::Daemon;
use lab::topology::{Family, Lab};
use lab::traffic::steady::{Finished, Outcome, SteadyLoad};
use lb_kube_api::{Place, Server};
use serde_json::{Value, json};

use crate::site::{LIMIT, Options, SERVING, Site, build, can_run};

const CLASS: &str = "evenkeel.example/evenkeel";
/// What allows the instances what they do.
const MANIFEST: &str = include_str!("../../../deploy/kubernetes/evenkeel-kube.yml");
const VIP: &str = "k8s.shop.web.tcp-80";
/// Pods of the Service.
const PODS: usize = 8;
/// New connections per second.
const RATE: u64 = 100;

/// Nodes that announce, and instances of `evenkeel-kube` beside them.
struct Stage<'lab> {
    site: Site<'lab>,
    api: Server,
    instances: Vec<Option<Daemon>>,
    _announcers: Vec<Daemon>,
    _nginx: Vec<Nginx>,
}

impl<'lab> Stage<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let any = "0.0.0.0:80".parse().unwrap();
        let serving = lab.backends.iter().take(SERVING);
        let nginx = serving.map(|host| Nginx::start(host, &[any]).unwrap());
        let nginx = nginx.collect();
        let options = Options {
            tables: Some(announce),
            ..Options::default()
        };
        let site = Site::start_nodes(lab, options);
        let nodes = lab.balancers.iter().zip(&site.nodes);
        let announcers = nodes.map(|(host, node)| start_announce(host, node).unwrap());
        let announcers = announcers.collect();
        let listener = (lab.clients[0].ns).enter(|| TcpListener::bind("0.0.0.0:6443").unwrap());
        let api = Server::start(listener, MANIFEST);
        let mut stage = Self {
            instances: site.nodes.iter().map(|_| None).collect(),
            site,
            api,
            _announcers: announcers,
            _nginx: nginx,
        };
        for node in 0..stage.site.nodes.len() {
            stage.start_instance(node);
        }
        stage
    }

    fn start_instance(&mut self, node: usize) {
        let host = &self.site.lab.balancers[node];
        let config = host.directory().join("kubeconfig");
        let server = SocketAddr::new(self.site.lab.clients[0].address(Family::V4), 6443);
        let text = self.api.kubeconfig();
        let text = text.replace(&self.api.address.to_string(), &server.to_string());
        std::fs::write(&config, text).unwrap();
        let binary = sibling("evenkeel-kube").unwrap();
        let mut command = Command::new(binary.expect("build lb-kube first"));
        command.args(["--pool", "192.0.2.100-192.0.2.103", "--bake", "1"]);
        command.args(["--node", &format!("lb-{node}")]);
        command
            .arg("--socket")
            .arg(self.site.nodes[node].operator().socket());
        let announce = host.directory().join("announce.sock");
        command.arg("--announce-socket").arg(announce);
        command.env("KUBECONFIG", &config);
        let log = host.directory().join("kube.log");
        let daemon = Daemon::start("evenkeel-kube", &host.ns.entry(), command, &log);
        self.instances[node] = Some(daemon.unwrap());
    }

    fn logs(&self) -> String {
        let logs = self.instances.iter().flatten().map(Daemon::log);
        let logs: Vec<String> = logs.collect();
        format!("{}\n{}", self.site.logs(), logs.join("\n----\n"))
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < LIMIT, "{what}\n{}", self.logs());
            sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    }

    /// Backends of the VIP with a share of the ring on a node.
    fn serving(&self, node: usize) -> usize {
        let status = self.site.status(node);
        let vip = status.vips.into_iter().find(|vip| vip.name == VIP);
        let members = vip.map(|vip| vip.members).unwrap_or_default();
        members
            .iter()
            .filter(|member| member.table_share > 0.0)
            .count()
    }

    #[track_caller]
    fn wait_serving(&self, count: usize) -> Duration {
        self.wait(&format!("all nodes have {count} backends"), || {
            (0..self.site.nodes.len()).all(|node| self.serving(node) == count)
        })
    }

    fn service(&self) -> Value {
        self.api.objects.get(&place()).unwrap_or_default()
    }

    fn ingress(&self) -> Option<String> {
        let service = self.service();
        let ip = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        Some(ip.as_str()?.to_owned())
    }

    fn condition(&self) -> String {
        let service = self.service();
        let message = &service["status"]["conditions"][0]["message"];
        message.as_str().unwrap_or_default().to_owned()
    }

    fn change_service(&self, change: impl FnOnce(&mut Value)) {
        let mut service = self.service();
        change(&mut service);
        self.api.put(&place(), service);
    }

    fn has_vip(&self, node: usize) -> bool {
        let status = self.site.status(node);
        status.vips.iter().any(|vip| vip.name == VIP)
    }
}

fn place() -> Place {
    Place::new("services", "shop", "web")
}

fn web() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "annotations": {} },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": CLASS, "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        },
    })
}

/// The table of a node that announces, by routes in its kernel.
fn announce(host: &Host) -> String {
    let socket = host.directory().join("announce.sock");
    format!("\n[announce]\nsocket = {socket:?}\nvia = \"kernel\"\ntable = 7411\n")
}

/// A pod: an nginx on a port of a backend's host.
struct Pod {
    address: SocketAddr,
    state: &'static str,
    _nginx: Nginx,
}

impl Pod {
    fn start(lab: &Lab, number: usize) -> Self {
        let host = &lab.backends[number % SERVING];
        let address = SocketAddr::new(host.address(Family::V4), 8000 + number as u16);
        Self {
            address,
            state: "ready",
            _nginx: Nginx::start(host, &[address]).unwrap(),
        }
    }
}

/// Writes the EndpointSlices of these pods: the control plane has one for each port here.
fn endpoints(stage: &Stage<'_>, pods: &[Pod]) {
    for pod in pods {
        let (ready, terminating) = (pod.state == "ready", pod.state == "terminating");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": pod.address.port(), "protocol": "TCP" }],
            "endpoints": [{
                "addresses": [pod.address.ip().to_string()],
                "conditions": { "ready": ready, "serving": ready || terminating, "terminating": terminating },
            }],
        });
        let place = Place::new(
            "endpointslices",
            "shop",
            &format!("web-{}", pod.address.port()),
        );
        stage.api.put(&place, slice);
    }
}

fn forget(stage: &Stage<'_>, pod: &Pod) {
    let name = format!("web-{}", pod.address.port());
    stage
        .api
        .objects
        .lose(&Place::new("endpointslices", "shop", &name));
}

/// A fleet of two with the Service, which has an address and all pods.
fn served(lab: &Lab) -> (Stage<'_>, Vec<Pod>, SocketAddr) {
    let stage = Stage::start(lab);
    let pods: Vec<Pod> = (0..PODS).map(|number| Pod::start(lab, number)).collect();
    stage.api.put(&place(), web());
    // No pod is known: no VIP, and the Service says why.
    stage.wait("the Service waits for endpoints", || {
        stage.condition().contains("no endpoint is ready")
    });
    assert!(!stage.has_vip(0) && stage.ingress().is_none());
    endpoints(&stage, &pods);
    let took = stage.wait("the Service has an address", || stage.ingress().is_some());
    println!("address after {took:.1?}");
    assert_eq!(stage.ingress().as_deref(), Some("192.0.2.100"));
    stage.wait_serving(PODS);
    let holds = &stage.service()["metadata"]["finalizers"];
    assert_eq!(holds, &json!(["evenkeel.example/vip"]));
    let to = SocketAddr::new("192.0.2.100".parse().unwrap(), 80);
    (stage, pods, to)
}

fn lost(load: SteadyLoad) -> (usize, usize) {
    let finished = load.finish();
    let lost: Vec<&Finished> = (finished.iter())
        .filter(|request| request.outcome != Outcome::Answered)
        .collect();
    println!("{} of {} lost: {lost:?}", lost.len(), finished.len());
    (lost.len(), finished.len())
}

#[test]
fn pods_come_and_go_without_a_failed_connection() {
    if !can_run("Kubernetes, rolling restart") {
        return;
    }
    let lab = build(2);
    let (stage, mut pods, to) = served(&lab);
    let load = SteadyLoad::start(&lab.clients[0], to, RATE, LIMIT).unwrap();
    // A change is in all rings soon after the API server has it.
    let mut times = Vec::new();
    for turn in 0..20 {
        let is_ready = turn % 2 == 1;
        pods[0].state = if is_ready { "ready" } else { "terminating" };
        endpoints(&stage, &pods[..1]);
        times.push(stage.wait_serving(PODS - usize::from(!is_ready)));
    }
    times.sort();
    println!(
        "EndpointSlice to all rings: median {:.0?}, longest {:.0?}",
        times[10], times[19]
    );
    // A rolling restart: one new pod, one old one goes, and so on.
    for turn in 0..PODS {
        pods.push(Pod::start(&lab, PODS + turn));
        endpoints(&stage, &pods[PODS..]);
        stage.wait_serving(PODS + 1);
        pods[0].state = "terminating";
        endpoints(&stage, &pods[..1]);
        stage.wait_serving(PODS);
        sleep(Duration::from_millis(500));
        forget(&stage, &pods[0]);
        pods.remove(0);
    }
    assert_eq!(stage.api.denied(), [""; 0]);
    let (lost, all) = lost(load);
    assert_eq!(lost, 0, "{}", stage.logs());
    assert!(all > 500, "{all}");
}

#[test]
fn an_api_server_that_fails_takes_nothing_away() {
    if !can_run("Kubernetes, faults") {
        return;
    }
    let lab = build(2);
    let (mut stage, mut pods, to) = served(&lab);
    let load = SteadyLoad::start(&lab.clients[0], to, RATE, LIMIT).unwrap();
    let revision = stage.site.fleet(0).head.unwrap().revision;
    let changes = |stage: &Stage<'_>| stage.site.fleet(0).head.unwrap().revision - revision;
    // Away: everything stays, also for an instance that starts meanwhile.
    stage.api.set_down(true);
    stage.instances[1] = None;
    stage.start_instance(1);
    sleep(Duration::from_secs(5));
    assert_eq!(
        (stage.serving(0), stage.serving(1), changes(&stage)),
        (PODS, PODS, 0)
    );
    // Back, with errors and without a memory of versions.
    stage.api.faults.fail_every.store(3, Relaxed);
    stage.api.set_down(false);
    pods[0].state = "terminating";
    endpoints(&stage, &pods[..1]);
    stage.wait_serving(PODS - 1);
    stage.api.faults.forgets.store(true, Relaxed);
    stage.api.set_down(false);
    pods[0].state = "ready";
    endpoints(&stage, &pods[..1]);
    stage.api.faults.forgets.store(false, Relaxed);
    stage.wait_serving(PODS);
    stage.api.faults.fail_every.store(0, Relaxed);
    // The slices of a Service are lost: nothing is known of its pods, and all stay.
    for pod in &pods {
        forget(&stage, pod);
    }
    sleep(Duration::from_secs(3));
    assert_eq!((stage.serving(0), stage.serving(1)), (PODS, PODS));
    endpoints(&stage, &pods);
    // So is the Service: it was not deleted as Services are.
    let service = stage.service();
    stage.api.objects.lose(&place());
    sleep(Duration::from_secs(3));
    stage.api.put(&place(), service);
    assert!(stage.has_vip(0) && stage.has_vip(1) && changes(&stage) == 0);
    // An impossible annotation changes nothing, and says so.
    stage.change_service(|service| {
        service["metadata"]["annotations"] = json!({ "evenkeel.example/forward": "dsr" });
    });
    stage.wait("the Service says what is wrong", || {
        stage.condition().contains("it must be nat, ipip or l2")
    });
    let events = stage.api.objects.list("events", "shop");
    let says = |event: &Value| {
        event["type"] == "Warning" && event["note"].as_str().is_some_and(|it| it.contains("dsr"))
    };
    stage.wait("an event says so", || {
        stage.api.objects.list("events", "shop").iter().any(says)
    });
    assert!(events.len() < 20, "{events:?}");
    stage.change_service(|service| service["metadata"]["annotations"] = json!({}));
    assert_eq!(changes(&stage), 0);
    let (lost, _) = lost(load);
    assert_eq!(lost, 0, "{}", stage.logs());
    deleted(&mut stage, to);
}

/// The leader is lost, and then the Service deleted, though it has traffic. Nothing is asked that the manifest does not allow.
fn deleted(stage: &mut Stage<'_>, to: SocketAddr) {
    let load = SteadyLoad::start(&stage.site.lab.clients[0], to, RATE, LIMIT).unwrap();
    let place = Place::new("leases", "evenkeel", "evenkeel-kube");
    let lease = stage.api.objects.get(&place).unwrap();
    let leader = lease["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    stage.instances[usize::from(leader == "lb-1")] = None;
    stage.api.objects.delete(&self::place());
    assert!(stage.api.objects.get(&self::place()).is_some());
    let took = stage.wait("the Service is gone", || {
        stage.api.objects.get(&self::place()).is_none()
    });
    println!("deleted after {took:.1?}, with another leader");
    stage.wait("its VIP is gone", || !stage.has_vip(0) && !stage.has_vip(1));
    assert_eq!(stage.api.denied(), [""; 0]);
    drop(load);
}
