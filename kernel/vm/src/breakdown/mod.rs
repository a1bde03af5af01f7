//! The memory breakdown of a domain: which amounts of memory it needs, and what for.
//!
//! Hides how the amounts follow from a domain's options, which differs between control programs
//! and their versions: the submodule `xenops` has the formulas of three generations of xenops
//! and xapi, `libxl` those of the library that Xen's own tools use. Both end in the same
//! [`Picture`] of blocks, and in the same questions: what does the domain need, what is the
//! largest that fits, what does a change cost.
//!
//! Invariants: a [`Shape`] has `video < target <= static_max <= 2^52` bytes and at most
//! [`VirtualCpus::MAX`] virtual CPUs, and a [`Multiplier`] is at most 1000, so that no formula
//! overflows 64 bits; the blocks of a picture, added up, are what its brackets say.

pub mod libxl;
pub mod picture;
pub mod xenops;

use core::fmt;
use core::str::FromStr;

use crate::units::{KiB, MiB};

pub use picture::{Block, Bracket, Picture, Span};
pub use xenops::Generation;

/// How a domain is virtualised, as far as its memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A whole machine with emulated devices, a screen among them.
    Hvm,
    /// Hardware virtualisation without emulated devices.
    Pvh,
    /// A paravirtualised kernel, such as Linux as it first ran on Xen.
    Pv,
    /// A paravirtualised kernel that runs on a small hypervisor of its own (the *shim*) inside of
    /// a PVH domain.
    PvInPvh,
}

impl Kind {
    /// Whether a domain of this kind can have video memory.
    #[must_use]
    pub const fn can_have_video(self) -> bool {
        matches!(self, Self::Hvm | Self::Pvh)
    }

    /// Whether a domain of this kind can be populated on demand by the hypervisor around it.
    #[must_use]
    pub const fn can_populate_on_demand(self) -> bool {
        matches!(self, Self::Hvm | Self::Pvh)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hvm => "HVM",
            Self::Pvh => "PVH",
            Self::Pv => "PV",
            Self::PvInPvh => "PV-in-PVH",
        })
    }
}

/// A number of virtual CPUs: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualCpus(u16);

impl VirtualCpus {
    /// One.
    pub const ONE: Self = Self(1);
    /// The most that Xen's interface can number for one domain.
    pub const MAX: Self = Self(8192);

    /// `count` virtual CPUs, or `None` for none and beyond [`Self::MAX`].
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        if count >= 1 && count <= Self::MAX.0 { Some(Self(count)) } else { None }
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0 as u64
    }
}

/// What a domain's shadow memory is multiplied with: a decimal number from 0 to 1000 with at most
/// six places, kept exactly. (xapi computes with binary fractions, which differ by one MiB where a
/// product is a whole number and the fraction is not.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiplier {
    millionths: u64,
}

impl Multiplier {
    /// Times one.
    pub const ONE: Self = Self { millionths: 1_000_000 };
    /// The largest, a thousand.
    pub const MAX: Self = Self { millionths: 1_000_000_000 };

    /// A multiplier in millionths, or `None` beyond [`Self::MAX`].
    #[must_use]
    pub const fn from_millionths(millionths: u64) -> Option<Self> {
        if millionths <= Self::MAX.millionths { Some(Self { millionths }) } else { None }
    }

    /// `amount` times this, without its fraction.
    const fn times(self, amount: u64) -> u64 {
        amount * self.millionths / Self::ONE.millionths
    }
}

/// A text is not a [`Multiplier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMultiplier;

impl fmt::Display for NotAMultiplier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not a number from 0 to 1000 with at most six decimal places")
    }
}

impl core::error::Error for NotAMultiplier {}

impl FromStr for Multiplier {
    type Err = NotAMultiplier;

    fn from_str(text: &str) -> Result<Self, NotAMultiplier> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(NotAMultiplier),
            Some(parts) => parts,
            None => (text, ""),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        // Four digits are enough for 1000.
        if whole.is_empty() || whole.len() > 4 || fraction.len() > 6 {
            return Err(NotAMultiplier);
        }
        if !is_number(whole) || !is_number(fraction) {
            return Err(NotAMultiplier);
        }
        let digits = whole.bytes().chain(fraction.bytes());
        let read = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        let missing = (fraction.len()..6).fold(1, |power, _| power * 10);
        Self::from_millionths(read * missing).ok_or(NotAMultiplier)
    }
}

impl fmt::Display for Multiplier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, mut fraction) = (self.millionths / 1_000_000, self.millionths % 1_000_000);
        let mut places = 6;
        while fraction != 0 && fraction % 10 == 0 {
            fraction /= 10;
            places -= 1;
        }
        if fraction == 0 {
            write!(formatter, "{whole}")
        } else {
            write!(formatter, "{whole}.{fraction:0places$}")
        }
    }
}

