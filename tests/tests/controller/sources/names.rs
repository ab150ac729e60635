//! Names of sources in commands and paths.

use serde_json::json;

use super::*;

#[test]
fn a_source_that_is_set_has_two_names() {
    if !can_run("names") {
        return;
    }
    let lab = build();
    let site = start(&lab, FORWARD, "api:web", "");
    let file = lab.balancers[0].directory().join("members.json");
    for (name, backends) in [("api:web", [0, 1]), ("web", [1, 2])] {
        let members = backends.map(|index| json!({ "address": backend(&lab, index) }));
        std::fs::write(&file, json!(members).to_string()).unwrap();
        let set = ["source", "set", name, file.to_str().unwrap()];
        site.operator.run(&set).unwrap().assert_code(0);
        wait(&site, name, |observed| {
            let up = observed.members("up");
            backends
                .iter()
                .all(|index| up.contains(&backend(&lab, *index).to_string()))
        });
    }
    let sources = site.operator.get("/v1/sources").unwrap();
    assert_eq!(sources.as_array().unwrap().len(), 1, "{sources:#}");

    let set = ["source", "set", "dns:web.lab", file.to_str().unwrap()];
    let refused = site.operator.run(&set).unwrap();
    assert!(
        refused.err.contains("dns:web.lab is asked, not set"),
        "{}",
        refused.err
    );
}
