//! `evenkeel simulate`.

use std::{
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;

use super::stream;
use crate::simulate::{Input, Options, Outcome, simulate as run};
use lb_model::config;

/// Run packets through the real program on tables of its own.
///
/// Nothing is attached and no live table is touched; the interfaces of the configuration need
/// not be there. All backends count as up, unless the configuration drains or disables them.
/// Needs root, as every use of BPF does.
///
/// Of a capture that is damaged or cut off, the packets before that are run; then it is an error.
///
/// Made up: interface 1 with MTU 1500 and MAC address 02:00:00:00:00:01; a MAC address
/// 02:00:01:… for each backend; without node.encap_source or node.nat_source, packets come from
/// 192.0.0.8 (RFC 7600) or 100::/64 (RFC 6666).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel simulate --config new.toml --flows 20000
  evenkeel simulate --config new.toml --pcap in.pcap --write out.pcap --trace")]
pub(super) struct SimulateArgs {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    input: SimulateInput,
    /// What the flows are drawn by: the same number, the same flows.
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "pcap")]
    seed: u64,
    /// Write what would be transmitted to this capture file (pcap), in order. A new file is for its owner alone; one
    /// that is replaced keeps owner and mode.
    #[arg(long, value_name = "OUT")]
    write: Option<PathBuf>,
    /// Print a line for each packet: number (of the capture), verdict, reason, VIP, backend (- for none).
    /// With --json, on standard error.
    #[arg(long)]
    trace: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct SimulateInput {
    /// Run the packets of a capture file (pcap or pcapng, Ethernet).
    #[arg(long, value_name = "IN")]
    pcap: Option<PathBuf>,
    /// Run the first packets of N distinct flows, spread evenly over the VIPs.
    #[arg(long, value_name = "N")]
    flows: Option<u64>,
}

pub(super) fn simulate(args: SimulateArgs) -> Result<()> {
    let SimulateArgs {
        config,
        input,
        seed,
        write,
        trace,
        json,
    } = args;
    let config = config::load(config)?;
    let input = match input {
        SimulateInput {
            pcap: Some(path), ..
        } => Input::Capture(path),
        SimulateInput { flows, .. } => Input::Flows {
            count: flows.unwrap_or_default(),
            seed,
        },
    };
    let options = Options {
        input,
        write,
        trace,
    };
    let mut out = BufWriter::new(stream::stdout());
    let Outcome { report, fault } = if json {
        // Standard output has the object and nothing else.
        run(&config, &options, &mut stream::stderr())?
    } else {
        run(&config, &options, &mut out)?
    };
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}
