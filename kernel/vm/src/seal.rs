//! Building a domain from outside, and the end of that: sealing.
//!
//! Hides how a domain is measured. The measurement is the SHA-256 digest of a sequence of records,
//! one for each guest frame at which the guest finds memory, in rising order: the frame's number
//! as 8 bytes (little endian), then a byte 0 if the page has zeros only, whether it is there or
//! promised, or a byte 1 and its content. So it says what the guest finds, and not how the
//! hypervisor went about it.

use hmac_sha256::Hash;

use crate::access::Permit;
use crate::access::Phase;
use crate::access::action::{Build, Seal, UseOwn};
use crate::access::purpose::{Building, Copying, Measuring as ToMeasure};
use crate::backing::{Backing, KernelMemory, Translation};
use crate::domain::{Domain, Measurement};
use crate::error::Error;
use crate::guest::{Extent, GuestFrame};
use crate::kinds::Kind;

/// How many bytes of a page are looked at together.
const CHUNK: usize = 512;

/// A measurement that is being made.
pub(crate) struct Measuring {
    hash: Hash,
    next: u64,
}

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    /// Measure at most `budget` guest frames or empty stretches more. The measurement when it is
    /// complete.
    pub(crate) fn measure(
        &mut self,
        backing: &mut B,
        permit: &Permit<Seal>,
        budget: u64,
    ) -> Result<Option<Measurement>, Error> {
        let uses = self.grants.uses() + self.grants.pages() + self.handles.used();
        if uses > 0 {
            return Err(Error::GrantsInUse { uses });
        }
        let mut measuring =
            self.measuring.take().unwrap_or_else(|| Measuring { hash: Hash::new(), next: 0 });
        self.phase = Phase::Sealing;
        for _ in 0..budget {
            let Some(guest) =
                GuestFrame::new(measuring.next).filter(|_| measuring.next < self.frames)
            else {
                let measurement = measuring.hash.finalize();
                self.measurement = Some(measurement);
                self.phase = Phase::Running;
                return Ok(Some(measurement));
            };
            measuring.next = self.measure_at(backing, permit, &mut measuring.hash, guest);
        }
        self.measuring = Some(measuring);
        Ok(None)
    }

    /// Measure what is at `guest`; the number of the next frame to be measured.
    fn measure_at(
        &self,
        backing: &mut B,
        permit: &Permit<Seal>,
        hash: &mut Hash,
        guest: GuestFrame,
    ) -> u64 {
        let (kind, same) = self.kinds.get(guest);
        let frame = match backing.translate(self.id, guest) {
            Translation::Memory { frame, .. } => Some(frame),
            Translation::Nothing { .. } if kind == Kind::OnDemand => None,
            Translation::Nothing { order } => return Extent::around(guest, same.min(order)).end(),
        };
        hash.update(guest.number().to_le_bytes());
        let content = frame.map(|frame| permit.window::<ToMeasure>(frame));
        match content.filter(|window| !backing.is_zero(window)) {
            None => hash.update([0]),
            Some(window) => {
                hash.update([1]);
                let mut offset = 0;
                while offset < B::PAGE_WORDS * 8 {
                    let mut bytes = [0; CHUNK];
                    let count = CHUNK.min((B::PAGE_WORDS * 8 - offset) as usize);
                    let Some(bytes) = bytes.get_mut(..count) else { break };
                    backing.read(&window, offset, bytes);
                    hash.update(bytes);
                    offset += count as u64;
                }
            }
        }
        guest.number() + 1
    }

    /// Copy the page at `source` of `builder` to `guest`.
    pub(crate) fn build_page(
        &mut self,
        backing: &mut B,
        permit: &Permit<Build>,
        guest: GuestFrame,
        builder: &Self,
        own: &Permit<UseOwn>,
        source: GuestFrame,
    ) -> Result<(), Error> {
        let found = |page: Option<_>, guest| page.ok_or(Error::NotPopulated { guest });
        let (to, _) = found(self.own_page(backing, guest)?, guest)?;
        let (from, _) = found(builder.own_page(backing, source)?, source)?;
        let (from, to) = (own.window::<Copying>(from), permit.window::<Building>(to));
        backing.copy(&from, 0, &to, 0, B::PAGE_WORDS * 8);
        Ok(())
    }
}
