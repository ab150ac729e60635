//! The metrics of announcing.

use lb_api::{AddressState, AnnounceStatus, DrainState};

use super::{Snapshot, family::*, page::Page, render::flag};
use crate::announcer::CONDITIONS;

pub(super) fn families(page: &mut Page, snapshot: &Snapshot) {
    let Some(announcing) = &snapshot.state.announcing else {
        return;
    };
    page.single(ANNOUNCER_UP, flag(announcing.answer.is_ok()));
    if let Ok(status) = &announcing.answer {
        addresses(page, status);
        sessions(page, status);
        if let Some(kernel) = &status.kernel {
            page.single(ANNOUNCE_TABLE, flag(kernel.in_sync));
        }
    }
}

fn addresses(page: &mut Page, status: &AnnounceStatus) {
    page.family(ANNOUNCE_DRAIN, |s| {
        for (name, state) in [
            ("no", DrainState::No),
            ("draining", DrainState::Draining),
            ("drained", DrainState::Drained),
        ] {
            s.add(&[name], flag(status.drain == state));
        }
    });
    let names: Vec<String> = status
        .addresses
        .iter()
        .map(|it| it.address.to_string())
        .collect();
    page.family(ANNOUNCE_ADDRESS, |s| {
        for (known, name) in status.addresses.iter().zip(&names) {
            for (word, state) in [
                ("announced", AddressState::Announced),
                ("worse", AddressState::Worse),
                ("withheld", AddressState::Withheld),
            ] {
                s.add(&[name, word], flag(known.state == state));
            }
        }
    });
    page.family(ANNOUNCE_ADDRESS_AGE, |s| {
        for (known, name) in status.addresses.iter().zip(&names) {
            s.add(&[name], known.for_s.floor());
        }
    });
    page.family(ANNOUNCE_UNMET, |s| {
        for condition in CONDITIONS {
            let lacks = status.addresses.iter().filter(|known| {
                let mut checks = known.checks.iter();
                checks.any(|check| check.name == condition && !check.is_met)
            });
            s.add(&[condition], lacks.count() as f64);
        }
    });
}

fn sessions(page: &mut Page, status: &AnnounceStatus) {
    let mut each = |family, value: fn(&lb_api::PeerStatus) -> f64| {
        page.family(family, |s| {
            for peer in &status.peers {
                s.add(&[&peer.name], value(peer));
            }
        });
    };
    each(ANNOUNCE_SESSION, |peer| flag(peer.is_up()));
    each(ANNOUNCE_SESSION_AGE, |peer| peer.for_s.floor());
    each(ANNOUNCE_FLAPS, |peer| peer.flaps as f64);
    each(ANNOUNCE_ROUTES, |peer| peer.routes_sent as f64);
}
