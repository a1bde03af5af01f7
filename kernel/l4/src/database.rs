//! The mapping database: from which mapping each mapping was derived (thesis, section 7.3).
//!
//! A *node* is a mapping: a place (an address space and an address in it), an object (where in
//! physical memory, or which ports) and a size. A node's children are mappings that its space
//! gave to others; they lie within it. The root node stands for what the kernel gives to
//! sigma0, which is everything.
//!
//! Hidden here is how the forest is kept. All nodes form one list in preorder, each with its depth:
//! what was derived from a node follows it until the depth is no longer greater, so that
//! revoking needs neither recursion nor a stack and costs the same for each node. Two hash tables
//! find a node by its place, and the children of a node by their object.
//!
//! Invariants:
//!
//! - a place belongs to at most one node, and nodes of one space do not overlap;
//! - a child lies within its parent's object and is not larger;
//! - in the list, a node's depth is that of its parent plus one, and the parent is the last node
//!   before it with a smaller depth;
//! - every node is in the list and in both tables, or on the free list.
//!
//! The number of nodes is fixed when the database is made. All operations but [`Database::split`]
//! take constant time on the average; hashes are keyed, so that programs, which choose addresses, cannot aim
//! at one bucket.

/// Number of a node, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The node from which everything descends.
    pub const ROOT: Self = Self(0);
    const NONE: Self = Self(u32::MAX);

    fn some(self) -> Option<Self> {
        if self == Self::NONE { None } else { Some(self) }
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Size of a node that is free.
const FREE: u8 = u8::MAX;

/// A mapping.
#[derive(Clone, Copy, Debug)]
pub struct Node<R> {
    /// Number of the address space.
    pub(crate) space: u32,
    /// Log2 of the size.
    pub(crate) bits: u8,
    /// The address in that space, a multiple of the size.
    pub(crate) address: u64,
    /// Where the object is, a multiple of the size.
    pub(crate) object: u64,
    /// What the owner of the database notes.
    pub(crate) payload: R,
    depth: u32,
    parent: NodeId,
    next: NodeId,
    previous: NodeId,
    next_by_place: NodeId,
    next_by_object: NodeId,
}

impl<R: Copy + Default> Node<R> {
    /// A node that is not in use: what a database is made of.
    pub fn unused() -> Self {
        Self {
            space: 0,
            bits: FREE,
            address: 0,
            object: 0,
            payload: R::default(),
            depth: 0,
            parent: NodeId::NONE,
            next: NodeId::NONE,
            previous: NodeId::NONE,
            next_by_place: NodeId::NONE,
            next_by_object: NodeId::NONE,
        }
    }
}

/// Where a mapping is, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping<R> {
    /// Number of the address space.
    pub(crate) space: u32,
    /// Address there.
    pub(crate) address: u64,
    /// Where the object is.
    pub(crate) object: u64,
    /// Log2 of the size.
    pub(crate) bits: u8,
    /// What the owner of the database notes.
    pub(crate) payload: R,
}

/// There are not enough free nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseFull;

/// A bucket of a hash table, at the beginning.
pub const EMPTY_BUCKET: NodeId = NodeId::NONE;

/// The database.
#[derive(Debug)]
pub(crate) struct Database<'m, R> {
    nodes: &'m mut [Node<R>],
    by_place: &'m mut [NodeId],
    by_object: &'m mut [NodeId],
    free: NodeId,
    free_count: usize,
    /// Log2 of all sizes that nodes can have, smallest first.
    sizes: &'static [u8],
    key: u64,
}

impl<'m, R: Copy + Default> Database<'m, R> {
    /// A database with room for one mapping less than `nodes`. The tables' lengths should be powers of
    /// two, about as many as there are nodes. `sizes`: log2 of all sizes, smallest first; `key`: a
    /// number that programs cannot know.
    pub(crate) fn new(
        nodes: &'m mut [Node<R>],
        by_place: &'m mut [NodeId],
        by_object: &'m mut [NodeId],
        sizes: &'static [u8],
        key: u64,
    ) -> Self {
        by_place.fill(NodeId::NONE);
        by_object.fill(NodeId::NONE);
        let count = nodes.len().min(NodeId::NONE.index());
        for (node, following) in nodes.iter_mut().zip(1..) {
            *node = Node::unused();
            if (following as usize) < count {
                node.next = NodeId(following);
            }
        }
        let database = Self {
            nodes,
            by_place,
            by_object,
            free: if count > 1 { NodeId(1) } else { NodeId::NONE },
            free_count: count.saturating_sub(1),
            sizes,
            // Odd, so that multiplying by it loses nothing.
            key: key | 1,
        };
        if let Some(root) = database.nodes.first_mut() {
            root.bits = sizes.last().copied().unwrap_or(0);
            root.next = NodeId::NONE;
        }
        database
    }

