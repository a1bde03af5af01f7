//! What others measured: rows to compare with.
//!
//! Facts, each with where it comes from. Cycles of a processor and instructions of an emulator are
//! different units, and are never compared with each other here without saying so.

/// A published measurement of one-way IPC between address spaces, 0, 4, 8 ... 60 words.
#[derive(Clone, Copy, Debug)]
pub struct Curve {
    /// What was measured, shortly.
    pub name: &'static str,
    /// Which table it is.
    pub source: &'static str,
    /// Processor cycles, as many as [`WORDS`].
    pub cycles: [u32; 16],
}

/// The numbers of words of all curves.
pub const WORDS: [u32; 16] = [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60];

/// Ping-pong on a 1.66 GHz Atom N455: Leslie, *A Functional Approach to Memory-Safe Operating
/// Systems*, chapter 8.
pub const THESIS: [Curve; 5] = [
    Curve {
        name: "Pistachio (C++)",
        source: "table 8.1",
        cycles: [
            1270, 1332, 1337, 1348, 1354, 1365, 1371, 1379, 1389, 1395, 1405, 1410, 1422, 1427,
            1435, 1446,
        ],
    },
    Curve {
        name: "Haskell on H, first",
        source: "table 8.2",
        cycles: [
            85_223, 119_324, 149_068, 178_781, 208_498, 237_995, 267_410, 296_954, 326_074,
            355_614, 385_259, 414_741, 444_155, 473_276, 502_743, 532_215,
        ],
    },
    Curve {
        name: "inlined copying",
        source: "table 8.5",
        cycles: [
            86_336, 92_505, 95_295, 98_775, 101_386, 104_362, 107_497, 110_250, 113_421, 116_303,
            119_165, 122_169, 125_564, 127_909, 130_726, 134_316,
        ],
    },
    Curve {
        name: "bulk copying",
        source: "table 8.6",
        cycles: [
            90_776, 91_408, 91_510, 91_470, 92_193, 92_348, 92_659, 92_922, 93_236, 93_556, 93_651,
            94_024, 94_353, 94_572, 94_805, 94_768,
        ],
    },
    Curve {
        name: "compiler annotations",
        source: "table 8.7",
        cycles: [
            77_233, 77_875, 78_356, 78_691, 79_485, 79_993, 80_342, 80_386, 81_160, 81_852, 82_386,
            82_795, 83_372, 83_827, 84_428, 84_766,
        ],
    },
];

/// Cycles of one crossing from a program into the Haskell kernel or back (thesis, section 8.2.2):
/// without and with allocating a description of the interrupt.
pub const CONTEXT_SWITCH: [(&str, u32); 2] =
    [("executeWithoutAllocation", 3289), ("execute", 3517)];

/// The columns of [`FIRST_PHASES`] and [`LAST_PHASES`].
pub const PHASE_COLUMNS: [&str; 8] = [
    "context switch",
    "scheduling",
    "rendezvous",
    "message transfer",
    "untyped transfer",
    "restart",
    "receive",
    "garbage collection",
];

/// Cycles by phase of the thesis's first implementation (table 8.3), for 0, 32 and 60 words.
pub const FIRST_PHASES: [(u32, [u32; 8]); 3] = [
    (0, [6789, 26_194, 7903, 14_710, 3530, 16_395, 24_085, 1471]),
    (32, [10_668, 23_505, 8037, 15_122, 243_620, 17_290, 24_555, 6102]),
    (60, [16_771, 18_007, 7991, 15_289, 450_265, 17_312, 24_742, 10_079]),
];

/// Cycles by phase of the thesis's last implementation (table 8.8), for 0, 32 and 60 words.
pub const LAST_PHASES: [(u32, [u32; 8]); 3] = [
    (0, [3102, 22_742, 6140, 17_549, 474, 18_412, 16_688, 920]),
    (32, [2657, 22_953, 6064, 21_681, 486, 18_529, 16_617, 974]),
    (60, [3247, 22_867, 6096, 25_214, 483, 18_668, 16_601, 1006]),
];

/// What an operation costs elsewhere, and may cost here, in instructions of the kernel counted by
/// QEMU 7.2. Others' figures are of our own builds of their kernels with their best settings, but for L4Re's,
/// which are published.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is.
    pub title: &'static str,
    /// The rows that are added up.
    pub rows: &'static [RowName],
    /// L4Ka::Pistachio for amd64: through C, and through its assembly path.
    pub pistachio: &'static str,
    /// seL4 for x86-64, fast path where there is one.
    pub sel4: &'static str,
    /// L4Re.
    pub l4re: &'static str,
    /// The most that it may cost here.
    pub most: u64,
}

