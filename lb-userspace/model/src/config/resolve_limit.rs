//! Checks whether the limits of a VIP fit together, and reads the files with prefixes that they name.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use toml::Spanned;

use super::{
    keys::{Table, items_of, span_of, value_of},
    model::{Forward, Limit, OnExcess, Prefix, Protocol, Rate, SourceLimit, Track, TypedVip},
    problem::{Problem, Problems},
    reader::Typed,
    resolve::ReadFile,
    typed::LimitTables,
    value::{Wrong, parse_source_prefix},
};

/// Most different lists: half of what the data path has room for, so that all can be changed at once.
const MAX_LISTS: usize = lb_common::limit::MAX_LISTS as usize / 2;
/// Most prefixes of a list.
const MAX_PREFIXES: usize = 1_000_000;
/// The longest time in which a source may have used a whole burst, in seconds.
const LONGEST_BURST_S: u64 = 3600;

pub(super) fn resolve_limit(
    typed: &LimitTables,
    vip: &TypedVip,
    lists: &PrefixLists<'_>,
    problems: &Problems,
) -> Option<Limit> {
    let LimitTables { vip: all, source } = typed;
    let exempt = lists.get(&all.exempt, &all.exempt_files);
    let deny = lists.get(&all.deny, &all.deny_files);
    let source_limit = source.resolve()?;
    let limit = all.resolve((source_limit, exempt?, deny?))?;
    check(vip, all, "vip.limit", &Rates::of_vip(&limit), problems);
    let rates = Rates::of_source(&limit.source);
    check(vip, source, "vip.limit.source", &rates, problems);
    Some(limit)
}

/// What is checked of both tables.
struct Rates {
    flows: Option<Rate>,
    packets: Option<Rate>,
    on_excess: OnExcess,
}

impl Rates {
    fn of_vip(limit: &Limit) -> Self {
        Self {
            flows: limit.flow_rate(),
            packets: limit.packet_rate(),
            on_excess: limit.on_excess,
        }
    }

    fn of_source(limit: &SourceLimit) -> Self {
        Self {
            flows: limit.flow_rate(),
            packets: limit.packet_rate(),
            on_excess: limit.on_excess,
        }
    }
}

fn check(vip: &TypedVip, table: &impl Table, path: &str, rates: &Rates, problems: &Problems) {
    let at = |key: &str| table.span(key).unwrap_or(table.at());
    for (key, burst_key, rate) in [
        ("new_flows", "new_flows_burst", rates.flows),
        ("packets", "packets_burst", rates.packets),
    ] {
        match rate {
            None if table.has(burst_key) && !table.has(key) => {
                let title = format!("`{path}.{burst_key}` without `{path}.{key}`");
                let help = format!("add `{key}`, the rate per second, or remove `{burst_key}`");
                problems.add(Problem::new(at(burst_key), title, "no rate", help));
            }
            Some(rate) if u64::from(rate.burst) > u64::from(rate.per_s) * LONGEST_BURST_S => {
                let title = format!("`{path}.{burst_key}` is more than an hour of `{path}.{key}`");
                let label = format!("{} at {} per second", rate.burst, rate.per_s);
                let most = u64::from(rate.per_s) * LONGEST_BURST_S;
                let help = format!("must be at most {most}");
                problems.add(Problem::new(at(burst_key), title, label, help));
            }
            _ => {}
        }
    }
    if rates.flows.is_some() {
        check_flows(vip, at("new_flows"), path, problems);
    }
    if rates.on_excess == OnExcess::SecondSyn {
        check_second_syn(vip, at("on_excess"), path, rates, problems);
    }
}

/// New flows of UDP are only known where every flow is tracked.
fn check_flows(vip: &TypedVip, at: Range<usize>, path: &str, problems: &Problems) {
    let is_udp = value_of(&vip.protocol) == Some(Protocol::Udp);
    let is_nat = value_of(&vip.forward) == Some(Forward::Nat);
    let tracks_all = value_of(&vip.track).is_none_or(|track| track == Track::Always);
    if is_udp && !is_nat && !tracks_all {
        let title = format!("`{path}.new_flows` of a UDP VIP needs `track = \"always\"`");
        let label = "new flows can't be told from others";
        let help = "remove `track`, or limit `packets` instead";
        problems.add(Problem::new(at, title, label, help));
    }
}

