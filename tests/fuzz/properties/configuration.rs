//! What holds for any text that is given as a configuration: it is one, or it has mistakes that can be
//! drawn, each with its place in the text; and no secret is in the drawing or in what is shown of it.

use lb_model::{config, secrets};

/// A seed of which nothing may be shown, wherever it stands.
const SEED: &str = "5c1e0b7f3a9d24468d2f6e1b90c3a7f4";

/// Panics if it does not hold.
pub(crate) fn hold(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match config::parse("/nonexistent/f.toml", &text) {
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
