//! The macro that declares a table of the configuration file, and what it says about each key.
//!
//! A row of `table!` is the only place where a key is written. From it come the field of the
//! domain type, the parser with its messages, the default, the line in a plan when the value
//! changes, the row in `docs/configuration.md` and the property in the JSON Schema.
//!
//! ```text
//! /// Description: rustdoc of the field, `docs/configuration.md` and the schema.
//! bake: Duration, [default seconds(30)], kind::duration(Duration::ZERO..=HOUR), Live;
//! ^name ^type     ^presence              ^kind: parser, printer, schema          ^effect of a change
//! ```
//!
//! | presence | field | when the key is absent |
//! | --- | --- | --- |
//! | `[required "help"]` | `T` | an error with this help |
//! | `[default value]` | `T` | this value |
//! | `[default value, "text"]` | `T` | this value, which the documentation describes |
//! | `[derived function, "text"]` | `T` | what the function makes of the table's other keys |
//! | `[optional "text"]` | `Option<T>` | `None`, which the documentation describes |
//! | `[list "text"]` | `Vec<T>` | an empty list, which the documentation describes |
//! | `[list required "help"]` | `Vec<T>` | an error with this help |
//!
//! Keys in `input` are read but are not fields: `resolve` makes the fields in `resolved` from them.
//! `only for ["http"]` limits a key of `vip.health` to these kinds.

use std::ops::Range;

use toml::Spanned;

use super::{
    kind::{Kind, Reference},
    reader::{Reader, Typed},
};

/// What is known of a key besides its type, for documentation and schema.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The description, in Markdown.
    pub(super) text: &'static str,
    pub(super) absent: Absent,
    pub(super) is_list: bool,
    /// The value, or an item of the list.
    pub(super) reference: Reference,
    pub(super) effect: Effect,
    /// Values of `kind` that the key is for; empty: all.
    pub(super) only: &'static [&'static str],
}

/// What holds when a key is absent.
pub(super) enum Absent {
    Error,
    /// The default, as the file would have it.
    Default(serde_json::Value),
    Described(&'static str),
}

/// What a change of a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Applied at once; no connection breaks.
    Live,
    /// Read when the controller starts.
    Restart,
    /// Rejected while the controller runs.
    Stopped,
    /// Rejected while the data path is loaded.
    Unloaded,
    /// Removes the VIP and adds it again: its connections break.
    ReplacesVip,
    /// Does so with all VIPs.
    ReplacesAllVips,
    /// Makes another backend of it: new flows go to the new one, the old one keeps its flows.
    NewBackend,
    /// Read when `evenkeel announce` starts or is reloaded.
    Announcer,
}

impl Effect {
    /// The column "Change" of the documentation.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Stopped => "stopped",
            Self::Unloaded => "unloaded",
            Self::ReplacesVip => "replaces the VIP",
            Self::ReplacesAllVips => "replaces all VIPs",
            Self::NewBackend => "new backend",
            Self::Announcer => "`evenkeel announce`",
        }
    }

    /// What a plan says behind the values; what happens to VIPs and backends it shows elsewhere.
    const fn note(self) -> &'static str {
        match self {
            Self::Restart => " (takes effect at the next restart of the controller)",
            Self::Stopped => " (only possible while the controller is stopped)",
            Self::Unloaded => " (only possible while the data path is unloaded)",
            Self::Announcer => " (takes effect when `evenkeel announce` is reloaded)",
            Self::Live | Self::ReplacesVip | Self::ReplacesAllVips | Self::NewBackend => "",
        }
    }
}

/// Changed settings, each as `key: before → after`.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) lines: Vec<String>,
    /// What stands before each key, such as `node.`.
    prefix: String,
}

impl Changes {
    pub(crate) fn below(&mut self, prefix: impl Into<String>) -> &mut Self {
        self.prefix = prefix.into();
        self
    }

    pub(crate) fn add<T: PartialEq>(
        &mut self,
        key: &str,
        before: &T,
        after: &T,
        show: impl Fn(&T) -> String,
    ) {
        if before != after {
            let (before, after) = (show(before), show(after));
            let prefix = &self.prefix;
            self.lines
                .push(format!("{prefix}{key}: {before} → {after}"));
        }
    }

    pub(crate) fn note(&mut self, effect: Effect, lines_before: usize) {
        for line in &mut self.lines[lines_before..] {
            line.push_str(effect.note());
        }
    }
}

