//! Tests of the simulated machine, one for every behaviour, and two properties: without caches
//! it translates like a naive walk, and a kernel that invalidates as it should is never reported.

use std::vec::Vec;
use std::{format, vec};

use heliox_types::PageFaultError;
use heliox_types::{Frame, FrameRange, PAGE_BYTES, PhysicalAddress, VirtualAddress};

use super::*;
use heliox_types::geometry::FourLevel;
use heliox_types::rights::MemoryType;

fn frame(number: u64) -> Frame {
    Frame::new(number).unwrap()
}

fn physical(address: u64) -> PhysicalAddress {
    PhysicalAddress::new(address).unwrap()
}

/// The address of a program's page.
fn page(number: u64) -> VirtualAddress {
    VirtualAddress::new(number * PAGE_BYTES).unwrap()
}

fn cpu(number: usize) -> CurrentCpu {
    CurrentCpu::simulated(CpuIndex::new(number).unwrap())
}

const BOOT: CpuIndex = CpuIndex::BOOT;
const READ: Access = Access::user(AccessKind::Read);
const WRITE: Access = Access::user(AccessKind::Write);
const EXECUTE: Access = Access::user(AccessKind::Execute);

fn leaf(level: u32, at: u64, rights: Rights) -> Entry {
    let level = Level::new::<FourLevel>(level).unwrap();
    let attributes = Attributes { rights, memory_type: MemoryType::WriteBack, foreign: false };
    Host::leaf(level, frame(at), attributes)
}

fn is_accessed(entry: Entry) -> bool {
    entry.0 & Host::ACCESSED != 0
}

fn is_dirty(entry: Entry) -> bool {
    entry.0 & Host::DIRTY != 0
}

/// Opens and clears `root` and copies the kernel's half into it.
fn make_root<G: Geometry>(machine: &mut Simulated<G>, root: u64) {
    let root = frame(root);
    machine.open_window(root, WindowEntry::PRIVATE);
    machine.fill_bytes(root.address(), 4096, 0);
    for index in G::USER_ENTRIES..G::ENTRIES {
        let entry = machine.read_entry(machine.reference_root().word(index));
        if entry != Entry::ABSENT {
            machine.write_entry(root.word(index), entry);
        }
    }
}

/// Opens and clears `table` and enters it in `parent`.
fn make_table<G: Geometry>(machine: &mut Simulated<G>, parent: u64, index: usize, table: u64) {
    machine.open_window(frame(table), WindowEntry::PRIVATE);
    machine.fill_bytes(frame(table).address(), 4096, 0);
    machine.write_entry(frame(parent).word(index), Host::table(frame(table)));
}

const ROOT: u64 = 4;
const TABLE: u64 = 5;

/// 12 frames, root 4 with table 5 for pages 0 to 3, loaded on all processors; frames 6 to 11 are
/// free. Page 1 maps frame 8 with all rights.
fn build(builder: Builder<TwoByFour>) -> Simulated<TwoByFour> {
    let mut machine = builder.build().unwrap();
    assert_eq!(machine.free_frames(), FrameRange::new(4, 12).unwrap());
    make_root(&mut machine, ROOT);
    make_table(&mut machine, ROOT, 0, TABLE);
    let entry = leaf(1, 8, Rights::ReadWriteExecute);
    machine.write_entry(frame(TABLE).word(1), entry);
    for number in (0..machine.processors()).rev() {
        machine.load_root(cpu(number), frame(ROOT));
    }
    machine
}

fn small() -> Simulated<TwoByFour> {
    build(Simulated::builder(12))
}

fn page_fault(address: VirtualAddress, bits: u64) -> Fault {
    Fault::Page { address, error: PageFaultError::new(bits) }
}

fn remove(machine: &mut Simulated<TwoByFour>, table: u64, index: usize) -> Entry {
    machine.exchange_entry(frame(table).word(index), Entry::ABSENT)
}

// --- Layout and window ---

fn the_window_leads_to_every_frame<G: Geometry>(frames: u64, environment: u64) {
    let mut machine = Simulated::<G>::builder(frames).build().unwrap();
    assert_eq!(machine.environment().end(), environment);
    assert_eq!(machine.root(BOOT), machine.reference_root());
    for frame in machine.free_frames().iter() {
        assert!(machine.has_window(frame) && !machine.is_open(frame));
        machine.open_window(frame, WindowEntry::PRIVATE);
        assert!(machine.is_open(frame));
        machine.write_word(frame.address(), frame.number());
        let supervisor = Access::supervisor(AccessKind::Read);
        let address = machine.visible_address(frame);
        assert_eq!(machine.access(BOOT, address, supervisor), Ok(frame));
        let user_bits = PageFaultError::PROTECTION | PageFaultError::USER;
        let refused = machine.access(BOOT, address, READ);
        assert_eq!(refused, Err(page_fault(address, user_bits)));
    }
    for frame in machine.free_frames().iter() {
        assert_eq!(machine.read_word(frame.address()), frame.number());
        machine.close_window(cpu(0), frame);
        assert!(!machine.is_open(frame));
    }
    assert!(!machine.has_window(super::tests::frame(frames)));
    assert_eq!(machine.violations(), []);
}

