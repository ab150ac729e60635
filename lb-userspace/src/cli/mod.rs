//! The command line.
//!
//! Each command is a module with its arguments and its `run`, which calls a library or sends requests
//! to the controller ([`lb_api::client`]); `view` turns responses into text. Results go to standard
//! output, everything else to standard error; `exit` has the exit codes.

// These macros panic if standard output is closed; print through `stream` instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod alerts;
mod announce;
mod apply;
mod argument;
mod backend;
mod capture;
mod capture_guard;
mod change;
mod check;
mod completions;
mod config;
mod confirm;
mod decap;
mod diff;
mod doctor;
mod drain;
mod events;
mod exit;
mod explain;
mod file;
mod fleet;
mod flows;
mod history;
mod journal;
mod limits;
mod man;
mod member;
mod node;
mod plan;
mod progress;
mod reload;
mod rollback;
mod run;
mod session;
mod simulate;
mod source;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod top;
mod unload;
mod view;
mod vip;

use std::{ffi::OsString, future::Future, io, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use journal::Prioritized;
use tracing_subscriber::EnvFilter;

use lb_api::{
    ErrorCode,
    client::{Client, ClientError, DEFAULT_SOCKET},
};
use lb_model::{config::ConfigErrors, error::chain};

const DEFAULT_CONFIG: &str = "/etc/evenkeel/evenkeel.toml";

/// An L4 load balancer in XDP.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    about = "An L4 load balancer in XDP",
    long_about = "An L4 load balancer in XDP.\n\nAn XDP program selects backends by consistent hash; a \
                  controller maintains its maps. If the controller stops, forwarding continues.\n\n`run` \
                  is the controller. Most other commands send requests to its socket; `check`, `doctor`, \
                  `simulate`, `decap` and `unload` work without a controller.",
    after_help = exit::HELP,
    arg_required_else_help = true
)]
struct Cli {
    /// Socket of the controller. An option of the commands that use it, see [`command`]; here, so that
    /// it may also stand before them.
    #[arg(long, hide = true)]
    socket: Option<PathBuf>,
    /// Log format; logs go to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// One line per event.
    Text,
    /// One JSON object per event.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Plan(plan::PlanArgs),
    Apply(apply::ApplyArgs),
    Reload(reload::ReloadArgs),
    Confirm(confirm::ConfirmArgs),
    Rollback(rollback::RollbackArgs),
    History(history::HistoryArgs),
    Diff(diff::DiffArgs),
    Config(config::ConfigArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Vip(vip::VipArgs),
    Backend(backend::BackendArgs),
    Source(source::SourceArgs),
    Explain(explain::ExplainArgs),
    Capture(capture::CaptureArgs),
    Flows(flows::FlowsArgs),
    Limits(limits::LimitsArgs),
    Alerts(alerts::AlertsArgs),
    Events(events::EventsArgs),
    Announce(announce::AnnounceArgs),
    Node(node::NodeArgs),
    Fleet(fleet::FleetArgs),
    Doctor(doctor::DoctorArgs),
    Simulate(simulate::SimulateArgs),
    Decap(decap::DecapArgs),
    Unload(unload::UnloadArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Commands that work without a controller.
const LOCAL: [&str; 10] = [
    "run",
    "check",
    "announce",
    "node",
    "doctor",
    "simulate",
    "decap",
    "unload",
    "completions",
    "man",
];

/// The whole command line: the other commands have `--socket`.
fn command() -> clap::Command {
    let socket = Arg::new("socket")
        .long("socket")
        .help("Socket of the controller")
        .value_name("PATH")
        .env("EVENKEEL_SOCKET")
        .default_value(DEFAULT_SOCKET)
        .value_parser(clap::value_parser!(PathBuf))
        .global(true);
    let command = Cli::command();
    let names = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned());
    let remote: Vec<String> = names.filter(|name| !LOCAL.contains(&&**name)).collect();
    remote.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| sub.arg(socket.clone()))
    })
}

