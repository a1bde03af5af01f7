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
    for operation in ["populate", "set aside"] {
        let page = of(&format!("{operation}, one page")).total();
        let block = of(&format!("{operation}, order 9")).total();
        assert!(block < 40 * page, "{operation}: {block} and {page} accesses");
    }
    // Each of the 512 pages has a record of its own, 8 bytes long, that says whose it is. To give a
    // block away each is changed; to take it away, checked and changed: eight at once, as the
    // processor fetches them. Where there is little else to do, that is more than 40 pages.
    for operation in ["reserve", "decrease"] {
        let block = of(&format!("{operation}, order 9"));
        assert!(block.total() < 3 * 512, "{operation}: {block:?}");
        assert!(block.total_lines() < 512 / 2, "{operation}: {block:?}");
    }
}
