//! What is known of a state, as facts about frames, and what is left of that when frames are
//! renamed.
//!
//! All of the clients' frames are alike: renaming them in a state gives a state in which
//! everything happens in the same way. (Where larger pages can be mapped, those renamings are left
//! that keep such pages together.) States are therefore visited once up to renaming, and views
//! are compared up to renaming; [`Symmetry::canonical`] gives equal keys to exactly those sets of
//! facts that are renamings of each other, and tells how many renamings change nothing. Keys are
//! hashes of 128 bits: two different sets among the 10^9 that a long search compares have equal
//! keys with a probability below 10^-20.
//!
//! The method is the usual one: colours are refined until they are stable; as long as two frames
//! have the same colour, one of them is told apart from the others, each in turn.

use crate::hash::mix;
use crate::layers::Layer;
use crate::machine::{Frame, Level, Machine};

/// No frame.
const NONE: u32 = u32::MAX;

/// Something that holds of at most two frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Fact {
    /// What holds.
    code: u64,
    /// Of which frame.
    of: u32,
    /// With which other.
    with: u32,
}

/// A set of facts. The order does not matter; equal facts are counted.
#[derive(Clone, Default, Debug)]
pub struct Facts(Vec<Fact>);

/// A number for the name of a statement.
#[must_use]
pub(crate) const fn name(name: &str) -> u64 {
    let (mut code, mut at) = (0, 0);
    while at < name.len() {
        code = mix(code, name.as_bytes()[at] as u64);
        at += 1;
    }
    code
}

/// A statement, before it is known of which frames: a name, and numbers.
macro_rules! statement {
    ($name:literal $(, $number:expr)* $(,)?) => {{
        let code = const { $crate::facts::name($name) };
        $(let code = $crate::hash::mix(code, u64::from($number));)*
        code
    }};
}
pub(crate) use statement;

impl Facts {
    /// No facts.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Forgets all facts, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Number of facts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Forgets all facts but the first ones.
    pub fn truncate(&mut self, count: usize) {
        self.0.truncate(count);
    }

    /// Adds that something holds.
    pub fn add(&mut self, code: u64) {
        self.0.push(Fact { code, of: NONE, with: NONE });
    }

    /// Adds that something holds of a frame.
    pub fn add_of(&mut self, code: u64, frame: Frame) {
        self.0.push(Fact { code, of: frame.0, with: NONE });
    }

    /// Adds that something holds between two frames.
    pub fn add_between(&mut self, code: u64, frame: Frame, other: Frame) {
        self.0.push(Fact { code, of: frame.0, with: other.0 });
    }

    /// Adds facts, each as part of a larger statement that distinguishes it from the same fact
    /// elsewhere.
    pub fn add_all(&mut self, of: &Self, part: u64) {
        let facts = of.0.iter().map(|fact| Fact { code: mix(fact.code, part), ..*fact });
        self.0.extend(facts);
    }

    /// A hash that is equal for equal sets, with frames as they are named.
    #[must_use]
    pub fn key(&self) -> u128 {
        self.sum(u64::from)
    }

    fn sum(&self, name: impl Fn(u32) -> u64) -> u128 {
        let (mut low, mut high) = (0_u64, 0_u64);
        for fact in &self.0 {
            let frames = mix(name(fact.of), name(fact.with));
            low = low.wrapping_add(mix(fact.code, frames));
            high = high.wrapping_add(mix(frames ^ 0x5555, fact.code));
        }
        u128::from(mix(low, high)) << 64 | u128::from(mix(high, low ^ self.0.len() as u64))
    }
}

/// A key that does not depend on how frames are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Canonical {
    /// Equal exactly for renamings of the same facts.
    pub key: u128,
    /// Number of renamings that change nothing.
    pub automorphisms: u64,
}

