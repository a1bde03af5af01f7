//! The beginning: the kernel interface page, the stubs, sigma0 and root.

use core::fmt;

use heliox_abi::kip::{self, MemoryDescriptor, offset};
use heliox_abi::{CallError, GlobalId, ThreadId};
use heliox_hal::entry::Host;
use heliox_hal::error::Error;
use heliox_hal::execution::Registers;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::{KernelMemory, Paging};
use heliox_hal::page_map::{PageMapUse, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_types::{PAGE_BYTES, VirtualAddress};

use crate::calls::{KIP_AREA_BITS, UTCB_AREA_BITS};
use crate::database::Database;
use crate::interrupts::Interrupts;
use crate::kernel::{Checks, Kernel, Machine, Objects, Surroundings};
use crate::memory::PAGE_SIZES;
use crate::ports::PORT_SIZES;
use crate::run_queue::RunQueue;
use crate::space::{Area, SIGMA0, Spaces};
use crate::stubs::{STUBS, Stub};
use crate::thread::{NOBODY, Number, Scheduling, State, Thread};
use crate::threads::Threads;
use crate::timers::Timers;
use crate::transfer::Transfers;
use crate::utcb::UtcbPages;

/// The kernel's identity: `H`, and the number of its kind.
pub(crate) const KERNEL_ID: u64 = 0x48 << 24 | 1 << 16;
/// Version 0.1.0.
const KERNEL_VERSION: u64 = 1 << 16;
/// `HeLX`, as a number of 32 bits.
const SUPPLIER: u64 = u32::from_le_bytes(*b"HeLX") as u64;
/// Day, month and year (from 2000) of this version's interface.
const DATE: u64 = 25 | 11 << 5 | 26 << 9;
/// Text of the version, and the features, each ended by a zero; an empty text ends them.
const TEXTS: &[u8] = b"Heliox 0.1.0\0pagerexregs\0ioflexpages\0\0";

/// Microseconds by which reading the clock, and waking up, may be off.
const CLOCK_PRECISION: u64 = 1;
const WAKEUP_PRECISION: u64 = 100;

/// Sigma0's number, and root's.
pub(crate) const SIGMA0_NUMBER: Number = kip::USER_BASE;
pub(crate) const ROOT_NUMBER: Number = kip::USER_BASE + 2;

/// Where sigma0 and root have their UTCBs, and the kernel interface page.
const UTCB_AREA: Area = Area { base: 0xbf00_0000, bits: 18 };
const KIP_AREA: Area = Area { base: 0xbff0_0000, bits: KIP_AREA_BITS };
const _: () = assert!(UTCB_AREA.bits >= UTCB_AREA_BITS);

/// Priority of sigma0 and root.
const SERVER_PRIORITY: u8 = 255;

/// A program that is in memory when the kernel starts.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Where it begins.
    pub entry: VirtualAddress,
    /// Its first address.
    pub low: u64,
    /// The address behind its last one.
    pub high: u64,
}

/// What the kernel is told when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Beginning<'b> {
    /// Sigma0, which lies in memory at its addresses.
    pub sigma0: Server,
    /// Root, likewise.
    pub root: Server,
    /// What all memory is; later descriptors override earlier ones.
    pub memory: &'b [MemoryDescriptor],
    /// Physical address of the boot information; 0 if there is none.
    pub boot_information: u64,
    /// The processor's clock and its bus, in kilohertz.
    pub kilohertz: (u64, u64),
    /// Whether there are pages of 1 GiB.
    pub gigabyte_pages: bool,
    /// A number that programs cannot know.
    pub key: u64,
    /// Whether ordinary messages may take the light path, which means the same as the other.
    pub light_path: bool,
}

/// Why the kernel cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is no page for the kernel's own use.
    NoPage,
    /// The abstraction layer says no.
    Checks(Error),
    /// There are more memory descriptors than the page has room for.
    TooManyDescriptors {
        /// How many there are.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// Sigma0 or root cannot be made.
    NoServer(CallError),
    /// There is room for so many threads only, which is not enough.
    TooFewThreads(u32),
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPage => formatter.write_str("there is no page for the kernel"),
            Self::Checks(error) => error.fmt(formatter),
            Self::TooManyDescriptors { count, limit } => {
                write!(formatter, "{count} memory descriptors do not fit, only {limit}")
            }
            Self::NoServer(error) => write!(formatter, "sigma0 or root cannot be made: {error:?}"),
            Self::TooFewThreads(threads) => write!(formatter, "{threads} threads are too few"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Checks(error)
    }
}

