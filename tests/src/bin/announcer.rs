//! Announces addresses in a lab: `announcer SOCKET PLAN`. See `lab::announcer`.

use std::path::Path;

use anyhow::{Context as _, Result};

// One thread, so that a test can stall all tasks.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: announcer SOCKET PLAN";
    let socket = arguments.next().context(usage)?;
    let plan = serde_json::from_str(&arguments.next().context(usage)?)?;
    lab::announcer::serve(Path::new(&socket), plan).await
}
