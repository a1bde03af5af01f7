//! A log of every operation on memory, for `heliox check replay`.
//!
//! With the feature `audit`, the client kernel of the real machine gets an [`Audited`] memory. It does
//! what the memory in it does, and writes each operation that the formal model knows, with all
//! arguments and the result, to a port of the emulator; `model/src/log.rs` describes the format.
//! Operations that find nothing to do (loading what is loaded, entering without a debt) are left out.
//! An ordinary kernel has nothing of this.

#![forbid(unsafe_code)]

use core::fmt::{self, Display, Formatter, Write};
use core::ops::{Deref, DerefMut};

use crate::kernel_mapping::{KernelMapping, KernelWord};
use crate::mapping::{Changed, Removed};
use crate::prelude::*;
use crate::x86_64::put_audit;

/// The port that the log goes to.
struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(put_audit);
        Ok(())
    }
}

macro_rules! log {
    ($result:expr, $($text:tt)*) => {{
        let result = if $result { "ok" } else { "refused" };
        // Writing to the port cannot fail.
        let _ = writeln!(Port, "{} = {result}", format_args!($($text)*));
    }};
}

/// A memory whose operations are logged.
#[derive(Debug)]
pub struct Audited<M: Machine>(Memory<M>);

impl<M: Machine> Audited<M> {
    /// Begins a log with the description of the machine, just after the boot.
    pub(crate) fn new(memory: Memory<M>) -> Self {
        let list = |kind: fn(RegionKind) -> bool| {
            let regions = memory.initial_regions().filter(move |region| kind(region.kind()));
            Ranges(regions)
        };
        let modules = (0..).map_while(|number| memory.module_regions(number)).flatten();
        let _ = write!(
            Port,
            "machine levels={} entries={} user={} cpus={} ram={}",
            M::Geometry::LEVELS,
            M::Geometry::ENTRIES,
            M::Geometry::USER_ENTRIES,
            memory.state().cpus.len(),
            list(|kind| kind == RegionKind::Ram),
        );
        for region in modules {
            let _ = write!(Port, ",{}", Range(region));
        }
        if memory.initial_regions().any(|region| region.kind() != RegionKind::Ram) {
            let _ = write!(Port, " device={}", list(|kind| kind != RegionKind::Ram));
        }
        let _ = Port.write_str("\n");
        Self(memory)
    }
}

impl<M: Machine> Deref for Audited<M> {
    type Target = Memory<M>;

    fn deref(&self) -> &Memory<M> {
        &self.0
    }
}

impl<M: Machine> DerefMut for Audited<M> {
    fn deref_mut(&mut self) -> &mut Memory<M> {
        &mut self.0
    }
}

/// A region as a range of frames.
struct Range(PhysicalRegion);

impl Display for Range {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let first = self.0.first_frame().number();
        write!(formatter, "{first:#x}-{:#x}", first + self.0.pages())
    }
}

/// Several of them.
struct Ranges<I>(I);

impl<I: Iterator<Item = PhysicalRegion> + Clone> Display for Ranges<I> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for (number, region) in self.0.clone().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(formatter, "{comma}{}", Range(region))?;
        }
        Ok(())
    }
}

/// A region as an argument.
struct Region(PhysicalRegion);

impl Display for Region {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}+{}", self.0.first_frame().number(), self.0.pages())
    }
}

/// Rights as an argument.
struct Allowed(Rights);

impl Display for Allowed {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("r")?;
        formatter.write_str(if self.0.allows_write() { "w" } else { "" })?;
        formatter.write_str(if self.0.allows_execute() { "x" } else { "" })
    }
}

/// An owner as an argument.
struct Name(Owner);

impl Display for Name {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Owner::Hypervisor => formatter.write_str("hypervisor"),
            Owner::Nobody => formatter.write_str("nobody"),
            Owner::Domain(domain) => write!(formatter, "{}", domain.number()),
        }
    }
}

/// A share as an argument.
struct Given<'a>(Option<&'a Share>);

impl Display for Given<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Some(share) = self.0 else { return formatter.write_str("-") };
        let owner = share.owner.owner().map_or(Name(Owner::Nobody), Name);
        let (region, grantee) = (Region(share.region), Name(share.grantee));
        write!(formatter, "{region}:{owner}:{grantee}:{}", Allowed(share.rights))
    }
}

/// The page-map pages that were supplied, those that are taken first at the end.
struct Supply([Option<Frame>; SUPPLY_LIMIT]);

