//! What the commands that talk to the controller have in common.

use std::{cell::Cell, io::Write as _};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{stream, view::View};
use lb_api::client::Client;

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
    unheard: Cell<bool>,
}

impl Session {
    pub(super) fn new(client: Client, output: Output) -> Self {
        Self {
            client,
            view: View::of_stdout(),
            json: output.json,
            unheard: Cell::new(false),
        }
    }

    /// Whether nobody reads any more what is printed.
    pub(super) fn is_unheard(&self) -> bool {
        self.unheard.get()
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
            self.write(&format!("{}\n", serde_json::to_string(value)?))?;
        }
        Ok(())
    }

    /// Prints text, unless JSON is wanted.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        if !self.json {
            self.write(text)?;
        }
        Ok(())
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out = stream::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        self.unheard.set(self.unheard.get() || out.is_closed());
        Ok(())
    }
}