/// Parses a command line.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words)?;
    if let Some((name, sub)) = matches.subcommand()
        && !LOCAL.contains(&name)
    {
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.socket = sub.get_one("socket").cloned();
        return Ok(cli);
    }
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Command::Run(args) = &mut cli.command {
        args.socket = args.socket.take().or(cli.socket.take());
    }
    if cli.socket.is_some() {
        let message = "this command works without a controller: remove --socket";
        return Err(command.error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    Ok(cli)
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = capture_guard::run_if_asked() {
        return code;
    }
    // clap would count an option that is set by the environment as an argument.
    if std::env::args_os().len() < 2 {
        stream::print_error(&command().render_help().to_string());
        return exit::USAGE.into();
    }
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail.
            let _ = error.print();
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            return code.into();
        }
    };
    start_log(cli.log_format);
    dispatch(cli).unwrap_or_else(|error| {
        stream::print_error(&describe(&error));
        ExitCode::FAILURE
    })
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let client = Client::new(cli.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()));
    match cli.command {
        Command::Run(args) => run::run(args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => block_on(plan::run(args, client)),
        Command::Apply(args) => block_on(apply::run(args, client)),
        Command::Reload(args) => block_on(reload::run(args, client)),
        Command::Confirm(args) => block_on(confirm::run(args, client)),
        Command::Rollback(args) => block_on(rollback::run(args, client)),
        Command::History(args) => block_on(history::run(args, client)),
        Command::Diff(args) => block_on(diff::run(args, client)),
        Command::Config(args) => block_on(config::run(args, client)),
        Command::Status(args) => block_on(status::run(args, client)),
        Command::Top(args) => block_on(top::run(args, client)),
        Command::Vip(args) => block_on(vip::run(args, client)),
        Command::Backend(args) => block_on(backend::run(args, client)),
        Command::Source(args) => block_on(source::run(args, client)),
        Command::Explain(args) => block_on(explain::run(args, client)),
        Command::Capture(args) => block_on(capture::run(args, client)),
        Command::Flows(args) => block_on(flows::run(args, client)),
        Command::Limits(args) => block_on(limits::run(args, client)),
        Command::Alerts(args) => block_on(alerts::run(args, client)),
        Command::Events(args) => block_on(events::run(args, client)),
        Command::Announce(args) => announce::run(args),
        Command::Node(args) => node::run(&args),
        Command::Fleet(args) => block_on(fleet::run(args, client)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Simulate(args) => simulate::run(args).map(|()| ExitCode::SUCCESS),
        Command::Decap(args) => decap::run(&args),
        Command::Unload(args) => unload::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args, command()),
        Command::Man(args) => man::run(&args, command()),
    }
}

/// Runs a future on a runtime of one thread.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the tokio runtime")?
        .block_on(future)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // They would be printed to standard error, which is what failed, and panic.
        .log_internal_errors(false)
        .with_ansi(stream::is_stderr_colored())
        .with_target(false);
    match (format, journal::is_stderr()) {
        (LogFormat::Text, false) => log.init(),
        (LogFormat::Text, true) => log.without_time().map_event_format(Prioritized).init(),
        (LogFormat::Json, false) => log.json().init(),
        (LogFormat::Json, true) => log.json().map_event_format(Prioritized).init(),
    }
}

/// The message of an error: a report on a configuration as it is, anything else as one line.
fn describe(error: &anyhow::Error) -> String {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        return errors.render(stream::is_stderr_colored());
    }
    match error.downcast_ref::<ClientError>() {
        // A report that the controller rendered.
        Some(ClientError::Api(refusal))
            if refusal.code == ErrorCode::InvalidConfig && refusal.message.contains('\n') =>
        {
            refusal.message.clone()
        }
        // Its cause (no such file, connection refused) does not help.
        Some(error @ ClientError::NoController { .. }) => format!("evenkeel: {error}"),
        _ => format!("evenkeel: {}", chain(error.as_ref())),
    }
}
