//! Taking memory back, from those to whom it was given and from oneself.
//!
//! A revocation goes through a range unit by unit. What it does to a mapping is counted, and when a
//! step's budget is used up it stops; the next step begins at the same unit. Removing mappings makes
//! progress by itself. Where mappings stay, each carries the mark of the revocation that dealt with it,
//! so that the next step passes over it quickly.

use heliox_abi::Flexpage;
use heliox_hal::memory::UserMemory;
use heliox_types::VirtualAddress;
use heliox_types::mapping::Change;

use crate::database::NodeId;
use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::{
    MemoryNote, PAGE_SIZES, Place, Progress, Span, Unit, largest_size, part_of, rights_of,
    used_bits,
};
use crate::planted::{Fault, is_planted};

/// Mappings that a step deals with, at most.
const BUDGET: u32 = 64;
/// Units of a range that a step looks at, at most.
const UNITS: u32 = 16;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// Rights, as in a flexpage; without the right to read nothing is left. None: only how the memory was
    /// used is asked.
    pub(crate) rights: u64,
    /// The space itself loses them too.
    pub(crate) flush: bool,
    /// Its number; no two have the same.
    pub(crate) mark: u32,
}

impl Revocation {
    fn removes(self) -> bool {
        self.rights & Flexpage::READ != 0
    }
}

/// What a step may still do, and what it saw.
struct Step {
    budget: u32,
    used: u8,
}

impl Step {
    fn spend(&mut self) -> bool {
        let left = self.budget.checked_sub(1);
        self.budget = left.unwrap_or(0);
        left.is_some()
    }
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// A revocation.
    pub(crate) fn revocation(&mut self, rights: u64, flush: bool) -> Revocation {
        self.last_mark = self.last_mark.wrapping_add(1);
        Revocation { rights, flush, mark: self.last_mark }
    }

    /// Changes what is noted about a mapping.
    pub(crate) fn note(&mut self, node: NodeId, change: impl FnOnce(&mut MemoryNote)) {
        if let Some(mut note) = self.mappings.get(node).map(|node| node.payload) {
            change(&mut note);
            self.mappings.set_payload(node, note);
        }
    }

    /// Removes a mapping from which nothing is derived.
    pub(crate) fn remove_node(&mut self, node: NodeId) {
        let Some(mapping) = self.mappings.get(node).copied() else { return };
        let info = self.remove_from_tables(mapping.space, mapping.address);
        let used = mapping.payload.used | info.map_or(0, |info| used_bits(&info));
        if let Some(parent) = self.mappings.parent(node) {
            self.note(parent, |note| note.used |= used);
        }
        if !is_planted(Fault::NodeLeaked) {
            self.mappings.remove(node);
            self.spaces.at_mut(mapping.space).mappings -= 1;
        }
    }

    /// Removes what was derived from a mapping, and with `itself` the mapping; `false` if the step ended
    /// before.
    fn remove_tree(&mut self, node: NodeId, itself: bool, step: &mut Step) -> bool {
        let mut at = node;
        loop {
            if is_planted(Fault::DerivedMappingsStay) {
                break;
            }
            if let Some(deeper) = self.mappings.first_derived(at) {
                at = deeper;
                continue;
            }
            if at == node {
                break;
            }
            if !step.spend() {
                return false;
            }
            let previous = self.mappings.previous(at);
            self.remove_node(at);
            at = previous;
        }
        if itself {
            if !step.spend() {
                return false;
            }
            self.remove_node(node);
        }
        true
    }

    /// Takes rights, other than reading, from what was derived from a mapping, in one go.
    pub(crate) fn restrict_all_derived(&mut self, node: NodeId, rights: u64) {
        let revocation = self.revocation(rights & !Flexpage::READ, false);
        self.visit_derived(node, revocation, &mut Step { budget: u32::MAX, used: 0 });
    }

    /// Sees how what was derived from a mapping was used, and takes rights from it other than reading;
    /// `false` if the step ended before.
    fn visit_derived(&mut self, node: NodeId, revocation: Revocation, step: &mut Step) -> bool {
        let mut at = self.mappings.first_derived(node);
        while let Some(derived) = at {
            if !self.visit(derived, revocation, step) {
                return false;
            }
            at = self.mappings.next_derived(node, derived);
        }
        true
    }

