//! The station table: the MAC addresses that each interface accepts frames for.
//!
//! Layout and search are defined in [`lb_common::station`].

use std::collections::BTreeSet;

use lb_common::station::{
    FREE, MAX_STATION_PROBES, MAX_STATIONS, REMOVED, STATION_TABLE_SIZE, Station,
};

use super::{
    catalog::part,
    error::{DataplaneError, Result},
    mapping::Mapped,
};

const FULL_HINT: &str = "frames to this address are passed to the host; use fewer interfaces, or fewer \
     macvlan interfaces and other additional MAC addresses on them";

/// The stations of all interfaces.
#[derive(Debug)]
pub struct Stations {
    /// Starts with the egress table, see [`part::BEFORE_STATIONS`].
    pub(super) table: Mapped<u64>,
}

impl Stations {
    fn load(&self, at: u32) -> Result<u64> {
        self.table.load_word(part::BEFORE_STATIONS + at, 0)
    }

    fn store(&self, at: u32, word: u64) -> Result<()> {
        self.table.store_word(part::BEFORE_STATIONS + at, 0, word)
    }

    fn main(&self) -> Result<u64> {
        self.table.load_word(part::MAIN_STATION, 0)
    }

    /// Makes a station the main one, or none.
    fn set_main(&self, word: u64) -> Result<()> {
        self.table.store_word(part::MAIN_STATION, 0, word)
    }

    /// Accepts frames for an address. The first one is the main station.
    pub fn accept(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let station = Station::new(mac, ifindex);
        self.add(station, ifindex, mac)?;
        if self.main()? == FREE {
            self.set_main(station.0)?;
        }
        Ok(())
    }

    fn add(&self, station: Station, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let mut free = None;
        for at in places(station) {
            let word = self.load(at)?;
            if word == station.0 {
                return Ok(());
            }
            if word == FREE || word == REMOVED {
                free = free.or(Some(at));
            }
            if word == FREE {
                break;
            }
        }
        match free {
            Some(at) if self.count()? < MAX_STATIONS => self.store(at, station.0),
            _ => Err(DataplaneError::Full {
                table: part::STATIONS.name,
                what: format!("MAC address {} of interface {ifindex}", text(mac)),
                limit: format!("{MAX_STATIONS} MAC addresses"),
                hint: FULL_HINT,
            }),
        }
    }

    /// Accepts frames for an interface's own address. An interface without one is not Ethernet.
    pub(super) fn accept_own(&mut self, interface: &str, ifindex: u32) -> Result<()> {
        match own_mac(interface) {
            Some(mac) => self.accept(ifindex, mac),
            None => Ok(()),
        }
    }

    /// Accepts frames for exactly these addresses, given by interface index. New ones are added before
    /// old ones are removed. If some don't fit, the others are accepted nevertheless. The main station
    /// is the first one.
    pub fn set(&mut self, wanted: &BTreeSet<(u32, [u8; 6])>) -> Result<()> {
        let keep: BTreeSet<Station> = wanted
            .iter()
            .map(|(ifindex, mac)| Station::new(*mac, *ifindex))
            .collect();
        let mut done = Ok(());
        for (ifindex, mac) in wanted {
            let accepted = self.accept(*ifindex, *mac);
            done = done.and(accepted);
        }
        let main = wanted
            .first()
            .map(|(ifindex, mac)| Station::new(*mac, *ifindex));
        self.set_main(main.map_or(FREE, |station| station.0))?;
        for at in 0..STATION_TABLE_SIZE {
            let word = self.load(at)?;
            if word != FREE && word != REMOVED && !keep.contains(&Station(word)) {
                self.store(at, REMOVED)?;
            }
        }
        done
    }

    /// Number of addresses.
    pub fn count(&self) -> Result<u32> {
        let mut count = 0;
        for at in 0..STATION_TABLE_SIZE {
            count += u32::from(!matches!(self.load(at)?, FREE | REMOVED));
        }
        Ok(count)
    }
}

/// The positions at which a station may be.
fn places(station: Station) -> impl Iterator<Item = u32> {
    (0..MAX_STATION_PROBES).map(move |step| (station.home() + step) % STATION_TABLE_SIZE)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Returns the MAC address of an interface of this network namespace.
fn own_mac(interface: &str) -> Option<[u8; 6]> {
    let mut addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses.find_map(|address| {
        let mac = address.address?.as_link_addr()?.addr()?;
        (address.interface_name == interface).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stations() -> Stations {
        Stations {
            table: Mapped::anonymous("STATIONS", part::STATIONS.len).unwrap(),
        }
    }

    /// Searches as the data path does.
    fn accepts(stations: &Stations, ifindex: u32, mac: [u8; 6]) -> bool {
        let station = Station::new(mac, ifindex);
        let main = stations.main().unwrap();
        if main == station.0 {
            return true;
        }
        for at in places(station) {
            match stations.load(at).unwrap() {
                word if word == station.0 => return true,
                FREE => return false,
                _ => {}
            }
        }
        false
    }

    fn numbered(count: u32) -> BTreeSet<(u32, [u8; 6])> {
        (0..count)
            .map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                (7, [2, 0, a, b, c, d])
            })
            .collect()
    }

    #[test]
    fn holds_exactly_the_addresses_that_were_set() {
        let mut stations = stations();
        let all = numbered(200);
        let some: BTreeSet<_> = all.iter().copied().skip(50).take(100).collect();
        for set in [&all, &some, &BTreeSet::new(), &all] {
            stations.set(set).unwrap();
            assert_eq!(stations.count().unwrap() as usize, set.len());
            for (ifindex, mac) in &all {
                let expected = set.contains(&(*ifindex, *mac));
                assert_eq!(accepts(&stations, *ifindex, *mac), expected, "{mac:?}");
                assert!(!accepts(&stations, ifindex + 1, *mac), "another interface");
            }
            let main = set
                .first()
                .map(|(ifindex, mac)| Station::new(*mac, *ifindex).0);
            assert_eq!(stations.main().unwrap(), main.unwrap_or(FREE));
        }
    }

    #[test]
    fn a_full_table_accepts_what_fits_and_reports_the_rest() {
        let mut stations = stations();
        let error = stations.set(&numbered(300)).unwrap_err().to_string();
        assert!(error.contains("256 MAC addresses"), "{error}");
        assert!(stations.count().unwrap() > 200);
    }

    #[test]
    fn no_broadcast_frame_is_for_a_station() {
        let stations = stations();
        assert!(!accepts(&stations, 0xffff, [0xff; 6]));
    }
}
