//! Grants: how a domain lets another use a page of its own.
//!
//! A domain writes entries into its grant table, which it shares with the hypervisor; another
//! domain names one of them to map the page into its own space or to copy from or to it. Table
//! formats and operations are Xen's (`public/grant_table.h`), without transfer and without
//! transitive grants.
//!
//! What holds whatever both domains do, and whenever either dies:
//!
//! - an entry is read once for each use; the value that was checked is the value that is pinned
//!   (`entry`);
//! - a pinned page neither changes its owner nor leaves its place: its share lives as long as a
//!   use, and the entry says *reading* or *writing* as long, so that its domain sees whether
//!   revoking it had an effect (`table`);
//! - each mapping has a handle, which is used up when it ends (`handles`);
//! - a use ends only after no processor can reach the page by it;
//! - no counter wraps: a use too many is refused.

pub(crate) mod entry;
pub(crate) mod handles;
pub(crate) mod table;

pub use entry::Version;
