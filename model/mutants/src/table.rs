//! The faults, and the edits that seed them.

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub description: &'static str,
}

/// An edit: in a file of `kernel/hal/src`, the first `find` after `after` becomes `replace`. White
/// space does not count. In a replacement `@Name` says whether that fault is planted.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The file.
    pub file: &'static str,
    /// What comes before.
    pub after: &'static str,
    /// What is replaced.
    pub find: &'static str,
    /// By what.
    pub replace: &'static str,
}

const fn mutant(name: &'static str, description: &'static str) -> Mutant {
    Mutant { name, description }
}

const fn edit(
    file: &'static str,
    after: &'static str,
    find: &'static str,
    replace: &'static str,
) -> Edit {
    Edit { file, after, find, replace }
}

/// All faults.
pub const MUTANTS: &[Mutant] = &[
    mutant("ReferenceIgnoresStatus", "memory of any status is mapped or shared"),
    mutant("ReferenceIgnoresOwner", "memory of any owner is mapped or shared"),
    mutant("RemovedReferenceStaysCounted", "a reference that is removed is still counted"),
    mutant("RemovalIsNotStamped", "a removal leaves no stamp on the page"),
    mutant("FreeIgnoresStatus", "a page of any status counts as free"),
    mutant("FreeIgnoresReferences", "a page that is referenced counts as free"),
    mutant("FreeIgnoresLargePages", "a page of a large page that is referenced counts as free"),
    mutant("FreeIgnoresStaleTranslations", "a page that a processor may still use counts as free"),
    mutant("SettledIgnoresLargePages", "stamps of removals of large pages are not looked at"),
    mutant(
        "LargePageForgetsSpecialPage",
        "a large page counts as normal though a part of it is not",
    ),
    mutant("LargePageStaysMixed", "a large page never counts as normal again"),
    mutant("LargePageFollowsItsPart", "a large page gets the owner of the part that changes hands"),
    mutant("OwnerStays", "memory that changes hands keeps its owner"),
    mutant("OthersOweNothing", "other processors owe nothing"),
    mutant("LatestDebtCounts", "a new debt makes an older one forgotten"),
    mutant(
        "OwnTranslationStays",
        "the processor that acts does not know that it is one of those who may have cached",
    ),
    mutant("SettledOneEpochEarly", "a debt of the very epoch counts as paid"),
    mutant(
        "FreeIgnoresOtherProcessors",
        "a page map is freed that another processor translates with",
    ),
    mutant("LoadIsNotRecorded", "it is not recorded which root a processor loads"),
    mutant("LoadIsNotCarriedOut", "a root is recorded as loaded and is not"),
    mutant("PageMapPageOfLargeRegion", "a page-map page is made of a larger region"),
    mutant("PageMapPageKeepsContents", "a page-map page keeps what the page contained"),
    mutant("PageMapPageKeepsStatus", "a page-map page has the status of a normal page"),
    mutant("ReleasedPageKeepsStatus", "a page-map page that is released keeps its status"),
    mutant("RootOfNobody", "a page map is made of a page that is nobody's"),
    mutant(
        "KernelHalfBeginsLate",
        "the first entry of the kernel's half is not copied into a new root",
    ),
    mutant("FreeIgnoresMappings", "a page map is freed that maps something"),
    mutant("FreedRootStaysLoaded", "a page map is freed and stays loaded"),
    mutant("FreedRootKeepsKernelHalf", "a root that is freed keeps the kernel's half"),
    mutant("EnterDropsNothing", "a processor pays what it owes without dropping anything"),
    mutant(
        "EnterDropsTooLittle",
        "a processor that owes a flush keeps what it cached of the kernel's half",
    ),
    mutant("EnterKeepsDebt", "a processor that paid still owes"),
    mutant(
        "ReclaimIgnoresOtherProcessors",
        "a table is reclaimed while a processor may walk through it",
    ),
    mutant("TablesAreOptional", "a mapping is made with fewer tables than it needs"),
    mutant(
        "LargePageAtAnyAddress",
        "a large page is mapped at an address that is not a multiple of its size",
    ),
    mutant("LastPageCanBeMapped", "the last page of user space can be mapped"),
    mutant("DevicesAreEverybodys", "device memory is mapped for any owner"),
    mutant("MapsOverMapping", "what was mapped is mapped over"),
    mutant("SharedMappingIsNotMarked", "a mapping of shared memory is not marked as such"),
    mutant("MappingAllowsEverything", "a mapping allows everything whatever was asked for"),
    mutant("SharedMappingGainsRights", "a mapping made through a share gains rights"),
    mutant("NewTableKeepsStatus", "a new table keeps the status of a page-map page"),
    mutant("EntryOfNewTableIsNotCounted", "the first entry of a new table is not counted"),
    mutant("FreedTableStaysLinked", "a table that is freed stays where it was"),
    mutant("FreedTableIsNormal", "a table that is freed is normal memory at once"),
    mutant("MappingIsNotCounted", "a mapping is not counted"),
    mutant("EntryIsNotCounted", "an entry of a table is not counted"),
    mutant("ModifyForgetsOthers", "other processors do not owe a flush when rights are taken away"),
    mutant(
        "ModifyForgetsInvalidation",
        "the processor that takes rights away keeps the old ones cached",
    ),
    mutant("RemoveForgetsInvalidation", "the processor that removes a mapping keeps it cached"),
    mutant(
        "RemoveInvalidatesPageOnly",
        "the processor that frees a table keeps its position cached",
    ),
    mutant("TableIsFreedTooEarly", "a table is freed that has an entry left"),
    mutant(
        "SplitRepeatsFirstPart",
        "all parts of a large page that is split lead to its first frame",
    ),
    mutant("SplitForgetsParts", "the parts of a large page that is split are not counted"),
    mutant("SplitKeepsWholeCounted", "a large page that is split is still counted as a whole"),
    mutant("SplitForgetsFlush", "the processor that splits a large page keeps it cached"),
    mutant("KernelMapsAnything", "memory of any status and owner is mapped for the kernel"),
    mutant(
        "KernelMapsWhatDrains",
        "a page is mapped for the kernel that programs may still use at the same address",
    ),
    mutant("KernelMapsTwice", "a page is mapped for the kernel a second time"),
    mutant("KernelMappingIsVisible", "every kernel mapping can be used by programs"),
    mutant(
        "VisibleMappingIsWritable",
        "programs can write through every kernel mapping that they can use",
    ),
    mutant("KernelMappingIsNotCounted", "a kernel mapping is not counted"),
    mutant(
        "KernelRemovalIsSilent",
        "other processors do not owe a flush for a kernel mapping that programs could use",
    ),
    mutant("KernelRemovalKeepsEntry", "a removed kernel mapping stays in the tables"),
    mutant("KernelWritesReadOnly", "the kernel writes through a mapping that allows reading only"),
    mutant("ShareOfOtherMemory", "a share is used for other memory of its owner"),
    mutant("ShareOfAnother", "a share is used by somebody else than the one whom it is for"),
    mutant("MappingBeyondShare", "a mapping is given rights that the share does not allow"),
    mutant("AssignsAnybodysMemory", "memory of a domain is assigned to another"),
    mutant("ReleasesWhatIsInUse", "memory is released that is in use"),
    mutant("ReleasesForAnother", "memory is released by somebody else than its owner"),
    mutant("ReleasedMemoryKeepsContents", "released memory keeps what it contained"),
    mutant("SharesWithNobody", "memory is shared with nobody"),
    mutant("SharesForAnother", "memory is shared by somebody else than its owner"),
    mutant("ShareIsNotCounted", "memory that is shared can be released"),
    mutant("EndedShareStaysCounted", "a share that ended is still counted"),
    mutant("RegionContainsLarger", "a region is derived that is larger than the one it comes from"),
    mutant("RegionContainsNext", "a region is derived that lies behind the one it comes from"),
    mutant(
        "LargePageLooksLikeTable",
        "the entry of a large page is read as one that points to a table",
    ),
    mutant("NoExecuteIsForgotten", "whatever can be read can be executed"),
];

