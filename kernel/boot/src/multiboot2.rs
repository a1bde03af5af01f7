//! The boot information of Multiboot2.
//!
//! The layout is that of section 3.6 of the Multiboot2 specification, version 2.0: a header of
//! eight bytes (total size, reserved), then tags, each at a multiple of eight bytes: type, size
//! (with this header, without padding), contents. All fields are little-endian.

use heliox_types::{PAGE_BYTES, PhysicalAddress};

use crate::diagnostic::Diagnostic;
use crate::information::{BootError, BootInformation, ColorField, FrameBuffer, FrameBufferKind};
use crate::memory_map::{Limits, MemoryKind};
use crate::physical_memory::{read_array, u8_at, u32_at, u64_at};
use crate::{PhysicalMemory, PhysicalRange};

/// More bytes than this are no boot information.
const MOST_BYTES: u32 = 1 << 20;

/// Size in bytes of the header of the information, and of each tag.
const HEADER_BYTES: u64 = 8;

/// Types of the tags that are read; all others are skipped.
mod tag_type {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER_NAME: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const BASIC_MEMORY: u32 = 4;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const FRAME_BUFFER: u32 = 8;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
    pub(super) const EFI_MEMORY_MAP: u32 = 17;
    pub(super) const EFI_BOOT_SERVICES: u32 = 18;
}

/// One tag.
#[derive(Clone, Copy)]
struct Tag {
    kind: u32,
    /// Where it begins, in bytes from the start of the information.
    offset: u64,
    /// The whole tag.
    range: PhysicalRange,
}

impl Tag {
    /// The first `N` bytes of the tag, its header included.
    fn read<const N: usize>(&self, memory: &mut impl PhysicalMemory) -> Result<[u8; N], BootError> {
        if self.range.bytes() < N as u64 {
            return Err(self.bad_size());
        }
        Ok(read_array(memory, self.range, 0)?)
    }

    /// The tag without its first `skipped` bytes.
    fn rest(&self, skipped: u64) -> Result<PhysicalRange, BootError> {
        self.range
            .bytes()
            .checked_sub(skipped)
            .and_then(|bytes| self.range.part(skipped, bytes))
            .ok_or(self.bad_size())
    }

    fn bad_size(&self) -> BootError {
        BootError::TagSize {
            offset: self.offset,
            kind: self.kind,
            // A tag's size is a 32-bit field.
            bytes: self.range.bytes() as u32,
        }
    }
}

/// The tags that say where memory is. They are read when all are known, because one replaces
/// the other.
#[derive(Default)]
struct MemoryTags {
    memory_map: Option<Tag>,
    efi: Option<Tag>,
    basic: Option<Tag>,
}

/// Reads the boot information at `address` into `information`.
pub(crate) fn read(
    information: &mut BootInformation,
    address: PhysicalAddress,
    memory: &mut impl PhysicalMemory,
    limits: Limits,
) -> Result<(), BootError> {
    if !address.is_aligned(3) {
        return Err(BootError::Misaligned { address });
    }
    let missing = |bytes| BootError::NoSuchStructure { start: address.get(), bytes };
    let header = PhysicalRange::new(address.get(), HEADER_BYTES).ok_or(missing(HEADER_BYTES))?;
    let total = u32_at::<0, 8>(&read_array(memory, header, 0)?);
    if u64::from(total) < HEADER_BYTES || total > MOST_BYTES {
        return Err(BootError::InformationSize { bytes: total });
    }
    let total = u64::from(total);
    let whole = PhysicalRange::new(address.get(), total).ok_or(missing(total))?;
    information.add_structure(whole)?;

    let mut memory_tags = MemoryTags::default();
    let mut modules = 0;
    let mut offset = HEADER_BYTES;
    // Each turn goes forward by at least the size of a tag's header.
    while offset.saturating_add(HEADER_BYTES) <= total {
        let header: [u8; HEADER_BYTES as usize] = read_array(memory, whole, offset)?;
        let (kind, bytes) = (u32_at::<0, _>(&header), u32_at::<4, _>(&header));
        let bad_size = BootError::TagSize { offset, kind, bytes };
        if u64::from(bytes) < HEADER_BYTES {
            return Err(bad_size);
        }
        let range = whole.part(offset, u64::from(bytes)).ok_or(bad_size)?;
        let tag = Tag { kind, offset, range };
        if kind == tag_type::END {
            break;
        }
        read_tag(information, memory, tag, &mut memory_tags, &mut modules)?;
        offset = (offset + u64::from(bytes)).next_multiple_of(8);
    }
    let ignored = modules.saturating_sub(BootInformation::MODULES);
    if ignored > 0 {
        let ignored = ignored as u64;
        information.diagnostics.record(Diagnostic::TooManyModules { ignored });
    }
    read_memory_tags(information, memory, limits, &memory_tags)
}

