//! Pages of memory: from sigma0, in pieces of up to 4 MiB, and back from programs that have ended.

use alloc::vec::Vec;

use heliox_l4::Flexpage;
use heliox_l4::memory::{PAGE_BITS, PAGE_BYTES, Region};
use heliox_l4::message::Mapping;
use heliox_l4::sigma0;

/// Log2 of the size of the pieces that sigma0 is asked for.
const PIECE_BITS: u32 = 22;

/// A page: the piece that it is in, and its number there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    piece: usize,
    page: u64,
}

/// All pages that root has.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pieces: Vec<Region>,
    free: Vec<Frame>,
}

impl Frames {
    /// A page of zeros; `None` if there is no memory left.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.refill()?;
        }
        let frame = self.free.pop()?;
        self.pieces.get(frame.piece)?.clear(frame.page * PAGE_BYTES, PAGE_BYTES);
        Some(frame)
    }

    fn refill(&mut self) -> Option<()> {
        let region =
            (PAGE_BITS..=PIECE_BITS).rev().find_map(|bits| sigma0::any_memory(bits).ok())?;
        let (piece, pages) = (self.pieces.len(), region.bytes() / PAGE_BYTES);
        self.pieces.push(region);
        self.free.extend((0..pages).rev().map(|page| Frame { piece, page }));
        Some(())
    }

    /// Takes a page away from the programs that it was mapped to; it can be taken again.
    pub(crate) fn give_back(&mut self, frame: Frame) {
        if let Some(piece) = self.pieces.get(frame.piece) {
            piece.unmap(frame.page * PAGE_BYTES, PAGE_BITS, Flexpage::ALL, false);
            self.free.push(frame);
        }
    }

    /// Writes bytes into a page at `offset`.
    pub(crate) fn write(&self, frame: Frame, offset: u64, bytes: &[u8]) {
        if let Some(piece) = self.pieces.get(frame.piece) {
            piece.write_bytes(frame.page * PAGE_BYTES + offset, bytes);
        }
    }

    /// The page, to be mapped with `rights` at `address`.
    pub(crate) fn map(&self, frame: Frame, rights: u64, address: u64) -> Mapping {
        self.pieces.get(frame.piece).map_or(Mapping::NOTHING, |piece| {
            piece.map(frame.page * PAGE_BYTES, PAGE_BITS, rights, address)
        })
    }
}
