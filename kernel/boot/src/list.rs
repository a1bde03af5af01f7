//! A list of bounded length in an array, for crates without allocation.

/// At most `N` values in the order in which they were pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List<T, const N: usize> {
    items: [T; N],
    count: usize,
}

impl<T: Copy, const N: usize> List<T, N> {
    /// The empty list. `filler` is any value; it is never seen.
    pub(crate) const fn empty(filler: T) -> Self {
        Self { items: [filler; N], count: 0 }
    }

    /// Adds `item`; false if there is no room.
    #[must_use]
    pub(crate) fn push(&mut self, item: T) -> bool {
        match self.items.get_mut(self.count) {
            Some(slot) => {
                *slot = item;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// The values.
    pub(crate) fn as_slice(&self) -> &[T] {
        self.items.get(..self.count).unwrap_or(&[])
    }

    /// Removes all values.
    pub(crate) const fn clear(&mut self) {
        self.count = 0;
    }
}
