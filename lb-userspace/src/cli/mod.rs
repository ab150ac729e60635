//! The command line.
//!
//! `main` hands over here; each command is a module that turns what was typed into a call of the
//! library and its result into an exit code: 0 done, 1 an error, 2 what was typed makes no sense
//! (clap's own). Results go to standard output, everything else to standard error.

mod check;
mod decap;
mod doctor;
mod run;
mod simulate;
mod unload;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{config::ConfigErrors, dataplane::DEFAULT_BPFFS};

/// An L4 load balancer in XDP.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    about = "An L4 load balancer in XDP",
    long_about = "An L4 load balancer in XDP.\n\nAn XDP program picks backends by consistent hash; this \
                  controller fills its tables. If the controller ends, forwarding goes on.",
    after_help = "Exit codes: 0 done; 1 an error, which was printed; 2 the command line makes no \
                  sense.\nRUST_LOG sets what is logged, for example RUST_LOG=debug.",
    arg_required_else_help = true
)]
struct Cli {
    /// Form of the log, which goes to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// One line an event, for people.
    Text,
    /// One JSON object an event.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance traffic as a configuration file says.
    ///
    /// Loads the program, or adopts what an earlier `run` left; fills its tables; attaches it to
    /// the interfaces of the configuration; says "ready" (and READY=1 to systemd). Then it follows
    /// routes and neighbours until it is told to end.
    ///
    /// SIGHUP reads the configuration file again: one that is wrong is logged and changes nothing.
    /// SIGTERM and SIGINT end the controller; forwarding goes on (`evenkeel unload` ends it).
    Run(RunArgs),
    /// Check a configuration file, and say everything that is wrong with it.
    ///
    /// Exits with 0 if the file is right, with 1 if not. Touches nothing.
    Check(CheckArgs),
    /// Run packets through the real program on tables of its own.
    ///
    /// Nothing is attached and no live table is touched; the interfaces of the configuration need
    /// not be there. All backends count as up, unless the configuration drains or disables them.
    /// Needs root, as every use of BPF does.
    ///
    /// Made up: interface 1 with MTU 1500 and MAC address 02:00:00:00:00:01; a MAC address
    /// 02:00:01:… for each backend; without node.encap_source or node.nat_source, packets come from
    /// 192.0.0.8 (RFC 7600) or 100::/64 (RFC 6666).
    Simulate(SimulateArgs),
    Decap(decap::DecapArgs),
    Doctor(doctor::DoctorArgs),
    /// Detach the program from all interfaces and remove its tables: forwarding ends.
    ///
    /// Gives back the ports that `nat` had reserved. Nothing there is no error.
    Unload(UnloadArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Where the BPF file system is mounted, or is to be; the pins are in its folder `evenkeel`.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The configuration file (TOML).
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
struct SimulateArgs {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    input: SimulateInput,
    /// What the flows are drawn by: the same number, the same flows.
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "pcap")]
    seed: u64,
    /// Write what would be transmitted to this capture file (pcap), in order.
    #[arg(long, value_name = "OUT")]
    write: Option<PathBuf>,
    /// Print a line for each packet: number, verdict, reason, VIP, backend (- for none).
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

#[derive(Args, Debug)]
struct UnloadArgs {
    /// Where the BPF file system is mounted.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.log_format);
    let done = match cli.command {
        Command::Run(args) => run::run(args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::check(&args).map(|()| ExitCode::SUCCESS),
        Command::Simulate(args) => simulate::simulate(args).map(|()| ExitCode::SUCCESS),
        Command::Decap(args) => decap::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Unload(args) => unload::unload(&args).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        // Whoever read the output had enough of it.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(color_on_stderr())
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Whether standard error may be coloured: a terminal, and nobody who said no (no-color.org).
fn color_on_stderr() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::IsTerminal::is_terminal(&io::stderr())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[expect(
    clippy::print_stderr,
    reason = "errors of a command go to standard error"
)]
fn report(error: &anyhow::Error) {
    match error.downcast_ref::<ConfigErrors>() {
        Some(errors) => eprintln!("{}", errors.render(color_on_stderr())),
        None => eprintln!("evenkeel: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn simulate_takes_one_kind_of_input() {
        let parse = |text: &str| Cli::try_parse_from(text.split_whitespace());
        parse("evenkeel simulate --config f --flows 10 --seed 3 --trace --json").unwrap();
        parse("evenkeel simulate --config f --pcap in --write out").unwrap();
        parse("evenkeel simulate --config f").unwrap_err();
        parse("evenkeel simulate --config f --flows 1 --pcap in").unwrap_err();
        parse("evenkeel simulate --config f --pcap in --seed 3").unwrap_err();
    }
}
