//! Faults that tests plant into the kernel, to see that they are found.
//!
//! Without the feature `planted-faults` none is planted, and nothing of this is compiled in.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A thread whose timeout has passed is not put into the run queue.
    LostWakeup = 1,
    /// A mapping gets the rights that are asked for, whatever the sender has.
    RightsNotMasked,
    /// The name of the sender is not written.
    StaleFrom,
    /// A mapping that is removed stays in the database.
    NodeLeaked,
    /// Timers are not started.
    TimeoutNeverFires,
    /// A sender whose time has passed stays in the queue.
    SenderStaysQueued,
    /// A granted mapping stays with whom it was granted from.
    GrantKeepsSource,
    /// A closed receive takes anybody's message.
    ClosedReceiveIsOpen,
    /// A page of UTCBs is not given back.
    PageLeaked,
    /// The end of a string's buffer is not seen.
    BufferOverrun,
    /// A halted thread runs.
    HaltedRuns,
    /// What was derived from a mapping outlives it.
    DerivedMappingsStay,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::LostWakeup,
        Self::RightsNotMasked,
        Self::StaleFrom,
        Self::NodeLeaked,
        Self::TimeoutNeverFires,
        Self::SenderStaysQueued,
        Self::GrantKeepsSource,
        Self::ClosedReceiveIsOpen,
        Self::PageLeaked,
        Self::BufferOverrun,
        Self::HaltedRuns,
        Self::DerivedMappingsStay,
    ];
}

#[cfg(feature = "planted-faults")]
mod switch {
    use core::sync::atomic::{AtomicU8, Ordering};

    use super::Fault;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a fault in all kernels of this process, or with `None` none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    /// Whether the fault is planted.
    pub(crate) fn is_planted(fault: Fault) -> bool {
        PLANTED.load(Ordering::Relaxed) == fault as u8
    }
}

#[cfg(feature = "planted-faults")]
pub(crate) use switch::is_planted;
#[cfg(feature = "planted-faults")]
pub use switch::plant;

/// Whether the fault is planted: never.
#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn is_planted(_: Fault) -> bool {
    false
}
