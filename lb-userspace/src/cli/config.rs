//! `evenkeel config`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    session::{Output, Session},
    stream::print_error,
};
use lb_api::{RevisionNumber, client::Client};

/// Print the active configuration.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(ShowArgs),
}

/// Print the configuration of the active revision, or of another one, as TOML.
///
/// Secrets are masked. A text with masked secrets can be applied on the same node, which knows them;
/// one printed as root with `--with-secrets` can be applied anywhere.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel config show
  umask 077; evenkeel config show --with-secrets > evenkeel.toml
  evenkeel config show 7 --with-secrets > revision-7.toml && evenkeel apply revision-7.toml")]
struct ShowArgs {
    /// Revision to print [default: the active one].
    #[arg(value_name = "REV")]
    revision: Option<RevisionNumber>,
    /// Print secrets such as `hash_seed`. For root only.
    #[arg(long)]
    with_secrets: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: ConfigArgs, client: Client) -> Result<ExitCode> {
    let Command::Show(args) = args.command;
    let session = Session::new(client, args.output);
    let revision = match (args.with_secrets, args.revision) {
        (true, number) => session.client.with_secrets(number).await?,
        (false, Some(number)) => session.client.revision(number).await?,
        (false, None) => session.client.config().await?,
    };
    if has_relative_path(&revision.text) {
        let base = &revision.base;
        print_error(&format!("evenkeel: relative paths in it start at {base}"));
    }
    session.print(&revision, |_| revision.text.clone())
}

/// Whether a key such as `hash_seed_file` has a relative path.
fn has_relative_path(text: &str) -> bool {
    let files = text.lines().filter_map(|line| line.split_once("_file"));
    let mut values = files.filter_map(|(_, rest)| rest.trim_start().strip_prefix('='));
    values.any(|value| value.trim_start().starts_with(['"', '\'']) && !value.contains("\"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_relative_paths() {
        assert!(has_relative_path("[node]\nhash_seed_file = \"seed\"\n"));
        assert!(!has_relative_path(
            "[node]\nhash_seed_file = \"/etc/seed\"\nbake = \"1s\"\n"
        ));
    }
}
