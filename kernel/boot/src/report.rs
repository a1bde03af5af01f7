//! What the boot found and did, for the client's log.

use heliox_types::ProcessorFeatures;

use crate::Prepared;
use crate::information::BootInformation;

/// What the boot found and did.
#[derive(Clone, Copy, Debug)]
pub struct BootReport {
    /// The time-stamp counter when the kernel began.
    pub start: u64,
    /// What the boot loader said.
    pub information: &'static BootInformation,
    /// What was read out of that.
    pub prepared: Prepared,
    /// What the processor has, and the kernel so has switched on.
    pub features: ProcessorFeatures,
    /// In how many PCI functions bus mastering was on until the boot switched it off; `None` if
    /// `unsafe-dma` asked for leaving it.
    pub bus_masters: Option<u32>,
}
