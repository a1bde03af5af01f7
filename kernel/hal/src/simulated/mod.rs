//! The simulated machine: page tables in simulated memory, processors that walk them, and caches
//! that keep stale entries until told.
//!
//! [`Simulated`] implements [`Machine`] in safe Rust. A broken precondition, which on the real
//! machine is undefined behaviour, is here a [`Violation`], and so is every use of something
//! that a processor cached and that the tables no longer say. Programs are closures that act
//! through a [`UserCpu`] and stop with an [`Interrupt`].
//!
//! # What is modelled
//!
//! - Walks as x86-64 does them: rights of all levels combined, no-execute, reserved bits, large
//!   pages; accessed and dirty marks set in memory, the dirty mark after a walk of its own also
//!   if the translation is cached; error codes.
//! - A TLB and paging-structure caches for each processor that lose nothing but what the
//!   operations of [`Machine`] drop: so [`Machine::invalidate_page`] leaves positions of tables,
//!   [`Machine::load_root`] and [`Machine::flush`] leave all of the kernel's half.
//! - The window: the kernel's accesses are translated too, through the loaded root.
//!
//! What is cached is preferred, and of several possibilities the one that reaches more than the
//! tables allow. [`Simulated::reachable`] tells everything that a processor could reach by any
//! choice; [`Simulated::prefetch`] and [`Caching::speculative`] let a processor cache everything.
//!
//! # Stale uses
//!
//! Between the removal of a mapping and the invalidation on another processor, a program there
//! may use the stale translation: the frame is draining. The machine does not know which frames
//! are; it reports all stale uses, and [`Violation::stale_use_of`] names the frame.
//!
//! # States
//!
//! A machine can be copied, compared and hashed; copies share memory until written. Counts
//! and the record of violations do not take part in comparisons, time does (see
//! [`Builder::ticks_per_step`]).
//!
//! One thread runs all processors: the one that executes is the one that last executed an
//! operation that names a processor (see [`Simulated::set_current`]).

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::panic,
        reason = "runs on hosts only; a panic is how it tells a test of a violation"
    )
)]

mod caches;
mod devices;
mod geometries;
mod hal;
mod layout;
mod memory;
mod mmu;
mod program;
mod reach;
#[cfg(test)]
mod tests;
mod violation;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::vec::Vec;

use heliox_types::error::Error;
use heliox_types::geometry::{Geometry, Level, MAX_LEAF_LEVELS};
use heliox_types::rights::Rights;
use heliox_types::{
    Frame, FrameRange, Interrupt, Irq, PAGE_BYTES, PHYSICAL_BITS, PhysicalAddress, VirtualAddress,
};

pub use self::caches::{Allowed, CachedTable, CachedTranslation};
pub use self::devices::{LINES, PortWrite};
pub use self::geometries::{FourByFour, NarrowTwoByFour, ThreeByFour, TwoByFour};
pub use self::hal::{Program, SimulatedBox, SimulatedContext, SimulatedHal, SimulatedPorts};
pub use self::layout::{Builder, Caching, LayoutError, Protection};
pub use self::mmu::{Access, AccessKind, Fault, Privilege};
pub use self::program::{Action, GENERAL_PROTECTION, Script, UserCpu};
pub use self::reach::{Reachable, ReachablePage, ReachableTable};
pub use self::violation::{Mark, Operation, Precondition, Source, Strictness, Violation};

use self::caches::Caches;
use self::devices::Devices;
use self::layout::{Layout, address_of};
use self::memory::Memory;
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::entry::{Attributes, Entry, Host, RootKind};
use crate::machine::{Machine, WindowEntry};
use crate::page::Record;
use crate::state::{Layout as BootLayout, State as BootState};
use crate::translation::CpuRecord;

/// How often the kernel used what. Bulk operations count one access for every 8 bytes begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Entries read.
    pub table_reads: u64,
    /// Entries written or exchanged.
    pub table_writes: u64,
    /// Page records read or changed by this thread, whichever machine they belong to.
    pub status_accesses: u64,
    /// The same, but records of one level that lie in the same 64 bytes are counted once as long as
    /// no others of that level are used in between: about what a processor fetches.
    pub status_lines: u64,
    /// Words read in the window.
    pub memory_reads: u64,
    /// Words written in the window.
    pub memory_writes: u64,
    /// Pages filled with zeros; their words are among those written.
    pub pages_cleared: u64,
    /// Frames opened or closed in the window.
    pub window_changes: u64,
    /// Roots loaded.
    pub root_loads: u64,
    /// Pages invalidated.
    pub invalidations: u64,
    /// Flushes of either kind.
    pub flushes: u64,
    /// Walks of the tables by processors.
    pub walks: u64,
}

