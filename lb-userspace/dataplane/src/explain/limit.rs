//! Rate limits: what the source and the VIP have used, and what happens over it.

use std::fmt;

use lb_common::{
    limit::{Cell, Kind, Limit, Rate, UNIT_NS, excess, place, source_hash, units},
    reason::Reason,
    vip::{Vip, limited},
};
use lb_model::config::Prefix;

use super::walk::{Found, Stop, Walker};

/// Whose limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Source,
    Vip,
}

/// What a limit counts, in words.
const fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::Flows => "new flows",
        Kind::Packets => "packets",
    }
}

/// A limit as it was configured, to the rounding of the data path.
struct Shown(Rate, u64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rate, chunk) = self;
        let per_s = (chunk * 1_000_000_000) as f64 / (rate.cost * UNIT_NS) as f64;
        let burst = (rate.room / rate.cost + 1) * chunk;
        write!(f, "{per_s:.0}/s with {burst} at once")
    }
}

impl Walker<'_> {
    /// Holds the packet against denied sources and limits of packets.
    pub(super) fn limit_packet(&mut self, index: u16, vip: &Vip) -> Found<()> {
        if vip.is_limited(limited::DENY) {
            let limit = self.limit(index)?;
            if self.listed() & limit.deny != 0 {
                let source = self.flow.source.ip();
                self.note("limit", format!("{source} is denied"));
                return Err(Stop::Reason(Reason::Denied));
            }
        }
        if vip.is_limited(limited::PACKETS) {
            return self.hold(index, vip, Kind::Packets);
        }
        Ok(())
    }

    /// Holds a new flow against limits of new flows.
    pub(super) fn limit_flow(&mut self, index: u16, vip: &Vip) -> Found<()> {
        if vip.is_limited(limited::FLOWS) {
            return self.hold(index, vip, Kind::Flows);
        }
        Ok(())
    }

    fn limit(&self, index: u16) -> Found<Limit> {
        match self.sources.tables.limits {
            Some(limits) => Ok(limits.read(index)?),
            None => Ok(bytemuck::Zeroable::zeroed()),
        }
    }

    /// The lists of prefixes that contain the source, a bit for each.
    fn listed(&self) -> u64 {
        let Some(limits) = self.sources.tables.limits else {
            return 0;
        };
        let ip = self.flow.source.ip();
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let mut prefixes = (0..=longest).rev().map(|bits| Prefix::containing(ip, bits));
        let found = prefixes.find_map(|prefix| limits.listed().get(&prefix));
        found.copied().unwrap_or(0)
    }

    fn hold(&mut self, index: u16, vip: &Vip, kind: Kind) -> Found<()> {
        let limit = self.limit(index)?;
        let Some(limits) = self.sources.tables.limits else {
            return Ok(());
        };
        let now = units(self.sources.tables.now_ns);
        let (_, family) = self.flow.dest_address();
        let port_be = self.flow.source.port().to_be();
        let (source, block) = limit.source(&self.flow.source_address(), family, port_be);
        let hash = source_hash(&vip.hash_key, family, &source, block, kind);
        let (line, tag) = place(hash);
        let (of_source, of_vip) = match kind {
            Kind::Flows => (limit.source_flows, limit.vip_flows),
            Kind::Packets => (limit.source_packets, limit.vip_packets),
        };
        if of_source.is_set() {
            let cells = limits.cells(line)?;
            let mut own = cells
                .iter()
                .map(|word| Cell(*word))
                .filter(|it| it.is_of(tag));
            let debt = own.find_map(|cell| Some(of_source.debt(cell, now)).filter(|it| *it > 0));
            self.judge(&limit, kind, Of::Source, &of_source, debt.unwrap_or(0))?;
        }
        if of_vip.is_set() {
            let debt = of_vip.debt(limits.vip_cell(index, kind)?, now);
            self.judge(&limit, kind, Of::Vip, &of_vip, debt)?;
        }
        Ok(())
    }

    fn judge(&mut self, limit: &Limit, kind: Kind, of: Of, rate: &Rate, debt: u64) -> Found<()> {
        let (whose, on_excess) = match of {
            Of::Source => ("its source", limit.source_excess),
            Of::Vip => ("the VIP", limit.vip_excess),
        };
        let chunk = match (of, kind) {
            (Of::Vip, Kind::Packets) => u64::from(limit.chunk.max(1)),
            _ => 1,
        };
        let unit = unit(kind);
        let shown = Shown(*rate, chunk);
        if debt <= rate.room {
            let used = debt.div_ceil(rate.cost) * chunk;
            let text = format!("within the limit of {whose}, {shown}: {used} {unit} of these used");
            self.note("limit", text);
            return Ok(());
        }
        if limit.exempt != 0 && self.listed() & limit.exempt != 0 {
            let text = format!("over the limit of {whose} for {unit}, {shown}, but exempt");
            self.note("limit", text);
            return Ok(());
        }
        let reason = match (of, kind) {
            (Of::Source, Kind::Flows) => Reason::SourceFlowLimit,
            (Of::Source, Kind::Packets) => Reason::SourcePacketLimit,
            (Of::Vip, Kind::Flows) => Reason::VipFlowLimit,
            (Of::Vip, Kind::Packets) => Reason::VipPacketLimit,
        };
        let (fate, end) = match on_excess {
            excess::COUNT => ("only counted", Ok(())),
            excess::SECOND_SYN if self.opens && kind == Kind::Flows => (
                "dropped, unless it is a repeated SYN",
                Err(Stop::Reason(Reason::FirstSyn)),
            ),
            _ => ("dropped", Err(Stop::Reason(reason))),
        };
        let text = format!("over the limit of {whose} for {unit}, {shown}: {fate}");
        self.note("limit", text);
        end
    }
}
