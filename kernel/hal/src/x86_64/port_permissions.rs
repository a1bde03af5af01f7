//! Which ports a program may use by itself.
//!
//! [`PortPermissions`] belong to an address space or whatever else the client likes; each context
//! that is to have them carries their name. The processor reads a bitmap in the task state, 8 KiB
//! that are copied there only when a program needs them: until then, and whenever a program runs
//! that carries another name, the bitmap lies past the end of the task state, and an access to a
//! port is a general protection fault (`hazards` 16). The client then asks
//! `Hal::load_port_permissions` and lets the program try again.
//!
//! Invariants:
//!
//! - A1: a bit is 0 only for a port of a range that was granted and not revoked since, so never
//!   for one that is withheld.
//! - A2: programs can use ports only while the task state holds the bits of the permissions that
//!   the running context names. Whatever changes these (granting, revoking, dropping) or the name
//!   in a context closes all ports first.

use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu;
use super::heap::{Box, HeapError};
use crate::port::PortRange;

/// The name that was given last.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// Half of the ports: a bit for each, 1 if it is refused.
pub(super) type Half = [u64; 512];

/// A set of ports, in two pages of the environment heap.
#[derive(Debug)]
pub struct PortPermissions {
    /// Never 0, and never given twice.
    name: u64,
    halves: [Box<Half>; 2],
}

impl PortPermissions {
    /// No ports.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] if the heap has not two pages left.
    pub fn new() -> Result<Self, HeapError> {
        let half = || Box::new([u64::MAX; 512]).map_err(|(_, error)| error);
        Ok(Self {
            // A 64-bit count does not overflow.
            name: NAMES.fetch_add(1, Ordering::Relaxed) + 1,
            halves: [half()?, half()?],
        })
    }

    /// Adds the ports of `range`.
    pub fn grant(&mut self, range: PortRange) {
        self.change(range, |word, bits| *word &= !bits);
    }

    /// Takes the ports of `range` away, at once.
    pub fn revoke(&mut self, range: PortRange) {
        self.change(range, |word, bits| *word |= bits);
    }

    fn change(&mut self, range: PortRange, change: impl Fn(&mut u64, u64)) {
        cpu::forget_ports();
        let (first, last) = (usize::from(range.first()), usize::from(range.last()));
        let [low, high] = &mut self.halves;
        let words = low.iter_mut().chain(high.iter_mut()).enumerate();
        for (index, word) in words.take(last / 64 + 1).skip(first / 64) {
            let from = first.saturating_sub(index * 64);
            let to = (last - index * 64).min(63);
            change(word, u64::MAX << from & u64::MAX >> (63 - to));
        }
    }

    pub(super) fn name(&self) -> u64 {
        self.name
    }

    pub(super) fn halves(&self) -> [&Half; 2] {
        let [low, high] = &self.halves;
        [low, high]
    }
}

impl Drop for PortPermissions {
    fn drop(&mut self) {
        cpu::forget_ports();
    }
}
