//! The metrics of announcing.

use super::{Snapshot, family::*, page::Page, render::flag};
use crate::{
    announcer::CONDITIONS,
    node::{Announced, Announcement, BgpSession, DrainPhase},
};

pub(super) fn families(page: &mut Page, snapshot: &Snapshot) {
    let Some(announcing) = &snapshot.state.announcing else {
        return;
    };
    page.single(ANNOUNCER_UP, flag(announcing.answer.is_ok()));
    if let Ok(answer) = &announcing.answer {
        addresses(page, answer);
        sessions(page, answer);
        if let Some(table) = &answer.table {
            page.single(ANNOUNCE_TABLE, flag(table.in_sync));
        }
    }
}

fn addresses(page: &mut Page, answer: &Announced) {
    page.family(ANNOUNCE_DRAIN, |s| {
        for (name, state) in [
            ("no", DrainPhase::No),
            ("draining", DrainPhase::Draining),
            ("drained", DrainPhase::Drained),
        ] {
            s.add(&[name], flag(answer.drain == state));
        }
    });
    let names: Vec<String> = answer
        .addresses
        .iter()
        .map(|it| it.address.to_string())
        .collect();
    page.family(ANNOUNCE_ADDRESS, |s| {
        for (known, name) in answer.addresses.iter().zip(&names) {
            for (word, state) in [
                ("announced", Announcement::Announced),
                ("worse", Announcement::Worse),
                ("withheld", Announcement::Withheld),
            ] {
                s.add(&[name, word], flag(known.state == state));
            }
        }
    });
    page.family(ANNOUNCE_ADDRESS_AGE, |s| {
        for (known, name) in answer.addresses.iter().zip(&names) {
            s.add(&[name], known.for_s.floor());
        }
    });
    page.family(ANNOUNCE_UNMET, |s| {
        for condition in CONDITIONS {
            let lacks = answer.addresses.iter().filter(|known| {
                let mut unmet = known.unmet.iter();
                unmet.any(|name| name == condition)
            });
            s.add(&[condition], lacks.count() as f64);
        }
    });
}

fn sessions(page: &mut Page, answer: &Announced) {
    let mut each = |family, value: fn(&BgpSession) -> f64| {
        page.family(family, |s| {
            for session in &answer.sessions {
                s.add(&[&session.peer], value(session));
            }
        });
    };
    each(ANNOUNCE_SESSION, |session| flag(session.is_up));
    each(ANNOUNCE_SESSION_AGE, |session| session.for_s.floor());
    each(ANNOUNCE_FLAPS, |session| session.flaps as f64);
    each(ANNOUNCE_ROUTES, |session| session.routes_sent as f64);
}