/// Shows a list as the file has it.
pub(super) fn show_list<K: Kind>(kind: &K, items: &[K::Value]) -> String {
    let items: Vec<_> = items.iter().map(|item| as_json(&kind.show(item))).collect();
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

/// A shown value as the file has it: what is no number, boolean or quoted string is a string.
pub(super) fn as_json(shown: &str) -> serde_json::Value {
    serde_json::from_str(shown).unwrap_or_else(|_| shown.into())
}

pub(super) fn value_of<T: Clone>(typed: &Typed<T>) -> Option<T> {
    typed.as_ref().map(|typed| typed.get_ref().clone())
}

pub(super) fn items_of<T: Clone>(typed: &Typed<Vec<Spanned<T>>>) -> Vec<T> {
    let items = typed.iter().flat_map(Spanned::get_ref);
    items.map(|item| item.get_ref().clone()).collect()
}

pub(super) fn span_of<T>(typed: &Typed<T>) -> Option<Range<usize>> {
    typed.as_ref().map(Spanned::span)
}

/// A table as it was typed: values with their places, `None` where a key is absent or wrong.
pub(super) trait Table: Sized {
    /// The path of the table, such as `vip.health`.
    const PATH: &'static str;

    fn read(reader: &mut Reader<'_, '_>) -> Self;

    /// Where the table begins.
    fn at(&self) -> Range<usize>;

    /// Whether a key is in the file, right or wrong.
    fn has(&self, key: &str) -> bool;

    /// Where the value of a key is, if it is right.
    fn span(&self, key: &str) -> Option<Range<usize>>;

    fn keys() -> Vec<Key>;
}

/// Declares a table: `Name` is what it means, `TypedName` what was typed, each key with its place.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $name:ident as $typed:ident, $path:literal $(, with $default:ident)?;
        $(input {$(
            $(#[doc = $idoc:literal])+
            $ikey:ident: $ity:ty, [$($iabsent:tt)+], $ikind:expr, $ieffect:ident
                $(, only for [$($ionly:literal),+])?;
        )+})?
        keys {$(
            $(#[doc = $doc:literal])+
            $key:ident: $ty:ty, [$($absent:tt)+], $kind:expr, $effect:ident
                $(, only for [$($only:literal),+])?;
        )+}
        $(resolved {$(
            $(#[doc = $rdoc:literal])+
            $rkey:ident: $rty:ty;
        )+})?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: field_type!([$($absent)+] $ty), )+
            $($( $(#[doc = $rdoc])+ pub $rkey: $rty, )+)?
        }

        #[derive(Default)]
        pub(in crate::config) struct $typed {
            at: std::ops::Range<usize>,
            present: Vec<&'static str>,
            $($( pub(in crate::config) $ikey: typed_type!([$($iabsent)+] $ity), )+)?
            $( pub(in crate::config) $key: typed_type!([$($absent)+] $ty), )+
        }

        impl $crate::config::keys::Table for $typed {
            const PATH: &'static str = $path;

            fn read(reader: &mut $crate::config::reader::Reader<'_, '_>) -> Self {
                Self {
                    at: reader.at.clone(),
                    $($( $ikey: read_key!(reader, $ikey, $ikind, [$($iabsent)+]), )+)?
                    $( $key: read_key!(reader, $key, $kind, [$($absent)+]), )+
                    present: reader.present(),
                }
            }

            fn at(&self) -> std::ops::Range<usize> {
                self.at.clone()
            }

            fn has(&self, key: &str) -> bool {
                self.present.contains(&key)
            }

            fn span(&self, key: &str) -> Option<std::ops::Range<usize>> {
                use $crate::config::keys::span_of;
                match key {
                    $($( stringify!($ikey) => span_of(&self.$ikey), )+)?
                    $( stringify!($key) => span_of(&self.$key), )+
                    _ => None,
                }
            }

            fn keys() -> Vec<$crate::config::keys::Key> {
                vec![
                    $($( describe_key!(
                        $ikey, $ikind, $ieffect, [$($iabsent)+], [$($($ionly),+)?], $($idoc)+
                    ), )+)?
                    $( describe_key!(
                        $key, $kind, $effect, [$($absent)+], [$($($only),+)?], $($doc)+
                    ), )+
                ]
            }
        }

        impl $typed {
            /// The table with its defaults and what is in `resolved`; `None` when a required key is
            /// absent or wrong.
            pub(in crate::config) fn resolve(
                &self
                $(, ($($rkey,)+): ($($rty,)+))?
            ) -> Option<$name> {
                Some($name {
                    $( $key: resolve_key!(self, $key, [$($absent)+]), )+
                    $($( $rkey, )+)?
                })
            }

            $($( resolve_input!($ikey: $ity, [$($iabsent)+]); )+)?
        }

        impl $name {
            /// Adds a line for each key that differs.
            pub(crate) fn list_changes(
                changes: &mut $crate::config::keys::Changes,
                before: &Self,
                after: &Self,
            ) {
                $(
                    let lines = changes.lines.len();
                    changes.add(stringify!($key), &before.$key, &after.$key, |value| {
                        show_key!(value, $kind, [$($absent)+])
                    });
                    changes.note($crate::config::keys::Effect::$effect, lines);
                )+
            }
        }

        default_of!([$($default)?] $name, [$( $key [$($absent)+] )+], [$($( $rkey )+)?]);
    };
}

macro_rules! field_type {
    ([optional $($text:tt)+] $ty:ty) => { Option<$ty> };
    ([list $($text:tt)+] $ty:ty) => { Vec<$ty> };
    ([$($other:tt)+] $ty:ty) => { $ty };
}

macro_rules! typed_type {
    ([list $($text:tt)+] $ty:ty) => { $crate::config::reader::Typed<Vec<toml::Spanned<$ty>>> };
    ([$($other:tt)+] $ty:ty) => { $crate::config::reader::Typed<$ty> };
}

macro_rules! read_key {
    ($reader:ident, $key:ident, $kind:expr, [required $help:literal]) => {
        $reader.required(stringify!($key), $help, &$kind)
    };
    ($reader:ident, $key:ident, $kind:expr, [list required $help:literal]) => {
        $reader.required_list(stringify!($key), $help, &$kind)
    };
    ($reader:ident, $key:ident, $kind:expr, [list $text:literal]) => {
        $reader.list(stringify!($key), &$kind)
    };
    ($reader:ident, $key:ident, $kind:expr, [$($other:tt)+]) => {
        $reader.value(stringify!($key), &$kind)
    };
}

macro_rules! resolve_key {
    ($typed:ident, $key:ident, [required $help:literal]) => {
        $crate::config::keys::value_of(&$typed.$key)?
    };
    ($typed:ident, $key:ident, [default $default:expr $(, $text:literal)?]) => {
        $crate::config::keys::value_of(&$typed.$key).unwrap_or_else(|| $default)
    };
    ($typed:ident, $key:ident, [derived $function:path, $text:literal]) => {
        match $crate::config::keys::value_of(&$typed.$key) {
            Some(value) => value,
            None => $function($typed)?,
        }
    };
    ($typed:ident, $key:ident, [optional $text:literal]) => {
        $crate::config::keys::value_of(&$typed.$key)
    };
    ($typed:ident, $key:ident, [list $($text:tt)+]) => {
        $crate::config::keys::items_of(&$typed.$key)
    };
}

/// A function for the value or default of an input that has one.
macro_rules! resolve_input {
    ($key:ident: $ty:ty, [default $default:expr]) => {
        pub(in crate::config) fn $key(&self) -> $ty {
            $crate::config::keys::value_of(&self.$key).unwrap_or_else(|| $default)
        }
    };
    ($key:ident: $ty:ty, [$($other:tt)+]) => {};
}

macro_rules! show_key {
    ($value:ident, $kind:expr, [optional $text:literal]) => {
        $value.as_ref().map_or_else(
            || "none".to_owned(),
            |value| $crate::config::kind::Kind::show(&$kind, value),
        )
    };
    ($value:ident, $kind:expr, [list $($text:tt)+]) => {
        $crate::config::keys::show_list(&$kind, $value)
    };
    ($value:ident, $kind:expr, [$($other:tt)+]) => {
        $crate::config::kind::Kind::show(&$kind, $value)
    };
}

macro_rules! describe_key {
    ($key:ident, $kind:expr, $effect:ident, [$($absent:tt)+], [$($only:literal),*], $($doc:literal)+) => {
        $crate::config::keys::Key {
            name: stringify!($key),
            text: concat!($($doc),+),
            absent: absent!($kind, [$($absent)+]),
            is_list: is_list!($($absent)+),
            reference: $crate::config::kind::Kind::reference(&$kind),
            effect: $crate::config::keys::Effect::$effect,
            only: &[$($only),*],
        }
    };
}

macro_rules! absent {
    ($kind:expr, [required $help:literal]) => {
        $crate::config::keys::Absent::Error
    };
    ($kind:expr, [list required $help:literal]) => {
        $crate::config::keys::Absent::Error
    };
    ($kind:expr, [default $default:expr]) => {
        $crate::config::keys::Absent::Default($crate::config::keys::as_json(
            &$crate::config::kind::Kind::show(&$kind, &$default),
        ))
    };
    ($kind:expr, [default $default:expr, $text:literal]) => {
        $crate::config::keys::Absent::Described($text)
    };
    ($kind:expr, [derived $function:path, $text:literal]) => {
        $crate::config::keys::Absent::Described($text)
    };
    ($kind:expr, [$presence:ident $text:literal]) => {
        $crate::config::keys::Absent::Described($text)
    };
}

macro_rules! is_list {
    (list $($text:tt)+) => {
        true
    };
    ($($other:tt)+) => {
        false
    };
}

/// Implements `Default` for a table whose keys all have defaults.
macro_rules! default_of {
    ([] $name:ident, [$($keys:tt)+], [$($resolved:tt)*]) => {};
    ([Default] $name:ident, [$( $key:ident [$($absent:tt)+] )+], [$( $resolved:ident )*]) => {
        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $key: default_value!($($absent)+), )+
                    $( $resolved: Default::default(), )*
                }
            }
        }
    };
}

macro_rules! default_value {
    (default $default:expr $(, $text:literal)?) => {
        $default
    };
    (optional $text:literal) => {
        None
    };
    (list $text:literal) => {
        Vec::new()
    };
}
