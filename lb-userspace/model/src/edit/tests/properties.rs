//! Random edits of random texts.

use proptest::prelude::*;

use super::*;

/// A configuration with odd spacing, comments and both styles.
fn odd_text() -> impl Strategy<Value = String> {
    let comment = prop::sample::select(vec!["", " # note", "\t#", "   "]);
    let blank = prop::sample::select(vec!["", "\n", "# above\n", "\n# far\n\n# near\n"]);
    let in_rows = any::<bool>();
    let backends = prop::collection::vec((0u32..200, comment.clone(), blank.clone()), 1..5);
    let vips = prop::collection::vec((backends, comment, blank, in_rows), 1..4);
    (vips, any::<bool>(), any::<bool>()).prop_map(|(vips, is_windows, node_first)| {
        let node =
            "[node]\ninterfaces=['e']\nhash_seed='000102030405060708090a0b0c0d0e0f' # secret\n";
        let mut text = if node_first { node.to_owned() } else { String::new() };
        for (v, (backends, comment, blank, in_rows)) in vips.iter().enumerate() {
            text += &format!("{blank}[[vip]]{comment}\nname = 'v{v}'{comment}\naddress = '192.0.2.{v}'\n");
            text += "port=80\nprotocol='tcp'\nforward = \"l2\"\nguard.max_share = 1.0\n";
            let all = backends.iter().enumerate();
            if *in_rows {
                text += "backend = [";
                for (b, (weight, comment, blank)) in all {
                    let weight = weight + 1;
                    text += &format!("\n{blank} {{name='b{b}',address='10.0.{v}.{b}',weight={weight}}},{comment}");
                }
                text += "\n]\n";
            } else {
                for (b, (weight, comment, blank)) in all {
                    let weight = weight + 1;
                    text += &format!("{blank}[[vip.backend]]\nname='b{b}'{comment}\naddress='10.0.{v}.{b}'\nweight = {weight}{comment}\n");
                }
            }
        }
        if !node_first {
            text += node;
        }
        if is_windows { text.replace('\n', "\r\n") } else { text }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Weight(u32),
    State(WantedState),
    Add,
    Remove,
}

fn steps() -> impl Strategy<Value = Vec<(usize, usize, Step)>> {
    let step = prop_oneof![
        (1u32..100).prop_map(Step::Weight),
        prop::sample::select(vec![
            WantedState::Up,
            WantedState::Drain,
            WantedState::Disabled
        ])
        .prop_map(Step::State),
        Just(Step::Add),
        Just(Step::Remove),
    ];
    prop::collection::vec((0usize..4, 0usize..6, step), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// An edited text means the same as the changed configuration, and everything else stays byte for
    /// byte.
    #[test]
    fn edits_change_only_what_they_name(text in odd_text(), steps in steps()) {
        use crate::config::BackendState;
        let mut config = crate::config::parse("x", &text).unwrap();
        let mut now = text.clone();
        for (n, (vip, backend, step)) in steps.into_iter().enumerate() {
            let vips = config.vips.len();
            let vip = &mut config.vips[vip % vips];
            let at = backend % vip.backends.len();
            let (v, b) = (vip.name.clone(), vip.backends[at].name.clone());
            let edit = match step {
                Step::Weight(weight) => {
                    vip.backends[at].weight = weight;
                    set_weight(&v, &b, weight)
                }
                Step::State(state) => {
                    vip.backends[at].state = match state {
                        WantedState::Up => BackendState::Up,
                        WantedState::Drain => BackendState::Drain,
                        WantedState::Disabled => BackendState::Disabled,
                    };
                    set_state(Some(&v), &b, state)
                }
                Step::Add => {
                    let mut new = vip.backends[at].clone();
                    new.name = format!("n{n}");
                    new.address = format!("10.9.0.{n}").parse().unwrap();
                    (new.weight, new.state) = (10, BackendState::Up);
                    let edit = add_backend(&v, &new.name, &new.address.to_string());
                    vip.backends.push(new);
                    edit
                }
                Step::Remove if vip.backends.len() == 1 => continue,
                Step::Remove => {
                    vip.backends.remove(at);
                    remove_backend(&v, &b)
                }
            };
            let is_removal = matches!(edit, Edit::RemoveBackend { .. });
            let after = apply(&now, &[edit]).unwrap();
            let parsed = crate::config::parse("x", &after);
            prop_assert_eq!(parsed.as_ref(), Ok(&config), "{}\n→\n{}", now, after);
            // Only single lines change; comments stay unless their entry is removed.
            let diff = similar::TextDiff::from_lines(&now, &after);
            let gone = diff.iter_all_changes().filter(|c| c.tag() == similar::ChangeTag::Delete);
            let gone: Vec<&str> = gone.map(|change| change.value()).collect();
            if !is_removal {
                prop_assert!(gone.len() <= 2, "{:?}", gone);
                let notes = |text: &str| text.matches('#').count();
                prop_assert_eq!(notes(&now), notes(&after));
            } else {
                prop_assert!(gone.len() <= 9, "{:?}", gone);
                prop_assert!(after.matches("# far").count() + 1 >= now.matches("# far").count());
            }
            let plain = |text: &str| text.matches('\n').count() - text.matches("\r\n").count();
            if text.contains("\r\n") {
                prop_assert_eq!(plain(&after), 0);
            }
            now = after;
        }
    }
}
