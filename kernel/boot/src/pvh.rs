//! The start information of Xen's PVH boot protocol.
//!
//! The layout is that of `hvm_start_info`, `hvm_modlist_entry` and `hvm_memmap_table_entry` in
//! Xen's public header `arch-x86/hvm/start_info.h`. All fields are little-endian.

use heliox_types::PhysicalAddress;

use crate::diagnostic::Diagnostic;
use crate::information::{BootError, BootInformation, string_at};
use crate::memory_map::{Limits, MemoryKind};
use crate::physical_memory::{read_array, u32_at, u64_at};
use crate::{PhysicalMemory, PhysicalRange};

/// The first field of the start information: "xEn3" with the highest bit of the E set.
pub(crate) const MAGIC: u32 = 0x336e_c578;

/// Size in bytes of the start information up to the fields of version 1.
const VERSION_0_BYTES: usize = 40;

/// Size in bytes of the start information from version 1 on.
const VERSION_1_BYTES: usize = 56;

/// Size in bytes of an entry of the module list.
const MODULE_BYTES: usize = 32;

/// Size in bytes of an entry of the memory map.
const MEMORY_MAP_ENTRY_BYTES: usize = 24;

/// Size in bytes of the root pointer of ACPI from version 2 on.
const RSDP_BYTES: u64 = 36;

/// More entries than this are no memory map.
const MEMORY_MAP_ENTRIES: u32 = 4096;

/// Reads the start information at `address` into `information`.
pub(crate) fn read(
    information: &mut BootInformation,
    address: PhysicalAddress,
    memory: &mut impl PhysicalMemory,
    limits: Limits,
) -> Result<(), BootError> {
    let start = structure(address.get(), VERSION_0_BYTES as u64)?;
    let header: [u8; VERSION_0_BYTES] = read_array(memory, start, 0)?;
    let magic = u32_at::<0, _>(&header);
    if magic != MAGIC {
        return Err(BootError::NotPvh { found: magic });
    }
    read_command_line(information, memory, u64_at::<24, _>(&header))?;
    if u32_at::<4, _>(&header) == 0 {
        return Err(BootError::PvhVersion0);
    }
    let start = structure(address.get(), VERSION_1_BYTES as u64)?;
    information.add_structure(start)?;
    let header: [u8; VERSION_1_BYTES] = read_array(memory, start, 0)?;
    let rsdp = u64_at::<32, _>(&header);
    if rsdp != 0 {
        information.set_rsdp(rsdp);
        if let Some(range) = PhysicalRange::new(rsdp, RSDP_BYTES) {
            information.add_structure(range)?;
        }
    }
    let (map, entries) = (u64_at::<40, _>(&header), u32_at::<48, _>(&header));
    read_memory_map(information, memory, limits, map, entries)?;
    let (modules, count) = (u64_at::<16, _>(&header), u32_at::<12, _>(&header));
    read_modules(information, memory, modules, count)
}

/// The structure of `bytes` bytes at `start`.
fn structure(start: u64, bytes: u64) -> Result<PhysicalRange, BootError> {
    PhysicalRange::new(start, bytes).ok_or(BootError::NoSuchStructure { start, bytes })
}

fn read_command_line(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    address: u64,
) -> Result<(), BootError> {
    if address == 0 {
        return Ok(());
    }
    let Some(source) = string_at(address) else {
        information.diagnostics.record(Diagnostic::CommandLineAddress { address });
        return Ok(());
    };
    let bytes = information.set_command_line(memory, source);
    information.add_structure(structure(address, bytes)?)
}

fn read_memory_map(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    limits: Limits,
    address: u64,
    count: u32,
) -> Result<(), BootError> {
    if address == 0 || count == 0 {
        return Err(BootError::NoMemoryMap);
    }
    if count > MEMORY_MAP_ENTRIES {
        return Err(BootError::TooManyMemoryMapEntries { count });
    }
    let table = structure(address, u64::from(count) * MEMORY_MAP_ENTRY_BYTES as u64)?;
    information.add_structure(table)?;
    let mut builder = information.memory_map.rebuild(limits, &mut information.diagnostics);
    for index in 0..u64::from(count) {
        let entry: [u8; MEMORY_MAP_ENTRY_BYTES] =
            read_array(memory, table, index * MEMORY_MAP_ENTRY_BYTES as u64)?;
        let kind = MemoryKind::from_e820(u32_at::<16, _>(&entry));
        builder.add(u64_at::<0, _>(&entry), u64_at::<8, _>(&entry), kind);
    }
    Ok(())
}

