#![allow(missing_docs)]
use heliox_model::{thesis::Model, unwinding};
fn main() {
    let a: Vec<u8> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let model = Model::new(a[0], a[1]);
    let t = std::time::Instant::now();
    let explored = unwinding::explore(&model, 3_000_000);
    eprintln!(
        "{} states, {} transitions, complete {} {:?}",
        explored.states.len(),
        explored.transitions.iter().flatten().map(|x| x.1.len()).sum::<usize>(),
        explored.complete,
        t.elapsed()
    );
    let cases = unwinding::check(&model, &explored);
    eprintln!("{:?}", t.elapsed());
    for c in &cases {
        println!(
            "{:?} {} {:?}: {} compared, {} broken",
            c.condition, c.action, c.domain, c.compared, c.broken
        );
        if let Some(x) = &c.counterexample {
            println!(
                "  {:?}\n   {:?}\n   -> {:?}",
                explored.actions[x.action], explored.states[x.first.0], explored.states[x.first.1]
            );
            if let Some(y) = x.second {
                println!("   {:?}\n   -> {:?}", explored.states[y.0], explored.states[y.1]);
            }
        }
    }
}
