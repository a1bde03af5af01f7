//! Where the interrupt controllers are, from the tables of ACPI.
//!
//! Hides the chain from the root pointer (RSDP) over the root table (XSDT, or RSDT before ACPI 2)
//! to the multiple APIC description table (MADT); ACPI specification 6.5, sections 5.2.5 to
//! 5.2.8 and 5.2.12. Nothing else is read, and no AML is run.
//!
//! Invariants: every table that is used has the right signature and checksum, and every loop is
//! bounded by the size of the largest table that is read, 64 KiB.

use core::fmt;

use heliox_types::PhysicalAddress;

use crate::list::List;
use crate::physical_memory::{read_array, u8_at, u16_at, u32_at, u64_at};
use crate::{PhysicalMemory, PhysicalRange, Unreadable};

/// Bytes of the root pointer before ACPI 2, of the header of each table, and of the MADT before
/// its first entry.
const ROOT_POINTER_BYTES: u64 = 20;
const HEADER_BYTES: u64 = 36;
const MADT_BYTES: u64 = 44;

/// Bytes of the largest table that is read.
const LARGEST_TABLE: u64 = 64 << 10;

/// Types of the entries of a MADT.
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_ADDRESS: u8 = 5;

/// Number of ISA interrupts.
const ISA_INTERRUPTS: u8 = 16;

/// Why the tables say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// What is at the address of a table is not that table.
    WrongSignature {
        /// What the table is called.
        expected: [u8; 4],
        /// What is there.
        found: [u8; 4],
    },
    /// The bytes of a table do not add up to 0.
    Checksum {
        /// What the table is called.
        table: [u8; 4],
    },
    /// A table has an impossible size, or a place that does not exist.
    Size {
        /// What the table is called.
        table: [u8; 4],
        /// Its address.
        address: u64,
        /// Its size in bytes.
        bytes: u32,
    },
    /// There is no MADT.
    NoMadt,
    /// An entry of the MADT does not fit into it, or is smaller than its type wants.
    Entry {
        /// Where it begins, in bytes from the start of the MADT.
        offset: u64,
        /// Its type.
        kind: u8,
        /// Its size in bytes.
        bytes: u8,
    },
    /// A controller is at an address that does not exist.
    Address(u64),
    /// A table cannot be read.
    Unreadable(Unreadable),
}

impl From<Unreadable> for AcpiError {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl fmt::Display for AcpiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongSignature { expected, found } => write!(
                formatter,
                "ACPI table \"{}\" begins with \"{}\"",
                expected.escape_ascii(),
                found.escape_ascii()
            ),
            Self::Checksum { table } => {
                write!(formatter, "ACPI table \"{}\" has a wrong checksum", table.escape_ascii())
            }
            Self::Size { table, address, bytes } => write!(
                formatter,
                "ACPI table \"{}\" cannot have {bytes} bytes at {address:#x}",
                table.escape_ascii()
            ),
            Self::NoMadt => formatter.write_str("ACPI has no MADT"),
            Self::Entry { offset, kind, bytes } => write!(
                formatter,
                "entry of type {kind} at offset {offset} of the MADT cannot have {bytes} bytes"
            ),
            Self::Address(address) => {
                write!(formatter, "no interrupt controller can be at {address:#x}")
            }
            Self::Unreadable(error) => write!(formatter, "ACPI table: {error}"),
        }
    }
}

impl core::error::Error for AcpiError {}

/// An interrupt controller for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Address of its registers.
    pub address: PhysicalAddress,
    /// Number of the global system interrupt at its first pin.
    pub first: u32,
}

/// When a line asks for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// When it becomes active.
    Edge,
    /// For as long as it is active.
    Level,
}

/// Which voltage is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// The high one.
    High,
    /// The low one.
    Low,
}

/// Where a line leads, and how it asks for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Number of the global system interrupt.
    pub interrupt: u32,
    /// When it asks.
    pub trigger: Trigger,
    /// Which voltage is active.
    pub polarity: Polarity,
}

