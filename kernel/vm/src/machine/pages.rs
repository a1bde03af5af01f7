//! The pages of the machine, as the page allocator sees them.
//!
//! Hides how a page changes hands: the abstraction layer lets memory pass from one domain to
//! another only by way of nobody, which clears it. So a page of nobody is clear, and the allocator
//! clears no page twice.

use heliox_hal::domain::Owner;
use heliox_hal::error::Error;
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{Ownership, PhysicalMemory};
use heliox_hal::region::PhysicalRegion;
use heliox_memory::{Parts, Progress};
use heliox_page_alloc::Pages;
use heliox_types::{Frame, FrameRange, PAGE_BITS};

use super::Platform;

/// The layer below the page allocator.
#[derive(Debug)]
pub struct MachinePages<P> {
    pub(super) platform: P,
}

impl<P: Platform> MachinePages<P> {
    /// All memory that `platform` has for domains.
    pub const fn new(platform: P) -> Self {
        Self { platform }
    }

    /// What the memory is in.
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// What the memory is in, to change it.
    pub const fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// The authority over the `1 << bits` bytes from the start of a frame on.
    pub(super) fn block(&self, first: Frame, bits: u32) -> Option<PhysicalRegion> {
        let flexpage = Flexpage::physical(first.address(), bits).ok()?;
        let mut regions = self.platform.memory().initial_regions();
        regions.find_map(|region| region.derive(flexpage).ok())
    }

    /// Make an aligned block of a domain's nobody's, which clears it.
    pub(super) fn release(&mut self, region: PhysicalRegion, from: Owner) -> Result<(), Error> {
        let frame = region.first_frame();
        let Owner::Domain(from) = from else {
            return Err(Error::NotOwner { frame, owner: Some(from) });
        };
        let cpu = self.platform.cpu();
        let mut parts = Parts::new(region);
        let memory = self.platform.memory_mut();
        while parts.step(|part| memory.release(cpu, part, from))? == Progress::More {}
        Ok(())
    }
}

impl<P: Platform> Pages for MachinePages<P> {
    type Owner = Owner;
    /// `None` for pages over which there is no authority to give.
    type Region = Option<PhysicalRegion>;

    const HYPERVISOR: Owner = Owner::Hypervisor;

    fn owner(&self, frame: Frame) -> Owner {
        let page = self.block(frame, PAGE_BITS);
        page.map_or(Owner::Hypervisor, |page| self.platform.memory().owner(page))
    }

    fn owner_of_all(&self, frames: FrameRange) -> Option<Owner> {
        self.platform.memory().owner_of_all(self.region(frames)?)
    }

    fn is_clear(&self, frames: FrameRange) -> bool {
        self.owner_of_all(frames) == Some(Owner::Nobody)
            || frames.iter().all(|frame| self.owner(frame) == Owner::Nobody)
    }

    fn set_owner(&mut self, frames: FrameRange, owner: Owner) -> Result<(), Frame> {
        let first = frames.first().ok_or(Frame::ZERO)?;
        let Owner::Domain(domain) = owner else { return Err(first) };
        // Also what was the domain's own before: nothing is known of what it left there. A page that
        // cannot be cleared is found before any changes hands.
        if self.owner_of_all(frames) != Some(Owner::Nobody) {
            for frame in frames {
                self.clear(frame)?;
            }
        }
        // As much at once as possible, so that it can be mapped by large pages.
        for (first, order) in frames.blocks() {
            let region = self.block(first, PAGE_BITS + order).ok_or(first)?;
            let mut parts = Parts::new(region);
            let memory = self.platform.memory_mut();
            let mut assign = |part| memory.assign(part, domain);
            while parts.step(&mut assign).map_err(|_| first)? == Progress::More {}
        }
        Ok(())
    }

    fn clear(&mut self, frame: Frame) -> Result<(), Frame> {
        let page = self.block(frame, PAGE_BITS).ok_or(frame)?;
        match self.platform.memory().owner(page) {
            // Memory of nobody is clear.
            Owner::Nobody => Ok(()),
            owner => self.release(page, owner).map_err(|_| frame),
        }
    }

    fn region(&self, frames: FrameRange) -> Option<PhysicalRegion> {
        self.block(frames.first()?, PAGE_BITS + frames.count().checked_ilog2()?)
    }
}
