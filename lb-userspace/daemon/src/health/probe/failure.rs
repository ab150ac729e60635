//! Why a check did not succeed.

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The backend's: it counts as a failed check.
    Backend,
    /// This node's, such as a lack of file descriptors: it says nothing about the backend.
    Node,
    /// This node has no link or route to the backend: it says nothing about the backend for a while.
    Path,
}

/// The reason of a check that did not succeed, for operators; it names the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    pub(crate) fault: Fault,
    pub text: String,
    /// The text without addresses: the same for all backends that fail for one reason.
    pub(crate) cause: String,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::of(Fault::Backend, text)
    }

    /// The check could not be done.
    pub(crate) fn of_node(text: impl Into<String>) -> Self {
        Self::of(Fault::Node, text)
    }

    pub(crate) fn of(fault: Fault, text: impl Into<String>) -> Self {
        let text = text.into();
        let cause = text.clone();
        Self { fault, text, cause }
    }

    /// Replaces a name of the backend in the cause.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.cause = self.cause.replace(name, "the backend");
        self
    }

    /// Adds a remark.
    pub(crate) fn and(mut self, remark: &str) -> Self {
        self.text += remark;
        self.cause += remark;
        self
    }
}