impl Wiring {
    /// Trigger and polarity as an I/O APIC has them in the low half of an entry (82093AA
    /// datasheet, section 3.2.4).
    #[must_use]
    pub const fn entry_bits(self) -> u32 {
        let trigger = match self.trigger {
            Trigger::Edge => 0,
            Trigger::Level => 1 << 15,
        };
        let polarity = match self.polarity {
            Polarity::High => 0,
            Polarity::Low => 1 << 13,
        };
        trigger | polarity
    }
}

/// The interrupt controllers of a machine and how ISA interrupts are wired to them.
#[derive(Clone, Debug)]
pub struct InterruptControllers {
    local_apic: PhysicalAddress,
    io_apics: List<IoApic, 8>,
    overrides: [Option<Wiring>; ISA_INTERRUPTS as usize],
}

impl InterruptControllers {
    /// Reads the tables that the root pointer at `root_pointer` leads to.
    ///
    /// # Errors
    /// An [`AcpiError`] if some table on the way is not as it should be.
    pub fn read(
        root_pointer: PhysicalAddress,
        memory: &mut impl PhysicalMemory,
    ) -> Result<Self, AcpiError> {
        let (root, entry_bytes) = root_table(root_pointer, memory)?;
        let mut offset = HEADER_BYTES;
        while offset + entry_bytes <= root.bytes() {
            let address = match entry_bytes {
                4 => u64::from(u32::from_le_bytes(read_array(memory, root, offset)?)),
                _ => u64::from_le_bytes(read_array(memory, root, offset)?),
            };
            if signature(memory, address) == Ok(*b"APIC") {
                return Self::from_madt(table(*b"APIC", address, memory)?, memory);
            }
            offset += entry_bytes;
        }
        Err(AcpiError::NoMadt)
    }

    fn from_madt(madt: PhysicalRange, memory: &mut impl PhysicalMemory) -> Result<Self, AcpiError> {
        let address = |address| PhysicalAddress::new(address).ok_or(AcpiError::Address(address));
        let base: [u8; MADT_BYTES as usize] = read_array(memory, madt, 0)?;
        let mut found = Self {
            local_apic: address(u64::from(u32_at::<36, _>(&base)))?,
            io_apics: List::empty(IoApic { address: PhysicalAddress::ZERO, first: 0 }),
            overrides: [None; ISA_INTERRUPTS as usize],
        };
        let mut offset = MADT_BYTES;
        while offset < madt.bytes() {
            // A lone last byte is padding.
            let Ok([kind, bytes]) = read_array(memory, madt, offset) else {
                break;
            };
            let least = match kind {
                IO_APIC | LOCAL_APIC_ADDRESS => 12,
                SOURCE_OVERRIDE => 10,
                _ => 2,
            };
            if bytes < least || madt.part(offset, u64::from(bytes)).is_none() {
                return Err(AcpiError::Entry { offset, kind, bytes });
            }
            match kind {
                IO_APIC => {
                    let entry: [u8; 12] = read_array(memory, madt, offset)?;
                    let io_apic = IoApic {
                        address: address(u64::from(u32_at::<4, _>(&entry)))?,
                        first: u32_at::<8, _>(&entry),
                    };
                    // Those for which there is no room stay unused.
                    let _ = found.io_apics.push(io_apic);
                }
                SOURCE_OVERRIDE => {
                    let entry: [u8; 10] = read_array(memory, madt, offset)?;
                    found.add_override(&entry);
                }
                LOCAL_APIC_ADDRESS => {
                    let entry: [u8; 12] = read_array(memory, madt, offset)?;
                    found.local_apic = address(u64_at::<4, _>(&entry))?;
                }
                _ => {}
            }
            offset += u64::from(bytes);
        }
        Ok(found)
    }

    fn add_override(&mut self, entry: &[u8; 10]) {
        let flags = u16_at::<8, _>(entry);
        let source = usize::from(u8_at::<3, _>(entry));
        // Bus 0 is ISA, the only one that there is. Without a word of their own, lines are as
        // ISA has them: high and edge.
        if let Some(slot) = self.overrides.get_mut(source) {
            *slot = Some(Wiring {
                interrupt: u32_at::<4, _>(entry),
                trigger: match flags >> 2 & 3 {
                    3 => Trigger::Level,
                    _ => Trigger::Edge,
                },
                polarity: match flags & 3 {
                    3 => Polarity::Low,
                    _ => Polarity::High,
                },
            });
        }
    }

