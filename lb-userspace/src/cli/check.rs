//! `evenkeel check`.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{stream, view::figures::plural};
use lb_model::config::{self, Config, ConfigErrors};

/// Check a configuration file, and say everything that is wrong with it.
///
/// Exits with 0 if the file is right, with 1 if not. Touches nothing, and needs no controller.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  evenkeel check /etc/evenkeel/evenkeel.toml")]
pub(super) struct CheckArgs {
    /// The configuration file (TOML).
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let result = config::load(&args.file);
    let mut out = stream::stdout();
    let file = args.file.display().to_string();
    if args.json {
        writeln!(out, "{}", as_json(&file, &result))?;
        return Ok(match result {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        });
    }
    let (vips, backends) = counts(&result?);
    let (vips, backends) = (plural(vips, "VIP"), plural(backends, "backend"));
    writeln!(out, "{file}: right ({vips}, {backends})")?;
    Ok(ExitCode::SUCCESS)
}

/// Numbers of VIPs and backends.
fn counts(config: &Config) -> (usize, usize) {
    let backends = config.vips.iter().map(|vip| vip.backends.len()).sum();
    (config.vips.len(), backends)
}

fn as_json(file: &str, result: &Result<Config, ConfigErrors>) -> Value {
    match result {
        Ok(config) => {
            let (vips, backends) = counts(config);
            json!({ "file": file, "right": true, "vips": vips, "backends": backends, "problems": [] })
        }
        Err(errors) => {
            let problems: Vec<Value> = errors
                .problems()
                .iter()
                .map(|problem| {
                    let position = errors.position(problem);
                    json!({
                        "line": position.map(|(line, _)| line),
                        "column": position.map(|(_, column)| column),
                        "title": problem.title,
                        "label": problem.label,
                        "help": problem.help,
                    })
                })
                .collect();
            json!({ "file": file, "right": false, "problems": problems })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_places_in_json() {
        let result = config::parse("f.toml", "[node]\ncolour = 1\n");
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
