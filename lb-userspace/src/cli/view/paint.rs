//! Colours for terminals.

/// Meaning of a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    #[default]
    Plain,
    Strong,
    Faint,
    /// Good, or added.
    Good,
    /// Needs attention, or changed.
    Warn,
    /// Wrong, or removed.
    Bad,
}

/// Whether to colour text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Paint(bool);

impl Paint {
    pub(in crate::cli) const PLAIN: Self = Self(false);
    #[cfg(test)]
    pub(in crate::cli) const COLORED: Self = Self(true);

    /// Colours for a terminal, unless `NO_COLOR` is set (no-color.org) or the terminal has none.
    pub(in crate::cli) fn when(terminal: bool) -> Self {
        let disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(terminal && !disabled && !dumb)
    }

    pub(in crate::cli) fn is_colored(self) -> bool {
        self.0
    }

    pub(in crate::cli) fn apply(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.into(),
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
        };
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}
