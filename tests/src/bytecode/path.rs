//! Counts the instructions that a packet takes through the entry point of the balancer's object.
//!
//! An interpreter of the instruction set (RFC 9669) for the fast path: one function, no calls but of a
//! few helpers. It counts the instructions before the kernel rewrites them, so the result is the same
//! on every machine. Addresses are numbers of segments and offsets, so that nothing outside the given
//! memory can be touched.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, elf::FileHeader64,
    read::elf::ElfFile,
};

/// What a packet took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// XDP action.
    pub verdict: u64,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    pub instructions: u32,
    /// Loads and stores of the stack.
    pub stack_accesses: u32,
    /// Offsets of the instructions in the section, in bytes, in the order in which they were executed.
    pub offsets: Vec<usize>,
}

const SECTION: &str = "xdp";
const ENTRY: &str = "evenkeel_lb";
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
const HEADROOM: usize = 256;
const STACK: usize = 512;
/// More than any path has.
const MOST_INSTRUCTIONS: u32 = 10_000;

/// Instruction classes and modes (RFC 9669 §3, §5).
mod op {
    pub(super) const LD: u8 = 0;
    pub(super) const LDX: u8 = 1;
    pub(super) const ST: u8 = 2;
    pub(super) const STX: u8 = 3;
    pub(super) const ALU: u8 = 4;
    pub(super) const JMP: u8 = 5;
    pub(super) const JMP32: u8 = 6;
    pub(super) const ALU64: u8 = 7;
    /// Operand from a register.
    pub(super) const REGISTER: u8 = 8;
    pub(super) const MEM: u8 = 0x60;
    pub(super) const ATOMIC: u8 = 0xc0;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
}

/// Numbers of helpers (`enum bpf_func_id`).
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const GET_SMP_PROCESSOR_ID: i32 = 8;
    pub(super) const XDP_ADJUST_HEAD: i32 = 44;
    pub(super) const JIFFIES64: i32 = 118;
}

/// Segments of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segment {
    Stack,
    Packet,
    Context,
    /// A named map or symbol.
    Named(usize),
}

/// Offset of the segment's number in an address: nothing is at 0.
const SEGMENT_SHIFT: u32 = 40;

impl Segment {
    const fn address(self, offset: usize) -> u64 {
        let number = match self {
            Self::Stack => 1,
            Self::Packet => 2,
            Self::Context => 3,
            Self::Named(index) => 4 + index as u64,
        };
        (number << SEGMENT_SHIFT) + offset as u64
    }

    fn of(address: u64) -> Result<(Self, usize)> {
        let offset = (address & ((1 << SEGMENT_SHIFT) - 1)) as usize;
        let segment = match address >> SEGMENT_SHIFT {
            0 => bail!("{address:#x} is no address"),
            1 => Self::Stack,
            2 => Self::Packet,
            3 => Self::Context,
            number => Self::Named(number as usize - 4),
        };
        Ok((segment, offset))
    }
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    dst: usize,
    src: usize,
    offset: i16,
    immediate: i32,
    /// What it refers to, by index of [`Machine::named`], if it loads an address.
    target: Option<usize>,
}

/// The memory of a run.
pub struct Machine {
    program: Vec<Instruction>,
    /// Index of the first instruction.
    entry: usize,
    named: Vec<(String, Vec<u8>)>,
    stack: Vec<u8>,
    packet: Vec<u8>,
    /// Begin and end of the packet.
    bounds: (usize, usize),
    registers: [u64; 11],
    ifindex: u32,
}

impl Machine {
    /// Reads the entry point of an object. `memory` has the contents of maps by their symbols: of a map
    /// that is looked up, the only value.
    ///
    /// # Errors
    ///
    /// The object is not one.
    pub fn new(object: &[u8], memory: Vec<(&str, Vec<u8>)>) -> Result<Self> {
        let file = ElfFile::<FileHeader64<object::Endianness>>::parse(object)?;
        let section = file.section_by_name(SECTION).context("no section xdp")?;
        let code = section.data()?;
        let entry = file.symbol_by_name(ENTRY).context("no entry point")?;
        let mut named: Vec<(String, Vec<u8>)> = (memory.into_iter())
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect();
        let mut program: Vec<_> = code.chunks_exact(INSTRUCTION).map(decode).collect();
        for (at, relocation) in section.relocations() {
            let instruction = program
                .get_mut(at as usize / INSTRUCTION)
                .context("a relocation behind the end")?;
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(index)?;
            if instruction.code != 0x18 {
                continue;
            }
            let section = symbol
                .section_index()
                .and_then(|index| file.section_by_index(index).ok());
            // A global of the program: its section.
            let (name, bytes) = match &section {
                Some(section) if section.name()?.starts_with(".rodata") => {
                    instruction.immediate += symbol.address() as i32;
                    (section.name()?, section.data()?.to_vec())
                }
                _ => (symbol.name()?, Vec::new()),
            };
            let known = named.iter().position(|(known, _)| known == name);
            instruction.target = Some(known.unwrap_or(named.len()));
            if known.is_none() {
                named.push((name.to_owned(), bytes));
            }
        }
        Ok(Self {
            program,
            entry: entry.address() as usize / INSTRUCTION,
            named,
            stack: vec![0; STACK],
            packet: Vec::new(),
            bounds: (0, 0),
            registers: [0; 11],
            ifindex: 1,
        })
    }

