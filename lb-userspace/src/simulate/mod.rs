//! `evenkeel simulate`: runs the real program on packets of a capture or of generated flows.
//!
//! The maps are its own: nothing is pinned or attached, and the configured interfaces need not exist.
//! The network is assumed:
//!
//! | property | value |
//! | --- | --- |
//! | interface that receives and transmits | index 1 ([`EGRESS_IFINDEX`]): verdict `tx` |
//! | its MTU | 1500 |
//! | MAC address that it transmits from | `02:00:00:00:00:01` ([`OWN_MAC`]) |
//! | MAC address that it receives frames for | the destination of each frame, unless one is given |
//! | MAC address of the n-th backend address | `02:00:01:00:00:00` plus n |
//! | source of `ipip` without `node.encap_source` | 192.0.0.8 (RFC 7600), or the prefix 100::/64 (RFC 6666) |
//! | source of `nat` without `node.nat_source` | 192.0.0.8, or 100::1 |
//! | sources of generated flows | 198.18.0.0/15 (RFC 2544), 2001:2::/48 (RFC 5180) |
//!
//! Rate limits have the times of the packets in the capture. For generated flows, which have no times, there
//! are none.
//!
//! All members count as up unless the configuration drains or disables them.

mod flows;
mod packet;
mod report;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use lb_common::{member::NextHop, reason::REASONS, trace::NONE};
use tracing::warn;

pub use flows::Flows;
pub use report::{Report, Verdicts};

use crate::capture::{self, Capture, CaptureError};
use lb_daemon::reconciler::{Reconciler, ReconcilerError, Route, Routes, load_options};
use lb_dataplane::{Dataplane, DataplaneError, LoadOptions, Run};
use lb_model::config::{Config, Prefix};

/// Index of the interface that receives and transmits: that of `BPF_PROG_TEST_RUN`.
pub const EGRESS_IFINDEX: u32 = 1;

pub const MTU: u32 = 1500;

pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The dummy address of RFC 7600.
pub const DUMMY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The first address in the discard prefix of RFC 6666.
pub const DUMMY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

const DUMMY_PREFIX_V6: u8 = 64;

/// Frame lengths that `BPF_PROG_TEST_RUN` accepts: at least a header, at most a page with headroom.
const RUNNABLE: std::ops::RangeInclusive<usize> = 14..=3520;

