//! `evenkeel man`.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use clap_mangen::Man;

use super::stream;

/// Print the manual page, or write the pages of all commands.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel man | man -l -
  evenkeel man --out /usr/local/share/man/man1    # then: man evenkeel-backend-drain")]
pub(super) struct ManArgs {
    /// Write one page per command to this directory: evenkeel.1, evenkeel-apply.1, …
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, command: clap::Command) -> Result<ExitCode> {
    let pages = pages(command)?;
    let Some(directory) = &args.out else {
        if let Some((_, page)) = pages.first() {
            let mut out = stream::stdout();
            out.write_all(page)?;
            out.flush()?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for (name, page) in &pages {
        let path = directory.join(format!("{name}.1"));
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and its subcommands, with their names; its own is the first.
pub(super) fn pages(command: clap::Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    // Sets full names and global options of subcommands.
    command.build();
    let mut pages = Vec::new();
    collect(command, &mut pages)?;
    Ok(pages)
}

fn collect(command: clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let subcommands: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    pages.push((name, page));
    for command in subcommands {
        if command.get_name() != "help" {
            collect(command, pages)?;
        }
    }
    Ok(())
}