/// A processor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Processor {
    root: Frame,
    caches: Caches,
    deadline: Option<u64>,
    /// The ports that programs may use.
    ports: Vec<RangeInclusive<u16>>,
}

/// What changes of a machine.
#[derive(Clone, Debug)]
struct State {
    memory: Memory,
    processors: Vec<Processor>,
    /// The processor that executes.
    current: CpuIndex,
    devices: Devices,
    violations: Vec<Violation>,
    /// Number of walks; see [`Counts`].
    walks: u64,
    /// What the thread had counted when the counts were last reset: uses and lines.
    status: (u64, u64),
}

/// Uses of page records, their lines, and for each level the line that was used last.
struct StatusCounts {
    uses: Cell<u64>,
    lines: Cell<u64>,
    last: [Cell<u64>; MAX_LEAF_LEVELS],
}

std::thread_local! {
    /// Counted for the thread: the checks know of no machine while they decide.
    static STATUS: StatusCounts = const {
        StatusCounts {
            uses: Cell::new(0),
            lines: Cell::new(0),
            last: [const { Cell::new(u64::MAX) }; MAX_LEAF_LEVELS],
        }
    };
}

fn status_counts() -> (u64, u64) {
    STATUS.with(|status| (status.uses.get(), status.lines.get()))
}

/// Notes that the record of unit `index` of a level is used.
#[inline]
pub(crate) fn note_status_access(level: Level, index: u64) {
    STATUS.with(|status| {
        status.uses.set(status.uses.get() + 1);
        let (last, line) = (&status.last[level.number() as usize - 1], index / 8);
        if last.replace(line) != line {
            status.lines.set(status.lines.get() + 1);
        }
    });
}

impl CurrentCpu {
    /// The token of simulated processor `index`; one thread runs all of them.
    pub const fn simulated(index: CpuIndex) -> Self {
        Self::new(index)
    }
}

impl State {
    fn new(memory: Memory, processors: usize) -> Self {
        let processor = Processor {
            root: layout::REFERENCE_ROOT,
            caches: Caches::default(),
            deadline: None,
            ports: Vec::new(),
        };
        Self {
            memory,
            processors: std::vec![processor; processors],
            current: CpuIndex::BOOT,
            devices: Devices::new(),
            violations: Vec::new(),
            walks: 0,
            status: status_counts(),
        }
    }

    fn processor(&self, cpu: CpuIndex) -> &Processor {
        &self.processors[cpu.get()]
    }

    fn processor_mut(&mut self, cpu: CpuIndex) -> &mut Processor {
        &mut self.processors[cpu.get()]
    }

    fn report<G>(&mut self, layout: &Layout<G>, violation: Violation) {
        match layout.strictness {
            Strictness::Panic => panic!("{violation}"),
            Strictness::PanicUnlessStale if violation.stale_use_of().is_none() => {
                panic!("{violation}")
            }
            Strictness::Collect | Strictness::PanicUnlessStale => self.violations.push(violation),
        }
    }
}

/// A simulated machine with page tables of shape `G`.
#[derive(Clone, Debug)]
pub struct Simulated<G: Geometry> {
    layout: Arc<Layout<G>>,
    // Reading through the window changes the caches, so also operations that read change state.
    state: RefCell<State>,
    counts: Cell<Counts>,
}

impl<G: Geometry> PartialEq for Simulated<G> {
    fn eq(&self, other: &Self) -> bool {
        let (state, other) = (self.state.borrow(), other.state.borrow());
        state.memory == other.memory
            && state.processors == other.processors
            && state.current == other.current
            && state.devices == other.devices
    }
}

impl<G: Geometry> Eq for Simulated<G> {}

impl<G: Geometry> Hash for Simulated<G> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let state = self.state.borrow();
        state.memory.hash(hasher);
        state.processors.hash(hasher);
        state.current.hash(hasher);
        state.devices.hash(hasher);
    }
}

/// Building and observing.
impl<G: Geometry> Simulated<G> {
    /// Lays out a machine with `frames` frames of RAM.
    #[must_use]
    pub const fn builder(frames: u64) -> Builder<G> {
        Builder::new(frames)
    }

    fn new(layout: Arc<Layout<G>>, state: State) -> Self {
        Self { layout, state: RefCell::new(state), counts: Cell::default() }
    }

    /// All frames of RAM.
    #[must_use]
    pub fn ram(&self) -> FrameRange {
        self.layout.ram()
    }

