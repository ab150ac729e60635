//! `sources.json` in the state directory: the last members of each source. A controller that starts while
//! DNS does not answer has them from there.

use std::{io, net::IpAddr, path::Path, time::Duration};

use jiff::Timestamp;
use lb_model::{
    config::BackendState,
    membership::{Families, InvalidSource, Known, Member, MemberCheck, SourceKey, Stage},
};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::durable;

/// A source as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) key: SourceKey,
    /// When its last answer came.
    pub(crate) answered_at: Option<Timestamp>,
    /// Those that are missing count as present.
    pub(crate) members: Vec<Known>,
    /// What was set last, if not all of it has been reached; whether an empty set is meant.
    pub(crate) wanted: Option<(Vec<Member>, bool)>,
}

#[derive(Deserialize, Serialize)]
struct File {
    sources: Vec<SourceRecord>,
}

#[derive(Deserialize, Serialize)]
struct SourceRecord {
    source: String,
    families: FamiliesRecord,
    answered_at: Option<Timestamp>,
    members: Vec<MemberRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wanted: Option<WantedRecord>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum FamiliesRecord {
    V4,
    V6,
    Both,
}

#[derive(Deserialize, Serialize)]
struct WantedRecord {
    members: Vec<MemberRecord>,
    allow_empty: bool,
}

#[derive(Deserialize, Serialize)]
struct MemberRecord {
    name: String,
    address: IpAddr,
    port: Option<u16>,
    weight: u32,
    state: StateRecord,
    #[serde(default)]
    leaving: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_name: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum StateRecord {
    Up,
    Drain,
    Disabled,
}

/// Reads the file. One that can't be read is reported, and the sources are asked as for the first time.
pub(crate) fn read(path: &Path) -> Vec<Saved> {
    let bytes = match durable::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            error!(file = %path.display(), %error, "can't read the last answers of sources");
            return Vec::new();
        }
    };
    match serde_json::from_slice::<File>(&bytes) {
        Ok(file) => file.sources.into_iter().filter_map(saved).collect(),
        Err(error) => {
            error!(file = %path.display(), %error, "can't read the last answers of sources");
            Vec::new()
        }
    }
}

/// Replaces the file.
pub(crate) fn write(path: &Path, sources: &[Saved]) -> io::Result<()> {
    let file = File {
        sources: sources.iter().map(record).collect(),
    };
    durable::replace(path, &serde_json::to_vec(&file)?)
}

/// What can be used of a record: a part that is not valid must not take the others away.
fn saved(record: SourceRecord) -> Option<Saved> {
    let source = match record.source.parse() {
        Ok(source) => source,
        Err(InvalidSource { label, .. }) => {
            let source = record.source;
            warn!(
                source,
                error = label,
                "can't read the last answer of a source"
            );
            return None;
        }
    };
    let members = valid(&record.source, record.members);
    let wanted = record.wanted.map(|wanted| {
        let members = valid(&record.source, wanted.members).into_iter();
        (
            members.map(|known| known.member).collect(),
            wanted.allow_empty,
        )
    });
    let families = match record.families {
        FamiliesRecord::V4 => Families::V4,
        FamiliesRecord::V6 => Families::V6,
        FamiliesRecord::Both => Families::Both,
    };
    Some(Saved {
        key: SourceKey { source, families },
        answered_at: record.answered_at,
        members,
        wanted,
    })
}

/// The members that are valid beside those before them.
fn valid(source: &str, records: Vec<MemberRecord>) -> Vec<Known> {
    let all: Vec<Known> = records.into_iter().map(member).collect();
    let (mut checked, mut valid) = (MemberCheck::default(), Vec::new());
    for known in &all {
        match checked.add(&known.member) {
            Ok(()) => valid.push(known.clone()),
            Err(error) => warn!(source, %error, "left out a member of the last answer of a source"),
        }
    }
    valid
}

fn record(saved: &Saved) -> SourceRecord {
    let members = saved.members.iter();
    SourceRecord {
        source: saved.key.source.to_string(),
        families: match saved.key.families {
            Families::V4 => FamiliesRecord::V4,
            Families::V6 => FamiliesRecord::V6,
            Families::Both => FamiliesRecord::Both,
        },
        answered_at: saved.answered_at,
        members: members
            .map(|known| MemberRecord {
                leaving: known.is_leaving(),
                former_name: known.former_name.clone(),
                ..member_record(&known.member)
            })
            .collect(),
        wanted: saved.wanted.as_ref().map(|(members, allow_empty)| {
            let members = members.iter().map(member_record);
            WantedRecord {
                members: members.collect(),
                allow_empty: *allow_empty,
            }
        }),
    }
}

fn member(record: MemberRecord) -> Known {
    let member = Member {
        name: record.name,
        address: record.address,
        port: record.port,
        weight: record.weight,
        state: match record.state {
            StateRecord::Up => BackendState::Up,
            StateRecord::Drain => BackendState::Drain,
            StateRecord::Disabled => BackendState::Disabled,
        },
    };
    let since = Duration::ZERO;
    Known {
        member,
        stage: match record.leaving {
            true => Stage::Leaving { since },
            false => Stage::Present,
        },
        former_name: record.former_name,
    }
}

fn member_record(member: &Member) -> MemberRecord {
    MemberRecord {
        name: member.name.clone(),
        address: member.address,
        port: member.port,
        weight: member.weight,
        state: match member.state {
            BackendState::Up => StateRecord::Up,
            BackendState::Drain => StateRecord::Drain,
            BackendState::Disabled => StateRecord::Disabled,
        },
        leaving: false,
        former_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Saved {
        let member = |last: u8, state| Member {
            name: format!("m{last}"),
            address: [10, 0, 0, last].into(),
            port: (last == 1).then_some(8080),
            weight: last.into(),
            state,
        };
        Saved {
            key: SourceKey {
                source: "srv:_a._tcp.example".parse().unwrap(),
                families: Families::V4,
            },
            answered_at: Some(Timestamp::UNIX_EPOCH),
            members: vec![
                Known {
                    member: member(1, BackendState::Up),
                    stage: Stage::Present,
                    former_name: Some("web".to_owned()),
                },
                Known {
                    member: member(2, BackendState::Disabled),
                    stage: Stage::Leaving {
                        since: Duration::ZERO,
                    },
                    former_name: None,
                },
            ],
            wanted: Some((vec![member(1, BackendState::Drain)], true)),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sources.json");
        assert_eq!(read(&path), []);
        write(&path, &[example()]).unwrap();
        assert_eq!(read(&path), [example()]);
    }

    #[test]
    fn what_is_damaged_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sources.json");
        let mut wrong = example();
        wrong.members[0].member.address = [127, 0, 0, 1].into();
        write(&path, &[wrong.clone(), example()]).unwrap();
        wrong.members.remove(0);
        assert_eq!(read(&path), [wrong, example()]);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), []);
    }
}
