//! A balancer node with a configuration, and the state of its maps.
//!
//! Whether a configuration is active is not asked of the controller: the maps in the kernel are
//! compared, slot by slot, with the ring that the configuration should give.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lb_common::address_of;
use lb_common::{
    member::{Member, control},
    proto,
    reason::REASONS,
    ring::MemberIndex,
};
use lb_dataplane::{PinnedView, Pins};
use lb_model::{
    ring::{Identity, RingMember, RingSize, build},
    transition::RingState,
};
use nix::sys::signal::Signal;

use crate::balancer::Balancer;
use crate::configuration::{Backend, Configuration, State, Vip};
use crate::host::Host;
use crate::operator::Operator;

const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// A node, whose controller may be stopped.
#[derive(Debug)]
pub struct Node<'lab> {
    /// The controller's process and the node's pins.
    pub balancer: Balancer<'lab>,
    configuration: Configuration,
    host: &'lab Host,
}

/// Share of a backend in a VIP, as the kernel has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub name: String,
    /// Share by weight.
    pub intended: f64,
    /// Share of the ring in the kernel.
    pub table: f64,
    /// New flows that the kernel counted.
    pub new_flows: u64,
}

impl<'lab> Node<'lab> {
    /// Starts the controller and waits until the maps match the configuration.
    pub fn start(host: &'lab Host, binary: &Path, configuration: Configuration) -> Result<Self> {
        let mut node = Self {
            balancer: Balancer::new(host, binary)?,
            configuration,
            host,
        };
        node.resume()?;
        Ok(node)
    }

    /// Starts the controller again after [`Node::stop`] or [`Node::kill`].
    pub fn resume(&mut self) -> Result<()> {
        let Self {
            balancer,
            configuration,
            host,
        } = self;
        let pins = Pins::at(balancer.bpffs());
        let text = configuration.to_toml(host.directory());
        balancer.start(&text, || {
            Ok(Balancer::is_attached(host)? && find_difference(&pins, configuration).is_none())
        })
    }

    /// Changes the configuration and waits until the maps match it.
    pub fn reload(&mut self, change: impl FnOnce(&mut Configuration)) -> Result<()> {
        change(&mut self.configuration);
        let Self {
            balancer,
            configuration,
            host,
        } = self;
        balancer.reload(&configuration.to_toml(host.directory()))?;
        let pins = Pins::at(balancer.bpffs());
        let mut difference = None;
        let waited = balancer.controller()?.wait_ready(RELOAD_LIMIT, || {
            difference = find_difference(&pins, configuration);
            Ok(difference.is_none())
        });
        waited.with_context(|| {
            let difference = difference.unwrap_or_else(|| "nothing".to_owned());
            format!("maps differ from the configuration: {difference}")
        })
    }

    /// Stops the controller as an operator would; the data path stays.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.balancer.stop()
    }

    /// Kills the controller; the data path stays.
    pub fn kill(&mut self) {
        self.balancer.kill();
    }

    /// Kills the controller `delay` after the start of a reload.
    pub fn kill_while_reloading(
        &mut self,
        delay: Duration,
        change: impl FnOnce(&mut Configuration),
    ) -> Result<()> {
        change(&mut self.configuration);
        let text = self.configuration.to_toml(self.host.directory());
        self.balancer.reload(&text)?;
        std::thread::sleep(delay);
        self.balancer.controller()?.signal(Signal::SIGKILL)?;
        self.balancer.kill();
        Ok(())
    }

    /// Starts the controller with the present configuration file and waits until its API replies. The
    /// active configuration depends on the revisions.
    pub fn restart(&mut self) -> Result<()> {
        if !self.balancer.try_start(&[])? {
            bail!("the controller exited:\n{}", self.balancer.log());
        }
        Ok(())
    }

    /// Returns an operator of this node.
    pub fn operator(&self) -> Operator {
        self.balancer.operator()
    }

    /// Returns how the maps differ from a configuration, if at all. It need not be that of the file.
    pub fn difference(&self, configuration: &Configuration) -> Option<String> {
        find_difference(&Pins::at(self.balancer.bpffs()), configuration)
    }

    /// Reads the configuration of a revision from disk.
    pub fn revision(&self, number: u64) -> Result<Configuration> {
        let file = format!("revisions/{number:08}.revision");
        let path = self.balancer.state_dir().join(file);
        let bytes = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text = bytes.splitn(3, '\n').nth(2).unwrap_or_default();
        let parsed = lb_model::config::parse("revision", text);
        let config = parsed.map_err(|errors| anyhow!("{}", errors.render(false)))?;
        Ok(self.configuration.with_vips_of(&config))
    }

    /// Returns the revision that the controller reports as active, and its configuration.
    pub fn active(&self) -> Result<(u64, Configuration)> {
        let running = self.operator().get("/v1/config")?;
        let number = running["number"]
            .as_u64()
            .context("revision number in /v1/config")?;
        Ok((number, self.revision(number)?))
    }

    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Opens the maps in the kernel.
    pub fn view(&self) -> Result<PinnedView> {
        Ok(PinnedView::open(&Pins::at(self.balancer.bpffs()))?)
    }

    /// Returns the number of flows in the tracking table.
    pub fn tracked_flows(&self) -> Result<usize> {
        Ok(self.view()?.tracking.count())
    }

    /// Returns every reason that was counted on this node.
    pub fn reasons(&self) -> Result<BTreeMap<&'static str, u64>> {
        let counters = self.view()?.counters.node()?;
        let counted = REASONS.iter().zip(counters.reasons);
        Ok(counted
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name, count))
            .collect())
    }

    /// Returns the shares of a VIP's backends, in the order of the configuration.
    pub fn shares(&self, vip: &str) -> Result<Vec<Share>> {
        let found = self.configuration.vips.iter().find(|v| v.name == vip);
        let vip = found.with_context(|| format!("no VIP {vip}"))?;
        let view = self.view()?;
        let mut kernel = KernelVip::find(&view, vip)?;
        let slots = kernel.ring.slots_per_member();
        let total = f64::from(kernel.ring.size());
        kernel.members.truncate(vip.backends.len());
        let pairs = vip.backends.iter().zip(vip.intended_shares());
        let shares = pairs
            .zip(kernel.members)
            .map(|((backend, intended), member)| {
                Ok(Share {
                    name: backend.name.clone(),
                    intended,
                    table: match member {
                        Some((index, _)) => {
                            f64::from(slots.get(&index).copied().unwrap_or(0)) / total
                        }
                        None => 0.0,
                    },
                    new_flows: match member {
                        Some((index, _)) => view.counters.member(index)?.new_flows,
                        None => 0,
                    },
                })
            });
        shares.collect()
    }
}

