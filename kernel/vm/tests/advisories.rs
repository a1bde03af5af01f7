//! What went wrong in Xen, as tests: for each class of its security advisories, the ways in which
//! it went wrong, tried here.
//!
//! Of about 400 advisories, at least 37 were errors with page types and reference counts, 33 in
//! grant tables, 15 stale entries of TLBs or IOTLBs, 9 in populate-on-demand, and 5 about memory
//! that was not cleared. The machine of these tests panics if a page is freed while it is shared or
//! while a processor still reaches it, and if a window is opened onto somebody else's page; the
//! tests arrange for what would lead there.

mod common;

use common::machine::Race;
use common::{BUILDER, Large, ONE, Small, THREE, TWO, World, by, frame, options};
use heliox_vm::access::{Action, Denied, Phase, Subject};
use heliox_vm::backing::Rights;
use heliox_vm::{
    CopyEnd, CopyRequest, DomainId, Error, Kind, Limit, Options, Order, Page, Progress, Torn,
};

/// Where grant tables are shown.
const TABLE: u64 = 60;
/// Where granted pages are mapped.
const PLACE: u64 = 61;

/// Domains 0 to 3 of 16 pages, of which each has four, with 1's grant table shown.
fn granting() -> Small {
    let mut world = Small::with_domains(190, 4, 16);
    for domain in [BUILDER, ONE, TWO, THREE] {
        world.populate(domain, 0, 2);
    }
    world.table(ONE, TABLE);
    world
}

fn denied<T>(action: Action, domain: DomainId, why: Denied) -> Result<T, Error> {
    Err(Error::Denied { action, domain, why })
}

mod reference_counts {
    use super::*;

