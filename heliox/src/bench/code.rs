//! The code that a trace ran through: from the files of the kernel and the program, and, where the
//! kernel made code itself (its system-call stubs), as it was found in memory.

use std::collections::BTreeMap;

use super::image::Image;
use super::instruction::{self, Kind};

/// The longest instruction.
const MOST_BYTES: usize = 15;
/// Log2 of the memory that is read at a time.
const PAGE_BITS: u32 = 12;

/// First address of the kernel's half of an address space.
pub const KERNEL_START: u64 = 1 << 63;

/// All code of a run.
pub struct Code {
    /// The kernel.
    pub kernel: Image,
    /// The program, in whatever address space.
    pub program: Image,
    /// Pages of code that are in neither file.
    memory: BTreeMap<u64, Vec<u8>>,
}

impl Code {
    /// The code of a kernel and a program.
    #[must_use]
    pub fn new(kernel: Image, program: Image) -> Self {
        Self { kernel, program, memory: BTreeMap::new() }
    }

    /// The page that must be read from memory before [`Code::kind`] can tell about `address`.
    #[must_use]
    pub fn missing(&self, address: u64) -> Option<u64> {
        self.bytes(address).is_none().then_some(address >> PAGE_BITS << PAGE_BITS)
    }

    /// Notes what memory holds from `page` on.
    pub fn add_memory(&mut self, page: u64, contents: Vec<u8>) {
        self.memory.insert(page, contents);
    }

    /// Bytes of a page of memory.
    #[must_use]
    pub const fn page_bytes() -> u64 {
        1 << PAGE_BITS
    }

    fn bytes(&self, address: u64) -> Option<&[u8]> {
        let from_file = self.kernel.code(address).or_else(|| self.program.code(address));
        from_file.or_else(|| {
            let page = address >> PAGE_BITS << PAGE_BITS;
            let contents = self.memory.get(&page)?;
            contents.get(usize::try_from(address - page).ok()?..)
        })
    }

    /// The kind of the instruction at an address; [`Kind::Other`] if there is no code.
    #[must_use]
    pub fn kind(&self, address: u64) -> Kind {
        let bytes = self.bytes(address).unwrap_or_default();
        instruction::classify(bytes.get(..MOST_BYTES).unwrap_or(bytes))
    }

    /// The functions that an address belongs to, as [`Image::functions`].
    #[must_use]
    pub fn functions(&self, address: u64) -> Vec<String> {
        let image = if address < KERNEL_START { &self.program } else { &self.kernel };
        image.functions(address)
    }
}
