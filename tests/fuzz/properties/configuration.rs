//! Any text gives a configuration or errors that can be printed, each with its place in the text. No
//! secret appears in the errors or in the masked text.

use lb_model::{config, secrets};

/// A seed that must never be shown, wherever it is in the text.
const SEED: &str = "5c1e0b7f3a9d24468d2f6e1b90c3a7f4";

/// Panics if it does not hold.
pub(crate) fn hold(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match config::parse("f.toml", &text) {
        Ok(_) => {
            let shown = secrets::mask(&text);
            assert!(!shown.contains(SEED), "{shown}");
        }
        Err(errors) => {
            let drawn = errors.render(false);
            assert!(drawn.contains("error"), "{drawn}");
            assert!(!drawn.contains(SEED), "{drawn}");
            assert!(
                errors
                    .problems()
                    .iter()
                    .all(|p| p.span.is_none() || errors.position(p).is_some())
            );
        }
    }
}
