//! Domains, as far as the page allocator knows them: an owner's name and its accounts.

/// The accounts of a domain. There is one for each domain, kept by whoever manages domains and
/// lent to the operations that change it.
#[derive(Debug)]
pub struct Domain<O> {
    id: O,
    max_pages: u64,
    pub(crate) dying: bool,
    pub(crate) total_pages: u64,
    pub(crate) claimed: u64,
}

impl<O: Copy> Domain<O> {
    /// A new domain `id` that may have at most `max_pages` pages and has none.
    #[must_use]
    pub const fn new(id: O, max_pages: u64) -> Self {
        Self { id, max_pages, dying: false, total_pages: 0, claimed: 0 }
    }

    /// The owner that its pages are recorded with.
    #[must_use]
    pub const fn id(&self) -> O {
        self.id
    }

    /// Whether it is dying.
    #[must_use]
    pub const fn is_dying(&self) -> bool {
        self.dying
    }

    /// Its quota in pages.
    #[must_use]
    pub const fn max_pages(&self) -> u64 {
        self.max_pages
    }

    /// Change its quota. A quota below what it has takes nothing away.
    pub const fn set_max_pages(&mut self, pages: u64) {
        self.max_pages = pages;
    }

    /// Pages assigned to it that count towards its quota.
    #[must_use]
    pub const fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Pages claimed for it and not yet allocated.
    #[must_use]
    pub const fn claimed(&self) -> u64 {
        self.claimed
    }
}
