//! The real Alertmanager, from Debian's package `prometheus-alertmanager`.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{receivers::until, *};

const PROGRAM: &str = "/usr/bin/prometheus-alertmanager";

struct Alertmanager {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Alertmanager {
    /// Starts it; none if it is not installed, which is reported.
    async fn start(test: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            lb_skip::skip(test, "needs prometheus-alertmanager");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("alertmanager.yml");
        std::fs::write(
            &config,
            "route: {receiver: none}\nreceivers: [{name: none}]\n",
        )
        .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(PROGRAM)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let started = Self {
            child,
            url,
            _folder: folder,
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while started.get("/-/ready").await.is_none() {
            assert!(
                std::time::Instant::now() < deadline,
                "Alertmanager does not start"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(started)
    }

    async fn get(&self, path: &str) -> Option<String> {
        let response = reqwest::get(format!("{}{path}", self.url)).await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    /// (name, severity) of the firing alerts.
    async fn active(&self) -> Vec<(String, String)> {
        let text = self.get("/api/v2/alerts?active=true").await.unwrap();
        let alerts: Vec<Value> = serde_json::from_str(&text).unwrap();
        let label = |alert: &Value, name| alert["labels"][name].as_str().unwrap().to_owned();
        let names = alerts
            .iter()
            .map(|a| (label(a, "alertname"), label(a, "severity")));
        names.collect()
    }

    async fn wait_for(&self, expected: &[(&str, &str)]) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let active = self.active().await;
            let active: Vec<_> = active
                .iter()
                .map(|(n, s)| (n.as_str(), s.as_str()))
                .collect();
            if active == expected {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{active:?} instead of {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn alertmanager_follows_alerts() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = "alertmanager_follows_alerts";
    let Some(manager) = Alertmanager::start(name).await else {
        return;
    };
    let alerts = seasoned();
    alerts.configure(&config::Alerts {
        alertmanager: vec![format!("{}/", manager.url)],
        ..config::Alerts::default()
    });
    // Real times: Alertmanager has a clock of its own.
    let now = Timestamp::now();
    let later = |seconds| now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    alerts.update(later(-100), &[]);
    let one = down(&["api-1"]).cause("checks say: connection refused");
    for second in -60..=-50 {
        alerts.update(later(second), std::slice::from_ref(&one));
    }
    manager
        .wait_for(&[("EvenkeelBackendDown", "warning")])
        .await;
    let text = manager.get("/api/v2/alerts").await.unwrap();
    assert!(
        text.contains("connection refused") && text.contains("backends:api"),
        "{text}"
    );
    // Another kind and severity: the old one ends as the new one begins.
    let mut few = down(&["api-1", "api-2"]);
    few.kind = "few_backends".to_owned();
    few.severity = Severity::Critical;
    alerts.update(later(-49), &[few]);
    manager
        .wait_for(&[("EvenkeelFewBackends", "critical")])
        .await;
    for second in -48..=-20 {
        alerts.update(later(second), &[]);
    }
    assert_eq!(alerts.list(), []);
    manager.wait_for(&[]).await;
    // It forgot everything, as after a restart of its own; a test still arrives.
    let tested = alerts.test().await;
    assert_eq!(tested[0].error, None, "{tested:?}");
    manager.wait_for(&[("EvenkeelTest", "info")]).await;
    until(|| alerts.receiver_counts()[0].sent >= 4).await;
}
