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
            // In a larger domain a table more can be missing on the way, or one less.
            assert!(one.tables.abs_diff(other.tables) <= 1, "{smallest:?} {:?}", larger[place]);
            assert!(one.status.abs_diff(other.status) <= 1, "{smallest:?} {:?}", larger[place]);
            assert_eq!(one.memory, other.memory, "{smallest:?} {:?}", larger[place]);
        }
    }
}

#[test]
fn a_large_extent_costs_less_than_40_pages() {
    let all = costs(1 << 16);
    let total = |name: &str| {
        let cost: Option<&Cost> = all.iter().find(|cost| cost.name == name);
        cost.unwrap().accesses.total()
    };
    for operation in ["populate", "decrease", "reserve", "set aside"] {
        let page = total(&format!("{operation}, one page"));
        let large = total(&format!("{operation}, order 9"));
        assert!(large < 40 * page, "{operation}: {large} and {page} accesses");
    }
}
