//! What does not hold.
