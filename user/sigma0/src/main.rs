//! Sigma0: the first address space. It has all memory that is not the kernel's, each page at its
//! physical address, and gives it to who asks first (`docs/l4-rules.md`, SIGMA0).

#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod program {
    use heliox_l4::message::{Mapping, Message, Received};
    use heliox_l4::once::Once;
    use heliox_l4::{ThreadId, memory, println, raw, reply_wait, wait};
    use heliox_sigma0::pool::{Extent, PAGE_BITS, Pool};
    use heliox_sigma0::server::{self, Answer};

    heliox_l4::program!(main);

    /// Extents that can be noted.
    const EXTENTS: usize = 4096;

    static ROOM: Once<[Extent; EXTENTS]> = Once::new([Extent::NONE; EXTENTS]);

    struct Sigma0 {
        pool: Pool<'static>,
        root: ThreadId,
        /// Above 0, requests that are refused are printed; above 1, all are.
        verbosity: u64,
    }

    fn main() -> u8 {
        let page = raw::page();
        let Some(room) = ROOM.take() else { return 1 };
        let mut sigma0 = Sigma0 { pool: Pool::new(room), root: page.root_id(), verbosity: 0 };
        for descriptor in page.memory_descriptors() {
            if let Err(refused) = sigma0.pool.describe(descriptor) {
                println!("sigma0: no room for {descriptor:?}: {refused:?}");
            }
        }
        let own = page.sigma0();
        if let Err(refused) = sigma0.pool.keep(own.low, own.end) {
            println!("sigma0: no room for sigma0 itself: {refused:?}");
            return 1;
        }
        let mut received = wait();
        loop {
            received = match received {
                Ok(message) => match sigma0.serve(&message) {
                    Some(answer) => reply_wait(message.from, &answer),
                    None => wait(),
                },
                Err(_) => wait(),
            };
        }
    }

    impl Sigma0 {
        fn serve(&mut self, message: &Received) -> Option<Message<'static>> {
            let answer = server::answer(&mut self.pool, message.from, self.root, message);
            let is_refused = matches!(answer, Answer::None | Answer::Refusal);
            if self.verbosity > 1 || self.verbosity > 0 && is_refused {
                let Received { from, words } = message;
                println!("sigma0: {from:?} {:x?}: {answer:x?}", words.untyped());
            }
            let mapping = match answer {
                Answer::None => return None,
                Answer::Memory { base, bits } => {
                    // Sigma0's own file is kept, so the mapping is of other memory.
                    memory::outside(base, bits).unwrap_or(Mapping::NOTHING)
                }
                Answer::Ports { first, bits } => Mapping::ports(first, bits),
                Answer::Refusal => Mapping::NOTHING,
                Answer::Verbosity(level) => {
                    self.verbosity = level;
                    return None;
                }
                Answer::Dump { answer } => {
                    self.dump();
                    return answer.then(|| Message::new(0));
                }
            };
            let mut message = Message::new(0);
            // An empty message has room for an item.
            message.push_mapping(mapping).ok()?;
            Some(message)
        }

        fn dump(&self) {
            for Extent { first, last, kind, owner } in self.pool.extents() {
                let (low, end) = (first << PAGE_BITS, u128::from(last + 1) << PAGE_BITS);
                println!("sigma0: {low:#014x} to {end:#014x} {kind:?} {owner:?}");
            }
        }
    }
}
