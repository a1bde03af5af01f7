//! What the client kernel gets when it starts.

use heliox_address::FrameRange;
use heliox_boot::information::BootInformation;
use heliox_boot::options::Options;

use super::context::Context;
use super::environment::{Environment, Layout};
use super::execution::{self, Executor, Interrupt};
use super::timer::Timer;

/// What the boot code did, for the client's log.
#[derive(Debug)]
pub(super) struct BootReport {
    pub(super) layout: Layout,
    pub(super) range: FrameRange,
    /// PCI functions found, and in how many bus mastering was switched off; `None` if that was
    /// not wanted.
    pub(super) bus_masters: Option<(u32, u32)>,
}

/// The machine, as the client kernel may use it.
#[derive(Debug)]
pub struct Hal {
    pub(super) executor: Executor,
    pub(super) machine: super::machine::RealMachine,
    timer: Timer,
    pub(super) information: &'static mut BootInformation,
    environment: Environment,
    options: Options,
    report: BootReport,
}

impl Hal {
    pub(super) fn new(
        executor: Executor,
        machine: super::machine::RealMachine,
        timer: Timer,
        information: &'static mut BootInformation,
        environment: Environment,
        options: Options,
        report: BootReport,
    ) -> Self {
        Self { executor, machine, timer, information, environment, options, report }
    }

    /// The clock and the timer.
    pub fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// What the boot loader said.
    #[must_use]
    pub fn information(&self) -> &BootInformation {
        self.information
    }
}
