//! Balancing the domains that there are.
//!
//! Hides how what [`crate::balance`] orders becomes limits of domains: the hypervisor's target of
//! each follows what the balancer lets it own, as far as what the domain is owed allows; what the
//! guest is told is the caller's to pass on.

use crate::access::Subject;
use crate::backing::{Backing, KernelMemory};
use crate::balance::{self, Member, Milliseconds, Order, Phase};
use crate::domains::Domains;
use crate::error::Error;
use crate::units::{KiB, Pages};

impl<B: Backing, M: KernelMemory> Domains<B, M> {
    /// One round of balancing `host` memory between `domains`, of each of which `members` has the
    /// record: looks at what they have, and changes their targets. `tell` hears what guests are to
    /// be told, with the domain's number. A domain that set memory aside for promises takes up to
    /// `budget` blocks more in this round.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`] for a dying one; then nothing was ordered yet.
    /// That a target can only follow when a guest has moved, or that memory for promises is not
    /// there yet, is no error: the next round tries again.
    pub fn balance(
        &mut self,
        host: KiB,
        domains: &[u16],
        members: &mut [Member],
        now: Milliseconds,
        budget: u64,
        mut tell: impl FnMut(u16, Order),
    ) -> Result<Phase, Error> {
        for (domain, member) in domains.iter().zip(members.iter_mut()) {
            let summary = self.summary(*domain)?;
            let memory = Pages::new(summary.total() - summary.table).unwrap_or(Pages::MAX);
            // Whether it may be done, before anything is.
            self.check_target(*domain)?;
            member.observe(memory.into(), now);
        }
        let phase = balance::step(host, members, now, |place, order| {
            if let Some(domain) = domains.get(place) {
                tell(*domain, order);
            }
        });
        for (domain, member) in domains.iter().zip(members.iter()) {
            let pages = Pages::from_free(member.limit()).count();
            match self.set_target(Subject::Hypervisor, *domain, pages, budget) {
                Ok(_) | Err(Error::TargetBelowOwed { .. } | Error::OutOfMemory { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(phase)
    }
}