    /// Number of mappings that can still be added.
    pub(crate) fn free_nodes(&self) -> usize {
        self.free_count
    }

    /// Number of mappings.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn len(&self) -> usize {
        (self.nodes.len() - 1).saturating_sub(self.free_count)
    }

    /// The node, which is in use.
    pub(crate) fn get(&self, id: NodeId) -> Option<&Node<R>> {
        self.nodes.get(id.index()).filter(|node| node.bits != FREE)
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node<R>> {
        self.nodes.get_mut(id.index())
    }

    /// Sets what the owner of the database notes about a mapping.
    pub(crate) fn set_payload(&mut self, id: NodeId, payload: R) {
        if let Some(node) = self.node_mut(id) {
            node.payload = payload;
        }
    }

    fn hash(&self, first: u64, second: u64, buckets: usize) -> usize {
        let mixed = (first ^ second.rotate_left(32)).wrapping_mul(self.key);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // There is a power of two of them.
        (mixed >> 32) as usize & buckets.wrapping_sub(1)
    }

    fn place_bucket(&self, space: u32, address: u64, bits: u8) -> usize {
        let place = u64::from(space) << 8 | u64::from(bits);
        self.hash(address >> bits, place, self.by_place.len())
    }

    fn object_bucket(&self, parent: NodeId, object: u64, bits: u8) -> usize {
        let origin = u64::from(parent.0) << 8 | u64::from(bits);
        self.hash(object >> bits, origin, self.by_object.len())
    }

    /// The mapping of exactly this size at `address`.
    pub(crate) fn find_sized(&self, space: u32, address: u64, bits: u8) -> Option<NodeId> {
        let start = address >> bits << bits;
        let mut at = *self.by_place.get(self.place_bucket(space, address, bits))?;
        while let Some(node) = self.nodes.get(at.index()) {
            if node.space == space && node.address == start && node.bits == bits {
                return Some(at);
            }
            at = node.next_by_place;
        }
        None
    }

    /// The mapping that `address` of `space` lies in.
    pub(crate) fn find(&self, space: u32, address: u64) -> Option<NodeId> {
        self.sizes.iter().find_map(|&bits| self.find_sized(space, address, bits))
    }

    /// A child of `parent` of exactly this size and object.
    pub(crate) fn child(&self, parent: NodeId, object: u64, bits: u8) -> Option<NodeId> {
        let start = object >> bits << bits;
        let mut at = *self.by_object.get(self.object_bucket(parent, object, bits))?;
        while let Some(node) = self.nodes.get(at.index()) {
            if node.parent == parent && node.object == start && node.bits == bits {
                return Some(at);
            }
            at = node.next_by_object;
        }
        None
    }

    /// The next child of the same parent with the same object and size as `child`.
    pub(crate) fn next_child(&self, child: NodeId) -> Option<NodeId> {
        let this = self.get(child)?;
        let mut at = this.next_by_object;
        while let Some(node) = self.nodes.get(at.index()) {
            if (node.parent, node.object, node.bits) == (this.parent, this.object, this.bits) {
                return Some(at);
            }
            at = node.next_by_object;
        }
        None
    }

    /// The first mapping derived from `node`, at any depth; `None` if there is none.
    pub(crate) fn first_derived(&self, node: NodeId) -> Option<NodeId> {
        let this = self.nodes.get(node.index())?;
        let next = this.next.some()?;
        let following = self.nodes.get(next.index())?;
        (following.depth > this.depth).then_some(next)
    }

    /// The mapping that follows `at` among those derived from `node`, at any depth.
    pub(crate) fn next_derived(&self, node: NodeId, at: NodeId) -> Option<NodeId> {
        let depth = self.nodes.get(node.index())?.depth;
        let next = self.nodes.get(at.index())?.next.some()?;
        let following = self.nodes.get(next.index())?;
        (following.depth > depth).then_some(next)
    }

    /// The mapping from which `node` was derived.
    pub(crate) fn parent(&self, node: NodeId) -> Option<NodeId> {
        self.get(node)?.parent.some()
    }

    /// The mapping before `at` in the order of derivation: if nothing is derived from that one any more,
    /// it is the next to be taken out.
    pub(crate) fn previous(&self, at: NodeId) -> NodeId {
        self.nodes.get(at.index()).map_or(NodeId::ROOT, |node| node.previous)
    }

    /// Notes a mapping that `parent` gave.
    ///
    /// The caller sees to it that the place is free, and that the object lies within the parent's.
    ///
    /// # Errors
    /// [`DatabaseFull`].
    pub(crate) fn insert(
        &mut self,
        parent: NodeId,
        mapping: Mapping<R>,
    ) -> Result<NodeId, DatabaseFull> {
        let id = self.free;
        let depth = self.nodes.get(parent.index()).map_or(0, |node| node.depth) + 1;
        let node = self.nodes.get_mut(id.index()).ok_or(DatabaseFull)?;
        self.free = node.next;
        self.free_count -= 1;
        *node = Node {
            space: mapping.space,
            bits: mapping.bits,
            address: mapping.address,
            object: mapping.object,
            payload: mapping.payload,
            depth,
            parent,
            ..Node::unused()
        };
        self.link_after(id, parent);
        self.enter_place(id);
        self.enter_object(id);
        Ok(id)
    }

    /// Takes a mapping out. What was derived from it must be gone.
    pub(crate) fn remove(&mut self, id: NodeId) {
        debug_assert!(self.first_derived(id).is_none());
        if id == NodeId::ROOT {
            return;
        }
        self.leave_place(id);
        self.leave_object(id);
        self.unlink(id);
        let free = self.free;
        if let Some(node) = self.node_mut(id) {
            *node = Node { next: free, ..Node::unused() };
            self.free = id;
            self.free_count += 1;
        }
    }

    /// Moves a mapping, and all that was derived from it, to another place, which is free: a grant.
    pub(crate) fn relocate(&mut self, id: NodeId, space: u32, address: u64) {
        self.leave_place(id);
        if let Some(node) = self.node_mut(id) {
            node.space = space;
            node.address = address;
        }
        self.enter_place(id);
    }

    /// The next smaller size than `bits`.
    pub(crate) fn smaller_size(&self, bits: u8) -> Option<u8> {
        self.sizes.iter().copied().take_while(|&size| size < bits).last()
    }

    /// Replaces a mapping by mappings of the next smaller size; each child goes to the one that it lies
    /// in. No child may have the size of the mapping itself. `payload` gives what to note of
    /// the piece at an offset.
    ///
    /// # Errors
    /// [`DatabaseFull`]; nothing has changed then.
    pub(crate) fn split(
        &mut self,
        id: NodeId,
        payload: impl Fn(R, u64) -> R,
    ) -> Result<(), DatabaseFull> {
        let whole = *self.get(id).ok_or(DatabaseFull)?;
        let bits = self.smaller_size(whole.bits).ok_or(DatabaseFull)?;
        let pieces = 1_u64 << (whole.bits - bits);
        if (self.free_count as u64) < pieces {
            return Err(DatabaseFull);
        }
        debug_assert!(self.child(id, whole.object, whole.bits).is_none());
        self.leave_place(id);
        for piece in 0..pieces {
            let offset = piece << bits;
            self.insert(
                whole.parent,
                Mapping {
                    space: whole.space,
                    address: whole.address + offset,
                    object: whole.object + offset,
                    bits,
                    payload: payload(whole.payload, offset),
                },
            )?;
        }
        // Each child with what was derived from it follows its piece.
        let mut after = NodeId::NONE;
        while let Some(moved) = self.first_derived(id) {
            let Some(node) = self.get(moved).copied() else { break };
            if node.depth == whole.depth + 1 {
                let address = whole.address + (node.object - whole.object);
                after = self.find_sized(whole.space, address, bits).unwrap_or(NodeId::ROOT);
                self.leave_object(moved);
                if let Some(node) = self.node_mut(moved) {
                    node.parent = after;
                }
                self.enter_object(moved);
            }
            self.unlink(moved);
            self.link_after(moved, after);
            after = moved;
        }
        self.enter_place(id);
        self.remove(id);
        Ok(())
    }

    fn link_after(&mut self, id: NodeId, previous: NodeId) {
        let next = self.nodes.get(previous.index()).map_or(NodeId::NONE, |node| node.next);
        if let Some(node) = self.node_mut(id) {
            node.next = next;
            node.previous = previous;
        }
        if let Some(node) = self.node_mut(previous) {
            node.next = id;
        }
        if let Some(node) = self.node_mut(next) {
            node.previous = id;
        }
    }

    fn unlink(&mut self, id: NodeId) {
        let Some(Node { next, previous, .. }) = self.nodes.get(id.index()).copied() else { return };
        if let Some(node) = self.node_mut(previous) {
            node.next = next;
        }
        if let Some(node) = self.node_mut(next) {
            node.previous = previous;
        }
    }

    fn enter_place(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id.index()).copied() else { return };
        let bucket = self.place_bucket(node.space, node.address, node.bits);
        if let (Some(head), Some(node)) =
            (self.by_place.get_mut(bucket), self.nodes.get_mut(id.index()))
        {
            node.next_by_place = core::mem::replace(head, id);
        }
    }

    fn enter_object(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id.index()).copied() else { return };
        let bucket = self.object_bucket(node.parent, node.object, node.bits);
        if let (Some(head), Some(node)) =
            (self.by_object.get_mut(bucket), self.nodes.get_mut(id.index()))
        {
            node.next_by_object = core::mem::replace(head, id);
        }
    }

    fn leave_place(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id.index()).copied() else { return };
        let bucket = self.place_bucket(node.space, node.address, node.bits);
        let Some(head) = self.by_place.get_mut(bucket) else { return };
        if *head == id {
            *head = node.next_by_place;
            return;
        }
        let mut at = *head;
        while let Some(before) = self.nodes.get_mut(at.index()) {
            if before.next_by_place == id {
                before.next_by_place = node.next_by_place;
                return;
            }
            at = before.next_by_place;
        }
    }

    fn leave_object(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id.index()).copied() else { return };
        let bucket = self.object_bucket(node.parent, node.object, node.bits);
        let Some(head) = self.by_object.get_mut(bucket) else { return };
        if *head == id {
            *head = node.next_by_object;
            return;
        }
        let mut at = *head;
        while let Some(before) = self.nodes.get_mut(at.index()) {
            if before.next_by_object == id {
                before.next_by_object = node.next_by_object;
                return;
            }
            at = before.next_by_object;
        }
    }

    /// All mappings, in the order of derivation.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = NodeId> {
        let next = |id: &NodeId| self.nodes.get(id.index())?.next.some();
        core::iter::successors(next(&NodeId::ROOT), next)
    }

    /// Whether all invariants hold: looks at everything, for tests.
    ///
    /// # Errors
    /// What does not hold, and where.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn audit(&self) -> Result<(), (&'static str, NodeId)> {
        let (mut at, mut previous, mut seen) = (NodeId::ROOT, NodeId::NONE, 0);
        while let Some(node) = self.nodes.get(at.index()) {
            let check = |holds: bool, what| if holds { Ok(()) } else { Err((what, at)) };
            check(node.bits != FREE, "a free node is in the list")?;
            check(node.previous == previous, "the list does not lead back")?;
            if at != NodeId::ROOT {
                let parent = self.get(node.parent).ok_or(("the parent is free", at))?;
                check(node.depth == parent.depth + 1, "the depth is not the parent's plus one")?;
                let within = node.parent == NodeId::ROOT
                    || node.object >> parent.bits << parent.bits == parent.object
                        && node.bits <= parent.bits;
                check(within, "a child is not within its parent")?;
                let before = self.get(previous).ok_or(("the node before is free", at))?;
                check(node.depth <= before.depth + 1, "a depth is left out")?;
                let mut ancestor = previous;
                while let Some(node_before) = self.get(ancestor)
                    && node_before.depth >= node.depth
                {
                    ancestor = node_before.parent;
                }
                check(ancestor == node.parent, "the list's parent is another")?;
                let found = self.find_sized(node.space, node.address, node.bits);
                check(found == Some(at), "the place leads elsewhere")?;
                let covering = self.sizes.iter().filter(|&&bits| {
                    bits >= node.bits && self.find_sized(node.space, node.address, bits).is_some()
                });
                check(covering.count() == 1, "mappings of a space overlap")?;
                let mut child = self
                    .by_object
                    .get(self.object_bucket(node.parent, node.object, node.bits))
                    .copied()
                    .unwrap_or(NodeId::NONE);
                while child != at {
                    let next = self.get(child).ok_or(("the object does not lead here", at))?;
                    child = next.next_by_object;
                }
                seen += 1;
            }
            if seen > self.nodes.len() {
                return Err(("the list goes on for ever", at));
            }
            (previous, at) = (at, node.next);
        }
        let mut free = 0;
        let mut at = self.free;
        while let Some(node) = self.nodes.get(at.index()) {
            if node.bits != FREE || free > self.nodes.len() {
                return Err(("the free list is wrong", at));
            }
            free += 1;
            at = node.next;
        }
        if free != self.free_count || free + seen + 1 != self.nodes.len() {
            return Err(("nodes are lost", NodeId::ROOT));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    const SIZES: &[u8] = &[12, 14, 16];

    /// What the model knows of a mapping: the object, the size, and the place of the parent.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Known {
        object: u64,
        bits: u8,
        parent: Option<(u32, u64)>,
    }

    #[derive(Debug, Default)]
    struct Model(HashMap<(u32, u64), Known>);

    impl Model {
        fn overlaps(&self, space: u32, address: u64, bits: u8) -> bool {
            self.0.iter().any(|(&(other, at), known)| {
                let bits = bits.max(known.bits);
                other == space && at >> bits == address >> bits
            })
        }

        fn derived(&self, from: (u32, u64)) -> Vec<(u32, u64)> {
            let mut found = Vec::new();
            let mut rest = vec![from];
            while let Some(parent) = rest.pop() {
                for (&place, known) in &self.0 {
                    if known.parent == Some(parent) {
                        found.push(place);
                        rest.push(place);
                    }
                }
            }
            found
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert { parent: usize, size: usize, offset: u64, space: u32, address: u64 },
        Revoke(usize),
        Relocate { node: usize, space: u32, address: u64 },
        Split(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let insert = (any::<usize>(), 0..3usize, 0..16u64, 0..4u32, 0..16u64).prop_map(
            |(parent, size, offset, space, address)| Step::Insert {
                parent,
                size,
                offset,
                space,
                address,
            },
        );
        let relocate = (any::<usize>(), 0..4u32, 0..16u64)
            .prop_map(|(node, space, address)| Step::Relocate { node, space, address });
        prop_oneof![
            6 => insert,
            1 => any::<usize>().prop_map(Step::Revoke),
            1 => relocate,
            2 => any::<usize>().prop_map(Step::Split),
        ]
    }

    fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut nodes = vec![Node::<u64>::unused(); 48];
        let (mut places, mut objects) = (vec![EMPTY_BUCKET; 16], vec![EMPTY_BUCKET; 16]);
        let mut database =
            Database::new(&mut nodes, &mut places, &mut objects, SIZES, 0x1234_5678_9abc);
        let mut model = Model::default();
        for step in steps {
            let mut known: Vec<_> = model.0.iter().map(|(place, known)| (*place, *known)).collect();
            known.sort_by_key(|(place, _)| *place);
            let pick = |index: usize| known.get(index % (known.len() + 1)).copied();
            match step {
                Step::Insert { parent, size, offset, space, address } => {
                    let bits = SIZES[size];
                    let (from, parent) = match pick(parent) {
                        None => (NodeId::ROOT, None),
                        Some((place, _)) => (database.find(place.0, place.1).unwrap(), Some(place)),
                    };
                    let (base, room) = match parent {
                        None => (0, 17),
                        Some(place) => (model.0[&place].object, model.0[&place].bits),
                    };
                    if bits > room {
                        continue;
                    }
                    let object = (base + ((offset << 12) & ((1 << room) - 1))) >> bits << bits;
                    let address = (address << 12) >> bits << bits;
                    if model.overlaps(space, address, bits) {
                        continue;
                    }
                    let mapping = Mapping { space, address, object, bits, payload: object };
                    match database.insert(from, mapping) {
                        Ok(id) => {
                            prop_assert_eq!(database.find_sized(space, address, bits), Some(id));
                            model.0.insert((space, address), Known { object, bits, parent });
                        }
                        Err(DatabaseFull) => prop_assert_eq!(model.0.len(), 47),
                    }
                }
                Step::Revoke(node) => {
                    let Some((place, _)) = pick(node) else { continue };
                    let id = database.find(place.0, place.1).unwrap();
                    let mut gone = Vec::new();
                    let mut at = id;
                    loop {
                        if let Some(deeper) = database.first_derived(at) {
                            at = deeper;
                        } else if at == id {
                            break;
                        } else {
                            let node = *database.get(at).unwrap();
                            gone.push((node.space, node.address));
                            let previous = database.previous(at);
                            database.remove(at);
                            at = previous;
                        }
                    }
                    let mut expected = model.derived(place);
                    expected.sort_unstable();
                    gone.sort_unstable();
                    prop_assert_eq!(&gone, &expected);
                    model.0.retain(|place, _| !expected.contains(place));
                    if place.1 & 0x1000 == 0 {
                        database.remove(id);
                        model.0.remove(&place);
                    }
                }
                Step::Relocate { node, space, address } => {
                    let Some((place, moved)) = pick(node) else { continue };
                    let address = (address << 12) >> moved.bits << moved.bits;
                    if model.overlaps(space, address, moved.bits) {
                        continue;
                    }
                    let id = database.find(place.0, place.1).unwrap();
                    database.relocate(id, space, address);
                    for known in model.0.values_mut() {
                        if known.parent == Some(place) {
                            known.parent = Some((space, address));
                        }
                    }
                    model.0.remove(&place);
                    model.0.insert((space, address), moved);
                }
                Step::Split(node) => {
                    let Some((place, whole)) = pick(node) else { continue };
                    let id = database.find(place.0, place.1).unwrap();
                    let blocked = whole.bits == 12
                        || model
                            .0
                            .values()
                            .any(|k| k.parent == Some(place) && k.bits == whole.bits);
                    if blocked {
                        continue;
                    }
                    let result = database.split(id, |payload, offset| payload + offset);
                    if model.0.len() + 4 > 47 {
                        prop_assert_eq!(result, Err(DatabaseFull));
                        continue;
                    }
                    prop_assert_eq!(result, Ok(()));
                    let bits = whole.bits - 2;
                    model.0.remove(&place);
                    for piece in 0..4 {
                        let offset = piece << bits;
                        let known = Known { object: whole.object + offset, bits, ..whole };
                        model.0.insert((place.0, place.1 + offset), known);
                    }
                    for known in model.0.values_mut() {
                        if known.parent == Some(place) {
                            let offset = (known.object - whole.object) >> bits << bits;
                            known.parent = Some((place.0, place.1 + offset));
                        }
                    }
                }
            }
            prop_assert_eq!(database.audit(), Ok(()));
            prop_assert_eq!(database.len(), model.0.len());
            for (place, known) in &model.0 {
                let id = database.find(place.0, place.1).unwrap();
                let node = database.get(id).unwrap();
                prop_assert_eq!(
                    (node.object, node.bits, node.payload),
                    (known.object, known.bits, known.object)
                );
                let parent = known.parent.map_or(NodeId::ROOT, |(space, address)| {
                    database.find(space, address).unwrap()
                });
                prop_assert_eq!(node.parent, parent);
                let child = database.child(parent, known.object, known.bits).unwrap();
                prop_assert_eq!(database.get(child).unwrap().object, known.object);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_a_plain_forest(steps in prop::collection::vec(step(), 1..120)) {
            run(steps)?;
        }
    }
}