impl<'k, M: Machine, S: Surroundings> Kernel<'k, M, S> {
    /// A kernel that is ready to run sigma0 and root.
    ///
    /// `regions`: the memory that sigma0 has, by rising addresses.
    ///
    /// # Errors
    /// A [`StartError`].
    pub fn start(
        mut machine: M,
        mut surroundings: S,
        objects: Objects<'k, M>,
        regions: &'k [PhysicalRegion],
        beginning: &Beginning<'_>,
    ) -> Result<Self, StartError> {
        let kip = private_page(&mut machine, &mut surroundings)?;
        let stubs = stub_page(&mut machine, &mut surroundings)?;
        let spare = spare(&mut machine, &mut surroundings)?;
        let threads = Threads::new(objects.threads);
        if threads.limit() <= ROOT_NUMBER {
            return Err(StartError::TooFewThreads(threads.limit()));
        }
        let mut kernel = Self {
            machine,
            surroundings,
            supply: TableSupply::EMPTY,
            threads,
            spaces: Spaces::new(objects.spaces),
            utcbs: UtcbPages::new(objects.utcb_pages),
            mappings: Database::new(
                objects.mappings.nodes,
                objects.mappings.by_place,
                objects.mappings.by_object,
                PAGE_SIZES,
                beginning.key,
            ),
            port_mappings: Database::new(
                objects.port_mappings.nodes,
                objects.port_mappings.by_place,
                objects.port_mappings.by_object,
                PORT_SIZES,
                beginning.key,
            ),
            transfers: Transfers::new(objects.transfers),
            interrupts: Interrupts::new(),
            ready: RunQueue::new(),
            timers: Timers::new(objects.deadlines),
            checks: Checks::new(objects.checks),
            current: NOBODY,
            since: 0,
            waits: NOBODY,
            has_light_path: beginning.light_path,
            after_ipc: stubs.address().get() + Stub::Ipc.end(),
            lent: None,
            armed: None,
            woken: NOBODY,
            asynchronous: false,
            thread_limit: kip::USER_BASE,
            last_mark: 0,
            regions,
            had_redirectors: false,
            dying: 0,
            kip,
            stubs,
            spare,
            end: None,
        };
        kernel.describe(beginning)?;
        let root = GlobalId::new(ROOT_NUMBER, 1).map_or(ThreadId::NIL, Into::into);
        let sigma0 = GlobalId::new(SIGMA0_NUMBER, 1).map_or(ThreadId::NIL, Into::into);
        kernel.start_server(SIGMA0_NUMBER, beginning.sigma0, ThreadId::NIL, root)?;
        let space = kernel.start_server(ROOT_NUMBER, beginning.root, sigma0, root)?;
        kernel.give_initial_ports(space);
        Ok(kernel)
    }

    /// Makes a thread in a space of its own, which runs at once; answers the space's number.
    fn start_server(
        &mut self,
        number: Number,
        server: Server,
        pager: ThreadId,
        scheduler: ThreadId,
    ) -> Result<u32, StartError> {
        let space = self.spaces.allocate().ok_or(StartError::NoServer(CallError::NoMemory))?;
        debug_assert_eq!(space == SIGMA0, number == SIGMA0_NUMBER);
        self.configure(space, KIP_AREA, UTCB_AREA).map_err(StartError::NoServer)?;
        self.spaces.at_mut(space).threads = 1;
        self.spaces.at_mut(space).privileged = true;
        *self.threads.at_mut(number) = Thread {
            id: GlobalId::new(number, 1),
            space,
            scheduler,
            pager,
            scheduling: Scheduling::with_priority(SERVER_PRIORITY),
            ..Thread::free()
        };
        self.thread_limit = self.thread_limit.max(number + 1);
        self.give_utcb(number, UTCB_AREA.base).map_err(StartError::NoServer)?;
        let thread = self.threads.at_mut(number);
        let entry =
            thread.context_mut().map(|context| context.set_instruction_pointer(server.entry));
        if !matches!(entry, Some(Ok(()))) {
            return Err(StartError::NoServer(CallError::InvalidParameter));
        }
        thread.kept_state = State::Ready;
        self.settle(number);
        Ok(space)
    }

