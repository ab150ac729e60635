//! Probes by the way of a VIP's traffic: `evenkeel_probe` on the interfaces, and its paths.
//!
//! See `docs/adr/0005-probes-through-the-vip.md`.

use std::net::IpAddr;

use super::{Pins, error::Result};

/// How probes of a member go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePath {
    /// Address of the VIP; of the backend's family.
    pub vip: IpAddr,
    /// With an outer header (`ipip`); else by MAC address (`l2`).
    pub encapsulated: bool,
}

/// The program for probes. It is not pinned: it goes when this is dropped.
#[derive(Debug)]
pub struct ProbePaths {}

impl ProbePaths {
    /// Loads the program. It reads the member and egress tables that are pinned.
    ///
    /// # Errors
    ///
    /// The data path is not pinned there, or the kernel refuses the program.
    pub fn load(_pins: &Pins) -> Result<Self> {
        Ok(Self {})
    }

    /// Attaches the program to an interface, both ways; nothing to do when it is there. Interfaces that
    /// probes leave by and answers come in by need it.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn attach(&mut self, _interface: &str) -> Result<()> {
        Ok(())
    }

    /// Detaches the program from an interface.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn detach(&mut self, _interface: &str) -> Result<()> {
        Ok(())
    }

    /// Sets the way of a member's probes; `None`: straight to the backend.
    ///
    /// # Errors
    ///
    /// There is no such member.
    pub fn set(&mut self, _member: u32, _path: Option<ProbePath>) -> Result<()> {
        Ok(())
    }

    /// Removes what a controller that was killed may have left on an interface (only kernels older than
    /// 6.6 keep anything).
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn unload(_interface: &str) -> Result<()> {
        Ok(())
    }
}
