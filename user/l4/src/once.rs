//! Large values that a program has one of: they lie in its file's memory, not on a stack.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

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

/// A value that is set once, early, and then read by all threads.
#[derive(Debug)]
pub struct SetOnce<T> {
    /// 0: not set, 1: being set, 2: set.
    state: AtomicU8,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is written by one thread only, before `state` says that it is there, and only
// read afterwards.
unsafe impl<T: Send + Sync> Sync for SetOnce<T> {}

impl<T> Default for SetOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SetOnce<T> {
    /// No value yet.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(0), value: UnsafeCell::new(None) }
    }

    /// Sets the value; whether it was the first to do so.
    pub fn set(&self, value: T) -> bool {
        if self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        // SAFETY: only the first comes here, and nobody reads yet.
        unsafe { *self.value.get() = Some(value) };
        self.state.store(2, Ordering::Release);
        true
    }

    /// The value, if it is set.
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != 2 {
            return None;
        }
        // SAFETY: it is not written any more.
        unsafe { (*self.value.get()).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sets_it() {
        let value = SetOnce::new();
        assert_eq!(value.get(), None);
        assert!(value.set(1) && !value.set(2));
        assert_eq!(value.get(), Some(&1));
    }

    #[test]
    fn the_first_gets_it() {
        static VALUE: Once<[u8; 4]> = Once::new([1; 4]);
        let value = VALUE.take().unwrap();
        value[0] = 2;
        assert_eq!(*value, [2, 1, 1, 1]);
        assert!(VALUE.take().is_none());
    }
}
