//! The fleet: nodes, rollouts, revisions.

mod doctor;
mod peers;

use jiff::SignedDuration;
use lb_api::{
    FleetDiff, FleetExplanation, FleetNode, FleetNodeState, FleetPhase, FleetPlan, FleetRevision,
    FleetRevisionInfo, FleetRollout, FleetRolloutState, FleetState, FleetVerdictKind,
};
use lb_model::fleet::compose;

use super::{
    View,
    figures::{duration, moment},
    paint::{Paint, Tone},
    table::{Cell, Side, Table},
};
use crate::cli::diff::colored;
pub(in crate::cli) use doctor::doctor;

/// The fleet in one line, for the status of the node.
pub(super) fn line(view: View, state: &FleetState) -> String {
    let (word, tone) = node_state(state.state);
    let word = view.paint.apply(tone, word);
    let mut text = format!("fleet {}: {} is {word}", state.fleet, state.node);
    if let Some(confirmed) = &state.confirmed {
        text += &format!(", revision {}", confirmed.revision);
    }
    if let Some(rollout) = running(state) {
        text += &format!("; {}", progress(rollout));
    }
    if !state.connected {
        let lost = format!("; etcd does not answer{}", since_contact(state));
        text += &view.paint.apply(Tone::Warn, &lost);
    }
    text.push('\n');
    if !state.reason.is_empty() {
        text += &view.wrap("  ", &state.reason);
        text.push('\n');
    }
    text
}

fn running(state: &FleetState) -> Option<&FleetRollout> {
    state.rollout.as_ref().filter(|it| !it.state.is_over())
}

fn since_contact(state: &FleetState) -> String {
    match state.contact_age_s {
        Some(age_s) => format!(" for {}", seconds(age_s)),
        None => " since the start".to_owned(),
    }
}

/// The fleet with rollout and nodes.
pub(in crate::cli) fn status(view: View, state: &FleetState) -> String {
    let name = view.paint.apply(Tone::Strong, &state.fleet);
    let mut text = format!("fleet {name}");
    match &state.head {
        Some(head) => text += &format!("  head is revision {}", head.revision),
        None => text += "  no head known",
    }
    match &state.leader {
        Some(leader) => text += &format!(", leader {leader}\n"),
        None => text += ", no leader\n",
    }
    if !state.connected {
        let error = state.last_error.as_deref().unwrap_or("unknown error");
        let lost = format!("etcd does not answer{}: {error}", since_contact(state));
        text += &view.paint.apply(Tone::Warn, &view.wrap("", &lost));
        text += "\nThis node keeps its VIPs and forwards; below is what it last read from etcd.\n";
    }
    if let Some(error) = state.last_error.as_deref().filter(|_| state.connected) {
        let failing = format!("requests to etcd fail: {error}");
        text += &view.paint.apply(Tone::Warn, &view.wrap("", &failing));
        text.push('\n');
    }
    let (word, tone) = node_state(state.state);
    text += &format!(
        "this node, {}, is {}",
        state.node,
        view.paint.apply(tone, word)
    );
    if let Some(confirmed) = &state.confirmed {
        text += &format!(", and confirmed revision {}", confirmed.revision);
    }
    text.push('\n');
    if !state.reason.is_empty() {
        text += &format!("{}\n", view.wrap("  ", &state.reason));
    }
    if let Some(rollout) = &state.rollout {
        text += &format!("\n{}", self::rollout(view, rollout));
    }
    if !state.nodes.is_empty() {
        text += &format!("\n{}", nodes(view, &state.nodes));
    }
    if let Some(exchange) = &state.exchange {
        text += &format!("\n{}", peers::exchange(view, exchange));
    }
    if let Some(health) = &state.health {
        text += &format!("\n{}", peers::health(view, health));
    }
    text
}