    /// The frames of the environment: they are not for clients.
    #[must_use]
    pub fn environment(&self) -> FrameRange {
        self.layout.environment
    }

    /// The frames of RAM that clients can be given.
    #[must_use]
    pub fn free_frames(&self) -> FrameRange {
        let (_, free) = self.layout.ram().without(self.layout.environment);
        free
    }

    /// What the boot finds: free memory, I/O memory that clients may have, and no modules.
    #[must_use]
    pub fn boot_layout(&self) -> BootLayout {
        BootLayout {
            environment: std::vec![self.environment()],
            free: std::vec![self.free_frames()],
            modules: Vec::new(),
            io: self.layout.io().collect(),
        }
    }

    /// What was reported so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.state.borrow().violations.clone()
    }

    /// What was reported since the last call.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.state.get_mut().violations)
    }

    /// How often the kernel used what since the machine was built or the counts were reset.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.state.borrow();
        let ((uses, lines), before) = (status_counts(), state.status);
        Counts {
            walks: state.walks,
            // Another thread may have counted less.
            status_accesses: uses.saturating_sub(before.0),
            status_lines: lines.saturating_sub(before.1),
            ..self.counts.get()
        }
    }

    /// Sets all counts to zero.
    pub fn reset_counts(&mut self) {
        self.counts.set(Counts::default());
        let state = self.state.get_mut();
        state.walks = 0;
        state.status = status_counts();
    }

    /// The 8 bytes at index `index` of a frame, read without any effect; 0 where no memory is.
    #[must_use]
    pub fn peek(&self, frame: Frame, index: usize) -> u64 {
        self.layout.slot(frame).map_or(0, |slot| self.state.borrow().memory.word(slot, index))
    }

    /// Writes the 8 bytes at index `index` of a frame without any other effect, as a device does
    /// or a test that builds tables by hand. Nothing happens where no memory is.
    pub fn poke(&mut self, frame: Frame, index: usize, value: u64) {
        if let Some(slot) = self.layout.slot(frame) {
            self.state.get_mut().memory.set_word(slot, index, value);
        }
    }

    /// Whether `frame` is all zero.
    #[must_use]
    pub fn is_clear(&self, frame: Frame) -> bool {
        self.layout.slot(frame).is_none_or(|slot| self.state.borrow().memory.words(slot).is_empty())
    }

    /// The root that is loaded on `cpu`.
    #[must_use]
    pub fn root(&self, cpu: CpuIndex) -> Frame {
        self.state.borrow().processor(cpu).root
    }

    /// The translation of `address` by the tables below `root`, without caches or any effect.
    #[must_use]
    pub fn translation(&self, root: Frame, address: VirtualAddress) -> Option<CachedTranslation> {
        mmu::translation(&self.layout, &self.state.borrow().memory, root, address)
    }

    /// The translations that `cpu` has cached.
    #[must_use]
    pub fn cached_translations(&self, cpu: CpuIndex) -> BTreeSet<CachedTranslation> {
        self.state.borrow().processor(cpu).caches.translations.clone()
    }

    /// The positions of tables that `cpu` has cached.
    #[must_use]
    pub fn cached_tables(&self, cpu: CpuIndex) -> BTreeSet<CachedTable> {
        self.state.borrow().processor(cpu).caches.tables.clone()
    }

    /// Everything that `cpu` could reach through its caches and the tables of its root.
    #[must_use]
    pub fn reachable(&self, cpu: CpuIndex) -> Reachable {
        self.state.borrow().reachable(&self.layout, cpu)
    }
}

/// All memory of a simulated machine.
pub type SimulatedMemory<G> = crate::memory::Memory<Simulated<G>>;

impl<G: Geometry> SimulatedMemory<G> {
    /// Takes over a simulated machine after its boot.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    pub fn simulated(machine: Simulated<G>, layout: BootLayout) -> Result<Self, Error> {
        let (frames, cpus) = (machine.ram().count() as usize, machine.processors());
        let mut units: [Vec<Record>; MAX_LEAF_LEVELS] = Default::default();
        for (records, level) in units.iter_mut().zip(Level::leaves::<G>()) {
            let count = BootState::<G>::unit_count(level, frames);
            *records = std::vec![Record::NOT_INSTALLED; count];
        }
        let cpus = std::vec![CpuRecord::new(Frame::ZERO); cpus];
        Self::new(machine, units, cpus, layout)
    }

    /// The simulated machine.
    pub const fn machine(&self) -> &Simulated<G> {
        &self.machine
    }

    /// The simulated machine, for what programs and devices do to it.
    pub const fn machine_mut(&mut self) -> &mut Simulated<G> {
        &mut self.machine
    }
}