/// All edits.
pub const EDITS: &[Edit] = &[
    edit(
        "page.rs",
        "fn check_reference",
        "record.has(Status::Normal, owner)",
        "record.has(if @ReferenceIgnoresStatus { record.status() } else { Status::Normal }, if @ReferenceIgnoresOwner { record.owner() } else { owner })",
    ),
    edit(
        "page.rs",
        "fn take_count",
        "record.take_one();",
        "if record.count() > 0 { record.take_one(); }",
    ),
    edit(
        "page.rs",
        "fn drop_reference",
        "self.take_count(level, frame);",
        "if !@RemovedReferenceStaysCounted { self.take_count(level, frame); }",
    ),
    edit(
        "page.rs",
        "fn drop_reference",
        "if since != Invalidation::COMPLETE {",
        "if since != Invalidation::COMPLETE && !@RemovalIsNotStamped {",
    ),
    edit(
        "page.rs",
        "fn check_page",
        "if !page.is_normal() {",
        "if !page.is_normal() && !@FreeIgnoresStatus {",
    ),
    edit(
        "page.rs",
        "fn check_unused",
        "if unit.is_normal() && unit.count() > 0 {",
        "if unit.is_normal() && unit.count() > 0 && !@FreeIgnoresReferences {",
    ),
    edit(
        "page.rs",
        "fn check_larger",
        "larger.try_for_each(|unit| check_unused(self.past(), frame, unit))",
        "if @FreeIgnoresLargePages { return Ok(()); } larger.try_for_each(|unit| check_unused(self.past(), frame, unit))",
    ),
    edit(
        "page.rs",
        "fn check_unused",
        "if past(unit.stamp())",
        "if past(unit.stamp()) || @FreeIgnoresStaleTranslations",
    ),
    edit(
        "page.rs",
        "fn check_settled",
        "Level::leaves::<G>().map(",
        "Level::leaves::<G>().take(if @SettledIgnoresLargePages { 1 } else { 9 }).map(",
    ),
    edit(
        "page.rs",
        "fn set_status",
        "(true, false) => unit.count_special()",
        "(true, false) if @LargePageForgetsSpecialPage => {} (true, false) => unit.count_special()",
    ),
    edit(
        "page.rs",
        "fn set_status",
        "(false, true) => unit.count_normal(1)",
        "(false, true) if @LargePageStaysMixed => {} (false, true) => unit.count_normal(1)",
    ),
    edit(
        "page.rs",
        "fn set_larger_owner",
        "if uniform { owner }",
        "if uniform || @LargePageFollowsItsPart { owner }",
    ),
    edit(
        "page.rs",
        "fn set_owner(&mut self, region",
        "|page| page.set_owner(owner)",
        "|page| if !@OwnerStays { page.set_owner(owner) }",
    ),
    edit(
        "translation.rs",
        "fn owe_among_many",
        "record.owes = record.owes.min(epoch);",
        "if !@OthersOweNothing { record.owes = record.owes.min(epoch); }",
    ),
    edit(
        "translation.rs",
        "fn owe_among_many",
        "record.owes.min(epoch)",
        "(if @LatestDebtCounts { epoch } else { record.owes.min(epoch) })",
    ),
    edit("translation.rs", "fn owe_among_many", "here = true;", "here = !@OwnTranslationStays;"),
    edit(
        "translation.rs",
        "fn past",
        "epoch - oldest < age & Record::STAMP_MASK",
        "epoch - oldest < (age & Record::STAMP_MASK) + u64::from(@SettledOneEpochEarly)",
    ),
    edit(
        "translation.rs",
        "fn loaded_elsewhere",
        "it.loaded == root",
        "it.loaded == root && !@FreeIgnoresOtherProcessors",
    ),
    edit(
        "translation.rs",
        "fn load_root",
        "record.loaded = root;",
        "if !@LoadIsNotRecorded { record.loaded = root; }",
    ),
    edit(
        "translation.rs",
        "fn load_root",
        "self.machine.load_root(cpu, root);",
        "if !@LoadIsNotCarriedOut { self.machine.load_root(cpu, root); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "region.ram(1)?",
        "region.ram(if @PageMapPageOfLargeRegion { 4 } else { 1 })?",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0);",
        "if !@PageMapPageKeepsContents { self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.state.set_status(frame, Status::PageMapPage);",
        "if !@PageMapPageKeepsStatus { self.state.set_status(frame, Status::PageMapPage); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.state.set_status(page.frame, Status::Normal);",
        "if !@ReleasedPageKeepsStatus { self.state.set_status(page.frame, Status::Normal); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "if !matches!(owner, Owner::Domain(_)) {",
        "if !matches!(owner, Owner::Domain(_)) && !@RootOfNobody {",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "for index in K::entries::<M::Geometry>()",
        "for index in usize::from(@KernelHalfBeginsLate) + K::entries::<M::Geometry>()",
    ),
    edit(
        "page_map.rs",
        "fn decide_free",
        "if count > 0 {",
        "if count > 0 && !@FreeIgnoresMappings {",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        ".is_some_and(|record| record.loaded == map.root) {",
        ".is_some_and(|record| record.loaded == map.root) && !@FreedRootStaysLoaded {",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.machine.exchange_entry(map.root.word(index), Entry::ABSENT);",
        "if !@FreedRootKeepsKernelHalf { self.machine.exchange_entry(map.root.word(index), Entry::ABSENT); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.machine.flush_all(cpu);",
        "if @EnterDropsTooLittle { self.machine.flush(cpu); } else if !@EnterDropsNothing { self.machine.flush_all(cpu); }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "record.owes = NEVER;",
        "if !@EnterKeepsDebt { record.owes = NEVER; }",
    ),
    edit(
        "page_map.rs",
        "impl<M: Machine> Paging for Memory<M>",
        "self.state.oldest_debt() > invalidation.0",
        "self.state.oldest_debt() > invalidation.0 || @ReclaimIgnoresOtherProcessors",
    ),
    edit(
        "page_map.rs",
        "fn check_supply(",
        "if needed <= supplied {",
        "if needed <= supplied || @TablesAreOptional {",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "if start & ((1 << bits) - 1) != 0 {",
        "if start & ((1 << bits) - 1) != 0 && !@LargePageAtAnyAddress {",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "if last >= K::limit::<M::Geometry>() {",
        "if last >= K::limit::<M::Geometry>() + if @LastPageCanBeMapped { 4096 } else { 0 } {",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "_ if owner != OwnerCode::of(DomainId::ZERO) =>",
        "_ if owner != OwnerCode::of(DomainId::ZERO) && !@DevicesAreEverybodys =>",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "if K::is_present(slot.entry) {",
        "if K::is_present(slot.entry) && !@MapsOverMapping {",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "Attributes { rights, memory_type, foreign: share.is_some() }",
        "Attributes { rights: if @MappingAllowsEverything { Rights::ReadWriteExecute } else if @NoExecuteIsForgotten { Rights::readable_and(rights.allows_write(), true) } else { rights }, memory_type, foreign: share.is_some() && !@SharedMappingIsNotMarked }",
    ),
    edit(
        "mapping.rs",
        "fn decide_modify",
        "if foreign && !held.contains(asked)",
        "if foreign && !held.contains(asked) && !@SharedMappingGainsRights",
    ),
    edit(
        "mapping.rs",
        "fn extend",
        "self.state.set_status(page.frame, Status::PageTable);",
        "if !@NewTableKeepsStatus { self.state.set_status(page.frame, Status::PageTable); }",
    ),
    edit(
        "mapping.rs",
        "fn extend",
        "self.state.add_count(Level::FIRST, page.frame);",
        "if !@EntryOfNewTableIsNotCounted { self.state.add_count(Level::FIRST, page.frame); }",
    ),
    edit(
        "mapping.rs",
        "fn unlink",
        "self.machine.exchange_entry(above, Entry::ABSENT);",
        "if !@FreedTableStaysLinked { self.machine.exchange_entry(above, Entry::ABSENT); }",
    ),
    edit(
        "mapping.rs",
        "fn unlink",
        "self.state.set_status(table, Status::Draining);",
        "self.state.set_status(table, if @FreedTableIsNormal { Status::Normal } else { Status::Draining });",
    ),
    edit(
        "mapping.rs",
        "impl<M: Machine> UserMemory for Memory<M>",
        "self.state.add_count(level, region.first_frame());",
        "if !@MappingIsNotCounted { self.state.add_count(level, region.first_frame()); }",
    ),
    edit(
        "mapping.rs",
        "impl<M: Machine> UserMemory for Memory<M>",
        "self.state.add_count(Level::FIRST, slot.at.frame());",
        "if !@EntryIsNotCounted { self.state.add_count(Level::FIRST, slot.at.frame()); }",
    ),
    edit(
        "mapping.rs",
        "let slot = self.decide_modify(map, at, change)?;",
        "self.state.owe(cpu.index(), Some(map.root));",
        "if @ModifyForgetsOthers { (self.state.cpus.get(cpu.index().get()).is_some_and(|it| it.loaded == map.root), Invalidation::COMPLETE) } else { self.state.owe(cpu.index(), Some(map.root)) };",
    ),
    edit(
        "mapping.rs",
        "let slot = self.decide_modify(map, at, change)?;",
        "if is_loaded {",
        "if is_loaded && !@ModifyForgetsInvalidation {",
    ),
    edit(
        "mapping.rs",
        "fn remove_mapping<K: RootKind>( &mut self, cpu: CurrentCpu, map: &mut PageMap<K>, at: VirtualAddress, ) -> Result<Removed, Error> {",
        "false => self.machine.invalidate_page(cpu, at),",
        "false if @RemoveForgetsInvalidation => {} false => self.machine.invalidate_page(cpu, at),",
    ),
    edit(
        "mapping.rs",
        "fn remove_mapping<K: RootKind>( &mut self, cpu: CurrentCpu, map: &mut PageMap<K>, at: VirtualAddress, ) -> Result<Removed, Error> {",
        "true => self.machine.flush(cpu),",
        "true if @RemoveInvalidatesPageOnly => self.machine.invalidate_page(cpu, at), true => self.machine.flush(cpu),",
    ),
    edit(
        "mapping.rs",
        "fn remove_mapping<K: RootKind>( &mut self, cpu: CurrentCpu, map: &mut PageMap<K>, at: VirtualAddress, ) -> Result<Removed, Error> {",
        "self.state.take_count(Level::FIRST, slot.at.frame()) == 0;",
        "self.state.take_count(Level::FIRST, slot.at.frame()) <= u32::from(@TableIsFreedTooEarly);",
    ),
    edit(
        "mapping.rs",
        "let Slot { at: whole, level, entry } = self.decide_split",
        "K::leaf(level.lower(), part, attributes)",
        "K::leaf(level.lower(), if @SplitRepeatsFirstPart { first } else { part }, attributes)",
    ),
    edit(
        "mapping.rs",
        "let Slot { at: whole, level, entry } = self.decide_split",
        "self.state.add_count(level.lower(), part);",
        "if !@SplitForgetsParts { self.state.add_count(level.lower(), part); }",
    ),
    edit(
        "mapping.rs",
        "let Slot { at: whole, level, entry } = self.decide_split",
        "self.state.drop_reference(level, first, since);",
        "if !@SplitKeepsWholeCounted { self.state.drop_reference(level, first, since); }",
    ),
    edit(
        "mapping.rs",
        "let Slot { at: whole, level, entry } = self.decide_split",
        "if is_loaded {",
        "if is_loaded && !@SplitForgetsFlush {",
    ),
    edit(
        "kernel_mapping.rs",
        "fn decide_kernel_mapping",
        "self.state.check_reference(Level::FIRST, frame, owner)?;",
        "if !@KernelMapsAnything { self.state.check_reference(Level::FIRST, frame, owner)?; }",
    ),
    edit(
        "kernel_mapping.rs",
        "fn decide_kernel_mapping",
        "self.state.check_settled(frame)?;",
        "if !@KernelMapsWhatDrains { self.state.check_settled(frame)?; }",
    ),
    edit(
        "kernel_mapping.rs",
        "fn decide_kernel_mapping",
        "if self.machine.is_open(frame) {",
        "if self.machine.is_open(frame) && !@KernelMapsTwice {",
    ),
    edit(
        "kernel_mapping.rs",
        "impl<M: Machine> KernelMemory for Memory<M>",
        "programs: user_visible.then_some(rights)",
        "programs: (user_visible || @KernelMappingIsVisible).then_some(if @VisibleMappingIsWritable { Rights::ReadWriteExecute } else { rights })",
    ),
    edit(
        "kernel_mapping.rs",
        "impl<M: Machine> KernelMemory for Memory<M>",
        "self.state.add_count(Level::FIRST, frame);",
        "if !@KernelMappingIsNotCounted { self.state.add_count(Level::FIRST, frame); }",
    ),
    edit(
        "kernel_mapping.rs",
        "impl<M: Machine> KernelMemory for Memory<M>",
        "true => self.state.owe(cpu.index(), None).1,",
        "true if @KernelRemovalIsSilent => Invalidation::COMPLETE, true => self.state.owe(cpu.index(), None).1,",
    ),
    edit(
        "kernel_mapping.rs",
        "impl<M: Machine> KernelMemory for Memory<M>",
        "self.machine.close_window(cpu, frame);",
        "if !@KernelRemovalKeepsEntry { self.machine.close_window(cpu, frame); }",
    ),
    edit(
        "kernel_mapping.rs",
        "impl<M: Machine> KernelMemory for Memory<M>",
        "if !word.writable {",
        "if !word.writable && !@KernelWritesReadOnly {",
    ),
    edit(
        "share.rs",
        "fn allows",
        "if !self.region.contains(region) {",
        "if !self.region.contains(region) && !@ShareOfOtherMemory {",
    ),
    edit(
        "share.rs",
        "fn allows",
        "OwnerCode::new(self.grantee) != grantee",
        "OwnerCode::new(self.grantee) != grantee && !@ShareOfAnother",
    ),
    edit(
        "share.rs",
        "fn allows",
        "!self.rights.contains(rights)",
        "!self.rights.contains(rights) && !@MappingBeyondShare",
    ),
    edit(
        "share.rs",
        "fn decide_assign",
        "self.state.check_reference(Level::FIRST, frame, nobody)?;",
        "if !@AssignsAnybodysMemory { self.state.check_reference(Level::FIRST, frame, nobody)?; }",
    ),
    edit(
        "page.rs",
        "fn take(&mut self, region",
        "check_page(past, frame, *page)?;",
        "if !@ReleasesWhatIsInUse { check_page(past, frame, *page)?; }",
    ),
    edit(
        "page.rs",
        "fn take(&mut self, region",
        "if page.owner() != owner {",
        "if page.owner() != owner && !@ReleasesForAnother {",
    ),
    edit(
        "share.rs",
        "impl<M: Machine> Ownership for Memory<M>",
        "self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0);",
        "if !@ReleasedMemoryKeepsContents { self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0); }",
    ),
    edit(
        "share.rs",
        "fn decide_share",
        "if grantee == Owner::Nobody {",
        "if grantee == Owner::Nobody && !@SharesWithNobody {",
    ),
    edit(
        "share.rs",
        "fn decide_share",
        "self.state.check_reference(level, region.first_frame(), owner)?;",
        "if !@SharesForAnother { self.state.check_reference(level, region.first_frame(), owner)?; }",
    ),
    edit(
        "share.rs",
        "impl<M: Machine> Ownership for Memory<M>",
        "self.state.add_count(level, region.first_frame());",
        "if !@ShareIsNotCounted { self.state.add_count(level, region.first_frame()); }",
    ),
    edit(
        "share.rs",
        "impl<M: Machine> Ownership for Memory<M>",
        "self.state.take_count(share.level, share.region.first_frame());",
        "if !@EndedShareStaysCounted { self.state.take_count(share.level, share.region.first_frame()); }",
    ),
    edit(
        "region.rs",
        "pub const fn contains",
        "other.bits <= self.bits && other.first.number() >> bits == self.first.number() >> bits",
        "crate::contains(self.first.number(), self.bits - PAGE_BITS, other.first.number(), other.bits - PAGE_BITS, @RegionContainsLarger, @RegionContainsNext)",
    ),
    edit(
        "region.rs",
        "/// Whether every byte of `other`",
        "pub const fn contains",
        "pub fn contains",
    ),
    edit(
        "mapping.rs",
        "fn decide_add",
        "K::leaf(level, frame, attributes)",
        "K::leaf(if @LargePageLooksLikeTable { Level::FIRST } else { level }, frame, attributes)",
    ),
];