fn read_tag(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    tag: Tag,
    memory_tags: &mut MemoryTags,
    modules: &mut usize,
) -> Result<(), BootError> {
    let once = |slot: &mut Option<Tag>| match slot.replace(tag) {
        None => Ok(()),
        Some(_) => Err(BootError::RepeatedTag { kind: tag.kind }),
    };
    match tag.kind {
        tag_type::COMMAND_LINE => {
            information.set_command_line(memory, tag.rest(HEADER_BYTES)?);
        }
        tag_type::LOADER_NAME => {
            information.loader_name.clear();
            // The name is only for the log: what is too long is cut off without a word.
            information.loader_name.copy_string(memory, tag.rest(HEADER_BYTES)?, usize::MAX)?;
        }
        tag_type::MODULE => {
            let fields: [u8; 16] = tag.read(memory)?;
            let (start, end) = (u32_at::<8, _>(&fields), u32_at::<12, _>(&fields));
            // A module that ends before it begins gets a length that no range can have.
            let bytes = end.checked_sub(start).map_or(u64::MAX, u64::from);
            let place = (u64::from(start), bytes);
            // That there is no room is told once, for all.
            let _ = information.add_module(memory, *modules, place, tag.rest(16)?);
            *modules += 1;
        }
        tag_type::FRAME_BUFFER => read_frame_buffer(information, memory, tag)?,
        tag_type::ACPI_OLD => {
            let _: [u8; 28] = tag.read(memory)?;
            if information.rsdp().is_none() {
                information.set_rsdp(tag.rest(HEADER_BYTES)?.start().get());
            }
        }
        tag_type::ACPI_NEW => {
            let _: [u8; 44] = tag.read(memory)?;
            information.set_rsdp(tag.rest(HEADER_BYTES)?.start().get());
        }
        tag_type::EFI_BOOT_SERVICES => return Err(BootError::BootServicesRunning),
        tag_type::MEMORY_MAP => once(&mut memory_tags.memory_map)?,
        tag_type::EFI_MEMORY_MAP => once(&mut memory_tags.efi)?,
        tag_type::BASIC_MEMORY => once(&mut memory_tags.basic)?,
        _ => {}
    }
    Ok(())
}

/// Builds the memory map from the best tag that there is.
fn read_memory_tags(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    limits: Limits,
    tags: &MemoryTags,
) -> Result<(), BootError> {
    if let Some(tag) = tags.memory_map {
        let mut builder = information.memory_map.rebuild(limits, &mut information.diagnostics);
        for_each_entry(memory, tag, |entry: [u8; 24]| {
            let kind = MemoryKind::from_e820(u32_at::<16, _>(&entry));
            builder.add(u64_at::<0, _>(&entry), u64_at::<8, _>(&entry), kind);
        })
    } else if let Some(tag) = tags.efi {
        information.diagnostics.record(Diagnostic::OnlyEfiMemoryMap);
        let mut builder = information.memory_map.rebuild(limits, &mut information.diagnostics);
        for_each_entry(memory, tag, |entry: [u8; 40]| {
            let kind = efi_kind(u32_at::<0, _>(&entry), u64_at::<32, _>(&entry));
            let bytes = u64_at::<24, _>(&entry).saturating_mul(PAGE_BYTES);
            builder.add(u64_at::<8, _>(&entry), bytes, kind);
        })
    } else if let Some(tag) = tags.basic {
        information.diagnostics.record(Diagnostic::OnlyBasicMemoryInformation);
        let fields: [u8; 16] = tag.read(memory)?;
        let kib = |number: u32| u64::from(number) << 10;
        let mut builder = information.memory_map.rebuild(limits, &mut information.diagnostics);
        builder.add(0, kib(u32_at::<8, _>(&fields)), MemoryKind::Usable);
        builder.add(1 << 20, kib(u32_at::<12, _>(&fields)), MemoryKind::Usable);
        Ok(())
    } else {
        Err(BootError::NoMemoryMap)
    }
}

