//! From what the boot loader left to a plan: everything that the boot decides by reading.

use heliox_types::{FrameRange, Irq, PhysicalAddress};

use crate::acpi::{AcpiError, InterruptControllers, Wiring};
use crate::environment::{EnvironmentPlan, LOW_MEMORY, VIDEO_MEMORY};
use crate::information::{BootError, BootInformation, BootProtocol};
use crate::memory_map::Limits;
use crate::options::Options;
use crate::physical_memory::PhysicalMemory;

/// The I/O APIC that serves ISA interrupts, and how lines are wired to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicLines {
    /// Where its registers are: at the start of a page that is no memory and not offered to
    /// clients.
    pub address: PhysicalAddress,
    /// For each line of [`Irq`], where it leads.
    pub wiring: [Option<Wiring>; Irq::COUNT as usize],
}

/// What the boot is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Where the kernel's own memory is to be. Not reserved yet.
    pub plan: EnvironmentPlan,
    /// The I/O APIC, if there is one to be used.
    pub io_apic: Option<IoApicLines>,
    /// Why the tables of ACPI are not used, although there are some and they are wanted.
    pub acpi_error: Option<AcpiError>,
}

impl BootInformation {
    /// Reads what the boot loader left at `address`, and plans by it. `kernel`: the frames that the
    /// kernel occupies. The command line can be asked for also after an error.
    ///
    /// # Errors
    /// As [`BootInformation::parse`] and [`EnvironmentPlan::new`].
    pub fn prepare(
        &mut self,
        protocol: BootProtocol,
        address: PhysicalAddress,
        memory: &mut impl PhysicalMemory,
        limits: Limits,
        kernel: FrameRange,
    ) -> Result<Prepared, BootError> {
        self.parse(protocol, address, memory, limits, kernel)?;
        let options = Options::parse(self.command_line(), |_| {});
        let root_pointer = self.rsdp().filter(|_| !options.no_acpi);
        let controllers = root_pointer.map(|root| InterruptControllers::read(root, memory));
        self.reserve(LOW_MEMORY);
        let plan = EnvironmentPlan::new(self.memory_map(), options.kernel_memory)?;
        let found = controllers.as_ref().and_then(|found| found.as_ref().ok());
        let io_apic = found.and_then(|found| self.io_apic_lines(found));
        Ok(Prepared { plan, io_apic, acpi_error: controllers.and_then(Result::err) })
    }

    fn io_apic_lines(&self, found: &InterruptControllers) -> Option<IoApicLines> {
        let address = found.io_apics().iter().find(|io_apic| io_apic.first == 0)?.address;
        let frame = address.frame();
        let buffer = self.frame_buffer().map(|buffer| buffer.range.frames());
        let offered = VIDEO_MEMORY.contains(frame) || buffer.is_some_and(|b| b.contains(frame));
        let good = self.memory_map().may_be_device(frame) && !offered && address.is_aligned(12);
        let mut wiring = [None; Irq::COUNT as usize];
        for (place, line) in wiring.iter_mut().zip(0..) {
            *place = found.wiring(line);
        }
        good.then_some(IoApicLines { address, wiring })
    }
}
