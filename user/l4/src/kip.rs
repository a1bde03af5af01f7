//! The kernel interface page, as a program reads it.
//!
//! Hides where the fields are. The page is the kernel's, so its numbers are believed; what they
//! point at is looked up within the page only.

use heliox_abi::kip::{MemoryDescriptor, offset};
use heliox_abi::{GlobalId, ThreadId};

/// Words of the page.
pub const WORDS: usize = 512;

/// A system call, by the word of the page that has its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum SystemCall {
    /// SpaceControl.
    SpaceControl = offset::SPACE_CONTROL,
    /// ThreadControl.
    ThreadControl = offset::THREAD_CONTROL,
    /// ProcessorControl.
    ProcessorControl = offset::PROCESSOR_CONTROL,
    /// MemoryControl.
    MemoryControl = offset::MEMORY_CONTROL,
    /// Ipc.
    Ipc = offset::IPC,
    /// Lipc.
    Lipc = offset::LIPC,
    /// Unmap.
    Unmap = offset::UNMAP,
    /// ExchangeRegisters.
    ExchangeRegisters = offset::EXCHANGE_REGISTERS,
    /// SystemClock.
    SystemClock = offset::SYSTEM_CLOCK,
    /// ThreadSwitch.
    ThreadSwitch = offset::THREAD_SWITCH,
    /// Schedule.
    Schedule = offset::SCHEDULE,
}

impl SystemCall {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 11] = [
        Self::SpaceControl,
        Self::ThreadControl,
        Self::ProcessorControl,
        Self::MemoryControl,
        Self::Ipc,
        Self::Lipc,
        Self::Unmap,
        Self::ExchangeRegisters,
        Self::SystemClock,
        Self::ThreadSwitch,
        Self::Schedule,
    ];

    /// Its place in [`SystemCall::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        (self as usize - offset::SPACE_CONTROL) / 8
    }
}

/// The program that the kernel starts by itself: where it begins and what it occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The stack pointer that it starts with.
    pub stack_pointer: u64,
    /// The address at which it starts.
    pub entry: u64,
    /// Its first byte.
    pub low: u64,
    /// The byte behind its last.
    pub end: u64,
}

/// The kernel interface page.
#[derive(Clone, Copy)]
pub struct KernelInterfacePage<'a>(&'a [u64; WORDS]);

impl core::fmt::Debug for KernelInterfacePage<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "KernelInterfacePage(version {:#x})", self.api_version())
    }
}

impl<'a> KernelInterfacePage<'a> {
    /// The page with these words.
    #[must_use]
    pub const fn new(words: &'a [u64; WORDS]) -> Self {
        Self(words)
    }

    /// The word at a byte offset; 0 behind the page.
    #[must_use]
    pub fn word(&self, offset: usize) -> u64 {
        self.0.get(offset / 8).copied().unwrap_or(0)
    }

    /// The byte at an offset; 0 behind the page.
    #[must_use]
    pub fn byte(&self, offset: usize) -> u8 {
        self.word(offset).to_le_bytes()[offset % 8]
    }

    /// Version of the interface.
    #[must_use]
    pub fn api_version(&self) -> u64 {
        self.word(offset::API_VERSION)
    }

    /// Byte order and width.
    #[must_use]
    pub fn api_flags(&self) -> u64 {
        self.word(offset::API_FLAGS)
    }

    /// The kernel's identity.
    #[must_use]
    pub fn kernel_id(&self) -> u64 {
        self.word(self.word(offset::KERNEL_DESCRIPTION) as usize)
    }

    /// Address of a system call's stub.
    #[must_use]
    pub fn system_call(&self, call: SystemCall) -> u64 {
        self.word(call as usize)
    }

    fn server(&self, at: usize) -> Server {
        Server {
            stack_pointer: self.word(at),
            entry: self.word(at + 8),
            low: self.word(at + 16),
            end: self.word(at + 24),
        }
    }

    /// Sigma0.
    #[must_use]
    pub fn sigma0(&self) -> Server {
        self.server(offset::SIGMA0)
    }

    /// The root task.
    #[must_use]
    pub fn root(&self) -> Server {
        self.server(offset::ROOT)
    }

    /// Physical address of the boot information, 0 if there is none.
    #[must_use]
    pub fn boot_information(&self) -> u64 {
        self.word(offset::BOOT_INFO)
    }

    /// Number of memory descriptors.
    #[must_use]
    pub fn memory_descriptor_count(&self) -> usize {
        (self.word(offset::MEMORY_INFO) & 0xffff_ffff) as usize
    }

