//! What `top` remembers: the newest status, curves of new flows, and what the user chose.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use lb_api::{Event, MemberStatus, Status, VipStatus};

/// Seconds that curves go back.
const LENGTH: usize = 240;

/// Members that a page has, for scrolling.
const PAGE: usize = 10;

/// New flows a second, the newest last; none where nothing is known.
pub(super) type Curve = VecDeque<Option<f64>>;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Go,
    Quit,
}

/// What members are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Configuration,
    Name,
    Flows,
    Packets,
    Table,
    Observed,
    Deviation,
}

impl Order {
    const ALL: [(Self, char, &str); 7] = [
        (Self::Configuration, 'c', "configuration"),
        (Self::Name, 'n', "name"),
        (Self::Flows, 'f', "new flows"),
        (Self::Packets, 'p', "packets"),
        (Self::Table, 't', "table share"),
        (Self::Observed, 'o', "observed share"),
        (Self::Deviation, 'd', "deviation"),
    ];

    fn of_key(key: char) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == key);
        found.map(|(order, ..)| *order)
    }

    fn next(self) -> Self {
        let here = Self::ALL.iter().position(|(order, ..)| *order == self);
        Self::ALL[(here.unwrap_or(0) + 1) % Self::ALL.len()].0
    }

    pub(super) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(order, ..)| *order == self);
        found.map_or("", |(.., name)| name)
    }

    /// The largest first, but for names.
    fn compare(self, a: &MemberStatus, b: &MemberStatus) -> Ordering {
        let by = |key: fn(&MemberStatus) -> f64| key(b).total_cmp(&key(a));
        match self {
            Self::Configuration => Ordering::Equal,
            Self::Name => a.backend.cmp(&b.backend),
            Self::Flows => by(|member| member.rates.new_flows_per_s),
            Self::Packets => by(|member| member.rates.packets_per_s),
            Self::Table => by(|member| member.table_share),
            Self::Observed => by(|member| member.observed_share.unwrap_or(0.0)),
            Self::Deviation => by(deviation),
        }
    }
}

/// How far the observed share is from the table's, as a part of it.
fn deviation(member: &MemberStatus) -> f64 {
    let Some(observed) = member.observed_share else {
        return 0.0;
    };
    let far = (observed - member.table_share).abs();
    if far == 0.0 {
        0.0
    } else {
        far / member.table_share
    }
}

/// What happened in a second that has a mark above the curves; the worse is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Health,
    Alert,
    Revision(u64),
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) status: Option<Status>,
    /// Since when there is no answer, and why.
    pub(super) away: Option<(Timestamp, String)>,
    pub(super) now: Timestamp,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// Members that are above what is shown.
    pub(super) scroll: usize,
    selected: usize,
    curves: BTreeMap<(String, String), Curve>,
    /// As long as the curves.
    pub(super) marks: VecDeque<Option<Mark>>,
}

impl Model {
    /// Takes a status over, and what happened since the one before.
    pub(super) fn take(&mut self, status: Status, events: &[Event]) {
        let mark = self.mark(&status, events);
        self.advance(mark);
        for vip in &status.vips {
            for member in &vip.members {
                let flows = self.flows(&status, vip, member);
                let curve = self.curve_mut(&vip.name, &member.backend);
                if let Some(newest) = curve.back_mut() {
                    *newest = flows;
                }
            }
        }
        // Those that left are forgotten when nothing of them would be shown.
        self.curves
            .retain(|_, curve| curve.iter().any(Option::is_some));
        let vips = status.vips.len();
        self.selected = self.selected.min(vips.saturating_sub(1));
        self.now = status.at;
        self.status = Some(status);
        self.away = None;
    }

    /// Takes over that there was no answer.
    pub(super) fn miss(&mut self, now: Timestamp, why: String) {
        self.advance(None);
        let since = self.away.as_ref().map_or(now, |(since, _)| *since);
        self.away = Some((since, why));
        self.now = now;
    }

    /// A second has passed.
    fn advance(&mut self, mark: Option<Mark>) {
        push(&mut self.marks, mark);
        for curve in self.curves.values_mut() {
            push(curve, None);
        }
    }

    fn mark(&self, status: &Status, events: &[Event]) -> Option<Mark> {
        let number = |status: &Status| status.revision.as_ref().map(|revision| revision.number);
        let new = number(status);
        let revision = self
            .status
            .as_ref()
            .and(new)
            .filter(|_| self.status.as_ref().and_then(number) != new)
            .map(Mark::Revision);
        let events = events.iter().filter_map(|event| match event.kind.as_str() {
            "alert" => Some(Mark::Alert),
            "health" => Some(Mark::Health),
            _ => None,
        });
        revision.into_iter().chain(events).max()
    }

    /// New flows a second since the status before, from the totals: rates look back ten seconds.
    fn flows(&self, status: &Status, vip: &VipStatus, member: &MemberStatus) -> Option<f64> {
        let before = self.status.as_ref()?;
        if before.node.started_at != status.node.started_at {
            return None;
        }
        let seconds = status.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            let curve = self.curve(&vip.name, &member.backend)?;
            return curve.iter().rev().nth(1).copied().flatten();
        }
        let vip = before.vips.iter().find(|known| known.name == vip.name)?;
        let mut members = vip.members.iter();
        let known = members.find(|known| known.backend == member.backend)?;
        let flows = member
            .totals
            .new_flows
            .checked_sub(known.totals.new_flows)?;
        Some(flows as f64 / seconds)
    }

    /// The curve of a member.
    pub(super) fn curve(&self, vip: &str, backend: &str) -> Option<&Curve> {
        self.curves.get(&(vip.to_owned(), backend.to_owned()))
    }

    fn curve_mut(&mut self, vip: &str, backend: &str) -> &mut Curve {
        let length = self.marks.len();
        self.curves
            .entry((vip.to_owned(), backend.to_owned()))
            .or_insert_with(|| std::iter::repeat_n(None, length).collect())
    }

    /// The chosen VIP and its place.
    pub(super) fn selected(&self) -> Option<(usize, &VipStatus)> {
        let vips = &self.status.as_ref()?.vips;
        Some((self.selected, vips.get(self.selected)?))
    }

    /// The members of the chosen VIP, sorted.
    pub(super) fn members(&self) -> Vec<&MemberStatus> {
        let mut members: Vec<&MemberStatus> = match self.selected() {
            Some((_, vip)) => vip.members.iter().collect(),
            None => Vec::new(),
        };
        members.sort_by(|a, b| self.order.compare(a, b));
        if self.reversed {
            members.reverse();
        }
        members
    }

    /// Does what a key asks for.
    pub(super) fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> After {
        let vips = self.status.as_ref().map_or(0, |status| status.vips.len());
        let last = self.members().len().saturating_sub(1);
        match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return After::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return After::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') if self.selected + 1 < vips => {
                self.select(self.selected + 1);
            }
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::PageDown => self.scroll = (self.scroll + PAGE).min(last),
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char(key) => self.order = Order::of_key(key).unwrap_or(self.order),
            _ => {}
        }
        After::Go
    }

    fn select(&mut self, vip: usize) {
        self.selected = vip;
        self.scroll = 0;
    }
}

fn push<T>(values: &mut VecDeque<T>, value: T) {
    values.push_back(value);
    if values.len() > LENGTH {
        values.pop_front();
    }
}
