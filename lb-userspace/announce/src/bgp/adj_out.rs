//! What one peer has been sent, and what it must be sent next (Adj-RIB-Out).
//!
//! No messages are queued. Whenever the connection can take bytes, the next message is derived from the
//! newest desired routes, so a slow peer never delays a withdrawal behind outdated announcements.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::message::{Family, PathContext, announce, end_of_rib, withdraw};
use crate::routes::{Attributes, Routes};

/// Routes of an established session.
#[derive(Debug)]
pub(crate) struct AdjOut {
    path: PathContext,
    families: Vec<Family>,
    sent: BTreeMap<IpAddr, Attributes>,
    /// Sent, but requested again by the peer.
    stale: BTreeSet<IpAddr>,
    withdrawals: BTreeSet<IpAddr>,
    announcements: BTreeMap<(Family, Attributes), BTreeSet<IpAddr>>,
    /// Families whose first full set is not yet complete.
    initial: Vec<Family>,
}

impl AdjOut {
    /// Starts with nothing sent. Routes of other families are never sent.
    pub(crate) fn new(path: PathContext, families: Vec<Family>, desired: &Routes) -> Self {
        let mut new = Self {
            path,
            initial: families.clone(),
            families,
            sent: BTreeMap::new(),
            stale: BTreeSet::new(),
            withdrawals: BTreeSet::new(),
            announcements: BTreeMap::new(),
        };
        new.set(desired);
        new
    }

    /// Replaces the desired routes. What was not sent yet of earlier ones is forgotten.
    pub(crate) fn set(&mut self, desired: &Routes) {
        let gone = self.sent.keys().filter(|it| !desired.contains_key(it));
        self.withdrawals = gone.copied().collect();
        self.announcements.clear();
        for (address, attributes) in desired {
            let family = family_of(*address);
            let current = self.sent.get(address) == Some(attributes);
            if self.families.contains(&family) && (!current || self.stale.contains(address)) {
                let key = (family, attributes.clone());
                self.announcements.entry(key).or_default().insert(*address);
            }
        }
    }

    /// Sends all routes of a family again (RFC 2918).
    pub(crate) fn refresh(&mut self, family: Family, desired: &Routes) {
        let sent = self.sent.keys().copied();
        self.stale
            .extend(sent.filter(|it| family_of(*it) == family));
        self.set(desired);
    }

    /// Returns the next message: withdrawals first, then announcements, then End-of-RIB.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(first) = self.withdrawals.first() {
            let family = family_of(*first);
            return Some(self.next_withdrawal(family));
        }
        self.next_announcement()
            .or_else(|| self.initial.pop().map(end_of_rib))
    }

    fn next_withdrawal(&mut self, family: Family) -> Vec<u8> {
        let mut addresses = of_family(&self.withdrawals, family).peekable();
        let message = withdraw(family, &mut addresses);
        let left = addresses.peek().copied();
        drop(addresses);
        for address in before(&self.withdrawals, family, left) {
            self.withdrawals.remove(&address);
            self.stale.remove(&address);
            self.sent.remove(&address);
        }
        message
    }

    fn next_announcement(&mut self) -> Option<Vec<u8>> {
        let mut entry = self.announcements.first_entry()?;
        let (family, attributes) = entry.key().clone();
        let mut addresses = of_family(entry.get(), family).peekable();
        let message = announce(family, &self.path, &attributes, &mut addresses);
        let left = addresses.peek().copied();
        drop(addresses);
        for address in before(entry.get(), family, left) {
            entry.get_mut().remove(&address);
            self.stale.remove(&address);
            self.sent.insert(address, attributes.clone());
        }
        if entry.get().is_empty() {
            entry.remove();
        }
        Some(message)
    }

    /// Whether nothing is left to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.withdrawals.is_empty() && self.announcements.is_empty() && self.initial.is_empty()
    }

    /// Number of routes that the peer has been sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }
}

/// Returns the addresses of a family, which must be the first of the set. IPv4 sorts before IPv6.
fn of_family(set: &BTreeSet<IpAddr>, family: Family) -> impl Iterator<Item = IpAddr> {
    let addresses = set.iter().copied();
    addresses.take_while(move |it| family_of(*it) == family)
}

/// Returns those before the first that did not fit into a message. Only these are visited, so that a
/// large set does not cost its size for each message.
fn before(set: &BTreeSet<IpAddr>, family: Family, left: Option<IpAddr>) -> Vec<IpAddr> {
    let addresses = of_family(set, family);
    addresses.take_while(|it| Some(*it) != left).collect()
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

#[cfg(test)]
mod tests;
