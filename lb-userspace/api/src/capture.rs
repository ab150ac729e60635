//! Packet capture and sampled flows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which packets to capture. A packet must meet all conditions that are given; of a list, one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Names of VIPs.
    #[serde(default)]
    pub vips: Vec<String>,
    /// Backends: `VIP/BACKEND`, or `BACKEND` for the backend in any VIP.
    #[serde(default)]
    pub backends: Vec<String>,
    /// Names of reasons, as in the status: `NO_MEMBER`.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// XDP verdicts: `tx`, `redirect`, `pass`, `drop`.
    #[serde(default)]
    pub verdicts: Vec<String>,
    /// A flow or parts of it: `tcp 198.51.100.7:40000 > 203.0.113.10:443`, `198.51.100.7 >`, `> :443`.
    #[serde(default)]
    pub flow: Option<String>,
    /// Prefix of source addresses: `198.51.100.0/24`.
    #[serde(default)]
    pub source: Option<String>,
    /// Frames to capture of each packet.
    #[serde(default)]
    pub side: CaptureSide,
    /// Ends the capture after so many seconds.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub for_s: Option<u32>,
    /// Ends the capture after so many packets.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub count: Option<u64>,
    /// Bytes to capture of each frame; 128 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2048)]
    pub snap: Option<u32>,
    /// Maximum number of packets per second and CPU; 200,000 by default.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub rate: Option<u32>,
}

/// Frames of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaptureSide {
    /// As received.
    In,
    /// As transmitted.
    Out,
    /// Both.
    #[default]
    Both,
}

/// A flow that the data path samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SampledFlow {
    /// `tcp 198.51.100.7:40000 > 203.0.113.10:443`
    pub flow: String,
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend that the last packet was sent to.
    pub backend: String,
    /// Packets from the client.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// TCP packets with SYN and without ACK.
    pub syns: u32,
    /// TCP packets with RST.
    pub resets: u32,
    /// Time since the first packet, in the data path's seconds: 0.85 to 1.28 s, depending on the kernel's
    /// tick rate.
    pub age_s: u32,
    /// Time since the last packet, in the same seconds.
    pub idle_s: u32,
}
