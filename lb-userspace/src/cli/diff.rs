//! `evenkeel diff`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    session::{Output, Session},
    view::{View, paint::Tone},
};
use lb_api::{RevisionNumber, client::Client};

/// Show the difference between two revisions, or between the active one and the file.
///
/// Prints a unified diff of their configurations with masked secrets.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel diff 7       # from revision 7 to the active one
  evenkeel diff 7 8     # what revision 8 changed
  evenkeel diff --file  # from the active revision to the configuration file")]
pub(super) struct DiffArgs {
    /// Old revision.
    #[arg(value_name = "REV", required_unless_present = "file")]
    from: Option<RevisionNumber>,
    /// New revision [default: the active one].
    #[arg(value_name = "REV")]
    to: Option<RevisionNumber>,
    /// From the active revision to the configuration file of the controller.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    file: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: DiffArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let Some(from) = args.from else {
        let diff = session.client.diff_file().await?;
        return session.print(&diff, |view| match diff.unified.as_str() {
            "" => format!("{} is identical to revision {}\n", diff.file, diff.revision),
            unified => colored(view, unified),
        });
    };
    let to = match args.to {
        Some(to) => to,
        None => {
            let status = session.client.status().await?;
            status
                .revision
                .context("there is no active revision")?
                .number
        }
    };
    let diff = session.client.diff(from, to).await?;
    session.print(&diff, |view| match diff.unified.as_str() {
        "" => format!("revisions {from} and {to} are identical\n"),
        unified => colored(view, unified),
    })
}

pub(super) fn colored(view: View, unified: &str) -> String {
    unified
        .lines()
        .map(|line| {
            let tone = match line.as_bytes() {
                [b'+', b'+', ..] | [b'-', b'-', ..] => Tone::Strong,
                [b'+', ..] => Tone::Good,
                [b'-', ..] => Tone::Bad,
                [b'@', ..] => Tone::Faint,
                _ => Tone::Plain,
            };
            view.paint.apply(tone, line) + "\n"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::view::paint::Paint, *};

    #[test]
    fn colours_added_and_removed_lines() {
        let view = |paint| View { paint, width: None };
        let unified = "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z";
        let plain = colored(view(Paint::PLAIN), unified);
        assert_eq!(plain, format!("{unified}\n"));
        let colored = colored(view(Paint::COLORED), unified);
        assert!(
            colored.contains("\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n z\n"),
            "{colored:?}"
        );
    }
}
