//! What the configuration says of announcing.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_announce::{Attributes, Bfd, Community, LargeCommunity, Password, Peer, Routes};
use lb_model::config::{Announce, AnnouncePeer, AnnounceVia, Config, VipAnnounce};

use super::{
    facts::{Service, Wanted},
    judge::Judge,
};
use crate::node::Announcement;

/// The MED of an address that other nodes are better for.
const WORST_MED: u32 = u32::MAX;

/// What nodes that are not the home of an address add to its MED.
const NOT_HOME_MED: u32 = 100;

/// The settings that are read again when the file is reloaded.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) announce: Announce,
    pub(super) peers: Vec<Peer>,
    pub(super) wanted: BTreeMap<Service, Wanted>,
    /// What VIPs add to the attributes of their addresses.
    vips: BTreeMap<IpAddr, VipAnnounce>,
    /// Addresses with a home, and whether that is another node.
    homes: BTreeMap<IpAddr, bool>,
    /// Interfaces that are to have the program.
    pub(super) interfaces: Vec<String>,
    pub(super) state_dir: PathBuf,
    pub(super) group: Option<String>,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Result<Self> {
        let announce = config.announce.clone();
        let announce = announce
            .context("the configuration has no table [announce]: nothing is to be announced")?;
        let peers = announce.peers.iter().map(|peer| peer_of(&announce, peer));
        let mut wanted = BTreeMap::new();
        let mut vips: BTreeMap<IpAddr, VipAnnounce> = BTreeMap::new();
        let mut homes = BTreeMap::new();
        let node = config.fleet.as_ref().map(|fleet| &fleet.node);
        for vip in &config.vips {
            let service = (vip.address, vip.port, vip.protocol.number());
            let options = Wanted {
                name: vip.name.clone(),
                is_enabled: vip.announce.enabled,
                min_up: vip.announce.min_up,
            };
            wanted.insert(service, options);
            if vip.announce.enabled {
                if let Some(home) = &vip.announce.home {
                    *homes.entry(vip.address).or_default() |= Some(home) != node;
                }
                let of_address = vips.entry(vip.address).or_default();
                of_address.communities.extend(&vip.announce.communities);
                of_address
                    .large_communities
                    .extend(&vip.announce.large_communities);
                of_address.med = of_address.med.max(vip.announce.med);
            }
        }
        let settings = Self {
            peers: peers.collect::<Result<_>>()?,
            announce,
            wanted,
            vips,
            homes,
            interfaces: config.node.interfaces.clone(),
            state_dir: config.node.state_dir.clone(),
            group: config.api.group.clone(),
        };
        for address in settings.vips.keys() {
            let attributes = settings.attributes(*address, Announcement::Worse);
            attributes
                .check()
                .with_context(|| format!("announce {address}"))?;
        }
        Ok(settings)
    }

    pub(super) const fn settle(&self) -> Duration {
        self.announce.settle
    }

    /// Fails if these settings can't replace others in a running process.
    pub(super) fn check_replaces(&self, before: &Self) -> Result<()> {
        let (new, old) = (&self.announce, &before.announce);
        ensure!(
            self.state_dir == before.state_dir
                && (new.via, &new.socket) == (old.via, &old.socket)
                && (new.via == AnnounceVia::Bgp
                    || (&new.device, new.table) == (&old.device, old.table)),
            "announce.via, announce.socket, announce.device, announce.table and node.state_dir are read at the start: restart \
             `evenkeel announce`"
        );
        Ok(())
    }

    /// The routes of what the judge lets be announced.
    pub(super) fn routes(&self, judge: &Judge) -> Routes {
        let announced = judge.addresses.iter();
        announced
            .filter(|(_, known)| known.announcement != Announcement::Withheld)
            .map(|(address, known)| (*address, self.attributes(*address, known.announcement)))
            .collect()
    }

    fn attributes(&self, address: IpAddr, announcement: Announcement) -> Attributes {
        let own = self.vips.get(&address).cloned().unwrap_or_default();
        let all = self.announce.communities.iter().chain(&own.communities);
        let mut communities: Vec<Community> = all.map(|it| Community(it.number())).collect();
        let all = self.announce.large_communities.iter();
        let mut large_communities: Vec<LargeCommunity> = all
            .chain(&own.large_communities)
            .map(|it| {
                let [global, first, second] = it.parts();
                LargeCommunity {
                    global,
                    local: [first, second],
                }
            })
            .collect();
        let is_worse = announcement == Announcement::Worse;
        if is_worse {
            communities.push(Community::GRACEFUL_SHUTDOWN);
        }
        // The well-known ones first: if there are too many, the last are not sent.
        communities.sort_unstable_by_key(|it| (it.0 < 0xffff_0000, it.0));
        communities.dedup();
        large_communities.sort_unstable();
        large_communities.dedup();
        let mut med = own.med.unwrap_or(self.announce.med);
        if let Some(is_elsewhere) = self.homes.get(&address) {
            med = med.min(WORST_MED - NOT_HOME_MED - 1);
            med += if *is_elsewhere { NOT_HOME_MED } else { 0 };
        }
        Attributes {
            communities,
            large_communities,
            med: Some(if is_worse { WORST_MED } else { med }),
            // The lowest, among peers of the own AS.
            local_pref: if is_worse {
                Some(0)
            } else {
                self.announce.local_pref
            },
            prepend: 0,
        }
    }
}