/// Calls `visit` with the first `N` bytes of each entry of `tag`, which is a memory map or an EFI
/// memory map: tag header, size of an entry, version, entries.
fn for_each_entry<const N: usize>(
    memory: &mut impl PhysicalMemory,
    tag: Tag,
    mut visit: impl FnMut([u8; N]),
) -> Result<(), BootError> {
    let fields: [u8; 16] = tag.read(memory)?;
    let entries = tag.rest(16)?;
    let entry_bytes = u32_at::<8, _>(&fields);
    let bad_size = BootError::MemoryMapEntrySize { bytes: entry_bytes };
    let stride = usize::try_from(entry_bytes).map_err(|_| bad_size)?;
    // Part of an entry at the end would be an entry that is lost.
    if stride < N || !entries.bytes().is_multiple_of(u64::from(entry_bytes)) {
        return Err(bad_size);
    }
    for offset in (0..entries.bytes()).step_by(stride) {
        visit(read_array(memory, entries, offset)?);
    }
    Ok(())
}

/// What memory of an EFI type is after boot services have ended (UEFI specification 2.10, table
/// 7.10).
fn efi_kind(number: u32, attributes: u64) -> MemoryKind {
    /// The firmware goes on using it.
    const RUNTIME: u64 = 1 << 63;
    match number {
        // Loader code and data, boot services code and data, conventional memory.
        1..=4 | 7 if attributes & RUNTIME == 0 => MemoryKind::Usable,
        8 => MemoryKind::Defective,
        9 => MemoryKind::AcpiReclaimable,
        10 => MemoryKind::AcpiNonVolatile,
        _ => MemoryKind::Reserved,
    }
}

fn read_frame_buffer(
    information: &mut BootInformation,
    memory: &mut impl PhysicalMemory,
    tag: Tag,
) -> Result<(), BootError> {
    let fields: [u8; 32] = tag.read(memory)?;
    let address = u64_at::<8, _>(&fields);
    let (pitch, width) = (u32_at::<16, _>(&fields), u32_at::<20, _>(&fields));
    let (height, bits_per_pixel) = (u32_at::<24, _>(&fields), u8_at::<28, _>(&fields));
    let kind = match u8_at::<29, _>(&fields) {
        0 => FrameBufferKind::Indexed,
        1 => {
            let fields: [u8; 38] = tag.read(memory)?;
            FrameBufferKind::Direct {
                red: color(u8_at::<32, _>(&fields), u8_at::<33, _>(&fields)),
                green: color(u8_at::<34, _>(&fields), u8_at::<35, _>(&fields)),
                blue: color(u8_at::<36, _>(&fields), u8_at::<37, _>(&fields)),
            }
        }
        2 => FrameBufferKind::Text,
        // A kind that this kernel does not know.
        _ => return Ok(()),
    };
    let range = PhysicalRange::new(address, u64::from(pitch) * u64::from(height));
    let line_fits = u64::from(width) * u64::from(bits_per_pixel) <= u64::from(pitch) * 8;
    information.frame_buffer = match range {
        Some(range) if line_fits && !range.is_empty() && width != 0 && bits_per_pixel != 0 => {
            Some(FrameBuffer { range, pitch, width, height, bits_per_pixel, kind })
        }
        _ => {
            information.diagnostics.record(Diagnostic::FrameBufferMeasures {
                address,
                pitch,
                width,
                height,
                bits_per_pixel,
            });
            None
        }
    };
    Ok(())
}

