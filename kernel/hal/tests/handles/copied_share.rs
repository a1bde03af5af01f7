//! A share is ended twice.

use heliox_hal::memory::Ownership;
use heliox_hal::share::Share;

fn client(memory: &mut impl Ownership, share: Share) {
    memory.end_share(share);
    memory.end_share(share);
}

fn main() {}