fn read_modules(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    address: u64,
    count: u32,
) -> Result<(), BootError> {
    if count == 0 {
        return Ok(());
    }
    let ignored = u64::from(count).saturating_sub(BootInformation::MODULES as u64);
    if ignored > 0 {
        information.diagnostics.record(Diagnostic::TooManyModules { ignored });
    }
    let taken = u64::from(count) - ignored;
    let table = structure(address, taken * MODULE_BYTES as u64)?;
    information.add_structure(table)?;
    // Numbers count up from 0, beside the offsets of the entries.
    for (number, offset) in (0..table.bytes()).step_by(MODULE_BYTES).enumerate() {
        let entry: [u8; MODULE_BYTES] = read_array(memory, table, offset)?;
        let place = (u64_at::<0, _>(&entry), u64_at::<8, _>(&entry));
        let text_address = u64_at::<16, _>(&entry);
        let text = match (text_address, string_at(text_address)) {
            (0, _) => PhysicalRange::EMPTY,
            (_, Some(text)) => text,
            (address, None) => {
                information.diagnostics.record(Diagnostic::CommandLineAddress { address });
                PhysicalRange::EMPTY
            }
        };
        if let Some(bytes) = information.add_module(memory, number, place, text) {
            information.add_structure(structure(text.start().get(), bytes)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use heliox_types::Frame;
    use proptest::prelude::*;

    use super::*;
    use crate::cpio::tests::{append, finish};
    use crate::diagnostic::ModuleRefusal;
    use crate::information::BootProtocol;
    use crate::information::tests::{KERNEL, LIMITS, assert_invariants, module_names};
    use crate::physical_memory::tests::TestMemory;

    const START: u64 = 0x1000;
    const COMMAND_LINE: u64 = 0x2000;
    const MAP: u64 = 0x3000;
    const MODULES: u64 = 0x4000;
    const TEXTS: u64 = 0x5000;
    const CONTENTS: u64 = 0x1_0000;

    const USUAL_MAP: [(u64, u64, u32); 3] =
        [(0, 0x9_f000, 1), (0xf_0000, 0x1_0000, 2), (0x10_0000, 0x70_0000, 1)];

    struct Start {
        magic: u32,
        version: u32,
        command_line: u64,
        rsdp: u64,
        map: (u64, u32),
        modules: (u64, u32),
    }

    fn usual() -> Start {
        Start {
            magic: MAGIC,
            version: 1,
            command_line: COMMAND_LINE,
            rsdp: 0xf_5000,
            map: (MAP, 3),
            modules: (0, 0),
        }
    }

    fn write_start(memory: &mut TestMemory, start: &Start) {
        for (offset, value) in
            [(0, start.magic), (4, start.version), (12, start.modules.1), (48, start.map.1)]
        {
            memory.write(START + offset, &value.to_le_bytes());
        }
        for (offset, value) in
            [(16, start.modules.0), (24, start.command_line), (32, start.rsdp), (40, start.map.0)]
        {
            memory.write(START + offset, &value.to_le_bytes());
        }
    }

    fn memory(start: &Start, map: &[(u64, u64, u32)]) -> TestMemory {
        let mut memory = TestMemory::zeroed(0, 0x2_0000);
        write_start(&mut memory, start);
        memory.write(COMMAND_LINE, b"log=trace\0");
        for (index, (address, bytes, kind)) in map.iter().enumerate() {
            let entry = MAP + index as u64 * 24;
            memory.write(entry, &address.to_le_bytes());
            memory.write(entry + 8, &bytes.to_le_bytes());
            memory.write(entry + 16, &kind.to_le_bytes());
        }
        memory
    }

    /// Adds the module list; texts are 64 bytes apart.
    fn with_modules(modules: &[(u64, u64, &str)]) -> TestMemory {
        let start = Start { modules: (MODULES, modules.len() as u32), ..usual() };
        let mut memory = memory(&start, &USUAL_MAP);
        for (index, (address, bytes, text)) in modules.iter().enumerate() {
            let entry = MODULES + index as u64 * 32;
            let text_address = TEXTS + index as u64 * 64;
            memory.write(entry, &address.to_le_bytes());
            memory.write(entry + 8, &bytes.to_le_bytes());
            memory.write(entry + 16, &text_address.to_le_bytes());
            memory.write(text_address, text.as_bytes());
        }
        memory
    }

    fn parse(memory: &mut TestMemory) -> (BootInformation, Result<(), BootError>) {
        let mut information = BootInformation::empty();
        let address = PhysicalAddress::new(START).unwrap();
        let result = information.parse(BootProtocol::Pvh, address, memory, LIMITS, KERNEL);
        if result.is_ok() {
            assert_invariants(&information);
        }
        (information, result)
    }

    fn accepted(mut memory: TestMemory) -> BootInformation {
        let (information, result) = parse(&mut memory);
        assert_eq!(result, Ok(()));
        information
    }

    fn refusals(information: &BootInformation) -> Vec<(usize, ModuleRefusal)> {
        let refusal = |diagnostic: &Diagnostic| match *diagnostic {
            Diagnostic::ModuleRefused { number, reason, .. } => Some((number, reason)),
            _ => None,
        };
        information.diagnostics().as_slice().iter().filter_map(refusal).collect()
    }

    #[test]
    fn usual_information_is_read() {
        let information = accepted(memory(&usual(), &USUAL_MAP));
        assert_eq!(information.command_line(), "log=trace");
        assert_eq!(information.rsdp(), PhysicalAddress::new(0xf_5000));
        assert_eq!(information.memory_map().highest_usable(), Frame::new(0x7ff));
        assert_eq!(information.modules().len(), 0);
        assert!(information.diagnostics().as_slice().is_empty());
    }

    #[test]
    fn another_magic_number_is_refused() {
        let start = Start { magic: 0x36d7_6289, ..usual() };
        assert_eq!(
            parse(&mut memory(&start, &USUAL_MAP)).1,
            Err(BootError::NotPvh { found: 0x36d7_6289 })
        );
    }

    #[test]
    fn version_0_has_no_memory_map() {
        let start = Start { version: 0, ..usual() };
        let (information, result) = parse(&mut memory(&start, &USUAL_MAP));
        assert_eq!(result, Err(BootError::PvhVersion0));
        assert_eq!(information.command_line(), "log=trace");
    }

    #[test]
    fn later_versions_are_read_like_version_1() {
        accepted(memory(&Start { version: 7, ..usual() }, &USUAL_MAP));
    }

    #[test]
    fn a_missing_or_huge_memory_map_is_refused() {
        let with = |map| parse(&mut memory(&Start { map, ..usual() }, &USUAL_MAP)).1;
        assert_eq!(with((0, 3)), Err(BootError::NoMemoryMap));
        assert_eq!(with((MAP, 0)), Err(BootError::NoMemoryMap));
        assert_eq!(
            with((MAP, u32::MAX)),
            Err(BootError::TooManyMemoryMapEntries { count: u32::MAX })
        );
        assert!(matches!(with((0x1_fff0, 3)), Err(BootError::Unreadable(_))));
        assert_eq!(
            with((u64::MAX, 3)),
            Err(BootError::NoSuchStructure { start: u64::MAX, bytes: 72 })
        );
    }

    #[test]
    fn a_strange_command_line_does_not_stop_the_boot() {
        for command_line in [0x1_ffff_ffff, u64::MAX] {
            let information = accepted(memory(&Start { command_line, ..usual() }, &USUAL_MAP));
            assert_eq!(information.command_line(), "");
            assert_eq!(information.diagnostics().as_slice().len(), 1);
        }
        let mut long = memory(&usual(), &USUAL_MAP);
        long.write(COMMAND_LINE, &[b'x'; 2000]);
        let information = accepted(long);
        assert_eq!(information.command_line().len(), BootInformation::COMMAND_LINE_BYTES);
        assert_eq!(
            information.diagnostics().as_slice(),
            [Diagnostic::CommandLineTruncated { kept: 1024 }]
        );
    }

    #[test]
    fn what_was_read_is_not_usable() {
        let information = accepted(with_modules(&[(CONTENTS, 0x1001, "sigma0")]));
        let in_use = |frame| {
            let kind = information.memory_map().kind_of(Frame::new(frame).unwrap());
            kind == Some(MemoryKind::InUse)
        };
        assert!([1, 2, 3, 4, 5, 0x10, 0x11].into_iter().all(in_use));
        assert!(![0, 6, 7, 0xf, 0x12].into_iter().any(in_use));
    }

    #[test]
    fn several_modules_stay_as_they_are() {
        let information = accepted(with_modules(&[
            (CONTENTS, 0x1000, "sigma0"),
            (CONTENTS + 0x1000, 0x1000, "root -v"),
        ]));
        assert_eq!(module_names(&information), ["sigma0", "root"]);
        assert_eq!(information.modules().nth(1).unwrap().command_line, "root -v");
    }

    #[test]
    fn one_elf_file_is_one_module() {
        let mut memory = with_modules(&[(CONTENTS, 0x1000, "program")]);
        memory.write(CONTENTS, b"\x7fELF");
        assert_eq!(module_names(&accepted(memory)), ["program"]);
    }

    #[test]
    fn modules_in_impossible_places_are_refused() {
        let kernel = KERNEL.start() << 12;
        let information = accepted(with_modules(&[
            (CONTENTS, 0x1000, "good"),
            (CONTENTS + 0xfff, 2, "overlaps the first"),
            (MAP + 8, 1, "overlaps the memory map"),
            (0x7f_f000, 0x1001, "partly past the end"),
            (0x9_e000, 0x2000, "partly in a hole"),
            (kernel, 1, "in the kernel"),
            (CONTENTS, 0, "empty"),
            (u64::MAX, u64::MAX, "nowhere"),
        ]));
        assert_eq!(module_names(&information), ["good"]);
        let mut refusals = refusals(&information);
        refusals.sort_by_key(|&(number, _)| number);
        let range = |start, bytes| PhysicalRange::new(start, bytes).unwrap();
        assert_eq!(
            refusals,
            [
                (1, ModuleRefusal::OverlapsModule { module: range(CONTENTS, 0x1000) }),
                (2, ModuleRefusal::OverlapsLoader { structure: range(MAP, 72) }),
                (3, ModuleRefusal::NotInUsableMemory),
                (4, ModuleRefusal::NotInUsableMemory),
                (5, ModuleRefusal::NotInUsableMemory),
                (6, ModuleRefusal::Empty),
                (7, ModuleRefusal::NoSuchRange),
            ]
        );
    }

    #[test]
    fn more_modules_than_there_is_room_for_are_ignored() {
        let modules: Vec<(u64, u64, &str)> =
            (0..33).map(|index| (CONTENTS + index * 16, 16, "m")).collect();
        let information = accepted(with_modules(&modules));
        assert_eq!(information.modules().len(), 32);
        assert_eq!(
            information.diagnostics().as_slice(),
            [Diagnostic::TooManyModules { ignored: 1 }]
        );
        let start = Start { modules: (MODULES, u32::MAX), ..usual() };
        accepted(memory(&start, &USUAL_MAP));
    }

    fn archive() -> Vec<u8> {
        let mut archive = Vec::new();
        append(&mut archive, ".", 0o040_755, b"", false);
        append(&mut archive, "sigma0", 0o100_644, b"\x7fELF first", true);
        append(&mut archive, "root console=uart", 0o100_644, &[1; 5000], true);
        append(&mut archive, "empty", 0o100_644, b"", true);
        finish(&mut archive);
        archive
    }

    fn with_archive(archive: &[u8]) -> TestMemory {
        let mut memory = with_modules(&[(CONTENTS, archive.len() as u64, "archive")]);
        memory.write(CONTENTS, archive);
        memory
    }

    #[test]
    fn an_archive_is_unpacked() {
        let information = accepted(with_archive(&archive()));
        let modules: Vec<(&str, u64)> = information
            .modules()
            .map(|module| (module.command_line, module.range.bytes()))
            .collect();
        assert_eq!(modules, [("sigma0", 10), ("root console=uart", 5000)]);
        assert!(information.modules().all(|module| module.range.start().is_aligned(12)));
        assert_eq!(refusals(&information), [(2, ModuleRefusal::Empty)]);
        assert_eq!(
            information.diagnostics().as_slice()[0],
            Diagnostic::ArchiveEntryIgnored { offset: 0, mode: 0o040_755 }
        );
        // Headers are kept as well: programs may be looked for there again.
        let first = Frame::new(CONTENTS >> 12).unwrap();
        assert_eq!(information.memory_map().kind_of(first), Some(MemoryKind::InUse));
    }

    #[test]
    fn a_malformed_archive_is_an_error() {
        let mut bytes = archive();
        let length = bytes.len();
        bytes.truncate(length - 124);
        assert!(matches!(parse(&mut with_archive(&bytes)).1, Err(BootError::Archive(_))));
    }

    #[test]
    fn an_archive_has_bounds() {
        let mut bytes = Vec::new();
        for _ in 0..40 {
            append(&mut bytes, "m", 0o100_644, b"x", false);
        }
        let mut full = bytes.clone();
        finish(&mut full);
        let information = accepted(with_archive(&full));
        assert_eq!(information.modules().len(), 32);
        assert_eq!(
            information.diagnostics().as_slice(),
            [Diagnostic::TooManyModules { ignored: 8 }]
        );
        let mut memory = with_modules(&[(CONTENTS, 0x3_0000, "archive")]);
        memory.bytes.resize(0x4_0000, 0);
        let mut bytes = Vec::new();
        for _ in 0..1500 {
            append(&mut bytes, "m", 0o100_644, b"x", false);
        }
        memory.write(CONTENTS, &bytes);
        assert_eq!(parse(&mut memory).1, Err(BootError::TooManyArchiveEntries));
    }

    #[test]
    fn parsing_again_forgets_what_was_there() {
        let mut information = accepted(with_archive(&archive()));
        let address = PhysicalAddress::new(START).unwrap();
        let mut memory = memory(&Start { rsdp: 0, ..usual() }, &USUAL_MAP);
        information.parse(BootProtocol::Pvh, address, &mut memory, LIMITS, KERNEL).unwrap();
        assert_eq!(information.modules().len(), 0);
        assert_eq!(information.rsdp(), None);
        assert!(information.diagnostics().as_slice().is_empty());
    }

    #[test]
    fn errors_and_diagnostics_are_one_line() {
        let information = accepted(with_archive(&archive()));
        for diagnostic in information.diagnostics().as_slice() {
            let line: String = std::format!("{diagnostic}");
            assert!(!line.is_empty() && !line.contains('\n') && !line.contains("  "), "{line}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 64..256)) {
            let mut memory = TestMemory::zeroed(0, 0x2_0000);
            memory.write(START, &bytes);
            let _ = parse(&mut memory);
            memory.write(START, &MAGIC.to_le_bytes());
            let _ = parse(&mut memory);
        }

        #[test]
        fn an_arbitrary_memory_map_keeps_the_invariants(
            map in prop::collection::vec(
                ((0_u64..0x1000).prop_map(|page| page << 11), 0_u64..0x10_0000, 0_u32..7),
                0..20,
            ),
        ) {
            let start = Start { map: (MAP, map.len() as u32), ..usual() };
            let mut memory = memory(&start, &map);
            let _ = parse(&mut memory);
        }

        #[test]
        fn damaged_information_never_panics_and_keeps_the_invariants(
            damage in prop::collection::vec((0_u64..5, 0_u64..128, any::<u8>()), 1..8),
        ) {
            let mut memory = with_archive(&archive());
            for (structure, position, value) in damage {
                let base = [START, MAP, MODULES, TEXTS, CONTENTS][structure as usize];
                memory.write(base + position, &[value]);
            }
            let _ = parse(&mut memory);
        }

        #[test]
        fn arbitrary_modules_keep_the_invariants(
            modules in prop::collection::vec((0_u64..0x2_0000, 0_u64..0x3000), 0..12),
        ) {
            let modules: Vec<(u64, u64, &str)> =
                modules.into_iter().map(|(start, bytes)| (start, bytes, "m")).collect();
            let information = accepted(with_modules(&modules));
            prop_assert_eq!(
                information.modules().len() + refusals(&information).len(),
                modules.len()
            );
        }
    }
}
