//! Stopping the machine with a status.

use core::sync::atomic::{AtomicU16, Ordering};

use super::{log, processor};
use crate::port::initial_ports;

/// The port of QEMU's isa-debug-exit device; 0 if there is none.
static EXIT_PORT: AtomicU16 = AtomicU16::new(0);

/// The largest status that the exit device can carry.
const LARGEST_STATUS: u8 = 63;

/// Names the port of the exit device, from the kernel's command line. Whether it is one that can
/// be that; the others stay without effect.
pub(super) fn set_exit_port(port: u16) -> bool {
    // The device has four ports.
    let good = initial_ports(false).any(|range| range.check(port, 4).is_ok());
    if good {
        EXIT_PORT.store(port, Ordering::Relaxed);
    }
    good
}

/// Stops the machine. `status` 0 means success; above 63 counts as 63.
///
/// With an exit device the emulator ends with `(0x40 | status) << 1 | 1`; without one, as on a
/// real machine, the processor halts.
pub fn stop(status: u8) -> ! {
    let status = status.min(LARGEST_STATUS);
    let port = EXIT_PORT.load(Ordering::Relaxed);
    log::line(format_args!("[info] stopped with status {status}"));
    if port != 0 {
        // SAFETY: D1: `set_exit_port` let no port through that reaches memory.
        unsafe { processor::out32(port, u32::from(0x40 | status)) }
    }
    processor::halt_forever()
}
