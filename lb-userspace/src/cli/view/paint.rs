//! Colours, for terminals whose owner wants them.

/// What a piece of text tells by its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// A title.
    Strong,
    /// Of less weight.
    Faint,
    /// As it should be; what comes.
    Good,
    /// Worth a look; what changes.
    Warn,
    /// Wrong; what goes.
    Bad,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Paint(bool);

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(in crate::cli) const PLAIN: Self = Self(false);
    /// Colours.
    #[cfg(test)]
    pub(in crate::cli) const COLORED: Self = Self(true);

    /// Colours, if it is for a terminal that has them, and nobody said no (no-color.org).
    pub(in crate::cli) fn when(terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(terminal && !refused && !dumb)
    }

    pub(in crate::cli) fn is_colored(self) -> bool {
        self.0
    }

    /// The text in the colour of the tone.
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
