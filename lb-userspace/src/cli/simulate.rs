//! `evenkeel simulate`.

use std::io::{BufWriter, Write as _};

use anyhow::{Context as _, Result};

use super::{SimulateArgs, SimulateInput};
use crate::{
    config,
    simulate::{Input, Options, simulate as run},
};

pub(super) fn simulate(args: SimulateArgs) -> Result<()> {
    let SimulateArgs {
        config,
        input,
        seed,
        write,
        trace,
        json,
    } = args;
    let config = config::load(config)?;
    let input = match input {
        SimulateInput {
            pcap: Some(path), ..
        } => Input::Capture(path),
        SimulateInput { flows, .. } => Input::Flows {
            count: flows.unwrap_or_default(),
            seed,
        },
    };
    let options = Options {
        input,
        write,
        trace,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let report = if json {
        // Standard output has the object and nothing else.
        run(&config, &options, &mut std::io::stderr().lock())?
    } else {
        run(&config, &options, &mut out)?
    };
    if json {
        serde_json::to_writer(&mut out, &report)
            .map_err(std::io::Error::from)
            .context("print the result")?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    Ok(())
}
