//! Measures the cost of checking a thousand backends every second:
//! `cargo test --release -p lb-daemon --lib -- --ignored --nocapture cost_of_a_thousand`.

use std::{net::SocketAddr, sync::mpsc, thread, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::{
    health,
    server::{Answer, http, page},
    target,
};
use crate::health::{Health, Target, probe::Shared};
use lb_model::config::{HealthKind, HttpCheck, StatusSet};

const BACKENDS: usize = 1000;
const SECONDS: u64 = 10;

/// Runs the server in a thread of its own, so that its CPU time is not counted.
fn serve(with: Answer) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime();
        runtime.block_on(async {
            sender.send(http(with).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// Returns the CPU time of this thread in the kernel, in seconds (steps of 10 ms).
fn kernel_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').nth(12).unwrap();
    ticks.parse::<f64>().unwrap() / 100.0
}

fn cost_of(kind: &HealthKind, at: SocketAddr) {
    let targets = (0..BACKENDS).map(|i| {
        let mut health = health(kind.clone());
        health.interval = Duration::from_secs(1);
        health.fast_interval = Duration::from_millis(250);
        Target {
            backend: format!("b{i}"),
            initial: true,
            ..target(at, health)
        }
    });
    let targets: Vec<_> = targets.collect();
    runtime().block_on(async {
        let (mut health, mut changes) = Health::start(1, Shared::default());
        health.set_targets(targets);
        // Until all have started.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = (cpu_time(), kernel_time());
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        let share = (cpu_time() - before.0).as_secs_f64() / SECONDS as f64;
        let kernel = (kernel_time() - before.1) / SECONDS as f64;
        assert!(changes.try_recv().is_err(), "a check failed");
        let each = share * 1e6 / BACKENDS as f64;
        let (share, kernel) = (share * 100.0, kernel * 100.0);
        println!(
            "{kind:?}: {share:.1} % of a core ({kernel:.1} in the kernel), {each:.0} µs per check"
        );
    });
}

#[test]
#[ignore = "a measurement that takes half a minute"]
fn cost_of_a_thousand_checks_per_second() {
    let page = page("200 OK", "well");
    let at = serve(page);
    cost_of(&HealthKind::Tcp, at);
    let http = HealthKind::Http(HttpCheck {
        path: "/healthz".to_owned(),
        host: None,
        expect_status: StatusSet::default(),
        expect_body: Some("well".to_owned()),
    });
    cost_of(&http, at);
}
