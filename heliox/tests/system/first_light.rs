//! The kernel boots, runs programs in ring 3, and tells what became of them.

use heliox::boot::Via;

use super::fixtures::{c_program, demonstration, first_light};

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

#[test]
fn a_c_program_runs_and_its_status_is_the_run_s() {
    let hello = c_program("hello", include_str!("../fixtures/hello.c"));
    let outcome = first_light().module(hello.path(), "").run().unwrap();
    outcome.require_status(7).require_line("hello: hello from C");
}

#[test]
fn ring_3_may_do_what_it_may_and_nothing_else() {
    let ring3 = c_program("ring3", include_str!("../fixtures/ring3.c"));
    for via in [Via::Pvh, Via::Multiboot2] {
        let outcome = first_light()
            .module(ring3.path(), "")
            .module(ring3.path(), "and a second pattern")
            .via(via)
            .run()
            .unwrap();
        outcome.require_status(0);
        assert_eq!(outcome.tests().len(), 2 * 69);
    }
}