    #[test]
    fn a_granted_page_cannot_be_given_back() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        let in_use = Err(Error::InUse { guest: frame(1) });
        assert_eq!(world.domains.decrease(by(ONE), 1, 1, 0), in_use);
        // Nor as a part of something larger.
        assert_eq!(world.domains.decrease(by(ONE), 1, 0, 2), in_use);
        assert_eq!(world.summary(ONE).populated, 4);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        world.domains.decrease(by(ONE), 1, 0, 2).unwrap();
        world.check_owners();
    }

    #[test]
    fn a_page_granted_twice_stays_until_both_uses_end() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        world.grant(ONE, TABLE, 1, THREE, 1, true);
        let two = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        let three = world.domains.map_grant(THREE, 1, 1, PLACE, Rights::Read).unwrap();
        let in_use = Err(Error::InUse { guest: frame(1) });
        world.domains.unmap_grant(TWO, two, PLACE).unwrap();
        assert_eq!(world.domains.decrease(by(ONE), 1, 1, 0), in_use);
        world.domains.unmap_grant(THREE, three, PLACE).unwrap();
        world.domains.decrease(by(ONE), 1, 1, 0).unwrap();
    }

    #[test]
    fn pages_of_the_grant_table_cannot_be_given_back_or_granted() {
        let mut world = granting();
        let table = Error::GrantTablePage { guest: frame(TABLE) };
        assert_eq!(world.domains.decrease(by(ONE), 1, TABLE, 0), Err(table));
        world.grant(ONE, TABLE, 0, TWO, TABLE, false);
        let bad = Error::BadGrantedPage { guest: TABLE };
        assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write), Err(bad));
        // The entry is not marked by the attempt.
        assert_eq!(world.read(ONE, TABLE, 0) & 0x18, 0);
    }

    #[test]
    fn what_was_granted_cannot_be_granted_on() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        world.table(TWO, TABLE);
        world.grant(TWO, TABLE, 0, THREE, PLACE, false);
        let bad = Error::BadGrantedPage { guest: PLACE };
        assert_eq!(world.domains.map_grant(THREE, 2, 0, PLACE, Rights::Read), Err(bad));
        // Nor given back, nor copied from as if it were one's own.
        let foreign = Error::ForeignPage { guest: frame(PLACE) };
        assert_eq!(world.domains.decrease(by(TWO), 2, PLACE, 0), Err(foreign));
        let own = |guest| CopyEnd { page: Page::Own { guest }, offset: 0 };
        let request = CopyRequest { from: own(PLACE), to: own(0), bytes: 8 };
        assert_eq!(world.domains.copy(TWO, &request), Err(foreign));
    }

    #[test]
    fn uses_of_an_entry_are_counted() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, true);
        // The small machine counts to three uses of an entry.
        for use_ in 0..3 {
            world.domains.map_grant(TWO, 1, 0, PLACE + use_, Rights::Read).unwrap();
        }
        let many = Err(Error::TooManyUses { reference: 0 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE + 3, Rights::Read), many);
        assert_eq!(world.summary(ONE).granted_uses, 3);
        assert_eq!(world.machine().live_shares(), 1);
        world.domains.unmap_grant(TWO, 1, PLACE + 1).unwrap();
        world.domains.map_grant(TWO, 1, 0, PLACE + 3, Rights::Read).unwrap();
        world.check_owners();
    }

    #[test]
    fn references_of_a_page_do_not_wrap() {
        // The allocator counts to 65,535: one for the owner, one for the share, one for each mapping.
        const MOST: u64 = 65_533;
        let mut world = Large::with_domains(4000, 1, 16);
        let wide = Options { frames: 70_000, handles: 70_000, tables: 200, ..options(16) };
        world.domains.create(BUILDER, 1, &wide).unwrap();
        world.domains.create(BUILDER, 2, &wide).unwrap();
        world.populate(ONE, 0, 0);
        world.table(ONE, 100);
        for reference in 0..2 {
            world.grant(ONE, 100, reference, TWO, 0, false);
        }
        for use_ in 0..MOST {
            world.domains.map_grant(TWO, 1, 0, 1000 + use_, Rights::Read).unwrap();
        }
        for reference in 0..2 {
            let many = Err(Error::TooManyUses { reference });
            for rights in [Rights::Read, Rights::Write] {
                let result = world.domains.map_grant(TWO, 1, reference, 1000 + MOST, rights);
                assert_eq!(result, many);
            }
        }
        assert_eq!(world.summary(ONE).granted_uses, MOST);
        assert_eq!(world.machine().live_shares(), 1);
        // It can be given back when all of that is undone, and not before.
        let in_use = Err(Error::InUse { guest: frame(0) });
        for handle in 0..MOST {
            if handle % 5000 == 0 || handle == MOST - 1 {
                assert_eq!(world.domains.decrease(by(ONE), 1, 0, 0), in_use);
            }
            world.domains.unmap_grant(TWO, handle as u32, 1000 + handle).unwrap();
        }
        world.domains.decrease(by(ONE), 1, 0, 0).unwrap();
        world.check_owners();
    }

    #[test]
    fn extents_that_overlap_or_wrap_are_refused() {
        let mut world = granting();
        let limit = 80;
        for (start, order, error) in [
            (u64::MAX, 0, Error::OutsideMap { guest: u64::MAX, limit }),
            (u64::MAX - 3, 2, Error::OutsideMap { guest: u64::MAX - 3, limit }),
            (80, 0, Error::OutsideMap { guest: 80, limit }),
            (1 << 40, 0, Error::OutsideMap { guest: 1 << 40, limit }),
            (6, 2, Error::Misaligned { guest: 6, order: 2 }),
            (0, 64, Error::OrderTooLarge { order: 64, most: 2 }),
            (0, 0, Error::Occupied { guest: frame(0) }),
            (0, 2, Error::Occupied { guest: frame(0) }),
        ] {
            assert_eq!(world.domains.populate(by(ONE), 1, start, order), Err(error));
        }
        // Of extents that repeat, the first is done.
        let partial = world.domains.populate_physmap(by(ONE), 1, &[8, 8, 9], 0);
        let occupied = Error::Occupied { guest: frame(8) };
        assert_eq!((partial.done, partial.stopped), (1, Some(occupied)));
        let partial = world.domains.decrease_reservation(by(ONE), 1, &[8, 0, 0], 0);
        let missing = Error::NotPopulated { guest: frame(0) };
        assert_eq!((partial.done, partial.stopped), (2, Some(missing)));
        world.check_owners();
    }

    #[test]
    fn a_domain_can_end_at_any_moment() {
        // With its grants mapped by others, others' mapped by it, in the middle of everything.
        for victim in [ONE, TWO] {
            let mut world = granting();
            world.table(TWO, TABLE);
            world.grant(ONE, TABLE, 0, TWO, 1, false);
            world.grant(TWO, TABLE, 0, ONE, 2, false);
            world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
            world.domains.map_grant(ONE, 2, 0, PLACE, Rights::Write).unwrap();
            let other = if victim == ONE { TWO } else { ONE };
            // One page and the grant table are waited for.
            assert_eq!(world.end(victim), Torn::Waiting { pages: 2 });
            assert_eq!(world.domains.tear_down(victim.number(), 0), Ok(Torn::More));
            // Nothing of a dying domain can be used anew.
            let victim_number = victim.number();
            let result = world.domains.map_grant(other, victim_number, 0, 70, Rights::Read);
            assert_eq!(result, denied(Action::UseGranted, victim, Denied::Dying));
            assert_eq!(world.end(other), Torn::Done);
            assert_eq!(world.tear_down(victim), Torn::Done);
            assert_eq!(world.machine().live_shares(), 0);
        }
    }

    #[test]
    fn a_use_can_end_at_any_step_of_its_domains_end() {
        for steps in 0..40 {
            let mut world = granting();
            // Of a large page, one small page is used.
            world.populate(ONE, 8, 2);
            world.grant(ONE, TABLE, 0, TWO, 9, false);
            let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
            world.domains.kill(by(BUILDER), 1).unwrap();
            for _ in 0..steps {
                world.domains.tear_down(1, 1).unwrap();
                world.check_owners();
            }
            world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
            world.check_owners();
            assert_eq!(world.tear_down(ONE), Torn::Done, "{steps}");
        }
    }

    #[test]
    fn a_number_is_not_used_again_while_its_pages_are_used() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        assert!(matches!(world.end(ONE), Torn::Waiting { .. }));
        let exists = Error::DomainExists { domain: ONE };
        assert_eq!(world.domains.create(BUILDER, 1, &options(16)), Err(exists));
        // What the other writes stays where it is, and goes nowhere else.
        world.write(TWO, PLACE, 0, 7);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        world.check_owners();
        assert_eq!(world.tear_down(ONE), Torn::Done);
        assert_eq!(world.domains.create(BUILDER, 1, &options(16)), Ok(ONE));
    }

    #[test]
    fn who_built_a_domain_is_not_who_has_that_number_later() {
        let mut world = Small::with_domains(190, 2, 16);
        world.domains.create(ONE, 2, &options(16)).unwrap();
        assert_eq!(world.end(ONE), Torn::Done);
        world.domains.create(BUILDER, 1, &options(16)).unwrap();
        let result = world.domains.populate(by(ONE), 2, 0, 0);
        assert_eq!(result, denied(Action::Populate, TWO, Denied::NotYours));
        assert_eq!(world.domains.kill(by(ONE), 2), denied(Action::Kill, TWO, Denied::NotYours));
    }
}

