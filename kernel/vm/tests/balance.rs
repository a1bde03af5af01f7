//! Balancing: the rule on worked examples, and simulated hosts with domains that obey, dawdle,
//! ignore what they are asked, or take what they can.

use heliox_vm::balance::{
    Attitude, CAPPED_AFTER, Gamma, LEFT_OUT_AFTER, Member, Milliseconds, Order, Phase, Range, step,
};
use heliox_vm::units::{KiB, MiB};
use proptest::prelude::*;

fn mib(count: u64) -> KiB {
    MiB::new(count).unwrap().into()
}

fn range(minimum: u64, maximum: u64) -> Range {
    Range::new(mib(minimum), mib(maximum)).unwrap()
}

#[test]
fn everybody_goes_the_same_part_of_the_way() {
    let domains =
        [(range(1024, 4096), mib(40)), (range(512, 1536), mib(24)), (range(256, 256), mib(8))];
    // Of 4096 MiB of room in all, these amounts are there.
    for (available, targets) in [
        (1024 + 512 + 256 + 72, [1024, 512, 256]),
        (1024 + 512 + 256 + 72 + 2048, [2560, 1024, 256]),
        (100_000, [4096, 1536, 256]),
        (10, [1024, 512, 256]),
    ] {
        let gamma = Gamma::new(mib(available), domains.into_iter());
        let found = domains.map(|(range, _)| gamma.target(range));
        assert_eq!(found, targets.map(mib), "{available}");
    }
    let gamma = Gamma::new(mib(1024 + 512 + 256 + 72 + 1024), domains.into_iter());
    assert_eq!((gamma.millionths(), gamma.to_string()), (250_000, "0.250".to_owned()));
    assert_eq!(Gamma::new(mib(1), std::iter::empty()).to_string(), "1.000");
}

#[test]
fn ranges_do_not_end_before_they_begin() {
    assert_eq!(Range::new(mib(2), mib(1)), None);
}

/// What a test saw.
#[derive(Default)]
struct Told(Vec<(usize, Order)>);

impl Told {
    fn step(&mut self, host: u64, members: &mut [Member], now: u64) -> Phase {
        self.0.clear();
        step(mib(host), members, Milliseconds(now), |place, order| self.0.push((place, order)))
    }
}

#[test]
fn memory_is_freed_before_it_is_given() {
    let start = Milliseconds(0);
    let mut members = [
        Member::new(range(1024, 4096), mib(0), mib(4096), start),
        Member::new(range(1024, 4096), mib(0), mib(1024), start),
    ];
    let mut told = Told::default();
    // Surplus 3072 of 6144: half of the way for both.
    assert_eq!(told.step(5120, &mut members, 0), Phase::Freeing);
    assert_eq!(told.0, [(0, Order::Target(mib(2560)))]);
    members[0].observe(mib(3000), Milliseconds(100));
    assert_eq!(told.step(5120, &mut members, 100), Phase::Freeing);
    assert!(told.0.is_empty());
    members[0].observe(mib(2560), Milliseconds(200));
    assert_eq!(told.step(5120, &mut members, 200), Phase::Allocating);
    assert_eq!(told.0, [(1, Order::Target(mib(2560)))]);
    members[1].observe(mib(2560), Milliseconds(300));
    assert_eq!(told.step(5120, &mut members, 300), Phase::Balanced);
    assert!(told.0.is_empty());
}

#[test]
fn who_does_not_cooperate_is_capped_and_then_left_out() {
    let start = Milliseconds(0);
    let mut members = [
        Member::new(range(1024, 4096), mib(0), mib(4096), start),
        Member::new(range(1024, 4096), mib(0), mib(1024), start),
    ];
    let mut told = Told::default();
    let (capped, left_out) = (CAPPED_AFTER.0, LEFT_OUT_AFTER.0);
    assert_eq!(told.step(5632, &mut members, 0), Phase::Freeing);
    assert_eq!(told.step(5632, &mut members, capped - 1), Phase::Freeing);
    assert!(told.0.is_empty());
    assert_eq!(told.step(5632, &mut members, capped), Phase::Freeing);
    assert_eq!(told.0, [(0, Order::Cap(mib(4096)))]);
    assert_eq!(members[0].attitude(), Attitude::Capped);
    assert_eq!(told.step(5632, &mut members, left_out - 1), Phase::Freeing);
    // Without it, 1536 MiB are left for the other.
    assert_eq!(told.step(5632, &mut members, left_out), Phase::Allocating);
    assert_eq!(told.0, [(1, Order::Target(mib(1536)))]);
    assert_eq!(members[0].attitude(), Attitude::LeftOut);
    // As soon as it moves it takes part again.
    members[1].observe(mib(1536), Milliseconds(left_out + 1));
    members[0].observe(mib(4000), Milliseconds(left_out + 1));
    assert_eq!(told.step(5632, &mut members, left_out + 1), Phase::Freeing);
    assert_eq!(told.0[0], (0, Order::Uncap));
}

