//! Ports: which space may use which, and from whom it has them.
//!
//! A port mapping is a node of a database of its own; its sizes are all powers of two, and its addresses
//! are port numbers. Sigma0 has every port that the machine gives out. The bits that the processor
//! looks at are those of a space's [`PortPermissions`]: they are set while a
//! node of the space covers the port.

use heliox_abi::{Flexpage, FlexpageKind, PortRange};
use heliox_hal::execution::{PortPermissions, Registers};

use crate::database::{Mapping, NodeId};
use crate::kernel::{Kernel, Machine, Surroundings};
use crate::space::SIGMA0;
use crate::thread::Number;

/// Log2 of the sizes of port mappings.
pub(crate) const PORT_SIZES: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// The ports that an instruction uses, as the first and log2 of their number, if it is one that uses
/// ports; `dx` is what register DX holds.
pub(crate) fn port_access(bytes: [u8; 4], dx: u16) -> Option<(u16, u8)> {
    let mut width = 2;
    let mut rest = bytes.as_slice();
    // Prefixes: operand size, repetition, REX.
    while let [prefix, after @ ..] = rest {
        match prefix {
            0x66 => width = 1,
            0xf2 | 0xf3 | 0x40..=0x4f => {}
            _ => break,
        }
        rest = after;
    }
    let (port, bits) = match rest {
        [0xe4 | 0xe6, port, ..] => (u16::from(*port), 0),
        [0xe5 | 0xe7, port, ..] => (u16::from(*port), width),
        [0xec | 0xee | 0x6c | 0x6e, ..] => (dx, 0),
        [0xed | 0xef | 0x6d | 0x6f, ..] => (dx, width),
        _ => return None,
    };
    // A flexpage that holds all ports of the access.
    let mut size = bits;
    while port >> size != (u32::from(port) + (1 << bits) - 1).min(0xffff) as u16 >> size {
        size += 1;
    }
    Some((port >> size << size, size))
}

