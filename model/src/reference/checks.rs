//! The operations of the reference implementation: each decides, by reading, and then does what
//! was decided.

use super::hardware::Word;
use super::{Fault, KernelMapping, NEVER, Record, Reference};
use crate::action::Action;
use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::state::{Mapping, Owner, Region, Rights, Share, StatusKind};
use crate::step::Refusal;

/// An entry that maps memory, and where it is.
struct Leaf {
    table: Frame,
    level: Level,
    index: usize,
    word: Word,
}

fn refuse_unless(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

impl Reference {
    pub(super) fn operate(&mut self, machine: &Machine, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::DeriveRegionH { from, to } => self.derive(machine, *from, *to),
            Action::CreatePageMapPageH { region } => self.create_page_map_page(machine, *region),
            Action::ReleasePageMapPageH { frame } => self.release_page_map_page(*frame),
            Action::AllocatePageDirectoryH { frame } => self.allocate(machine, *frame),
            Action::FreePageDirectoryH { cpu, directory } => self.free(machine, *cpu, *directory),
            Action::AddMappingH { directory, supply, region, page, rights, share } => {
                let request = (*region, *page, *rights);
                self.add_mapping(machine, *directory, supply, request, share.as_ref())
            }
            Action::RemoveMappingH { cpu, directory, page } => {
                self.remove_mapping(machine, *cpu, *directory, *page)
            }
            Action::ModifyMappingH { cpu, directory, page, rights } => {
                self.modify_mapping(machine, *cpu, *directory, *page, *rights)
            }
            Action::SplitMappingH { cpu, directory, supply, page } => {
                self.split_mapping(machine, *cpu, *directory, supply, *page)
            }
            Action::AddKernelMappingH { cpu, region, rights, user, share } => {
                let request = (*region, *rights, *user);
                self.add_kernel_mapping(machine, *cpu, request, share.as_ref())
            }
            Action::RemoveKernelMappingH { cpu, frame } => {
                self.remove_kernel_mapping(machine, *cpu, *frame)
            }
            Action::ExecuteH { cpu, directory } => {
                let is_directory = self.record(*directory).status == StatusKind::PageDirectory;
                refuse_unless(is_directory, Refusal::NoHandle)?;
                self.load(machine, *cpu, *directory);
                Ok(())
            }
            Action::EnterH { cpu } => {
                self.enter(machine, *cpu);
                Ok(())
            }
            Action::ReclaimH { frame } => {
                let is_draining = self.record(*frame).status == StatusKind::Draining;
                refuse_unless(is_draining, Refusal::NoHandle)?;
                let settled = self.is_settled(*frame);
                let settled = settled || self.has(Fault::ReclaimIgnoresOtherProcessors);
                refuse_unless(settled, Refusal::Draining(*frame))?;
                self.set_status(*frame, StatusKind::Supplied);
                Ok(())
            }
            Action::AssignH { region, to } => self.assign(machine, *region, *to),
            Action::ReleaseH { region, from } => self.release(machine, *region, *from),
            Action::ShareH { share } => self.share(machine, *share),
            Action::EndShareH { share } => self.end_share(share),
            Action::WriteE { .. }
            | Action::WriteK { .. }
            | Action::WriteU { .. }
            | Action::WriteD { .. } => Err(Refusal::NoHandle),
        }
    }

    // --- Regions and pages ---

    fn handle(machine: &Machine, region: Region) -> Result<(), Refusal> {
        let last = Frame(region.first.0.saturating_add(region.pages.saturating_sub(1)));
        let is_ram = machine.is_client(region.first) && machine.is_client(last);
        let is_device = machine.is_device(region.first) && machine.is_device(last);
        refuse_unless(region.pages > 0 && (is_ram || is_device), Refusal::NoHandle)
    }

    fn derive(&self, machine: &Machine, from: Region, to: Region) -> Result<(), Refusal> {
        Self::handle(machine, from)?;
        let slack = u32::from(self.has(Fault::DeriveBeyondRegion));
        let end = from.first.0 + from.pages + slack;
        let is_part = to.pages > 0 && to.first >= from.first && to.first.0 + to.pages <= end;
        refuse_unless(is_part, Refusal::OutsideRegion)
    }

    /// A region that is one page of some size, at a multiple of it: its level.
    fn unit(machine: &Machine, region: Region) -> Result<Level, Refusal> {
        Self::handle(machine, region)?;
        let level = machine.level_of(region.pages.into()).ok_or(Refusal::BadSize)?;
        refuse_unless(region.first.0.is_multiple_of(region.pages), Refusal::Misaligned)?;
        Ok(level)
    }

    fn check_owner(&self, frame: Frame, owner: Owner) -> Result<(), Refusal> {
        refuse_unless(self.record(frame).owner == owner, Refusal::NotOwner(frame))
    }

    fn check_free(&self, frame: Frame, faults: [Fault; 3]) -> Result<(), Refusal> {
        let record = self.record(frame);
        let [status, references, stale] = faults.map(|fault| self.has(fault));
        let is_normal = record.status == StatusKind::Normal || status;
        refuse_unless(is_normal, Refusal::WrongStatus(frame))?;
        refuse_unless(record.count == 0 || references || status, Refusal::InUse(frame))?;
        refuse_unless(self.is_settled(frame) || stale, Refusal::Draining(frame))
    }

    fn create_page_map_page(&mut self, machine: &Machine, region: Region) -> Result<(), Refusal> {
        Self::handle(machine, region)?;
        refuse_unless(region.pages == 1, Refusal::BadSize)?;
        let frame = region.first;
        refuse_unless(machine.is_client(frame), Refusal::WrongStatus(frame))?;
        self.check_free(
            frame,
            [
                Fault::CreateIgnoresStatus,
                Fault::CreateIgnoresReferences,
                Fault::CreateIgnoresStaleTranslations,
            ],
        )?;
        if !self.has(Fault::CreateKeepsContents) {
            self.memory.clear(frame);
        }
        self.set_status(frame, StatusKind::Supplied);
        Ok(())
    }

    fn release_page_map_page(&mut self, frame: Frame) -> Result<(), Refusal> {
        let is_supplied = self.record(frame).status == StatusKind::Supplied;
        refuse_unless(is_supplied, Refusal::NoHandle)?;
        if !self.has(Fault::ReleaseKeepsStatus) {
            self.set_status(frame, StatusKind::Normal);
        }
        Ok(())
    }

    // --- Directories ---

    fn allocate(&mut self, machine: &Machine, frame: Frame) -> Result<(), Refusal> {
        let Record { status, owner, .. } = self.record(frame);
        refuse_unless(status == StatusKind::Supplied, Refusal::NoHandle)?;
        let has_owner = matches!(owner, Owner::Domain(_)) || self.has(Fault::AllocateIgnoresOwner);
        refuse_unless(has_owner, Refusal::NotOwner(frame))?;
        self.set_status(frame, StatusKind::PageDirectory);
        let missing = u32::from(self.has(Fault::AllocateCopiesTooLittle));
        for index in machine.sizes().user_entries..machine.root_entries() - missing {
            let word = self.memory.get(REFERENCE, index as usize);
            self.memory.set(frame, index as usize, word);
        }
        Ok(())
    }

    fn directory(&self, frame: Frame) -> Result<(), Refusal> {
        let is_directory =
            frame != REFERENCE && self.record(frame).status == StatusKind::PageDirectory;
        refuse_unless(is_directory, Refusal::NoHandle)
    }

    fn free(&mut self, machine: &Machine, cpu: Cpu, directory: Frame) -> Result<(), Refusal> {
        self.directory(directory)?;
        let is_empty = self.record(directory).count == 0 || self.has(Fault::FreeIgnoresMappings);
        refuse_unless(is_empty, Refusal::NotEmpty)?;
        let loaded = |other: Cpu| self.processor(other).loaded == directory;
        let elsewhere = machine.cpus().any(|other| other != cpu && loaded(other));
        let elsewhere = elsewhere && !self.has(Fault::FreeIgnoresOtherProcessors);
        refuse_unless(!elsewhere, Refusal::Loaded)?;
        if loaded(cpu) && !self.has(Fault::FreeStaysLoaded) {
            self.load(machine, cpu, REFERENCE);
        }
        if !self.has(Fault::FreeKeepsContents) {
            self.memory.clear(directory);
        }
        self.set_status(directory, StatusKind::Supplied);
        Ok(())
    }

    // --- Mappings ---

    /// The entry for `page` of level `lowest`, or the first above it that is no table.
    fn walk(&self, machine: &Machine, directory: Frame, page: VirtualPage, lowest: Level) -> Leaf {
        let (mut table, mut level) = (directory, machine.root());
        loop {
            let index = machine.index(level, page);
            let word = self.memory.get(table, index);
            if level == lowest || !word.is_present() || word.is_leaf() {
                return Leaf { table, level, index, word };
            }
            (table, level) = (word.frame(), level.below());
        }
    }

    /// The mapping that translates `page`.
    fn mapping(
        &self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
    ) -> Result<Leaf, Refusal> {
        self.directory(directory)?;
        refuse_unless(page.0 < machine.user_end(), Refusal::NotUser)?;
        let leaf = self.walk(machine, directory, page, Level::FIRST);
        refuse_unless(leaf.word.is_present(), Refusal::NotMapped(page))?;
        Ok(leaf)
    }

    /// Who must own the memory, by the share or without one.
    fn consent(
        &self,
        share: Option<&Share>,
        grantee: Owner,
        own: Owner,
        (region, rights): (Region, Rights),
    ) -> Result<Owner, Refusal> {
        let Some(share) = share else {
            return Ok(own);
        };
        refuse_unless(self.shares.contains(share), Refusal::NoHandle)?;
        let covers = share.region.contains(region) || self.has(Fault::AddIgnoresSharedRegion);
        refuse_unless(covers, Refusal::OutsideShare)?;
        let is_grantee = share.grantee == grantee || self.has(Fault::AddIgnoresGrantee);
        refuse_unless(is_grantee, Refusal::NotGrantee)?;
        let allows = share.rights.contains(rights) || self.has(Fault::AddIgnoresShareRights);
        refuse_unless(allows, Refusal::BeyondShare)?;
        Ok(Owner::Domain(share.owner))
    }

    fn add_mapping(
        &mut self,
        machine: &Machine,
        directory: Frame,
        supply: &[Frame],
        (region, page, rights): (Region, VirtualPage, Rights),
        share: Option<&Share>,
    ) -> Result<(), Refusal> {
        self.directory(directory)?;
        self.check_supply(supply)?;
        let level = Self::unit(machine, region)?;
        let pages = machine.pages_of(level);
        let is_aligned = page.0.is_multiple_of(pages) || self.has(Fault::AddIgnoresAlignment);
        refuse_unless(is_aligned, Refusal::Misaligned)?;
        let end = machine.user_end() + u64::from(self.has(Fault::AddIgnoresUserEnd));
        let is_user = page.0.checked_add(pages).is_some_and(|last| last <= end);
        refuse_unless(is_user, Refusal::NotUser)?;
        let own = self.record(directory).owner;
        let owner = self.consent(share, own, own, (region, rights))?;
        let checked = if self.has(Fault::AddLooksAtFirstPageOnly) { 1 } else { usize::MAX };
        for frame in region.frames().take(checked) {
            let status = self.record(frame).status;
            let is_data = matches!(status, StatusKind::Normal | StatusKind::Io)
                || self.has(Fault::AddIgnoresStatus);
            refuse_unless(is_data, Refusal::WrongStatus(frame))?;
            if !self.has(Fault::AddIgnoresOwner) {
                self.check_owner(frame, owner)?;
            }
        }
        let place = self.walk(machine, directory, page, level);
        let is_absent = !place.word.is_present()
            || (self.has(Fault::AddIgnoresPresentMapping) && place.level == level);
        refuse_unless(is_absent, Refusal::AlreadyMapped(page))?;
        let missing = usize::from(place.level.0 - level.0);
        refuse_unless(missing <= supply.len(), Refusal::TablesNeeded(missing))?;

        let foreign = share.is_some() && !self.has(Fault::AddForgetsForeign);
        let write = rights.write || self.has(Fault::AddAllowsWriting);
        let rights = Rights { write, ..rights };
        let mut word = Word::page(Mapping { frame: region.first, rights, user: true, foreign });
        let mut at = level;
        for table in supply.iter().rev().take(missing) {
            if !self.has(Fault::AddForgetsTableStatus) {
                self.set_status(*table, StatusKind::PageTable);
            }
            self.memory.set(*table, machine.index(at, page), word);
            if !self.has(Fault::AddForgetsEntryCount) {
                self.change_count(*table, 1);
            }
            word = Word::table(*table);
            at = at.above();
        }
        if !place.word.is_present() {
            self.change_count(place.table, 1);
        }
        self.memory.set(place.table, place.index, word);
        if !self.has(Fault::AddForgetsReference) {
            region.frames().for_each(|frame| self.change_count(frame, 1));
        }
        Ok(())
    }

    fn check_supply(&self, supply: &[Frame]) -> Result<(), Refusal> {
        for (at, frame) in supply.iter().enumerate() {
            let is_supplied = self.record(*frame).status == StatusKind::Supplied;
            let is_new = !supply[..at].contains(frame);
            refuse_unless(is_supplied && is_new, Refusal::NoHandle)?;
        }
        Ok(())
    }

    fn change_count(&mut self, frame: Frame, change: i32) {
        if let Some(record) = self.record_mut(frame) {
            record.count = record.count.saturating_add_signed(change);
        }
    }

    fn frames(machine: &Machine, leaf: &Leaf) -> impl Iterator<Item = Frame> + use<> {
        let pages = u32::try_from(machine.pages_of(leaf.level)).unwrap_or(0);
        Region { first: leaf.word.frame(), pages }.frames()
    }

    fn remove_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
    ) -> Result<(), Refusal> {
        let mut leaf = self.mapping(machine, directory, page)?;
        if self.has(Fault::RemoveTakesTheNext) && leaf.level == Level::FIRST {
            let next = (leaf.index + 1) % machine.sizes().entries as usize;
            let word = self.memory.get(leaf.table, next);
            if word.is_present() {
                leaf = Leaf { index: next, word, ..leaf };
            }
        }
        let first = machine.first_of(leaf.level, page);
        let is_loaded = self.processor(cpu).loaded == directory;
        let stamp = self.owe_for_root(machine, cpu, directory, Fault::RemoveForgetsDebt);
        let stamp = stamp.filter(|_| !self.has(Fault::RemoveForgetsStamp));
        self.memory.set(leaf.table, leaf.index, Word::ABSENT);
        for frame in Self::frames(machine, &leaf) {
            if !self.has(Fault::RemoveForgetsReference) {
                self.change_count(frame, -1);
            }
            self.stamp(frame, stamp);
        }
        if is_loaded && !self.has(Fault::RemoveForgetsInvalidation) {
            self.drop_page(machine, cpu, first);
        }
        self.change_count(leaf.table, -1);
        let mut freed = false;
        let (mut table, mut level) = (leaf.table, leaf.level);
        let least = u32::from(self.has(Fault::RemoveFreesTableTooEarly));
        while table != directory
            && self.record(table).count <= least
            && !self.has(Fault::RemoveKeepsEmptyTable)
        {
            let above = self.walk(machine, directory, page, level.above());
            self.memory.set(above.table, above.index, Word::ABSENT);
            self.change_count(above.table, -1);
            self.free_table(machine, table, stamp);
            freed = true;
            (table, level) = (above.table, above.level);
        }
        if freed && is_loaded && !self.has(Fault::RemoveForgetsFlush) {
            self.flush(machine, cpu, false);
        }
        Ok(())
    }

    /// Notes when a translation to a page was removed. A device's pages never become anything
    /// else.
    fn stamp(&mut self, frame: Frame, stamp: Option<u64>) {
        if let (Some(stamp), Some(record)) = (stamp, self.record_mut(frame))
            && record.status != StatusKind::Io
        {
            record.stamp = stamp;
        }
    }

    fn free_table(&mut self, machine: &Machine, table: Frame, stamp: Option<u64>) {
        self.memory.clear(table);
        if machine.has(Layer::Tlb) && !self.has(Fault::RemoveForgetsDraining) {
            self.set_status(table, StatusKind::Draining);
            self.stamp(table, stamp);
        } else {
            self.set_status(table, StatusKind::Supplied);
        }
    }

    fn modify_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
        rights: Rights,
    ) -> Result<(), Refusal> {
        let leaf = self.mapping(machine, directory, page)?;
        let is_upgrade = leaf.word.is_foreign() && !leaf.word.rights().contains(rights);
        let is_upgrade = is_upgrade && !self.has(Fault::ModifyUpgradesForeign);
        refuse_unless(!is_upgrade, Refusal::Upgrade)?;
        let foreign = leaf.word.is_foreign() && !self.has(Fault::ModifyForgetsForeign);
        let frame = leaf.word.frame();
        let word = Word::page(Mapping { frame, rights, user: true, foreign });
        self.memory.set(leaf.table, leaf.index, word);
        self.owe_for_root(machine, cpu, directory, Fault::ModifyForgetsDebt);
        let is_loaded = self.processor(cpu).loaded == directory;
        if is_loaded && !self.has(Fault::ModifyForgetsInvalidation) {
            self.drop_page(machine, cpu, machine.first_of(leaf.level, page));
        }
        Ok(())
    }

    fn split_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        directory: Frame,
        supply: &[Frame],
        page: VirtualPage,
    ) -> Result<(), Refusal> {
        self.check_supply(supply)?;
        let leaf = self.mapping(machine, directory, page)?;
        refuse_unless(leaf.level > Level::FIRST, Refusal::NotLarge(page))?;
        let table = *supply.last().ok_or(Refusal::TablesNeeded(1))?;
        let below = leaf.level.below();
        let entries = machine.entries(below);
        let pages = u32::try_from(machine.pages_of(below)).unwrap_or(0);
        self.set_status(table, StatusKind::PageTable);
        for index in 0..entries {
            let step = if self.has(Fault::SplitRepeatsFirstFrame) { 0 } else { index * pages };
            let rights = leaf.word.rights();
            let rights = if self.has(Fault::SplitAllowsEverything) { Rights::ALL } else { rights };
            let mapping = Mapping {
                frame: Frame(leaf.word.frame().0 + step),
                rights,
                user: true,
                foreign: leaf.word.is_foreign(),
            };
            self.memory.set(table, index as usize, Word::page(mapping));
        }
        self.change_count(table, i32::try_from(entries).unwrap_or(i32::MAX));
        self.memory.set(leaf.table, leaf.index, Word::table(table));
        let no_fault = Fault::SplitForgetsFlush;
        let stamp = if self.has(no_fault) {
            None
        } else {
            self.owe_for_root(machine, cpu, directory, no_fault)
        };
        for frame in Self::frames(machine, &leaf) {
            self.stamp(frame, stamp);
        }
        if self.processor(cpu).loaded == directory && !self.has(Fault::SplitForgetsFlush) {
            self.flush(machine, cpu, false);
        }
        Ok(())
    }

    // --- Kernel mappings ---

    fn add_kernel_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        (region, rights, user): (Region, Rights, bool),
        share: Option<&Share>,
    ) -> Result<(), Refusal> {
        Self::handle(machine, region)?;
        refuse_unless(region.pages == 1, Refusal::BadSize)?;
        let frame = region.first;
        let own = Owner::Domain(0);
        let owner = self.consent(share, Owner::Hypervisor, own, (region, rights))?;
        let status = self.record(frame).status;
        let is_data = matches!(status, StatusKind::Normal | StatusKind::Io)
            || self.has(Fault::KernelAddIgnoresStatus);
        refuse_unless(is_data, Refusal::WrongStatus(frame))?;
        if !self.has(Fault::KernelAddIgnoresOwner) {
            self.check_owner(frame, owner)?;
        }
        let settled = self.is_settled(frame) || self.has(Fault::KernelAddIgnoresStaleTranslations);
        refuse_unless(settled, Refusal::Draining(frame))?;
        let page = machine.window(frame);
        let place = self.walk(machine, REFERENCE, page, Level::FIRST);
        let is_closed = !place.word.is_present() || self.has(Fault::KernelAddIgnoresPresentMapping);
        refuse_unless(is_closed, Refusal::WindowTaken(frame))?;

        let user = user || self.has(Fault::KernelAddShowsPrograms);
        let foreign = share.is_some();
        let word = Word::page(Mapping { frame, rights, user, foreign });
        self.memory.set(place.table, place.index, word);
        self.kernel_mappings.retain(|mapping| mapping.frame != frame);
        let at = self.kernel_mappings.partition_point(|mapping| mapping.frame < frame);
        self.kernel_mappings.insert(at, KernelMapping { frame, rights, user });
        if !self.has(Fault::KernelAddForgetsReference) {
            self.change_count(frame, 1);
        }
        if user {
            self.owe_by_all(machine, cpu);
        }
        Ok(())
    }

    fn remove_kernel_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        frame: Frame,
    ) -> Result<(), Refusal> {
        let mut handles = self.kernel_mappings.iter();
        let at = handles.position(|mapping| mapping.frame == frame).ok_or(Refusal::NoHandle)?;
        let mapping = self.kernel_mappings.remove(at);
        let page = machine.window(frame);
        let place = self.walk(machine, REFERENCE, page, Level::FIRST);
        if !self.has(Fault::KernelRemoveKeepsEntry) {
            self.memory.set(place.table, place.index, Word::ABSENT);
        }
        if !self.has(Fault::KernelRemoveForgetsReference) {
            self.change_count(frame, -1);
        }
        if !self.has(Fault::KernelRemoveForgetsInvalidation) {
            self.drop_page(machine, cpu, page);
        }
        if mapping.user && !self.has(Fault::KernelRemoveForgetsDebt) {
            let stamp = self.owe_by_all(machine, cpu);
            self.stamp(frame, stamp);
        }
        Ok(())
    }

    // --- Translations ---

    /// Makes the processors other than `cpu` that have `root` loaded owe a flush, since a new
    /// epoch; `None` if there are none.
    fn owe_for_root(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        root: Frame,
        fault: Fault,
    ) -> Option<u64> {
        let others = || machine.cpus().filter(|other| *other != cpu);
        let loaded = others().any(|other| self.processor(other).loaded == root);
        if !loaded || self.has(fault) {
            return None;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        for other in others() {
            let processor = &mut self.processors[usize::from(other.0)];
            if processor.loaded == root {
                processor.owes = processor.owes.min(epoch);
            }
        }
        Some(epoch)
    }

    /// Makes all processors but `cpu` owe a flush of everything; `None` if there are none.
    fn owe_by_all(&mut self, machine: &Machine, cpu: Cpu) -> Option<u64> {
        if self.processors.len() == 1 {
            return None;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        for other in machine.cpus().filter(|other| *other != cpu) {
            let processor = &mut self.processors[usize::from(other.0)];
            processor.owes_all = processor.owes_all.min(epoch);
        }
        Some(epoch)
    }

    fn load(&mut self, machine: &Machine, cpu: Cpu, root: Frame) {
        if self.processor(cpu).loaded == root {
            return;
        }
        let forgets = self.has(Fault::ExecuteForgetsRecord);
        let processor = &mut self.processors[usize::from(cpu.0)];
        processor.root = root;
        if !forgets {
            processor.loaded = root;
        }
        if self.has(Fault::ExecuteForgetsFlush) {
            self.processors[usize::from(cpu.0)].owes = NEVER;
        } else {
            self.flush(machine, cpu, false);
        }
    }

    fn enter(&mut self, machine: &Machine, cpu: Cpu) {
        let (owes, owes_all) = (self.processor(cpu).owes, self.processor(cpu).owes_all);
        if self.has(Fault::EnterForgetsFlush) {
            let processor = &mut self.processors[usize::from(cpu.0)];
            (processor.owes, processor.owes_all) = (NEVER, NEVER);
        } else if owes_all != NEVER {
            self.flush(machine, cpu, !self.has(Fault::EnterFlushesTooLittle));
            self.processors[usize::from(cpu.0)].owes_all = NEVER;
        } else if owes != NEVER {
            self.flush(machine, cpu, false);
        }
    }

    /// Drops translations of user space, or all, and notes that.
    fn flush(&mut self, machine: &Machine, cpu: Cpu, all: bool) {
        let processor = &mut self.processors[usize::from(cpu.0)];
        processor.cached.retain(|cached| !all && machine.is_kernel_page(cached.first));
        processor.owes = NEVER;
        if all {
            processor.owes_all = NEVER;
        }
    }

    /// Drops the translations of one page.
    fn drop_page(&mut self, machine: &Machine, cpu: Cpu, page: VirtualPage) {
        let processor = &mut self.processors[usize::from(cpu.0)];
        processor.cached.retain(|cached| !cached.covers(machine, page));
    }

    // --- Owners ---

    fn assign(&mut self, machine: &Machine, region: Region, to: u16) -> Result<(), Refusal> {
        Self::unit(machine, region)?;
        for frame in region.frames() {
            let is_normal = self.record(frame).status == StatusKind::Normal;
            refuse_unless(is_normal, Refusal::WrongStatus(frame))?;
            if !self.has(Fault::AssignIgnoresOwner) {
                self.check_owner(frame, Owner::Nobody)?;
            }
        }
        self.set_owner(region, Owner::Domain(to));
        Ok(())
    }

    fn release(&mut self, machine: &Machine, region: Region, from: u16) -> Result<(), Refusal> {
        Self::unit(machine, region)?;
        for frame in region.frames() {
            let is_normal = self.record(frame).status == StatusKind::Normal;
            refuse_unless(is_normal, Refusal::WrongStatus(frame))?;
            self.check_free(
                frame,
                [
                    // The status was looked at.
                    Fault::ReleaseIgnoresReferences,
                    Fault::ReleaseIgnoresReferences,
                    Fault::ReleaseIgnoresStaleTranslations,
                ],
            )?;
            if !self.has(Fault::ReleaseIgnoresOwner) {
                self.check_owner(frame, Owner::Domain(from))?;
            }
        }
        if !self.has(Fault::ReleaseKeepsContents) {
            region.frames().for_each(|frame| self.memory.clear(frame));
        }
        self.set_owner(region, Owner::Nobody);
        Ok(())
    }

    fn set_owner(&mut self, region: Region, owner: Owner) {
        for frame in region.frames() {
            if let Some(record) = self.record_mut(frame) {
                record.owner = owner;
            }
        }
    }

    fn share(&mut self, machine: &Machine, share: Share) -> Result<(), Refusal> {
        Self::unit(machine, share.region)?;
        refuse_unless(share.grantee != Owner::Nobody, Refusal::NotGrantee)?;
        for frame in share.region.frames() {
            let is_normal = self.record(frame).status == StatusKind::Normal;
            refuse_unless(is_normal, Refusal::WrongStatus(frame))?;
            if !self.has(Fault::ShareIgnoresOwner) {
                self.check_owner(frame, Owner::Domain(share.owner))?;
            }
        }
        if !self.has(Fault::ShareForgetsReference) {
            share.region.frames().for_each(|frame| self.change_count(frame, 1));
        }
        let at = self.shares.partition_point(|other| *other <= share);
        self.shares.insert(at, share);
        Ok(())
    }

    fn end_share(&mut self, share: &Share) -> Result<(), Refusal> {
        let at = self.shares.binary_search(share).map_err(|_| Refusal::NoHandle)?;
        self.shares.remove(at);
        if !self.has(Fault::EndShareForgetsReference) && !self.has(Fault::ShareForgetsReference) {
            share.region.frames().for_each(|frame| self.change_count(frame, -1));
        }
        Ok(())
    }
}
