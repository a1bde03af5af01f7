//! A set of numbers as a bitmap with summaries, so that the first member at or after any place is
//! found in as many steps as the tree has levels (at most six), whatever the set looks like.
//!
//! Level 0 (the leaves) has one bit for each number; bit `i` of level `l + 1` is set exactly if
//! word `i` of level `l` has a member. The words are passed to each operation, since several trees
//! share one slice; all words zero is the empty set.

/// Most levels above the leaves: 2^32 numbers need five.
const LEVELS: usize = 5;

/// Where a tree lies in its slice of words.
#[derive(Clone, Copy)]
pub(super) struct BitTree {
    /// All numbers are below this.
    numbers: u64,
    /// Index of leaf 0.
    leaves: usize,
    /// Index of the first word of each level above the leaves.
    upper: [usize; LEVELS],
    /// Number of levels above the leaves.
    levels: usize,
}

impl BitTree {
    /// A tree for the numbers below `numbers`, at `base`; and the index of the first word behind it.
    pub(super) const fn place(base: usize, numbers: u64) -> (Self, usize) {
        let mut words = numbers.div_ceil(64) as usize;
        let mut tree = Self { numbers, leaves: base, upper: [0; LEVELS], levels: 0 };
        let mut next = base + words;
        while words > 1 && tree.levels < LEVELS {
            words = words.div_ceil(64);
            #[expect(clippy::indexing_slicing, reason = "below LEVELS by the loop's condition")]
            {
                tree.upper[tree.levels] = next;
            }
            tree.levels += 1;
            next += words;
        }
        (tree, next)
    }

    /// Index of the leaf for `number`.
    #[inline]
    const fn leaf_of(&self, number: u64) -> usize {
        self.leaves + (number >> 6) as usize
    }

    /// The members among the 64 numbers around `number`, from a multiple of 64 on (bit 0 is the
    /// first).
    #[inline]
    pub(super) fn among_64(&self, words: &[u64], number: u64) -> u64 {
        self.members(words, self.leaf_of(number))
    }

    /// The members among the numbers of the leaf that lies at `place`.
    #[inline]
    fn members(&self, words: &[u64], place: usize) -> u64 {
        words.get(place).copied().unwrap_or(0)
    }

    /// Word `index` of `level`.
    #[inline]
    fn word(&self, words: &[u64], level: usize, index: u64) -> u64 {
        let index = index as usize;
        match level.checked_sub(1) {
            None => self.members(words, self.leaves + index),
            Some(level) => {
                let place = self.upper.get(level).map(|base| base + index);
                place.and_then(|place| words.get(place)).copied().unwrap_or(0)
            }
        }
    }

    /// Whether `number` is a member.
    #[inline]
    pub(super) fn contains(&self, words: &[u64], number: u64) -> bool {
        number < self.numbers && self.members(words, self.leaf_of(number)) & mask(number) != 0
    }

    /// Make `number` a member.
    #[inline]
    pub(super) fn insert(&self, words: &mut [u64], number: u64) {
        let place = self.leaf_of(number);
        let was_empty = self.members(words, place) == 0;
        if let Some(leaf) = words.get_mut(place) {
            *leaf |= mask(number);
        }
        if was_empty {
            self.insert_above(words, number >> 6);
        }
    }

    /// Make `number` a member; or, if `pair` and the number that makes an even and odd pair with it
    /// is a member, make that one none instead. Whether `number` is a member now.
    #[inline]
    pub(super) fn insert_or_pair(&self, words: &mut [u64], number: u64, pair: bool) -> bool {
        let Some(leaf) = words.get_mut(self.leaf_of(number)) else {
            return true;
        };
        let members = *leaf;
        let other = mask(number ^ 1);
        if pair && members & other != 0 {
            *leaf = members & !other;
            if members == other {
                self.remove_above(words, number >> 6);
            }
            return false;
        }
        *leaf = members | mask(number);
        if members == 0 {
            self.insert_above(words, number >> 6);
        }
        true
    }

    /// Note in the levels above that leaf `index` is no longer empty.
    fn insert_above(&self, words: &mut [u64], mut index: u64) {
        for base in self.upper.iter().take(self.levels) {
            let Some(word) = words.get_mut(base + (index >> 6) as usize) else {
                return;
            };
            let was_empty = *word == 0;
            *word |= mask(index);
            if !was_empty {
                return;
            }
            index >>= 6;
        }
    }

    /// Make `number` no member.
    #[inline]
    pub(super) fn remove(&self, words: &mut [u64], number: u64) {
        let place = self.leaf_of(number);
        if let Some(leaf) = words.get_mut(place) {
            *leaf &= !mask(number);
        }
        if self.members(words, place) == 0 {
            self.remove_above(words, number >> 6);
        }
    }