    /// Runs the program on a frame that interface 1 received.
    ///
    /// # Errors
    ///
    /// The packet leaves the fast path, or something is not emulated.
    pub fn run(&mut self, frame: &[u8]) -> Result<Path> {
        self.packet = vec![0; HEADROOM];
        self.packet.extend(frame);
        self.bounds = (HEADROOM, self.packet.len());
        self.registers = [0; 11];
        self.registers[1] = Segment::Context.address(0);
        self.registers[10] = Segment::Stack.address(STACK);
        let mut path = Path {
            verdict: 0,
            frame: Vec::new(),
            instructions: 0,
            stack_accesses: 0,
            offsets: Vec::new(),
        };
        let mut at = self.entry;
        loop {
            let one = *self.program.get(at).context("ran over the end")?;
            path.instructions += 1;
            ensure!(path.instructions < MOST_INSTRUCTIONS, "an endless loop");
            path.offsets.push(at * INSTRUCTION);
            path.stack_accesses += u32::from(one.is_stack_access());
            if one.code == op::EXIT {
                break;
            }
            let next = self.step(one, at);
            at =
                next.with_context(|| format!("instruction at {:#x}: {one:?}", at * INSTRUCTION))?;
        }
        path.verdict = self.registers[0];
        path.frame = self.packet[self.bounds.0..self.bounds.1].to_vec();
        Ok(path)
    }

    /// Executes an instruction; returns the index of the next one.
    fn step(&mut self, one: Instruction, at: usize) -> Result<usize> {
        let class = one.code & 7;
        match class {
            op::LD => {
                ensure!(one.code == 0x18, "a legacy load");
                let upper = self.program.get(at + 1).context("half an address load")?;
                self.registers[one.dst] = match one.target {
                    Some(index) => Segment::Named(index).address(one.immediate as usize),
                    None => u64::from(one.immediate as u32) | (upper.immediate as u64) << 32,
                };
                return Ok(at + 2);
            }
            op::LDX => {
                ensure!(one.code & 0xe0 == op::MEM, "a load of an unknown mode");
                let address = self.registers[one.src].wrapping_add(one.offset as u64);
                self.registers[one.dst] = self.load(address, one.width())?;
            }
            op::ST | op::STX => {
                ensure!(one.code & 0xe0 != op::ATOMIC, "an atomic operation");
                let address = self.registers[one.dst].wrapping_add(one.offset as u64);
                let value = if class == op::ST {
                    one.immediate as u64
                } else {
                    self.registers[one.src]
                };
                self.store(address, one.width(), value)?;
            }
            op::ALU | op::ALU64 => self.registers[one.dst] = self.computed(one)?,
            op::JMP | op::JMP32 if one.code == op::CALL => self.call(one)?,
            op::JMP | op::JMP32 => {
                if self.jumps(one)? {
                    return Ok((at as i64 + 1 + i64::from(one.offset)) as usize);
                }
            }
            _ => bail!("an unknown class"),
        }
        Ok(at + 1)
    }

    fn operand(&self, one: Instruction) -> u64 {
        if one.code & op::REGISTER == 0 {
            one.immediate as u64
        } else {
            self.registers[one.src]
        }
    }

    fn computed(&self, one: Instruction) -> Result<u64> {
        let is_64 = one.code & 7 == op::ALU64;
        let (a, b) = (self.registers[one.dst], self.operand(one));
        let (a, b) = if is_64 {
            (a, b)
        } else {
            (u64::from(a as u32), u64::from(b as u32))
        };
        let bits = if is_64 { 63 } else { 31 };
        let value = match one.code & 0xf0 {
            0x00 => a.wrapping_add(b),
            0x10 => a.wrapping_sub(b),
            0x20 => a.wrapping_mul(b),
            0x30 => a.checked_div(b).unwrap_or(0),
            0x40 => a | b,
            0x50 => a & b,
            0x60 => a << (b & bits),
            0x70 => a >> (b & bits),
            0x80 => a.wrapping_neg(),
            0x90 => a.checked_rem(b).unwrap_or(a),
            0xa0 => a ^ b,
            0xb0 => b,
            0xc0 if is_64 => (a as i64 >> (b & bits)) as u64,
            0xc0 => u64::from((a as i32 >> (b & bits)) as u32),
            // To big endian (the register bit), or little endian, which is this machine's.
            0xd0 => {
                let a = self.registers[one.dst];
                let swaps = one.code & op::REGISTER != 0;
                return Ok(match one.immediate {
                    16 if swaps => u64::from((a as u16).swap_bytes()),
                    32 if swaps => u64::from((a as u32).swap_bytes()),
                    64 if swaps => a.swap_bytes(),
                    16 => u64::from(a as u16),
                    32 => u64::from(a as u32),
                    _ => a,
                });
            }
            _ => bail!("an unknown operation"),
        };
        Ok(if is_64 {
            value
        } else {
            u64::from(value as u32)
        })
    }