mod grant_tables {
    use super::*;

    const MARKS: u64 = 0x18;

    #[test]
    fn an_entry_that_changes_while_it_is_checked_is_used_as_it_was_checked() {
        // Between check and use it is turned to another page, or made read-only.
        for changed in [1_u64 | 2 << 16 | 3 << 32, 5 | 2 << 16 | 1 << 32, 0] {
            let mut world = granting();
            world.write(ONE, 1, 0, 111);
            world.write(ONE, 3, 0, 333);
            world.grant(ONE, TABLE, 0, TWO, 1, false);
            let table = world.frame_at(ONE, TABLE);
            let race =
                Race::AfterReading { frame: table, word: 0, value: changed, step: 0, times: 1 };
            world.machine().set_race(Some(race));
            let result = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write);
            match changed {
                0 => assert_eq!(result, Err(Error::NotGranted { reference: 0 })),
                _ if changed & 4 != 0 => {
                    assert_eq!(result, Err(Error::ReadOnly { reference: 0 }));
                }
                _ => {
                    result.unwrap();
                    assert_eq!(world.read(TWO, PLACE, 0), 333);
                }
            }
            let marks = world.read(ONE, TABLE, 0) & MARKS;
            assert_eq!(marks != 0, world.summary(ONE).granted_uses > 0);
        }
    }

    #[test]
    fn an_entry_of_version_2_is_looked_at_again_after_it_was_marked() {
        let mut world = granting();
        world.domains.set_version(ONE, 2).unwrap();
        world.domains.show_table(ONE, 0, true, 62).unwrap();
        world.write(ONE, 1, 0, 111);
        world.write(ONE, 3, 0, 333);
        world.write(ONE, TABLE, 0, 1 | 2 << 16);
        world.write(ONE, TABLE, 1, 1);
        let table = world.frame_at(ONE, TABLE);
        // The frame is read, and is another one afterwards.
        let race = Race::AfterReading { frame: table, word: 1, value: 3, step: 0, times: 1 };
        world.machine().set_race(Some(race));
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        assert_eq!(world.read(TWO, PLACE, 0), 333);
        assert_eq!(world.read(ONE, 62, 0), 3);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        assert_eq!(world.read(ONE, 62, 0), 0);
        // Revoked for ever between being read and being marked.
        let race = Race::AfterReading { frame: table, word: 0, value: 0, step: 0, times: 1 };
        world.machine().set_race(Some(race));
        let not_granted = Err(Error::NotGranted { reference: 0 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write), not_granted);
        assert_eq!(world.read(ONE, 62, 0), 0);
    }

    #[test]
    fn an_entry_that_never_stops_changing_costs_a_bounded_time() {
        for version in [1, 2] {
            let mut world = granting();
            world.domains.set_version(ONE, version).unwrap();
            world.grant(ONE, TABLE, 0, TWO, 0, false);
            let table = world.frame_at(ONE, TABLE);
            let value = 1 | 2 << 16 | 1 << 32;
            let race =
                Race::AfterReading { frame: table, word: 0, value, step: 1 << 32, times: 99 };
            world.machine().set_race(Some(race));
            let contended = Err(Error::Contended { reference: 0 });
            assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write), contended);
            assert!(world.machine().race().is_some());
            assert_eq!(world.summary(ONE).granted_uses, 0);
        }
    }

    #[test]
    fn revoking_shows_whether_the_page_is_still_used() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        // Linux clears all but the marks, and looks at them.
        let marked = world.read(ONE, TABLE, 0);
        assert_eq!(marked & MARKS, MARKS);
        world.write(ONE, TABLE, 0, marked & MARKS);
        // What is mapped stays mapped, but nothing new is.
        world.write(TWO, PLACE, 0, 5);
        assert_eq!(world.read(ONE, 1, 0), 5);
        let not_granted = Err(Error::NotGranted { reference: 0 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, 62, Rights::Read), not_granted);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        assert_eq!(world.read(ONE, TABLE, 0), 0);
    }

    #[test]
    fn a_used_entry_is_used_by_one_domain_for_one_page() {
        let mut world = granting();
        world.write(ONE, 1, 0, 111);
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Read).unwrap();
        // Turned to another domain, or to another page, while it is used.
        world.grant(ONE, TABLE, 0, THREE, 1, false);
        let not_granted = Err(Error::NotGranted { reference: 0 });
        assert_eq!(world.domains.map_grant(THREE, 1, 0, PLACE, Rights::Read), not_granted);
        world.grant(ONE, TABLE, 0, TWO, 2, false);
        world.domains.map_grant(TWO, 1, 0, PLACE + 1, Rights::Read).unwrap();
        assert_eq!(world.read(TWO, PLACE + 1, 0), 111);
    }

    #[test]
    fn writing_is_marked_while_somebody_can_write() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let read = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Read).unwrap();
        assert_eq!(world.read(ONE, TABLE, 0) & MARKS, 0x08);
        let write = world.domains.map_grant(TWO, 1, 0, PLACE + 1, Rights::Write).unwrap();
        assert_eq!(world.read(ONE, TABLE, 0) & MARKS, 0x18);
        world.domains.unmap_grant(TWO, write, PLACE + 1).unwrap();
        assert_eq!(world.read(ONE, TABLE, 0) & MARKS, 0x08);
        world.domains.unmap_grant(TWO, read, PLACE).unwrap();
        assert_eq!(world.read(ONE, TABLE, 0) & MARKS, 0);
        // A mapping for reading is one, whatever was granted.
        world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Read).unwrap();
        assert_eq!(world.machine().touch(0, TWO, PLACE, 0, Some(1)), None);
    }

    #[test]
    fn rights_are_not_more_than_was_granted() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, true);
        let read_only = Err(Error::ReadOnly { reference: 0 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write), read_only);
        let not_granted = Err(Error::NotGranted { reference: 0 });
        assert_eq!(world.domains.map_grant(THREE, 1, 0, PLACE, Rights::Read), not_granted);
        // Entries of other types, and the reserved type of transitive grants, grant nothing.
        for kind in [0_u64, 2, 3] {
            world.write(ONE, TABLE, 0, kind | 2 << 16 | 1 << 32);
            assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Read), not_granted);
        }
        let own = world.domains.map_grant(ONE, 1, 0, PLACE, Rights::Read);
        assert_eq!(own, Err(Error::OwnGrant));
        let bad = Err(Error::BadReference { reference: 8, entries: 8 });
        assert_eq!(world.domains.map_grant(TWO, 1, 8, PLACE, Rights::Read), bad);
        let bad = Err(Error::BadReference { reference: u32::MAX, entries: 8 });
        assert_eq!(world.domains.map_grant(TWO, 1, u32::MAX, PLACE, Rights::Read), bad);
    }

    #[test]
    fn a_handle_names_one_mapping_until_that_ends() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        let wrong = Err(Error::WrongPlace { handle, guest: 1 });
        assert_eq!(world.domains.unmap_grant(TWO, handle, 1), wrong);
        // It is the mapping domain's, and nobody else's.
        let bad = Err(Error::BadHandle { handle });
        assert_eq!(world.domains.unmap_grant(THREE, handle, PLACE), bad);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        assert_eq!(world.domains.unmap_grant(TWO, handle, PLACE), bad);
        assert_eq!(world.summary(ONE).granted_uses, 0);
    }

    #[test]
    fn the_version_does_not_change_under_a_use() {
        let mut world = granting();
        world.grant(ONE, TABLE, 1, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 1, PLACE, Rights::Write).unwrap();
        let in_use = Err(Error::GrantsInUse { uses: 1 });
        assert_eq!(world.domains.set_version(ONE, 2), in_use);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        world.domains.set_version(ONE, 2).unwrap();
        // The first entries are kept, in the new format; a status frame is there.
        assert_eq!([2, 3].map(|word| world.read(ONE, TABLE, word)), [1 | 2 << 16, 1]);
        assert_eq!(world.domains.status_frame(1, 0), Ok(None));
        world.domains.show_table(ONE, 0, true, 62).unwrap();
        world.domains.map_grant(TWO, 1, 1, PLACE, Rights::Read).unwrap();
        assert_eq!(world.read(ONE, 62, 0), 1 << 16);
        assert_eq!(world.domains.set_version(ONE, 1), in_use);
        world.domains.unmap_grant(TWO, 0, PLACE).unwrap();
        // Back again, the status frame goes wherever it was shown, and is not left behind.
        world.domains.set_version(ONE, 1).unwrap();
        assert_eq!(world.machine().mapped(ONE, 62), None);
        assert_eq!(world.read(ONE, TABLE, 1), 1 | 2 << 16 | 1 << 32);
        world.check_owners();
    }

    #[test]
    fn parts_of_pages_are_copied_and_not_mapped() {
        let mut world = granting();
        world.domains.set_version(ONE, 2).unwrap();
        for word in 0..8 {
            world.write(ONE, 1, word, 0x1111_1111_1111_1111 * (word + 1));
        }
        // Bytes 8 to 23 of frame 1.
        world.write(ONE, TABLE, 0, 0x101 | 2 << 16 | 8 << 32 | 16 << 48);
        world.write(ONE, TABLE, 1, 1);
        let part_only = Err(Error::PartOnly { reference: 0 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Read), part_only);
        let granted = |offset| CopyEnd { page: Page::Granted { domain: 1, reference: 0 }, offset };
        let own = |offset| CopyEnd { page: Page::Own { guest: 0 }, offset };
        let request = CopyRequest { from: granted(8), to: own(4), bytes: 16 };
        world.domains.copy(TWO, &request).unwrap();
        assert_eq!(world.read(TWO, 0, 0), 0x2222_2222_0000_0000);
        assert_eq!(world.read(TWO, 0, 1), 0x3333_3333_2222_2222);
        for (offset, bytes) in [(7, 2), (8, 17), (23, 2), (0, 64), (24, 1)] {
            let request = CopyRequest { from: granted(offset), to: own(0), bytes };
            let bad = Err(Error::BadPart { offset, bytes });
            assert_eq!(world.domains.copy(TWO, &request), bad);
        }
        // Sums that would wrap.
        for (offset, bytes) in [(u64::MAX, 2), (1, u64::MAX), (60, 5)] {
            let request = CopyRequest { from: own(offset), to: own(0), bytes };
            let bad = Err(Error::BadPart { offset, bytes });
            assert_eq!(world.domains.copy(TWO, &request), bad);
        }
        assert_eq!(world.summary(ONE).granted_uses, 0);
    }

    #[test]
    fn nothing_is_left_of_a_use_that_failed() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let before = world.machine().live_shares();
        // No place, no such place, no table for it.
        let occupied = Err(Error::Occupied { guest: frame(0) });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, 0, Rights::Write), occupied);
        let outside = Err(Error::OutsideMap { guest: 80, limit: 80 });
        assert_eq!(world.domains.map_grant(TWO, 1, 0, 80, Rights::Write), outside);
        let few = Options { tables: 2, ..options(16) };
        world.domains.create(BUILDER, 4, &few).unwrap();
        let four = DomainId::new(4).unwrap();
        world.grant(ONE, TABLE, 0, four, 1, false);
        let result = world.domains.map_grant(four, 1, 0, PLACE, Rights::Write);
        assert_eq!(result, Err(Error::OutOfTables));
        assert_eq!(world.read(ONE, TABLE, 0) & MARKS, 0);
        assert_eq!(world.machine().live_shares(), before);
        assert_eq!(world.summary(ONE).granted_uses, 0);
    }

    #[test]
    fn tables_grow_as_a_whole_or_not_at_all() {
        let mut world = granting();
        world.heap.set(2);
        assert_eq!(world.domains.setup_table(ONE, 4), Err(Error::OutOfKernelMemory));
        assert_eq!(world.domains.table_size(1), Ok((1, 4)));
        world.check_owners();
        world.heap.set(u64::MAX);
        world.domains.setup_table(ONE, 4).unwrap();
        let large = Err(Error::TableTooLarge { frames: 5, most: 4 });
        assert_eq!(world.domains.setup_table(ONE, 5), large);
        // Asking for less is not shrinking.
        world.domains.setup_table(ONE, 0).unwrap();
        assert_eq!(world.domains.table_size(1), Ok((4, 4)));
        let missing = Err(Error::NoTableFrame { index: 4, frames: 4 });
        assert_eq!(world.domains.show_table(ONE, 4, false, 62), missing);
        let placed = Err(Error::AlreadyPlaced { guest: frame(TABLE) });
        assert_eq!(world.domains.show_table(ONE, 0, false, 62), placed);
    }
}

