//! What a message to sigma0 asks for, and what the answer is.

use heliox_l4::message::Words;
use heliox_l4::protocol::kernel_label;
use heliox_l4::{Flexpage, FlexpageKind, KernelLabel, ThreadId};

use crate::pool::{PAGE_BITS, Pool};

/// The label of the extended request.
const EXTENDED: u64 = (-1001_i64 << 4) as u64 & 0xffff_ffff_ffff;

/// What sigma0 does about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    None,
    /// It maps `1 << bits` bytes at `base`.
    Memory {
        /// The physical address.
        base: u64,
        /// Log2 of the size.
        bits: u32,
    },
    /// It maps ports.
    Ports {
        /// The first.
        first: u16,
        /// Log2 of their number.
        bits: u32,
    },
    /// It maps nothing, to say no.
    Refusal,
    /// It says more or less from now on.
    Verbosity(u64),
    /// It prints what it has, and then answers with nothing if asked to.
    Dump {
        /// Whether an answer is waited for.
        answer: bool,
    },
}

/// Decides about a message of `from`. `root` may also ask for ports and give extended requests.
pub fn answer(pool: &mut Pool<'_>, from: ThreadId, root: ThreadId, message: &Words) -> Answer {
    let tag = message.tag();
    let (first, second) = (message.word(1), message.word(2));
    if !matches!(tag.untyped(), 2 | 3) || tag.typed() != 0 {
        return Answer::None;
    }
    if tag.label() == EXTENDED && from == root {
        return match first {
            1 => Answer::Verbosity(second),
            2 => Answer::Dump { answer: second != 0 },
            _ => Answer::None,
        };
    }
    match kernel_label(tag.label()) {
        Some((KernelLabel::Sigma0, 0)) => request(pool, from, root, Flexpage(first), second),
        Some((KernelLabel::PageFault, _)) => {
            let base = first >> PAGE_BITS << PAGE_BITS;
            match pool.give(base, PAGE_BITS, from) {
                Ok(()) => Answer::Memory { base, bits: PAGE_BITS },
                Err(_) => Answer::None,
            }
        }
        Some((KernelLabel::PortFault, _)) if from == root => match Flexpage(first).kind() {
            FlexpageKind::Ports(ports) => Answer::Ports { first: ports.first, bits: ports.bits },
            _ => Answer::None,
        },
        _ => Answer::None,
    }
}

