//! The hardware abstraction layer.

#![cfg_attr(not(test), no_std)]

#[cfg(target_os = "none")]
mod x86_64;

#[cfg(target_os = "none")]
pub use x86_64::*;

/// Makes `$main`, a `fn(Hal) -> !`, the client kernel: the HAL calls it when the machine is its.
#[macro_export]
macro_rules! kernel_main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn heliox_kernel_main(hal: $crate::Hal) -> ! {
            let main: fn($crate::Hal) -> ! = $main;
            main(hal)
        }
    };
}