mod stale_translations {
    use super::*;

    /// Both processors have the page in their TLBs; the machine panics if a page is freed, or a use
    /// ended, while one of them still has it.
    fn touch_everywhere<const BITS: u32, const WORDS: usize>(
        world: &mut World<BITS, WORDS>,
        domain: DomainId,
        guest: u64,
    ) {
        for processor in 0..2 {
            world.machine().touch(processor, domain, guest, 0, None).unwrap();
        }
    }

    #[test]
    fn a_page_is_flushed_before_it_is_freed() {
        let mut world = granting();
        touch_everywhere(&mut world, ONE, 1);
        touch_everywhere(&mut world, ONE, 2);
        world.domains.decrease(by(ONE), 1, 1, 0).unwrap();
        for processor in 0..2 {
            assert_eq!(world.machine().touch(processor, ONE, 1, 0, None), None);
        }
        world.domains.decrease(by(ONE), 1, 2, 1).unwrap();
    }

    #[test]
    fn a_large_page_is_flushed_before_a_part_of_it_is_freed() {
        let mut world = Large::with_domains(20_000, 2, 2048);
        world.populate(ONE, 512, 9);
        for guest in [512, 600, 1023] {
            touch_everywhere(&mut world, ONE, guest);
        }
        let freed = world.frame_at(ONE, 600);
        world.domains.decrease(by(ONE), 1, 600, 0).unwrap();
        assert_eq!(world.machine().touch(1, ONE, 600, 0, None), None);
        // Its neighbours stay where they are.
        assert_eq!(world.frame_at(ONE, 599) + 1, freed);
        assert_eq!(world.summary(ONE).populated, 511);
        world.check_owners();
    }