/// Processors and programs.
impl<G: Geometry> Simulated<G> {
    /// Number of processors.
    #[must_use]
    pub fn processors(&self) -> usize {
        self.state.borrow().processors.len()
    }

    /// From now on the kernel executes on `cpu`.
    pub fn set_current(&mut self, cpu: CurrentCpu) {
        self.enter(Operation::Run, cpu);
    }

    /// Makes `cpu` the processor that executes, if there is one.
    fn enter(&self, operation: Operation, cpu: CurrentCpu) -> Option<CpuIndex> {
        let cpu = cpu.index();
        if cpu.get() >= self.processors() {
            self.broken(operation, Precondition::ProcessorExists { cpu });
            return None;
        }
        self.state.borrow_mut().current = cpu;
        Some(cpu)
    }

    /// Makes one access on `cpu`, with all its effects on tables and caches.
    ///
    /// # Errors
    /// The fault that it causes.
    pub fn access(
        &mut self,
        cpu: CpuIndex,
        address: VirtualAddress,
        access: Access,
    ) -> Result<Frame, Fault> {
        self.state.get_mut().access(&self.layout, cpu, address, access)
    }

    /// Lets `cpu` cache everything that it can find in tables, as speculation may.
    pub fn prefetch(&mut self, cpu: CpuIndex) {
        self.state.get_mut().prefetch(&self.layout, cpu);
    }

    /// Runs a program with `context` on `cpu` for at most `steps` steps, and returns why it
    /// stopped, or `None` if it could go on. Interrupts are delivered before a step.
    pub fn run<C>(
        &mut self,
        cpu: CurrentCpu,
        context: &mut C,
        steps: usize,
        mut program: impl FnMut(&mut UserCpu<'_, G>, &mut C) -> Result<(), Interrupt>,
    ) -> Option<Interrupt> {
        let cpu = self.enter(Operation::Run, cpu)?;
        for _ in 0..steps {
            if let Some(interrupt) = self.deliver(cpu) {
                return Some(interrupt);
            }
            let mut user = UserCpu { machine: self, cpu };
            let result = program(&mut user, context);
            self.advance(self.layout.ticks_per_step);
            if let Err(interrupt) = result {
                return Some(interrupt);
            }
        }
        None
    }

    /// Lets time pass until something interrupts `cpu`, and returns that, or `None` if nothing
    /// ever will.
    pub fn wait_for_interrupt(&mut self, cpu: CurrentCpu) -> Option<Interrupt> {
        let cpu = self.enter(Operation::Run, cpu)?;
        self.deliver(cpu).or_else(|| {
            let deadline = self.deadline(cpu)?;
            let devices = &mut self.state.get_mut().devices;
            devices.now = devices.now.max(deadline);
            self.deliver(cpu)
        })
    }

    /// What interrupts `cpu` at this moment, or `None`.
    pub fn pending_interrupt(&mut self, cpu: CurrentCpu) -> Option<Interrupt> {
        let cpu = self.enter(Operation::Run, cpu)?;
        self.deliver(cpu)
    }

    fn deliver(&mut self, cpu: CpuIndex) -> Option<Interrupt> {
        let state = self.state.get_mut();
        let now = state.devices.now;
        let processor = state.processor_mut(cpu);
        if processor.deadline.is_some_and(|deadline| deadline <= now) {
            processor.deadline = None;
            return Some(Interrupt::Timer);
        }
        let line = state.devices.deliver(cpu)?;
        Irq::new(line).map(Interrupt::External)
    }

    /// Reads bytes of frames that lie one behind the other in virtual memory.
    fn read_frames(&self, frames: &[Frame], offset: u64, bytes: &mut [u8]) {
        let state = self.state.borrow();
        for (frame, offset, part) in parts(frames, offset, bytes.len()) {
            match self.layout.slot(frame) {
                Some(slot) => state.memory.read(slot, offset, &mut bytes[part]),
                // As on a bus where nobody answers.
                None => bytes[part].fill(0xff),
            }
        }
    }

    /// Writes bytes of frames that lie one behind the other in virtual memory.
    fn write_frames(&mut self, frames: &[Frame], offset: u64, bytes: &[u8]) {
        self.speculate();
        let state = self.state.get_mut();
        for (frame, offset, part) in parts(frames, offset, bytes.len()) {
            if let Some(slot) = self.layout.slot(frame) {
                state.memory.write(slot, offset, &bytes[part]);
            }
        }
    }
}

/// Cuts a range of bytes that begins `offset` bytes into the first frame into parts by frame:
/// frame, offset in it, and which bytes of the range.
fn parts(
    frames: &[Frame],
    offset: u64,
    count: usize,
) -> impl Iterator<Item = (Frame, usize, std::ops::Range<usize>)> + '_ {
    let size = PAGE_BYTES as usize;
    let offset = offset as usize;
    frames.iter().enumerate().map(move |(number, &frame)| {
        let start = (number * size).max(offset);
        let end = ((number + 1) * size).min(offset + count);
        (frame, start % size, start - offset..end - offset)
    })
}