fn peer_of(announce: &Announce, peer: &AnnouncePeer) -> Result<Peer> {
    let password = peer.password.as_ref();
    let password =
        password.map(|password| Password::new(&String::from_utf8_lossy(password.bytes())));
    let peer = Peer {
        name: peer.name.clone(),
        address: peer.address,
        port: peer.port,
        remote_as: peer.peer_as,
        local_as: announce.local_as.context("announce.local_as is missing")?,
        router_id: announce
            .router_id
            .context("announce.router_id is missing")?,
        source: peer.source,
        hold_time: peer.hold_time,
        password: password.transpose()?,
        ttl_security: peer.ttl_security,
        multihop: peer.multihop,
        bfd: peer.bfd.then_some(Bfd {
            interval: peer.bfd_interval,
            multiplier: peer.bfd_multiplier,
        }),
        next_hop_v4: peer.next_hop_v4,
        next_hop_v6: peer.next_hop_v6,
    };
    peer.check()
        .with_context(|| format!("peer {}", peer.name))?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use lb_model::config;

    use super::*;

    /// Node lb-1 of a fleet, with VIPs of which one has no home.
    const FILE: &str = "
[node]
interfaces = [\"eth0\"]
hash_seed = \"000102030405060708090a0b0c0d0e0f\"

[announce]
via = \"kernel\"
med = 7

[fleet]
node = \"lb-1\"
endpoints = [\"https://10.0.0.1:2379\"]
ca_file = \"/etc/ca.pem\"
cert_file = \"/etc/etcd.pem\"
key_file = \"/etc/etcd-key.pem\"
";

    fn vip(number: u8, announce: &str) -> String {
        format!(
            "
[[vip]]
name = \"vip-{number}\"
address = \"203.0.113.{number}\"
port = 80
protocol = \"tcp\"
forward = \"l2\"
announce = {{ {announce} }}

[[vip.backend]]
name = \"b\"
address = \"10.0.1.1\"
"
        )
    }

    #[test]
    fn routers_prefer_the_home_of_an_address() {
        let text = [
            FILE.to_owned(),
            vip(1, ""),
            vip(2, "home = \"lb-1\""),
            vip(3, "home = \"lb-2\""),
            vip(4, "home = \"lb-2\", med = 4294967295"),
            vip(5, "home = \"lb-1\", med = 4294967295"),
            vip(6, "home = \"lb-2\", enabled = false"),
        ];
        let config = config::parse("f", &text.concat()).unwrap();
        let settings = Settings::of(&config).unwrap();
        let med = |number: u8, announcement| {
            let address = IpAddr::from([203, 0, 113, number]);
            settings.attributes(address, announcement).med
        };
        let full = [1, 2, 3, 4, 5, 6].map(|number| med(number, Announcement::Announced));
        let expected = [7, 7, 107, WORST_MED - 1, WORST_MED - 101, 7].map(Some);
        assert_eq!(full, expected);
        // Without a home, a node that is drained is still the last one.
        assert_eq!(med(2, Announcement::Worse), Some(WORST_MED));
    }
}
