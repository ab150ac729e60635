//! What nodes tell each other: frames of a length (4 bytes, big-endian) and a protobuf message.

use std::net::IpAddr;

use prost::Message;

/// Version of the protocol. Nodes of different versions do not talk.
pub(super) const VERSION: u32 = 1;

/// Largest frame.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Cells of one update, and slots in it, of five bytes at most; so a frame stays below [`MAX_BYTES`].
const CELLS: usize = 1 << 16;
const SLOTS: usize = 1 << 18;

/// The first frame of a node that asks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(string, tag = "2")]
    pub(super) fleet: String,
    #[prost(string, tag = "3")]
    pub(super) node: String,
    #[prost(uint32, tag = "4")]
    pub(super) abi: u32,
    #[prost(string, tag = "5")]
    pub(super) seed_fingerprint: String,
    /// Buckets of the tracking table.
    #[prost(uint32, tag = "6")]
    pub(super) buckets: u32,
}

impl Hello {
    /// Why nodes can't share what they know; none if they can.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        if self.version != other.version || self.abi != other.abi {
            return Some("they run different versions of Evenkeel".to_owned());
        }
        if self.fleet != other.fleet {
            return Some(format!(
                "they are of the fleets {} and {}",
                self.fleet, other.fleet
            ));
        }
        if self.seed_fingerprint != other.seed_fingerprint {
            return Some("they have different hash seeds".to_owned());
        }
        (self.buckets != other.buckets).then(|| {
            "they have tracking tables of different sizes: set node.track_flows alike".to_owned()
        })
    }
}

/// A frame of the node that answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Reply {
    /// Why it tells nothing; empty if it does.
    #[prost(string, tag = "1")]
    pub(super) refusal: String,
    /// None: nothing new.
    #[prost(message, optional, tag = "2")]
    pub(super) update: Option<Update>,
}

/// What a node knows of flows that the ring alone does not answer.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// The members of the node by its own index; they replace those told before, if there are any.
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
    /// The VIPs whose slots have another past than told before.
    #[prost(message, repeated, tag = "2")]
    pub rings: Vec<Ring>,
    /// Cells of 12 bytes each: place, tag, and member (bits 20–31), ended (bit 17), closed (bit 16), idle seconds
    /// (bits 0–15), each a little-endian word.
    #[prost(bytes = "vec", tag = "3")]
    pub cells: Vec<u8>,
    /// Members that have spilled flows.
    #[prost(message, repeated, tag = "4")]
    pub spillers: Vec<Spiller>,
    /// All that the node knew when it was asked has been told.
    #[prost(bool, tag = "5")]
    pub is_complete: bool,
    /// What the node says of backends and traffic: once per second, and when a check says something new.
    #[prost(message, optional, tag = "6")]
    pub report: Option<Report>,
}

/// What a node says of its backends and its traffic.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// All members of the configuration: in what follows, they are named by their position. None: as told
    /// before.
    #[prost(message, optional, tag = "1")]
    pub roster: Option<Roster>,
    /// The votes on members. None: as told before.
    #[prost(message, optional, tag = "2")]
    pub ballot: Option<Ballot>,
    /// Some flows that were forwarded in the last second.
    #[prost(message, repeated, tag = "3")]
    pub flows: Vec<ToldFlow>,
    /// Traffic since the last report.
    #[prost(message, repeated, tag = "4")]
    pub traffic: Vec<ToldTraffic>,
}

/// The members of a node.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Roster {
    /// Their indexes say nothing here.
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
}

/// A flow, and where it went.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ToldFlow {
    /// As `explain` takes it.
    #[prost(string, tag = "1")]
    pub flow: String,
    /// Position of its member.
    #[prost(uint32, tag = "2")]
    pub member: u32,
}

