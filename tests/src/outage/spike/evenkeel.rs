//! Evenkeel on the balancer host, with direct server return (`l2`).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::contestant::{Change, Started};
use super::server::CAPACITY;
use crate::balancer::Balancer;
use crate::configuration::node_tables;
use crate::deadline;
use crate::host::Host;
use crate::operator::Operator;
use crate::topology::{Family, Lab};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// New flows per second that an operator would configure for a server: four fifths of what it can take. With
/// less headroom, a queue that has built up would not drain.
const CONFIGURED_CAPACITY: u64 = CAPACITY * 4 / 5;

/// What is configured besides backends and health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// Nothing.
    None,
    /// The capacity of backends as a bound, and of all together as a limit.
    Capacity,
    /// The same, and a bound of 1.25 times the share of each backend.
    FactorAndCapacity,
}

#[derive(Debug)]
pub(super) struct Evenkeel<'lab> {
    host: &'lab Host,
    balancer: Balancer<'lab>,
    operator: Operator,
    text: String,
    /// Whether the change is forced past the guards.
    forces: bool,
}

impl<'lab> Evenkeel<'lab> {
    /// Starts the controller and waits until all backends get new flows.
    pub(super) fn start(
        lab: &'lab Lab,
        vip: SocketAddr,
        binary: &Path,
        protection: Protection,
        forces: bool,
    ) -> Result<Self> {
        let host = &lab.balancers[0];
        let text = configuration(lab, vip, protection);
        let mut balancer = Balancer::new(host, binary)?;
        balancer.start(&text, || Balancer::is_attached(host))?;
        let operator = balancer.operator();
        deadline::until("all backends get new flows", READY_LIMIT, || {
            let members = members(&operator)?;
            let share = |member: &Value| member["table_share"].as_f64().unwrap_or(0.0);
            Ok(members.len() == lab.backends.len() && members.iter().all(|m| share(m) > 0.2))
        })?;
        Ok(Self {
            host,
            balancer,
            operator,
            text,
            forces,
        })
    }

    fn wait_active(&self) -> Result<()> {
        deadline::until("the wrong weight is active", READY_LIMIT, || {
            let share = members(&self.operator)?[0]["table_share"].as_f64();
            Ok(share.is_some_and(|share| share > 0.9))
        })
    }
}

impl Started for Evenkeel<'_> {
    fn change_weight(&mut self) -> Result<Change> {
        let text = self.text.replacen("weight = 100\n", "weight = 10000\n", 1);
        let file = self.host.directory().join("mistake.toml");
        std::fs::write(&file, text)?;
        let file = file.to_string_lossy();
        let mut arguments = vec!["apply", &file, "--why", "twice the weight for backend-0"];
        if self.forces {
            // With capacities, that guard refuses the change as well.
            arguments.extend(["--force", "max_share", "--force", "capacity"]);
            arguments.extend(["--bake", "0s", "--no-wait"]);
        }
        let applied = self.operator.run(&arguments)?;
        match (applied.code, self.forces) {
            (0, true) => self.wait_active().map(|()| Change::Active),
            (3, false) => Ok(Change::Refused),
            _ => bail!("unexpected result of `evenkeel apply`: {applied:?}"),
        }
    }

    fn check_running(&mut self) -> Result<()> {
        self.balancer.controller()?.check_running()
    }
}

fn members(operator: &Operator) -> Result<Vec<Value>> {
    let status = operator.get("/v1/status")?;
    let members = status["vips"][0]["members"].as_array();
    Ok(members.cloned().unwrap_or_default())
}

fn configuration(lab: &Lab, vip: SocketAddr, protection: Protection) -> String {
    let all = CONFIGURED_CAPACITY * lab.backends.len() as u64;
    let bound = match protection {
        Protection::None => String::new(),
        Protection::Capacity => "bound = { capacity = true }\n".to_owned(),
        Protection::FactorAndCapacity => "bound = { factor = 1.25, capacity = true }\n".to_owned(),
    };
    let (limit, capacity) = match protection {
        Protection::None => (String::new(), String::new()),
        _ => (
            format!("limit = {{ new_flows = {all} }}\n"),
            format!("capacity = {CONFIGURED_CAPACITY}\n"),
        ),
    };
    let mut text = format!(
        "{node}
[[vip]]
name = \"api\"
address = \"{address}\"
port = {port}
protocol = \"tcp\"
forward = \"l2\"
health = {{ kind = \"tcp\", via = \"direct\" }}
{bound}{limit}",
        node = node_tables(lab.balancers[0].directory(), "native"),
        address = vip.ip(),
        port = vip.port(),
    );
    for host in &lab.backends {
        let (name, address) = (&host.name, host.address(Family::V4));
        let _ = write!(
            text,
            "\n[[vip.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = 100\n{capacity}"
        );
    }
    text
}
