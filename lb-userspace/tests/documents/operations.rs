//! `docs/operations.md` lists the reasons of the code.

use lb_common::reason::REASONS;

/// There is a row for every reason, with its fate and text.
#[test]
fn documents_every_reason() {
    let page = include_str!("../../../docs/operations.md");
    for reason in REASONS {
        let fate = format!("{:?}", reason.fate).to_lowercase();
        let row = format!("| `{}` | {fate} | {} |", reason.name, reason.text);
        assert!(page.contains(&row), "docs/operations.md lacks:\n{row}");
    }
    let (_, rest) = page.split_once("## Counters of the node").unwrap();
    let (table, _) = rest.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        rows,
        REASONS.len(),
        "docs/operations.md lists a removed reason"
    );
}
