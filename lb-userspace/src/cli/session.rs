//! What the commands that talk to the controller have in common.

use std::{cell::Cell, io::Write as _, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    stream::{self, print_error},
    view::View,
};
use lb_api::client::{Client, ClientError, DEFAULT_SOCKET};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The option of every command that prints data.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Output {
    /// Print the API's JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

/// A client and the output of its results.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) view: View,
    json: bool,
    closed: Cell<bool>,
}

impl Session {
    pub(super) fn new(client: Client, output: Output) -> Self {
        Self {
            client,
            view: View::of_stdout(),
            json: output.json,
            closed: Cell::new(false),
        }
    }

    /// The output of a command that does not ask the controller.
    pub(super) fn local(output: Output) -> Self {
        Self::new(Client::new(DEFAULT_SOCKET), output)
    }

    /// Whether the reader of standard output is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Prints a value as JSON or as text, and succeeds.
    pub(super) fn print(
        &self,
        value: &impl Serialize,
        text: impl FnOnce(View) -> String,
    ) -> Result<ExitCode> {
        if self.json {
            self.print_json(value)?;
        } else {
            self.write(&text(self.view))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a value as one line of JSON, if JSON was requested.
    pub(super) fn print_json(&self, value: &impl Serialize) -> Result<()> {
        if self.json {
            self.write(&format!("{}\n", serde_json::to_string(value)?))?;
        }
        Ok(())
    }

    /// Prints text, unless JSON was requested.
    pub(super) fn print_text(&self, text: &str) -> Result<()> {
        if !self.json {
            self.write(text)?;
        }
        Ok(())
    }

    /// Repeats a step every second, if told to `follow`, until the reader of standard output is gone. A
    /// controller that does not respond is reported once, and waited for.
    pub(super) async fn repeat(
        &self,
        follow: bool,
        mut step: impl AsyncFnMut() -> Result<()>,
    ) -> Result<ExitCode> {
        let mut absent = false;
        loop {
            match step().await {
                Ok(()) => absent = false,
                Err(error) if follow && is_transient(&error) => {
                    if !absent {
                        print_error(&format!("evenkeel: {error}"));
                    }
                    absent = true;
                }
                Err(error) => return Err(error),
            }
            if !follow || self.is_closed() {
                return Ok(ExitCode::SUCCESS);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out = stream::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        self.closed.set(self.closed.get() || out.is_closed());
        Ok(())
    }
}

fn is_transient(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    error.is_some_and(ClientError::is_transient)
}