/// A rollout with its waves and what nodes reported.
fn rollout(view: View, rollout: &FleetRollout) -> String {
    let (word, tone) = rollout_state(rollout.state);
    let mut text = format!(
        "rollout of revision {} (from {}): {}",
        rollout.revision,
        rollout.parent,
        view.paint.apply(tone, word)
    );
    if let Some(who) = &rollout.paused {
        text += &view.paint.apply(Tone::Warn, &format!(", paused by {who}"));
    }
    text += &format!(
        ", begun {}, bake {}\n",
        moment(rollout.started),
        seconds(rollout.bake_s.into())
    );
    if !rollout.reason.is_empty() {
        text += &format!("{}\n", view.wrap("  ", &rollout.reason));
    }
    if !rollout.absent.is_empty() {
        let absent = rollout.absent.join(", ");
        let line = format!("away: {absent}; they take the head when they are back");
        text += &format!("{}\n", view.wrap("  ", &line));
    }
    text += &waves(view, rollout);
    let odd = rollout.results.iter().filter(|it| !it.reason.is_empty());
    for result in odd {
        let (word, tone) = phase(result.phase);
        let line = format!("{}: {word}: {}", result.node, result.reason);
        text += &format!(
            "{}\n",
            view.paint.apply(tone, &view.hang("  ", "    ", &line))
        );
    }
    text
}

fn waves(view: View, rollout: &FleetRollout) -> String {
    if rollout.waves.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        (Side::Right, "wave"),
        (Side::Left, "verdict"),
        (Side::Left, "nodes"),
    ])
    .shrinking(&[2])
    .indented("  ");
    for (index, wave) in rollout.waves.iter().enumerate() {
        let verdict = match &wave.verdict {
            Some(verdict) => verdict_cell(verdict.kind),
            None if index == rollout.position && rollout.state == FleetRolloutState::Wave => {
                Cell::toned(Tone::Warn, "on trial")
            }
            None => Cell::toned(Tone::Faint, "–"),
        };
        table.row([
            (index + 1).to_string().into(),
            verdict,
            wave.nodes.join(", ").into(),
        ]);
        if let Some(verdict) = wave.verdict.as_ref().filter(|it| !it.detail.is_empty()) {
            table.note(verdict.detail.as_str());
        }
    }
    table.draw(view)
}

/// The nodes.
pub(in crate::cli) fn nodes(view: View, nodes: &[FleetNode]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "node"),
        (Left, "rack"),
        (Left, "state"),
        (Right, "revision"),
        (Left, "version"),
    ]);
    for node in nodes {
        let (word, tone) = node_state(node.state);
        let revision = node.revision.map(|number| number.to_string());
        table.row([
            node.node.as_str().into(),
            node.rack.as_deref().unwrap_or("–").into(),
            Cell::toned(tone, word),
            revision.as_deref().unwrap_or("–").into(),
            node.version.as_deref().unwrap_or("–").into(),
        ]);
        if !node.reason.is_empty() {
            table.note(node.reason.as_str());
        }
    }
    table.draw(view)
}

/// What the nodes would do with a packet.
pub(in crate::cli) fn explanation(view: View, explained: &FleetExplanation) -> String {
    use Side::Left;
    let mut table = Table::new(&[(Left, "node"), (Left, "verdict"), (Left, "backend")]);
    for node in &explained.nodes {
        let Some(explanation) = &node.explanation else {
            table.row([node.node.as_str().into(), "–".into(), "–".into()]);
            table.note(node.error.as_deref().unwrap_or_default());
            continue;
        };
        let backend = match (&explanation.vip, &explanation.backend) {
            (Some(vip), Some(backend)) => format!("{vip}/{backend}"),
            _ => format!("– ({})", explanation.reason),
        };
        table.row([
            node.node.as_str().into(),
            explanation.verdict.as_str().into(),
            backend.as_str().into(),
        ]);
    }
    let answers = explained.nodes.iter();
    let answers = answers.filter_map(|node| node.explanation.as_ref());
    let flow = answers.clone().next().map(|first| first.flow.as_str());
    let mut text = format!("{}\n{}", flow.unwrap_or_default(), table.draw(view));
    if !explained.absent.is_empty() {
        text += &format!("away: {}\n", explained.absent.join(", "));
    }
    let verdict = match (explained.agree, answers.count()) {
        (_, 0) => view.paint.apply(Tone::Bad, "no node has answered"),
        (true, 1) => view.paint.apply(Tone::Plain, "one node has answered"),
        (true, count) => view
            .paint
            .apply(Tone::Good, &format!("{count} nodes agree")),
        (false, _) => view.paint.apply(
            Tone::Bad,
            "nodes disagree: `evenkeel explain` on each of them shows the steps",
        ),
    };
    text + &format!("{verdict}\n")
}

/// The state of this node after it joined.
pub(in crate::cli) fn joined(view: View, state: &FleetState) -> String {
    format!("joined the fleet {}\n{}", state.fleet, line(view, state))
}

