//! Dividing a host's memory between domains whose memory can grow and shrink.
//!
//! Hides by which rule memory is divided, and in which order it moves. The rule is that of xapi's
//! *squeezed*: everybody gets their minimum and the same fraction, gamma, of the way to their
//! maximum. The order is: free first, allocate second; and nobody waits for ever for a domain that
//! does not give back what it is asked for.
//!
//! Invariants: a [`Range`] does not end before it begins; fractions are exact and round down, so
//! that what is handed out is never more than there is. If every domain can own at most its target
//! or, above that, what it has (libxl's policy), then what all domains can own never grows beyond
//! the host by anything that [`step`] orders.

use core::fmt;

use crate::units::KiB;

/// After this time without progress a domain is capped at what it has.
pub const CAPPED_AFTER: Milliseconds = Milliseconds(5_000);
/// After this time without progress a domain is left out.
pub const LEFT_OUT_AFTER: Milliseconds = Milliseconds(20_000);

/// A time, or a span of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milliseconds(pub u64);

/// How far a domain's memory can shrink and grow: its dynamic minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    minimum: KiB,
    maximum: KiB,
}

impl Range {
    /// From `minimum` to `maximum`, or `None` if that is less.
    #[must_use]
    pub const fn new(minimum: KiB, maximum: KiB) -> Option<Self> {
        if minimum.count() <= maximum.count() { Some(Self { minimum, maximum }) } else { None }
    }

    /// The least.
    #[must_use]
    pub const fn minimum(self) -> KiB {
        self.minimum
    }

    /// The most.
    #[must_use]
    pub const fn maximum(self) -> KiB {
        self.maximum
    }

    const fn size(self) -> u64 {
        self.maximum.count() - self.minimum.count()
    }
}

/// The fraction of the way from minimum to maximum that every domain goes: from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gamma {
    /// At most the denominator.
    numerator: u128,
    denominator: u128,
}

impl Gamma {
    /// The fraction when `available` memory is to be divided between domains with these ranges and
    /// overheads.
    pub fn new(available: KiB, domains: impl Iterator<Item = (Range, KiB)>) -> Self {
        // Amounts are below 2^43: no number of domains in memory makes these sums overflow.
        let (mut needed, mut sizes) = (0, 0);
        for (range, overhead) in domains {
            needed += u128::from(range.minimum.count()) + u128::from(overhead.count());
            sizes += u128::from(range.size());
        }
        let surplus = u128::from(available.count()).saturating_sub(needed);
        // If nobody can grow it does not matter; one is the answer when all have their maximum.
        if sizes == 0 {
            return Self { numerator: 1, denominator: 1 };
        }
        Self { numerator: surplus.min(sizes), denominator: sizes }
    }

    /// What a domain with this range gets.
    #[must_use]
    pub fn target(self, range: Range) -> KiB {
        let part = u128::from(range.size()) * self.numerator / self.denominator;
        let part = u64::try_from(part).ok().and_then(KiB::new).unwrap_or_default();
        range.minimum.saturating_add(part)
    }

    /// The fraction in millionths, for people.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        (self.numerator * 1_000_000 / self.denominator) as u32
    }
}

impl fmt::Display for Gamma {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millionths = self.millionths();
        write!(formatter, "{}.{:03}", millionths / 1_000_000, millionths / 1000 % 1000)
    }
}

/// How a domain answers to what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attitude {
    /// It is on its way to its target, or there.
    Cooperative,
    /// It made no progress for [`CAPPED_AFTER`], and was capped at what it has.
    Capped,
    /// It made no progress for [`LEFT_OUT_AFTER`]. What it has counts as gone, until it moves or
    /// is forgiven.
    LeftOut,
}

/// What a domain, or the hypervisor about it, is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The domain's target is now this.
    Target(KiB),
    /// The domain must not own more than this, whatever its target.
    Cap(KiB),
    /// The cap is lifted: the domain cooperates again.
    Uncap,
}

/// How far balancing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Some domains give memory back; nobody gets any yet.
    Freeing,
    /// Memory was freed; some domains grow.
    Allocating,
    /// Everybody that cooperates has what they are to have.
    Balanced,
    /// Even with everybody at their minimum, this much is missing.
    Short(KiB),
}

/// A domain that takes part in balancing.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    range: Range,
    overhead: KiB,
    actual: KiB,
    target: KiB,
    attitude: Attitude,
    /// The most that it may own, whatever its target.
    cap: Option<KiB>,
    /// When it last came nearer to its target, or got another.
    progress: Milliseconds,
}

impl Member {
    /// A domain with this range, that needs `overhead` beside its memory and has `actual` at
    /// `now`.
    #[must_use]
    pub const fn new(range: Range, overhead: KiB, actual: KiB, now: Milliseconds) -> Self {
        let attitude = Attitude::Cooperative;
        Self { range, overhead, actual, target: actual, attitude, cap: None, progress: now }
    }

    /// What it has, as last told.
    #[must_use]
    pub const fn actual(&self) -> KiB {
        self.actual
    }