    /// The memory descriptors, as many as lie in the page; later ones override earlier ones.
    pub fn memory_descriptors(&self) -> impl Iterator<Item = MemoryDescriptor> + use<'a> {
        let page = *self;
        let first = (page.word(offset::MEMORY_INFO) >> 32) as usize;
        let offsets = (first..WORDS * 8).step_by(16).take(page.memory_descriptor_count());
        offsets.map(move |at| MemoryDescriptor::from_words([page.word(at), page.word(at + 8)]))
    }

    /// Number of significant bits of thread numbers.
    #[must_use]
    pub fn thread_bits(&self) -> u32 {
        (self.word(offset::THREAD_INFO) & 0xff) as u32
    }

    /// First thread number that is no interrupt's.
    #[must_use]
    pub fn system_base(&self) -> u32 {
        (self.word(offset::THREAD_INFO) >> 8 & 0xfff) as u32
    }

    /// First thread number that is a program's.
    #[must_use]
    pub fn user_base(&self) -> u32 {
        (self.word(offset::THREAD_INFO) >> 20 & 0xfff) as u32
    }

    /// Sigma0's first thread.
    #[must_use]
    pub fn sigma0_id(&self) -> ThreadId {
        GlobalId::new(self.user_base(), 1).map_or(ThreadId::NIL, ThreadId::from)
    }

    /// The root task's first thread.
    #[must_use]
    pub fn root_id(&self) -> ThreadId {
        GlobalId::new(self.user_base() + 2, 1).map_or(ThreadId::NIL, ThreadId::from)
    }

    /// The sizes of pages, as bits: bit k for 2^k bytes.
    #[must_use]
    pub fn page_sizes(&self) -> u64 {
        self.word(offset::PAGE_INFO) & !0x3ff
    }

    /// Frequency of the first processor in kilohertz.
    #[must_use]
    pub fn frequency(&self) -> u64 {
        self.word(self.word(offset::PROCESSOR_DESCRIPTIONS) as usize + 8)
    }

    /// Precision of wakeups in microseconds.
    #[must_use]
    pub fn wakeup_precision(&self) -> u64 {
        self.word(offset::CLOCK_INFO) >> 16 & 0xffff
    }

    /// The text of the version, then the features, without the zeros that end them.
    pub fn texts(&self) -> Texts<'a> {
        Texts { page: *self, at: offset::VERSION_TEXT }
    }

    /// Whether the kernel has a feature.
    #[must_use]
    pub fn has_feature(&self, name: &str) -> bool {
        let mut texts = self.texts();
        texts.next();
        texts.any(|text| text == name)
    }
}

/// A text in the page.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    page: KernelInterfacePage<'a>,
    at: usize,
    length: usize,
}

impl Text<'_> {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        (self.at..self.at + self.length).map(|at| self.page.byte(at))
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.bytes().eq(other.bytes())
    }
}

/// The texts of the page: see [`KernelInterfacePage::texts`].
#[derive(Clone, Debug)]
pub struct Texts<'a> {
    page: KernelInterfacePage<'a>,
    at: usize,
}

impl<'a> Iterator for Texts<'a> {
    type Item = Text<'a>;

    fn next(&mut self) -> Option<Text<'a>> {
        let length = (self.at..WORDS * 8).take_while(|&at| self.page.byte(at) != 0).count();
        if length == 0 {
            return None;
        }
        let text = Text { page: self.page, at: self.at, length };
        self.at += length + 1;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliox_abi::kip::MemoryType;
    use std::vec::Vec;

    /// A page by the numbers of the interface's description, not by the shared constants.
    fn page() -> [u64; WORDS] {
        let mut words = [0; WORDS];
        for (at, word) in [
            (0x08, 0x8405_0000),
            (0x10, 4),
            (0x18, 0x260),
            (0x260, 0x0402_0000),
            (0x88, 0x100_1000),
            (0x90, 0x100_0000),
            (0x98, 0x110_0000),
            (0xa8, 0x2e0 << 32 | 2),
            (0x178, 0x240),
            (0x248, 1_000_000),
            (0x188, 0x0300_1812),
            (0x190, 0x20_1007),
            (0x1c0, 0xffff_ffff_c080_0000),
            (0x1f0, 0xffff_ffff_c080_0500),
        ] {
            words[at / 8] = word;
        }
        let text = b"Kernel 1\0ioflexpages\0pagerexregs\0\0";
        for (index, byte) in text.iter().enumerate() {
            words[(0x280 + index) / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let descriptors = [0x10_0001, 0x1f_fc00, 0x201, 0x7fff_ffff_fc00];
        words[0x2e0 / 8..0x300 / 8].copy_from_slice(&descriptors);
        words
    }

    #[test]
    fn fields_are_where_the_interface_has_them() {
        let words = page();
        let page = KernelInterfacePage::new(&words);
        assert_eq!((page.api_version(), page.api_flags()), (0x8405_0000, 4));
        assert_eq!(page.kernel_id(), 0x0402_0000);
        assert_eq!(page.root().entry, 0x100_1000);
        assert_eq!(page.root().end, 0x110_0000);
        assert_eq!(page.system_call(SystemCall::Ipc), 0xffff_ffff_c080_0000);
        assert_eq!(page.system_call(SystemCall::Schedule), 0xffff_ffff_c080_0500);
        assert_eq!((page.thread_bits(), page.system_base(), page.user_base()), (18, 24, 48));
        assert_eq!(page.sigma0_id(), ThreadId(0x30_0000_0001));
        assert_eq!(page.root_id(), ThreadId(0x32_0000_0001));
        assert_eq!(page.frequency(), 1_000_000);
        assert_eq!(page.page_sizes(), 0x20_1000);
    }

    #[test]
    fn system_calls_are_eleven_words_in_a_row() {
        for (index, call) in SystemCall::ALL.into_iter().enumerate() {
            assert_eq!(call.index(), index);
            assert_eq!(call as usize, 0x1a0 + 8 * index);
        }
    }

    #[test]
    fn features_follow_the_version() {
        let words = page();
        let page = KernelInterfacePage::new(&words);
        assert_eq!(page.texts().count(), 3);
        assert!(page.has_feature("ioflexpages") && page.has_feature("pagerexregs"));
        assert!(!page.has_feature("Kernel 1") && !page.has_feature("pager"));
    }

    #[test]
    fn descriptors_are_read_and_end_with_the_page() {
        let mut words = page();
        let found: Vec<_> = KernelInterfacePage::new(&words).memory_descriptors().collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].memory_type, MemoryType::Conventional);
        assert_eq!(
            (found[0].low, found[0].high, found[0].is_virtual),
            (0x10_0000, 0x1f_ffff, false)
        );
        assert!(found[1].is_virtual);
        words[0xa8 / 8] = 0xff0 << 32 | 1000;
        assert_eq!(KernelInterfacePage::new(&words).memory_descriptors().count(), 1);
    }
}
