//! Large values that a program has one of: they lie in its file's memory, not on a stack.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A value that can be taken once.
#[derive(Debug)]
pub struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: whoever takes the value, which only one can, is the only one to reach it.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// A value that nobody has.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, for the first that asks.
    #[expect(clippy::mut_from_ref, reason = "there is one reference: the first caller's")]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: nobody else comes here.
        Some(unsafe { &mut *self.value.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gets_it() {
        static VALUE: Once<[u8; 4]> = Once::new([1; 4]);
        let value = VALUE.take().unwrap();
        value[0] = 2;
        assert_eq!(*value, [2, 1, 1, 1]);
        assert!(VALUE.take().is_none());
    }
}
