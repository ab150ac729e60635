//! The member table.

use std::mem::offset_of;

use lb_common::{
    member::{Member, NextHop, control},
    ring::MemberIndex,
};

use super::{error::Result, mapping::Mapped};

#[derive(Debug)]
pub struct Members {
    pub(super) table: Mapped<Member>,
}

impl Members {
    pub fn read(&self, member: MemberIndex) -> Result<Member> {
        self.table.read(member.into())
    }

    /// Writes a member, the control word last. For members that no ring and no flow refers to.
    pub fn write(&self, member: MemberIndex, value: &Member) -> Result<()> {
        const { assert!(offset_of!(Member, control) == 0) };
        self.table.write_first_word_last(member.into(), value)
    }

    /// Changes state, family and generation atomically ([`control::pack`]).
    pub fn set_control(&self, member: MemberIndex, word: u64) -> Result<()> {
        self.table
            .store_word(member.into(), offset_of!(Member, control), word)
    }

    /// Changes the next hop atomically; `None` if it is unknown.
    pub fn set_next_hop(&self, member: MemberIndex, next_hop: Option<NextHop>) -> Result<()> {
        let word = next_hop.map_or(0, NextHop::pack);
        self.table
            .store_word(member.into(), offset_of!(Member, next_hop), word)
    }

    /// All entries in use.
    pub fn present(&self) -> impl Iterator<Item = (MemberIndex, Member)> + '_ {
        (0..self.table.len() as MemberIndex)
            .filter_map(|index| Some((index, self.read(index).ok()?)))
            .filter(|(_, member)| control::state(member.control) != control::ABSENT)
    }

    /// Removes a member that no ring and no flow refers to. Keeps its generation, so that the next
    /// member at this index gets a new one.
    pub fn clear(&self, member: MemberIndex) -> Result<()> {
        let generation = control::generation(self.read(member)?.control);
        self.set_control(member, control::pack(control::ABSENT, 0, generation))?;
        let empty = Member {
            control: control::pack(control::ABSENT, 0, generation),
            ..bytemuck::Zeroable::zeroed()
        };
        self.table.write(member.into(), &empty)
    }
}