/// Devices.
impl<G: Geometry> Simulated<G> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.state.borrow().devices.now
    }

    /// Lets time pass.
    pub fn advance(&mut self, ticks: u64) {
        self.state.get_mut().devices.now += ticks;
    }

    /// When the timer of `cpu` will interrupt.
    #[must_use]
    pub fn deadline(&self, cpu: CpuIndex) -> Option<u64> {
        self.state.borrow().processor(cpu).deadline
    }

    /// Sets or stops the timer of `cpu`.
    pub fn set_deadline(&mut self, cpu: CpuIndex, deadline: Option<u64>) {
        self.state.get_mut().processor_mut(cpu).deadline = deadline;
    }

    /// A device raises an interrupt line, a number below [`LINES`].
    pub fn raise_line(&mut self, line: u8) {
        self.state.get_mut().devices.raise(line);
    }

    /// Masks an interrupt line or lets it through. At first all lines are masked.
    pub fn set_line_masked(&mut self, line: u8, masked: bool) {
        self.state.get_mut().devices.set_masked(line, masked);
    }

    /// Acknowledges an interrupt line: it can interrupt again.
    pub fn acknowledge_line(&mut self, line: u8) {
        self.state.get_mut().devices.acknowledge(line);
    }

    /// Chooses the processor that a line interrupts. At first it is the one that boots.
    pub fn route_line(&mut self, line: u8, cpu: CpuIndex) {
        self.state.get_mut().devices.route(line, cpu);
    }

    /// What is to be read from a port from now on.
    pub fn set_port(&mut self, port: u16, value: u32) {
        self.state.get_mut().devices.set_port(port, value);
    }

    /// Reads a port.
    #[must_use]
    pub fn read_port(&self, port: u16) -> u32 {
        self.state.borrow().devices.read_port(port)
    }

    /// Writes a port.
    pub fn write_port(&mut self, port: u16, value: u32) {
        self.state.get_mut().devices.write_port(port, value);
    }

    /// What was written to ports since the last call.
    pub fn take_port_writes(&mut self) -> Vec<PortWrite> {
        self.state.get_mut().devices.take_port_writes()
    }

    /// Which ports programs on `cpu` may use, instead of those before.
    pub fn permit_ports(
        &mut self,
        cpu: CpuIndex,
        ports: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) {
        self.state.get_mut().processor_mut(cpu).ports = ports.into_iter().collect();
    }

    fn may_use_port(&self, cpu: CpuIndex, port: u16) -> bool {
        let state = self.state.borrow();
        let ports = &state.processor(cpu).ports;
        ports.iter().any(|range| range.contains(&port))
    }
}

/// What the operations of [`Machine`] are made of.
impl<G: Geometry> Simulated<G> {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    fn broken(&self, operation: Operation, precondition: Precondition) {
        let violation = Violation::BrokenPrecondition { operation, precondition };
        self.state.borrow_mut().report(&self.layout, violation);
    }

    /// Before memory changes, processors may cache what it says.
    fn speculate(&mut self) {
        if self.layout.caching.speculative {
            let state = self.state.get_mut();
            for cpu in (0..state.processors.len()).filter_map(CpuIndex::new) {
                state.prefetch(&self.layout, cpu);
            }
        }
    }

    /// The window's entry for `frame`: its table's slot and its index.
    fn window_slot(&self, operation: Operation, frame: Frame) -> Option<(usize, usize)> {
        let entry = self.layout.window_entry(frame);
        if entry.is_none() {
            self.broken(operation, Precondition::HasWindow { frame });
        }
        let (table, index) = entry?;
        Some((self.layout.slot(table)?, index))
    }