    #[test]
    fn a_grant_is_flushed_before_its_use_ends() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        let handle = world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        touch_everywhere(&mut world, TWO, PLACE);
        world.domains.unmap_grant(TWO, handle, PLACE).unwrap();
        for processor in 0..2 {
            assert_eq!(world.machine().touch(processor, TWO, PLACE, 0, Some(1)), None);
        }
        // Nor does the mapping come back with what is put there next.
        world.populate(TWO, PLACE, 0);
        world.write(TWO, PLACE, 0, 9);
        assert_eq!(world.read(ONE, 1, 0), 0);
    }

    #[test]
    fn a_dying_domain_is_flushed() {
        let mut world = granting();
        world.grant(ONE, TABLE, 0, TWO, 1, false);
        world.domains.map_grant(TWO, 1, 0, PLACE, Rights::Write).unwrap();
        for guest in [0, 1, 2, 3, PLACE] {
            touch_everywhere(&mut world, TWO, guest);
        }
        touch_everywhere(&mut world, ONE, TABLE);
        assert_eq!(world.end(TWO), Torn::Done);
        assert_eq!(world.end(ONE), Torn::Done);
    }

    #[test]
    fn a_frame_of_the_grant_table_is_flushed_when_it_is_hidden() {
        let mut world = granting();
        touch_everywhere(&mut world, ONE, TABLE);
        world.domains.hide_table(ONE, TABLE).unwrap();
        assert_eq!(world.machine().touch(1, ONE, TABLE, 0, Some(1)), None);
        let missing = Err(Error::NotPopulated { guest: frame(TABLE) });
        assert_eq!(world.domains.hide_table(ONE, TABLE), missing);
        world.domains.show_table(ONE, 0, false, 62).unwrap();
    }
}

mod populate_on_demand {
    use super::*;

