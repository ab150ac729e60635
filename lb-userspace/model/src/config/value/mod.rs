//! Parsers of single values. Each reports what it found and what it expects.

mod addresses;
mod communities;
pub(super) mod numbers;
pub(super) mod texts;

pub(crate) use addresses::address_problem;
pub(super) use addresses::{
    address, address_v4, address_v6, parse_source_prefix, prefix, socket_address, source_prefix,
};
pub(super) use communities::{community, large_community};
pub(crate) use numbers::show_duration;
pub(crate) use texts::is_name;
use toml::de::DeValue;

/// Why a value is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What was found, shown at the value.
    pub(super) label: String,
    /// What is expected.
    pub(super) help: String,
}

pub(super) type Parsed<T> = Result<T, Wrong>;

fn wrong<T>(label: impl Into<String>, help: impl Into<String>) -> Parsed<T> {
    Err(Wrong {
        label: label.into(),
        help: help.into(),
    })
}

/// The TOML type of a value, with its article.
pub(super) fn type_of(value: &DeValue<'_>) -> String {
    let article = match value {
        DeValue::Integer(_) | DeValue::Array(_) => "an",
        _ => "a",
    };
    format!("{article} {}", value.type_str())
}

fn wrong_type<T>(value: &DeValue<'_>, wanted: &str, example: &str) -> Parsed<T> {
    let help = format!("expected {wanted}, as in `{example}`");
    wrong(format!("this is {}", type_of(value)), help)
}

fn string(value: &DeValue<'_>) -> Parsed<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => wrong_type(value, "a string", "\"…\""),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Parsed<bool> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        _ => wrong_type(value, "`true` or `false`", "true"),
    }
}

/// One of several words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    move |value| {
        let list: Vec<String> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let list = list.join(", ");
        let Some(text) = value.as_str() else {
            return wrong_type(
                value,
                &format!("one of {list}"),
                &format!("\"{}\"", words[0].0),
            );
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => wrong("unknown value", format!("must be one of {list}")),
        }
    }
}
