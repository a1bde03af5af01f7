//! Who may interfere with whom (thesis 5.5, extended).
//!
//! Between E, H, K and the programs of domain 0 the policy is Figure 5.2. Devices interfere with
//! those who can reach them, and are interfered with by them. Between owners, and between the
//! client kernel and owners other than domain 0, nothing is allowed *but by what the owner
//! shared*: whether an action may interfere then depends on the page that it touches.

use crate::action::{Action, Domain, Through};
use crate::machine::{Cpu, Frame, Machine, VirtualPage};
use crate::state::{Entry, Mapping, Owner, Region, State};

/// Whether `from ⇝ to` for every page (Figure 5.2, with devices).
#[must_use]
pub fn interferes(from: Domain, to: Domain) -> bool {
    use Domain::{D, E, H, K, U};
    match (from, to) {
        (E | H, H) | (E, E | K) | (H, K | U(_)) => true,
        (K | U(0), K | U(0)) => true,
        (D, D | K | U(0)) | (K | U(0), D) => true,
        (U(one), U(other)) => one == other,
        _ => false,
    }
}

/// Whether `action`, carried out in `state`, may interfere with `domain`.
#[must_use]
pub fn may_interfere(machine: &Machine, state: &State, action: &Action, domain: Domain) -> bool {
    let acting = action.dom();
    if interferes(acting, domain) {
        return true;
    }
    // Memory that both may have by the will of its owner.
    let can_share = |domain| matches!(domain, Domain::K | Domain::U(_) | Domain::D);
    can_share(acting)
        && can_share(domain)
        && target(machine, state, action).is_some_and(|frame| {
            is_consented(machine, state, frame, acting)
                && is_consented(machine, state, frame, domain)
        })
}

/// The page that an action of programs, the client kernel or a device writes to, if it can.
fn target(machine: &Machine, state: &State, action: &Action) -> Option<Frame> {
    let translate = |cpu: Cpu, page: VirtualPage| {
        state.translate(machine, state.cr3(cpu), page).map(|mapping| mapping.frame)
    };
    match action {
        Action::WriteK { cpu, page, .. } => translate(*cpu, *page),
        Action::WriteU { through: Through::Cache(frame), .. } => Some(*frame),
        Action::WriteU { cpu, page, .. } => translate(*cpu, *page),
        Action::WriteD { frame, .. } => Some(*frame),
        _ => None,
    }
}

/// Whether the owner of `frame` consents that `domain` has it: it is the owner; or it was given a
/// share, or a mapping by one, that still exists; or the memory was made visible to all
/// programs.
#[must_use]
pub fn is_consented(machine: &Machine, state: &State, frame: Frame, domain: Domain) -> bool {
    let owner = state.owner(frame);
    let (own, grantee) = match domain {
        Domain::K => (Owner::Domain(0), Owner::Hypervisor),
        Domain::U(number) => (Owner::Domain(number), Owner::Domain(number)),
        // A device writes to its own memory.
        Domain::D => return machine.is_device(frame),
        Domain::E | Domain::H => return false,
    };
    let page = Region::page(frame);
    let is_shared =
        || state.shares.iter().any(|share| share.grantee == grantee && share.region.contains(page));
    let has_kernel_mapping = |holds: fn(Mapping) -> bool| matches!(state.kernel_entry(machine, frame), Entry::Page(mapping) if holds(mapping));
    let is_mapped = || match domain {
        Domain::K => has_kernel_mapping(|mapping| mapping.foreign),
        _ => {
            has_kernel_mapping(|mapping| mapping.user)
                || has_foreign_mapping(machine, state, frame, own)
                || was_shown(machine, state, frame, own)
        }
    };
    owner == own || is_shared() || is_mapped()
}

/// Whether an address space of `owner` maps the page, as one that was shared.
fn has_foreign_mapping(machine: &Machine, state: &State, frame: Frame, owner: Owner) -> bool {
    state.directories().filter(|directory| state.owner(*directory) == owner).any(|directory| {
        state.user_leaves(machine, directory).iter().any(|(_, level, mapping)| {
            let first = u64::from(mapping.frame.0);
            mapping.foreign
                && (first..first + machine.pages_of(*level)).contains(&u64::from(frame.0))
        })
    })
}

/// Whether the page is one that a processor may still show to programs of `owner`, and that has
/// not changed its owner since.
fn was_shown(machine: &Machine, state: &State, frame: Frame, owner: Owner) -> bool {
    let waits = state.page(frame).is_some_and(|page| !page.waits.is_empty());
    (waits || machine.is_device(frame))
        && state.stale.iter().any(|stale| {
            let serves = machine.is_kernel_page(stale.first())
                || state.owner(state.cr3(stale.cpu())) == owner;
            serves && stale.pages(machine).any(|(_, to, _)| to == frame)
        })
}

/// The domains whose knowledge an action expresses: its own; and where memory is shown to others
/// by the will of its owner, the owner's.
#[must_use]
pub fn authors(action: &Action) -> Vec<Domain> {
    let mut authors = vec![action.dom()];
    match action {
        Action::ShareH { share } => authors.push(Domain::U(share.owner)),
        // The client kernel shows memory that it sees to all programs.
        Action::AddKernelMappingH { user: true, .. } => authors.push(Domain::K),
        _ => {}
    }
    authors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thesis;

    #[test]
    fn within_domain_0_the_policy_is_the_thesiss() {
        let pairs = [
            (Domain::E, thesis::Domain::E),
            (Domain::H, thesis::Domain::H),
            (Domain::K, thesis::Domain::K),
            (Domain::U(0), thesis::Domain::U),
        ];
        for (from, thesis_from) in pairs {
            for (to, thesis_to) in pairs {
                assert_eq!(interferes(from, to), thesis::interferes(thesis_from, thesis_to));
            }
        }
    }

    #[test]
    fn owners_are_apart_and_nobody_interferes_with_the_environment() {
        let domains = [Domain::E, Domain::H, Domain::K, Domain::U(0), Domain::U(1), Domain::U(2)];
        for from in domains {
            assert_eq!(interferes(from, Domain::E), from == Domain::E);
            assert_eq!(interferes(from, Domain::H), matches!(from, Domain::E | Domain::H));
            let to_other = matches!(from, Domain::H | Domain::U(1));
            assert_eq!(interferes(from, Domain::U(1)), to_other);
        }
    }
}
