//! The interfaces that frames are transmitted on.
//!
//! A next hop refers to an entry of the egress table; the program redirects through the device map,
//! keyed by interface index. Interfaces towards members are in both, interfaces with only clients
//! behind them in the device map alone.

use std::mem::offset_of;

use aya::maps::{DevMapHash, MapData};
use lb_common::member::Egress;

use super::{
    catalog::{name, part},
    error::{DataplaneError, Result, chain},
    mapping::Mapped,
    maps::is_missing,
};

const DEVICE_HINT: &str = "the interface must exist in this network namespace";

pub struct EgressTable {
    pub(super) table: Mapped<Egress>,
    pub(super) devices: DevMapHash<MapData>,
}

impl EgressTable {
    /// The entry of an interface, by interface index.
    pub fn find(&self, ifindex: u32) -> Result<Option<u16>> {
        for entry in 1..self.table.len() {
            if self.table.read(entry)?.ifindex == ifindex {
                return Ok(Some(entry as u16));
            }
        }
        Ok(None)
    }

    /// Reads an entry; all zero if unused.
    pub fn read(&self, entry: u16) -> Result<Egress> {
        self.table.read(entry.into())
    }

    /// Whether frames can be redirected to an interface.
    pub fn admits(&self, ifindex: u32) -> Result<bool> {
        match self.devices.get(ifindex, 0) {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(DataplaneError::map(
                "look up an interface",
                name::DEVICES,
                &error,
                DEVICE_HINT,
            )),
        }
    }

    /// Adds or updates an interface; returns its entry.
    pub fn assign(&mut self, ifindex: u32, mtu: u32, mac: [u8; 6]) -> Result<u16> {
        if ifindex == 0 {
            let why = "interface indexes start at 1";
            return Err(DataplaneError::Setting {
                setting: "ifindex",
                value: 0,
                why,
            });
        }
        let entry = match self.find(ifindex)? {
            Some(entry) => entry,
            None => self.find(0)?.ok_or_else(|| DataplaneError::Full {
                table: part::EGRESS.name,
                what: format!("interface {ifindex}"),
                limit: format!("{} interfaces", self.table.len() - 1),
                hint: "use fewer interfaces",
            })?,
        };
        self.admit(ifindex)?;
        const { assert!(offset_of!(Egress, ifindex) == 0) };
        let value = Egress {
            ifindex,
            mtu,
            mac,
            _pad: 0,
        };
        self.table.write_first_word_last(entry.into(), &value)?;
        Ok(entry)
    }

    /// Allows redirects to an interface, even without next hops behind it: replies of `nat` are
    /// transmitted on the interface that received the client's packets.
    pub fn admit(&mut self, ifindex: u32) -> Result<()> {
        self.devices
            .insert(ifindex, ifindex, None, 0)
            .map_err(|error| DataplaneError::Map {
                operation: "add an interface",
                map: format!("{} (interface {ifindex})", name::DEVICES),
                kernel: chain(&error),
                hint: DEVICE_HINT,
            })
    }

    /// Removes an interface that no next hop refers to any more.
    pub fn release(&mut self, ifindex: u32) -> Result<()> {
        if let Some(entry) = self.find(ifindex)? {
            self.table
                .write(entry.into(), &bytemuck::Zeroable::zeroed())?;
        }
        match self.devices.remove(ifindex) {
            // The kernel removes deleted interfaces itself.
            Err(error) if !is_missing(&error) => Err(DataplaneError::map(
                "remove an interface",
                name::DEVICES,
                &error,
                DEVICE_HINT,
            )),
            _ => Ok(()),
        }
    }

    /// All entries in use.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Egress)> + '_ {
        (1..self.table.len())
            .filter_map(|entry| Some((entry as u16, self.table.read(entry).ok()?)))
            .filter(|(_, egress)| egress.ifindex != 0)
    }
}