const fn color(position: u8, bits: u8) -> ColorField {
    ColorField { position, bits }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heliox_types::{Frame, FrameRange};
    use proptest::prelude::*;

    use super::*;
    use crate::information::BootProtocol;
    use crate::information::tests::{KERNEL, LIMITS, assert_invariants, module_names};
    use crate::memory_map::Area;
    use crate::physical_memory::tests::TestMemory;

    const INFORMATION: u64 = 0x8000;

    fn tag(kind: u32, contents: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((contents.len() as u32 + 8).to_le_bytes());
        bytes.extend(contents);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn memory_map_tag(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut contents = words(&[24, 0]);
        for (start, length, kind) in entries {
            contents.extend(start.to_le_bytes());
            contents.extend(length.to_le_bytes());
            contents.extend(words(&[*kind, 0]));
        }
        tag(tag_type::MEMORY_MAP, &contents)
    }

    fn usual_memory_map() -> Vec<u8> {
        memory_map_tag(&[(0, 0x9_f000, 1), (0xf_0000, 0x1_0000, 2), (0x10_0000, 0x70_0000, 1)])
    }

    fn module_tag(start: u32, end: u32, text: &str) -> Vec<u8> {
        tag(tag_type::MODULE, &[&words(&[start, end]), text.as_bytes(), b"\0"].concat())
    }

    fn frame_buffer_tag(address: u64, pitch: u32) -> Vec<u8> {
        let mut contents = address.to_le_bytes().to_vec();
        contents.extend(words(&[pitch, 1024, 768]));
        contents.extend([32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
        tag(tag_type::FRAME_BUFFER, &contents)
    }

    fn efi_tag(entries: &[(u32, u64, u64, u64)]) -> Vec<u8> {
        let mut contents = words(&[48, 1]);
        for (kind, start, pages, attributes) in entries {
            contents.extend(words(&[*kind, 0]));
            for field in [*start, 0, *pages, *attributes, 0] {
                contents.extend(field.to_le_bytes());
            }
        }
        tag(tag_type::EFI_MEMORY_MAP, &contents)
    }

    fn join(tags: &[Vec<u8>]) -> Vec<u8> {
        let tags = tags.concat();
        let end = tag(tag_type::END, b"");
        let total = (8 + tags.len() + end.len()) as u32;
        [words(&[total, 0]), tags, end].concat()
    }

    fn parse_bytes(bytes: &[u8]) -> (BootInformation, Result<(), BootError>) {
        let mut memory = TestMemory::zeroed(0, 0x1_0000);
        memory.write(INFORMATION, bytes);
        let mut information = BootInformation::empty();
        let result = information.parse(
            BootProtocol::Multiboot2,
            PhysicalAddress::new(INFORMATION).unwrap(),
            &mut memory,
            LIMITS,
            KERNEL,
        );
        if result.is_ok() {
            assert_invariants(&information);
        }
        (information, result)
    }

    fn parse(tags: &[Vec<u8>]) -> (BootInformation, Result<(), BootError>) {
        parse_bytes(&join(tags))
    }

    fn accepted(tags: &[Vec<u8>]) -> BootInformation {
        let (information, result) = parse(tags);
        assert_eq!(result, Ok(()));
        information
    }

    fn usual_tags() -> Vec<Vec<u8>> {
        std::vec![
            tag(tag_type::COMMAND_LINE, b"log=debug measure\0"),
            tag(tag_type::LOADER_NAME, b"GRUB 2.06\0"),
            tag(21, &[1, 2, 3]),
            module_tag(0x40_0000, 0x40_1800, "sigma0"),
            module_tag(0x40_2000, 0x40_3000, "root one two"),
            usual_memory_map(),
            frame_buffer_tag(0xfd00_0000, 4096),
            tag(tag_type::ACPI_NEW, &[0; 36]),
        ]
    }

    #[test]
    fn usual_information_is_read() {
        let information = accepted(&usual_tags());
        assert_eq!(information.command_line(), "log=debug measure");
        assert_eq!(information.loader_name(), "GRUB 2.06");
        assert_eq!(information.protocol(), Some(BootProtocol::Multiboot2));
        assert_eq!(module_names(&information), ["sigma0", "root"]);
        let module = information.modules().next().unwrap();
        assert_eq!(module.range, PhysicalRange::new(0x40_0000, 0x1800).unwrap());
        let frame_buffer = information.frame_buffer().unwrap();
        assert_eq!(frame_buffer.range.bytes(), 4096 * 768);
        assert!(matches!(
            frame_buffer.kind,
            FrameBufferKind::Direct { red: ColorField { position: 16, bits: 8 }, .. }
        ));
        let rsdp = information.rsdp().unwrap();
        assert!(information.structures()[0].frames().contains(rsdp.frame()));
        assert!(information.diagnostics().as_slice().is_empty());
    }

    #[test]
    fn the_information_itself_is_not_usable() {
        let information = accepted(&usual_tags());
        let map = information.memory_map();
        assert_eq!(map.kind_of(Frame::new(8).unwrap()), Some(MemoryKind::InUse));
        assert_eq!(map.kind_of(Frame::new(9).unwrap()), Some(MemoryKind::Usable));
        assert_eq!(map.kind_of(Frame::new(0x402).unwrap()), Some(MemoryKind::InUse));
        assert_eq!(map.kind_of(Frame::new(0x403).unwrap()), Some(MemoryKind::Usable));
    }

    #[test]
    fn without_a_memory_map_the_efi_memory_map_is_used() {
        let information = accepted(&[
            efi_tag(&[
                (7, 0x10_0000, 0x100, 15),
                (4, 0x20_0000, 1, 15),
                (6, 0x20_1000, 1, 15 | 1 << 63),
                (7, 0x20_2000, 1, 15 | 1 << 63),
                (9, 0x20_3000, 1, 15),
                (10, 0x20_4000, 1, 15),
                (8, 0x20_5000, 1, 15),
                (11, 0x20_6000, 1, 15),
            ]),
            tag(tag_type::BASIC_MEMORY, &words(&[640, 1024])),
        ]);
        let area = |start, end, kind| Area { frames: FrameRange::new(start, end).unwrap(), kind };
        assert_eq!(
            information.memory_map().areas(),
            [
                area(0x100, 0x180, MemoryKind::Usable),
                area(0x180, 0x190, MemoryKind::InUse),
                area(0x190, 0x201, MemoryKind::Usable),
                area(0x201, 0x203, MemoryKind::Reserved),
                area(0x203, 0x204, MemoryKind::AcpiReclaimable),
                area(0x204, 0x205, MemoryKind::AcpiNonVolatile),
                area(0x205, 0x206, MemoryKind::Defective),
                area(0x206, 0x207, MemoryKind::Reserved),
            ]
        );
        assert_eq!(information.diagnostics().as_slice(), [Diagnostic::OnlyEfiMemoryMap]);
    }

    #[test]
    fn without_any_memory_map_the_basic_sizes_are_used() {
        let information = accepted(&[tag(tag_type::BASIC_MEMORY, &words(&[639, 1024]))]);
        assert_eq!(information.memory_map().highest_usable(), Frame::new(0x1ff));
        let diagnostics = information.diagnostics().as_slice();
        assert_eq!(diagnostics[0], Diagnostic::OnlyBasicMemoryInformation);
    }

    #[test]
    fn without_any_memory_there_is_no_boot() {
        assert_eq!(parse(&[]).1, Err(BootError::NoMemoryMap));
        assert_eq!(
            parse(&[memory_map_tag(&[(0, 0x10_0000, 2)])]).1,
            Err(BootError::NoUsableMemory)
        );
    }

    #[test]
    fn running_boot_services_are_refused() {
        let tags = [usual_memory_map(), tag(tag_type::EFI_BOOT_SERVICES, b"")];
        assert_eq!(parse(&tags).1, Err(BootError::BootServicesRunning));
    }

    #[test]
    fn two_memory_maps_are_refused() {
        assert_eq!(
            parse(&[usual_memory_map(), usual_memory_map()]).1,
            Err(BootError::RepeatedTag { kind: tag_type::MEMORY_MAP })
        );
    }

    #[test]
    fn sizes_are_checked() {
        let mut bytes = join(&[usual_memory_map()]);
        bytes[..4].copy_from_slice(&7_u32.to_le_bytes());
        assert_eq!(parse_bytes(&bytes).1, Err(BootError::InformationSize { bytes: 7 }));
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse_bytes(&bytes).1, Err(BootError::InformationSize { bytes: u32::MAX }));

        let mut bytes = join(&[usual_memory_map()]);
        for size in [7_u32, 0, 0x1000, u32::MAX] {
            bytes[12..16].copy_from_slice(&size.to_le_bytes());
            assert_eq!(
                parse_bytes(&bytes).1,
                Err(BootError::TagSize { offset: 8, kind: 6, bytes: size })
            );
        }
        let mut bytes = join(&[usual_memory_map()]);
        for size in [0_u32, 20, 25, u32::MAX] {
            bytes[16..20].copy_from_slice(&size.to_le_bytes());
            assert_eq!(parse_bytes(&bytes).1, Err(BootError::MemoryMapEntrySize { bytes: size }));
        }
        for kind in [3, 8, 14, 15] {
            assert_eq!(
                parse(&[usual_memory_map(), tag(kind, &[0; 4])]).1,
                Err(BootError::TagSize { offset: 8 + 88, kind, bytes: 12 })
            );
        }
    }

    #[test]
    fn the_end_tag_may_be_missing() {
        let mut bytes = join(&[usual_memory_map()]);
        let total = bytes.len() as u32 - 8;
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        assert_eq!(parse_bytes(&bytes).1, Ok(()));
    }

    #[test]
    fn a_misaligned_address_is_refused() {
        let address = PhysicalAddress::new(0x1004).unwrap();
        let result = BootInformation::empty().parse(
            BootProtocol::Multiboot2,
            address,
            &mut TestMemory::zeroed(0, 0x2000),
            LIMITS,
            KERNEL,
        );
        assert_eq!(result, Err(BootError::Misaligned { address }));
    }

    #[test]
    fn an_impossible_frame_buffer_is_ignored() {
        let information = accepted(&[usual_memory_map(), frame_buffer_tag(0xfd00_0000, 4095)]);
        assert_eq!(information.frame_buffer(), None);
        let information = accepted(&[usual_memory_map(), frame_buffer_tag(u64::MAX, 4096)]);
        assert_eq!(information.frame_buffer(), None);
        assert!(matches!(
            information.diagnostics().as_slice(),
            [Diagnostic::FrameBufferMeasures { address: u64::MAX, .. }]
        ));
    }

    #[test]
    fn a_frame_buffer_in_memory_is_ignored() {
        for address in [0x10_0000, 0x40_0000, KERNEL.start() << 12] {
            let information = accepted(&[usual_memory_map(), frame_buffer_tag(address, 4096)]);
            assert_eq!(information.frame_buffer(), None);
            assert!(matches!(
                information.diagnostics().as_slice(),
                [Diagnostic::FrameBufferInMemory { .. }]
            ));
        }
    }

    #[test]
    fn more_modules_than_there_is_room_for_are_ignored() {
        let mut tags = std::vec![usual_memory_map()];
        for index in 0..40 {
            tags.push(module_tag(0x40_0000 + index * 0x1000, 0x40_0001 + index * 0x1000, "m"));
        }
        let information = accepted(&tags);
        assert_eq!(information.modules().len(), BootInformation::MODULES);
        assert_eq!(
            information.diagnostics().as_slice(),
            [Diagnostic::TooManyModules { ignored: 8 }]
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_bytes(&bytes);
            // And as a tag of each type.
            for kind in 0..22 {
                let _ = parse(&[tag(kind, &bytes), usual_memory_map()]);
            }
        }

        #[test]
        fn damaged_information_never_panics_and_keeps_the_invariants(
            damage in prop::collection::vec((0usize..600, any::<u8>()), 1..8),
        ) {
            let mut bytes = join(&usual_tags());
            for (position, value) in damage {
                let position = position % bytes.len();
                bytes[position] = value;
            }
            let _ = parse_bytes(&bytes);
        }
    }
}