    /// A domain of 16 pages that were promised, with some of them set aside.
    fn promised(target: u64) -> Small {
        let mut world = Small::with_domains(190, 1, 16);
        let options = Options { target: 0, ..options(16) };
        world.domains.create(BUILDER, 1, &options).unwrap();
        world.domains.populate_on_demand(by(BUILDER), 1, 0, 4).unwrap();
        let progress = world.domains.set_target(by(BUILDER), 1, target, 100);
        assert_eq!(progress, Ok(Progress::Done));
        world
    }

    #[test]
    fn a_fault_takes_what_is_set_aside_and_splits_it() {
        let mut world = promised(7);
        // One table's worth and three pages are set aside: one block of four, and three pages.
        assert_eq!(world.summary(ONE).cache, 7);
        assert_eq!(world.domains.fault(1, 5), Ok(Order::new(2).unwrap()));
        assert_eq!(world.domains.fault(1, 8), Ok(Order::PAGE));
        assert_eq!(world.domains.fault(1, 12), Ok(Order::PAGE));
        let summary = world.summary(ONE);
        assert_eq!((summary.populated, summary.on_demand, summary.cache), (6, 10, 1));
        assert_eq!(summary.total(), 7);
        assert_eq!(world.domains.fault(1, 5), Err(Error::NotOnDemand { guest: frame(5) }));
        world.check_owners();
    }

    #[test]
    fn pages_of_zeros_are_taken_back_when_nothing_is_set_aside() {
        let mut world = promised(4);
        world.domains.fault(1, 0).unwrap();
        for guest in [0, 1, 3] {
            world.write(ONE, guest, 3, 7);
        }
        // Page 2 was never written: it is promised again.
        assert_eq!(world.domains.fault(1, 9), Ok(Order::PAGE));
        assert_eq!(world.domains.kind(1, 2), Ok(Kind::OnDemand));
        assert_eq!(world.read(ONE, 9, 3), 0);
        assert_eq!([0, 1, 3].map(|guest| world.read(ONE, guest, 3)), [7; 3]);
        let summary = world.summary(ONE);
        assert_eq!((summary.populated, summary.on_demand, summary.total()), (4, 12, 4));
    }

    #[test]
    fn a_page_that_is_written_while_it_is_taken_back_stays() {
        let mut world = promised(4);
        world.domains.fault(1, 0).unwrap();
        for guest in 0..3 {
            world.write(ONE, guest, 0, 1);
        }
        // The other processor has page 3 in its TLB, and writes when it is out of the page map.
        world.machine().touch(1, ONE, 3, 0, None).unwrap();
        world.machine().set_race(Some(Race::BeforeSettling { guest: 3, word: 5, value: 99 }));
        assert_eq!(world.domains.fault(1, 9), Err(Error::Exhausted { guest: frame(9) }));
        assert_eq!(world.machine().race().map(|_| ()), None);
        // Nothing that was written is lost, even to a domain that is stopped now.
        let page = world.frame_at(ONE, 3);
        assert_eq!(world.machine().word(page, 5), 99);
        assert_eq!(world.summary(ONE).phase, Phase::Crashed);
        world.check_owners();
    }

    #[test]
    fn a_granted_page_of_zeros_is_not_taken_back() {
        let mut world = promised(4);
        world.populate(BUILDER, 0, 0);
        world.domains.fault(1, 0).unwrap();
        world.table(ONE, TABLE);
        for guest in 0..3 {
            world.write(ONE, guest, 0, 1);
        }
        world.grant(ONE, TABLE, 0, BUILDER, 3, false);
        world.domains.map_grant(BUILDER, 1, 0, PLACE, Rights::Write).unwrap();
        assert_eq!(world.domains.fault(1, 9), Err(Error::Exhausted { guest: frame(9) }));
        assert_eq!(world.domains.kind(1, 3), Ok(Kind::Ordinary));
    }

    #[test]
    fn exhaustion_ends_one_domain_only() {
        let mut world = promised(4);
        world.domains.fault(1, 0).unwrap();
        for guest in 0..4 {
            world.write(ONE, guest, 0, 1);
        }
        assert_eq!(world.domains.fault(1, 9), Err(Error::Exhausted { guest: frame(9) }));
        assert_eq!(world.summary(ONE).phase, Phase::Crashed);
        let crashed = denied(Action::Populate, ONE, Denied::Crashed);
        assert_eq!(world.domains.populate(by(ONE), 1, 20, 0), crashed);
        assert_eq!(world.summary(BUILDER).phase, Phase::Running);
        world.populate(BUILDER, 0, 0);
        assert_eq!(world.domains.kill(by(BUILDER), 1), Ok(()));
        assert_eq!(world.tear_down(ONE), Torn::Done);
    }

    #[test]
    fn a_search_for_zeros_is_bounded() {
        let mut world = Small::with_domains(190, 1, 16);
        let options = Options { target: 0, search: 3, ..options(16) };
        world.domains.create(BUILDER, 1, &options).unwrap();
        world.domains.populate_on_demand(by(BUILDER), 1, 0, 4).unwrap();
        world.domains.set_target(by(BUILDER), 1, 12, 100).unwrap();
        for guest in [0, 4, 8] {
            world.domains.fault(1, guest).unwrap();
        }
        for guest in 0..11 {
            world.write(ONE, guest, 0, 1);
        }
        // Page 11 is of zeros, but a search looks at three pages.
        world.machine().take_seen();
        assert!(world.domains.fault(1, 12).is_err());
        assert!(world.machine().take_seen().len() <= 4);
    }

