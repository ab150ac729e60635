//! How routes get to routers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use lb_announce::{KernelRoutes, KernelStatus, Peer, PeerStatus, Routes, Speaker};
use lb_model::config::AnnounceVia;
use nix::net::if_::if_nametoindex;

use super::settings::Settings;

pub(super) enum Via {
    Bgp(Speaker),
    /// With the name of its device.
    Kernel(KernelRoutes, String),
}

/// State of what routes are given to.
#[derive(Clone, Debug)]
pub(super) enum ViaState {
    Bgp(Vec<PeerStatus>),
    Kernel(KernelStatus),
}

impl Via {
    pub(super) async fn start(settings: &Settings) -> Result<Self> {
        let announce = &settings.announce;
        Ok(match announce.via {
            AnnounceVia::Bgp => Self::Bgp(Speaker::start(settings.peers.clone())),
            AnnounceVia::Kernel => {
                let routes = KernelRoutes::start(&announce.device, announce.table).await?;
                Self::Kernel(routes, announce.device.clone())
            }
        })
    }

    /// Fails if routes can't be announced any more: the next start makes the device again.
    pub(super) fn check(&self) -> Result<()> {
        if let Self::Kernel(_, device) = self {
            if_nametoindex(&**device).with_context(|| {
                format!("interface {device} was removed: all addresses are withdrawn")
            })?;
        }
        Ok(())
    }

    pub(super) fn state(&self) -> ViaState {
        match self {
            Self::Bgp(speaker) => ViaState::Bgp(speaker.status()),
            Self::Kernel(kernel, _) => ViaState::Kernel(kernel.status()),
        }
    }

    /// Host routes of others in the table of the kernel.
    pub(super) fn foreign(&self) -> Option<Arc<BTreeMap<IpAddr, String>>> {
        match self {
            Self::Bgp(_) => None,
            Self::Kernel(kernel, _) => Some(kernel.status().foreign),
        }
    }

    pub(super) fn announce(&self, routes: Arc<Routes>) {
        match self {
            Self::Bgp(speaker) => speaker.announce(routes),
            Self::Kernel(kernel, _) => kernel.announce(routes),
        }
    }

    pub(super) fn set_peers(&self, peers: &[Peer]) {
        if let Self::Bgp(speaker) = self {
            speaker.set_peers(peers.to_vec());
        }
    }

    pub(super) async fn withdraw_and_stop(self, limit: Duration) {
        match self {
            Self::Bgp(speaker) => speaker.withdraw_and_stop(limit).await,
            Self::Kernel(kernel, _) => kernel.withdraw_and_stop(limit).await,
        }
    }
}