/// Traffic of a VIP since the last report.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ToldTraffic {
    /// The VIP.
    #[prost(message, required, tag = "1")]
    pub service: Service,
    /// Equal on nodes whose rings have the same shares.
    #[prost(fixed64, tag = "2")]
    pub ring: u64,
    /// How routers rank the node: those of the lowest rank are to get the same share. None: nothing is
    /// expected.
    #[prost(uint32, optional, tag = "3")]
    pub rank: Option<u32>,
    /// Positions of the members that had new flows.
    #[prost(uint32, repeated, tag = "5")]
    pub members: Vec<u32>,
    /// For each of them: new flows as the ring assigned them, and new flows that it got.
    #[prost(uint64, repeated, tag = "6")]
    pub counts: Vec<u64>,
}

/// Votes on the members of a node; those that are not named are up.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Ballot {
    /// The votes.
    #[prost(message, repeated, tag = "1")]
    pub votes: Vec<ToldVote>,
}

/// A vote on a member.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ToldVote {
    /// Its position.
    #[prost(uint32, tag = "1")]
    pub member: u32,
    /// 0: no verdict yet; 1: up; 2: down.
    #[prost(uint32, tag = "2")]
    pub opinion: u32,
    /// Whether the last checks contradict it.
    #[prost(bool, tag = "3")]
    pub is_uncertain: bool,
    /// Why.
    #[prost(string, tag = "4")]
    pub why: String,
}

/// A VIP as nodes have it in common.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Service {
    /// 4 or 16 bytes, in network byte order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// 0 for any port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Number of the protocol.
    #[prost(uint32, tag = "3")]
    pub protocol: u32,
}

/// A member of a VIP.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Member {
    /// Its index on the node that tells.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Its VIP.
    #[prost(message, required, tag = "2")]
    pub service: Service,
    /// Address of the backend: 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub address: Vec<u8>,
    /// Port of the backend; 0 when the packet's port is kept.
    #[prost(uint32, tag = "4")]
    pub port: u32,
}

/// The slots of a VIP that are not clean.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Ring {
    /// The VIP.
    #[prost(message, required, tag = "1")]
    pub service: Service,
    /// Number of slots, and what selects one (the affinity of the VIP): of another ring, nothing is learnt.
    #[prost(uint32, tag = "4")]
    pub slots: u32,
    /// See `slots`.
    #[prost(uint32, tag = "5")]
    pub affinity: u32,
    /// Slots in transition.
    #[prost(message, required, tag = "2")]
    pub moving: Past,
    /// Slots whose transition has ended, and of which flows may be left.
    #[prost(message, required, tag = "3")]
    pub settling: Past,
}

/// Slots and their previous members.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Past {
    /// The distance of each slot from the one before, in ascending order.
    #[prost(uint32, repeated, tag = "1")]
    pub steps: Vec<u32>,
    /// Indexes of their previous members.
    #[prost(uint32, repeated, tag = "2")]
    pub previous: Vec<u32>,
}

/// A member that has spilled flows.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Spiller {
    /// Its index.
    #[prost(uint32, tag = "1")]
    pub member: u32,
    /// Seconds since one of them was seen.
    #[prost(uint32, tag = "2")]
    pub idle_s: u32,
}

/// A cell of the tracking table, of the node that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldCell {
    /// Bucket and way: the same on all nodes.
    pub at: u32,
    /// Tag of the flow.
    pub tag: u32,
    /// Index of the member.
    pub member: u16,
    /// Whether the client has closed the flow.
    pub closed: bool,
    /// Seconds since it was last seen.
    pub idle_s: u16,
    /// Whether the flow needs no cell any more.
    pub ended: bool,
}

/// Bytes of a cell.
const CELL_BYTES: usize = 12;

