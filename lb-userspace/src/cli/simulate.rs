//! `evenkeel simulate`.

use std::{
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Result;
use clap::Args;

use super::stream;
use crate::simulate::{Input, Options, Outcome, simulate};
use lb_daemon::config_file;

/// Run packets through the real XDP program, on maps of its own.
///
/// Nothing is attached and no live map is touched; the configured interfaces need not exist. All
/// backends count as up, unless the configuration drains or disables them. Needs root to use BPF.
///
/// If a capture is damaged or truncated, the packets before the damage are run; then the command
/// fails.
///
/// Assumed: interface 1 with MTU 1500, which transmits from MAC address 02:00:00:00:00:01 and receives
/// frames for whatever address they have, unless --mac is given; a MAC address 02:00:01:… per backend; without node.encap_source or node.nat_source, the sources 192.0.0.8 (RFC 7600) or
/// 100::/64 (RFC 6666).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel simulate --config new.toml --flows 20000
  evenkeel simulate --config new.toml --pcap in.pcap --write out.pcap --trace")]
pub(super) struct SimulateArgs {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    input: SimulateInput,
    /// Seed of the random flows: the same seed gives the same flows.
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 1,
        conflicts_with = "pcap"
    )]
    seed: u64,
    /// Write the transmitted packets to this capture file (pcap). A new file is readable by its owner
    /// only; a replaced file keeps owner and mode.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// MAC address of the node: frames for other hosts are passed (OTHER_HOST). By default, the
    /// node has the destination address of each frame.
    #[arg(long, value_name = "MAC", value_parser = mac, requires = "pcap")]
    mac: Option<[u8; 6]>,
    /// Print one line per packet: number in the capture, verdict, reason, VIP, backend (- for none).
    /// With --json, to standard error.
    #[arg(long)]
    trace: bool,
    /// Use the program for packet captures: the result is the same.
    #[arg(long, hide = true)]
    capturing: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct SimulateInput {
    /// Run the packets of this capture file (pcap or pcapng, Ethernet).
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Run the first packet of N distinct random flows, spread evenly over the VIPs.
    #[arg(long, value_name = "N")]
    flows: Option<u64>,
}

/// Parses a MAC address: six bytes in hexadecimal, separated by colons.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    let mac = mac.ok_or("must be a MAC address such as 02:00:00:00:00:01")?;
    if mac[0] & 1 == 1 {
        return Err("must be the address of one host, not broadcast or multicast".to_owned());
    }
    Ok(mac)
}

pub(super) fn run(args: SimulateArgs) -> Result<()> {
    let SimulateArgs {
        config,
        input,
        seed,
        write,
        trace,
        capturing,
        mac,
        json,
    } = args;
    let config = config_file::load(config)?;
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
        capturing,
        mac,
    };
    let mut out = BufWriter::new(stream::stdout());
    let Outcome { report, fault } = if json {
        // Nothing but the object on standard output.
        simulate(&config, &options, &mut stream::stderr())?
    } else {
        simulate(&config, &options, &mut out)?
    };
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}
