//! `evenkeel check`.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{file, stream, view::figures::plural};
use lb_daemon::config_file;
use lb_model::config::{Config, ConfigErrors};

/// Errors that are printed without `--all`.
const MOST: usize = 100;

/// Validate a configuration file and report all errors.
///
/// Exits with 0 if the file is valid, 1 if it is not. Changes nothing and needs no controller.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel check /etc/evenkeel/evenkeel.toml
  make-config | evenkeel check -")]
pub(super) struct CheckArgs {
    /// Configuration file (TOML); - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print all errors, not only the first 100.
    #[arg(long)]
    all: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let (file, bytes) = file::bytes(&args.file);
    let file = file.display().to_string();
    let result = config_file::load_bytes(&file, bytes);
    let mut out = stream::stdout();
    if args.json {
        writeln!(out, "{}", as_json(&file, &result))?;
        let failure = result.is_err();
        return Ok(u8::from(failure).into());
    }
    let config = match result {
        Ok(config) => config,
        Err(errors) => {
            let most = if args.all { usize::MAX } else { MOST };
            stream::print_error(&errors.render_first(stream::is_stderr_colored(), most));
            return Ok(ExitCode::FAILURE);
        }
    };
    let (vips, backends) = counts(&config);
    let (vips, backends) = (plural(vips, "VIP"), plural(backends, "backend"));
    let sourced = config.vips.iter().filter(|vip| vip.backends_from.is_some());
    let sources = match sourced.count() {
        0 => String::new(),
        count => format!(", backends of {} from sources", plural(count, "VIP")),
    };
    writeln!(out, "{file}: OK: {vips}, {backends}{sources}")?;
    Ok(ExitCode::SUCCESS)
}

/// The numbers of VIPs and backends.
fn counts(config: &Config) -> (usize, usize) {
    let backends = config.vips.iter().map(|vip| vip.backends.len()).sum();
    (config.vips.len(), backends)
}

fn as_json(file: &str, result: &Result<Config, ConfigErrors>) -> Value {
    let errors = match result {
        Ok(config) => {
            let (vips, backends) = counts(config);
            return json!({
                "file": file, "right": true, "vips": vips, "backends": backends, "problems": []
            });
        }
        Err(errors) => errors,
    };
    let problems = errors.problems().iter().map(|problem| {
        let position = errors.position(problem);
        json!({
            "line": position.map(|(line, _)| line),
            "column": position.map(|(_, column)| column),
            "title": problem.title,
            "label": problem.label,
            "help": problem.help,
        })
    });
    json!({ "file": file, "right": false, "problems": problems.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_positions_of_problems() {
        let result = config_file::parse("f.toml", "[node]\ncolour = 1\n");
        let value = as_json("f.toml", &result);
        assert_eq!(value["right"], false);
        let problem = &value["problems"][0];
        assert_eq!(
            (&problem["line"], &problem["column"]),
            (&json!(1), &json!(1)),
            "{value}"
        );
    }
}
