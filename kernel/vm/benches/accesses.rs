//! What operations on domains cost: accesses to page tables, to records of pages (status), to the 64-byte
//! lines that those lie in, to memory, and to the window through which that is seen, as the simulated
//! machine counts them, without clearing.

#[path = "../tests/common/mod.rs"]
mod common;

use common::costs::costs;

fn main() {
    // 64 MiB, 1 GiB, 16 GiB.
    let sizes = [(1 << 14, "64 MiB"), (1 << 18, "1 GiB"), (1 << 22, "16 GiB")];
    let all = sizes.map(|(pages, _)| costs(pages));
    print!("{:<28}", "domain of");
    for (_, size) in sizes {
        print!("{size:>40}");
    }
    print!("\n{:<28}", "accesses to");
    for _ in sizes {
        print!("{:>8}{:>8}{:>8}{:>8}{:>8}", "tables", "status", "lines", "memory", "window");
    }
    println!();
    for (place, cost) in all[0].iter().enumerate() {
        print!("{:<28}", cost.name);
        for costs in &all {
            let cost = &costs[place];
            let accesses = cost.accesses;
            print!("{:>8}{:>8}{:>8}", accesses.tables, accesses.status, accesses.lines);
            print!("{:>8}{:>8}", accesses.memory, accesses.window);
        }
        println!();
    }
}