/// Which renamings of frames there are.
#[derive(Clone, Debug)]
pub struct Symmetry {
    /// Frames of which each has its own role; and a common colour for the others.
    colours: Vec<u64>,
    /// Which frames make up a larger page.
    blocks: Facts,
}

/// Most frames of a machine whose states are compared up to renaming.
pub const MAX_FRAMES: usize = 64;

type Colours = [u64; MAX_FRAMES];

impl Symmetry {
    /// The renamings of the clients' frames, or `None` if the machine has more than
    /// [`MAX_FRAMES`].
    #[must_use]
    pub fn of(machine: &Machine) -> Option<Self> {
        if machine.frames() as usize > MAX_FRAMES {
            return None;
        }
        let colour =
            |frame: Frame| if machine.is_client(frame) { 1 } else { u64::from(frame.0) + 2 };
        let colours = machine.all_frames().map(colour).collect();
        let mut blocks = Facts::new();
        if machine.has(Layer::Superpages) {
            for level in (2..=machine.largest_leaf().0).map(Level) {
                let pages = u32::try_from(machine.pages_of(level)).unwrap_or(u32::MAX);
                for first in machine.clients().filter(|frame| frame.0.is_multiple_of(pages)) {
                    if !machine.is_client(Frame(first.0.saturating_add(pages - 1))) {
                        continue;
                    }
                    for part in 0..pages {
                        let code = statement!("block", level.0, part);
                        blocks.add_between(code, first, Frame(first.0 + part));
                    }
                }
            }
        }
        Some(Self { colours, blocks })
    }

    /// No renamings but those that leave all as it is.
    #[must_use]
    pub fn none(machine: &Machine) -> Option<Self> {
        let frames = machine.frames() as usize;
        let colours = (0..frames as u64).map(|frame| frame + 2).collect();
        (frames <= MAX_FRAMES).then_some(Self { colours, blocks: Facts::new() })
    }

    /// Number of all renamings.
    #[must_use]
    pub fn renamings(&self) -> u64 {
        self.canonical(&mut Facts::new()).automorphisms
    }

    /// The canonical form of `facts`. Some facts are added to them while it is made.
    pub fn canonical(&self, facts: &mut Facts) -> Canonical {
        let count = facts.count();
        facts.0.extend_from_slice(&self.blocks.0);
        let mut colours = [0; MAX_FRAMES];
        for (colour, own) in colours.iter_mut().zip(&self.colours) {
            *colour = mix(0x1234_5678, *own);
        }
        let canonical = self.search(facts, colours);
        facts.truncate(count);
        canonical
    }

    fn search(&self, facts: &Facts, mut colours: Colours) -> Canonical {
        let mut automorphisms = 1;
        loop {
            self.refine(facts, &mut colours);
            let Some(tied) = self.tied(&colours) else {
                let name = |frame: u32| match frame {
                    NONE => 0,
                    frame => colours[frame as usize],
                };
                return Canonical { key: facts.sum(name), automorphisms };
            };
            let members = || Frames(tied);
            let first = members().next().unwrap_or(0);
            if members().skip(1).all(|other| facts.can_exchange(first, other)) {
                // Any order of them will do.
                for (place, frame) in members().enumerate() {
                    colours[frame as usize] = mix(colours[frame as usize], place as u64 + 1);
                    automorphisms *= place as u64 + 1;
                }
                continue;
            }
            let mut best: Option<(Canonical, u64)> = None;
            for frame in members() {
                let mut colours = colours;
                colours[frame as usize] = mix(colours[frame as usize], 1);
                let found = self.search(facts, colours);
                best = match best {
                    Some((other, equal)) if other.key == found.key => Some((other, equal + 1)),
                    Some((other, equal)) if other.key < found.key => Some((other, equal)),
                    _ => Some((found, 1)),
                };
            }
            let (best, equal) = best.unwrap_or((Canonical { key: 0, automorphisms: 1 }, 1));
            let automorphisms = automorphisms * best.automorphisms * equal;
            return Canonical { key: best.key, automorphisms };
        }
    }

