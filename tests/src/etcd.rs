//! An etcd cluster of three members with mutual TLS, on a host of its own in the lab.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use lb_etcd::{Certificates, Member};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::link::ip;
use crate::process::{self, Daemon};
use crate::tool;
use crate::topology::Lab;

const MEMBERS: u16 = 3;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster. Killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Daemon>,
    files: Certificates,
    host: Host,
}

impl Cluster {
    /// Starts the cluster on the segment of the balancers' first interfaces, and waits until it has a leader.
    pub fn start(lab: &Lab) -> Result<Self> {
        let host = Host::new("etcd")?;
        let (ns, switch) = (&host.ns, &lab.switch);
        ip(
            switch,
            &[
                format!("link add etcd type veth peer name eth0 netns {}", ns.name()),
                "link set etcd master front".to_owned(),
                "link set etcd up".to_owned(),
            ],
        )?;
        ip(
            ns,
            &[
                format!("addr add {ADDRESS}/24 dev eth0"),
                "link set eth0 up".to_owned(),
            ],
        )?;
        let files = Certificates::new(host.directory(), ADDRESS.into());
        let mut cluster = Self {
            members: Vec::new(),
            files,
            host,
        };
        for member in 0..MEMBERS {
            let daemon = cluster.start_member(member)?;
            cluster.members.push(daemon);
        }
        let Self {
            members,
            files,
            host,
        } = &mut cluster;
        let inside = host.ns.entry();
        for (member, daemon) in (0..).zip(members) {
            daemon.wait_ready(START_LIMIT, || {
                let health = process::finish(&inside, health(files, member)?, "")?;
                Ok(health.status.success())
            })?;
        }
        Ok(cluster)
    }

    fn start_member(&self, member: u16) -> Result<Daemon> {
        let directory = self.host.directory();
        let name = |it| format!("etcd-{it}");
        let all = (0..MEMBERS).map(|it| format!("{}={}", name(it), peer(it)));
        let identity = Member {
            name: name(member),
            data: &directory.join(format!("data-{member}")),
            client: endpoint(member),
            peer: peer(member),
            all: all.collect::<Vec<_>>().join(","),
            token: "lab".to_owned(),
            tls: Some(&self.files),
        };
        let mut command = tool::command("etcd")?;
        command.args(identity.arguments());
        // A busy machine must not change the leader.
        command.args(["--heartbeat-interval", "200", "--election-timeout", "2000"]);
        let log = directory.join(format!("etcd-{member}.log"));
        Daemon::start(&identity.name, &self.host.ns.entry(), command, &log)
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..MEMBERS).map(endpoint).collect()
    }

    pub fn files(&self) -> &Certificates {
        &self.files
    }

    /// Stops all members where they are (`SIGSTOP`): connections stay open, nothing is answered.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Ends [`Cluster::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut members = self.members.iter();
        members.try_for_each(|member| member.signal(signal))
    }
}

/// Returns the command that asks a member for its health, as a client of the cluster.
fn health(files: &Certificates, member: u16) -> Result<Command> {
    let mut command = tool::command("etcdctl")?;
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &endpoint(member)]);
    command.arg("--cacert").arg(&files.ca);
    command.arg("--cert").arg(&files.client.0);
    command.arg("--key").arg(&files.client.1);
    command.args(["--command-timeout=2s", "endpoint", "health"]);
    Ok(command)
}

fn endpoint(member: u16) -> String {
    format!("https://{ADDRESS}:{}", 2379 + 10 * member)
}

fn peer(member: u16) -> String {
    format!("http://127.0.0.1:{}", 2380 + 10 * member)
}
