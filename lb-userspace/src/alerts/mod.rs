//! Alerts: conditions in, messages out.