    /// Gives different colours to frames of which different facts hold, as far as colours tell.
    fn refine(&self, facts: &Facts, colours: &mut Colours) {
        let frames = self.colours.len();
        let mut classes = count_classes(&colours[..frames]);
        while classes < frames {
            let mut sums = [0_u64; MAX_FRAMES];
            for fact in &facts.0 {
                if fact.of == NONE {
                    continue;
                }
                let of = fact.of as usize;
                if fact.with == NONE {
                    sums[of] = sums[of].wrapping_add(mix(fact.code, 1));
                } else {
                    let with = fact.with as usize;
                    sums[of] = sums[of].wrapping_add(mix(fact.code, colours[with]));
                    sums[with] = sums[with].wrapping_add(mix(!fact.code, colours[of]));
                }
            }
            for (colour, sum) in colours.iter_mut().zip(sums).take(frames) {
                *colour = mix(*colour, sum);
            }
            let before = classes;
            classes = count_classes(&colours[..frames]);
            if classes == before {
                break;
            }
        }
    }

    /// The frames of a colour that several have, as bits: of the fewest, and then of the least
    /// colour. `None` if every frame has its own.
    fn tied(&self, colours: &Colours) -> Option<u64> {
        let frames = self.colours.len();
        let mut best: Option<(u32, u64, u64)> = None;
        for frame in 0..frames {
            if colours[..frame].contains(&colours[frame]) {
                continue;
            }
            let same = |other: &usize| colours[*other] == colours[frame];
            let members = (frame..frames).filter(same).fold(0_u64, |bits, other| bits | 1 << other);
            let candidate = (members.count_ones(), colours[frame], members);
            if candidate.0 > 1 && best.is_none_or(|best| candidate < best) {
                best = Some(candidate);
            }
        }
        best.map(|(.., members)| members)
    }
}

impl Facts {
    /// Whether the facts stay the same when two frames exchange their names.
    fn can_exchange(&self, one: u32, other: u32) -> bool {
        let exchange = |frame| match frame {
            frame if frame == one => other,
            frame if frame == other => one,
            frame => frame,
        };
        let key = |code, of: u32, with: u32| mix(code, u64::from(of) << 32 | u64::from(with));
        let mut difference = 0_u64;
        for fact in &self.0 {
            let (of, with) = (exchange(fact.of), exchange(fact.with));
            if (of, with) != (fact.of, fact.with) {
                difference = difference
                    .wrapping_add(key(fact.code, fact.of, fact.with))
                    .wrapping_sub(key(fact.code, of, with));
            }
        }
        difference == 0
    }
}

fn count_classes(colours: &[u64]) -> usize {
    let is_first = |at: &usize| !colours[..*at].contains(&colours[*at]);
    (0..colours.len()).filter(is_first).count()
}

/// The frames whose bits are set.
struct Frames(u64);

impl Iterator for Frames {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let frame = self.0.trailing_zeros();
        self.0 &= self.0.checked_sub(1)?;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Layers;
    use crate::machine::Sizes;

    fn machine(pages: u32, layers: Layers) -> Machine {
        Machine::new(Sizes { pages, user_entries: 2, ..Sizes::SMALL }, layers).unwrap()
    }

    /// All orders of `count` things.
    fn orders(count: usize) -> Vec<Vec<usize>> {
        let mut all = vec![vec![]];
        for place in 0..count {
            let longer = all.iter().flat_map(|order: &Vec<usize>| {
                (0..=place).map(|at| {
                    let mut longer = order.clone();
                    longer.insert(at, place);
                    longer
                })
            });
            all = longer.collect();
        }
        all
    }

