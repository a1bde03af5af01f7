//! What a page of memory is at a moment.

/// What a page, or a larger unit of memory, is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// There is no memory.
    NotInstalled = 0,
    /// Needed for the kernel to run: its code, data and heap. Fixed at boot.
    Environment = 1,
    /// Without special meaning: memory of programs or of the kernel's clients. Of a larger unit:
    /// all of its pages.
    Normal = 2,
    /// Supplied for page maps and in none, and clear.
    PageMapPage = 3,
    /// A page table below a root.
    PageTable = 4,
    /// The root of a page map.
    PageMapRoot = 5,
    /// Was a page table; a processor may still walk through it.
    Draining = 6,
    /// A device's memory.
    Io = 7,
    /// Of a larger unit only: some of its pages are not normal.
    Mixed = 8,
}

impl Status {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::NotInstalled,
        Self::Environment,
        Self::Normal,
        Self::PageMapPage,
        Self::PageTable,
        Self::PageMapRoot,
        Self::Draining,
        Self::Io,
        Self::Mixed,
    ];

    /// The status with this number; [`Status::NotInstalled`] if none has it.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::NotInstalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_statuses() {
        for status in Status::ALL {
            assert_eq!(Status::from_number(status as u8), status);
        }
        assert_eq!(Status::from_number(9), Status::NotInstalled);
    }
}