    /// Sees how a mapping was used, forgets that, and takes rights other than reading.
    fn visit(&mut self, node: NodeId, revocation: Revocation, step: &mut Step) -> bool {
        let Some(mapping) = self.mappings.get(node).copied() else { return true };
        if mapping.payload.mark == revocation.mark {
            return true;
        }
        if !step.spend() {
            return false;
        }
        let mut note = MemoryNote { used: 0, mark: revocation.mark, ..mapping.payload };
        step.used |= mapping.payload.used;
        step.used |= self.change_in_tables(mapping.space, mapping.address, Change::ResetUsage);
        let left = u64::from(note.rights) & !revocation.rights;
        if left != u64::from(note.rights)
            && let Some(rights) = rights_of(left)
        {
            self.change_in_tables(mapping.space, mapping.address, Change::Rights(rights));
            note.rights = left as u8;
        }
        self.mappings.set_payload(node, note);
        true
    }

    /// Revokes rights from what was derived from a mapping and, with `itself`, from the mapping;
    /// `false` if the step ended before.
    fn revoke_node(
        &mut self,
        node: NodeId,
        revocation: Revocation,
        itself: bool,
        step: &mut Step,
    ) -> bool {
        // How it was used is asked first, and of the mapping itself always.
        let own = Revocation { rights: if itself { revocation.rights } else { 0 }, ..revocation };
        if revocation.removes() {
            let keep = Revocation { rights: 0, ..revocation };
            if !self.remove_tree(node, false, step) || !self.visit(node, keep, step) {
                return false;
            }
            if itself {
                self.remove_node(node);
            }
            return true;
        }
        self.visit_derived(node, revocation, step) && self.visit(node, own, step)
    }

    /// Replaces a mapping by smaller ones; `false` if the kernel has no memory left for that, or the
    /// mapping is of the smallest size, or something of its own size is derived from it.
    fn split_node(&mut self, node: NodeId) -> bool {
        let Some(mapping) = self.mappings.get(node).copied() else { return false };
        let Some(bits) = self.mappings.smaller_size(mapping.bits) else { return false };
        if node == NodeId::ROOT || self.mappings.free_nodes() < 1 << (mapping.bits - bits) {
            return false;
        }
        self.fill_supply();
        let cpu = self.machine.cpu();
        let Some(tables) = &mut self.spaces.at_mut(mapping.space).tables else { return false };
        let Some(at) = VirtualAddress::new(mapping.address) else { return false };
        let memory = self.machine.memory();
        if memory.split_mapping(cpu, tables, at, &mut self.supply).is_err() {
            return false;
        }
        let payload = |note: MemoryNote, offset| MemoryNote {
            region: note.region.and_then(|region| part_of(region, mapping.object + offset, bits)),
            ..note
        };
        let before = self.mappings.free_nodes();
        let is_split = self.mappings.split(node, payload).is_ok();
        // A node less, and many more.
        let more = before.saturating_sub(self.mappings.free_nodes()) as u32;
        self.spaces.at_mut(mapping.space).mappings += more;
        is_split
    }

    /// Replaces a mapping of a size, and what of its own size is derived from it, by smaller ones; `false` if
    /// that cannot be done.
    pub(crate) fn split_tree(&mut self, node: NodeId) -> bool {
        let Some(top) = self.mappings.get(node).copied() else { return false };
        // The deepest of the same size first; each round ends one.
        loop {
            let mut deepest = node;
            while let Some(child) = self.mappings.child(deepest, top.object, top.bits) {
                deepest = child;
            }
            if !self.split_node(deepest) {
                return false;
            }
            if deepest == node {
                return true;
            }
        }
    }

    /// Revokes rights in a part of a unit, `1 << bits` bytes at `at`: from what was derived from it, and
    /// with `flush` from the unit; then the part is the whole unit, or sigma0's. `span` is all that the
    /// revocation is about. `false` if the step ended before.
    fn revoke_part(
        &mut self,
        (unit, at, bits): (Unit, u64, u8),
        (space, span): (u32, Span),
        revocation: Revocation,
        step: &mut Step,
    ) -> bool {
        if unit.node != NodeId::ROOT && unit.bits == bits {
            return self.revoke_node(unit.node, revocation, revocation.flush, step);
        }
        let object = unit.object + (at - unit.address);
        for &size in PAGE_SIZES {
            // Children of this size in the part, or one that the part lies in.
            let parts = if size < bits { 1_u64 << (bits - size) } else { 1 };
            for part in 0..parts {
                let object = object + (part << size);
                let start = object >> size << size;
                let base = at.wrapping_add(start).wrapping_sub(unit.object + (at - unit.address));
                let whole = base >= span.base && base.saturating_add(1 << size) <= span.end();
                let mut next = self.mappings.child(unit.node, object, size);
                while let Some(child) = next {
                    next = self.mappings.next_child(child);
                    let done = if whole || revocation.rights == 0 {
                        self.revoke_node(child, revocation, true, step)
                    } else if self.split_tree(child) {
                        // The pieces are found at the same part, which is looked at again.
                        return false;
                    } else {
                        // For lack of memory, all of it goes.
                        self.remove_tree(child, true, step)
                    };
                    if !done {
                        return false;
                    }
                }
            }
        }
        if unit.node == NodeId::ROOT && revocation.flush && revocation.removes() {
            // What sigma0 touched; it gets it back when it touches it again.
            return self.remove_own(space, Span { base: at, bits: u32::from(bits) }, step);
        }
        true
    }

