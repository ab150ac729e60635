//! `evenkeel source`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    file,
    session::{Output, Session},
    view,
};
use lb_api::{SetSourceRequest, client::Client};

/// Show sources of backends, and set the backends of `api:` sources.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel source list
  evenkeel source show dns:api.example.com:8080
  evenkeel source set web members.json
  echo '[{\"address\": \"10.0.0.7\"}, {\"address\": \"10.0.0.8\", \"weight\": 50}]' | evenkeel source set web -")]
pub(super) struct SourceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Set(SetArgs),
}

/// List the sources that VIPs use, and those that were set.
#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

/// Show a source with its members.
#[derive(Args, Debug)]
struct ShowArgs {
    /// Source, as `backends_from` has it; NAME is short for api:NAME.
    #[arg(value_name = "SOURCE")]
    name: String,
    #[command(flatten)]
    output: Output,
}

/// Set all backends of the source api:NAME.
///
/// The file is a JSON list of objects with `address` and, if wanted, `name`, `port`, `weight` and `state`
/// (`up`, `drain`, `disabled`). Backends that are not in it are drained and removed: at most half of them at once,
/// the others in later steps. To set none at all, use an object: {"members": [], "allow_empty": true}.
#[derive(Args, Debug)]
struct SetArgs {
    /// NAME of `backends_from = "api:NAME"`; api:NAME is the same.
    #[arg(value_name = "NAME")]
    name: String,
    /// File with the members; -: standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: SourceArgs, client: Client) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => {
            let session = Session::new(client, args.output);
            let sources = session.client.sources().await?;
            session.print(&sources, |view| {
                view::sources::list(view, &sources, Timestamp::now())
            })
        }
        Command::Show(args) => {
            let session = Session::new(client, args.output);
            let sources = session.client.source(&args.name).await?;
            session.print(&sources, |view| {
                view::sources::show(view, &sources, Timestamp::now())
            })
        }
        Command::Set(args) => set(args, client).await,
    }
}

async fn set(args: SetArgs, client: Client) -> Result<ExitCode> {
    let (path, bytes) = file::bytes(&args.file);
    let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
    let request: SetSourceRequest = serde_json::from_slice(&bytes)
        .with_context(|| format!("cannot use {} as a list of members", path.display()))?;
    let session = Session::new(client, args.output);
    let source = session.client.set_source(&args.name, &request).await?;
    session.print(&source, |view| {
        view::sources::show(view, std::slice::from_ref(&source), Timestamp::now())
    })
}