/// Why there is no breakdown for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The target is more than the maximum.
    TargetAboveMaximum {
        /// The target.
        target: KiB,
        /// The static maximum.
        static_max: KiB,
    },
    /// The target leaves the guest no memory.
    TargetTooSmall {
        /// The target.
        target: KiB,
        /// The least that would do.
        least: KiB,
    },
    /// Only kinds with hardware virtualisation have video memory.
    NoVideo {
        /// The kind that has none.
        kind: Kind,
    },
    /// The video adapter does not work with so little memory.
    VideoTooSmall {
        /// What it was given.
        video: KiB,
        /// The least that it works with.
        least: KiB,
    },
    /// This generation has no domains of this kind.
    NotInGeneration {
        /// The kind.
        kind: Kind,
        /// The generation.
        generation: Generation,
    },
    /// libxl has no memory model for this kind.
    NotInLibxl {
        /// The kind.
        kind: Kind,
    },
    /// An amount does not fit into physical addresses.
    TooLarge,
}

impl fmt::Display for PlanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TargetAboveMaximum { target, static_max } => {
                write!(formatter, "the target, {target}, is above the static maximum, {static_max}")
            }
            Self::TargetTooSmall { target, least } => {
                write!(
                    formatter,
                    "the target, {target}, is too small: it has to be at least {least}"
                )
            }
            Self::NoVideo { kind } => write!(formatter, "a {kind} domain has no video memory"),
            Self::VideoTooSmall { video, least } => write!(
                formatter,
                "the video adapter needs at least {least} of video memory, not {video}"
            ),
            Self::NotInGeneration { kind, generation } => {
                write!(formatter, "generation {generation} has no {kind} domains")
            }
            Self::NotInLibxl { kind } => {
                write!(formatter, "libxl has no {kind} domains: it builds them as PVH")
            }
            Self::TooLarge => {
                write!(formatter, "the domain needs more memory than physical addresses can name")
            }
        }
    }
}

impl core::error::Error for PlanError {}

/// The options of a domain that every policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    kind: Kind,
    static_max: KiB,
    target: KiB,
    video: KiB,
    vcpus: VirtualCpus,
}

impl Shape {
    /// A domain of `kind` that can have up to `static_max` of memory and has `target` when it
    /// starts, both with its `video` memory.
    ///
    /// # Errors
    /// [`PlanError::TargetAboveMaximum`]; [`PlanError::TargetTooSmall`] if the video memory leaves
    /// nothing of it; [`PlanError::NoVideo`].
    pub fn new(
        kind: Kind,
        static_max: KiB,
        target: KiB,
        video: KiB,
        vcpus: VirtualCpus,
    ) -> Result<Self, PlanError> {
        if target > static_max {
            return Err(PlanError::TargetAboveMaximum { target, static_max });
        }
        if !kind.can_have_video() && video > KiB::ZERO {
            return Err(PlanError::NoVideo { kind });
        }
        if target <= video {
            let least = video.saturating_add(KiB::from(ONE_MIB));
            return Err(PlanError::TargetTooSmall { target, least });
        }
        Ok(Self { kind, static_max, target, video, vcpus })
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The most memory that it can have.
    #[must_use]
    pub const fn static_max(&self) -> KiB {
        self.static_max
    }

    /// The memory that it is to have.
    #[must_use]
    pub const fn target(&self) -> KiB {
        self.target
    }

    /// The video memory, which is part of both.
    #[must_use]
    pub const fn video(&self) -> KiB {
        self.video
    }

    /// The number of virtual CPUs.
    #[must_use]
    pub const fn vcpus(&self) -> VirtualCpus {
        self.vcpus
    }

    /// The same domain with another target.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_target(&self, target: KiB) -> Result<Self, PlanError> {
        Self::new(self.kind, self.static_max, target, self.video, self.vcpus)
    }

    /// The same domain with another static maximum.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_static_max(&self, static_max: KiB) -> Result<Self, PlanError> {
        Self::new(self.kind, static_max, self.target, self.video, self.vcpus)
    }

    /// The same domain with `amount` as static maximum and target.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_both(&self, amount: KiB) -> Result<Self, PlanError> {
        Self::new(self.kind, amount, amount, self.video, self.vcpus)
    }
}

const ONE_MIB: MiB = match MiB::new(1) {
    Some(amount) => amount,
    None => MiB::ZERO,
};

/// Whose formulas, with their own options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// xenops and xapi.
    Xenops {
        /// Which generation of them.
        generation: Generation,
        /// What the shadow memory is multiplied with.
        shadow_multiplier: Multiplier,
    },
    /// libxl: the default.
    Libxl(libxl::Options),
}