    #[test]
    fn the_page_of_a_grant_is_put_there_when_the_grant_is_used() {
        let mut world = promised(4);
        world.populate(BUILDER, 0, 0);
        world.table(ONE, TABLE);
        world.grant(ONE, TABLE, 0, BUILDER, 5, false);
        world.domains.map_grant(BUILDER, 1, 0, PLACE, Rights::Write).unwrap();
        world.write(BUILDER, PLACE, 0, 77);
        assert_eq!(world.read(ONE, 5, 0), 77);
        // Without memory for it, the one who asked is told, and nobody is stopped.
        for guest in [4, 5, 6, 7] {
            world.write(ONE, guest, 1, 1);
        }
        world.grant(ONE, TABLE, 1, BUILDER, 9, false);
        let exhausted = Err(Error::Exhausted { guest: frame(9) });
        assert_eq!(world.domains.map_grant(BUILDER, 1, 1, PLACE + 1, Rights::Write), exhausted);
        assert_eq!(world.summary(ONE).phase, Phase::Running);
        assert_eq!(world.read(ONE, TABLE, 1) & 0x18, 0);
    }

    #[test]
    fn what_a_guest_gives_back_is_set_aside_while_something_is_owed() {
        let mut world = promised(8);
        for guest in [0, 4] {
            world.domains.fault(1, guest).unwrap();
        }
        world.write(ONE, 1, 2, 5);
        // Eight pages are owed and none is set aside: what comes back stays the domain's.
        world.domains.decrease(by(ONE), 1, 0, 2).unwrap();
        let summary = world.summary(ONE);
        assert_eq!((summary.populated, summary.cache, summary.total()), (4, 4, 8));
        // It is clear when it comes out again.
        assert_eq!(world.domains.fault(1, 8), Ok(Order::new(2).unwrap()));
        assert_eq!((8..12).map(|guest| world.read(ONE, guest, 2)).sum::<u64>(), 0);
        // Giving back a promise frees what was set aside for it.
        world.domains.decrease(by(ONE), 1, 8, 2).unwrap();
        assert_eq!(world.summary(ONE).cache, 4);
        world.domains.decrease(by(ONE), 1, 12, 2).unwrap();
        let summary = world.summary(ONE);
        assert_eq!((summary.populated, summary.cache, summary.on_demand), (4, 0, 0));
        world.check_owners();
    }

    #[test]
    fn targets_are_within_what_is_owed_and_the_maximum() {
        let mut world = promised(8);
        world.domains.fault(1, 0).unwrap();
        let above = Err(Error::TargetAboveMaximum { target: 17, maximum: 16 });
        assert_eq!(world.domains.set_target(by(BUILDER), 1, 17, 9), above);
        let below = Err(Error::TargetBelowOwed { target: 7, owed: 8 });
        assert_eq!(world.domains.set_target(by(BUILDER), 1, 7, 9), below);
        // In steps.
        assert_eq!(world.domains.set_target(by(BUILDER), 1, 16, 1), Ok(Progress::More));
        assert_eq!(world.domains.set_target(by(BUILDER), 1, 16, 1), Ok(Progress::Done));
        let summary = world.summary(ONE);
        assert_eq!((summary.cache, summary.on_demand), (12, 12));
        // A guest cannot change its own.
        let not_yours = denied(Action::SetTarget, ONE, Denied::NotYours);
        assert_eq!(world.domains.set_target(by(ONE), 1, 16, 1), not_yours);
    }

    #[test]
    fn promises_are_not_made_over_memory_nor_memory_put_over_promises() {
        let mut world = promised(8);
        world.domains.fault(1, 0).unwrap();
        for guest in [0, 4, 15] {
            let occupied = Err(Error::Occupied { guest: frame(guest) });
            assert_eq!(world.domains.populate(by(ONE), 1, guest, 0), occupied);
            let result = world.domains.populate_on_demand(by(BUILDER), 1, guest, 0);
            assert_eq!(result, occupied);
        }
        let full = Error::MaximumExceeded { pages: 16, request: 1, maximum: 16 };
        assert_eq!(world.domains.populate_on_demand(by(BUILDER), 1, 16, 0), Err(full));
        assert_eq!(world.domains.populate(by(ONE), 1, 16, 0), Err(full));
    }

    #[test]
    fn a_large_region_is_populated_by_blocks_of_a_table() {
        // 1 GiB on demand of which 4 MiB are there, on a machine with x86-64's sizes.
        let mut world = Large::with_domains(600_000, 1, 16);
        let pages = 1 << 18;
        let options = Options { target: 0, ..options(pages) };
        world.domains.create(BUILDER, 1, &options).unwrap();
        world.domains.populate_on_demand(by(BUILDER), 1, 0, 18).unwrap();
        world.domains.set_target(by(BUILDER), 1, 1024 + 3, 100).unwrap();
        assert_eq!(world.domains.fault(1, 70_000), Ok(Order::new(9).unwrap()));
        assert_eq!(world.domains.fault(1, 0), Ok(Order::new(9).unwrap()));
        // No 2 MiB page is left: single pages.
        assert_eq!(world.domains.fault(1, 100_000), Ok(Order::PAGE));
        assert_eq!(world.summary(ONE).total(), 1027);
        // With the whole of it set aside, 1 GiB is split to 2 MiB.
        world.domains.set_target(by(BUILDER), 1, pages, 2000).unwrap();
        assert_eq!(world.domains.fault(1, 200_000), Ok(Order::new(9).unwrap()));
        assert_eq!(world.end(ONE), Torn::Done);
    }
}

