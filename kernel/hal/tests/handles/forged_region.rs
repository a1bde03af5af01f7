//! A region is made from a number.

use heliox_types::Frame;
use heliox_hal::region::{PhysicalRegion, RegionKind};

fn main() {
    let _forged = PhysicalRegion {
        first: Frame::ZERO,
        bits: 12,
        kind: RegionKind::Ram,
    };
}
