//! The configuration: one TOML file, from text to what it means.
//!
//! ```text
//! text ──toml──► tree with places ──typed──► values with places ──resolve──► Config
//!                      │                          │                     │
//!                      └──────────── problems ────┴─────────────────────┴──► ConfigErrors
//! ```
//!
//! `typed` reads each value by itself, `resolve` checks whether they fit together and fills in
//! defaults. Neither stops at the first problem: all are reported at once.
//!
//! To add a key, add a row to its table in `model` and use the field that it makes.
//! `docs/configuration.md` and `docs/evenkeel.schema.json` are generated: run the tests with
//! `EVENKEEL_WRITE_REFERENCE=1`.

#[macro_use]
mod keys;
mod hash_key;
mod kind;
mod model;
mod problem;
mod reader;
pub mod reference;
mod resolve;
mod resolve_announce;
mod resolve_bound;
mod resolve_fleet;
mod resolve_health;
mod resolve_limit;
mod resolve_sources;
mod resolve_vip;
#[cfg(test)]
mod tests;
mod typed;
mod value;

use std::{collections::HashSet, io, path::Path};

pub use hash_key::hash_key;
pub(crate) use keys::{Changes, Effect};
pub use model::{
    Affinity, Alerts, Announce, AnnouncePeer, AnnounceVia, Api, Backend, BackendState, Bound,
    BoundFactor, CaFile, ChangeSettings, Community, Config, DEFAULT_EXEC_USER, Factor, Fleet,
    Forward, Fraction, Guard, HashSeed, Health, HealthKind, HttpCheck, LargeCommunity, Limit,
    MAX_DNS_SERVERS, Metrics, Node, OnExcess, Override, Prefix, Protocol, Rate, Scaling, Secret,
    Skew, SourceLimit, Sources, StatusSet, Track, Via, Vip, VipAnnounce, XdpMode, same_vips,
};
pub use problem::{ConfigErrors, Problem};
use problem::{Lines, Problems};
pub(crate) use reader::distance;
pub use resolve::ReadFile;
use toml::de::DeTable;
pub(crate) use value::{address_problem, is_name};

/// Parses a configuration that names no other files (`hash_seed_file` and the like); `file` is its
/// name in messages.
///
/// # Errors
///
/// Everything that is wrong with the text. A key that names a file is an error.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let no_file = |_: &Path| Err(io::Error::other("other files are not read here"));
    parse_with(file, text, &no_file)
}

/// Parses a configuration; `read_file` reads the files that it names, by the path in the text.
///
/// # Errors
///
/// Everything that is wrong with the text or the files.
pub fn parse_with(file: &str, text: &str, read_file: ReadFile<'_>) -> Result<Config, ConfigErrors> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let problems = Problems::default();
    let config = resolve::resolve(&typed::read(&document, &problems), read_file, &problems);
    let syntax: Vec<Problem> = errors
        .iter()
        .map(|error| syntax_problem(error, text))
        .collect();
    let problems = with_syntax(problems.into_vec(), syntax, text);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors::new(file, text, problems)),
    }
}

/// Title of a syntax error.
const NOT_TOML: &str = "invalid TOML";

fn syntax_problem(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    if error.message() == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or_default();
        let title = format!("duplicate key `{key}`");
        let help = "remove one of them; tables that may repeat have double brackets: `[[vip]]`";
        return Problem::new(span, title, "duplicate", help);
    }
    let help = "see https://toml.io for the syntax; strings need double quotes";
    Problem::new(span, NOT_TOML, error.message(), help)
}

/// Adds the syntax errors, one for each line, and removes what only follows from them: other problems
/// of these lines, and missing keys, which may be in a part that was not parsed.
fn with_syntax(mut problems: Vec<Problem>, mut syntax: Vec<Problem>, text: &str) -> Vec<Problem> {
    if syntax.is_empty() {
        return problems;
    }
    let lines = Lines::of(text);
    let line = |problem: &Problem| {
        let start = problem.span.as_ref().map_or(0, |span| span.start);
        lines.number(start.min(text.len()))
    };
    syntax.sort_by_key(line);
    syntax.dedup_by_key(|problem| line(problem));
    let is_complete = syntax.iter().all(|problem| problem.title != NOT_TOML);
    let broken: HashSet<usize> = syntax.iter().map(line).collect();
    problems
        .retain(|problem| (is_complete || !problem.is_missing) && !broken.contains(&line(problem)));
    problems.extend(syntax);
    problems
}
