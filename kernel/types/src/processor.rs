//! What a processor says that it has.

/// The answer to one CPUID question: EAX, EBX, ECX, EDX.
pub type Cpuid = [u32; 4];

/// The features that the kernel uses where there are any (AMD64 manual volume 3, appendix E).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorFeatures {
    /// Page-table entries can forbid fetching instructions (NX).
    pub no_execute: bool,
    /// Translations can survive the load of another root.
    pub global_pages: bool,
    /// The kernel can be kept from executing programs' memory (SMEP).
    pub execution_prevention: bool,
    /// The kernel can be kept from reading and writing programs' memory (SMAP).
    pub access_prevention: bool,
    /// Programs can be kept from asking for the kernel's tables (UMIP).
    pub instruction_prevention: bool,
    /// Programs can set the bases of FS and GS by themselves.
    pub fs_gs_base: bool,
    /// Extended state is saved by XSAVE.
    pub xsave: bool,
    /// Level-3 entries can map 1 GiB.
    pub gigabyte_pages: bool,
    /// There is a local APIC.
    pub local_apic: bool,
    /// Bits of a physical address.
    pub physical_bits: u32,
}

impl ProcessorFeatures {
    /// What CPUID's leaves 1, 7, 0x80000001 and 0x80000008 say. A leaf that the processor does not
    /// have is all zeros.
    #[must_use]
    pub const fn new(basic: Cpuid, structured: Cpuid, extended: Cpuid, sizes: Cpuid) -> Self {
        const fn has(register: u32, bit: u32) -> bool {
            register >> bit & 1 != 0
        }
        let [_, _, basic_ecx, basic_edx] = basic;
        let [_, structured_ebx, structured_ecx, _] = structured;
        let [_, _, _, extended_edx] = extended;
        let [sizes_eax, ..] = sizes;
        let physical_bits = match sizes_eax & 0xff {
            0 => 36,
            bits => bits,
        };
        Self {
            no_execute: has(extended_edx, 20),
            global_pages: has(basic_edx, 13),
            execution_prevention: has(structured_ebx, 7),
            access_prevention: has(structured_ebx, 20),
            instruction_prevention: has(structured_ecx, 2),
            fs_gs_base: has(structured_ebx, 0),
            xsave: has(basic_ecx, 26),
            gigabyte_pages: has(extended_edx, 26),
            local_apic: has(basic_edx, 9),
            physical_bits,
        }
    }

    /// The bits of CR4 that switch on what the processor has, among them what every 64-bit processor
    /// has: debug extensions, FXSAVE, SIMD exceptions (AMD64 manual volume 2, section 3.1.3).
    #[must_use]
    pub const fn control_bits(&self) -> u64 {
        1 << 3
            | 1 << 9
            | 1 << 10
            | (self.global_pages as u64) << 7
            | (self.instruction_prevention as u64) << 11
            | (self.fs_gs_base as u64) << 16
            | (self.xsave as u64) << 18
            | (self.execution_prevention as u64) << 20
            | (self.access_prevention as u64) << 21
    }

    /// The protections that a processor may have, by the names that manuals use, and whether this
    /// one has them.
    #[must_use]
    pub const fn protections(&self) -> [(&'static str, bool); 5] {
        [
            ("NX", self.no_execute),
            ("SMEP", self.execution_prevention),
            ("SMAP", self.access_prevention),
            ("UMIP", self.instruction_prevention),
            ("global pages", self.global_pages),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_leaves_has_nothing() {
        let none = ProcessorFeatures::new([0; 4], [0; 4], [0; 4], [0; 4]);
        assert_eq!(none, ProcessorFeatures { physical_bits: 36, ..Default::default() });
        assert!(none.protections().iter().all(|(_, has)| !has));
    }

    #[test]
    fn each_feature_is_read_from_its_bit() {
        let features = ProcessorFeatures::new(
            [0, 0, 1 << 26, 1 << 13],
            [0, 1 << 7, 1 << 2, 0],
            [0, 0, 0, 1 << 20],
            [0x3028, 0, 0, 0],
        );
        let expected = ProcessorFeatures {
            no_execute: true,
            global_pages: true,
            execution_prevention: true,
            instruction_prevention: true,
            xsave: true,
            physical_bits: 40,
            ..Default::default()
        };
        assert_eq!(features, expected);
        assert_eq!(features.control_bits(), 0x688 | 1 << 11 | 1 << 18 | 1 << 20);
    }
}
