//! The file format of the accounts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lb_common::{
    counters::{MemberCounters, VipCounters},
    ring::MemberIndex,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Totals, Traffic,
    account::{MemberAccount, Reading, VipAccount, VipReading},
};

/// Version of the file format.
const FORM: u32 = 1;

/// Maximum number of accounts kept for names that are not in the maps and may return. Those absent
/// longest are dropped.
const MOST_ABSENT: usize = 8192;

/// Why a ledger is not used, and totals start at 0.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("can't read the ledger; totals start at 0: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("the ledger has unknown format version {0}; totals start at 0")]
    Form(u32),
    /// The kernel counters were recreated, and the ledger is older than the totals last shown.
    #[error(
        "the kernel's counters were recreated and the last controller was killed; totals start at 0, \
         because they would go backwards otherwise"
    )]
    LostCounters,
}

#[derive(Serialize, Deserialize)]
struct File {
    form: u32,
    epoch: String,
    /// Whether it was written at a stop, so that no later totals were ever shown.
    is_final: bool,
    vips: BTreeMap<Box<str>, VipRow>,
    readings: Vec<ReadingRow>,
}

#[derive(Serialize, Deserialize)]
struct VipRow {
    totals: Totals,
    counters: [u64; 8],
    reading: Option<(u16, [u64; 8])>,
    /// The counters of its limits and their last reading, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<[[u64; 10]; 2]>,
    /// The flows that stayed with full members and their last reading, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overfull: Option<[[u64; 2]; 2]>,
    peaks: Vec<(i64, f64)>,
    members: BTreeMap<Box<str>, MemberRow>,
}

#[derive(Serialize, Deserialize)]
struct MemberRow {
    counters: [u64; 8],
    /// Its spilled and received flows, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spills: Option<[u64; 2]>,
    seen: i64,
}

#[derive(Serialize, Deserialize)]
struct ReadingRow {
    index: MemberIndex,
    generation: u32,
    vip: Box<str>,
    backend: Box<str>,
    counters: [u64; 8],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spills: Option<[u64; 2]>,
}

fn row<T: bytemuck::Pod>(counters: T) -> [u64; 8] {
    bytemuck::cast(counters)
}

/// Counters, if any of them is not 0.
fn some_row<R: bytemuck::Pod + PartialEq>(counters: impl bytemuck::Pod) -> Option<R> {
    let row: R = bytemuck::cast(counters);
    (row != R::zeroed()).then_some(row)
}

/// Totals and their last reading, if any of them is not 0.
fn some_rows<R, T>(total: T, last: Option<T>) -> Option<[R; 2]>
where
    R: bytemuck::Pod + PartialEq,
    T: bytemuck::Pod,
{
    let last = last.unwrap_or_else(T::zeroed);
    let rows: [R; 2] = [total, last].map(bytemuck::cast);
    (rows != [R::zeroed(); 2]).then_some(rows)
}

impl Traffic {
    /// Serializes the accounts and last readings. `is_final`: no later totals will be shown.
    #[must_use]
    pub fn to_ledger(&self, is_final: bool) -> Vec<u8> {
        let oldest = self.oldest_kept();
        let file = File {
            form: FORM,
            epoch: self.epoch.clone(),
            is_final,
            vips: self
                .vips
                .iter()
                .map(|(name, vip)| (Box::from(&**name), vip_row(vip, oldest)))
                .filter(|(_, row)| !row.members.is_empty())
                .collect(),
            readings: self.readings.iter().map(reading_row).collect(),
        };
        serde_json::to_vec(&file).expect("numbers and strings can be written as JSON")
    }

    /// Reads a ledger. If it is unusable, returns empty accounts and the reason.
    #[must_use]
    pub fn from_ledger(
        epoch: impl Into<String>,
        bytes: &[u8],
        wall: Timestamp,
    ) -> (Self, Option<LedgerError>) {
        let epoch = epoch.into();
        match read(&epoch, bytes, wall) {
            Ok(traffic) => (traffic, None),
            Err(error) => (Self::new(epoch), Some(error)),
        }
    }