    fn renamed(facts: &Facts, machine: &Machine, order: &[usize]) -> Facts {
        let clients: Vec<u32> = machine.clients().map(|frame| frame.0).collect();
        let name = |frame: u32| {
            clients
                .iter()
                .position(|client| *client == frame)
                .map_or(frame, |at| clients[order[at]])
        };
        let renamed = |fact: &Fact| Fact { of: name(fact.of), with: name(fact.with), ..*fact };
        let mut facts: Vec<Fact> = facts.0.iter().map(renamed).collect();
        facts.reverse();
        Facts(facts)
    }

    fn sorted(facts: &Facts) -> Vec<Fact> {
        let mut facts = facts.0.clone();
        facts.sort_unstable();
        facts
    }

    /// Keys and numbers of automorphisms are what trying all renamings says they are.
    #[test]
    fn canonical_forms_are_exact() {
        let machine = machine(5, Layers::NONE);
        let symmetry = Symmetry::of(&machine).unwrap();
        let clients: Vec<Frame> = machine.clients().collect();
        let orders = orders(5);
        let mut random = 1_u64;
        let mut next = |below: usize| {
            random = mix(random, 7);
            (random % below as u64) as usize
        };
        // Few different facts, so that many sets are renamings of each other.
        let mut sets: Vec<Facts> = Vec::new();
        for size in [0, 1, 2, 3, 4, 5, 6, 8, 10] {
            for _ in 0..60 {
                let mut facts = Facts::new();
                for _ in 0..size {
                    let (one, other) = (clients[next(5)], clients[next(5)]);
                    match next(4) {
                        0 => facts.add_of(next(2) as u64, one),
                        1 => facts.add_between(5, REFERENCE_LIKE, one),
                        _ => facts.add_between(3 + next(2) as u64, one, other),
                    }
                }
                sets.push(facts);
            }
        }
        // Three cycles of a kind that colours alone cannot tell apart: one of five, and a pair
        // with a triple.
        for cycle in [[1, 2, 3, 4, 0], [1, 0, 3, 4, 2], [1, 2, 0, 4, 3]] {
            let mut facts = Facts::new();
            for (from, to) in cycle.into_iter().enumerate() {
                facts.add_between(9, clients[from], clients[to]);
            }
            sets.push(facts);
        }
        let least: Vec<Vec<Fact>> = sets
            .iter()
            .map(|facts| {
                let all = orders.iter().map(|order| sorted(&renamed(facts, &machine, order)));
                all.min().unwrap()
            })
            .collect();
        let canonical: Vec<Canonical> =
            sets.iter().map(|facts| symmetry.canonical(&mut facts.clone())).collect();
        for (at, facts) in sets.iter().enumerate() {
            let own = sorted(facts);
            let same = orders.iter().filter(|o| sorted(&renamed(facts, &machine, o)) == own);
            assert_eq!(canonical[at].automorphisms, same.count() as u64, "{facts:?}");
            for other in 0..at {
                assert_eq!(
                    canonical[at].key == canonical[other].key,
                    least[at] == least[other],
                    "{facts:?} and {:?}",
                    sets[other]
                );
            }
        }
    }

    /// A frame with a role of its own.
    const REFERENCE_LIKE: Frame = Frame(0);

    #[test]
    fn frames_of_a_larger_page_stay_together() {
        let machine = machine(9, Layers::ALL);
        let symmetry = Symmetry::of(&machine).unwrap();
        let key = |frame: u32| {
            let mut facts = Facts::new();
            facts.add_of(1, Frame(frame));
            symmetry.canonical(&mut facts).key
        };
        let first = machine.clients().next().unwrap().0;
        assert!(first.is_multiple_of(4));
        assert_eq!(key(first), key(first + 4));
        assert_eq!(key(first + 3), key(first + 7));
        assert_ne!(key(first), key(first + 1));
        assert_ne!(key(first), key(first + 8));
        // Two blocks can be exchanged, and nothing else.
        assert_eq!(symmetry.canonical(&mut Facts::new()).automorphisms, 2);
    }
}
