//! Who may touch a guest's memory: the four questions of the chapter on it, as tests.

mod common;

use std::collections::BTreeSet;

use common::machine::Owner;
use common::{BUILDER, ONE, Small, THREE, TWO, by, frame, options};
use heliox_vm::access::{Action, Denied, Phase, Purpose, Subject};
use heliox_vm::backing::Rights;
use heliox_vm::{CopyEnd, CopyRequest, DomainId, Error, Kind, Options, Page, Progress, Torn};
use hmac_sha256::Hash;

const TABLE: u64 = 60;
const PLACE: u64 = 61;

fn denied<T>(action: Action, domain: DomainId, why: Denied) -> Result<T, Error> {
    Err(Error::Denied { action, domain, why })
}

/// A builder with a page of content at frame 0, and a domain that it builds, promised 16 pages, with
/// four of them there.
fn building() -> Small {
    let mut world = Small::with_domains(190, 1, 16);
    world.populate(BUILDER, 0, 0);
    for word in 0..8 {
        world.write(BUILDER, 0, word, 0x0101_0101_0101_0101 * (word + 1));
    }
    world.domains.create(BUILDER, 1, &options(32)).unwrap();
    world.domains.populate(by(BUILDER), 1, 0, 2).unwrap();
    world.domains.populate_on_demand(by(BUILDER), 1, 16, 4).unwrap();
    assert_eq!(world.domains.set_target(by(BUILDER), 1, 24, 100), Ok(Progress::Done));
    world.domains.build_page(BUILDER, 0, 1, 2).unwrap();
    world
}

fn seal(world: &mut Small) -> [u8; 32] {
    loop {
        if let Some(measurement) = world.domains.seal(by(BUILDER), 1, 3).unwrap() {
            return measurement;
        }
        assert_eq!(world.summary(ONE).phase, Phase::Sealing);
    }
}

/// First and second question: the hypervisor's address space has no guest's memory in it. Pages are
/// looked into one at a time, for a purpose, in the operation that is for that.
#[test]
fn no_page_is_looked_into_without_a_purpose() {
    let mut world = building();
    world.domains.create(BUILDER, 2, &options(16)).unwrap();
    world.machine().take_seen();
    let seen = |world: &mut Small| {
        let seen = world.machine().take_seen();
        let seen = seen.into_iter().map(|(purpose, owner, _)| (purpose, owner.number()));
        seen.collect::<BTreeSet<_>>()
    };
    // Running, and all that makes or changes no content, looks at nothing.
    world.domains.populate(by(TWO), 2, 0, 2).unwrap();
    world.write(TWO, 0, 0, 1);
    world.domains.setup_table(TWO, 1).unwrap();
    world.domains.show_table(TWO, 0, false, TABLE).unwrap();
    world.grant(TWO, TABLE, 0, BUILDER, 1, false);
    world.domains.decrease(by(TWO), 2, 0, 0).unwrap();
    world.domains.claim(by(BUILDER), 2, 1).unwrap();
    assert!(seen(&mut world).is_empty());
    // What does look, looks at what it is for.
    world.domains.build_page(BUILDER, 0, 1, 1).unwrap();
    assert_eq!(seen(&mut world), [(Purpose::Building, 1), (Purpose::Copying, 0)].into());
    world.domains.map_grant(BUILDER, 2, 0, PLACE, Rights::Write).unwrap();
    assert_eq!(seen(&mut world), [(Purpose::GrantTable, 2)].into());
    let from = CopyEnd { page: Page::Own { guest: 0 }, offset: 0 };
    let to = CopyEnd { page: Page::Granted { domain: 2, reference: 0 }, offset: 0 };
    world.domains.copy(BUILDER, &CopyRequest { from, to, bytes: 8 }).unwrap();
    let expected = [(Purpose::GrantTable, 2), (Purpose::Copying, 0), (Purpose::Copying, 2)];
    assert_eq!(seen(&mut world), expected.into());
    world.domains.unmap_grant(BUILDER, 0, PLACE).unwrap();
    assert_eq!(seen(&mut world), [(Purpose::GrantTable, 2)].into());
    seal(&mut world);
    assert_eq!(seen(&mut world), [(Purpose::Measuring, 1)].into());
    // A page that is freed is the allocator's to clear; one that is set aside is cleared here.
    world.domains.decrease(by(ONE), 1, 1, 0).unwrap();
    assert!(seen(&mut world).is_empty());
    world.domains.create(BUILDER, 3, &Options { target: 0, ..options(16) }).unwrap();
    world.domains.populate_on_demand(by(BUILDER), 3, 0, 2).unwrap();
    world.domains.set_target(by(BUILDER), 3, 2, 9).unwrap();
    world.domains.fault(3, 0).unwrap();
    assert_eq!(seen(&mut world), [(Purpose::SettingAside, 3)].into());
    world.domains.decrease(by(THREE), 3, 0, 0).unwrap();
    assert_eq!(seen(&mut world), [(Purpose::Clearing, 3), (Purpose::SettingAside, 3)].into());
    world.domains.kill(by(BUILDER), 2).unwrap();
    assert_eq!(world.tear_down(TWO), Torn::Done);
    assert!(seen(&mut world).is_empty());
}

