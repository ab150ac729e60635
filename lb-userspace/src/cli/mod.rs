//! The command line.
//!
//! `main` hands over here. Each command is a module with its arguments beside what is done with
//! them: a call of the library, or requests to the controller ([`lb_api::client`]), whose answers `view`
//! turns into text. Results go to standard output, everything else to standard error; exit codes are
//! in `exit`.

// They panic when nobody reads; `stream` is what commands print to.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod alerts;
mod apply;
mod argument;
mod backend;
mod change;
mod check;
mod completions;
mod confirm;
mod decap;
mod diff;
mod doctor;
mod drain;
mod events;
mod exit;
mod explain;
mod file;
mod history;
mod man;
mod plan;
mod rollback;
mod run;
mod session;
mod simulate;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod top;
mod unload;
mod view;
mod vip;

use std::{future::Future, io, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use view::paint::Paint;

use lb_api::{
    ErrorCode,
    client::{Client, ClientError, DEFAULT_SOCKET},
};
use lb_dataplane::DEFAULT_BPFFS;
use lb_model::config::ConfigErrors;

/// An L4 load balancer in XDP.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    about = "An L4 load balancer in XDP",
    long_about = "An L4 load balancer in XDP.\n\nAn XDP program picks backends by consistent hash; this \
                  controller fills its tables. If the controller ends, forwarding goes on.\n\n`run` is \
                  the controller. Most other commands ask it, over its socket; `check`, `doctor`, \
                  `simulate`, `decap` and `unload` do without.",
    after_help = exit::HELP,
    arg_required_else_help = true
)]
struct Cli {
    /// The controller's socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "EVENKEEL_SOCKET",
        default_value = DEFAULT_SOCKET
    )]
    socket: PathBuf,
    /// Form of the log, which goes to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// The configuration file of `run`, unless it is told otherwise.
const DEFAULT_CONFIG: &str = "/etc/evenkeel/evenkeel.toml";

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
    Check(check::CheckArgs),
    Plan(plan::PlanArgs),
    Apply(apply::ApplyArgs),
    Confirm(confirm::ConfirmArgs),
    Rollback(rollback::RollbackArgs),
    History(history::HistoryArgs),
    Diff(diff::DiffArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Vip(vip::VipArgs),
    Backend(backend::BackendArgs),
    Explain(explain::ExplainArgs),
    Alerts(alerts::AlertsArgs),
    Events(events::EventsArgs),
    Doctor(doctor::DoctorArgs),
    Simulate(simulate::SimulateArgs),
    Decap(decap::DecapArgs),
    Unload(unload::UnloadArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Where the BPF file system is mounted, or is to be; the pins are in its folder `evenkeel`.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    // The help, as clap gives it; but not clap itself, which takes a variable of the environment for an
    // argument.
    if std::env::args_os().len() < 2 {
        change::complain(&Cli::command().render_help().to_string());
        return ExitCode::from(exit::USAGE);
    }
    let cli = Cli::parse();
    start_log(cli.log_format);
    match carry_out(cli) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn carry_out(cli: Cli) -> Result<ExitCode> {
    let client = Client::new(cli.socket);
    match cli.command {
        Command::Run(args) => run::run(args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => wait_for(plan::run(&args, client)),
        Command::Apply(args) => wait_for(apply::run(&args, client)),
        Command::Confirm(args) => wait_for(confirm::run(&args, client)),
        Command::Rollback(args) => wait_for(rollback::run(&args, client)),
        Command::History(args) => wait_for(history::run(&args, client)),
        Command::Diff(args) => wait_for(diff::run(&args, client)),
        Command::Status(args) => wait_for(status::run(&args, client)),
        Command::Top(args) => wait_for(top::run(&args, client)),
        Command::Vip(args) => wait_for(vip::run(args, client)),
        Command::Backend(args) => wait_for(backend::run(args, client)),
        Command::Explain(args) => wait_for(explain::run(args, client)),
        Command::Alerts(args) => wait_for(alerts::run(args, client)),
        Command::Events(args) => wait_for(events::run(&args, client)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Simulate(args) => simulate::simulate(args).map(|()| ExitCode::SUCCESS),
        Command::Decap(args) => decap::run(&args),
        Command::Unload(args) => unload::unload(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

/// Runs a command that waits for the controller.
fn wait_for(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(command)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would be said on standard error, which is what can't be written, and end the process by a panic.
        .log_internal_errors(false)
        .with_ansi(color_on_stderr())
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Whether standard error may be coloured.
fn color_on_stderr() -> bool {
    Paint::when(io::IsTerminal::is_terminal(&io::stderr())).is_colored()
}

fn report(error: &anyhow::Error) {
    change::complain(&described(error));
}

/// An error as it is shown.
fn described(error: &anyhow::Error) -> String {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        return errors.render(color_on_stderr());
    }
    match error.downcast_ref::<ClientError>() {
        // Drawn by the controller.
        Some(ClientError::Api(said))
            if said.code == ErrorCode::InvalidConfig && said.message.starts_with("error") =>
        {
            said.message.clone()
        }
        // What lies below is of interest to nobody.
        Some(error @ ClientError::NoController { .. }) => format!("evenkeel: {error}"),
        _ => format!("evenkeel: {}", with_causes(error)),
    }
}

/// An error and its causes as one line. What it says of a cause itself is not said again.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
    }
    text
}
