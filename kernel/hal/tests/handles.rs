//! What cannot be written: programs that misuse handles do not compile, and the compiler's
//! messages are checked in beside them. After a change of compiler, look at the difference and
//! renew them with `TRYBUILD=overwrite`.

#[test]
#[cfg_attr(miri, ignore = "starts the compiler")]
fn misused_handles_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/handles/*.rs");
}
