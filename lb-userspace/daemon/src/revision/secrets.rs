//! The text of a configuration for everybody's eyes.

use toml_edit::Document;

/// What stands for a secret.
const MASK: &str = "********";
/// What stands for a secret that is not the one before.
const ANOTHER: &str = "******** (another secret)";
/// Digits in a row that look like a seed, wherever they stand: in a comment, say.
const LIKE_A_SEED: usize = 24;

/// The text with the value of `node.hash_seed` masked, and whatever else looks like a seed.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    masked(text, MASK)
}

/// Two texts for a diff, which says so when the seed is another.
pub(super) fn masked_pair(old: &str, new: &str) -> (String, String) {
    let mask = if seed(old).zip(seed(new)).is_some_and(|(a, b)| a != b) {
        ANOTHER
    } else {
        MASK
    };
    (masked(old, MASK), masked(new, mask))
}

/// The seed as it is written, whichever way the table is.
fn seed(text: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    Some(
        document
            .get("node")?
            .get("hash_seed")?
            .as_str()?
            .to_ascii_lowercase(),
    )
}

fn masked(text: &str, mask: &str) -> String {
    let span = Document::parse(text)
        .ok()
        .and_then(|document| document.get("node")?.get("hash_seed")?.span());
    let Some(span) = span else {
        return without_digits(text);
    };
    let (before, after) = (&text[..span.start], &text[span.end..]);
    format!(
        "{}\"{mask}\"{}",
        without_digits(before),
        without_digits(after)
    )
}

/// The text without long runs of hex digits.
fn without_digits(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(rest.len());
        out.push_str(if end >= LIKE_A_SEED {
            MASK
        } else {
            &rest[..end]
        });
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn the_seed_is_masked_however_it_is_written() {
        for text in [
            format!("[node]\nhash_seed = \"{SEED}\" # mine\nport = 443\n"),
            format!("[node]\nhash_seed='{SEED}'\n"),
            format!("node.hash_seed = \"{SEED}\"\n"),
            format!("node = {{ hash_seed = \"{SEED}\" }}\n"),
            format!("\"node\".\"hash\\u005fseed\" = \"{SEED}\"\n"),
            format!("[node]\nhash_seed = \"\"\"\n{SEED}\"\"\"\n"),
            "[node]\nhash_seed = \"\"\"0001020304050607\\\n  08090a0b0c0d0e0f\"\"\"\n".to_owned(),
            format!("# old: {SEED}\n[node]\n"),
            format!("not toml = = {SEED}"),
        ] {
            let masked = without_secrets(&text);
            assert!(masked.contains(MASK), "{masked}");
            for part in [&SEED[..16], &SEED[16..]] {
                assert!(!masked.contains(part), "{masked}");
            }
        }
    }

    #[test]
    fn nothing_else_is() {
        let text =
            "[node]\nhash_seed_file = \"seed\"\ninterfaces = [\"eth0\"]\n# 2001:db8::feed:cafe\n";
        assert_eq!(without_secrets(text), text);
        let text = format!("[node]\nhash_seed = \"{SEED}\" # mine\nsample = 1024\n");
        let masked = "[node]\nhash_seed = \"********\" # mine\nsample = 1024\n";
        assert_eq!(without_secrets(&text), masked);
    }

    #[test]
    fn a_diff_says_when_the_secret_is_another() {
        let text = |seed: &str| format!("[node]\nhash_seed = \"{seed}\"\n");
        let (a, b) = masked_pair(&text(SEED), &text(&SEED.to_uppercase()));
        assert_eq!(a, b);
        let (a, b) = masked_pair(&text(SEED), &text(&SEED.replace('0', "f")));
        assert_ne!(a, b);
        assert!(!b.contains("f1f2"), "{b}");
    }
}