#[test]
fn a_host_that_is_too_small_is_told_by_how_much() {
    let mut members = [
        Member::new(range(1024, 4096), mib(10), mib(1024), Milliseconds(0)),
        Member::new(range(1024, 4096), mib(10), mib(512), Milliseconds(0)),
    ];
    let mut told = Told::default();
    assert_eq!(told.step(2000, &mut members, 0), Phase::Short(mib(68)));
    // Nobody is promised what is not there.
    assert!(told.0.is_empty());
}

/// How a simulated domain behaves.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Moves this many KiB nearer to its target in each round.
    Obeys(u64),
    /// Never moves.
    Ignores,
    /// Takes what it may and gives nothing back.
    Greedy,
    /// Gives one page back just often enough to look alive.
    Pretends,
}

fn behaviours() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        4 => (1_u64..2_000_000).prop_map(Behaviour::Obeys),
        1 => Just(Behaviour::Ignores),
        1 => Just(Behaviour::Greedy),
        1 => Just(Behaviour::Pretends),
    ]
}

prop_compose! {
    fn domains()(
        minimum in 1_000_u64..1_000_000,
        room in 0_u64..4_000_000,
        start in 0_u64..1_000_000,
        overhead in 0_u64..100_000,
        behaviour in behaviours(),
    ) -> (Range, KiB, u64, Behaviour) {
        let [least, most, overhead] =
            [minimum, minimum + room, overhead].map(|size| KiB::new(size).unwrap());
        let actual = minimum + start % (room + 1);
        (Range::new(least, most).unwrap(), overhead, actual, behaviour)
    }
}

/// What a domain does in one round, given what it has, what it may have, and the time.
fn behave(behaviour: Behaviour, actual: u64, target: u64, round: u64) -> u64 {
    match behaviour {
        Behaviour::Obeys(speed) if actual > target => actual - speed.min(actual - target),
        Behaviour::Obeys(speed) => actual + speed.min(target - actual),
        Behaviour::Ignores => actual,
        Behaviour::Greedy => actual.max(target),
        Behaviour::Pretends if actual > target && round.is_multiple_of(4) => actual - 4,
        Behaviour::Pretends => actual.max(target),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn targets_add_up_to_no_more_than_there_is(
        domains in prop::collection::vec(domains(), 1..12), available in 0_u64..40_000_000,
    ) {
        let each = || domains.iter().map(|(range, overhead, ..)| (*range, *overhead));
        let available = KiB::new(available).unwrap();
        let gamma = Gamma::new(available, each());
        let mut sum = 0;
        let mut least = 0;
        for (range, overhead) in each() {
            let target = gamma.target(range);
            prop_assert!(range.minimum() <= target && target <= range.maximum());
            sum += target.count() + overhead.count();
            least += range.minimum().count() + overhead.count();
        }
        prop_assert!(sum <= available.count().max(least));
        // Rounding loses less than a KiB for each.
        if gamma.millionths() < 1_000_000 && least <= available.count() {
            prop_assert!(sum + domains.len() as u64 > available.count());
        }
    }

    /// Whatever domains do, what all of them can own never grows beyond the host; and those that
    /// cooperate end with their share.
    #[test]
    fn simulated_hosts_come_to_rest(
        domains in prop::collection::vec(domains(), 1..8), spare in 0_u64..4_000_000,
    ) {
        let start = Milliseconds(0);
        let mut members: Vec<_> = domains
            .iter()
            .map(|(range, overhead, actual, _)| {
                Member::new(*range, *overhead, KiB::new(*actual).unwrap(), start)
            })
            .collect();
        let claims = |members: &[Member]| members.iter().map(|member| member.claim().count()).sum::<u64>();
        let host = KiB::new(claims(&members) + spare).unwrap();
        let mut at_rest = 0;
        for round in 0_u64..8_000 {
            let now = Milliseconds(round * 500);
            let phase = step(host, &mut members, now, |_, _| {});
            prop_assert!(claims(&members) <= host.count());
            prop_assert!(!matches!(phase, Phase::Short(_)));
            for (member, (.., behaviour)) in members.iter_mut().zip(&domains) {
                let (actual, target) = (member.actual().count(), member.target().count());
                let after = behave(*behaviour, actual, target, round);
                member.observe(KiB::new(after).unwrap(), now);
            }
            at_rest = if phase == Phase::Balanced { at_rest + 1 } else { 0 };
            if at_rest > 2 {
                break;
            }
        }
        let pretenders = domains.iter().any(|(.., it)| matches!(it, Behaviour::Pretends));
        let slow = domains.iter().any(|(.., it)| matches!(it, Behaviour::Obeys(speed) if *speed < 1000));
        prop_assert!(at_rest > 2 || pretenders || slow, "{members:?}");
        if at_rest > 2 {
            for (member, (.., behaviour)) in members.iter().zip(&domains) {
                if matches!(behaviour, Behaviour::Obeys(_)) {
                    prop_assert_eq!(member.actual(), member.target());
                    prop_assert!(member.attitude() == Attitude::Cooperative);
                }
            }
        }
    }
}
