//! Small shapes of page tables, for machines whose states can all be visited.

use heliox_types::geometry::Geometry;

/// Declares a geometry whose user half are whole entries of the root, without the last page
/// (as on the real machine, where the last page of the lower half is never mapped).
macro_rules! geometry {
    ($(#[$doc:meta])* $name:ident: $levels:literal levels, $bits:literal index bits,
     leaves up to $leaf:literal, $user:literal user entries) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name;

        impl Geometry for $name {
            const LEVELS: u32 = $levels;
            const INDEX_BITS: u32 = $bits;
            const LEAF_LEVELS: u32 = $leaf;
            const USER_ENTRIES: usize = $user;
            const USER_END: u64 = ($user << (12 + $bits * ($levels - 1))) - 4096;
        }

        const _: () = $name::VALID;
    };
}

geometry! {
    /// Two levels of four entries, no large pages, one entry of the root for programs: 3 pages
    /// for a program, a window with room for 12 frames.
    NarrowTwoByFour: 2 levels, 2 index bits, leaves up to 1, 1 user entries
}

geometry! {
    /// Two levels of four entries, pages of 4 KiB and 16 KiB, two entries of the root for
    /// programs: 7 pages for a program, a window with room for 8 frames.
    TwoByFour: 2 levels, 2 index bits, leaves up to 2, 2 user entries
}

geometry! {
    /// Three levels of four entries, pages of 4 KiB and 16 KiB: 31 pages for a program, a window
    /// with room for 32 frames.
    ThreeByFour: 3 levels, 2 index bits, leaves up to 2, 2 user entries
}

geometry! {
    /// Four levels of four entries, pages of 4 KiB, 16 KiB and 64 KiB: 127 pages for a program,
    /// a window with room for 128 frames.
    FourByFour: 4 levels, 2 index bits, leaves up to 3, 2 user entries
}
