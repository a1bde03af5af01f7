//! The kernel interface page: where its fields are, and how memory is described in it.

/// What the page begins with: `L4 µ K` in Latin 1.
pub const MAGIC: u64 = u64::from_le_bytes([b'L', b'4', 0xe6, b'K', 0, 0, 0, 0]);
/// Version X.2, revision 5.
pub const API_VERSION: u64 = 0x8405_0000;
/// Little endian, 64 bits.
pub const API_FLAGS: u64 = 4;

/// Byte offsets of fields.
pub mod offset {
    /// The magic number.
    pub const MAGIC: usize = 0x000;
    /// Version of the interface.
    pub const API_VERSION: usize = 0x008;
    /// Byte order and width.
    pub const API_FLAGS: usize = 0x010;
    /// Where the kernel's description is.
    pub const KERNEL_DESCRIPTION: usize = 0x018;
    /// Sigma0: stack pointer, instruction pointer, first and last address.
    pub const SIGMA0: usize = 0x040;
    /// The root task, in the same form.
    pub const ROOT: usize = 0x080;
    /// Number and place of the memory descriptors.
    pub const MEMORY_INFO: usize = 0x0a8;
    /// Size, alignment and smallest area of UTCBs.
    pub const UTCB_INFO: usize = 0x150;
    /// Size of this page.
    pub const KIP_AREA_INFO: usize = 0x158;
    /// Physical address of the boot information.
    pub const BOOT_INFO: usize = 0x170;
    /// Where the processors are described.
    pub const PROCESSOR_DESCRIPTIONS: usize = 0x178;
    /// Precision of the clock.
    pub const CLOCK_INFO: usize = 0x180;
    /// Which thread numbers there are.
    pub const THREAD_INFO: usize = 0x188;
    /// Which page sizes there are.
    pub const PAGE_INFO: usize = 0x190;
    /// Number of processors.
    pub const PROCESSOR_INFO: usize = 0x198;
    /// Addresses of system calls.
    pub const SPACE_CONTROL: usize = 0x1a0;
    /// The next one.
    pub const THREAD_CONTROL: usize = 0x1a8;
    /// The next one.
    pub const PROCESSOR_CONTROL: usize = 0x1b0;
    /// The next one.
    pub const MEMORY_CONTROL: usize = 0x1b8;
    /// The next one.
    pub const IPC: usize = 0x1c0;
    /// The next one.
    pub const LIPC: usize = 0x1c8;
    /// The next one.
    pub const UNMAP: usize = 0x1d0;
    /// The next one.
    pub const EXCHANGE_REGISTERS: usize = 0x1d8;
    /// The next one.
    pub const SYSTEM_CLOCK: usize = 0x1e0;
    /// The next one.
    pub const THREAD_SWITCH: usize = 0x1e8;
    /// The last one.
    pub const SCHEDULE: usize = 0x1f0;
    /// The processors: external and internal frequency in kilohertz, and two words of nothing.
    pub const PROCESSORS: usize = 0x240;
    /// Identity, date and version of the kernel.
    pub const KERNEL_ID: usize = 0x260;
    /// Text of the version, and after it the features, each ended by a zero; then an empty text.
    pub const VERSION_TEXT: usize = 0x280;
    /// The memory descriptors.
    pub const MEMORY_DESCRIPTORS: usize = 0x300;
}

/// First thread number that is not an interrupt's.
pub const SYSTEM_BASE: u32 = 24;
/// First thread number that is a program's.
pub const USER_BASE: u32 = 48;

/// What a piece of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum MemoryType {
    /// Not described.
    Undefined = 0x0,
    /// Ordinary memory.
    Conventional = 0x1,
    /// The kernel's.
    Reserved = 0x2,
    /// A device's or otherwise special.
    Dedicated = 0x3,
    /// Available to everybody who asks.
    Shared = 0x4,
    /// The boot loader's: initial table, server or module, by subtype.
    BootLoader = 0xe,
    /// The architecture's, by subtype.
    Architecture = 0xf,
}

impl MemoryType {
    /// The type with the number `number`.
    pub const fn from_number(number: u64) -> Self {
        match number & 0xf {
            0x1 => Self::Conventional,
            0x2 => Self::Reserved,
            0x3 => Self::Dedicated,
            0x4 => Self::Shared,
            0xe => Self::BootLoader,
            0xf => Self::Architecture,
            _ => Self::Undefined,
        }
    }
}

/// A piece of memory; later descriptors override earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryDescriptor {
    /// What it is.
    pub memory_type: MemoryType,
    /// More about that, for boot-loader and architecture types: 0 to 15.
    pub subtype: u8,
    /// Whether the addresses are virtual.
    pub is_virtual: bool,
    /// First address, a multiple of 1,024.
    pub low: u64,
    /// Last address, one less than a multiple of 1,024.
    pub high: u64,
}

impl MemoryDescriptor {
    /// The two words: type, subtype and flag in the low bits of the first.
    pub const fn words(self) -> [u64; 2] {
        let kind = self.memory_type as u64 | (self.subtype as u64 & 0xf) << 4;
        [self.low & !0x3ff | (self.is_virtual as u64) << 9 | kind, self.high & !0x3ff]
    }

    /// What two words say.
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [low, high] = words;
        Self {
            memory_type: MemoryType::from_number(low),
            subtype: (low >> 4 & 0xf) as u8,
            is_virtual: low & 1 << 9 != 0,
            low: low & !0x3ff,
            high: high | 0x3ff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_back() {
        let descriptor = MemoryDescriptor {
            memory_type: MemoryType::BootLoader,
            subtype: 3,
            is_virtual: false,
            low: 0x10_0000,
            high: 0x1f_ffff,
        };
        assert_eq!(descriptor.words(), [0x10_003e, 0x1f_fc00]);
        assert_eq!(MemoryDescriptor::from_words(descriptor.words()), descriptor);
    }
}
