//! Costs do not grow with the size of a domain, and large pages are worth it.

mod common;

use common::costs::{Cost, costs};

#[test]
fn costs_are_those_of_the_operation_and_not_of_the_domain() {
    // 64 MiB, 1 GiB, 4 GiB.
    let sizes = [1 << 14, 1 << 18, 1 << 20];
    let all = sizes.map(costs);
    for (place, smallest) in all[0].iter().enumerate() {
        for larger in &all[1..] {
            let (one, other) = (smallest.accesses, larger[place].accesses);
            // In a larger domain a table more can be missing on the way, or one less, which has a
            // record that is checked and changed, with those of the blocks around it.
            assert!(one.tables.abs_diff(other.tables) <= 3, "{smallest:?} {:?}", larger[place]);
            // After a block changed hands, that of its 1 GiB is told if all its parts have: which is
            // found within a table's worth.
            let most = if smallest.name.ends_with("order 9") { 512 + 8 } else { 8 };
            assert!(one.status.abs_diff(other.status) <= most, "{smallest:?} {:?}", larger[place]);
            assert_eq!(one.window, other.window, "{smallest:?} {:?}", larger[place]);
            assert_eq!(one.memory, other.memory, "{smallest:?} {:?}", larger[place]);
        }
    }
}

#[test]
fn a_large_extent_costs_less_than_40_pages() {
    let all = costs(1 << 16);
    let of = |name: &str| {
        let cost: Option<&Cost> = all.iter().find(|cost| cost.name == name);
        cost.unwrap().accesses
    };
    for operation in ["populate", "decrease", "set aside"] {
        let page = of(&format!("{operation}, one page")).total();
        let block = of(&format!("{operation}, order 9")).total();
        assert!(block < 40 * page, "{operation}: {block} and {page} accesses");
    }
    // Each of the 512 pages has a record of its own, 8 bytes long, that says whose it is. Where it
    // is changed and nothing else is done, that is more than 40 pages, but not in what the processor
    // fetches: eight records at once.
    let (page, block) = (of("reserve, one page"), of("reserve, order 9"));
    assert!(block.total() < 512 + 16, "{block:?}");
    assert!(block.total_lines() < 40 * page.total_lines(), "{page:?} {block:?}");
}
