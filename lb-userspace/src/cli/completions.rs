//! `evenkeel completions`.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::stream;

/// Print the completion script for a shell.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel completions bash > /usr/share/bash-completion/completions/evenkeel
  evenkeel completions zsh > /usr/local/share/zsh/site-functions/_evenkeel
  evenkeel completions fish > ~/.config/fish/completions/evenkeel.fish")]
pub(super) struct CompletionsArgs {
    /// Shell to complete for.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<ExitCode> {
    // Generated in memory: clap_complete panics on a closed pipe.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "evenkeel", &mut text);
    stream::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}
