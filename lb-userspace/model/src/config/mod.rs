//! The configuration: one TOML file, from text to what it means.
//!
//! ```text
//! text ──toml──► tree with places ──typed──► values with places ──resolve──► Config
//!                      │                          │                     │
//!                      └──────────── problems ────┴─────────────────────┴──► ConfigErrors
//! ```
//!
//! Two stages. `typed` reads what was typed: each value by itself, with its place in the file.
//! `resolve` says what it means taken together: defaults filled in, things that don't fit found.
//! Neither stops at the first problem: an operator who corrects a file wants to hear everything at once.
//!
//! `docs/configuration.md` has every key; a test compares it with the keys that are read.

mod hash_key;
mod model;
mod problem;
mod resolve;
mod resolve_health;
mod resolve_vip;
mod section;
#[cfg(test)]
mod tests;
mod typed;
mod value;

use std::{
    collections::HashSet,
    io::{self, Read as _},
    path::Path,
};

pub use hash_key::hash_key;
pub use model::{
    Affinity, Alerts, Api, Backend, BackendState, CaFile, ChangeSettings, Config, Factor, Forward,
    Fraction, Guard, HashSeed, Health, HealthKind, HttpCheck, Metrics, Node, Prefix, Protocol,
    Scaling, Secret, Skew, StatusSet, Track, Via, Vip, XdpMode,
};
pub use problem::{ConfigErrors, Problem};
use problem::{Lines, Problems};
pub(crate) use section::distance;
use toml::de::DeTable;
pub(crate) use value::show_duration;

/// Reads a configuration file.
///
/// # Errors
///
/// Everything that is wrong with the file, or why it can't be read.
pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigErrors> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let bytes = read_whole(path).map_err(|error| {
        let title = format!("can't read {name}: {error}");
        ConfigErrors::unreadable(&name, title, "give the path of a configuration file")
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(&name, &text),
        Err(error) => Err(not_utf8(
            &name,
            error.as_bytes(),
            error.utf8_error().valid_up_to(),
        )),
    }
}

/// Bytes of a configuration: several times what all VIPs and members with all keys take.
const MAX_SIZE: u64 = 4 << 20;

/// Reads a file to its end, if that comes soon enough.
fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> ConfigErrors {
    let text = String::from_utf8_lossy(bytes);
    let replacement = char::REPLACEMENT_CHARACTER.len_utf8();
    let title = "the file is not UTF-8 text";
    let help = "save it as UTF-8 (plain ASCII is UTF-8)";
    let problem = Problem::new(
        valid..valid + replacement,
        title,
        "not a character of UTF-8",
        help,
    );
    ConfigErrors::new(name, &text, vec![problem])
}

/// Reads a configuration from text. `file` is the name for messages; a relative `hash_seed_file`
/// begins at its folder.
///
/// # Errors
///
/// Everything that is wrong with the text.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    parse_with(file, text, &|path| read_small(&folder.join(path)))
}

/// Bytes of a file that a configuration names: a seed, a secret, certificates.
const SMALL: u64 = 1 << 20;

/// Reads a file that a configuration names. Whoever may send configurations must not make the
/// controller wait for a pipe, or read for ever.
fn read_small(path: &Path) -> io::Result<String> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if found.len() > SMALL {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    std::fs::read_to_string(path)
}

fn parse_with(
    file: &str,
    text: &str,
    read_file: resolve::ReadFile<'_>,
) -> Result<Config, ConfigErrors> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let problems = Problems::default();
    let config = resolve::resolve(typed::read(&document, &problems), read_file, &problems);
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

/// Title of what the parser did not understand.
const NOT_TOML: &str = "this is not TOML";

fn syntax_problem(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    if error.message() == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or_default();
        let title = format!("`{key}` is there twice in one table");
        let help = "leave one of them out; tables that repeat have double brackets: `[[vip]]`";
        return Problem::new(span, title, "again here", help);
    }
    let help = "see https://toml.io for how TOML is written; strings are in double quotes";
    Problem::new(span, NOT_TOML, error.message(), help)
}

/// Adds the problems of syntax, one for each line, and leaves out what only follows from them: what
/// else is wrong in the same lines, and keys that are missing (they may be in what was not
/// understood).
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