impl Supply {
    fn of(supply: &TableSupply) -> Self {
        let mut frames = [None; SUPPLY_LIMIT];
        for (place, page) in frames.iter_mut().rev().zip(supply.iter()) {
            *place = Some(page.frame);
        }
        Self(frames)
    }
}

impl Display for Supply {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for frame in self.0.iter().flatten() {
            write!(formatter, "{comma}{:#x}", frame.number())?;
            comma = ",";
        }
        if comma.is_empty() { formatter.write_str("-") } else { Ok(()) }
    }
}

/// The number of the page at an address.
fn page(address: VirtualAddress) -> u64 {
    address.get() >> PAGE_BITS
}

impl<M: Machine> PhysicalMemory for Audited<M> {
    fn initial_regions(&self) -> impl Iterator<Item = PhysicalRegion> + Clone {
        self.0.initial_regions()
    }

    fn module_regions(&self, number: usize) -> Option<impl Iterator<Item = PhysicalRegion>> {
        self.0.module_regions(number)
    }

    fn status(&self, region: PhysicalRegion) -> Status {
        self.0.status(region)
    }

    fn owner(&self, region: PhysicalRegion) -> Owner {
        self.0.owner(region)
    }

    fn owner_of_all(&self, region: PhysicalRegion) -> Option<Owner> {
        self.0.owner_of_all(region)
    }
}

impl<M: Machine> Paging for Audited<M> {
    fn create_page_map_page(&mut self, region: PhysicalRegion) -> Result<PageMapPage, Error> {
        let result = self.0.create_page_map_page(region);
        log!(result.is_ok(), "create-page-map-page region={}", Region(region));
        result
    }

    fn release_page_map_page(&mut self, cpu: CurrentCpu, page: PageMapPage) -> PhysicalRegion {
        log!(true, "release-page-map-page page={:#x}", page.frame.number());
        self.0.release_page_map_page(cpu, page)
    }

    fn allocate_page_map<K: RootKind>(
        &mut self,
        page: PageMapPage,
    ) -> Result<PageMap<K>, Refused<PageMapPage>> {
        let frame = page.frame;
        let result = self.0.allocate_page_map(page);
        log!(result.is_ok(), "allocate-page-map page={:#x}", frame.number());
        result
    }

    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<PageMapPage, Refused<PageMap<K>>> {
        let root = map.root;
        let result = self.0.free_page_map(cpu, map);
        log!(result.is_ok(), "free-page-map cpu={} map={:#x}", cpu.index().get(), root.number());
        result
    }

    fn attach<K: RootKind>(&mut self, map: &PageMap<K>) -> Result<PageMapUse<K>, Error> {
        let result = self.0.attach(map);
        if result.is_ok() {
            log!(true, "attach map={:#x}", map.root.number());
        }
        result
    }

    fn detach<K: RootKind>(&mut self, held: PageMapUse<K>) {
        log!(true, "detach map={:#x}", held.root.number());
        self.0.detach(held);
    }

    fn load(&mut self, cpu: CurrentCpu, map: &PageMapUse<Host>) {
        let record = self.0.state.cpus.get(cpu.index().get());
        if record.is_none_or(|record| record.loaded != map.root) {
            log!(true, "load cpu={} map={:#x}", cpu.index().get(), map.root.number());
        }
        self.0.load(cpu, map);
    }

    fn load_reference(&mut self, cpu: CurrentCpu) {
        log!(true, "load cpu={} map=reference", cpu.index().get());
        self.0.load_reference(cpu);
    }

    fn enter(&mut self, cpu: CurrentCpu) {
        if self.0.owing_cpus().any(|owing| owing == cpu.index()) {
            log!(true, "enter cpu={}", cpu.index().get());
        }
        self.0.enter(cpu);
    }

    fn is_complete(&self, invalidation: Invalidation) -> bool {
        self.0.is_complete(invalidation)
    }

    fn owing_cpus(&self) -> impl Iterator<Item = CpuIndex> {
        self.0.owing_cpus()
    }

    fn reclaim(&mut self, page: DrainingPage) -> Result<PageMapPage, Refused<DrainingPage>> {
        let frame = page.frame;
        let result = self.0.reclaim(page);
        log!(result.is_ok(), "reclaim page={:#x}", frame.number());
        result
    }
}