    fn jumps(&self, one: Instruction) -> Result<bool> {
        let is_64 = one.code & 7 == op::JMP;
        let (a, b) = (self.registers[one.dst], self.operand(one));
        let (a, b) = if is_64 {
            (a, b)
        } else {
            (u64::from(a as u32), u64::from(b as u32))
        };
        let signed = |x: u64| if is_64 { x as i64 } else { i64::from(x as i32) };
        Ok(match one.code & 0xf0 {
            0x00 => true,
            0x10 => a == b,
            0x20 => a > b,
            0x30 => a >= b,
            0x40 => a & b != 0,
            0x50 => a != b,
            0x60 => signed(a) > signed(b),
            0x70 => signed(a) >= signed(b),
            0xa0 => a < b,
            0xb0 => a <= b,
            0xc0 => signed(a) < signed(b),
            0xd0 => signed(a) <= signed(b),
            _ => bail!("an unknown jump"),
        })
    }

    fn call(&mut self, one: Instruction) -> Result<()> {
        ensure!(
            one.src == 0,
            "a call of a function: the packet leaves the fast path"
        );
        self.registers[0] = match one.immediate {
            // A map is its only value; a map of maps is the only value of its only map.
            helper::MAP_LOOKUP => self.registers[1],
            helper::GET_SMP_PROCESSOR_ID | helper::JIFFIES64 => 0,
            helper::XDP_ADJUST_HEAD => {
                let begin = self.bounds.0 as i64 + i64::from(self.registers[2] as i32);
                ensure!((0..self.bounds.1 as i64).contains(&begin), "no room");
                self.bounds.0 = begin as usize;
                0
            }
            number => bail!("helper {number} is not emulated"),
        };
        // Callers must not rely on them.
        self.registers[1..6].fill(u64::MAX);
        Ok(())
    }

    fn memory(&mut self, address: u64, width: usize) -> Result<&mut [u8]> {
        let (segment, offset) = Segment::of(address)?;
        let bounds = self.bounds;
        let bytes = match segment {
            Segment::Stack => &mut self.stack[..],
            Segment::Packet => {
                ensure!(
                    bounds.0 <= offset && offset + width <= bounds.1,
                    "outside the packet"
                );
                &mut self.packet[..]
            }
            Segment::Context => bail!("the context is read-only"),
            Segment::Named(index) => &mut self.named[index].1[..],
        };
        let len = bytes.len();
        bytes
            .get_mut(offset..offset + width)
            .ok_or_else(|| anyhow!("{segment:?} has {len} bytes, and not {width} at {offset}"))
    }

    fn load(&mut self, address: u64, width: usize) -> Result<u64> {
        if let (Segment::Context, offset) = Segment::of(address)? {
            // `struct xdp_md`.
            return Ok(match offset {
                0 => Segment::Packet.address(self.bounds.0),
                4 => Segment::Packet.address(self.bounds.1),
                12 => self.ifindex.into(),
                _ => bail!("offset {offset} of the context is not emulated"),
            });
        }
        let bytes = self.memory(address, width)?;
        let mut value = [0; 8];
        value[..width].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(value))
    }

    fn store(&mut self, address: u64, width: usize, value: u64) -> Result<()> {
        let bytes = self.memory(address, width)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..width]);
        Ok(())
    }
}

impl Instruction {
    const fn width(self) -> usize {
        match self.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        }
    }

    const fn is_stack_access(self) -> bool {
        match self.code & 7 {
            op::LDX => self.src == 10,
            op::ST | op::STX => self.dst == 10,
            _ => false,
        }
    }
}

fn decode(bytes: &[u8]) -> Instruction {
    let [code, registers, a, b, i, j, k, l] = bytes else {
        unreachable!("chunks of eight")
    };
    Instruction {
        code: *code,
        dst: usize::from(registers & 0xf).min(10),
        src: usize::from(registers >> 4).min(10),
        offset: i16::from_le_bytes([*a, *b]),
        immediate: i32::from_le_bytes([*i, *j, *k, *l]),
        target: None,
    }
}
