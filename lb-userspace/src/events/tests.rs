//! The journal over restarts and crashes.
