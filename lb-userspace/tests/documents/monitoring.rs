//! `docs/monitoring.md` and the files in `deploy/` use existing metrics, and Prometheus' tools accept the files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_daemon::{
    alerts::Patience,
    metrics::{FAMILIES, Kind},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// Returns the words of a text that look like metrics of Evenkeel.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = words.filter(|word| word.starts_with("evenkeel_") || word.contains(":evenkeel_"));
    ours.map(str::to_owned).collect()
}

/// Returns the metrics of the controller and of recording rules.
fn existing() -> BTreeSet<String> {
    let rules = read("deploy/prometheus/evenkeel.rules.yml");
    let recorded = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    let own = FAMILIES.iter().map(|family| family.name);
    own.chain(recorded).map(str::to_owned).collect()
}

/// There is exactly one row per metric, with type, labels and text.
#[test]
fn documents_every_metric() {
    let page = read("docs/monitoring.md");
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<_> = family
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = match &labels[..] {
            [] => "–".to_owned(),
            labels => labels.join(", "),
        };
        let row = format!(
            "| `{}` | {kind} | {labels} | {} |",
            family.name, family.help
        );
        assert!(page.contains(&row), "docs/monitoring.md lacks:\n{row}");
    }
    let is_row = |line: &&str| line.starts_with("| `evenkeel_") || line.starts_with("| `process_");
    let rows = page.lines().filter(is_row).count();
    assert_eq!(
        rows,
        FAMILIES.len(),
        "docs/monitoring.md lists a removed metric"
    );
}

#[test]
fn documents_every_kind_of_alert_with_its_delays() {
    let page = read("docs/monitoring.md");
    let (_, alerts) = page.split_once("## Alerts").unwrap();
    // Alerts of the share monitor have windows of their own.
    let is_kind = |line: &&str| line.starts_with("| `") && !line.starts_with("| `share_skew`");
    let rows = alerts.lines().filter(is_kind);
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let patience = Patience::with(cells[1].trim_matches('`'));
        let seconds = |time: std::time::Duration| format!("{} s", time.as_secs());
        assert_eq!(cells[3], seconds(patience.raise_after), "{row}");
        assert_eq!(cells[4], seconds(patience.clear_after), "{row}");
        let is_documented = row.contains("Does not escalate");
        assert_eq!(is_documented, !patience.escalates, "{row}");
        count += 1;
    }
    assert_eq!(count, Patience::kinds().count());
}

#[test]
fn uses_only_existing_metrics() {
    let existing = existing();
    for file in [
        "docs/monitoring.md",
        "deploy/grafana/evenkeel.json",
        "deploy/prometheus/evenkeel.rules.yml",
        "deploy/prometheus/evenkeel.rules.test.yml",
        "deploy/kubernetes/keda.yml",
    ] {
        let named = metrics_in(&read(file));
        assert!(!named.is_empty(), "{file} uses no metric");
        let unknown: Vec<_> = named.difference(&existing).collect();
        assert!(
            unknown.is_empty(),
            "{file} uses unknown metrics: {unknown:?}"
        );
    }
}

/// Panels have queries, unique ids, and do not overlap.
#[test]
fn the_dashboard_is_consistent() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/evenkeel.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: duplicate id"
        );
        let grid = |key| panel["gridPos"][key].as_u64().unwrap();
        assert!(grid("x") + grid("w") <= 24, "{title}: too wide");
        for x in grid("x")..grid("x") + grid("w") {
            for y in grid("y")..grid("y") + grid("h") {
                assert!(cells.insert((x, y)), "{title}: overlaps another panel");
            }
        }
        if panel["type"] != "row" {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{title}: no query");
        }
    }
    assert!(panels.len() > 20);
}

/// Checks all queries of the dashboard as rules.
#[test]
fn promtool_accepts_the_queries_of_the_dashboard() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/evenkeel.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, target) in targets.enumerate() {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "1m").replace('\'', "''");
        rules += &format!("      - record: query_{number}\n        expr: '{query}'\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    run(
        "promtool",
        &["check", "rules", file.to_str().unwrap()],
        "prometheus",
    );
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    run(
        "promtool",
        &["check", "config", "prometheus.yml"],
        "prometheus",
    );
    let tests = ["test", "rules", "evenkeel.rules.test.yml"];
    run("promtool", &tests, "prometheus");
}

#[test]
fn amtool_accepts_the_configuration() {
    let file = "../alertmanager/alertmanager.yml";
    run("amtool", &["check-config", file], "prometheus-alertmanager");
}

/// Every alerting rule fires in a rule test.
#[test]
fn tests_every_alerting_rule() {
    let rules = read("deploy/prometheus/evenkeel.rules.yml");
    let tests = read("deploy/prometheus/evenkeel.rules.test.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested: Vec<_> = alerts
        .filter(|alert| {
            let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
            !tests.contains(&fires)
        })
        .collect();
    assert_eq!(untested, ["EvenkeelAlertsNotDelivered"; 0]);
}

/// Runs a tool in `deploy/prometheus`. Skips the test if it is not installed.
fn run(tool: &str, arguments: &[&str], package: &str) {
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .output();
    let Ok(output) = output else {
        lb_skip::skip(tool, &format!("needs {package}"));
        return;
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{tool} {arguments:?}\n{text}");
}
