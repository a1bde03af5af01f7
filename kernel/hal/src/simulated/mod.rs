//! The simulated machine: page tables in simulated memory, and caches of translations that keep
//! stale entries until told.