    /// What it is to have.
    #[must_use]
    pub const fn target(&self) -> KiB {
        self.target
    }

    /// How it answers.
    #[must_use]
    pub const fn attitude(&self) -> Attitude {
        self.attitude
    }

    /// The most that it is to own until told otherwise: its target, or what it was capped at.
    #[must_use]
    pub fn limit(&self) -> KiB {
        self.cap.map_or(self.target, |cap| cap.min(self.target))
    }

    /// The most that it can have until told otherwise, and its overhead, under libxl's policy.
    #[must_use]
    pub fn claim(&self) -> KiB {
        self.limit().max(self.actual).saturating_add(self.overhead)
    }

    /// Take note that it has `actual` memory at `now`.
    pub fn observe(&mut self, actual: KiB, now: Milliseconds) {
        let distance = |amount: KiB| amount.count().abs_diff(self.target.count());
        if distance(actual) < distance(self.actual) {
            self.progress = now;
        }
        self.actual = actual;
    }

    /// Change how far it can shrink and grow.
    pub const fn set_range(&mut self, range: Range) {
        self.range = range;
    }

    /// Take it as cooperative from `now` on, whatever it did before.
    pub const fn forgive(&mut self, now: Milliseconds) {
        self.progress = now;
    }

    /// What its silence until `now` says about it.
    fn judge(&mut self, now: Milliseconds, tell: &mut impl FnMut(Order)) {
        let silent = now.0.saturating_sub(self.progress.0);
        // Who was left out is not back just because nothing is asked of it any more.
        let at_rest = self.actual == self.target && self.attitude != Attitude::LeftOut;
        let attitude = if at_rest || silent < CAPPED_AFTER.0 {
            Attitude::Cooperative
        } else if silent < LEFT_OUT_AFTER.0 {
            Attitude::Capped
        } else {
            Attitude::LeftOut
        };
        match (self.attitude, attitude) {
            (Attitude::Cooperative, Attitude::Capped | Attitude::LeftOut) => {
                self.cap = Some(self.actual);
                tell(Order::Cap(self.actual));
            }
            (Attitude::Capped | Attitude::LeftOut, Attitude::Cooperative) => {
                self.cap = None;
                tell(Order::Uncap);
            }
            _ => {}
        }
        self.attitude = attitude;
    }

    fn order(&mut self, target: KiB, now: Milliseconds, tell: &mut impl FnMut(Order)) {
        if self.target != target {
            // Asking for a little more or less does not start its time anew: or two domains that
            // do not cooperate could, by what each has, keep the other from being left out.
            if self.actual.cmp(&self.target) != self.actual.cmp(&target) {
                self.progress = now;
            }
            self.target = target;
            tell(Order::Target(target));
        }
    }
}

/// One round of balancing `host` memory between `members`, at `now`: looks at what they have, and
/// tells some of them something (`tell`, with the member's place).
///
/// To be called again while memory moves, after [`Member::observe`], and whenever members or their
/// ranges change.
pub fn step(
    host: KiB,
    members: &mut [Member],
    now: Milliseconds,
    mut tell: impl FnMut(usize, Order),
) -> Phase {
    for (place, member) in members.iter_mut().enumerate() {
        member.judge(now, &mut |order| tell(place, order));
    }
    let left_out = |member: &&Member| member.attitude == Attitude::LeftOut;
    // What those that are left out have, or could still take, is gone.
    let gone = members
        .iter()
        .filter(left_out)
        .fold(KiB::ZERO, |sum, member| sum.saturating_add(member.claim()));
    let available = host.saturating_sub(gone);
    let taking_part = || members.iter().filter(|member| !left_out(member));
    let gamma = Gamma::new(available, taking_part().map(|member| (member.range, member.overhead)));
    let least = taking_part().fold(KiB::ZERO, |sum, member| {
        sum.saturating_add(member.range.minimum.saturating_add(member.overhead))
    });
    let freeing = taking_part().any(|member| member.actual > gamma.target(member.range));
    let missing = least.saturating_sub(available);
    let mut growing = false;
    for (place, member) in members.iter_mut().enumerate() {
        let mut tell = |order| tell(place, order);
        let wanted = gamma.target(member.range);
        if member.attitude == Attitude::LeftOut {
            // It may still shrink to what it was asked for, but nothing is promised to it.
            let target = member.target.min(member.actual);
            if target != member.target {
                member.target = target;
                tell(Order::Target(target));
            }
        } else if member.actual > wanted {
            member.order(wanted, now, &mut tell);
        } else if freeing || missing > KiB::ZERO {
            // What it was promised before and has not taken is taken back.
            member.order(member.actual, now, &mut tell);
        } else {
            growing |= member.actual < wanted;
            member.order(wanted, now, &mut tell);
        }
    }
    if missing > KiB::ZERO {
        Phase::Short(missing)
    } else if freeing {
        Phase::Freeing
    } else if growing {
        Phase::Allocating
    } else {
        Phase::Balanced
    }
}
