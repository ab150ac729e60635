//! Enums that the file writes as words.

use std::fmt;

use lb_common::{proto, vip};

/// An enum whose values are words in the configuration file.
pub(in crate::config) trait Word: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str;
}

macro_rules! words {
    (
        $(#[$meta:meta])*
        $visibility:vis $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// The words, in the order of the variants.
            $visibility const NAMES: &'static [&'static str] = &[$($word),+];
        }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// Where the XDP program runs.
    #[derive(Default)]
    pub XdpMode {
        /// In the driver; attaching fails where it can't.
        #[default]
        Native = "native",
        /// In the network stack: works with every driver, slower.
        Generic = "generic",
        /// In the driver if it can, else in the network stack, with an alert.
        Auto = "auto",
    }
}

words! {
    /// Protocol of a VIP.
    #[derive(PartialOrd, Ord, Hash)]
    pub Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

impl Protocol {
    /// The number in IP headers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }
}

words! {
    /// How packets are forwarded to the backends.
    pub Forward {
        /// Rewrites the destination MAC address.
        L2 = "l2",
        /// Adds an outer IP header.
        Ipip = "ipip",
        /// Rewrites source and destination address.
        Nat = "nat",
    }
}

impl Forward {
    /// The number in the VIP table.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::L2 => vip::forward::L2,
            Self::Ipip => vip::forward::IPIP,
            Self::Nat => vip::forward::NAT,
        }
    }
}

words! {
    /// What the flow hash is computed over.
    pub Affinity {
        /// The 5-tuple.
        Flow = "flow",
        /// The client's address.
        Source = "source",
    }
}

impl Affinity {
    /// The number in the VIP table.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Flow => vip::affinity::FLOW,
            Self::Source => vip::affinity::SOURCE,
        }
    }
}

words! {
    /// Which flows the tracking table holds.
    pub Track {
        /// Flows in slots whose backend changed.
        OnChange = "on-change",
        /// All flows.
        Always = "always",
        /// No flows.
        Never = "never",
    }
}

impl Track {
    /// The number in the VIP table.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::OnChange => vip::track::ON_CHANGE,
            Self::Always => vip::track::ALWAYS,
            Self::Never => vip::track::NEVER,
        }
    }
}

words! {
    /// What happens to packets over a limit.
    #[derive(Default)]
    pub OnExcess {
        /// They are dropped.
        #[default]
        Drop = "drop",
        /// They are counted, and pass.
        Count = "count",
        /// They are dropped, but a SYN passes if it is repeated.
        SecondSyn = "second_syn",
    }
}

words! {
    /// The path that health checks take.
    pub Via {
        /// The path of the VIP's traffic.
        Vip = "vip",
        /// Straight to the backend's address.
        Direct = "direct",
    }
}

words! {
    /// How VIPs are announced.
    #[derive(Default)]
    pub AnnounceVia {
        /// By BGP.
        #[default]
        Bgp = "bgp",
        /// As routes in a routing table of the kernel.
        Kernel = "kernel",
    }
}

words! {
    /// The operator's setting for a backend.
    #[derive(Default)]
    pub BackendState {
        /// Serves.
        #[default]
        Up = "up",
        /// Keeps its flows and gets no new ones.
        Drain = "drain",
        /// Gets no packets.
        Disabled = "disabled",
    }
}

words! {
    /// The protocol of a health check.
    pub(in crate::config) Kind {
        Tcp = "tcp",
        Http = "http",
        Https = "https",
        Udp = "udp",
        Exec = "exec",
    }
}
