//! The first program that runs on Heliox: it says who it is, reads the clock, sleeps and
//! computes.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_l4::println;

heliox_l4::program!(main);

fn main() -> u8 {
    let mut buffer = [0; 256];
    let command_line = heliox_l4::command_line(&mut buffer);
    println!("hello from ring 3; I was started as \"{command_line}\"");

    let before = heliox_l4::clock();
    heliox_l4::sleep_until(before + 1000);
    let after = heliox_l4::clock();
    println!("the clock showed {before} us, and after a sleep of 1000 us {after} us");
    if after < before + 1000 {
        println!("that was not a sleep of 1000 us");
        return 1;
    }

    let mut largest = (0, 0);
    for start in 1..1000_u64 {
        let steps = collatz_steps(start);
        if steps > largest.1 {
            largest = (start, steps);
        }
    }
    println!("below 1000, {} takes the most Collatz steps: {}", largest.0, largest.1);
    if largest != (871, 178) {
        println!("that is not so: it is 871 with 178");
        return 1;
    }
    0
}

/// How often `number` must be halved, or tripled and increased, until it is 1.
fn collatz_steps(mut number: u64) -> u32 {
    let mut steps = 0;
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}
