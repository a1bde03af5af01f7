//! What the boot found and did, for the client's log.

use heliox_types::ProcessorFeatures;

use crate::acpi::AcpiError;
use crate::environment::EnvironmentPlan;
use crate::information::BootInformation;

/// What the boot found and did.
#[derive(Clone, Copy, Debug)]
pub struct BootReport {
    /// The time-stamp counter when the kernel began.
    pub start: u64,
    /// What the boot loader said.
    pub information: &'static BootInformation,
    /// What the processor has, and the kernel so has switched on.
    pub features: ProcessorFeatures,
    /// Where the kernel keeps its own memory, and how much it manages.
    pub plan: EnvironmentPlan,
    /// In how many PCI functions bus mastering was on until the boot switched it off; `None` if
    /// `unsafe-dma` asked for leaving it.
    pub bus_masters: Option<u32>,
    /// Why the tables of ACPI are not used, although there are some and they are wanted.
    pub acpi: Option<AcpiError>,
    /// Whether external interrupts come through an I/O APIC, rather than the 8259s.
    pub io_apic: bool,
}
