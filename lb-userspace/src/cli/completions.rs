//! `evenkeel completions`.

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::stream;

/// Print the completions of a shell.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel completions bash > /usr/share/bash-completion/completions/evenkeel
  evenkeel completions zsh > /usr/local/share/zsh/site-functions/_evenkeel
  evenkeel completions fish > ~/.config/fish/completions/evenkeel.fish")]
pub(super) struct CompletionsArgs {
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> Result<ExitCode> {
    // Written to memory first: clap_complete panics when the pipe is closed.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "evenkeel", &mut text);
    let mut out = stream::stdout();
    out.write_all(&text)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
