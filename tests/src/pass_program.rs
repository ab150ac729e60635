//! The smallest XDP program, `return XDP_PASS`.
//!
//! A veth end silently drops frames that its peer transmits by native `XDP_TX` or `XDP_REDIRECT` unless it
//! runs an XDP program itself: only then does it have the NAPI context that receives such frames. So
//! this program is attached to the switch's end of every balancer's link.

use anyhow::Result;

use crate::namespace::Namespace;
use crate::xdp_program::{Instruction, XdpProgram};

const XDP_PASS: i32 = 2;

/// `r0 = XDP_PASS; exit`
const PASS: [Instruction; 2] = [
    Instruction {
        opcode: 0xb7,
        registers: 0,
        offset: 0,
        immediate: XDP_PASS,
    },
    Instruction {
        opcode: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    },
];

/// Attaches the program to an interface of a namespace, in native mode.
pub fn attach_pass(ns: &Namespace, interface: &str) -> Result<XdpProgram> {
    XdpProgram::attach(ns, interface, &PASS)
}