fn check_second_syn(
    vip: &TypedVip,
    at: Range<usize>,
    path: &str,
    rates: &Rates,
    problems: &Problems,
) {
    if value_of(&vip.protocol) == Some(Protocol::Udp) {
        let title = format!("`{path}.on_excess = \"second_syn\"` of a UDP VIP");
        let help = "use \"drop\" or \"count\"";
        problems.add(Problem::new(at, title, "UDP has no SYN", help));
    } else if rates.flows.is_none() {
        let title = format!("`{path}.on_excess = \"second_syn\"` without `{path}.new_flows`");
        let help = "add `new_flows`, the rate per second: it is what SYNs are counted against";
        problems.add(Problem::new(at, title, "no rate of new flows", help));
    }
}

/// The lists of prefixes of a configuration. VIPs with the same keys share a list.
pub(super) struct PrefixLists<'a> {
    read_file: ReadFile<'a>,
    problems: &'a Problems,
    known: RefCell<HashMap<Source, Option<Arc<[Prefix]>>>>,
}

/// Where the prefixes of a list are: in the configuration, and in files.
type Source = (Vec<Prefix>, Vec<PathBuf>);

impl<'a> PrefixLists<'a> {
    pub(super) fn new(read_file: ReadFile<'a>, problems: &'a Problems) -> Self {
        Self {
            read_file,
            problems,
            known: RefCell::default(),
        }
    }

    fn get(
        &self,
        inline: &Typed<Vec<Spanned<Prefix>>>,
        files: &Typed<Vec<Spanned<PathBuf>>>,
    ) -> Option<Arc<[Prefix]>> {
        let source = (items_of(inline), items_of(files));
        let mut known = self.known.borrow_mut();
        let is_new = !known.contains_key(&source);
        let list = known
            .entry(source)
            .or_insert_with_key(|(inline, _)| self.read(inline.clone(), files));
        let list = list.clone();
        let at = span_of(files).or(span_of(inline));
        if let (true, Some(at)) = (is_new, at) {
            let lists = known.values().flatten().filter(|list| !list.is_empty());
            let number = lists.collect::<HashSet<_>>().len();
            if number == MAX_LISTS + 1 {
                let label = format!("this is number {number}");
                let help = format!(
                    "must be at most {MAX_LISTS} per node: VIPs with the same prefixes share a list"
                );
                let title = "too many different lists of prefixes";
                self.problems.add(Problem::new(at, title, label, help));
            }
        }
        list
    }

    /// The prefixes of a key and of files, sorted and without duplicates.
    fn read(
        &self,
        mut all: Vec<Prefix>,
        files: &Typed<Vec<Spanned<PathBuf>>>,
    ) -> Option<Arc<[Prefix]>> {
        let Self {
            read_file,
            problems,
            ..
        } = self;
        let mut is_complete = true;
        for file in files.iter().flat_map(Spanned::get_ref) {
            let path = file.get_ref().display();
            let read = read_file(file.get_ref()).map_err(|error| Wrong {
                label: error.to_string(),
                help: "must be a file that this user can read; a relative path starts at the directory of \
                       the configuration file"
                    .to_owned(),
            });
            match read.and_then(|text| parse_list(&text)) {
                Ok(prefixes) => all.extend(prefixes),
                Err(Wrong { label, help }) => {
                    let title = format!("can't use the prefixes in {path}");
                    problems.add(Problem::new(file.span(), title, label, help));
                    is_complete = false;
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        if let (Some(last), true) = (files, all.len() > MAX_PREFIXES) {
            let label = format!("{} prefixes", all.len());
            let help = format!("must be at most {MAX_PREFIXES}");
            problems.add(Problem::new(last.span(), "too many prefixes", label, help));
            is_complete = false;
        }
        is_complete.then(|| all.into())
    }
}

const LINES: &str = "every line must be an address, or an address and a prefix length with no bits set beyond \
                     it, as in \"192.0.2.7\" or \"2001:db8::/32\"; `#` begins a comment";

/// Parses a list: one prefix or address per line; `#` begins a comment.
fn parse_list(text: &str) -> Result<Vec<Prefix>, Wrong> {
    let mut prefixes = Vec::new();
    // Some editors begin files with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        prefixes.push(parse_source_prefix(entry).map_err(|wrong| Wrong {
            // Without the line: whoever may send a configuration need not be able to read the file.
            label: format!("line {number}: {}", wrong.label),
            help: LINES.to_owned(),
        })?);
    }
    Ok(prefixes)
}