/// Third question: nobody reaches a domain's memory from outside once it is sealed.
#[test]
fn a_sealed_domain_is_out_of_its_builders_reach() {
    let mut world = building();
    let builder = by(BUILDER);
    world.domains.check_read_state(builder, 1).unwrap();
    let measurement = seal(&mut world);
    let summary = world.summary(ONE);
    assert_eq!((summary.measurement, summary.phase), (Some(measurement), Phase::Running));
    let sealed = |action| denied(action, ONE, Denied::Sealed);
    assert_eq!(world.domains.build_page(BUILDER, 0, 1, 0), sealed(Action::Build));
    assert_eq!(world.domains.populate(builder, 1, 8, 0), sealed(Action::Populate));
    assert_eq!(world.domains.decrease(builder, 1, 0, 0), sealed(Action::Balloon));
    let result = world.domains.populate_on_demand(builder, 1, 8, 0);
    assert_eq!(result, sealed(Action::PopulateOnDemand));
    let result = world.domains.seal(builder, 1, 100).map(drop);
    assert_eq!(result, sealed(Action::Seal));
    assert_eq!(world.domains.check_read_state(builder, 1), sealed(Action::ReadState));
    // What changes no memory is still its builder's to do.
    world.domains.set_target(builder, 1, 26, 100).unwrap();
    world.domains.claim(builder, 1, 2).unwrap();
    // The domain itself does what it likes.
    world.domains.check_read_state(by(ONE), 1).unwrap();
    world.domains.decrease(by(ONE), 1, 0, 0).unwrap();
    // A crash does not open it.
    for guest in 16..32 {
        let _ = world.domains.fault(1, guest);
        if world.domains.kind(1, guest) == Ok(Kind::Ordinary) {
            world.write(ONE, guest, 0, 1);
        }
    }
    world.domains.set_target(builder, 1, 32, 100).unwrap();
    assert_eq!(world.domains.check_read_state(builder, 1), sealed(Action::ReadState));
    world.domains.kill(builder, 1).unwrap();
    let dying = denied(Action::ReadState, ONE, Denied::Dying);
    assert_eq!(world.domains.check_read_state(builder, 1), dying);
    assert_eq!(world.tear_down(ONE), Torn::Done);
}

#[test]
fn a_crash_does_not_open_a_sealed_domain() {
    let mut world = building();
    seal(&mut world);
    for guest in 16..32 {
        match world.domains.fault(1, guest) {
            Ok(_) | Err(Error::NotOnDemand { .. }) => {}
            Err(error) => assert_eq!(error, Error::Exhausted { guest: frame(guest) }),
        }
        if world.summary(ONE).phase == Phase::Crashed {
            break;
        }
        world.write(ONE, guest, 0, 1);
        for own in [0, 1, 3] {
            world.write(ONE, own, 0, 1);
        }
    }
    // 16 pages were set aside for 16 promises: nothing was missing; take some away.
    assert_eq!(world.summary(ONE).phase, Phase::Running);
    let few = Options { target: 0, ..options(16) };
    world.domains.create(BUILDER, 2, &few).unwrap();
    world.domains.populate_on_demand(by(BUILDER), 2, 0, 0).unwrap();
    while world.domains.seal(by(BUILDER), 2, 100).unwrap().is_none() {}
    assert_eq!(world.domains.fault(2, 0), Err(Error::Exhausted { guest: frame(0) }));
    assert_eq!(world.summary(TWO).phase, Phase::Crashed);
    let sealed = denied(Action::ReadState, TWO, Denied::Sealed);
    assert_eq!(world.domains.check_read_state(by(BUILDER), 2), sealed);
    let sealed = denied(Action::Build, TWO, Denied::Sealed);
    assert_eq!(world.domains.build_page(BUILDER, 0, 2, 0), sealed);
}

#[test]
fn nobody_reaches_a_domain_while_it_is_measured() {
    let mut world = building();
    assert_eq!(world.domains.seal(by(BUILDER), 1, 1), Ok(None));
    let sealing = |action| denied(action, ONE, Denied::Sealing);
    assert_eq!(world.domains.build_page(BUILDER, 0, 1, 0), sealing(Action::Build));
    assert_eq!(world.domains.populate(by(BUILDER), 1, 8, 0), sealing(Action::Populate));
    // Nor does it run, or change, itself.
    assert_eq!(world.domains.populate(by(ONE), 1, 8, 0), sealing(Action::Populate));
    assert_eq!(world.domains.fault(1, 16).map(drop), sealing(Action::Fault));
    assert_eq!(world.domains.setup_table(ONE, 1), sealing(Action::UseOwn));
    // It can be ended.
    world.domains.kill(by(BUILDER), 1).unwrap();
    assert_eq!(world.tear_down(ONE), Torn::Done);
}

