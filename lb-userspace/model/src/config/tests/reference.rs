//! `docs/configuration.md` and `docs/evenkeel.schema.json` are what the tables give. The variable
//! `EVENKEEL_WRITE_REFERENCE` writes them anew.

use std::fs;

use serde_json::Value;

use super::{super::reference, BAD, FULL, LEAST};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

fn assert_current(name: &str, generate: impl Fn(&str) -> String) {
    let path = format!("{DOCS}/{name}");
    let found = fs::read_to_string(&path).unwrap_or_default();
    let expected = generate(&found);
    if std::env::var_os("EVENKEEL_WRITE_REFERENCE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "docs/{name} is stale: EVENKEEL_WRITE_REFERENCE=1 cargo test -p lb-model reference"
    );
}

#[test]
fn the_documentation_is_current() {
    assert_current("configuration.md", reference::with_key_tables);
    let page = fs::read_to_string(format!("{DOCS}/configuration.md")).unwrap();
    let tables = page.matches("\n| Key | Default |").count();
    assert_eq!(tables, 20, "a section is missing in docs/configuration.md");
}

#[test]
fn the_schema_is_current() {
    assert_current("evenkeel.schema.json", |_| {
        format!("{:#}\n", reference::schema())
    });
}

/// Asserts that a value fits the keywords that our schema uses, all but `pattern`.
fn check(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut expect = |is_right: bool, what: &str| {
        if !is_right {
            errors.push(format!("{at}: {what}"));
        }
    };
    let kind = match value {
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        _ => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is_number = kind == "integer" && types.contains(&"number");
    expect(types.contains(&kind) || is_number, "type");
    if let Some(words) = schema["enum"].as_array() {
        expect(words.contains(value), "enum");
    }
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| schema[name].as_f64();
        expect(bound("minimum").is_none_or(|min| number >= min), "minimum");
        expect(bound("maximum").is_none_or(|max| number <= max), "maximum");
        let above = bound("exclusiveMinimum");
        expect(above.is_none_or(|min| number > min), "exclusiveMinimum");
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        expect(value.get(key.as_str().unwrap()).is_some(), "required");
    }
    if let Some(one_of) = schema["oneOf"].as_array() {
        let keys = one_of.iter().filter_map(|one| one["required"][0].as_str());
        let present = keys.filter(|key| value.get(key).is_some()).count();
        expect(present == 1, "oneOf");
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(key) {
            Some(schema) => errors.extend(check(schema, value, &format!("{at}.{key}"))),
            None => errors.push(format!("{at}.{key}: unknown")),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        errors.extend(check(&schema["items"], item, at));
    }
    errors
}

fn check_toml(text: &str) -> Vec<String> {
    let value: Value = toml::from_str(text).unwrap();
    check(&reference::schema(), &value, "")
}

#[test]
fn the_schema_accepts_what_the_parser_accepts() {
    assert_eq!(check_toml(LEAST), Vec::<String>::new());
    assert_eq!(check_toml(FULL), Vec::<String>::new());
}

#[test]
fn the_schema_finds_the_errors_of_single_values() {
    let errors = check_toml(BAD);
    for expected in [
        ".node: required",
        ".node.interface: unknown",
        ".node.transition_ttl: type",
        ".node.track_flows: enum",
        ".vip.backend.wieght: unknown",
        ".vip.forward: enum",
        ".vip.backend.weight: maximum",
    ] {
        assert!(
            errors.iter().any(|error| error == expected),
            "{expected}: {errors:#?}"
        );
    }
}
