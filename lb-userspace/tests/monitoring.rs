//! The page on monitoring and the files in `deploy/` name metrics that exist, and real tools can read the files.

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

/// Words of a text that can only be metrics of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = words.filter(|word| word.starts_with("evenkeel_") || word.contains(":evenkeel_"));
    ours.map(str::to_owned).collect()
}

/// Metrics that exist: those of the controller and those that rules record.
fn existing() -> BTreeSet<String> {
    let rules = read("deploy/prometheus/evenkeel.rules.yml");
    let recorded = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    let own = FAMILIES.iter().map(|family| family.name);
    own.chain(recorded).map(str::to_owned).collect()
}

/// `docs/monitoring.md` has a row for every metric, with its type, labels and text, and no other.
#[test]
fn every_metric_is_documented() {
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
        "docs/monitoring.md lists a metric that is gone"
    );
}

#[test]
fn every_kind_of_alert_is_documented_with_its_patience() {
    let page = read("docs/monitoring.md");
    let (_, alerts) = page.split_once("## Alerts").unwrap();
    // The last row is of those that come from a watch with windows of its own.
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
fn every_metric_that_is_named_exists() {
    let existing = existing();
    for file in [
        "docs/monitoring.md",
        "deploy/grafana/evenkeel.json",
        "deploy/prometheus/evenkeel.rules.yml",
        "deploy/prometheus/evenkeel.rules.test.yml",
        "deploy/kubernetes/keda.yml",
    ] {
        let named = metrics_in(&read(file));
        assert!(!named.is_empty(), "{file} names no metric");
        let unknown: Vec<_> = named.difference(&existing).collect();
        assert!(
            unknown.is_empty(),
            "{file} names what does not exist: {unknown:?}"
        );
    }
}

/// The dashboard is what Grafana wants: panels with queries, numbers of their own, and no overlap.
#[test]
fn the_dashboard_hangs_together() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/evenkeel.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title} has another's id"
        );
        let place = |key| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title} overlaps");
            }
        }
        if panel["type"] != "row" {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{title} shows nothing");
        }
    }
    assert!(panels.len() > 20);
}

/// All queries of the dashboard, as rules that promtool can read.
#[test]
fn prometheus_understands_the_queries_of_the_dashboard() {
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
fn promtool_passes_the_rules_and_their_tests() {
    run(
        "promtool",
        &["check", "config", "prometheus.yml"],
        "prometheus",
    );
    let tests = ["test", "rules", "evenkeel.rules.test.yml"];
    run("promtool", &tests, "prometheus");
}

#[test]
fn amtool_passes_the_configuration() {
    let file = "../alertmanager/alertmanager.yml";
    run("amtool", &["check-config", file], "prometheus-alertmanager");
}

/// Every alerting rule is met by a test.
#[test]
fn every_rule_is_tested() {
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

/// Runs a tool in `deploy/prometheus`; says so when it is not on the machine.
fn run(tool: &str, arguments: &[&str], package: &str) {
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .output();
    let Ok(output) = output else {
        lb_skip::skip(tool, &format!("needs {package}"));
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{tool} {arguments:?}\n{said}");
}
