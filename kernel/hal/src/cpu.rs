//! Which processor the code runs on.
//!
//! Invariant C1: a [`CurrentCpu`] exists only on the processor that it names. It is made once per
//! processor, by the code that starts it, and can neither be sent to nor shared with another.

use core::marker::PhantomData;

pub use heliox_types::cpu::{CpuIndex, MAX_CPUS};

/// Proof that the code that holds it runs on a certain processor.
///
/// Operations that invalidate translations act on the processor that executes them; taking this
/// token instead of a number means that no client can name another one.
#[derive(Clone, Copy, Debug)]
pub struct CurrentCpu {
    index: CpuIndex,
    /// A raw pointer is neither `Send` nor `Sync`.
    not_send: PhantomData<*const ()>,
}

impl CurrentCpu {
    /// The token of processor `index`. Only the code that starts a processor calls this, on that
    /// processor.
    pub(crate) const fn new(index: CpuIndex) -> Self {
        Self { index, not_send: PhantomData }
    }

    /// Which processor this is.
    pub const fn index(self) -> CpuIndex {
        self.index
    }
}
