//! Who may do what: the rules of the roles in manifests.

use serde_json::Value;

/// A rule of a role.
#[derive(Clone, Debug)]
struct Rule {
    /// The namespace of a Role; none of a ClusterRole.
    namespace: Option<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// A request, in the words of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With its subresource, as in `services/status`.
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
}

/// The rules of all roles.
#[derive(Debug)]
pub(crate) struct Rules(Vec<Rule>);

impl Rules {
    /// Reads the roles of a manifest (YAML).
    ///
    /// # Panics
    ///
    /// If that is not possible.
    pub(crate) fn read(manifest: &str) -> Self {
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("a manifest");
        let roles = objects.iter().filter(|object| !object["rules"].is_null());
        let rules = roles.flat_map(|role| {
            let namespace = role["metadata"]["namespace"].as_str().map(str::to_owned);
            let rules = role["rules"].as_array().expect("a list of rules");
            rules.iter().map(move |rule| Rule {
                namespace: namespace.clone(),
                groups: words(&rule["apiGroups"]),
                resources: words(&rule["resources"]),
                verbs: words(&rule["verbs"]),
            })
        });
        Self(rules.collect())
    }

    pub(crate) fn allow(&self, asked: &Asked<'_>) -> bool {
        self.0.iter().any(|rule| {
            let has = |words: &[String], word: &str| words.iter().any(|it| it == word);
            has(&rule.groups, asked.group)
                && has(&rule.resources, asked.resource)
                && has(&rule.verbs, asked.verb)
                && (rule.namespace.as_ref()).is_none_or(|namespace| namespace == asked.namespace)
        })
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().expect("a list").iter();
    let text = |word: &Value| word.as_str().expect("a word").to_owned();
    words.map(text).collect()
}
