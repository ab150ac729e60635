//! What holds for any body of a request that changes something: it is refused, or it means a change
//! whose result is a configuration or has mistakes that can be drawn; made twice, it comes to the same.

use lb_api::{
    ApplyRequest, Change, ConfirmRequest, ExplainRequest, PlanRequest, RollbackRequest,
    SetSourceRequest,
};
use lb_model::{config, edit};

/// What the edits are made in.
const RUNNING: &str = "\
[node]
interfaces = [\"eth0\"]
hash_seed = \"5c1e0b7f3a9d24468d2f6e1b90c3a7f4\"

[[vip]]
name = \"api\" # the one that matters
address = \"203.0.113.10\"
port = 443
protocol = \"tcp\"
forward = \"ipip\"

[[vip.backend]]
name = \"api-1\"
address = \"10.0.1.11\"

[[vip.backend]]
name = \"api-2\"
address = \"10.0.1.12\"
weight = 50
";

/// Panics if it does not hold.
pub(crate) fn hold(body: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<ApplyRequest>(body) {
        hold_for(&request.change);
    }
    if let Ok(request) = serde_json::from_slice::<PlanRequest>(body) {
        hold_for(&request.change);
    }
    // These have nothing in them that could go wrong later.
    let _ = serde_json::from_slice::<ConfirmRequest>(body);
    let _ = serde_json::from_slice::<RollbackRequest>(body);
    let _ = serde_json::from_slice::<ExplainRequest>(body);
    let _ = serde_json::from_slice::<SetSourceRequest>(body);
}

fn hold_for(change: &Change) {
    match change {
        Change::Config { text, .. } => draw(text),
        Change::Edits { edits } => {
            let Ok(text) = edit::apply(RUNNING, edits) else {
                return;
            };
            assert_eq!(
                edit::apply(RUNNING, edits).ok().as_ref(),
                Some(&text),
                "the same edits of the same text"
            );
            draw(&text);
        }
        Change::Revision { .. } => {}
    }
}

fn draw(text: &str) {
    if let Err(errors) = config::parse("f.toml", text) {
        assert!(errors.render(false).contains("error"));
    }
}
