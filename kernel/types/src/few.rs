//! A few things, in no memory but their own.

/// The most that a [`Few`] holds: a page needs at most one table of each level below the root.
pub const SUPPLY_LIMIT: usize = crate::geometry::MAX_LEVELS - 1;

/// At most [`SUPPLY_LIMIT`] things: what an operation on page tables may need.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is in it is lost unless it is taken out"]
pub struct Few<T>([Option<T>; SUPPLY_LIMIT]);

impl<T> Few<T> {
    /// Nothing.
    pub const EMPTY: Self = Self([const { None }; SUPPLY_LIMIT]);

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// All of them, in the order in which they are taken out.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// The thing, if [`SUPPLY_LIMIT`] are there already.
    pub fn add(&mut self, thing: T) -> Result<(), T> {
        match self.0.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(thing),
            None => return Err(thing),
        }
        Ok(())
    }

    /// Takes one out, if there is one.
    pub fn take(&mut self) -> Option<T> {
        self.0.iter_mut().find_map(Option::take)
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_taken_out_once() {
        let mut few = Few::EMPTY;
        for thing in 0..SUPPLY_LIMIT {
            assert_eq!((few.count(), few.add(thing)), (thing, Ok(())));
        }
        assert_eq!(few.add(7), Err(7));
        assert_eq!(few.take(), Some(0));
        assert_eq!(few.add(8), Ok(()));
        assert_eq!(
            [few.take(), few.take(), few.take(), few.take()],
            [Some(8), Some(1), Some(2), None]
        );
        assert_eq!(Few::<u64>::default().take(), None);
    }
}