    /// Address of the registers of each processor's own controller.
    #[must_use]
    pub const fn local_apic(&self) -> PhysicalAddress {
        self.local_apic
    }

    /// The controllers for devices: the first eight.
    #[must_use]
    pub fn io_apics(&self) -> &[IoApic] {
        self.io_apics.as_slice()
    }

    /// Where interrupt `line` leads: an ISA interrupt below 16; from 16 on, the global system
    /// interrupt of that number, wired as PCI does. `None` for an ISA interrupt whose place
    /// another one has taken.
    #[must_use]
    pub fn wiring(&self, line: u8) -> Option<Wiring> {
        let wiring = |trigger, polarity| Wiring { interrupt: u32::from(line), trigger, polarity };
        if line >= ISA_INTERRUPTS {
            return Some(wiring(Trigger::Level, Polarity::Low));
        }
        let own = self.overrides.get(usize::from(line)).copied().flatten();
        let mut others = self.overrides.iter().flatten();
        let taken = others.any(|other| other.interrupt == u32::from(line));
        own.or_else(|| (!taken).then(|| wiring(Trigger::Edge, Polarity::High)))
    }
}

/// The root table, and the size of its entries in bytes.
fn root_table(
    root_pointer: PhysicalAddress,
    memory: &mut impl PhysicalMemory,
) -> Result<(PhysicalRange, u64), AcpiError> {
    const NAME: [u8; 4] = *b"RSD ";
    let start = root_pointer.get();
    let range = |bytes: u64| {
        PhysicalRange::new(start, bytes).ok_or(AcpiError::Size {
            table: NAME,
            address: start,
            bytes: bytes as u32,
        })
    };
    let short: [u8; ROOT_POINTER_BYTES as usize] =
        read_array(memory, range(ROOT_POINTER_BYTES)?, 0)?;
    if !short.starts_with(b"RSD PTR ") {
        let [a, b, c, d, ..] = short;
        return Err(AcpiError::WrongSignature { expected: NAME, found: [a, b, c, d] });
    }
    check_sum(NAME, range(ROOT_POINTER_BYTES)?, memory)?;
    let revision = u8_at::<15, _>(&short);
    if revision < 2 {
        let address = u64::from(u32_at::<16, _>(&short));
        return Ok((table(*b"RSDT", address, memory)?, 4));
    }
    let long: [u8; HEADER_BYTES as usize] = read_array(memory, range(HEADER_BYTES)?, 0)?;
    check_sum(NAME, range(HEADER_BYTES)?, memory)?;
    Ok((table(*b"XSDT", u64_at::<24, _>(&long), memory)?, 8))
}

/// The first four bytes at `address`.
fn signature(memory: &mut impl PhysicalMemory, address: u64) -> Result<[u8; 4], AcpiError> {
    let range = PhysicalRange::new(address, 4).ok_or(AcpiError::Address(address))?;
    Ok(read_array(memory, range, 0)?)
}

/// The table `name` at `address`: checked, and not smaller than what is always read of it.
fn table(
    name: [u8; 4],
    address: u64,
    memory: &mut impl PhysicalMemory,
) -> Result<PhysicalRange, AcpiError> {
    let size = |bytes| AcpiError::Size { table: name, address, bytes };
    let header = PhysicalRange::new(address, HEADER_BYTES).ok_or(size(0))?;
    let header: [u8; 8] = read_array(memory, header, 0)?;
    let [a, b, c, d, ..] = header;
    if [a, b, c, d] != name {
        return Err(AcpiError::WrongSignature { expected: name, found: [a, b, c, d] });
    }
    let least = if name == *b"APIC" { MADT_BYTES } else { HEADER_BYTES };
    let bytes = u32_at::<4, _>(&header);
    let range = PhysicalRange::new(address, u64::from(bytes))
        .filter(|range| (least..=LARGEST_TABLE).contains(&range.bytes()))
        .ok_or(size(bytes))?;
    check_sum(name, range, memory)?;
    Ok(range)
}

