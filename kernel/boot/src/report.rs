//! What the boot found and did, for the client's log.

use heliox_types::{FrameRange, ProcessorFeatures};

use crate::acpi::AcpiError;
use crate::information::BootInformation;

/// What the boot found and did.
#[derive(Clone, Copy, Debug)]
pub struct BootReport {
    /// What the boot loader said.
    pub information: &'static BootInformation,
    /// The time-stamp counter when the kernel began.
    pub start: u64,
    /// What the processor has, and the kernel so has switched on.
    pub features: ProcessorFeatures,
    /// Number one past the last frame that the kernel manages.
    pub managed_frames: u64,
    /// Where the kernel keeps its own memory.
    pub environment: FrameRange,
    /// The part of that for kernel objects.
    pub heap: FrameRange,
    /// In how many PCI functions bus mastering was on until the boot switched it off; `None` if
    /// `unsafe-dma` asked for leaving it.
    pub bus_masters: Option<u32>,
    /// Why the tables of ACPI are not used, although there are some and they are wanted.
    pub acpi: Option<AcpiError>,
    /// Whether the command line named a port that cannot be that of an exit device.
    pub exit_port_refused: bool,
    /// The name of the controller for external interrupts.
    pub interrupt_controller: &'static str,
}
