//! The smallest XDP program, `return XDP_PASS`, and why the lab needs it.
//!
//! A veth end drops, without a word, frames that its peer sends by native `XDP_TX` or `XDP_REDIRECT`, unless
//! it runs an XDP program itself (only then it has the NAPI context that takes such frames). So the
//! switch's end of every balancer's cable gets this one.

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

/// Puts the program on an interface of a namespace, in native mode.
pub fn attach_pass(ns: &Namespace, interface: &str) -> Result<XdpProgram> {
    XdpProgram::attach(ns, interface, &PASS)
}
