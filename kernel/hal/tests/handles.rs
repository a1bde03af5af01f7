//! What cannot be written: programs that misuse handles do not compile, and the compiler's
//! messages are checked in beside them. After a change of compiler, look at the difference and
//! renew them with `TRYBUILD=overwrite`. No message may show a part of the standard library: it does so
//! only where that is installed as source.

use std::marker::PhantomData;

use heliox_hal::cpu::CurrentCpu;

/// A type has this once, or twice if it is `Send`.
trait IsSent<Marker> {
    const CHECKED: () = ();
}

impl<T> IsSent<()> for T {}
impl<T: Send> IsSent<PhantomData<T>> for T {}

/// The proof of being on one processor cannot be sent to another, nor shared (C1). This does not compile if it
/// can: there are two constants then.
const _: () = <CurrentCpu as IsSent<_>>::CHECKED;
const _: () = <&CurrentCpu as IsSent<_>>::CHECKED;

#[test]
#[cfg_attr(miri, ignore = "starts the compiler")]
fn misused_handles_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/handles/*.rs");
}