impl<M: Machine> UserMemory for Audited<M> {
    fn page_bits(&self, most: u32) -> u32 {
        self.0.page_bits(most)
    }

    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<(), Error> {
        let supplied = Supply::of(supply);
        let result = self.0.add_mapping(map, to, region, rights, share, supply);
        log!(
            result.is_ok(),
            "add-mapping map={:#x} supply={supplied} region={} page={:#x} rights={} share={}",
            map.root.number(),
            Region(region),
            page(to),
            Allowed(rights),
            Given(share)
        );
        result
    }

    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        change: Change,
    ) -> Result<Changed, Error> {
        let result = self.0.modify_mapping(cpu, map, at, change);
        let (number, root, page) = (cpu.index().get(), map.root.number(), page(at));
        match change {
            Change::Rights(rights) => {
                let rights = Allowed(rights);
                log!(
                    result.is_ok(),
                    "modify-mapping cpu={number} map={root:#x} page={page:#x} rights={rights}"
                );
            }
            Change::ResetUsage => {
                log!(result.is_ok(), "reset-usage cpu={number} map={root:#x} page={page:#x}");
            }
        }
        result
    }

    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
    ) -> Result<Removed, Error> {
        let result = self.0.remove_mapping(cpu, map, at);
        let (number, root, page) = (cpu.index().get(), map.root.number(), page(at));
        log!(result.is_ok(), "remove-mapping cpu={number} map={root:#x} page={page:#x}");
        result
    }

    fn split_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        supply: &mut TableSupply,
    ) -> Result<Invalidation, Error> {
        let supplied = Supply::of(supply);
        let result = self.0.split_mapping(cpu, map, at, supply);
        let (number, root, page) = (cpu.index().get(), map.root.number(), page(at));
        log!(
            result.is_ok(),
            "split-mapping cpu={number} map={root:#x} supply={supplied} page={page:#x}"
        );
        result
    }

    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u64> {
        self.0.read_mapping(map, at)
    }

    fn find_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u32> {
        self.0.find_mapping(map, at)
    }
}

impl<M: Machine> KernelMemory for Audited<M> {
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error> {
        let result = self.0.add_kernel_mapping(cpu, region, rights, user_visible, share);
        log!(
            result.is_ok(),
            "add-kernel-mapping cpu={} region={} rights={} programs={} share={}",
            cpu.index().get(),
            Region(region),
            Allowed(rights),
            if user_visible { "yes" } else { "no" },
            Given(share)
        );
        result
    }

    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation) {
        let region = Region(mapping.region());
        log!(true, "remove-kernel-mapping cpu={} region={region}", cpu.index().get());
        self.0.remove_kernel_mapping(cpu, mapping)
    }

    fn read_word(&self, word: KernelWord<'_>) -> u64 {
        self.0.read_word(word)
    }

    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error> {
        self.0.write_word(word, value)
    }

    fn change_word(&mut self, word: KernelWord<'_>, clear: u64, set: u64) -> Result<u64, Error> {
        self.0.change_word(word, clear, set)
    }

    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        self.0.read_bytes(mapping, offset, bytes)
    }

    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.0.write_bytes(mapping, offset, bytes)
    }

    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error> {
        self.0.copy(from, to, count)
    }

    fn fill(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        count: usize,
        value: u8,
    ) -> Result<(), Error> {
        self.0.fill(mapping, offset, count, value)
    }
}

impl<M: Machine> Ownership for Audited<M> {
    fn assign(&mut self, region: PhysicalRegion, to: DomainId) -> Result<(), Error> {
        let result = self.0.assign(region, to);
        log!(result.is_ok(), "assign region={} to={}", Region(region), to.number());
        result
    }

    fn release(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<(), Error> {
        let result = self.0.release(cpu, region, from);
        log!(result.is_ok(), "release region={} from={}", Region(region), from.number());
        result
    }

    fn share(
        &mut self,
        region: PhysicalRegion,
        owner: DomainId,
        grantee: Owner,
        rights: Rights,
    ) -> Result<Share, Error> {
        let result = self.0.share(region, owner, grantee, rights);
        let (region, from, to) = (Region(region), owner.number(), Name(grantee));
        log!(result.is_ok(), "share share={region}:{from}:{to}:{}", Allowed(rights));
        result
    }

    fn end_share(&mut self, share: Share) {
        log!(true, "end-share share={}", Given(Some(&share)));
        self.0.end_share(share);
    }
}