/// A VIP in the kernel.
struct KernelVip {
    ring: RingState,
    /// One entry per backend of the configuration.
    members: Vec<Option<(MemberIndex, Member)>>,
}

impl KernelVip {
    fn find(view: &PinnedView, vip: &Vip) -> Result<Self> {
        let protocol = if vip.udp { proto::UDP } else { proto::TCP };
        let found = view.vip(vip.at.ip(), vip.at.port(), protocol)?;
        let number = found.with_context(|| format!("VIP {} at {}", vip.name, vip.at))?;
        let ring = view.ring(number)?;
        let members: Vec<_> = view.members_of(number).collect();
        let member_of = |backend: &Backend| {
            let (address, family) = address_of(backend.address);
            members.iter().copied().find(|(_, member)| {
                member.address == address && control::family(member.control) == family
            })
        };
        Ok(Self {
            ring: ring.with_context(|| format!("ring of VIP {}", vip.name))?,
            members: vip.backends.iter().map(member_of).collect(),
        })
    }

    /// Returns the ring that the configuration should give.
    fn expected_ring(&self, vip: &Vip) -> Result<Vec<MemberIndex>> {
        let slots = self.ring.size();
        let size = RingSize::new(slots).with_context(|| format!("a ring of {slots} slots"))?;
        let pairs = vip.backends.iter().zip(&self.members);
        let members = pairs.filter_map(|(backend, member)| {
            Some(RingMember {
                identity: Identity {
                    address: backend.address,
                    port: backend.port.unwrap_or(vip.at.port()),
                },
                weight: backend.effective_weight(),
                member: member.as_ref()?.0,
            })
        });
        Ok(build(&members.collect::<Vec<_>>(), size))
    }
}

/// Returns how the maps differ from the configuration, if at all.
fn find_difference(pins: &Pins, configuration: &Configuration) -> Option<String> {
    let compare = || -> Result<()> {
        let view = PinnedView::open(pins)?;
        for vip in &configuration.vips {
            let kernel = KernelVip::find(&view, vip)?;
            for (backend, member) in vip.backends.iter().zip(&kernel.members) {
                check_member(vip, backend, member.as_ref().map(|(_, member)| member))?;
            }
            let moved = kernel.ring.moved_since(&kernel.expected_ring(vip)?);
            if moved != 0 {
                bail!(
                    "{moved} slots of VIP {} have another member than expected",
                    vip.name
                );
            }
        }
        Ok(())
    };
    compare().err().map(|error| format!("{error:#}"))
}

fn check_member(vip: &Vip, backend: &Backend, member: Option<&Member>) -> Result<()> {
    let name = format!("{} of VIP {}", backend.name, vip.name);
    let state = member.map_or(control::ABSENT, |member| control::state(member.control));
    match backend.state {
        State::Disabled if state == control::SERVING => bail!("{name} is disabled but serves"),
        State::Up | State::Drain if state != control::SERVING => bail!("{name} does not serve"),
        State::Up if member.is_none_or(|member| member.next_hop == 0) => {
            bail!("{name} has no next hop")
        }
        _ => Ok(()),
    }
}
