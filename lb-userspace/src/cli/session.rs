//! What the commands that talk to the controller have in common.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::view::View;
use crate::client::Client;

/// The option of every command that prints data.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Output {
    /// Print the API's own JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

/// A controller to talk to, and somebody to tell.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) view: View,
    pub(super) json: bool,
}

impl Session {
    pub(super) fn new(client: Client, output: Output) -> Self {
        Self {
            client,
            view: View::of_stdout(),
            json: output.json,
        }
    }

    /// Prints a value as JSON, or as text.
    pub(super) fn print(
        &self,
        value: &impl Serialize,
        text: impl FnOnce(View) -> String,
    ) -> Result<()> {
        self.give(value)?;
        if self.json {
            return Ok(());
        }
        self.say(&text(self.view))
    }

    /// Prints a value as JSON in a line, if that is wanted.
    pub(super) fn give(&self, value: &impl Serialize) -> Result<()> {
        if self.json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(value)?)?;
            out.flush()?;
        }
        Ok(())
    }

    /// Prints text, unless JSON is wanted.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        if !self.json {
            let mut out = std::io::stdout().lock();
            write!(out, "{text}")?;
            out.flush()?;
        }
        Ok(())
    }
}