#[test]
fn the_measurement_says_what_the_guest_finds() {
    let mut world = building();
    // By hand: frames 0, 1, 3 of zeros; 2 with content; 16 to 31 promised.
    let mut hash = Hash::new();
    for guest in (0_u64..4).chain(16..32) {
        hash.update(guest.to_le_bytes());
        if guest == 2 {
            hash.update([1]);
            for word in 0..8_u8 {
                hash.update([word + 1; 8]);
            }
        } else {
            hash.update([0]);
        }
    }
    let expected = hash.finalize();
    // The same by another implementation of SHA-256.
    let digits: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digits, "120468bed4cc0a203d90efac4c409f7bdc1ab4234d2f0824cd83ed9fb8979393");
    assert_eq!(seal(&mut world), expected);
    // It is the same if what was promised is there already, and in larger pages.
    let mut other = building();
    for guest in [17, 20, 31] {
        other.domains.fault(1, guest).unwrap();
    }
    assert_eq!(other.domains.seal(by(BUILDER), 1, 100), Ok(Some(expected)));
    // And another one if a bit of content, or of a place, differs.
    let mut other = building();
    other.write(ONE, 2, 7, 0);
    assert_ne!(seal(&mut other), expected);
    let mut other = building();
    other.domains.populate(by(BUILDER), 1, 5, 0).unwrap();
    assert_ne!(seal(&mut other), expected);
}

#[test]
fn a_domain_that_shares_already_is_not_sealed() {
    let mut world = building();
    world.domains.setup_table(ONE, 1).unwrap();
    let in_use = Err(Error::GrantsInUse { uses: 1 });
    assert_eq!(world.domains.seal(by(BUILDER), 1, 100), in_use);
    assert_eq!(world.summary(ONE).phase, Phase::Running);
}

/// Fourth question: sharing is the guest's own act, and ends when it says so and nobody uses it.
#[test]
fn a_page_is_shared_by_its_owners_grant_and_not_otherwise() {
    let mut world = building();
    seal(&mut world);
    for number in [2, 3] {
        world.domains.create(BUILDER, number, &options(16)).unwrap();
    }
    world.table(ONE, TABLE);
    world.write(ONE, 1, 0, 42);
    // Nobody gets at it by guessing.
    for user in [BUILDER, TWO, THREE] {
        for reference in 0..8 {
            let result = world.domains.map_grant(user, 1, reference, PLACE, Rights::Read);
            assert_eq!(result, Err(Error::NotGranted { reference }));
        }
    }
    // One page, to one domain, with these rights.
    world.grant(ONE, TABLE, 3, TWO, 1, true);
    let handle = world.domains.map_grant(TWO, 1, 3, PLACE, Rights::Read).unwrap();
    assert_eq!(world.read(TWO, PLACE, 0), 42);
    let not_granted = Err(Error::NotGranted { reference: 3 });
    assert_eq!(world.domains.map_grant(BUILDER, 1, 3, PLACE, Rights::Read), not_granted);
    let read_only = Err(Error::ReadOnly { reference: 3 });
    assert_eq!(world.domains.map_grant(TWO, 1, 3, PLACE + 1, Rights::Write), read_only);
    world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
    world.write(ONE, TABLE, 3, 0);
    assert_eq!(world.domains.map_grant(TWO, 1, 3, PLACE, Rights::Read), not_granted);
}

#[test]
fn every_page_has_one_owner_at_every_step() {
    let mut world = building();
    world.check_owners();
    world.domains.fault(1, 20).unwrap();
    world.check_owners();
    seal(&mut world);
    world.table(ONE, TABLE);
    world.check_owners();
    world.domains.increase(by(ONE), 1, 0).unwrap();
    world.check_owners();
    world.domains.decrease(by(ONE), 1, 20, 2).unwrap();
    world.check_owners();
    let pages = world.summary(ONE).total();
    assert_eq!(world.machine().count(Owner::Domain(ONE)), pages);
    assert_eq!(world.end(ONE), Torn::Done);
    assert_eq!(world.machine().count(Owner::Domain(ONE)), 0);
}

#[test]
fn the_hypervisor_itself_has_no_way_around_the_rules() {
    let mut world = building();
    let hypervisor = Subject::Hypervisor;
    let not_yours = |action| denied(action, ONE, Denied::NotYours);
    assert_eq!(world.domains.populate(hypervisor, 1, 8, 0), not_yours(Action::Populate));
    assert_eq!(world.domains.decrease(hypervisor, 1, 0, 0), not_yours(Action::Balloon));
    assert_eq!(world.domains.check_read_state(hypervisor, 1), not_yours(Action::ReadState));
    assert_eq!(world.domains.seal(hypervisor, 1, 1).map(drop), not_yours(Action::Seal));
}
