//! `evenkeel-kube`.

use std::{collections::BTreeSet, io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use kube::Config;
use lb_api::client::{Client, DEFAULT_SOCKET};
use lb_kube::{
    announced, backends, cluster::Cluster, connect, lease::Election, plan::Settings, pool::Pool,
    publish::Publisher, service::Forward, vips::Vips, words,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing_subscriber::EnvFilter;

/// Between two attempts to get the Lease or to renew it.
const ELECTION: Duration = Duration::from_secs(3);
/// After this time without the fleet, another instance is to lead, for so long at least.
const UNFIT: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(30);
/// Changes within this time are looked at together.
const COLLECT: Duration = Duration::from_millis(100);
/// Longest time between two looks at what is to be changed.
const LOOK: Duration = Duration::from_secs(1);
/// Requests to the node; a rollout is only begun.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes Services of type LoadBalancer VIPs of Evenkeel, and their endpoints backends.
///
/// Runs on each node of Evenkeel, beside `evenkeel run`. docs/kubernetes.md explains the set-up.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The loadBalancerClass of the Services to serve.
    #[arg(long, default_value = "evenkeel.example/evenkeel")]
    class: String,
    /// What the names of VIPs begin with; to be unique in the fleet, letters and digits.
    #[arg(long, default_value = "k8s")]
    cluster: String,
    /// Addresses for Services: [NAME=]CIDR or [NAME=]FIRST-LAST. Without one, no VIPs are written: they are expected
    /// in the configuration.
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<Pool>,
    /// How packets reach the backends of Services without the annotation evenkeel.example/forward.
    #[arg(long, value_enum, default_value = "nat")]
    forward: Forward,
    /// Bake time of a rollout's waves in seconds; by default `change.bake` of the node.
    #[arg(long, value_name = "SECONDS")]
    bake: Option<u32>,
    /// Socket of `evenkeel run`.
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Socket of `evenkeel announce`.
    #[arg(long, default_value = "/run/evenkeel/announce.sock")]
    announce_socket: PathBuf,
    /// Name of this instance in the election: unique.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Namespace of the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "evenkeel")]
    namespace: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // The provider can only be set by somebody else, who does not exist here.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("cannot set up TLS");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if args.cluster.is_empty() || args.cluster.len() > 20 || !args.cluster.chars().all(is_plain) {
        bail!("--cluster must be 1 to 20 letters, digits and hyphens");
    }
    let config = Config::infer().await.context(
        "cannot find out how to reach the API server: set KUBECONFIG, or run in a pod with a service account",
    )?;
    let kubernetes = connect(config).context("prepare the connection to the API server")?;
    let settings = Settings {
        class: args.class,
        cluster: args.cluster,
        pools: args.pools,
        forward: args.forward,
    };
    let node = Client::new(&args.socket).with_timeout(TIMEOUT);
    let announcer = Client::new(&args.announce_socket).with_timeout(TIMEOUT);
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let publisher = || Publisher::new(&kubernetes, args.node.clone());
    let (serves, served) = watch::channel(BTreeSet::new());
    let vips = Vips::new(settings.clone(), node.clone(), served.clone(), args.bake);
    let election = || Election::new(&kubernetes, &args.namespace, args.node.clone());
    let (leads, leading) = watch::channel(false);
    let (is_fit, fitness) = watch::channel(true);
    let parts = async {
        let cluster = Cluster::watch(&kubernetes);
        // What exists is known before anything is set or allocated.
        cluster.ready().await;
        tokio::join!(
            backends::run(&cluster, &settings, node.clone(), serves),
            announced::run(&cluster, &settings, node, announcer, publisher()),
            async {
                // Without pools there is nothing to lead.
                if !settings.pools.is_empty() {
                    tokio::join!(
                        take_part(election(), leads, fitness),
                        lead((leading, is_fit), &cluster, vips, served, publisher()),
                    );
                }
            },
        )
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = parts => {}
    }
    if !settings.pools.is_empty()
        && let Err(error) = election().release().await
    {
        tracing::warn!("cannot give the Lease back: {}", words(&error));
    }
    Ok(())
}

/// Takes part in the election while this instance is fit to lead.
async fn take_part(
    mut election: Election,
    leads: watch::Sender<bool>,
    fitness: watch::Receiver<bool>,
) {
    let mut fails = false;
    loop {
        let is_fit = *fitness.borrow();
        let done = if is_fit {
            election.run().await
        } else if *leads.borrow() {
            election.release().await
        } else {
            Ok(())
        };
        if let Some(error) = done.as_ref().err().filter(|_| !fails) {
            tracing::warn!("cannot take part in the election: {}", words(error));
        }
        fails = done.is_err();
        let now = is_fit && election.leads();
        if leads.send_replace(now) != now {
            tracing::info!("{}", if now { "leads" } else { "leads no longer" });
        }
        sleep(ELECTION).await;
    }
}

/// Writes VIPs while this instance leads. The watches that this waits for end with the process.
async fn lead(
    (mut leading, is_fit): (watch::Receiver<bool>, watch::Sender<bool>),
    cluster: &Cluster,
    mut vips: Vips,
    mut served: watch::Receiver<BTreeSet<String>>,
    mut publisher: Publisher,
) {
    let mut changes = cluster.changes();
    let mut worked = Instant::now();
    loop {
        let leads = *leading.borrow_and_update();
        if !leads {
            if !*is_fit.borrow() && worked.elapsed() > UNFIT + REST {
                // Perhaps it can reach the fleet again.
                is_fit.send_replace(true);
            }
            let _: Result<_, _> = timeout(LOOK, leading.changed()).await;
            if *leading.borrow() {
                worked = Instant::now();
            }
            continue;
        }
        changes.borrow_and_update();
        served.borrow_and_update();
        if vips.step(cluster, &mut publisher).await {
            worked = Instant::now();
        } else if worked.elapsed() > UNFIT && *is_fit.borrow() {
            tracing::warn!("cannot change the fleet for {UNFIT:?}: another instance is to lead");
            is_fit.send_replace(false);
        }
        let changed = async {
            tokio::select! {
                _ = changes.changed() => {}
                _ = served.changed() => {}
            }
        };
        // Changes are collected: each may be one of many.
        let _: Result<_, _> = timeout(LOOK, changed).await;
        sleep(COLLECT).await;
    }
}
