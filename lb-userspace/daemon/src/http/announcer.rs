//! The client of the announcer's socket.

use std::{path::PathBuf, time::Duration};

use lb_api::{
    AddressState, AddressStatus, AnnounceCheck, AnnounceStatus, DrainState, PeerStatus,
    client::Client,
};

use crate::node::{
    Announced, AnnouncedAddress, Announcement, BgpSession, DrainPhase, RouteTable, Unmet,
};

/// Asks what is announced. The error says why there is no answer.
pub(crate) async fn ask(socket: PathBuf, limit: Duration) -> Result<Announced, String> {
    let client = Client::new(socket).with_timeout(limit);
    let status = client.announce_problems().await;
    status.map_or_else(|error| Err(error.of_announcer()), |it| Ok(it.into()))
}

impl From<AnnounceStatus> for Announced {
    fn from(status: AnnounceStatus) -> Self {
        let table = status.kernel.map(|table| RouteTable {
            number: table.table,
            in_sync: table.in_sync,
            last_error: table.last_error,
        });
        let addresses = status.addresses.into_iter();
        Self {
            drain: match status.drain {
                DrainState::No => DrainPhase::No,
                DrainState::Draining => DrainPhase::Draining,
                DrainState::Drained => DrainPhase::Drained,
            },
            sessions: status.peers.into_iter().map(Into::into).collect(),
            table,
            unmet: unmet(&status.checks).map(Into::into).collect(),
            addresses: addresses.map(Into::into).collect(),
        }
    }
}

fn unmet(checks: &[AnnounceCheck]) -> impl Iterator<Item = &AnnounceCheck> {
    checks.iter().filter(|check| !check.is_met)
}

impl From<&AnnounceCheck> for Unmet {
    fn from(check: &AnnounceCheck) -> Self {
        Self {
            name: check.name.clone(),
            text: check.text.clone(),
        }
    }
}

impl From<PeerStatus> for BgpSession {
    fn from(peer: PeerStatus) -> Self {
        Self {
            is_up: peer.is_up(),
            peer: peer.name,
            address: peer.address,
            state: peer.state,
            for_s: peer.for_s,
            last_error: peer.last_error,
            flaps: peer.flaps,
            routes_sent: peer.routes_sent,
            problems: peer.problems,
        }
    }
}

impl From<AddressStatus> for AnnouncedAddress {
    fn from(known: AddressStatus) -> Self {
        let names = unmet(&known.checks).map(|check| check.name.clone());
        Self {
            address: known.address,
            state: match known.state {
                AddressState::Withheld => Announcement::Withheld,
                AddressState::Worse => Announcement::Worse,
                AddressState::Announced => Announcement::Announced,
            },
            for_s: known.for_s,
            unmet: names.collect(),
            reason: known.reason().map(Into::into),
            waits: known.waits(),
            vips: known.vips,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, is_met: bool) -> AnnounceCheck {
        AnnounceCheck {
            name: name.to_owned(),
            is_met,
            text: format!("text of {name}"),
        }
    }

    #[test]
    fn an_address_keeps_what_is_missing_and_what_matters_most() {
        let address = |state, checks| {
            AnnouncedAddress::from(AddressStatus {
                address: [203, 0, 113, 1].into(),
                state,
                for_s: 1.0,
                vips: vec!["vip".to_owned()],
                checks,
            })
        };
        let checks = ["settled", "forwards"].map(|name| check(name, false));
        let checks = [&checks[..], &[check("linked", true)]].concat();
        let withheld = address(AddressState::Withheld, checks.clone());
        assert_eq!(withheld.unmet, ["settled", "forwards"]);
        let reason = withheld.reason.unwrap().to_string();
        assert_eq!(reason, "forwards: text of forwards");
        assert!(!withheld.waits);
        assert!(address(AddressState::Withheld, checks[..1].to_vec()).waits);
        assert_eq!(address(AddressState::Announced, checks).reason, None);
    }
}