/// Progress of a rollout in one line.
pub(in crate::cli) fn progress(rollout: &FleetRollout) -> String {
    let number = rollout.revision;
    let paused = match &rollout.paused {
        Some(who) => format!(" (paused by {who})"),
        None => String::new(),
    };
    let text = match rollout.state {
        FleetRolloutState::Written => "waits for the leader".to_owned(),
        FleetRolloutState::Preflight => {
            let planned = rollout.results.iter();
            let planned = planned.filter(|result| result.phase == FleetPhase::Planned);
            format!("is in preflight: {} nodes have answered", planned.count())
        }
        FleetRolloutState::Wave => {
            let nodes = rollout.waves.get(rollout.position);
            let nodes = nodes.map_or_else(String::new, |wave| wave.nodes.join(", "));
            let what = if rollout.position == 0 && rollout.waves.len() > 1 {
                "canary".to_owned()
            } else {
                format!("wave {} of {}", rollout.position + 1, rollout.waves.len())
            };
            format!("is on trial: {what} ({nodes})")
        }
        FleetRolloutState::AwaitingConfirm => "awaits `evenkeel fleet confirm`".to_owned(),
        FleetRolloutState::Confirmed => "is confirmed".to_owned(),
        FleetRolloutState::Failed => format!("failed and is being undone: {}", rollout.reason),
        FleetRolloutState::Undone => format!("was undone: {}", rollout.reason),
    };
    format!("rollout of revision {number} {text}{paused}")
}

/// The end of a rollout.
pub(in crate::cli) fn outcome(view: View, rollout: &FleetRollout) -> String {
    let number = rollout.revision;
    let mut text = waves(view, rollout);
    let (word, tone) = rollout_state(rollout.state);
    let word = view.paint.apply(tone, word);
    text += &match rollout.state {
        FleetRolloutState::Confirmed => {
            let nodes: usize = rollout.waves.iter().map(|wave| wave.nodes.len()).sum();
            format!("revision {number} is {word} and runs on {nodes} nodes\n")
        }
        _ if rollout.reason.is_empty() => format!("rollout of revision {number}: {word}\n"),
        _ => format!("rollout of revision {number}: {word}: {}\n", rollout.reason),
    };
    if !rollout.absent.is_empty() {
        let absent = rollout.absent.join(", ");
        text += &format!("away: {absent}; they take the head when they are back\n");
    }
    text
}

/// What the nodes say about a plan.
pub(in crate::cli) fn refusals(view: View, plan: &FleetPlan) -> String {
    let refused = plan.nodes.iter().filter(|node| node.refusal.is_some());
    let count = refused.clone().count();
    let mut text = format!("\nfleet: based on revision {}", plan.base);
    text += &match count {
        0 => format!("; {} nodes would take it\n", plan.nodes.len()),
        _ => format!("; {count} of {} nodes refuse it\n", plan.nodes.len()),
    };
    for node in refused {
        let why = node.refusal.as_deref().unwrap_or_default();
        let line = view.hang("  ", "    ", &format!("{}: {why}", node.node));
        text += &format!("{}\n", view.paint.apply(Tone::Bad, &line));
    }
    if !plan.absent.is_empty() {
        text += &format!("  away, not asked: {}\n", plan.absent.join(", "));
    }
    text
}

/// All fleet revisions, as they are sorted.
pub(in crate::cli) fn history(view: View, revisions: &[FleetRevisionInfo]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Right, "rev"),
        (Left, "when"),
        (Left, "result"),
        (Left, "node"),
        (Left, "who"),
    ])
    .shrinking(&[4]);
    for revision in revisions {
        table.row([
            revision.number.to_string().into(),
            moment(revision.at).into(),
            result(revision),
            revision.node.as_str().into(),
            revision.author.as_str().into(),
        ]);
        let detail = revision
            .outcome
            .iter()
            .map(|outcome| outcome.detail.clone());
        for note in detail.filter(|detail| !detail.is_empty()) {
            table.note(note);
        }
        if let Some(why) = &revision.why {
            table.note(format!("why: {why}"));
        }
    }
    table.draw(view)
}

fn result(revision: &FleetRevisionInfo) -> Cell {
    match &revision.outcome {
        None => Cell::toned(Tone::Warn, "being rolled out"),
        Some(outcome) if outcome.confirmed => Cell::toned(Tone::Good, "confirmed"),
        Some(_) => Cell::toned(Tone::Bad, "undone"),
    }
}