impl Update {
    /// Whether it tells nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The cells. Bytes that are left over are ignored.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = ToldCell> + '_ {
        self.cells.chunks_exact(CELL_BYTES).map(|bytes| {
            let word = |at: usize| {
                let bytes = bytes[at..at + 4].try_into().expect("four bytes");
                u32::from_le_bytes(bytes)
            };
            ToldCell {
                at: word(0),
                tag: word(4),
                member: (word(8) >> 20) as u16,
                ended: word(8) >> 17 & 1 != 0,
                closed: word(8) >> 16 & 1 != 0,
                idle_s: word(8) as u16,
            }
        })
    }

    /// Adds rings and cells to this update, as many as fit, and to others that follow it.
    #[must_use]
    pub fn with(self, rings: Vec<Ring>, cells: impl IntoIterator<Item = ToldCell>) -> Vec<Self> {
        let mut updates = vec![self];
        let mut slots = 0;
        for ring in rings {
            let more = ring.moving.steps.len() + ring.settling.steps.len();
            if slots > 0 && slots + more > SLOTS {
                updates.push(Self::default());
                slots = 0;
            }
            slots += more;
            if let Some(last) = updates.last_mut() {
                last.rings.push(ring);
            }
        }
        for cell in cells {
            if updates
                .last()
                .is_none_or(|last| last.cells.len() >= CELLS * CELL_BYTES)
            {
                updates.push(Self::default());
            }
            let Some(last) = updates.last_mut() else {
                continue;
            };
            let member = u32::from(cell.member) << 20
                | u32::from(cell.ended) << 17
                | u32::from(cell.closed) << 16
                | u32::from(cell.idle_s);
            for word in [cell.at, cell.tag, member] {
                last.cells.extend(word.to_le_bytes());
            }
        }
        updates
    }
}

impl FromIterator<(u32, u16)> for Past {
    /// From slots in ascending order, and indexes of members.
    fn from_iter<T: IntoIterator<Item = (u32, u16)>>(slots: T) -> Self {
        let mut past = Self::default();
        let mut last = 0;
        for (slot, previous) in slots {
            past.steps.push(slot - last);
            past.previous.push(previous.into());
            last = slot;
        }
        past
    }
}

impl Past {
    /// The slots, with the indexes of their previous members.
    pub fn slots(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let slots = self.steps.iter().scan(0u32, |at, step| {
            *at = at.checked_add(*step)?;
            Some(*at)
        });
        slots.zip(self.previous.iter().copied())
    }
}

/// The bytes of an address as they are told.
#[must_use]
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(number: u32) -> ToldCell {
        ToldCell {
            at: number | 7 << 28,
            tag: !number,
            member: (number % 4096) as u16,
            closed: number.is_multiple_of(3),
            ended: number.is_multiple_of(5),
            idle_s: (number % 65_536) as u16,
        }
    }

    #[test]
    fn cells_are_read_as_they_were_written_and_frames_stay_small() {
        let members = vec![Member::default(); 4096];
        let first = Update {
            members,
            ..Update::default()
        };
        let largest: Past = (0..65_537).map(|slot| (slot, 4095)).collect();
        let ring = Ring {
            settling: largest,
            ..Ring::default()
        };
        let updates = first.with(vec![ring; 100], (0..150_000).map(cell));
        let rings: usize = updates.iter().map(|update| update.rings.len()).sum();
        assert_eq!((rings, updates.len()), (100, 36));
        assert!(
            updates
                .iter()
                .all(|update| update.encoded_len() < MAX_BYTES)
        );
        let read: Vec<ToldCell> = updates.iter().flat_map(Update::cells).collect();
        let written: Vec<ToldCell> = (0..150_000).map(cell).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn slots_are_read_as_they_were_written() {
        let slots = [(0, 1), (1, 4095), (65_536, 0)];
        let past: Past = slots.into_iter().collect();
        let bytes = past.encode_to_vec();
        let read = Past::decode(&bytes[..]).unwrap();
        let read: Vec<_> = read.slots().collect();
        assert_eq!(read, slots.map(|(slot, member)| (slot, u32::from(member))));
        let wild = Past {
            steps: vec![u32::MAX, u32::MAX],
            previous: vec![1, 2],
        };
        assert_eq!(wild.slots().count(), 1);
    }
}
