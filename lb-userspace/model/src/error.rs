//! Errors as text, for log lines and messages without `anyhow`.

use std::error::Error;

/// Returns an error and its causes on one line, separated by colons. A cause that an outer error
/// already quotes is left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn appends_each_cause_once() {
        for (text, expected) in [
            ("read the map", "read the map: no such key"),
            ("read the map (no such key)", "read the map (no such key)"),
        ] {
            let source = io::Error::other("no such key");
            assert_eq!(chain(&Outer { text, source }), expected);
        }
    }
}
