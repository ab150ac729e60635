//! Changes of `[announce]` and its peers, as lines of a plan.

use crate::config::{Announce, AnnouncePeer, Changes, Effect};

pub(super) fn list_changes(
    changes: &mut Changes,
    before: Option<&Announce>,
    after: Option<&Announce>,
) {
    let (Some(before), Some(after)) = (before, after) else {
        let show = |announce: &Option<&Announce>| {
            announce.map_or_else(|| "none".to_owned(), |announce| announce.via.to_string())
        };
        noted(changes.below(""), |changes| {
            changes.add("announce", &before, &after, show);
        });
        return;
    };
    Announce::list_changes(changes.below("announce."), before, after);
    for peer in &before.peers {
        let same = after.peers.iter().find(|other| other.name == peer.name);
        list_peer_changes(changes, Some(peer), same);
    }
    for peer in &after.peers {
        if before.peers.iter().all(|other| other.name != peer.name) {
            list_peer_changes(changes, None, Some(peer));
        }
    }
}

fn list_peer_changes(
    changes: &mut Changes,
    before: Option<&AnnouncePeer>,
    after: Option<&AnnouncePeer>,
) {
    let Some(name) = before.or(after).map(|peer| &peer.name) else {
        return;
    };
    let (Some(before), Some(after)) = (before, after) else {
        let show = |peer: &Option<&AnnouncePeer>| {
            peer.map_or_else(
                || "none".to_owned(),
                |peer| format!("{}, AS {}", peer.address, peer.peer_as),
            )
        };
        let key = format!("announce.peer {name}");
        noted(changes.below(""), |changes| {
            changes.add(&key, &before, &after, show);
        });
        return;
    };
    AnnouncePeer::list_changes(
        changes.below(format!("announce.peer {name}: ")),
        before,
        after,
    );
    if before.password != after.password {
        let line = format!("announce.peer {name}: password: changed");
        noted(changes, |changes| changes.lines.push(line));
    }
}

/// Adds lines with the note about when they take effect.
fn noted(changes: &mut Changes, add: impl FnOnce(&mut Changes)) {
    let lines = changes.lines.len();
    add(changes);
    changes.note(Effect::Announcer, lines);
}
