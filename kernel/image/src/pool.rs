//! What surrounds the L4 kernel: pages for its own use, and the log.

use core::fmt;

use heliox_hal::Hal;
use heliox_hal::execution::Heap;
use heliox_hal::region::PhysicalRegion;
use heliox_l4_kernel::Surroundings;
use heliox_log::LogLevel;
use heliox_types::FrameRange;

use crate::error::BootError;
use crate::memory;

/// Pages for the kernel's own use: a stack of those that are free.
#[derive(Debug)]
pub(crate) struct Pool {
    pages: &'static mut [Option<PhysicalRegion>],
    count: usize,
}

impl Pool {
    /// A pool of the pages of `frames`, which are free memory and nobody else's.
    ///
    /// # Errors
    /// [`BootError::Heap`].
    pub(crate) fn new(hal: &mut Hal, frames: FrameRange) -> Result<Self, BootError> {
        let count = frames.count() as usize;
        let pages = hal.heap_slice(count, |_| None)?;
        // From the last to the first, so that the first are taken first.
        for (place, frame) in pages.iter_mut().rev().zip(frames) {
            *place = memory::page(hal, frame);
        }
        Ok(Self { pages, count })
    }
}

impl Surroundings for Pool {
    fn take_page(&mut self) -> Option<PhysicalRegion> {
        self.count = self.count.checked_sub(1)?;
        self.pages.get_mut(self.count)?.take()
    }

    fn give_back(&mut self, page: PhysicalRegion) {
        if let Some(place) = self.pages.get_mut(self.count) {
            *place = Some(page);
            self.count += 1;
        }
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        heliox_log::write(LogLevel::Info, line);
    }

    fn print(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => heliox_log::write_bytes(b"\r\n"),
                b' '..=b'~' | b'\t' => heliox_log::write_bytes(&[byte]),
                b'\r' => {}
                // What else there is could pass for something that the kernel says.
                _ => heliox_log::write_bytes(b"?"),
            }
        }
    }

    fn read_character(&mut self) -> Option<u8> {
        heliox_log::read_byte()
    }
}
