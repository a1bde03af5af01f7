//! What the client kernel gets when it starts.

use core::fmt;

use heliox_boot::information::BootInformation;
use heliox_boot::options::Options;
use heliox_types::{FrameRange, VirtualAddress};

use super::context::Context;
use super::environment::Layout;
use super::execution::{Executor, Interrupt};
use super::features::Features;
use super::heap::{Heap, HeapError};
use super::machine::RealMachine;
use super::timer::Timer;
use crate::cpu::CurrentCpu;
use crate::memory::{Memory, Paging};
use crate::page_map::PageMapUse;

/// What the boot code found and did, for the client's log: the value prints as lines.
#[derive(Debug)]
pub struct BootReport {
    pub(super) layout: Layout,
    pub(super) environment: FrameRange,
    /// Bytes of the heap that the boot has used.
    pub(super) heap: u64,
    pub(super) features: Features,
    /// PCI functions found, and in how many bus mastering was switched off; `None` if that was
    /// not wanted.
    pub(super) bus_masters: Option<(u32, u32)>,
}

impl BootReport {
    /// Number one past the last frame that the kernel manages.
    #[must_use]
    pub fn managed_frames(&self) -> u64 {
        self.layout.managed_frames
    }

    /// Where the kernel keeps its own memory.
    #[must_use]
    pub fn environment(&self) -> FrameRange {
        self.environment
    }

    /// Bytes of the environment that describe pages: records and tables.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        self.layout.metadata_bytes() + self.heap
    }

    /// Bytes of the environment for kernel objects.
    #[must_use]
    pub fn heap_bytes(&self) -> u64 {
        self.layout.heap_bytes() - self.heap
    }

    /// The protections that the processor may offer, and whether they are on.
    #[must_use]
    pub fn protections(&self) -> &[(&'static str, bool)] {
        self.features.protections()
    }

    /// PCI functions found, and in how many bus mastering was on until the boot switched it off;
    /// `None` if `unsafe-dma` asked for leaving it.
    #[must_use]
    pub fn bus_masters(&self) -> Option<(u32, u32)> {
        self.bus_masters
    }
}

/// What the boot cost, in ticks of the time-stamp counter (instructions, where the machine counts
/// them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootCost {
    /// From the kernel's first instruction to the first one of a program.
    pub total: u64,
    /// The part of it that measuring the clock took.
    pub calibration: u64,
}

impl fmt::Display for BootCost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, calibration } = self;
        write!(
            formatter,
            "{total} ticks from the kernel's first instruction to the first program's, \
             {calibration} of them to measure the clock"
        )
    }
}

/// All memory of the machine.
pub type RealMemory = Memory<RealMachine>;

/// The machine, as the client kernel may use it.
#[derive(Debug)]
pub struct Hal {
    pub(super) memory: RealMemory,
    pub(super) cpu: CurrentCpu,
    pub(super) executor: Executor,
    pub(super) timer: Timer,
    pub(super) information: &'static BootInformation,
    pub(super) options: Options,
    pub(super) report: BootReport,
    /// Entry points of the boot modules that are programs.
    pub(super) entries: &'static [Option<VirtualAddress>],
}

impl Hal {
    /// All memory: regions, address spaces, mappings.
    pub fn memory(&mut self) -> &mut RealMemory {
        &mut self.memory
    }

    /// All memory, to look at.
    #[must_use]
    pub fn memory_view(&self) -> &RealMemory {
        &self.memory
    }

    /// The processor that this runs on.
    #[must_use]
    pub fn cpu(&self) -> CurrentCpu {
        self.cpu
    }

    /// The clock and the timer.
    pub fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// What the boot loader said.
    #[must_use]
    pub fn information(&self) -> &'static BootInformation {
        self.information
    }

    /// The options of the kernel's command line.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the boot code found and did.
    #[must_use]
    pub fn boot_report(&self) -> &BootReport {
        &self.report
    }

    /// What the boot cost; `None` before the first program was entered.
    #[must_use]
    pub fn boot_cost(&self) -> Option<BootCost> {
        let entry = self.executor.first_entry()?;
        Some(BootCost {
            total: self.timer.ticks_until(entry),
            calibration: self.timer.calibration_ticks(),
        })
    }

    /// Interrupts that nobody had asked for; they are counted and otherwise ignored.
    #[must_use]
    pub fn unexpected_interrupts(&self) -> u64 {
        self.executor.unexpected()
    }

    /// A context for a program: all registers zero.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] if the heap must be grown first.
    pub fn new_context(&mut self) -> Result<Context, HeapError> {
        self.executor.new_context()
    }

    /// Runs the program of `context` in the address space of `map` until it stops, and says why
    /// it did (thesis, section 4.5).
    #[inline]
    pub fn execute(&mut self, map: &PageMapUse, context: &mut Context) -> Interrupt {
        self.memory.load(self.cpu, map);
        // SAFETY: T1: the page map in use is loaded, and its root carries the kernel's half.
        let interrupt = unsafe { self.executor.execute(context) };
        self.memory.enter(self.cpu);
        interrupt
    }

    /// The environment pages for kernel objects that are not in use yet: the page allocator's zone
    /// `xen`.
    #[must_use]
    pub fn heap_frames(&self) -> FrameRange {
        Heap::free_frames()
    }

    /// Lends pages of [`Hal::heap_frames`] to the heap, where a [`Box`](super::Box) then finds
    /// room.
    ///
    /// # Errors
    /// [`HeapError::NotFree`].
    pub fn grow_heap(&mut self, frames: FrameRange) -> Result<(), HeapError> {
        Heap::lend(frames)
    }

    /// Hands out pages of [`Hal::heap_frames`], as words that are zero, for good.
    ///
    /// # Errors
    /// [`HeapError::NotFree`].
    pub fn heap_words(&mut self, frames: FrameRange) -> Result<&'static mut [u64], HeapError> {
        Heap::words(frames)
    }

    /// Waits until an interrupt arrives: the timer's, when its deadline has passed, or may have (a
    /// far one can be early), or that of a line that is on. `None` if something else ended the
    /// wait. The only place in the kernel where interrupts are let in.
    pub fn wait_for_interrupt(&mut self) -> Option<Interrupt> {
        let interrupt = self.executor.wait();
        self.memory.enter(self.cpu);
        interrupt
    }
}
