//! State of `top`: the last status, graphs of new flows, selection and sort order.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use crate::cli::member;
use lb_api::{Event, MemberStatus, Status, VipStatus};
use lb_model::MemberRef;

/// Length of the graphs in seconds.
const LENGTH: usize = 240;

/// Number of members to scroll by.
const PAGE: usize = 10;

/// New flows per second, the newest last; none where unknown.
pub(super) type Graph = VecDeque<Option<f64>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Continue,
    Quit,
}

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

    /// Compares by the column: names ascending, numbers descending.
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

/// Deviation of the observed share from the table share, relative to the latter.
fn deviation(member: &MemberStatus) -> f64 {
    let Some(observed) = member.observed_share else {
        return 0.0;
    };
    match (observed - member.table_share).abs() {
        0.0 => 0.0,
        deviation => deviation / member.table_share,
    }
}

/// A mark above the graphs, ordered by importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Health,
    Alert,
    Revision(u64),
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) status: Option<Status>,
    /// Since when the controller is unavailable, and why.
    pub(super) unavailable: Option<(Timestamp, String)>,
    pub(super) now: Timestamp,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// Number of members above the visible ones.
    pub(super) scroll: usize,
    selected: usize,
    graphs: BTreeMap<MemberRef, Graph>,
    /// As long as the graphs.
    pub(super) marks: VecDeque<Option<Mark>>,
}

impl Model {
    /// Adds a status and the events since the last one.
    pub(super) fn update(&mut self, status: Status, events: &[Event]) {
        let mark = self.mark(&status, events);
        self.advance(mark);
        for (name, member) in member::all(&status.vips) {
            let flows = self.flows(&status, &name, member);
            let length = self.marks.len();
            let graph = self.graphs.entry(name);
            let graph = graph.or_insert_with(|| std::iter::repeat_n(None, length).collect());
            if let Some(newest) = graph.back_mut() {
                *newest = flows;
            }
        }
        // Members that left are dropped once their graphs are empty.
        self.graphs
            .retain(|_, graph| graph.iter().any(Option::is_some));
        let vips = status.vips.len();
        self.selected = self.selected.min(vips.saturating_sub(1));
        self.now = status.at;
        self.status = Some(status);
        self.unavailable = None;
    }

    /// Records that the controller did not respond.
    pub(super) fn set_unavailable(&mut self, now: Timestamp, why: String) {
        self.advance(None);
        let since = self.unavailable.as_ref().map_or(now, |(since, _)| *since);
        self.unavailable = Some((since, why));
        self.now = now;
    }

    /// Moves marks and graphs on by a second.
    fn advance(&mut self, mark: Option<Mark>) {
        push(&mut self.marks, mark);
        for graph in self.graphs.values_mut() {
            push(graph, None);
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

    /// New flows per second since the last status, from the totals: rates are averages of ten seconds.
    fn flows(&self, status: &Status, name: &MemberRef, member: &MemberStatus) -> Option<f64> {
        let before = self.status.as_ref()?;
        if before.node.started_at != status.node.started_at {
            return None;
        }
        let seconds = status.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return self.graph(name)?.iter().rev().nth(1).copied().flatten();
        }
        let (_, known) = member::all(&before.vips).find(|(known, _)| known == name)?;
        let flows = member
            .totals
            .new_flows
            .checked_sub(known.totals.new_flows)?;
        Some(flows as f64 / seconds)
    }

    pub(super) fn graph(&self, member: &MemberRef) -> Option<&Graph> {
        self.graphs.get(member)
    }

    /// The selected VIP and its index.
    pub(super) fn selected(&self) -> Option<(usize, &VipStatus)> {
        let vips = &self.status.as_ref()?.vips;
        Some((self.selected, vips.get(self.selected)?))
    }

    /// The sorted members of the selected VIP.
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

    /// Handles a key.
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
        After::Continue
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