/// A range of ports within another, or all of them.
fn pieces(range: PortRange) -> (u64, u8) {
    // At most 16.
    (u64::from(range.first), range.bits as u8)
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// Whether a space may use all ports of a range.
    pub(crate) fn has_ports(&self, space: u32, first: u16, bits: u8) -> bool {
        let last = u32::from(first) + (1 << bits);
        let mut at = u32::from(first);
        while at < last {
            let Some((_, start, size)) = self.source_ports(space, u64::from(at)) else {
                return false;
            };
            // At most 65,536.
            at = (start + (1 << size)) as u32;
        }
        true
    }

    /// Loads the ports of a thread's space into the processor; `false` if they were there already.
    pub(crate) fn load_ports(&mut self, me: Number) -> bool {
        let space = self.threads.at(me).space;
        let (Some(context), Some(ports)) =
            (self.threads.at_mut(me).context_mut(), &self.spaces.at(space).ports)
        else {
            return false;
        };
        context.set_port_permissions(Some(ports));
        self.machine.load_port_permissions(context, ports)
    }

    /// Gives sigma0 and root the ports that the machine gives out, as they start with them.
    pub(crate) fn give_initial_ports(&mut self, root: u32) {
        let all = PortRange { first: 0, bits: 16 };
        if self.make_port_permissions(SIGMA0) {
            self.change_ports(SIGMA0, 0, 16, true);
        }
        self.map_ports(SIGMA0, root, all, Flexpage::COMPLETE, false);
    }

    /// Maps or grants the ports of an item into a window.
    pub(crate) fn map_ports(
        &mut self,
        from_space: u32,
        to_space: u32,
        range: PortRange,
        window: Flexpage,
        grant: bool,
    ) {
        let (first, bits) = pieces(range);
        let (first, end) = match window.kind() {
            FlexpageKind::Ports(window) => {
                let (window_first, window_bits) = pieces(window);
                let end = (first + (1 << bits)).min(window_first + (1 << window_bits));
                (first.max(window_first), end)
            }
            _ => (first, first + (1 << bits)),
        };
        if to_space == SIGMA0 || to_space == from_space {
            return;
        }
        let mut at = first;
        while at < end {
            let Some((node, from, size)) = self.source_ports(from_space, at) else {
                at = self.next_ports(from_space, at);
                continue;
            };
            // As much of it as is wanted, in an aligned piece.
            let mut piece = size;
            while piece > 0
                && (at & ((1 << piece) - 1) != 0 || at + (1 << piece) > end || at < from)
            {
                piece -= 1;
            }
            if !self.map_port_piece((from_space, node, size), to_space, at, piece, grant) {
                return;
            }
            at += 1 << piece;
        }
    }

    /// The mapping of a space that a port lies in; for sigma0 the range that the machine gives out.
    fn source_ports(&self, space: u32, port: u64) -> Option<(NodeId, u64, u8)> {
        if space != SIGMA0 {
            let node = self.port_mappings.find(space, port)?;
            let found = self.port_mappings.get(node)?;
            return Some((node, found.address, found.bits));
        }
        let port = port as u16;
        let range = self
            .machine
            .initial_ports()
            .find(|range| (range.first()..=range.last()).contains(&port))?;
        // The largest aligned piece of the range around the port.
        let (port, first, last) =
            (u32::from(port), u32::from(range.first()), u32::from(range.last()));
        let mut size = 0;
        while size < 16 {
            let start = port >> (size + 1) << (size + 1);
            if start < first || start + (2 << size) - 1 > last {
                break;
            }
            size += 1;
        }
        Some((NodeId::ROOT, u64::from(port >> size << size), size))
    }

    /// The next port after `port`, which a space does not have, that it has; 65,536 if there is none.
    fn next_ports(&self, space: u32, port: u64) -> u64 {
        const END: u64 = 1 << 16;
        let Some(after) = u16::try_from(port + 1).ok() else { return END };
        if space == SIGMA0 {
            let ranges = self.machine.initial_ports();
            let firsts = ranges.map(|range| range.first()).filter(|first| *first >= after);
            return firsts.min().map_or(END, u64::from);
        }
        let ports = self.spaces.at(space).ports.as_ref();
        ports.and_then(|ports| ports.next(after)).map_or(END, u64::from)
    }

    fn map_port_piece(
        &mut self,
        (from_space, node, size): (u32, NodeId, u8),
        to_space: u32,
        at: u64,
        piece: u8,
        grant: bool,
    ) -> bool {
        self.revoke_ports(to_space, PortRange { first: at as u16, bits: u32::from(piece) }, true);
        // What was there may have been where it comes from.
        if self.source_ports(from_space, at).map(|(now, ..)| now) != Some(node) {
            return true;
        }
        if !self.make_port_permissions(to_space) {
            return false;
        }
        if grant && node != NodeId::ROOT {
            if size > piece && !self.split_ports(from_space, at, piece) {
                return false;
            }
            if let Some(given) = self.port_mappings.find_sized(from_space, at, piece) {
                self.port_mappings.relocate(given, to_space, at);
                self.change_ports(from_space, at, piece, false);
                self.change_ports(to_space, at, piece, true);
            }
            return true;
        }
        let mapping =
            Mapping { space: to_space, address: at, object: at, bits: piece, payload: () };
        if self.port_mappings.insert(node, mapping).is_err() {
            return false;
        }
        self.change_ports(to_space, at, piece, true);
        true
    }

    /// Has a space have a set of ports; `false` if there is no memory for it.
    fn make_port_permissions(&mut self, space: u32) -> bool {
        if self.spaces.at(space).ports.is_none() {
            let Ok(ports) = self.machine.new_port_permissions() else { return false };
            self.spaces.at_mut(space).ports = Some(ports);
        }
        true
    }

    /// Lets the processor let a space use ports, or not.
    fn change_ports(&mut self, space: u32, first: u64, bits: u8, allow: bool) {
        let last = first + (1 << bits) - 1;
        let ranges = self.machine.initial_ports();
        if let Some(ports) = &mut self.spaces.at_mut(space).ports {
            for range in ranges {
                let from = u64::from(range.first()).max(first);
                let to = u64::from(range.last()).min(last);
                if from > to {
                    continue;
                }
                if let Ok(part) = range.derive(from as u16, to as u16) {
                    match allow {
                        true => ports.grant(part),
                        false => ports.revoke(part),
                    }
                }
            }
        }
    }

    /// Splits the mapping of a space around a piece until the piece is a mapping by itself.
    fn split_ports(&mut self, space: u32, at: u64, piece: u8) -> bool {
        while let Some(node) = self.port_mappings.find(space, at) {
            let Some(found) = self.port_mappings.get(node).copied() else { return false };
            if found.bits <= piece {
                return true;
            }
            // The deepest of the same size first.
            let mut deepest = node;
            while let Some(child) = self.port_mappings.child(deepest, found.object, found.bits) {
                deepest = child;
            }
            if self.port_mappings.split(deepest, |(), _| ()).is_err() {
                return false;
            }
        }
        true
    }

    fn remove_port_tree(&mut self, node: NodeId) {
        let mut at = node;
        loop {
            if let Some(deeper) = self.port_mappings.first_derived(at) {
                at = deeper;
                continue;
            }
            let Some(found) = self.port_mappings.get(at).copied() else { return };
            let previous = self.port_mappings.previous(at);
            self.change_ports(found.space, found.address, found.bits, false);
            self.port_mappings.remove(at);
            if at == node {
                return;
            }
            at = previous;
        }
    }

    /// Takes ports from those to whom a space gave them and, with `flush`, from the space.
    pub(crate) fn revoke_ports(&mut self, space: u32, range: PortRange, flush: bool) {
        let (first, bits) = pieces(range);
        let end = first + (1 << bits);
        let mut at = first;
        while at < end {
            let Some((node, _, size)) = self.source_ports(space, at) else {
                at = self.next_ports(space, at);
                continue;
            };
            let mut piece = size;
            while piece > 0 && (at & ((1 << piece) - 1) != 0 || at + (1 << piece) > end) {
                piece -= 1;
            }
            if flush && node != NodeId::ROOT {
                if !self.split_ports(space, at, piece) {
                    self.remove_port_tree(node);
                    at += 1 << piece;
                    continue;
                }
                if let Some(whole) = self.port_mappings.find(space, at) {
                    self.remove_port_tree(whole);
                }
            } else {
                self.revoke_given_ports(node, at, piece);
            }
            at += 1 << piece;
        }
    }

    /// Takes the ports of a piece from all to whom the holder of a mapping gave them.
    fn revoke_given_ports(&mut self, node: NodeId, at: u64, piece: u8) {
        let end = at + (1 << piece);
        let mut cursor = node;
        while let Some(child) = self.port_mappings.next_derived(node, cursor) {
            let Some(found) = self.port_mappings.get(child).copied() else { return };
            let overlaps = found.object < end && at < found.object + (1 << found.bits);
            if self.port_mappings.parent(child) != Some(node) || !overlaps {
                cursor = child;
            } else if found.bits > piece && self.split_ports(found.space, at, piece) {
                // The pieces are somewhere else in the list.
                cursor = node;
            } else {
                self.remove_port_tree(child);
            }
        }
    }

    /// Takes all ports from a space that is being taken apart.
    pub(crate) fn forget_ports(&mut self, space: u32) {
        if space != SIGMA0 && self.spaces.at(space).ports.is_some() {
            self.revoke_ports(space, PortRange { first: 0, bits: 16 }, true);
        }
        self.spaces.at_mut(space).ports = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_that_use_ports() {
        assert_eq!(port_access([0xee, 0, 0, 0], 0x3f8), Some((0x3f8, 0)));
        assert_eq!(port_access([0xef, 0, 0, 0], 0x3f8), Some((0x3f8, 2)));
        assert_eq!(port_access([0x66, 0xef, 0, 0], 0x3f8), Some((0x3f8, 1)));
        assert_eq!(port_access([0xe4, 0x60, 0, 0], 0), Some((0x60, 0)));
        assert_eq!(port_access([0xf3, 0x6c, 0, 0], 0x1f0), Some((0x1f0, 0)));
        assert_eq!(port_access([0x66, 0xef, 0, 0], 0x3ff), Some((0, 11)));
        assert_eq!(port_access([0xef, 0, 0, 0], 0xffff), Some((0xffff, 0)).map(|_| (0xfffc, 2)));
        assert_eq!(port_access([0xfa, 0, 0, 0], 0x3f8), None);
    }
}
