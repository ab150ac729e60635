//! What is announced, and why.

use lb_api::{AddressState, AddressStatus, AnnounceStatus, DrainState, PeerStatus};

use jiff::SignedDuration;

use super::{
    View,
    figures::duration,
    paint::Tone,
    table::{Cell, Side, Table},
};

/// Peers and addresses.
pub(in crate::cli) fn status(view: View, status: &AnnounceStatus) -> String {
    let mut text = match status.drain {
        DrainState::No => String::new(),
        DrainState::Draining => "The node is being drained.\n\n".to_owned(),
        DrainState::Drained => {
            "The node is drained: `evenkeel node undrain` ends it.\n\n".to_owned()
        }
    };
    if let Some(kernel) = &status.kernel {
        let state = if kernel.in_sync {
            "in sync"
        } else {
            "not in sync"
        };
        text += &format!(
            "routing table {}: {} routes, {state}\n",
            kernel.table, kernel.routes
        );
        let restored = (kernel.restored > 0).then(|| {
            let times = kernel.restored;
            format!("somebody removed routes: {times} were made again")
        });
        let others = kernel.foreign.first().map(|first| {
            let number = kernel.foreign.len();
            format!("routes of others in the table: {number}, such as {first}")
        });
        for problem in kernel.last_error.iter().chain(&restored).chain(&others) {
            text += &format!("{}\n", view.wrap("  ", problem));
        }
    } else {
        text += &peers(view, &status.peers);
    }
    text.push('\n');
    for unmet in status.unmet() {
        text += &format!("{}\n", view.wrap("", &unmet));
    }
    if status.addresses.is_empty() {
        return text + "No address: the data path has no VIP that is to be announced.\n";
    }
    text + &addresses(view, &status.addresses)
}

fn peers(view: View, peers: &[PeerStatus]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "peer"),
        (Left, "address"),
        (Left, "state"),
        (Right, "for"),
        (Left, "BFD"),
        (Right, "routes"),
        (Right, "flaps"),
    ]);
    for peer in peers {
        let is_up = peer.is_up();
        let routes = if peer.acknowledged || !is_up {
            peer.routes_sent.to_string()
        } else {
            format!("{} (not acknowledged)", peer.routes_sent)
        };
        table.row([
            peer.name.as_str().into(),
            peer.address.to_string().into(),
            Cell::toned(if is_up { Tone::Good } else { Tone::Bad }, &*peer.state),
            seconds(peer.for_s).into(),
            peer.bfd.as_deref().unwrap_or("–").into(),
            routes.into(),
            peer.flaps.to_string().into(),
        ]);
        let error = peer.last_error.iter().filter(|_| !is_up);
        for problem in error.chain(&peer.problems) {
            table.note(problem);
        }
    }
    table.draw(view)
}

fn addresses(view: View, addresses: &[AddressStatus]) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        (Left, "address"),
        (Left, "announced"),
        (Right, "for"),
        (Left, "VIPs"),
    ])
    .shrinking(&[3]);
    for known in addresses {
        table.row([
            known.address.to_string().into(),
            state(known.state),
            seconds(known.for_s).into(),
            known.vips.join(", ").into(),
        ]);
        for check in known.checks.iter().filter(|check| !check.is_met) {
            table.note(format!("{}: {}", check.name, check.text));
        }
    }
    table.draw(view)
}

/// All conditions of an address.
pub(in crate::cli) fn address(view: View, known: &AddressStatus) -> String {
    let (word, _) = state(known.state).into_parts();
    let checks = known.checks.iter();
    let table = Table::of_checks(checks.map(|it| (it.is_met, &*it.name, &*it.text)));
    format!(
        "{}: announced: {word}, for {}\n{}",
        known.address,
        seconds(known.for_s),
        table.indented("  ").draw(view)
    )
}

fn seconds(length_s: f64) -> String {
    duration(SignedDuration::from_millis((length_s * 1000.0) as i64))
}

fn state(state: AddressState) -> Cell {
    match state {
        AddressState::Announced => Cell::toned(Tone::Good, "yes"),
        AddressState::Worse => Cell::toned(Tone::Warn, "as worse"),
        AddressState::Withheld => Cell::toned(Tone::Bad, "no"),
    }
}