/// Refuses a table whose bytes do not add up to 0.
fn check_sum(
    table: [u8; 4],
    range: PhysicalRange,
    memory: &mut impl PhysicalMemory,
) -> Result<(), AcpiError> {
    let mut sum = 0_u8;
    let mut buffer = [0; 256];
    let mut offset = 0;
    while offset < range.bytes() {
        let count = (range.bytes() - offset).min(buffer.len() as u64);
        let chunk = buffer.get_mut(..count as usize).unwrap_or(&mut []);
        if let Some(part) = range.part(offset, count) {
            memory.read(part.start(), chunk)?;
        }
        sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte));
        offset += count;
    }
    if sum == 0 { Ok(()) } else { Err(AcpiError::Checksum { table }) }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::physical_memory::tests::TestMemory;

    const BASE: u64 = 0xe_0000;
    const ROOT: u64 = BASE + 0x100;
    const OTHER: u64 = BASE + 0x200;
    const MADT: u64 = BASE + 0x300;

    fn fix_sum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    }

    fn root_pointer(revision: u8) -> Vec<u8> {
        let mut bytes = b"RSD PTR \0HELIOX".to_vec();
        bytes.push(revision);
        bytes.extend((ROOT as u32).to_le_bytes());
        fix_sum(&mut bytes, 8);
        if revision >= 2 {
            bytes.extend(36_u32.to_le_bytes());
            bytes.extend(ROOT.to_le_bytes());
            bytes.extend([0; 4]);
            fix_sum(&mut bytes, 32);
        }
        bytes
    }

    fn sealed(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.extend((36 + body.len() as u32).to_le_bytes());
        bytes.resize(36, 1);
        bytes.extend(body);
        fix_sum(&mut bytes, 9);
        bytes
    }

    fn io_apic(address: u32, first: u32) -> Vec<u8> {
        [&[1, 12, 0, 0], &address.to_le_bytes()[..], &first.to_le_bytes()].concat()
    }

    fn source_override(source: u8, interrupt: u32, flags: u16) -> Vec<u8> {
        [&[2, 10, 0, source], &interrupt.to_le_bytes()[..], &flags.to_le_bytes()].concat()
    }

    /// A machine whose MADT has `entries`; `revision` of ACPI as in the root pointer.
    fn machine(revision: u8, entries: &[u8]) -> TestMemory {
        let mut memory = TestMemory::zeroed(BASE, 0x1000);
        memory.write(BASE, &root_pointer(revision));
        let tables = [OTHER, MADT];
        if revision < 2 {
            let body: Vec<u8> =
                tables.iter().flat_map(|table| (*table as u32).to_le_bytes()).collect();
            memory.write(ROOT, &sealed(b"RSDT", &body));
        } else {
            let body: Vec<u8> = tables.iter().flat_map(|table| table.to_le_bytes()).collect();
            memory.write(ROOT, &sealed(b"XSDT", &body));
        }
        memory.write(OTHER, &sealed(b"FACP", &[0; 8]));
        let body = [&0xfee0_0000_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), entries].concat();
        memory.write(MADT, &sealed(b"APIC", &body));
        memory
    }

    fn read(memory: &mut TestMemory) -> Result<InterruptControllers, AcpiError> {
        InterruptControllers::read(PhysicalAddress::new(BASE).unwrap(), memory)
    }

    fn usual() -> Vec<u8> {
        [
            vec_of(&[0, 8, 0, 0, 1, 0, 0, 0]),
            io_apic(0xfec0_0000, 0),
            source_override(0, 2, 0),
            source_override(9, 9, 0xd),
            source_override(10, 20, 0xf),
        ]
        .concat()
    }

    fn vec_of(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    #[test]
    fn old_and_new_tables_say_the_same() {
        for revision in [0, 2] {
            let found = read(&mut machine(revision, &usual())).unwrap();
            assert_eq!(found.local_apic().get(), 0xfee0_0000);
            let address = PhysicalAddress::new(0xfec0_0000).unwrap();
            assert_eq!(found.io_apics(), [IoApic { address, first: 0 }]);
            let wiring =
                |interrupt, trigger, polarity| Some(Wiring { interrupt, trigger, polarity });
            assert_eq!(found.wiring(0), wiring(2, Trigger::Edge, Polarity::High));
            assert_eq!(found.wiring(2), None);
            assert_eq!(found.wiring(4), wiring(4, Trigger::Edge, Polarity::High));
            assert_eq!(found.wiring(9), wiring(9, Trigger::Level, Polarity::High));
            assert_eq!(found.wiring(10), wiring(20, Trigger::Level, Polarity::Low));
            assert_eq!(found.wiring(16), wiring(16, Trigger::Level, Polarity::Low));
        }
    }

    #[test]
    fn the_local_apic_may_be_elsewhere() {
        let mut entry = vec_of(&[5, 12, 0, 0]);
        entry.extend(0x1_fee0_0000_u64.to_le_bytes());
        let found = read(&mut machine(2, &entry)).unwrap();
        assert_eq!(found.local_apic().get(), 0x1_fee0_0000);
        entry[4..].fill(0xff);
        let result = read(&mut machine(2, &entry)).map(|_| ());
        assert_eq!(result, Err(AcpiError::Address(u64::MAX)));
    }

    #[test]
    fn wrong_checksums_and_signatures_are_refused() {
        for (at, table) in
            [(BASE + 9, b"RSD "), (BASE + 35, b"RSD "), (ROOT + 20, b"XSDT"), (MADT + 20, b"APIC")]
        {
            let mut memory = machine(2, &usual());
            let offset = (at - BASE) as usize;
            memory.bytes[offset] ^= 1;
            let error = read(&mut memory).map(|_| ()).unwrap_err();
            assert_eq!(error, AcpiError::Checksum { table: *table });
        }
        for (at, expected) in [(BASE, *b"RSD "), (ROOT, *b"XSDT")] {
            let mut memory = machine(2, &usual());
            memory.write(at, b"#");
            assert!(matches!(
                read(&mut memory),
                Err(AcpiError::WrongSignature { expected: e, .. }) if e == expected
            ));
        }
        let mut memory = machine(2, &usual());
        memory.write(MADT, b"#");
        assert_eq!(read(&mut memory).map(|_| ()), Err(AcpiError::NoMadt));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for bytes in [0, 35, 43, (64 << 10) + 1, u32::MAX] {
            let mut memory = machine(2, &usual());
            memory.write(MADT + 4, &bytes.to_le_bytes());
            let error = AcpiError::Size { table: *b"APIC", address: MADT, bytes };
            assert_eq!(read(&mut memory).map(|_| ()), Err(error));
        }
    }

    #[test]
    fn entries_that_do_not_fit_are_refused() {
        for (entry, kind, bytes) in
            [([1, 0, 0, 0], 1, 0), ([7, 1, 0, 0], 7, 1), ([7, 5, 0, 0], 7, 5), ([2, 9, 0, 0], 2, 9)]
        {
            let offset = 44;
            let error = AcpiError::Entry { offset, kind, bytes };
            assert_eq!(read(&mut machine(2, &entry)).map(|_| ()), Err(error));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            revision in 0_u8..3,
        ) {
            let mut memory = TestMemory { start: BASE, bytes: bytes.clone() };
            let _ = read(&mut memory);
            let _ = read(&mut machine(revision, &bytes));
        }

        #[test]
        fn damaged_tables_never_panic(
            damage in prop::collection::vec((0_usize..0x380, any::<u8>()), 1..8),
            revision in 0_u8..3,
        ) {
            let mut memory = machine(revision, &usual());
            for (at, value) in damage {
                memory.bytes[at] = value;
            }
            if let Ok(found) = read(&mut memory) {
                let _: Vec<_> = (0..=u8::MAX).map(|line| found.wiring(line)).collect();
            }
        }
    }
}
