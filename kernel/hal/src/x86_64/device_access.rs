//! Devices, as the client kernel may use them: the HAL's checks in front of raw access.

use heliox_types::VirtualAddress;

use super::context::Context;
use super::hal::Hal;
use super::measure::Events;
use super::port_permissions::PortPermissions;
use super::{pci, processor};
use crate::irq::{Irq, IrqControl, NoSuchLine};
use crate::pci::{PciConfiguration, PciFunction, PciRegister, WriteRefused};
use crate::port::{self, NotInRange, PortRange, Ports};

impl IrqControl for Hal {
    fn enable_irq(&mut self, irq: Irq) -> Result<(), NoSuchLine> {
        self.executor.interrupts.enable(irq)
    }

    fn disable_irq(&mut self, irq: Irq) {
        self.executor.interrupts.disable(irq);
    }
}

/// Implements the reading and the writing of ports with one width.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty) => {
        fn $read(&self, range: PortRange, port: u16) -> Result<$value, NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            // SAFETY: D1: no range has a port that reaches memory (`crate::port`), unless the
            // user gave up on that with `unsafe-dma`.
            Ok(unsafe { processor::$read(port) })
        }

        fn $write(&mut self, range: PortRange, port: u16, value: $value) -> Result<(), NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            // SAFETY: as for reading.
            unsafe { processor::$write(port, value) }
            Ok(())
        }
    };
}

impl Ports for Hal {
    fn initial_ports(&self) -> impl Iterator<Item = PortRange> {
        port::initial_ports(self.options.unsafe_dma)
    }

    port_access!(in8, out8, u8);
    port_access!(in16, out16, u16);
    port_access!(in32, out32, u32);
}

impl PciConfiguration for Hal {
    fn read_pci(&self, function: PciFunction, register: PciRegister) -> u32 {
        pci::read(function, register)
    }

    fn write_pci(
        &mut self,
        function: PciFunction,
        register: PciRegister,
        value: u32,
    ) -> Result<(), WriteRefused> {
        pci::write(function, register, value, self.options.unsafe_dma)
    }
}

impl Hal {
    /// To be asked when the program of `context` stopped with exception 13 and `permissions` are
    /// those that the context was given: loads them, if they were not loaded. Whether they were
    /// not; then the program should try again, else it did what it may not do.
    pub fn load_port_permissions(
        &mut self,
        context: &Context,
        permissions: &PortPermissions,
    ) -> bool {
        self.executor.load_ports(context, permissions)
    }

    /// The address of the last page fault, of whatever program.
    #[must_use]
    pub fn last_fault_address(&self) -> u64 {
        processor::read_cr2()
    }

    /// Causes debug exceptions in the kernel, as a program's breakpoint could (`hazards` 1), so
    /// that a test can see that they do no harm. They count as unexpected interrupts.
    pub fn cause_debug_exception(&mut self) {
        processor::step();
    }

    /// What has happened since the boot, for `Measurement`.
    #[must_use]
    pub fn events(&self) -> Events {
        let machine = &self.memory.machine;
        Events {
            ticks: processor::time_stamp(),
            root_loads: machine.root_loads,
            flushes: machine.flushes,
        }
    }

    /// The entry point of boot module `number`; `None` if it is not a program that could be run
    /// (thesis, section 4.3.2). Its regions are those of `Memory::module_regions`.
    #[must_use]
    pub fn module_entry(&self, number: usize) -> Option<VirtualAddress> {
        self.entries.get(number).copied().flatten()
    }

    /// The name of the controller for external interrupts.
    #[must_use]
    pub fn interrupt_controller(&self) -> &'static str {
        self.executor.interrupts.name()
    }
}