    /// Writes the kernel interface page.
    fn describe(&mut self, beginning: &Beginning<'_>) -> Result<(), StartError> {
        let limit = (PAGE_BYTES as usize - offset::MEMORY_DESCRIPTORS) / 16;
        let count = beginning.memory.len();
        if count > limit {
            return Err(StartError::TooManyDescriptors { count, limit });
        }
        let stubs = self.stubs.address().get();
        let stub = |stub: Stub| stubs + stub.offset();
        let thread_bits = u64::from(self.threads.limit().ilog2());
        let gigabyte = if beginning.gigabyte_pages { 1 << 30 } else { 0 };
        let (external, internal) = (beginning.kilohertz.1, beginning.kilohertz.0);
        let server = |at: usize, server: Server| {
            [(at, 0), (at + 8, server.entry.get()), (at + 16, server.low), (at + 24, server.high)]
        };
        let fields = [
            (offset::MAGIC, kip::MAGIC),
            (offset::API_VERSION, kip::API_VERSION),
            (offset::API_FLAGS, kip::API_FLAGS),
            (offset::KERNEL_DESCRIPTION, offset::KERNEL_ID as u64),
            (offset::MEMORY_INFO, (offset::MEMORY_DESCRIPTORS as u64) << 32 | count as u64),
            (offset::UTCB_INFO, u64::from(UTCB_AREA_BITS) << 16 | 10 << 10 | 1),
            (offset::KIP_AREA_INFO, u64::from(KIP_AREA_BITS)),
            (offset::BOOT_INFO, beginning.boot_information),
            (offset::PROCESSOR_DESCRIPTIONS, offset::PROCESSORS as u64),
            (offset::CLOCK_INFO, WAKEUP_PRECISION << 16 | CLOCK_PRECISION),
            (
                offset::THREAD_INFO,
                u64::from(kip::USER_BASE) << 20 | u64::from(kip::SYSTEM_BASE) << 8 | thread_bits,
            ),
            (offset::PAGE_INFO, 1 << 12 | 1 << 21 | gigabyte | 7),
            (offset::PROCESSOR_INFO, 5 << 60),
            (offset::SPACE_CONTROL, stub(Stub::SpaceControl)),
            (offset::THREAD_CONTROL, stub(Stub::ThreadControl)),
            (offset::PROCESSOR_CONTROL, stub(Stub::ProcessorControl)),
            (offset::MEMORY_CONTROL, stub(Stub::MemoryControl)),
            (offset::IPC, stub(Stub::Ipc)),
            (offset::LIPC, stub(Stub::Ipc)),
            (offset::UNMAP, stub(Stub::Unmap)),
            (offset::EXCHANGE_REGISTERS, stub(Stub::ExchangeRegisters)),
            (offset::SYSTEM_CLOCK, stub(Stub::SystemClock)),
            (offset::THREAD_SWITCH, stub(Stub::ThreadSwitch)),
            (offset::SCHEDULE, stub(Stub::Schedule)),
            (offset::PROCESSORS, external),
            (offset::PROCESSORS + 8, internal),
            (offset::KERNEL_ID, KERNEL_ID),
            (offset::KERNEL_ID + 8, DATE),
            (offset::KERNEL_ID + 16, KERNEL_VERSION),
            (offset::KERNEL_ID + 24, SUPPLIER),
        ];
        let servers = server(offset::SIGMA0, beginning.sigma0)
            .into_iter()
            .chain(server(offset::ROOT, beginning.root));
        let descriptors = (offset::MEMORY_DESCRIPTORS..)
            .step_by(8)
            .zip(beginning.memory.iter().flat_map(|descriptor| descriptor.words()));
        for (at, value) in fields.into_iter().chain(servers).chain(descriptors) {
            let word = self.kip.word(at / 8)?;
            self.machine.memory().write_word(word, value)?;
        }
        self.machine.memory().write_bytes(&self.kip, offset::VERSION_TEXT, TEXTS)?;
        Ok(())
    }
}

const _: () = assert!(offset::VERSION_TEXT + TEXTS.len() <= offset::MEMORY_DESCRIPTORS);

/// A page for the kernel, mapped for it and clear.
fn private_page<M: Machine, S: Surroundings>(
    machine: &mut M,
    surroundings: &mut S,
) -> Result<KernelMapping, StartError> {
    let region = surroundings.take_page().ok_or(StartError::NoPage)?;
    let cpu = machine.cpu();
    let memory = machine.memory();
    let mapping = memory.add_kernel_mapping(cpu, region, Rights::ReadWrite, false, None)?;
    memory.clear(&mapping)?;
    Ok(mapping)
}

/// An address space in which nothing is mapped, and registers of no thread.
fn spare<M: Machine, S: Surroundings>(
    machine: &mut M,
    surroundings: &mut S,
) -> Result<(PageMapUse, M::Context), StartError> {
    let region = surroundings.take_page().ok_or(StartError::NoPage)?;
    let page = machine.memory().create_page_map_page(region)?;
    let map = machine.memory().allocate_page_map::<Host>(page).map_err(|refused| refused.error)?;
    // It stays for good.
    let held = machine.memory().attach(&map)?;
    let context = machine.new_context().map_err(|_| StartError::NoServer(CallError::NoMemory))?;
    Ok((held, context))
}

/// The page of the stubs, which programs can execute.
fn stub_page<M: Machine, S: Surroundings>(
    machine: &mut M,
    surroundings: &mut S,
) -> Result<KernelMapping, StartError> {
    let page = private_page(machine, surroundings)?;
    let cpu = machine.cpu();
    let memory = machine.memory();
    // Behind the code, and where there is none: breakpoints.
    let size = page.size();
    memory.fill(&page, 0, size, 0xcc)?;
    for stub in STUBS {
        memory.write_bytes(&page, stub.offset() as usize, stub.code())?;
    }
    let (region, _) = memory.remove_kernel_mapping(cpu, page);
    Ok(memory.add_kernel_mapping(cpu, region, Rights::ReadExecute, true, None)?)
}
