//! The store against crashes and damage.