fn request(
    pool: &mut Pool<'_>,
    from: ThreadId,
    root: ThreadId,
    wanted: Flexpage,
    attribute: u64,
) -> Answer {
    if attribute != 0 {
        return Answer::Refusal;
    }
    let is_any = wanted.0 | 0x3ff == u64::MAX;
    match wanted.kind() {
        FlexpageKind::Memory { bits, .. } if is_any => match pool.give_any(bits, from) {
            Ok(base) => Answer::Memory { base, bits },
            Err(_) => Answer::Refusal,
        },
        FlexpageKind::Memory { base, bits } => match pool.give(base, bits, from) {
            Ok(()) => Answer::Memory { base, bits },
            Err(_) => Answer::Refusal,
        },
        FlexpageKind::Ports(ports) if from == root => {
            Answer::Ports { first: ports.first, bits: ports.bits }
        }
        _ => Answer::Refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Extent;
    use heliox_l4::abi::kip::{MemoryDescriptor, MemoryType};

    const ROOT: ThreadId = ThreadId(0x32_0000_0001);
    const OTHER: ThreadId = ThreadId(0x33_0000_0001);

    fn pool() -> Pool<'static> {
        let mut pool = Pool::new(vec![Extent::NONE; 32].leak());
        let memory = MemoryDescriptor {
            memory_type: MemoryType::Conventional,
            subtype: 0,
            is_virtual: false,
            low: 0x10_0000,
            high: 0x7f_ffff,
        };
        pool.describe(memory).unwrap();
        pool
    }

    /// A message as raw words: the tag, then the others.
    fn message(words: &[u64]) -> Words {
        let mut all = [0; 64];
        all[..words.len()].copy_from_slice(words);
        Words::new(all)
    }

    fn ask(pool: &mut Pool<'_>, from: ThreadId, words: &[u64]) -> Answer {
        answer(pool, from, ROOT, &message(words))
    }

    const REQUEST: u64 = 0xffff_ffff_ffa0_0002;

    #[test]
    fn requests_by_address_and_for_any() {
        let mut pool = pool();
        let asked = ask(&mut pool, ROOT, &[REQUEST, 0x20_00c0, 0]);
        assert_eq!(asked, Answer::Memory { base: 0x20_0000, bits: 12 });
        let asked = ask(&mut pool, ROOT, &[REQUEST, 0xffff_ffff_ffff_fd50, 0]);
        assert_eq!(asked, Answer::Memory { base: 0x40_0000, bits: 21 });
        assert_eq!(ask(&mut pool, OTHER, &[REQUEST, 0x20_00c0, 0]), Answer::Refusal);
        assert_eq!(ask(&mut pool, OTHER, &[REQUEST, 0x30_00c0, 1]), Answer::Refusal);
        assert_eq!(ask(&mut pool, OTHER, &[REQUEST, 0x30_0000, 0]), Answer::Refusal);
        assert_eq!(ask(&mut pool, OTHER, &[REQUEST, 0x10, 0]), Answer::Refusal);
        let with_three_words = ask(&mut pool, OTHER, &[REQUEST + 1, 0x30_00c0, 0, 7]);
        assert_eq!(with_three_words, Answer::Memory { base: 0x30_0000, bits: 12 });
    }

    #[test]
    fn messages_of_another_shape_are_not_answered() {
        let mut pool = pool();
        for tag in [
            0xffff_ffff_ffa0_0001,
            0xffff_ffff_ffa0_0004,
            0xffff_ffff_ffa0_0082,
            0xffff_ffff_ffa1_0002,
            0x1234_0002,
            0,
        ] {
            assert_eq!(ask(&mut pool, ROOT, &[tag, 0x20_00c0, 0]), Answer::None, "{tag:#x}");
        }
    }

    #[test]
    fn page_faults_give_their_page() {
        let mut pool = pool();
        let fault = 0xffff_ffff_ffe2_0002;
        let answered = ask(&mut pool, ROOT, &[fault, 0x20_1234, 0x1000]);
        assert_eq!(answered, Answer::Memory { base: 0x20_1000, bits: 12 });
        assert_eq!(ask(&mut pool, OTHER, &[fault, 0x20_1234, 0x1000]), Answer::None);
        assert_eq!(ask(&mut pool, OTHER, &[fault, 0x90_0000, 0x1000]), Answer::None);
    }

    #[test]
    fn ports_and_extended_requests_are_roots() {
        let mut pool = pool();
        let com1 = 0x3f8 << 16 | 3 << 10 | 2 << 4 | 6;
        let ports = Answer::Ports { first: 0x3f8, bits: 3 };
        assert_eq!(ask(&mut pool, ROOT, &[REQUEST, com1, 0]), ports);
        assert_eq!(ask(&mut pool, OTHER, &[REQUEST, com1, 0]), Answer::Refusal);
        let fault = 0xffff_ffff_ff86_0002;
        assert_eq!(ask(&mut pool, ROOT, &[fault, com1, 0]), ports);
        assert_eq!(ask(&mut pool, OTHER, &[fault, com1, 0]), Answer::None);
        let extended = 0xffff_ffff_c170_0002;
        assert_eq!(ask(&mut pool, ROOT, &[extended, 1, 5]), Answer::Verbosity(5));
        assert_eq!(ask(&mut pool, ROOT, &[extended, 2, 1]), Answer::Dump { answer: true });
        assert_eq!(ask(&mut pool, ROOT, &[extended, 2, 0]), Answer::Dump { answer: false });
        assert_eq!(ask(&mut pool, OTHER, &[extended, 1, 5]), Answer::None);
    }
}