    /// Revokes rights in a range of a space, `done` bytes of which are done already. Answers how far it
    /// came, and how the memory was used.
    pub(crate) fn revoke_span(
        &mut self,
        space: u32,
        span: Span,
        revocation: Revocation,
        done: u64,
    ) -> (Progress, u8) {
        let mut at = span.base.saturating_add(done);
        let mut step = Step { budget: BUDGET, used: 0 };
        for _ in 0..UNITS {
            if at >= span.end() {
                return (Progress::Done, step.used);
            }
            let unit = match self.place_or_next(space, at) {
                Place::Hole(next) => {
                    at = next;
                    continue;
                }
                Place::Unit(unit) => unit,
            };
            let most = if unit.node == NodeId::ROOT { 21 } else { unit.bits };
            let Some(bits) = largest_size(&[at], span.end() - at, unit.bits.min(most)) else {
                return (Progress::Done, step.used);
            };
            let is_part = bits < unit.bits && unit.node != NodeId::ROOT;
            if is_part && revocation.flush && revocation.rights != 0 {
                if self.split_tree(unit.node) {
                    continue;
                }
                // For lack of memory, all of it goes.
                if !self.remove_tree(unit.node, true, &mut step) {
                    break;
                }
            } else if !self.revoke_part((unit, at, bits), (space, span), revocation, &mut step) {
                break;
            }
            at += 1 << bits;
        }
        if at >= span.end() {
            (Progress::Done, step.used)
        } else {
            (Progress::Until(at - span.base), step.used)
        }
    }

    /// Removes what is in the tables of sigma0's space in a range; `false` if the step ended before.
    fn remove_own(&mut self, space: u32, span: Span, step: &mut Step) -> bool {
        let mut at = span.base;
        while at < span.end() {
            let Some(tables) = &self.spaces.at(space).tables else { return true };
            let start = VirtualAddress::new(at).unwrap_or(VirtualAddress::ZERO);
            match self.machine.memory().read_mapping(tables, start) {
                Err(next) => at = next,
                Ok(info) => {
                    let (base, bits) = (info.address.get(), crate::memory::bits_of_level(&info));
                    at = base + (1 << bits);
                    if self.spaces.at(space).is_kept_free(base, u32::from(bits)) {
                        continue;
                    }
                    if !step.spend() {
                        return false;
                    }
                    let removed = self.remove_from_tables(space, base);
                    step.used |= removed.map_or(0, |info| used_bits(&info));
                }
            }
        }
        true
    }

    /// Removes everything that is mapped in a range of a space, which is not larger than the largest page.
    pub(crate) fn clear_span(&mut self, space: u32, span: Span) {
        let revocation = self.revocation(Flexpage::ALL, true);
        let mut done = 0;
        while let (Progress::Until(until), _) = self.revoke_span(space, span, revocation, done) {
            done = until;
        }
    }

    /// Removes one mapping of a space that is being taken apart, from `from` on, with all that was derived
    /// from it; answers where to go on, `None` if nothing is left.
    pub(crate) fn remove_next(&mut self, space: u32, from: u64) -> Option<u64> {
        let tables = self.spaces.at(space).tables.as_ref()?;
        let start = VirtualAddress::new(from).unwrap_or(VirtualAddress::ZERO);
        let info = match self.machine.memory().read_mapping(tables, start) {
            Ok(info) => info,
            Err(hole) => return (hole < heliox_types::USER_END).then_some(hole),
        };
        let address = info.address.get();
        let bits = crate::memory::bits_of_level(&info);
        match self.mappings.find_sized(space, address, bits) {
            Some(node) => {
                let mut step = Step { budget: BUDGET, used: 0 };
                if self.remove_tree(node, true, &mut step) {
                    Some(address + (1 << bits))
                } else {
                    Some(address)
                }
            }
            None => {
                let _ = self.remove_from_tables(space, address);
                Some(address + (1 << bits))
            }
        }
    }
}
