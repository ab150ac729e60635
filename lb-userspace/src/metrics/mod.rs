//! What Prometheus gets.