#[test]
fn windows_of_all_geometries_lead_to_every_frame() {
    the_window_leads_to_every_frame::<NarrowTwoByFour>(12, 4);
    the_window_leads_to_every_frame::<TwoByFour>(12, 4);
    the_window_leads_to_every_frame::<TwoByFour>(8, 3);
    the_window_leads_to_every_frame::<ThreeByFour>(12, 5);
    the_window_leads_to_every_frame::<FourByFour>(20, 9);
    if !cfg!(miri) {
        the_window_leads_to_every_frame::<FourLevel>(600, 5);
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let build = |frames| Simulated::<TwoByFour>::builder(frames).build();
    assert_eq!(build(1).unwrap_err(), LayoutError::TooFewFrames { frames: 1 });
    // What does not fit in the window becomes the environment's.
    assert_eq!(build(20).unwrap().environment().end(), 12);
    let far = FrameRange::new(100, 101).unwrap();
    assert_eq!(
        Simulated::<TwoByFour>::builder(12).io(far, MemoryType::Uncacheable).build().unwrap_err(),
        LayoutError::WindowTooLarge { room: 8 }
    );
    let overlapping = FrameRange::new(11, 13).unwrap();
    assert_eq!(
        Simulated::<TwoByFour>::builder(12)
            .io(overlapping, MemoryType::Uncacheable)
            .build()
            .unwrap_err(),
        LayoutError::Overlap { range: overlapping }
    );
    let builder = Simulated::<TwoByFour>::builder(12);
    assert_eq!(
        builder.clone().processors(0).build().unwrap_err(),
        LayoutError::Processors { count: 0 }
    );
    assert_eq!(builder.largest_leaf(3).build().unwrap_err(), LayoutError::LargestLeaf { level: 3 });
}

#[test]
fn io_memory_has_its_own_type() {
    let io = FrameRange::new(10, 12).unwrap();
    let mut machine =
        Simulated::<TwoByFour>::builder(8).io(io, MemoryType::Uncacheable).build().unwrap();
    let uncacheable = WindowEntry { memory_type: MemoryType::Uncacheable, programs: None };
    assert!(machine.has_window(frame(10)) && !machine.has_window(frame(9)));
    machine.open_window(frame(10), uncacheable);
    machine.write_word(physical(10 << 12), 3);
    assert_eq!(machine.read_word(physical(10 << 12)), 3);
    assert_eq!(machine.violations(), []);
    machine.open_window(frame(11), WindowEntry::PRIVATE);
    let precondition = Precondition::MemoryTypeOfFrame {
        frame: frame(11),
        asked: MemoryType::WriteBack,
        of_frame: MemoryType::Uncacheable,
    };
    assert_broken(&mut machine, Operation::OpenWindow, precondition);
    machine.read_word(physical(11 << 12));
    let used = machine.take_violations();
    assert!(
        matches!(used[..], [Violation::WrongMemoryType { frame: at, .. }] if at == frame(11)),
        "{used:?}"
    );
}

// --- Preconditions ---

fn assert_broken<G: Geometry>(
    machine: &mut Simulated<G>,
    operation: Operation,
    precondition: Precondition,
) {
    assert_eq!(
        machine.take_violations(),
        [Violation::BrokenPrecondition { operation, precondition }]
    );
}

#[test]
fn operations_on_closed_frames_are_reported() {
    let closed = frame(9);
    let at = closed.address();
    let open = Precondition::Open { frame: closed };
    type Use = fn(&mut Simulated<TwoByFour>, PhysicalAddress);
    let uses: [(Operation, Use); 9] = [
        (Operation::ReadEntry, |machine, at| {
            machine.read_entry(at.frame().word(0));
        }),
        (Operation::WriteEntry, |machine, at| {
            machine.write_entry(at.frame().word(0), Entry::ABSENT);
        }),
        (Operation::ExchangeEntry, |machine, at| {
            machine.exchange_entry(at.frame().word(0), Entry::ABSENT);
        }),
        (Operation::CloseWindow, |machine, at| {
            machine.close_window(cpu(0), at.frame());
        }),
        (Operation::ReadWord, |machine, at| {
            machine.read_word(at);
        }),
        (Operation::WriteWord, |machine, at| machine.write_word(at, 0)),
        (Operation::ReadBytes, |machine, at| {
            machine.read_bytes(at, &mut [0; 3]);
        }),
        (Operation::WriteBytes, |machine, at| {
            machine.write_bytes(at, &[0; 3]);
        }),
        (Operation::FillBytes, |machine, at| {
            machine.fill_bytes(at, 3, 0);
        }),
    ];
    let mut machine = small();
    for (operation, operate) in uses {
        operate(&mut machine, at);
        assert_broken(&mut machine, operation, open);
    }
    machine.copy_bytes(at, physical(ROOT << 12), 0);
    assert_eq!(machine.take_violations(), []);
    machine.copy_bytes(physical(TABLE << 12), at, 8);
    assert_broken(&mut machine, Operation::CopyBytes, open);
}

#[test]
fn changing_an_entry_loses_no_mark_and_passes_no_greater_rights() {
    for (before, after) in Rights::ALL.iter().flat_map(|a| Rights::ALL.map(|b| (*a, b))) {
        // Before each of the two operations the processor caches what it finds, and marks it.
        let caching = Caching { speculative: true, private_window: false };
        let mut machine = build(Simulated::builder(12).caching(caching));
        machine.write_entry(frame(TABLE).word(2), leaf(1, 9, before));
        let (clear, set) = Host::rights_bits(after);
        let old = machine.change_entry(frame(TABLE).word(2), clear, set);
        assert_eq!((Host::attributes(old).rights, old.0 & Host::ACCESSED), (before, 1 << 5));
        let now = machine.read_entry(frame(TABLE).word(2));
        assert_eq!((Host::attributes(now).rights, now.0 & Host::ACCESSED), (after, 1 << 5));
        let cached = machine.cached_translations(BOOT);
        for translation in cached.iter().filter(|translation| translation.page == 2) {
            let rights = translation.allowed.rights();
            assert!(before.contains(rights) || after.contains(rights), "{before} {after}");
        }
    }
    let mut machine = small();
    machine.change_entry(frame(TABLE).word(3), 0, 2);
    let present = Precondition::EntryPresent { table: frame(TABLE), index: 3 };
    assert_broken(&mut machine, Operation::ChangeEntry, present);
    machine.change_entry(frame(9).word(0), 0, 1);
    let open = Precondition::Open { frame: frame(9) };
    let operation = Operation::ChangeEntry;
    let broken = Violation::BrokenPrecondition { operation, precondition: open };
    assert_eq!(machine.take_violations()[0], broken);
}

#[test]
fn other_broken_preconditions_are_reported() {
    let mut machine = small();
    let machine = &mut machine;
    let at = physical(ROOT << 12);

    machine.open_window(frame(ROOT), WindowEntry::PRIVATE);
    let closed = Precondition::Closed { frame: frame(ROOT) };
    assert_broken(machine, Operation::OpenWindow, closed);

    let index = Precondition::IndexInTable { index: 4 };
    machine.read_entry(frame(ROOT).word(4));
    assert_broken(machine, Operation::ReadEntry, index);
    machine.write_entry(frame(ROOT).word(4), Entry(1));
    assert_broken(machine, Operation::WriteEntry, index);
    assert_eq!(machine.peek(frame(ROOT), 4), 0);

    let entry = machine.read_entry(frame(TABLE).word(1));
    machine.write_entry(frame(TABLE).word(1), Entry::ABSENT);
    let precondition = Precondition::EntryAbsent { table: frame(TABLE), index: 1, entry };
    assert_broken(machine, Operation::WriteEntry, precondition);

    let unaligned = physical(at.get() + 4);
    machine.read_word(unaligned);
    let aligned = Precondition::Aligned { at: unaligned };
    assert_broken(machine, Operation::ReadWord, aligned);

    machine.fill_bytes(at, usize::MAX, 0);
    let count = usize::MAX;
    let range = Precondition::RangeExists { at, count };
    assert_broken(machine, Operation::FillBytes, range);
    // Ends at the first frame that does not exist, here the one after the last.
    machine.open_window(frame(11), WindowEntry::PRIVATE);
    machine.fill_bytes(physical(11 << 12), 1 << 50, 0);
    let exists = Precondition::MemoryExists { frame: frame(12) };
    assert_broken(machine, Operation::FillBytes, exists);

    machine.is_open(frame(12));
    let window = Precondition::HasWindow { frame: frame(12) };
    assert_broken(machine, Operation::IsOpen, window);
    machine.visible_address(frame(1));
    let window = Precondition::HasWindow { frame: frame(1) };
    assert_broken(machine, Operation::VisibleAddress, window);

    machine.load_root(cpu(0), frame(TABLE));
    let kernel_half = Precondition::KernelHalf { root: frame(TABLE), index: 2 };
    assert_broken(machine, Operation::LoadRoot, kernel_half);
    // When the caches are gone, the kernel cannot use the window any more.
    machine.flush_all(cpu(0));
    machine.read_word(at);
    let fault = machine.take_violations();
    assert!(matches!(fault[..], [Violation::KernelFault { .. }]), "{fault:?}");

    machine.flush(cpu(1));
    let processor = Precondition::ProcessorExists { cpu: CpuIndex::new(1).unwrap() };
    assert_broken(machine, Operation::Flush, processor);
}

#[test]
fn writing_a_table_of_the_boot_is_reported() {
    // Here the window has room for the environment.
    let mut machine = Simulated::<ThreeByFour>::builder(12).build().unwrap();
    machine.open_window(frame(1), WindowEntry::PRIVATE);
    machine.read_entry(frame(1).word(0));
    assert_eq!(machine.take_violations(), []);
    machine.exchange_entry(frame(1).word(3), Entry::ABSENT);
    let precondition = Precondition::NotBootTable { frame: frame(1) };
    assert_broken(&mut machine, Operation::ExchangeEntry, precondition);
}

#[test]
#[should_panic(expected = "BrokenPrecondition")]
fn a_strict_machine_panics() {
    let machine = build(Simulated::builder(12).strictness(Strictness::Panic));
    machine.read_word(physical(9 << 12));
}

#[test]
fn stale_uses_can_be_told_from_mistakes() {
    let strictness = Strictness::PanicUnlessStale;
    let mut machine = build(Simulated::builder(12).strictness(strictness));
    machine.access(BOOT, page(1), READ).unwrap();
    remove(&mut machine, TABLE, 1);
    machine.access(BOOT, page(1), READ).unwrap();
    let stale = machine.take_violations();
    assert_eq!(stale.len(), 1);
    assert_eq!(stale[0].stale_use_of(), Some(frame(8)));
}

// --- Walks ---

#[test]
fn marks_are_set_as_the_processor_sets_them() {
    let mut machine = small();
    let entry = |machine: &Simulated<TwoByFour>| machine.read_entry(frame(TABLE).word(1));
    let pointer = |machine: &Simulated<TwoByFour>| machine.read_entry(frame(ROOT).word(0));
    assert!(!is_accessed(entry(&machine)) && !is_accessed(pointer(&machine)));
    // A walk that ends at an absent entry marks what it used above.
    machine.access(BOOT, page(2), READ).unwrap_err();
    assert!(!is_accessed(entry(&machine)) && is_accessed(pointer(&machine)));
    assert_eq!(machine.access(BOOT, page(1), READ), Ok(frame(8)));
    assert!(is_accessed(entry(&machine)) && !is_dirty(entry(&machine)));
    // The translation is cached, and not dirty: the write walks to mark the entry.
    let walks = machine.counts().walks;
    assert_eq!(machine.access(BOOT, page(1), WRITE), Ok(frame(8)));
    assert!(is_dirty(entry(&machine)));
    assert_eq!(machine.counts().walks, walks + 1);
    machine.access(BOOT, page(1), WRITE).unwrap();
    assert_eq!(machine.counts().walks, walks + 1);
    assert_eq!(pointer(&machine).0 & Host::DIRTY, 0);
    assert_eq!(machine.violations(), []);
}

#[test]
fn a_refused_access_marks_no_leaf() {
    let mut machine = small();
    machine.write_entry(frame(TABLE).word(2), leaf(1, 9, Rights::Read));
    machine.access(BOOT, page(2), WRITE).unwrap_err();
    assert!(!is_accessed(machine.read_entry(frame(TABLE).word(2))));
}

#[test]
fn rights_are_checked_with_the_right_error_codes() {
    const P: u64 = PageFaultError::PROTECTION;
    const W: u64 = PageFaultError::WRITE;
    const U: u64 = PageFaultError::USER;
    const I: u64 = PageFaultError::EXECUTE;
    let mut machine = small();
    remove(&mut machine, TABLE, 1);
    for (index, rights) in Rights::ALL.into_iter().enumerate() {
        machine.write_entry(frame(TABLE).word(index), leaf(1, 8, rights));
        let address = page(index as u64);
        let result = |allowed, bits| {
            if allowed { Ok(frame(8)) } else { Err(page_fault(address, bits)) }
        };
        // Twice: the second access meets the caches.
        for _ in 0..2 {
            assert_eq!(machine.access(BOOT, address, READ), Ok(frame(8)));
            let write = machine.access(BOOT, address, WRITE);
            assert_eq!(write, result(rights.allows_write(), P | W | U));
            let execute = machine.access(BOOT, address, EXECUTE);
            assert_eq!(execute, result(rights.allows_execute(), P | U | I));
        }
    }
    let unmapped = page(5);
    for (access, bits) in [(READ, U), (WRITE, W | U), (EXECUTE, U | I)] {
        let refused = machine.access(BOOT, unmapped, access);
        assert_eq!(refused, Err(page_fault(unmapped, bits)));
    }
    assert_eq!(machine.violations(), []);
}

#[test]
fn rights_of_all_levels_count() {
    for (bit, set, access) in [
        (Host::WRITABLE, false, WRITE),
        (Host::USER, false, READ),
        (Host::NO_EXECUTE, true, EXECUTE),
    ] {
        let mut machine = small();
        let pointer = remove(&mut machine, ROOT, 0);
        let pointer = if set { pointer.0 | bit } else { pointer.0 & !bit };
        machine.write_entry(frame(ROOT).word(0), Entry(pointer));
        machine.access(BOOT, page(1), access).unwrap_err();
        assert_eq!(machine.violations(), []);
    }
}

#[test]
fn the_supervisor_is_kept_from_what_programs_can_use() {
    let none = Protection {
        execution_prevention: false,
        access_prevention: false,
        write_protection: false,
    };
    let kinds = AccessKind::ALL;
    for protection in [
        none,
        Protection { execution_prevention: true, ..none },
        Protection { access_prevention: true, ..none },
        Protection { write_protection: true, ..none },
    ] {
        let mut machine = build(Simulated::builder(12).protection(protection));
        machine.write_entry(frame(TABLE).word(2), leaf(1, 9, Rights::ReadExecute));
        let allowed =
            kinds.map(|kind| machine.access(BOOT, page(2), Access::supervisor(kind)).is_ok());
        let expected = [
            !protection.access_prevention,
            !protection.access_prevention && !protection.write_protection,
            !protection.execution_prevention,
        ];
        assert_eq!(allowed, expected, "{protection:?}");
    }
}

#[test]
fn large_pages_translate_all_their_frames() {
    let mut machine = small();
    machine.write_entry(frame(ROOT).word(1), leaf(2, 8, Rights::ReadWrite));
    machine.reset_counts();
    for number in 0..4 {
        let reached = machine.access(BOOT, page(4 + number), WRITE);
        assert_eq!(reached, Ok(frame(8 + number)));
    }
    // One walk, one translation, the marks in the entry of the root.
    assert_eq!(machine.counts().walks, 1);
    let cached = machine.cached_translations(BOOT);
    assert!(cached.iter().any(|it| it.level.number() == 2 && it.frame == frame(8)));
    assert!(is_dirty(machine.read_entry(frame(ROOT).word(1))));
    // Any address of the page invalidates all of it.
    remove(&mut machine, ROOT, 1);
    machine.invalidate_page(cpu(0), page(6));
    machine.access(BOOT, page(4), READ).unwrap_err();
    assert_eq!(machine.violations(), []);
}

#[test]
fn reserved_bits_fault_and_are_reported() {
    let reserved = PageFaultError::PROTECTION | PageFaultError::RESERVED | PageFaultError::USER;
    // A large page that is not aligned, one where there are none, an address beyond what the
    // processor has, and a table where there is no memory.
    let large = leaf(2, 8, Rights::Read).0;
    let cases = [
        (2, large | 1 << 12),
        (2, large | 1 << 13),
        (1, large),
        (2, large | 1 << 47),
        (2, Host::table(frame(100)).0),
    ];
    for (largest_leaf, entry) in cases {
        let mut machine = build(Simulated::builder(12).largest_leaf(largest_leaf));
        machine.write_entry(frame(ROOT).word(1), Entry(entry));
        let refused = machine.access(BOOT, page(5), READ);
        assert_eq!(refused, Err(page_fault(page(5), reserved)));
        let reported = machine.take_violations();
        let malformed = Violation::MalformedEntry {
            cpu: BOOT,
            address: page(5),
            table: frame(ROOT),
            level: Level::new::<TwoByFour>(2).unwrap(),
            index: 1,
            entry: Entry(entry),
        };
        assert_eq!(reported, [malformed]);
    }
}

#[test]
fn mapping_what_is_no_memory_is_reported() {
    let mut machine = small();
    machine.write_entry(frame(TABLE).word(2), leaf(1, 100, Rights::Read));
    assert_eq!(machine.access(BOOT, page(2), READ), Ok(frame(100)));
    let reported = machine.take_violations();
    assert!(matches!(reported[..], [Violation::NoMemory { .. }]), "{reported:?}");
    assert_eq!(reported[0].stale_use_of(), None);
}

#[test]
fn addresses_outside_the_address_space_are_not_canonical() {
    let mut machine = small();
    let address = page(16);
    let refused = machine.access(BOOT, address, READ);
    assert_eq!(refused, Err(Fault::NotCanonical { address }));
    machine.invalidate_page(cpu(0), address);
    assert_eq!(machine.violations(), []);
}

// --- Stale translations ---

#[test]
fn a_translation_used_after_removal_without_invalidation_is_reported() {
    let mut machine = small();
    machine.access(BOOT, page(1), READ).unwrap();
    remove(&mut machine, TABLE, 1);
    assert_eq!(machine.access(BOOT, page(1), READ), Ok(frame(8)));
    let reported = machine.take_violations();
    let [
        Violation::StaleTranslation {
            cpu: BOOT,
            address,
            access: READ,
            frame: reached,
            source: Source::Translation,
            tables: None,
            ..
        },
    ] = reported[..]
    else {
        panic!("{reported:?}");
    };
    assert_eq!((address, reached), (page(1), frame(8)));
    machine.invalidate_page(cpu(0), page(1));
    let refused = machine.access(BOOT, page(1), READ);
    assert_eq!(refused, Err(page_fault(page(1), PageFaultError::USER)));
    assert_eq!(machine.violations(), []);
}

#[test]
fn a_translation_to_another_frame_or_with_more_rights_is_stale() {
    for (entry, access) in [
        (leaf(1, 9, Rights::ReadWriteExecute), READ),
        (leaf(1, 8, Rights::ReadExecute), WRITE),
        (leaf(1, 8, Rights::ReadWrite), EXECUTE),
    ] {
        let mut machine = small();
        machine.access(BOOT, page(1), WRITE).unwrap();
        machine.exchange_entry(frame(TABLE).word(1), entry);
        machine.access(BOOT, page(1), access).unwrap();
        let reported = machine.take_violations();
        assert!(
            matches!(reported[..], [Violation::StaleTranslation { tables: Some(_), .. }]),
            "{reported:?}"
        );
    }
}

#[test]
fn a_stale_translation_that_allows_less_faults_once() {
    let mut machine = small();
    machine.write_entry(frame(TABLE).word(2), leaf(1, 9, Rights::Read));
    machine.access(BOOT, page(2), READ).unwrap();
    machine.exchange_entry(frame(TABLE).word(2), leaf(1, 9, Rights::ReadWrite));
    machine.access(BOOT, page(2), WRITE).unwrap_err();
    assert_eq!(machine.access(BOOT, page(2), WRITE), Ok(frame(9)));
    assert_eq!(machine.violations(), []);
}

#[test]
fn a_write_through_a_clean_translation_looks_at_the_tables() {
    let mut machine = small();
    machine.access(BOOT, page(1), READ).unwrap();
    remove(&mut machine, TABLE, 1);
    machine.access(BOOT, page(1), WRITE).unwrap_err();
    assert_eq!(machine.violations(), []);
}

#[test]
fn marks_cleared_without_invalidation_are_missed_and_reported() {
    for (mark, bit, access) in
        [(Mark::Dirty, Host::DIRTY, WRITE), (Mark::Accessed, Host::ACCESSED, READ)]
    {
        let mut machine = small();
        machine.access(BOOT, page(1), WRITE).unwrap();
        let entry = machine.read_entry(frame(TABLE).word(1));
        machine.exchange_entry(frame(TABLE).word(1), Entry(entry.0 & !bit));
        machine.access(BOOT, page(1), access).unwrap();
        let unmarked =
            Violation::UnmarkedAccess { cpu: BOOT, address: page(1), frame: frame(8), mark };
        assert_eq!(machine.take_violations(), [unmarked]);
        machine.invalidate_page(cpu(0), page(1));
        machine.access(BOOT, page(1), access).unwrap();
        assert_eq!(machine.take_violations(), []);
        assert_ne!(machine.read_entry(frame(TABLE).word(1)).0 & bit, 0);
    }
}

#[test]
fn a_freed_table_is_walked_until_the_flush() {
    let mut machine = small();
    machine.access(BOOT, page(1), READ).unwrap();
    // The table is taken away and becomes a page of data, in which a program writes what it
    // likes. Invalidating the page is not enough.
    remove(&mut machine, ROOT, 0);
    machine.invalidate_page(cpu(0), page(1));
    machine.poke(frame(TABLE), 1, leaf(1, 2, Rights::ReadWrite).0);
    assert_eq!(machine.access(BOOT, page(1), WRITE), Ok(frame(2)));
    let reported = machine.take_violations();
    let level = Level::FIRST;
    let table = frame(TABLE);
    let stray =
        |mark| Violation::StrayMark { cpu: BOOT, address: page(1), table, level, index: 1, mark };
    assert_eq!(reported[..2], [stray(Mark::Accessed), stray(Mark::Dirty)]);
    assert_eq!(reported[0].stale_use_of(), Some(table));
    let through_table = Source::Table { table, level };
    assert!(
        matches!(
            reported[2..],
            [Violation::StaleTranslation { source, tables: None, .. }] if source == through_table
        ),
        "{reported:?}"
    );
    // The marks were written into the program's data.
    let word = Entry(machine.peek(table, 1));
    assert!(is_accessed(word) && is_dirty(word));

    machine.flush(cpu(0));
    machine.access(BOOT, page(1), READ).unwrap_err();
    assert_eq!(machine.take_violations(), []);
}

#[test]
fn the_kernel_half_survives_all_but_flush_all() {
    let mut machine = build(Simulated::builder(12).processors(2));
    make_root(&mut machine, 6);
    let everyone = WindowEntry { memory_type: MemoryType::WriteBack, programs: Some(Rights::Read) };
    machine.open_window(frame(10), everyone);
    let address = machine.visible_address(frame(10));
    assert_eq!(machine.access(BOOT, address, READ), Ok(frame(10)));
    machine.access(BOOT, address, WRITE).unwrap_err();
    machine.access(BOOT, address, READ).unwrap();
    machine.access(BOOT, page(1), READ).unwrap();

    // Not on the processor that has cached it.
    machine.close_window(cpu(1), frame(10));
    machine.load_root(cpu(0), frame(6));
    machine.flush(cpu(0));
    machine.access(BOOT, page(1), READ).unwrap_err();
    assert_eq!(machine.take_violations(), []);
    assert_eq!(machine.access(BOOT, address, READ), Ok(frame(10)));
    assert_eq!(machine.take_violations()[0].stale_use_of(), Some(frame(10)));

    let mut invalidated = machine.clone();
    invalidated.invalidate_page(cpu(0), address);
    machine.flush_all(cpu(0));
    for mut machine in [machine, invalidated] {
        machine.access(BOOT, address, READ).unwrap_err();
        assert_eq!(machine.take_violations(), []);
    }
}

#[test]
fn the_kernel_fills_the_caches_too_and_closing_the_window_drops_what_it_left() {
    let mut machine = build(Simulated::builder(12).processors(2));
    machine.set_current(cpu(0));
    let everyone = WindowEntry { memory_type: MemoryType::WriteBack, programs: Some(Rights::Read) };
    machine.open_window(frame(10), everyone);
    // The kernel may write where programs may only read.
    machine.write_word(physical(10 << 12), 1);
    let mut on_this_one = machine.clone();
    machine.close_window(cpu(1), frame(10));
    let address = machine.visible_address(frame(10));
    assert_eq!(machine.access(BOOT, address, READ), Ok(frame(10)));
    assert_eq!(machine.take_violations()[0].stale_use_of(), Some(frame(10)));
    on_this_one.close_window(cpu(0), frame(10));
    on_this_one.access(BOOT, address, READ).unwrap_err();
    assert_eq!(on_this_one.take_violations(), []);
}

#[test]
fn a_global_translation_in_the_programs_half_survives_wrongly() {
    let mut machine = small();
    make_root(&mut machine, 6);
    let entry = Entry(leaf(1, 9, Rights::Read).0 | Host::GLOBAL);
    machine.write_entry(frame(TABLE).word(2), entry);
    machine.access(BOOT, page(2), READ).unwrap();
    machine.load_root(cpu(0), frame(6));
    machine.access(BOOT, page(2), READ).unwrap();
    assert_eq!(machine.take_violations()[0].stale_use_of(), Some(frame(9)));
}

#[test]
fn each_processor_has_caches_of_its_own() {
    let mut machine = build(Simulated::builder(12).processors(2));
    let other = CpuIndex::new(1).unwrap();
    for cpu in [BOOT, other] {
        machine.access(cpu, page(1), READ).unwrap();
    }
    remove(&mut machine, TABLE, 1);
    machine.invalidate_page(cpu(0), page(1));
    machine.access(BOOT, page(1), READ).unwrap_err();
    assert_eq!(machine.take_violations(), []);
    machine.access(other, page(1), READ).unwrap();
    let reported = machine.take_violations();
    assert!(
        matches!(reported[..], [Violation::StaleTranslation { cpu, .. }] if cpu == other),
        "{reported:?}"
    );
    machine.load_root(cpu(1), frame(ROOT));
    machine.access(other, page(1), READ).unwrap_err();
    assert_eq!(machine.take_violations(), []);
}

// --- What can be reached ---

#[test]
fn reachable_lists_tables_and_caches() {
    let mut machine = small();
    let user = |machine: &Simulated<TwoByFour>| {
        let reachable = machine.reachable(BOOT);
        let pages = reachable.pages.iter().filter(|page| page.user).copied();
        let tables: Vec<_> = reachable
            .tables
            .iter()
            .filter(|table| table.frame >= frame(ROOT))
            .map(|table| (table.frame.number(), table.level.number(), table.stale))
            .collect();
        (pages.collect::<Vec<_>>(), tables)
    };
    let mapped = ReachablePage {
        address: page(1),
        level: Level::FIRST,
        frame: frame(8),
        rights: Rights::ReadWriteExecute,
        user: true,
        memory_type: MemoryType::WriteBack,
        stale: false,
    };
    let stale = ReachablePage { stale: true, ..mapped };
    let with_table = |stale| vec![(ROOT, 2, false), (TABLE, 1, stale)];
    // Not used yet, but in the tables.
    assert_eq!(user(&machine), (vec![mapped], with_table(false)));
    machine.access(BOOT, page(1), READ).unwrap();
    assert_eq!(user(&machine), (vec![mapped], with_table(false)));
    // The entry goes, the translation stays.
    remove(&mut machine, TABLE, 1);
    assert_eq!(user(&machine), (vec![stale], with_table(false)));
    machine.invalidate_page(cpu(0), page(1));
    assert_eq!(user(&machine), (vec![], with_table(false)));
    // The table goes, its position stays, and leads to what is written there.
    remove(&mut machine, ROOT, 0);
    assert_eq!(user(&machine), (vec![], with_table(true)));
    machine.poke(frame(TABLE), 1, leaf(1, 8, Rights::ReadWriteExecute).0);
    assert_eq!(user(&machine), (vec![stale], with_table(true)));
    machine.flush(cpu(0));
    assert_eq!(user(&machine), (vec![], vec![(ROOT, 2, false)]));
    // Large pages are told frame by frame.
    machine.write_entry(frame(ROOT).word(1), leaf(2, 8, Rights::Read));
    let frames: Vec<_> = machine.reachable(BOOT).user_frames::<TwoByFour>().collect();
    assert_eq!(frames, [8, 9, 10, 11].map(|it| (frame(it), Rights::Read)));
}

#[test]
fn speculation_finds_what_no_access_has_cached() {
    let caching = Caching { speculative: true, private_window: false };
    let mut machine = build(Simulated::builder(12).caching(caching));
    // Never used, removed, not invalidated.
    remove(&mut machine, TABLE, 1);
    machine.access(BOOT, page(1), READ).unwrap();
    assert_eq!(machine.take_violations().len(), 1);
    machine.invalidate_page(cpu(0), page(1));
    machine.access(BOOT, page(1), READ).unwrap_err();
    // Two changes without invalidation leave both translations.
    machine.write_entry(frame(TABLE).word(1), leaf(1, 8, Rights::Read));
    machine.exchange_entry(frame(TABLE).word(1), leaf(1, 9, Rights::Read));
    remove(&mut machine, TABLE, 1);
    let cached = machine.cached_translations(BOOT);
    let frames: Vec<_> = cached.iter().map(|it| it.frame.number()).collect();
    assert_eq!(frames, [8, 9]);
    assert_eq!(machine.take_violations(), []);
}

// --- Programs and devices ---

#[test]
fn programs_run_until_they_stop() {
    let mut machine = small();
    let mut registers = [0_u64; 2];
    let run = |machine: &mut Simulated<TwoByFour>, registers: &mut [u64; 2]| {
        machine.run(cpu(0), registers, 10, |cpu, registers: &mut [u64; 2]| {
            cpu.store(page(1), 7)?;
            registers[0] = cpu.load(page(1))?;
            cpu.store(page(2), registers[0] + 1)?;
            registers[1] += 1;
            cpu.system_call()
        })
    };
    let error = PageFaultError::new(PageFaultError::WRITE | PageFaultError::USER);
    let fault = Interrupt::PageFault { address: page(2).get(), error };
    assert_eq!(run(&mut machine, &mut registers), Some(fault));
    assert!(error.is_write() && !error.is_protection() && !error.is_execute());
    machine.write_entry(frame(TABLE).word(2), leaf(1, 9, Rights::ReadWrite));
    assert_eq!(run(&mut machine, &mut registers), Some(Interrupt::SystemCall));
    assert_eq!(registers, [7, 1]);
    assert_eq!((machine.peek(frame(8), 0), machine.peek(frame(9), 0)), (7, 8));
    let endless = machine.run(cpu(0), &mut (), 3, |_, ()| Ok(()));
    assert_eq!(endless, None);
}

#[test]
fn a_store_across_pages_is_whole_or_not_at_all() {
    let mut machine = small();
    let across = VirtualAddress::new(2 * PAGE_BYTES - 4).unwrap();
    let step = |machine: &mut Simulated<TwoByFour>| {
        machine.run(cpu(0), &mut (), 1, |cpu, ()| {
            cpu.store(across, u64::MAX)?;
            assert_eq!(cpu.load(across)?, u64::MAX);
            Ok(())
        })
    };
    let fault = step(&mut machine);
    assert!(
        matches!(fault, Some(Interrupt::PageFault { address, .. }) if address == page(2).get()),
        "{fault:?}"
    );
    assert!(machine.is_clear(frame(8)));
    machine.write_entry(frame(TABLE).word(2), leaf(1, 11, Rights::ReadWrite));
    assert_eq!(step(&mut machine), None);
    assert_eq!(machine.peek(frame(8), 511), 0xffff_ffff_0000_0000);
    assert_eq!(machine.peek(frame(11), 0), 0xffff_ffff);
}

#[test]
fn a_script_begins_again_where_it_faulted() {
    let mut machine = small();
    let actions = [
        Action::Store(page(1), 5),
        Action::Load(page(2)),
        Action::SystemCall,
        Action::Fetch(page(1)),
        Action::Raise(3, 0),
        Action::WritePort(0x3f8, 65),
    ];
    let mut script = Script::new(actions);
    let run = |machine: &mut Simulated<TwoByFour>, script: &mut Script| {
        machine.run(cpu(0), script, 9, |cpu, script| script.step(cpu))
    };
    let fault = run(&mut machine, &mut script);
    assert!(matches!(fault, Some(Interrupt::PageFault { .. })));
    machine.write_entry(frame(TABLE).word(2), leaf(1, 8, Rights::Read));
    assert_eq!(run(&mut machine, &mut script), Some(Interrupt::SystemCall));
    let vector = 3;
    let exception = Interrupt::Exception { vector, error_code: 0 };
    assert_eq!(run(&mut machine, &mut script), Some(exception));
    assert_eq!(script.noted(), [5, 5]);
    let refused = Interrupt::Exception { vector: GENERAL_PROTECTION, error_code: 0 };
    assert_eq!(run(&mut machine, &mut script), Some(refused));
    machine.permit_ports(BOOT, [0x3f8..=0x3ff]);
    assert_eq!(run(&mut machine, &mut script), None);
    assert!(script.is_finished());
    let (port, value) = (0x3f8, 65);
    assert_eq!(machine.take_port_writes(), [PortWrite { port, value }]);
    assert_eq!(machine.read_port(0x3f8), 65);
    assert_eq!(machine.read_port(0x3f9), u32::MAX);
}

#[test]
fn the_timer_interrupts_when_time_has_passed() {
    let mut machine = build(Simulated::builder(12).ticks_per_step(10));
    machine.set_deadline(BOOT, Some(25));
    let mut steps = 0;
    let mut run = |machine: &mut Simulated<TwoByFour>| {
        machine.run(cpu(0), &mut steps, 10, |_, steps| {
            *steps += 1;
            Ok(())
        })
    };
    assert_eq!(run(&mut machine), Some(Interrupt::Timer));
    assert_eq!(run(&mut machine), None);
    assert_eq!((steps, machine.now()), (13, 130));
    assert_eq!(machine.wait_for_interrupt(cpu(0)), None);
    machine.set_deadline(BOOT, Some(1000));
    assert_eq!(machine.wait_for_interrupt(cpu(0)), Some(Interrupt::Timer));
    assert_eq!(machine.now(), 1000);
    machine.set_deadline(BOOT, Some(2000));
    let waited = machine.run(cpu(0), &mut (), 9, |cpu, ()| {
        cpu.wait_until(5000);
        Ok(())
    });
    assert_eq!(waited, Some(Interrupt::Timer));
    assert!(machine.now() < 5000);
}

#[test]
fn lines_interrupt_the_processor_that_they_are_routed_to() {
    let mut machine = build(Simulated::builder(12).processors(2));
    let other = CpuIndex::new(1).unwrap();
    let step = |machine: &mut Simulated<TwoByFour>, number| {
        machine.run(cpu(number), &mut (), 1, |_, ()| Ok(()))
    };
    let interrupt = Some(Interrupt::External(heliox_types::Irq::new(4).unwrap()));
    machine.raise_line(4);
    assert_eq!(step(&mut machine, 0), None, "masked");
    machine.set_line_masked(4, false);
    machine.route_line(4, other);
    assert_eq!(step(&mut machine, 0), None, "routed elsewhere");
    assert_eq!(step(&mut machine, 1), interrupt);
    machine.raise_line(4);
    assert_eq!(step(&mut machine, 1), None, "not acknowledged");
    machine.acknowledge_line(4);
    assert_eq!(machine.wait_for_interrupt(cpu(1)), interrupt);
}

// --- The machine as a value ---

#[test]
fn machines_can_be_copied_compared_and_hashed() {
    let hash = |machine: &Simulated<TwoByFour>| {
        let mut hasher = std::hash::DefaultHasher::new();
        machine.hash(&mut hasher);
        hasher.finish()
    };
    let machine = small();
    let mut copy = machine.clone();
    assert_eq!((&copy, hash(&copy)), (&machine, hash(&machine)));
    copy.reset_counts();
    assert_eq!(copy, machine, "counts do not take part");
    copy.access(BOOT, page(1), READ).unwrap();
    assert_ne!(copy, machine);
    let entry = machine.peek(frame(TABLE), 1);
    copy.invalidate_page(cpu(0), page(1));
    copy.flush_all(cpu(0));
    copy.poke(frame(TABLE), 1, entry);
    copy.poke(frame(ROOT), 0, machine.peek(frame(ROOT), 0));
    let mut original = machine.clone();
    original.flush_all(cpu(0));
    assert_eq!((&copy, hash(&copy)), (&original, hash(&original)));
}

#[test]
fn accesses_are_counted() {
    let mut machine = small();
    machine.open_window(frame(8), WindowEntry::PRIVATE);
    machine.open_window(frame(9), WindowEntry::PRIVATE);
    machine.reset_counts();
    let at = physical(8 << 12);
    machine.write_bytes(physical(at.get() + 4090), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let mut bytes = [0; 9];
    machine.copy_bytes(physical(at.get() + 4090), at, 9);
    machine.read_bytes(at, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    machine.fill_bytes(at, 8, 0xaa);
    assert_eq!(machine.read_word(at), 0xaaaa_aaaa_aaaa_aaaa);
    assert_eq!(machine.change_word(at, 0xaa, 0x11), 0xaaaa_aaaa_aaaa_aaaa);
    assert_eq!(machine.peek(frame(8), 0), 0xaaaa_aaaa_aaaa_aa11);
    machine.fill_bytes(at, PAGE_BYTES as usize, 0);
    machine.read_entry(frame(ROOT).word(0));
    machine.exchange_entry(frame(ROOT).word(0), Entry::ABSENT);
    machine.flush(cpu(0));
    let counts = Counts { walks: 0, ..machine.counts() };
    let expected = Counts {
        table_reads: 1,
        table_writes: 1,
        memory_reads: 2 + 2 + 1,
        memory_writes: 2 + 2 + 1 + 1 + 512,
        pages_cleared: 1,
        flushes: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    assert_eq!(machine.violations(), []);
    assert!(format!("{machine:?}").contains("Simulated"));
}

// --- Properties ---

/// A small generator of pseudo-random numbers (splitmix64), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What a naive walk finds, written from the manual with shifts and masks alone and without any
/// of the types of this crate: the frame, or the error code without the bits of the access.
fn naive_walk<G: Geometry>(
    machine: &mut Simulated<G>,
    root: u64,
    address: u64,
    user: bool,
    write: bool,
    execute: bool,
) -> Result<u64, u64> {
    let bits = u64::from(G::INDEX_BITS);
    let mut table = root;
    let (mut may_write, mut may_use, mut may_execute) = (true, true, true);
    let mut used = vec![];
    let mut level = u64::from(G::LEVELS);
    let result = loop {
        let shift = 12 + bits * (level - 1);
        let index = ((address >> shift) & ((1 << bits) - 1)) as usize;
        let entry = machine.peek(frame(table), index);
        if entry & 1 == 0 {
            break Err(0);
        }
        let leaf = level == 1 || entry & 0x80 != 0;
        let at = (entry >> 12) & 0xff_ffff_ffff;
        let pages = 1 << (shift - 12);
        let reserved = at >> 34 != 0
            || (leaf
                && (!at.is_multiple_of(pages)
                    || level > u64::from(machine.largest_leaf().number())))
            || (!leaf && !machine.ram().contains(frame(at)));
        if reserved {
            break Err(0b1001);
        }
        used.push((table, index, leaf));
        may_write &= entry & 2 != 0;
        may_use &= entry & 4 != 0;
        may_execute &= entry >> 63 == 0;
        if leaf {
            // The machine has SMEP, SMAP and WP: nobody can use the pages of the other.
            let allowed = may_use == user && (may_write || !write) && (may_execute || !execute);
            break if allowed { Ok(at + ((address >> 12) & (pages - 1))) } else { Err(1) };
        }
        table = at;
        level -= 1;
    };
    for (table, index, leaf) in used {
        let entry = machine.peek(frame(table), index);
        let marks = match (leaf, result.is_ok(), write) {
            (true, false, _) => 0,
            (true, true, true) => 0x60,
            _ => 0x20,
        };
        machine.poke(frame(table), index, entry | marks);
    }
    result
}

fn random_entry(random: &mut Random, frames: u64, largest: u32) -> u64 {
    let mut entry = 0b0000_0000_0110 | random.below(frames) << 12;
    for (bits, odds) in [(1, 0), (2, 10), (4, 10), (0x20, 2), (0x40, 2), (0x100, 8)] {
        if odds == 0 || random.one_in(odds) {
            entry ^= bits;
        }
    }
    if random.one_in(12) {
        entry &= !1;
    }
    if largest > 1 && random.one_in(3) {
        entry |= 0x80;
        if !random.one_in(8) {
            // Mostly aligned.
            entry &= !0x7000;
        }
    }
    if random.one_in(10) {
        entry |= 1 << 63;
    }
    if random.one_in(60) {
        entry |= 1 << (46 + random.below(6));
    }
    entry
}

fn walks_agree<G: Geometry>(seed: u64, frames: u64, machines: usize) {
    let mut random = Random(seed);
    let (mut reached, mut refused) = (0, 0);
    for _ in 0..machines {
        let mut machine = Simulated::<G>::builder(frames).build().unwrap();
        // Tables full of nonsense, in which pointers lead anywhere, also in circles. Only a few
        // indices are used of large tables.
        let indices = G::ENTRIES.min(4);
        let free = machine.free_frames();
        for frame in free.iter() {
            for index in 0..indices {
                let entry = random_entry(&mut random, frames, G::LEAF_LEVELS);
                machine.poke(frame, index, entry);
            }
        }
        for _ in 0..20 {
            let root = free.start() + random.below(free.count());
            let mut number = 0;
            for _ in 0..G::LEVELS {
                number = number << G::INDEX_BITS | random.below(indices as u64);
            }
            let address = layout::address_of::<G>(number);
            let kind = AccessKind::ALL[random.below(3) as usize];
            let user = !random.one_in(4);
            let access = Access {
                kind,
                privilege: if user { Privilege::User } else { Privilege::Supervisor },
            };
            // A processor that has this root and no caches; the kernel half is nonsense too.
            machine.state.get_mut().processor_mut(BOOT).root = frame(root);
            machine.flush_all(cpu(0));
            let mut naive = machine.clone();
            let (write, execute) = (kind == AccessKind::Write, kind == AccessKind::Execute);
            let expected = naive_walk(&mut naive, root, address.get(), user, write, execute);
            let access_bits =
                u64::from(write) << 1 | u64::from(user) << 2 | u64::from(execute) << 4;
            let found = machine.access(BOOT, address, access);
            assert_eq!(
                found,
                expected.map(frame).map_err(|bits| page_fault(address, bits | access_bits)),
                "{access:?} {address}"
            );
            assert_eq!(machine.state.borrow().memory, naive.state.borrow().memory, "marks");
            match found {
                Ok(_) => reached += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(reached > machines && refused > machines, "{reached} {refused}");
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there, and is safe code")]
fn walks_without_caches_agree_with_naive_ones() {
    let machines = 2_000;
    walks_agree::<NarrowTwoByFour>(1, 12, machines);
    walks_agree::<TwoByFour>(2, 12, machines);
    walks_agree::<ThreeByFour>(3, 16, machines);
    walks_agree::<FourByFour>(4, 24, machines);
    walks_agree::<FourLevel>(5, 32, machines / 4);
}

/// A kernel that maps and unmaps at random and always does what is needed: pages are invalidated
/// on all processors when entries are removed, everything is flushed when tables are.
fn a_correct_kernel_is_never_reported(seed: u64, caching: Caching, steps: usize) {
    let mut random = Random(seed);
    let strictness = Strictness::Panic;
    let builder = Simulated::builder(12).processors(2);
    let mut machine = build(builder.caching(caching).strictness(strictness));
    let processors = [cpu(0), cpu(1)];
    let second_table = frame(6);
    let (mut reached, mut faulted) = (0, 0);
    for step in 0..steps {
        let table = if random.one_in(2) { frame(TABLE) } else { second_table };
        let index = random.below(4) as usize;
        let first = if table == second_table { 4 } else { 0 };
        let has_second = machine.is_open(second_table);
        match random.below(8) {
            // Change an entry.
            0 | 1 if table != second_table || has_second => {
                let rights = Rights::ALL[random.below(4) as usize];
                let entry = if random.one_in(3) {
                    Entry::ABSENT
                } else {
                    leaf(1, 8 + random.below(4), rights)
                };
                machine.exchange_entry(table.word(index), entry);
                for cpu in processors {
                    machine.invalidate_page(cpu, page(first + index as u64));
                }
            }
            // Give the other half of the programs' addresses a table, or a large page, or take
            // them away.
            2 => {
                let before = machine.exchange_entry(frame(ROOT).word(1), Entry::ABSENT);
                for cpu in processors {
                    if random.one_in(2) {
                        machine.flush(cpu);
                    } else {
                        machine.load_root(cpu, frame(ROOT));
                    }
                }
                if has_second {
                    assert!(Host::is_table(before));
                    machine.fill_bytes(second_table.address(), 4096, 0xff);
                    machine.close_window(cpu(0), second_table);
                }
                if random.one_in(2) {
                    make_table(&mut machine, ROOT, 1, second_table.number());
                } else if random.one_in(2) {
                    machine.write_entry(frame(ROOT).word(1), leaf(2, 8, Rights::ReadWrite));
                }
            }
            _ => {
                let processor = processors[random.below(2) as usize].index();
                let kind = AccessKind::ALL[random.below(3) as usize];
                let address = page(random.below(8));
                let expected = machine
                    .translation(frame(ROOT), address)
                    .filter(|it| match kind {
                        AccessKind::Read => true,
                        AccessKind::Write => it.allowed.write,
                        AccessKind::Execute => it.allowed.execute,
                    })
                    .and_then(|it| it.target(address.get() / PAGE_BYTES));
                let found = machine.access(processor, address, Access::user(kind)).ok();
                assert_eq!(found, expected, "step {step}");
                match found {
                    Some(_) => reached += 1,
                    None => faulted += 1,
                }
            }
        }
        if step % 16 == 0 {
            for processor in processors {
                let reachable = machine.reachable(processor.index());
                assert!(reachable.pages.iter().all(|page| !page.user || !page.stale));
                assert!(reachable.tables.iter().all(|table| !table.stale));
            }
        }
    }
    assert!(reached > steps / 8 && faulted > steps / 8, "{reached} {faulted}");
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there, and is safe code")]
fn correct_kernels_are_never_reported() {
    let steps = 50_000;
    for (seed, speculative) in [(1, false), (2, true)] {
        for private_window in [false, true] {
            let caching = Caching { speculative, private_window };
            a_correct_kernel_is_never_reported(seed, caching, steps);
        }
    }
}