/// Source of the packets.
#[derive(Clone, Debug)]
pub enum Input {
    Capture(PathBuf),
    /// The first packets of this many distinct flows, spread evenly over the VIPs.
    Flows {
        count: u64,
        seed: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Options {
    pub input: Input,
    /// Capture file for the transmitted packets.
    pub write: Option<PathBuf>,
    /// Print one line per packet.
    pub trace: bool,
    /// Use the program for packet captures.
    pub capturing: bool,
    /// MAC address that the node receives frames for; by default the destination of each frame.
    pub mac: Option<[u8; 6]>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Reconciler(#[from] ReconcilerError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("cannot write the trace: {0}")]
    Trace(#[source] io::Error),
    #[error("these VIPs do not have {count} distinct flows; use a lower --flows")]
    TooManyFlows { count: u64 },
}

#[derive(Debug)]
pub struct Outcome {
    /// Report on the packets that were run.
    pub report: Report,
    /// Why the capture could not be read to its end.
    pub fault: Option<CaptureError>,
}

/// A data path with the maps of a configuration, attached to nothing.
#[derive(Debug)]
pub struct Simulation {
    dataplane: Dataplane,
    reconciler: Reconciler,
    config: Config,
    tracing: bool,
    /// The only MAC address that frames are accepted for, if given.
    mac: Option<[u8; 6]>,
    verdicts: Verdicts,
    packets: u64,
    /// Packets of the capture that cannot be run. They are numbered too, as in other tools.
    skipped: u64,
}

impl Simulation {
    /// Loads the program and fills its maps. Needs root.
    pub fn new(config: &Config, tracing: bool) -> Result<Self, SimulateError> {
        Self::with_program(config, tracing, false)
    }

    /// The same; `capturing`: with the program for packet captures.
    fn with_program(
        config: &Config,
        tracing: bool,
        capturing: bool,
    ) -> Result<Self, SimulateError> {
        let config = with_dummies(config);
        let options = LoadOptions {
            tracing,
            capturing,
            ..load_options(&config)
        };
        let mut dataplane = Dataplane::load(&options)?;
        let egress = dataplane.egress.assign(EGRESS_IFINDEX, MTU, OWN_MAC)?;
        dataplane.stations.accept(EGRESS_IFINDEX, OWN_MAC)?;
        let mut reconciler = Reconciler::fresh().presuming_up();
        let routes = assumed_routes(&config, egress);
        reconciler.apply_with_routes(&mut dataplane, &config, routes)?;
        Ok(Self {
            dataplane,
            reconciler,
            config,
            tracing,
            mac: None,
            verdicts: Verdicts::default(),
            packets: 0,
            skipped: 0,
        })
    }

    /// Accepts frames for this MAC address alone.
    fn accept(&mut self, mac: [u8; 6]) -> Result<(), SimulateError> {
        let only = BTreeSet::from([(EGRESS_IFINDEX, mac)]);
        Ok(self.dataplane.stations.set(&only)?)
    }

    /// A capture may come from any host: without `--mac`, the node has the destination of each frame.
    fn accept_destination(&mut self, frame: &[u8]) -> Result<(), SimulateError> {
        match frame.split_first_chunk::<6>() {
            Some((&mac, _)) if self.mac.is_none() && mac[0] & 1 == 0 => self.accept(mac),
            _ => Ok(()),
        }
    }

    /// Sets the time for rate limits: that of the packet, not that of its run.
    fn set_clock(&self, timestamp: Duration) -> Result<(), SimulateError> {
        // 0 would be the kernel's clock.
        let now_ns = timestamp.as_nanos() as u64 + 1;
        Ok(self.dataplane.set_clock(now_ns)?)
    }

    /// Runs one frame.
    pub fn run(&mut self, frame: &[u8], trace: &mut dyn Write) -> Result<Run, SimulateError> {
        self.packets += 1;
        let run = if self.tracing {
            let (run, traced) = self.dataplane.run_traced(frame)?;
            self.print(&run, &traced, trace)
                .map_err(SimulateError::Trace)?;
            run
        } else {
            self.dataplane.run(frame)?
        };
        self.verdicts.count(run.verdict);
        Ok(run)
    }

    fn print(
        &self,
        run: &Run,
        traced: &lb_common::trace::Trace,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let reason = REASONS.get(traced.reason as usize).map_or("?", |r| r.name);
        let vip = (traced.vip != NONE).then(|| self.reconciler.vip_name(traced.vip));
        let member = (traced.member != NONE).then(|| self.reconciler.member_name(traced.member));
        let name = |name: Option<Option<&str>>| name.flatten().unwrap_or("-").to_owned();
        let verdict = report::verdict_name(run.verdict);
        let number = self.packets + self.skipped;
        let (vip, member) = (name(vip), name(member));
        writeln!(out, "{number} {verdict} {reason} {vip} {member}")
    }

    /// Reads the counters.
    pub fn report(&self) -> Result<Report, SimulateError> {
        Ok(Report {
            packets: self.packets,
            verdicts: self.verdicts,
            reasons: report::reasons(&self.dataplane)?,
            members: self.reconciler.shares(&self.dataplane)?,
            tracked_flows: report::tracked_flows(&self.dataplane)?,
        })
    }

    /// Runs the packets of a capture. Returns the error that ended it early, if any.
    fn run_capture(
        &mut self,
        mut capture: Capture,
        out: &mut Output,
        trace: &mut dyn Write,
    ) -> Result<Option<CaptureError>, SimulateError> {
        let mut short = 0_u64;
        let mut fault = None;
        while let Some(frame) = capture.next() {
            let frame = match frame {
                Ok(frame) => frame,
                // Without a packet, there is nothing to report or to write.
                Err(error) if capture.frames() == 0 => return Err(error.into()),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            };
            if !RUNNABLE.contains(&frame.data.len()) {
                self.skipped += 1;
                short += u64::from(frame.data.len() < *RUNNABLE.start());
                continue;
            }
            self.accept_destination(&frame.data)?;
            self.set_clock(frame.timestamp)?;
            let run = self.run(&frame.data, trace)?;
            out.transmit(frame.timestamp, &run)?;
        }
        if capture.cut_frames() > 0 {
            let cut = capture.cut_frames();
            warn!(
                cut,
                "packets were truncated by the capture's snap length and were run as captured"
            );
        }
        self.warn_of_skipped(short);
        Ok(fault)
    }

    /// `short`: how many of the skipped packets are too short.
    fn warn_of_skipped(&self, short: u64) {
        if short > 0 {
            warn!(
                left_out = short,
                "skipped packets shorter than an Ethernet header"
            );
        }
        let long = self.skipped - short;
        if long > 0 {
            warn!(
                left_out = long,
                "skipped packets of more than {} bytes; capture with receive offloads off \
                 (`ethtool -K IFACE gro off lro off`)",
                RUNNABLE.end()
            );
        }
    }

    fn run_flows(
        &mut self,
        count: u64,
        seed: u64,
        out: &mut Output,
        trace: &mut dyn Write,
    ) -> Result<(), SimulateError> {
        let mut flows = Flows::new(&self.config.vips, seed);
        for number in 0..count {
            let frame = flows
                .next_frame()
                .ok_or(SimulateError::TooManyFlows { count })?;
            let run = self.run(&frame, trace)?;
            out.transmit(Duration::from_micros(number), &run)?;
        }
        Ok(())
    }
}

/// Runs all packets; the lines of the trace go to `trace`.
///
/// A damaged or truncated capture is run up to the damage.
///
/// # Errors
///
/// An existing output file is left unchanged.
pub fn simulate(
    config: &Config,
    options: &Options,
    trace: &mut dyn Write,
) -> Result<Outcome, SimulateError> {
    // The capture is opened first, to fail early, and only once, as it may be a pipe.
    let capture = match &options.input {
        Input::Capture(path) => Some(capture::read(path)?),
        Input::Flows { .. } => None,
    };
    let config = match options.input {
        Input::Capture(_) => config.clone(),
        Input::Flows { .. } => without_rates(config),
    };
    let mut simulation = Simulation::with_program(&config, options.trace, options.capturing)?;
    if let Some(mac) = options.mac {
        simulation.mac = Some(mac);
        simulation.accept(mac)?;
    }
    let mut out = Output::create(options.write.as_ref())?;
    let mut fault = None;
    match (capture, &options.input) {
        (Some(capture), _) => fault = simulation.run_capture(capture, &mut out, trace)?,
        (None, Input::Flows { count, seed }) => {
            simulation.run_flows(*count, *seed, &mut out, trace)?;
        }
        (None, Input::Capture(_)) => {}
    }
    out.finish()?;
    let report = simulation.report()?;
    Ok(Outcome { report, fault })
}

/// Capture file for the transmitted packets, if requested.
struct Output {
    writer: Option<capture::Writer>,
}

impl Output {
    fn create(path: Option<&PathBuf>) -> Result<Self, CaptureError> {
        let writer = path.map(capture::Writer::create).transpose()?;
        Ok(Self { writer })
    }

    fn transmit(&mut self, timestamp: Duration, run: &Run) -> Result<(), CaptureError> {
        match &mut self.writer {
            Some(writer) if report::is_transmitted(run.verdict) => {
                writer.write(timestamp, &run.frame)
            }
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<(), CaptureError> {
        self.writer
            .map_or(Ok(()), |writer| writer.finish().map(drop))
    }
}

/// Removes rate limits and bounds by capacity, but not denied sources.
fn without_rates(config: &Config) -> Config {
    let mut config = config.clone();
    for vip in &mut config.vips {
        let limit = &mut vip.limit;
        (limit.new_flows, limit.packets) = (None, None);
        (limit.source.new_flows, limit.source.packets) = (None, None);
        vip.bound.capacity = false;
    }
    config
}

/// Adds dummy source addresses where the configuration leaves them to the interfaces.
fn with_dummies(config: &Config) -> Config {
    let mut config = config.clone();
    let node = &mut config.node;
    for (dummy, length) in [(DUMMY_V4.into(), 32), (DUMMY_V6.into(), DUMMY_PREFIX_V6)] {
        if node.encap_prefix(dummy).is_none() {
            node.encap_source.push(Prefix::containing(dummy, length));
        }
        let mut sources = node.nat_source.iter();
        if !sources.any(|source| source.is_ipv4() == dummy.is_ipv4()) {
            node.nat_source.push(dummy);
        }
    }
    config
}

fn assumed_routes(config: &Config, egress: u16) -> Routes {
    let backends = config.vips.iter().flat_map(|vip| &vip.backends);
    let addresses: BTreeSet<IpAddr> = backends.map(|backend| backend.address).collect();
    (0u32..)
        .zip(addresses)
        .map(|(number, address)| {
            let [_, b, c, d] = number.to_be_bytes();
            let mac = [2, 0, 1, b, c, d];
            let next_hop = NextHop { mac, egress };
            let route = Route {
                next_hop,
                on_link: true,
                replies_seen: true,
                source: None,
            };
            (address, Some(route))
        })
        .collect()
}