    /// The kernel uses a frame through the window. Returns the slot of the frame, also if the
    /// frame is not open, so that the simulation goes on after a report.
    fn window_access(&self, operation: Operation, frame: Frame, kind: AccessKind) -> Option<usize> {
        let Some(slot) = self.layout.slot(frame) else {
            self.broken(operation, Precondition::MemoryExists { frame });
            return None;
        };
        if kind == AccessKind::Write && self.layout.is_boot_table(frame) {
            self.broken(operation, Precondition::NotBootTable { frame });
        }
        let reads_reference_root =
            operation == Operation::ReadEntry && frame == self.reference_root();
        let (Some((table, index)), Some(page)) =
            (self.layout.window_entry(frame), self.layout.window_page(frame))
        else {
            if !reads_reference_root {
                self.broken(operation, Precondition::HasWindow { frame });
            }
            return Some(slot);
        };
        let entry = Entry(self.peek(table, index));
        if !Host::is_present(entry) {
            if !reads_reference_root {
                self.broken(operation, Precondition::Open { frame });
            }
            return Some(slot);
        }
        let user = entry.0 & Host::USER != 0;
        if mmu::caches_page(&self.layout, page, user) {
            let address = address_of::<G>(page);
            let access = Access { kind, privilege: Privilege::Window };
            let mut state = self.state.borrow_mut();
            let cpu = state.current;
            if state.access(&self.layout, cpu, address, access).is_err() {
                state.report(&self.layout, Violation::KernelFault { cpu, address });
            }
        }
        Some(slot)
    }

    /// The kernel uses an entry of a table.
    fn table_access(
        &self,
        operation: Operation,
        at: PhysicalAddress,
        kind: AccessKind,
    ) -> Option<(usize, usize)> {
        let (slot, index) = self.word_at(operation, at, kind)?;
        if index < G::ENTRIES {
            return Some((slot, index));
        }
        self.broken(operation, Precondition::IndexInTable { index });
        None
    }

    fn word_at(
        &self,
        operation: Operation,
        at: PhysicalAddress,
        kind: AccessKind,
    ) -> Option<(usize, usize)> {
        let slot = self.window_access(operation, at.frame(), kind);
        if !at.is_aligned(3) {
            self.broken(operation, Precondition::Aligned { at });
        }
        Some((slot?, at.word_index()))
    }

    /// The frames that a range of bytes lies in, after the kernel used them; `None` if there is
    /// no memory in a part of the range.
    fn range_access(
        &self,
        operation: Operation,
        at: PhysicalAddress,
        count: usize,
        kind: AccessKind,
    ) -> Option<Vec<Frame>> {
        let end = at.get().checked_add(count as u64);
        if end.is_none_or(|end| end > 1 << PHYSICAL_BITS) {
            self.broken(operation, Precondition::RangeExists { at, count });
            return None;
        }
        let mut frames = Vec::new();
        for frame in FrameRange::covering(at, count as u64)?.iter() {
            // Ends at the first gap, however long the range is.
            self.window_access(operation, frame, kind)?;
            frames.push(frame);
        }
        let words = (count as u64).div_ceil(8);
        self.count(|counts| match kind {
            AccessKind::Write => counts.memory_writes += words,
            AccessKind::Read | AccessKind::Execute => counts.memory_reads += words,
        });
        Some(frames)
    }
}

impl<G: Geometry> Machine for Simulated<G> {
    type Geometry = G;

    fn largest_leaf(&self) -> Level {
        self.layout.largest_leaf
    }

    fn read_entry(&self, at: PhysicalAddress) -> Entry {
        self.count(|counts| counts.table_reads += 1);
        let word = self.table_access(Operation::ReadEntry, at, AccessKind::Read);
        word.map_or(Entry::ABSENT, |(slot, index)| {
            Entry(self.state.borrow().memory.word(slot, index))
        })
    }

    fn write_entry(&mut self, at: PhysicalAddress, entry: Entry) {
        self.count(|counts| counts.table_writes += 1);
        let operation = Operation::WriteEntry;
        self.speculate();
        let Some((slot, index)) = self.table_access(operation, at, AccessKind::Write) else {
            return;
        };
        let before = Entry(self.state.get_mut().memory.word(slot, index));
        if before != Entry::ABSENT {
            let (table, index) = (at.frame(), at.word_index());
            let precondition = Precondition::EntryAbsent { table, index, entry: before };
            self.broken(operation, precondition);
        }
        self.state.get_mut().memory.set_word(slot, index, entry.0);
    }

    fn exchange_entry(&mut self, at: PhysicalAddress, entry: Entry) -> Entry {
        self.count(|counts| counts.table_writes += 1);
        self.speculate();
        let operation = Operation::ExchangeEntry;
        let Some((slot, index)) = self.table_access(operation, at, AccessKind::Write) else {
            return Entry::ABSENT;
        };
        let memory = &mut self.state.get_mut().memory;
        let before = Entry(memory.word(slot, index));
        memory.set_word(slot, index, entry.0);
        before
    }