mod uncleared_memory {
    use super::*;

    #[test]
    fn a_page_is_clear_when_it_gets_another_owner() {
        let mut world = Small::with_domains(190, 3, 16);
        // All of the memory that is free goes to one domain after the other.
        for round in 0..20 {
            let (from, to) = if round % 2 == 0 { (ONE, TWO) } else { (TWO, ONE) };
            for guest in 0..16 {
                if world.machine().mapped(from, guest).is_none() {
                    world.populate(from, guest, 0);
                }
                for word in 0..8 {
                    world.write(from, guest, word, u64::MAX);
                }
            }
            for guest in 0..16 {
                world.domains.decrease(by(from), from.number(), guest, 0).unwrap();
            }
            world.populate(to, 0, 2);
            for guest in 0..4 {
                assert!((0..8).all(|word| world.read(to, guest, word) == 0));
            }
            world.domains.decrease(by(to), to.number(), 0, 2).unwrap();
        }
    }

    #[test]
    fn a_page_is_clear_when_it_comes_from_what_was_set_aside() {
        let mut world = Small::with_domains(190, 1, 16);
        let options = Options { target: 0, limit: Limit::Target, ..options(16) };
        world.domains.create(BUILDER, 1, &options).unwrap();
        world.domains.populate_on_demand(by(BUILDER), 1, 0, 4).unwrap();
        world.domains.set_target(by(BUILDER), 1, 4, 9).unwrap();
        world.domains.fault(1, 0).unwrap();
        for guest in 0..4 {
            for word in 0..8 {
                world.write(ONE, guest, word, u64::MAX);
            }
        }
        // Page by page, so that they make a list.
        for guest in 0..4 {
            world.domains.decrease(by(ONE), 1, guest, 0).unwrap();
        }
        for guest in [5, 9, 13, 6] {
            world.domains.fault(1, guest).unwrap();
            assert!((0..8).all(|word| world.read(ONE, guest, word) == 0), "{guest}");
        }
    }

    #[test]
    fn a_reserved_page_is_clear_when_it_gets_its_place() {
        let mut world = Small::with_domains(190, 2, 16);
        for _ in 0..3 {
            world.domains.increase(by(ONE), 1, 2).unwrap();
        }
        assert_eq!(world.summary(ONE).reserve, 12);
        for guest in 0..12 {
            world.populate(ONE, guest, 0);
            assert!((0..8).all(|word| world.read(ONE, guest, word) == 0));
        }
        let summary = world.summary(ONE);
        assert_eq!((summary.reserve, summary.populated), (0, 12));
    }

    #[test]
    fn a_new_grant_table_is_clear() {
        let mut world = Small::with_domains(190, 3, 16);
        for guest in 0..16 {
            world.populate(TWO, guest, 0);
            for word in 0..8 {
                world.write(TWO, guest, word, 1 | 2 << 16);
            }
        }
        assert_eq!(world.end(TWO), Torn::Done);
        world.table(ONE, TABLE);
        assert!((0..8).all(|word| world.read(ONE, TABLE, word) == 0));
        world.domains.set_version(ONE, 2).unwrap();
        world.domains.show_table(ONE, 0, true, 62).unwrap();
        assert!((0..8).all(|word| world.read(ONE, 62, word) == 0));
    }

    #[test]
    fn a_copy_writes_what_was_asked_and_nothing_beside_it() {
        let mut world = granting();
        for word in 0..8 {
            world.write(ONE, 1, word, u64::MAX);
            world.write(TWO, 0, word, 0);
        }
        world.grant(ONE, TABLE, 0, TWO, 1, true);
        let from = CopyEnd { page: Page::Granted { domain: 1, reference: 0 }, offset: 0 };
        let to = CopyEnd { page: Page::Own { guest: 0 }, offset: 11 };
        world.domains.copy(TWO, &CopyRequest { from, to, bytes: 2 }).unwrap();
        assert_eq!(world.read(TWO, 0, 1), 0x0000_00ff_ff00_0000);
        assert!([0, 2, 3, 4, 5, 6, 7].iter().all(|word| world.read(TWO, 0, *word) == 0));
        // And nothing through a grant that was for reading.
        let request = CopyRequest { from: to, to: from, bytes: 1 };
        let read_only = Err(Error::ReadOnly { reference: 0 });
        assert_eq!(world.domains.copy(TWO, &request), read_only);
    }
}

#[test]
fn nobody_else_can_do_what_a_domain_or_its_builder_can() {
    let mut world = granting();
    let not_yours = |action| denied(action, ONE, Denied::NotYours);
    assert_eq!(world.domains.populate(by(TWO), 1, 20, 0), not_yours(Action::Populate));
    assert_eq!(world.domains.decrease(by(TWO), 1, 0, 0), not_yours(Action::Balloon));
    assert_eq!(world.domains.kill(by(ONE), 1), not_yours(Action::Kill));
    assert_eq!(world.domains.claim(by(ONE), 1, 1), not_yours(Action::Claim));
    assert_eq!(world.domains.tear_down(1, 1).map(drop), not_yours(Action::TearDown));
    let result = world.domains.populate_on_demand(by(ONE), 1, 20, 0);
    assert_eq!(result, not_yours(Action::PopulateOnDemand));
    let result = world.domains.check_read_state(by(TWO), 1);
    assert_eq!(result, not_yours(Action::ReadState));
    let result = world.domains.populate(Subject::Hypervisor, 1, 20, 0);
    assert_eq!(result, not_yours(Action::Populate));
}
