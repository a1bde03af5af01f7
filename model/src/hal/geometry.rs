//! The shapes of page tables on which the checks are run.

use heliox_types::geometry::Geometry;

use crate::machine::{BadSizes, Machine};

/// `N` levels of `1 << BITS` entries, `USER` of the root's for programs; entries up to level `LEAF`
/// map memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape<const LEVELS: u32, const BITS: u32, const LEAF: u32, const USER: usize>;

impl<const LEVELS: u32, const BITS: u32, const LEAF: u32, const USER: usize> Geometry
    for Shape<LEVELS, BITS, LEAF, USER>
{
    const LEVELS: u32 = LEVELS;
    const INDEX_BITS: u32 = BITS;
    const LEAF_LEVELS: u32 = LEAF;
    const USER_ENTRIES: usize = USER;
    const USER_END: u64 = ((USER as u64) << (12 + BITS * (LEVELS - 1))) - 4096;
}

/// Something that is done on a machine of any shape.
pub trait WithGeometry {
    /// What comes of it.
    type Result;

    /// Does it.
    fn run<G: Geometry + Send + Sync>(self) -> Self::Result;
}

/// Does something in the shape of `machine`.
///
/// # Errors
///
/// [`BadSizes`] if there is no such shape.
pub fn with_geometry<W: WithGeometry>(machine: &Machine, with: W) -> Result<W::Result, BadSizes> {
    macro_rules! shapes {
        ($($levels:literal $bits:literal $leaf:literal $user:literal,)*) => {{
            let sizes = machine.sizes();
            match (u32::from(sizes.levels), sizes.entries, sizes.user_entries) {
                $(($levels, entries, $user) if entries == 1 << $bits => {
                    Ok(with.run::<Shape<$levels, $bits, $leaf, $user>>())
                })*
                _ => Err(BadSizes(
                    "the HAL is checked in these shapes: 2 levels of 4 entries, 1 or 2 of them for \
                     programs; 3 or 4 levels of 4 entries, 2 of them for programs; 4 levels of 512 \
                     entries, 256 of them for programs",
                )),
            }
        }};
    }
    // Without superpages the machine supports none, whatever the shape allows.
    shapes! {
        2 2 2 1,
        2 2 2 2,
        3 2 2 2,
        4 2 3 2,
        4 9 3 256,
    }
}