    fn change_entry(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> Entry {
        self.count(|counts| counts.table_writes += 1);
        let operation = Operation::ChangeEntry;
        let Some((slot, index)) = self.table_access(operation, at, AccessKind::Write) else {
            return Entry::ABSENT;
        };
        // Processors may cache, and mark, before each of the two operations.
        self.speculate();
        let memory = &mut self.state.get_mut().memory;
        let before = Entry(memory.word(slot, index));
        memory.set_word(slot, index, before.0 & !clear);
        if !Host::is_present(before) {
            let (table, index) = (at.frame(), at.word_index());
            self.broken(operation, Precondition::EntryPresent { table, index });
        }
        if set != 0 {
            self.speculate();
            let memory = &mut self.state.get_mut().memory;
            let between = memory.word(slot, index);
            memory.set_word(slot, index, between | set);
        }
        before
    }

    fn reference_root(&self) -> Frame {
        layout::REFERENCE_ROOT
    }

    fn has_window(&self, frame: Frame) -> bool {
        self.layout.window_entry(frame).is_some()
    }

    fn is_open(&self, frame: Frame) -> bool {
        self.window_slot(Operation::IsOpen, frame).is_some_and(|(slot, index)| {
            Host::is_present(Entry(self.state.borrow().memory.word(slot, index)))
        })
    }

    fn visible_address(&self, frame: Frame) -> VirtualAddress {
        let page = self.layout.window_page(frame);
        if page.is_none() {
            self.broken(Operation::VisibleAddress, Precondition::HasWindow { frame });
        }
        page.map_or(VirtualAddress::ZERO, address_of::<G>)
    }

    fn open_window(&mut self, frame: Frame, entry: WindowEntry) {
        self.count(|counts| counts.window_changes += 1);
        self.speculate();
        let operation = Operation::OpenWindow;
        let Some((slot, index)) = self.window_slot(operation, frame) else {
            return;
        };
        if Host::is_present(Entry(self.state.get_mut().memory.word(slot, index))) {
            self.broken(operation, Precondition::Closed { frame });
        }
        let asked = entry.memory_type;
        if let Some(of_frame) = self.layout.memory_type(frame).filter(|&it| it != asked) {
            let precondition = Precondition::MemoryTypeOfFrame { frame, asked, of_frame };
            self.broken(operation, precondition);
        }
        let attributes = Attributes {
            rights: entry.programs.unwrap_or(Rights::ReadWrite),
            memory_type: asked,
            foreign: false,
        };
        let mut leaf = Host::leaf(Level::FIRST, frame, attributes).0;
        // Marked from the start: nobody reads the marks of the window.
        leaf |= Host::GLOBAL | Host::ACCESSED | Host::DIRTY;
        if entry.programs.is_none() {
            leaf &= !Host::USER;
        }
        self.state.get_mut().memory.set_word(slot, index, leaf);
    }

    fn close_window(&mut self, cpu: CurrentCpu, frame: Frame) {
        self.count(|counts| counts.window_changes += 1);
        self.speculate();
        let operation = Operation::CloseWindow;
        let Some((slot, index)) = self.window_slot(operation, frame) else {
            return;
        };
        let memory = &mut self.state.get_mut().memory;
        let open = Host::is_present(Entry(memory.word(slot, index)));
        memory.set_word(slot, index, 0);
        if !open {
            self.broken(operation, Precondition::Open { frame });
        }
        let cpu = self.enter(operation, cpu);
        if let (Some(cpu), Some(page)) = (cpu, self.layout.window_page(frame)) {
            let processor = self.state.get_mut().processor_mut(cpu);
            processor.caches.drop_translations_of::<G>(page);
        }
    }

    fn read_word(&self, at: PhysicalAddress) -> u64 {
        self.count(|counts| counts.memory_reads += 1);
        self.word_at(Operation::ReadWord, at, AccessKind::Read)
            .map_or(0, |(slot, index)| self.state.borrow().memory.word(slot, index))
    }

    fn write_word(&mut self, at: PhysicalAddress, value: u64) {
        self.count(|counts| counts.memory_writes += 1);
        self.speculate();
        if let Some((slot, index)) = self.word_at(Operation::WriteWord, at, AccessKind::Write) {
            self.state.get_mut().memory.set_word(slot, index, value);
        }
    }

    fn change_word(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> u64 {
        self.count(|counts| counts.memory_writes += 1);
        self.speculate();
        let word = self.word_at(Operation::ChangeWord, at, AccessKind::Write);
        word.map_or(0, |(slot, index)| {
            let memory = &mut self.state.get_mut().memory;
            let before = memory.word(slot, index);
            memory.set_word(slot, index, before & !clear | set);
            before
        })
    }

    fn read_bytes(&self, at: PhysicalAddress, bytes: &mut [u8]) {
        let operation = Operation::ReadBytes;
        if let Some(frames) = self.range_access(operation, at, bytes.len(), AccessKind::Read) {
            self.read_frames(&frames, at.offset_in_page(), bytes);
        }
    }

    fn write_bytes(&mut self, at: PhysicalAddress, bytes: &[u8]) {
        let operation = Operation::WriteBytes;
        if let Some(frames) = self.range_access(operation, at, bytes.len(), AccessKind::Write) {
            self.write_frames(&frames, at.offset_in_page(), bytes);
        }
    }

    fn copy_bytes(&mut self, from: PhysicalAddress, to: PhysicalAddress, count: usize) {
        let operation = Operation::CopyBytes;
        let source = self.range_access(operation, from, count, AccessKind::Read);
        let target = self.range_access(operation, to, count, AccessKind::Write);
        if let (Some(source), Some(target)) = (source, target) {
            let mut bytes = std::vec![0; count];
            self.read_frames(&source, from.offset_in_page(), &mut bytes);
            self.write_frames(&target, to.offset_in_page(), &bytes);
        }
    }

    fn fill_bytes(&mut self, at: PhysicalAddress, count: usize, value: u8) {
        let operation = Operation::FillBytes;
        let Some(frames) = self.range_access(operation, at, count, AccessKind::Write) else {
            return;
        };
        if let [frame] = frames[..]
            && value == 0
            && count == PAGE_BYTES as usize
        {
            // A whole page is cleared often.
            self.count(|counts| counts.pages_cleared += 1);
            self.speculate();
            if let Some(slot) = self.layout.slot(frame) {
                self.state.get_mut().memory.clear(slot);
            }
        } else {
            self.write_frames(&frames, at.offset_in_page(), &std::vec![value; count]);
        }
    }

    fn load_root(&mut self, cpu: CurrentCpu, root: Frame) {
        self.count(|counts| counts.root_loads += 1);
        self.speculate();
        let operation = Operation::LoadRoot;
        let Some(cpu) = self.enter(operation, cpu) else {
            return;
        };
        if self.layout.slot(root).is_none() {
            self.broken(operation, Precondition::MemoryExists { frame: root });
        }
        let other = {
            let memory = &self.state.borrow().memory;
            let [entries, reference] = [root, self.reference_root()]
                .map(|root| self.layout.slot(root).map_or(&[][..], |slot| memory.words(slot)));
            let entry =
                |entries: &[u64], index| entries.get(index).copied().unwrap_or(0) & !Host::ACCESSED;
            (G::USER_ENTRIES..G::ENTRIES)
                .find(|index| entry(entries, *index) != entry(reference, *index))
        };
        if let Some(index) = other {
            self.broken(operation, Precondition::KernelHalf { root, index });
        }
        let processor = self.state.get_mut().processor_mut(cpu);
        processor.root = root;
        processor.caches.keep_kernel_half::<G>(layout::kernel_half::<G>());
    }

    fn invalidate_page(&mut self, cpu: CurrentCpu, address: VirtualAddress) {
        self.count(|counts| counts.invalidations += 1);
        self.speculate();
        let Some(cpu) = self.enter(Operation::InvalidatePage, cpu) else {
            return;
        };
        // An address that is not canonical has no translation; the processor does nothing.
        if let Some(page) = layout::page_of::<G>(address) {
            let processor = self.state.get_mut().processor_mut(cpu);
            processor.caches.drop_translations_of::<G>(page);
        }
    }

    fn flush(&mut self, cpu: CurrentCpu) {
        self.count(|counts| counts.flushes += 1);
        self.speculate();
        if let Some(cpu) = self.enter(Operation::Flush, cpu) {
            let processor = self.state.get_mut().processor_mut(cpu);
            processor.caches.keep_kernel_half::<G>(layout::kernel_half::<G>());
        }
    }

    fn flush_all(&mut self, cpu: CurrentCpu) {
        self.count(|counts| counts.flushes += 1);
        self.speculate();
        if let Some(cpu) = self.enter(Operation::FlushAll, cpu) {
            self.state.get_mut().processor_mut(cpu).caches.clear();
        }
    }
}