    /// Unix time in seconds: absent accounts last seen before are dropped.
    fn oldest_kept(&self) -> i64 {
        let members = self.vips.values().flat_map(|vip| vip.members.values());
        let absent = members.filter(|member| !member.is_present);
        let mut seen: Vec<i64> = absent.map(|member| member.seen).collect();
        if seen.len() <= MOST_ABSENT {
            return i64::MIN;
        }
        seen.sort_unstable_by_key(|second| std::cmp::Reverse(*second));
        seen[MOST_ABSENT]
    }
}

fn vip_row(vip: &VipAccount, oldest: i64) -> VipRow {
    let kept = |member: &MemberAccount| member.is_present || member.seen > oldest;
    VipRow {
        totals: vip.totals,
        counters: row(vip.counters),
        reading: vip.reading.map(|last| (last.index, row(last.counters))),
        limits: some_rows(vip.limits, vip.reading.map(|last| last.limits)),
        overfull: some_rows(vip.overfull, vip.reading.map(|last| last.overfull)),
        peaks: vip.peaks.iter().copied().collect(),
        members: vip
            .members
            .iter()
            .filter(|(_, member)| kept(member))
            .map(|(name, member)| {
                let row = MemberRow {
                    counters: row(member.counters),
                    spills: some_row(member.spills),
                    seen: member.seen,
                };
                (Box::from(&**name), row)
            })
            .collect(),
    }
}

fn reading_row((&index, reading): (&MemberIndex, &Reading)) -> ReadingRow {
    ReadingRow {
        index,
        generation: reading.generation,
        vip: Box::from(&*reading.vip),
        backend: Box::from(&*reading.backend),
        counters: row(reading.counters),
        spills: some_row(reading.spills),
    }
}

fn read(epoch: &str, bytes: &[u8], wall: Timestamp) -> Result<Traffic, LedgerError> {
    #[derive(Deserialize)]
    struct Form {
        form: u32,
    }
    let Form { form } = serde_json::from_slice(bytes)?;
    if form != FORM {
        return Err(LedgerError::Form(form));
    }
    let file: File = serde_json::from_slice(bytes)?;
    let same_maps = file.epoch == epoch;
    if !same_maps && !file.is_final {
        return Err(LedgerError::LostCounters);
    }
    let mut traffic = Traffic::new(epoch);
    for (name, row) in file.vips {
        traffic
            .vips
            .insert(name.into(), account(row, same_maps, wall));
    }
    if same_maps {
        let readings = file.readings.into_iter();
        traffic.readings = readings.map(|row| (row.index, reading(row))).collect();
    }
    Ok(traffic)
}

fn reading(row: ReadingRow) -> Reading {
    Reading {
        generation: row.generation,
        vip: row.vip.into(),
        backend: row.backend.into(),
        counters: bytemuck::cast::<_, MemberCounters>(row.counters),
        spills: bytemuck::cast(row.spills.unwrap_or_default()),
    }
}

fn account(row: VipRow, same_maps: bool, wall: Timestamp) -> VipAccount {
    let member = |row: MemberRow| {
        let mut member = MemberAccount {
            counters: bytemuck::cast::<_, MemberCounters>(row.counters),
            spills: bytemuck::cast(row.spills.unwrap_or_default()),
            seen: row.seen,
            ..MemberAccount::default()
        };
        member.assign();
        member
    };
    let reading = row.reading.filter(|_| same_maps);
    let [limits, last_limits] = row.limits.unwrap_or_default();
    let [overfull, last_overfull] = row.overfull.unwrap_or_default();
    let oldest = wall.as_second() / 60 - super::PEAK_MINUTES;
    let peaks = row.peaks.into_iter();
    VipAccount {
        totals: row.totals,
        counters: bytemuck::cast::<_, VipCounters>(row.counters),
        limits: bytemuck::cast(limits),
        overfull: bytemuck::cast(overfull),
        reading: reading.map(|(index, counters)| VipReading {
            index,
            counters: bytemuck::cast(counters),
            limits: bytemuck::cast(last_limits),
            overfull: bytemuck::cast(last_overfull),
        }),
        peaks: peaks.filter(|(minute, _)| *minute > oldest).collect(),
        members: row
            .members
            .into_iter()
            .map(|(name, row)| (name.into(), member(row)))
            .collect(),
        ..VipAccount::default()
    }
}
