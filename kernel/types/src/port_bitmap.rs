//! Sets of ports as the processor's task state has them: a bit for each port, 1 if it is refused.
//!
//! Only the format; which ports somebody may have is decided by the kernel's abstraction layer.

/// Allows or refuses the ports from `first` to `last` in the words of a set.
pub fn set<'a>(words: impl Iterator<Item = &'a mut u64>, first: u16, last: u16, allowed: bool) {
    let (first, last) = (usize::from(first), usize::from(last));
    for (index, word) in words.enumerate().take(last / 64 + 1).skip(first / 64) {
        let from = first.saturating_sub(index * 64);
        let to = (last - index * 64).min(63);
        let bits = u64::MAX << from & u64::MAX >> (63 - to);
        *word = if allowed { *word & !bits } else { *word | bits };
    }
}

/// The first port from `from` on that the words of a set allow.
pub fn next<'a>(words: impl Iterator<Item = &'a u64>, from: u16) -> Option<u16> {
    let from = u32::from(from);
    let blocks = (0..).step_by(64).zip(words).skip(from as usize / 64);
    let mut allowed =
        blocks.map(|(first, word)| (first, !word & u64::MAX << from.saturating_sub(first)));
    let (first, bits) = allowed.find(|(_, bits)| *bits != 0)?;
    // There are 1,024 words.
    u16::try_from(first + bits.trailing_zeros()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_what_was_set_last() {
        let mut words = std::vec![u64::MAX; 1024];
        let mut model = std::vec![false; 65536];
        let mut random = 1_u64;
        for round in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let first = (random >> 33) as u16;
            let last = first.saturating_add((random >> 50) as u16 % 300);
            set(words.iter_mut(), first, last, round % 3 > 0);
            model[usize::from(first)..=usize::from(last)].fill(round % 3 > 0);
            for from in [0, first, last, first.wrapping_sub(70), u16::MAX] {
                let expected = (usize::from(from)..65536).find(|port| model[*port]);
                assert_eq!(next(words.iter(), from).map(usize::from), expected);
            }
        }
    }
}