/// A fleet revision as a file: the details are comments, and the text is below them byte by byte.
pub(in crate::cli) fn revision(revision: &FleetRevision) -> String {
    let details = details(&revision.info);
    let comments = details.lines().map(|line| {
        let line = line.replace(char::is_control, " ");
        format!("# {}\n", line.trim_end())
    });
    let comments: String = comments.collect();
    let file = compose(&comments, &revision.text);
    // A text that is not only VIPs is shown nevertheless.
    file.unwrap_or_else(|_| comments + &revision.text)
}

fn details(revision: &FleetRevisionInfo) -> String {
    let view = View {
        paint: Paint::PLAIN,
        width: None,
    };
    let mut table = Table::new(&[(Side::Left, ""), (Side::Left, "")]);
    let mut row = |name: &str, value: Cell| table.row([Cell::toned(Tone::Faint, name), value]);
    row("revision", revision.number.to_string().into());
    let parent = revision.parent.map_or("–".into(), |it| it.to_string());
    row("parent", parent.into());
    row("when", moment(revision.at).into());
    row("who", revision.author.as_str().into());
    row("node", revision.node.as_str().into());
    row("result", result(revision));
    if let Some(outcome) = &revision.outcome {
        row("", outcome.detail.as_str().into());
    }
    if let Some(why) = &revision.why {
        row("why", why.as_str().into());
    }
    // As many digits as identify it: more count as a secret if they get into the text.
    let digest: String = revision.digest.chars().take(16).collect();
    row("digest", digest.into());
    table.draw(view)
}

/// The difference of two fleet revisions.
pub(in crate::cli) fn diff(view: View, diff: &FleetDiff) -> String {
    if diff.unified.is_empty() {
        return format!(
            "fleet revisions {} and {} are identical\n",
            diff.from, diff.to
        );
    }
    colored(view, &diff.unified)
}

fn seconds(length_s: f64) -> String {
    duration(SignedDuration::from_millis((length_s * 1000.0) as i64))
}

const fn node_state(state: FleetNodeState) -> (&'static str, Tone) {
    match state {
        FleetNodeState::NotJoined => ("not joined", Tone::Warn),
        FleetNodeState::InSync => ("in sync", Tone::Good),
        FleetNodeState::OnTrial => ("on trial", Tone::Warn),
        FleetNodeState::Behind => ("behind", Tone::Warn),
        FleetNodeState::Differs => ("changed locally", Tone::Warn),
        FleetNodeState::Refused => ("refused", Tone::Bad),
        FleetNodeState::Away => ("away", Tone::Bad),
    }
}

const fn rollout_state(state: FleetRolloutState) -> (&'static str, Tone) {
    match state {
        FleetRolloutState::Written => ("written", Tone::Plain),
        FleetRolloutState::Preflight => ("preflight", Tone::Plain),
        FleetRolloutState::Wave => ("on trial", Tone::Warn),
        FleetRolloutState::AwaitingConfirm => ("awaiting confirmation", Tone::Warn),
        FleetRolloutState::Confirmed => ("confirmed", Tone::Good),
        FleetRolloutState::Failed => ("failed, being undone", Tone::Bad),
        FleetRolloutState::Undone => ("undone", Tone::Bad),
    }
}

const fn phase(phase: FleetPhase) -> (&'static str, Tone) {
    match phase {
        FleetPhase::Planned => ("planned", Tone::Plain),
        FleetPhase::Refused => ("refused", Tone::Bad),
        FleetPhase::Baking => ("baking", Tone::Warn),
        FleetPhase::Baked => ("passed bake", Tone::Good),
        FleetPhase::Failed => ("failed", Tone::Bad),
        FleetPhase::Undone => ("undone", Tone::Warn),
    }
}

fn verdict_cell(kind: FleetVerdictKind) -> Cell {
    match kind {
        FleetVerdictKind::Passed => Cell::toned(Tone::Good, "passed"),
        FleetVerdictKind::Unseen => Cell::toned(Tone::Warn, "passed unseen"),
        FleetVerdictKind::Alone => Cell::toned(Tone::Good, "passed alone"),
        FleetVerdictKind::Failed => Cell::toned(Tone::Bad, "failed"),
    }
}