/// What names a row: operation, words, whether in the same space, and whether the receive is open.
pub type RowName = (&'static str, Option<u32>, Option<bool>, Option<bool>);

const CALL: &str = "call";
const REPLY: &str = "reply-and-wait";
const OTHER_SPACE: Option<bool> = Some(false);
const OPEN: Option<bool> = Some(true);
const CLOSED: Option<bool> = Some(false);

/// Targets of IPC.
pub const IPC_TARGETS: &[Target] = &[
    Target {
        title: "call, 0 words, other space",
        rows: &[(CALL, Some(0), OTHER_SPACE, CLOSED)],
        pistachio: "218 / 73",
        sel4: "184 to 205",
        l4re: "587",
        most: 72,
    },
    Target {
        title: "call, 7 words, other space, open receive",
        rows: &[(CALL, Some(7), OTHER_SPACE, OPEN)],
        pistachio: "218",
        sel4: "184 to 205",
        l4re: "587",
        most: 72,
    },
    Target {
        title: "reply-and-wait, open receive, 7 words",
        rows: &[(REPLY, Some(7), OTHER_SPACE, OPEN)],
        pistachio: "218",
        sel4: "211",
        l4re: "",
        most: 72,
    },
    Target {
        title: "the same, 32 words",
        rows: &[(REPLY, Some(32), OTHER_SPACE, OPEN)],
        pistachio: "about 257 / 109",
        sel4: "912 (slow path)",
        l4re: "",
        most: 112,
    },
    Target {
        title: "the same, 60 words",
        rows: &[(REPLY, Some(60), OTHER_SPACE, OPEN)],
        pistachio: "about 285 / 137",
        sel4: "about 1,060",
        l4re: "",
        most: 140,
    },
];

/// Names of the rows of operations, as programs report them.
pub mod operation {
    #![expect(missing_docs, reason = "the names say it")]

    pub const NULL_SYSTEM_CALL: &str = "null-system-call";
    pub const SYSTEM_CLOCK: &str = "system-clock";
    pub const THREAD_SWITCH: &str = "thread-switch";
    pub const EXCHANGE_REGISTERS: &str = "exchange-registers";
    pub const SCHEDULE: &str = "schedule";
    pub const FAILED_RECEIVE: &str = "failed-receive";
    pub const MAP: &str = "map";
    pub const UNMAP: &str = "unmap";
    pub const GRANT: &str = "grant";
    pub const PAGE_FAULT: &str = "page-fault";
    pub const EXCEPTION: &str = "exception";
    pub const INTERRUPT: &str = "interrupt";
    pub const CREATE_AND_DELETE: &str = "create-and-delete";
    pub const STRING: &str = "string-4k";
}

const fn row(operation: &'static str) -> RowName {
    (operation, None, None, None)
}

/// Targets of other operations.
pub const KERNEL_TARGETS: &[Target] = &[
    Target {
        title: "null system call",
        rows: &[row(operation::NULL_SYSTEM_CALL)],
        pistachio: "57",
        sel4: "89",
        l4re: "74",
        most: 40,
    },
    Target {
        title: "failed receive, zero timeout",
        rows: &[row(operation::FAILED_RECEIVE)],
        pistachio: "140",
        sel4: "",
        l4re: "",
        most: 100,
    },
    Target {
        title: "map one page + unmap it",
        rows: &[row(operation::MAP), row(operation::UNMAP)],
        pistachio: "749 for the flush alone",
        sel4: "720 + 570",
        l4re: "",
        most: 600,
    },
    Target {
        title: "page-fault round trip with mapping",
        rows: &[row(operation::PAGE_FAULT)],
        pistachio: "1,715",
        sel4: "1,303 without mapping",
        l4re: "",
        most: 800,
    },
    Target {
        title: "interrupt to user handler, other space",
        rows: &[row(operation::INTERRUPT)],
        pistachio: "",
        sel4: "356",
        l4re: "",
        most: 250,
    },
    Target {
        title: "create + delete thread and space",
        rows: &[row(operation::CREATE_AND_DELETE)],
        pistachio: "17,548",
        sel4: "",
        l4re: "",
        most: 8000,
    },
    Target {
        title: "exception round trip",
        rows: &[row(operation::EXCEPTION)],
        pistachio: "broken",
        sel4: "1,303",
        l4re: "",
        most: 600,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise() {
        for curve in THESIS {
            let first = curve.cycles[0];
            let last = curve.cycles[15];
            assert!(last > first, "{}", curve.source);
            // A digit too many or too few would break the neighbourhood.
            for pair in curve.cycles.windows(2) {
                assert!(pair[1] * 10 > pair[0] * 9 && pair[1] < pair[0] * 3 / 2, "{pair:?}");
            }
        }
        assert_eq!(WORDS.len(), THESIS[0].cycles.len());
        assert!((0..16).all(|index| WORDS[index] == 4 * u32::try_from(index).unwrap()));
    }

    #[test]
    fn phases_add_up_to_the_totals_of_the_thesis() {
        // Table 8.3: the totals are the sums, to a rounding error in each column.
        for ((words, parts), total) in FIRST_PHASES.iter().zip([101_077, 348_899, 560_456]) {
            let sum: u32 = parts.iter().sum();
            assert!(sum.abs_diff(total) <= 4, "{words}: {sum}");
        }
        for ((words, parts), total) in LAST_PHASES.iter().zip([86_027, 89_961, 94_182]) {
            let sum: u32 = parts.iter().sum();
            assert!(sum.abs_diff(total) <= 4, "{words}: {sum}");
        }
    }
}