    /// Make the numbers from `start` to `end`, which are at most 64 of one leaf or whole leaves, no
    /// members. Costs little if none is, since only the summaries are looked at then.
    #[inline]
    pub(super) fn remove_range(&self, words: &mut [u64], start: u64, end: u64) {
        let (mut index, last) = (start >> 6, end.div_ceil(64));
        while index < last {
            // Up to 64 leaves at a time.
            let stop = last.min((index | 63) + 1);
            let mut leaves = u64::MAX >> (64 - (stop - index)) << (index & 63);
            if self.levels > 0 {
                leaves &= self.word(words, 1, index >> 6);
            }
            while leaves != 0 {
                let leaf = (index & !63) + u64::from(leaves.trailing_zeros());
                leaves &= leaves - 1;
                self.remove_in_leaf(words, leaf, start, end);
            }
            index = stop;
        }
    }

    /// The part of [`Self::remove_range`] that lies in leaf `index`.
    #[cold]
    fn remove_in_leaf(&self, words: &mut [u64], index: u64, start: u64, end: u64) {
        let first = start.max(index << 6);
        let run = u64::MAX >> (64 - (end - first).min(64)) << (first & 63);
        let Some(leaf) = words.get_mut(self.leaf_of(first)) else {
            return;
        };
        if *leaf & run != 0 {
            *leaf &= !run;
            if *leaf == 0 {
                self.remove_above(words, index);
            }
        }
    }

    /// Note in the levels above that leaf `index` is empty.
    fn remove_above(&self, words: &mut [u64], mut index: u64) {
        for base in self.upper.iter().take(self.levels) {
            let Some(word) = words.get_mut(base + (index >> 6) as usize) else {
                return;
            };
            *word &= !mask(index);
            if *word != 0 {
                return;
            }
            index >>= 6;
        }
    }

    /// The smallest member that is at least `from`.
    #[inline]
    pub(super) fn first_from(&self, words: &[u64], from: u64) -> Option<u64> {
        if from >= self.numbers {
            return None;
        }
        let index = from >> 6;
        let word = self.word(words, 0, index) & (u64::MAX << (from & 63));
        if word != 0 {
            return Some(index << 6 | u64::from(word.trailing_zeros()));
        }
        self.first_behind(words, index)
    }

    /// The smallest member behind leaf `index`: climb until a word has a later bit, then descend.
    fn first_behind(&self, words: &[u64], mut index: u64) -> Option<u64> {
        let mut count = self.numbers;
        for level in 1..=self.levels {
            let position = index + 1;
            count = count.div_ceil(64);
            if position >= count {
                return None;
            }
            index = position >> 6;
            let word = self.word(words, level, index) & (u64::MAX << (position & 63));
            if word != 0 {
                let mut found = index << 6 | u64::from(word.trailing_zeros());
                for below in (0..level).rev() {
                    let word = self.word(words, below, found);
                    found = found << 6 | u64::from(word.trailing_zeros() & 63);
                }
                return Some(found);
            }
        }
        None
    }
}

/// The bit of `number` in its word.
#[inline]
const fn mask(number: u64) -> u64 {
    1 << (number & 63)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;

    use super::*;

    /// A small generator of pseudo-random numbers (xorshift64*).
    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[test]
    fn behaves_like_a_set() {
        let mut state = 1;
        for numbers in [1, 64, 65, 4096, 4097, 300_000] {
            let (tree, end) = BitTree::place(3, numbers);
            let whole = numbers & !63;
            // Other words behind those of the tree.
            let mut words = vec![0; end];
            words.resize(end + 8, u64::MAX);
            let mut set = BTreeSet::new();
            for _ in 0..20_000 {
                let number = random(&mut state) % numbers;
                if random(&mut state).is_multiple_of(3) {
                    let (other, pair) = (number ^ 1, random(&mut state).is_multiple_of(2));
                    if !set.contains(&number) && other < numbers {
                        let added = tree.insert_or_pair(&mut words, number, pair);
                        assert_eq!(added, !(pair && set.contains(&other)));
                        if added {
                            set.insert(number);
                        } else {
                            set.remove(&other);
                        }
                    }
                } else if random(&mut state).is_multiple_of(3) {
                    tree.insert(&mut words, number);
                    set.insert(number);
                } else {
                    tree.remove(&mut words, number);
                    set.remove(&number);
                }
                if random(&mut state).is_multiple_of(50) {
                    // Part of a leaf, or a few leaves.
                    let last = number | 63;
                    let (start, end) = if random(&mut state).is_multiple_of(2) {
                        (number, (last + 1).min(numbers))
                    } else {
                        (number & !63, (last + 129).min(whole).max(number & !63))
                    };
                    tree.remove_range(&mut words, start, end);
                    set.retain(|member| !(start..end).contains(member));
                }
                assert_eq!(tree.contains(&words, number), set.contains(&number));
                assert!(!tree.contains(&words, numbers + random(&mut state) % 100));
                let from = random(&mut state) % (numbers + 200);
                assert_eq!(tree.first_from(&words, from), set.range(from..).next().copied());
            }
            assert_eq!(words[..3], [0; 3]);
            for number in set {
                tree.remove(&mut words, number);
            }
            assert!(words[..end].iter().all(|word| *word == 0));
            assert_eq!(words[end..], [u64::MAX; 8]);
        }
    }
}
