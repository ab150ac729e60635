//! Routers with BGP and BFD: [`bird`] and [`frr`].

pub mod bird;
pub mod frr;

use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(20);