impl Default for Policy {
    fn default() -> Self {
        Self::Libxl(libxl::Options::default())
    }
}

impl Policy {
    /// The breakdown of a domain under this policy.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self, shape: &Shape) -> Result<Plan, PlanError> {
        match self {
            Self::Xenops { generation, shadow_multiplier } => {
                xenops::plan(*generation, shape, *shadow_multiplier).map(Plan::Xenops)
            }
            Self::Libxl(options) => libxl::plan(shape, options).map(Plan::Libxl),
        }
    }

    /// The largest domain like `shape`, with its target as its static maximum, whose footprint is
    /// at most `free`, to the MiB; `None` if not even one MiB for the guest fits.
    ///
    /// # Errors
    /// What is wrong with `shape` whatever its size.
    pub fn largest_domain(&self, shape: &Shape, free: KiB) -> Result<Option<Shape>, PlanError> {
        self.largest(free, |amount| shape.with_both(amount))
    }

    /// The largest target of `shape`, with its static maximum as it is, whose footprint is at most
    /// `free`, to the MiB; `None` if not even one MiB for the guest fits.
    ///
    /// # Errors
    /// What is wrong with `shape` whatever its target.
    pub fn largest_target(&self, shape: &Shape, free: KiB) -> Result<Option<Shape>, PlanError> {
        self.largest(free, |amount| shape.with_target(amount))
    }

    /// The largest amount for which `make` gives a shape that fits. A footprint never shrinks when
    /// the target or the static maximum grows, so halving finds it.
    fn largest(
        &self,
        free: KiB,
        make: impl Fn(KiB) -> Result<Shape, PlanError>,
    ) -> Result<Option<Shape>, PlanError> {
        let (mut best, mut low, mut high) = (None, 1, MiB::from_free(free).count());
        while low <= high {
            let middle = low + (high - low) / 2;
            let amount = MiB::new(middle).map_or(KiB::MAX, KiB::from);
            let tried = make(amount).and_then(|shape| Ok((shape, self.plan(&shape)?)));
            match tried {
                Ok((shape, plan)) if plan.footprint() <= free => {
                    best = Some(shape);
                    low = middle + 1;
                }
                Err(PlanError::TargetTooSmall { .. }) => low = middle + 1,
                Ok(_) | Err(PlanError::TargetAboveMaximum { .. } | PlanError::TooLarge) => {
                    high = middle - 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(best)
    }
}

/// The breakdown of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// By xenops.
    Xenops(xenops::Plan),
    /// By libxl.
    Libxl(libxl::Plan),
}

impl Plan {
    /// The blocks, and the sums of blocks that have names.
    #[must_use]
    pub const fn picture(&self) -> &Picture {
        match self {
            Self::Xenops(plan) => &plan.picture,
            Self::Libxl(plan) => &plan.picture,
        }
    }

    /// The memory of the host that the domain needs now: what has to be free to start it.
    #[must_use]
    pub fn footprint(&self) -> KiB {
        self.picture().span(Bracket::Footprint).size()
    }

    /// What the domain needs beside its target.
    #[must_use]
    pub fn overhead(&self) -> KiB {
        self.picture().span(Bracket::Overhead).size()
    }

    /// What it costs to go from `self` to `after`.
    #[must_use]
    pub fn cost_of_change(&self, after: &Self) -> Cost {
        Cost {
            overhead: signed(after.overhead()) - signed(self.overhead()),
            footprint: signed(after.footprint()) - signed(self.footprint()),
        }
    }
}

/// What a change of a domain's options costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// How much the overhead grows, in KiB; negative if it shrinks.
    pub overhead: i64,
    /// How much more memory of the host is needed, in KiB; negative if some becomes free.
    pub footprint: i64,
}

/// An amount that can be subtracted from. It is below 2^43.
const fn signed(amount: KiB) -> i64 {
    amount.count().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_exact() {
        for (text, times_1000) in [
            ("1", 1000),
            ("0", 0),
            ("1.5", 1500),
            ("1.001", 1001),
            ("0.999999", 999),
            ("1000", 1_000_000),
        ] {
            let multiplier: Multiplier = text.parse().unwrap();
            assert_eq!(multiplier.times(1000), times_1000, "{text}");
            assert_eq!(std::format!("{multiplier}"), text);
        }
        assert_eq!("2.500".parse::<Multiplier>().unwrap(), "2.5".parse().unwrap());
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1000.000001",
            "0.0000001",
            "99999",
            "1,5",
            "NaN",
        ] {
            assert_eq!(text.parse::<Multiplier>(), Err(NotAMultiplier), "{text}");
        }
    }
}
