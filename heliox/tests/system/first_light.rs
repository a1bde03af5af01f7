//! The main demonstration ends well, however it is booted.

use heliox::bare::DEMONSTRATION;
use heliox::boot::{Boot, Via};

fn demonstration() -> Boot {
    let programs = DEMONSTRATION.iter();
    programs.fold(Boot::new(), |boot, name| boot.program(name, ""))
}

#[test]
fn through_pvh() {
    demonstration().run().unwrap().require_status(0);
}

#[test]
fn through_multiboot2() {
    let run = demonstration().via(Via::Multiboot2).run();
    run.unwrap().require_status(0);
}

#[test]
fn twice_the_same_to_the_byte() {
    let run = || demonstration().icount(true).run().unwrap();
    let (first, second) = (run(), run());
    first.require_status(0).require_line("[info] ");
    assert_eq!(first.text(), second.text());
}
