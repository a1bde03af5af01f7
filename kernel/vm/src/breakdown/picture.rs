//! The picture of a domain's memory: blocks from the outside in, and brackets beside them.
//!
//! Hides where a bracket begins and ends; it is told as amounts from the top of the picture, so
//! that whoever draws it needs no formula. Invariant: the spans lie within the blocks, and each
//! begins and ends as the constructor of its policy says.
//!
//! The picture is that of xenops (`xenops/memory.ml`), with one block more, the shim, and one
//! bracket corrected: what Xen allows at most ends where the policy says, which for xenops is the
//! end of the balloon.

use core::fmt;

use super::PlanError;
use crate::units::KiB;

/// A part of a domain's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// The hypervisor's pool for the domain's page tables, nested or shadow. It belongs to no
    /// domain and does not count towards the maximum.
    Shadow,
    /// What else the hypervisor needs for the domain and does not account to it.
    ExtraExternal,
    /// What is accounted to the domain beside its memory, such as small device memories.
    ExtraInternal,
    /// The small hypervisor of a PV-in-PVH domain.
    Shim,
    /// Video memory, populated by the device model.
    Video,
    /// Memory that the guest has when it starts.
    Guest,
    /// Memory that the guest can get later.
    Balloon,
}

impl Block {
    /// All blocks, from the top of the picture to its bottom.
    pub const ALL: [Self; 7] = [
        Self::Shadow,
        Self::ExtraExternal,
        Self::ExtraInternal,
        Self::Shim,
        Self::Video,
        Self::Guest,
        Self::Balloon,
    ];
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Shadow => "shadow",
            Self::ExtraExternal => "extra external",
            Self::ExtraInternal => "extra internal",
            Self::Shim => "shim",
            Self::Video => "video",
            Self::Guest => "guest",
            Self::Balloon => "balloon",
        })
    }
}

/// A sum of neighbouring blocks that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bracket {
    /// What the domain needs beside its target.
    Overhead,
    /// The most memory that the domain can have.
    StaticMaximum,
    /// The memory that its builder lays out.
    BuildMaximum,
    /// The memory that its builder populates.
    BuildStart,
    /// The memory that it has at first: its target.
    Actual,
    /// The most that the hypervisor lets it own.
    XenMaximum,
    /// What it takes from the host.
    Footprint,
}

impl Bracket {
    /// All brackets, in the order of the picture, from left to right.
    pub const ALL: [Self; 7] = [
        Self::Overhead,
        Self::StaticMaximum,
        Self::BuildMaximum,
        Self::BuildStart,
        Self::Actual,
        Self::XenMaximum,
        Self::Footprint,
    ];
}

impl fmt::Display for Bracket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Overhead => "overhead",
            Self::StaticMaximum => "static maximum",
            Self::BuildMaximum => "build maximum",
            Self::BuildStart => "build start",
            Self::Actual => "actual",
            Self::XenMaximum => "xen maximum",
            Self::Footprint => "footprint",
        })
    }
}

/// A stretch of the picture, as amounts from its top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: KiB,
    end: KiB,
}

impl Span {
    /// Where it begins.
    #[must_use]
    pub const fn start(self) -> KiB {
        self.start
    }

    /// Where it ends.
    #[must_use]
    pub const fn end(self) -> KiB {
        self.end
    }

    /// How much memory it is.
    #[must_use]
    pub const fn size(self) -> KiB {
        self.end.saturating_sub(self.start)
    }
}

/// The amounts that a picture is made of. `shadow` to `balloon` are the blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amounts {
    pub(super) shadow: KiB,
    pub(super) extra_external: KiB,
    pub(super) extra_internal: KiB,
    pub(super) shim: KiB,
    pub(super) video: KiB,
    pub(super) guest: KiB,
    pub(super) balloon: KiB,
    /// How much of the shim the builder populates before the domain starts.
    pub(super) shim_at_start: KiB,
    /// Whether the builder populates everything that it lays out.
    pub(super) all_at_start: bool,
    /// Whether the hypervisor lets the domain have its static maximum, or its target.
    pub(super) limit_is_static: bool,
}

/// The blocks and brackets of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Where each block begins, in the order of [`Block::ALL`], and where the last ends.
    shadow: Span,
    extra_external: Span,
    extra_internal: Span,
    shim: Span,
    video: Span,
    guest: Span,
    balloon: Span,
    build_maximum: Span,
    build_start: Span,
    xen_maximum: Span,
}

impl Picture {
    /// # Errors
    /// [`PlanError::TooLarge`] if the sum is more than physical addresses can name.
    pub(super) fn new(amounts: &Amounts) -> Result<Self, PlanError> {
        let mut end = KiB::ZERO;
        let mut below = |size: KiB| {
            let start = end;
            end = start.checked_add(size).ok_or(PlanError::TooLarge)?;
            Ok(Span { start, end })
        };
        let shadow = below(amounts.shadow)?;
        let extra_external = below(amounts.extra_external)?;
        let extra_internal = below(amounts.extra_internal)?;
        let shim = below(amounts.shim)?;
        let video = below(amounts.video)?;
        let guest = below(amounts.guest)?;
        let balloon = below(amounts.balloon)?;
        // A domain with a shim has no video memory: the builder's part is in one piece.
        let top = if amounts.shim == KiB::ZERO { guest.start } else { shim.start };
        let build_maximum = Span { start: top, end: balloon.end };
        let build_start = if amounts.all_at_start {
            build_maximum
        } else {
            Span { start: guest.start.saturating_sub(amounts.shim_at_start), end: guest.end }
        };
        let xen_end = if amounts.limit_is_static { balloon.end } else { guest.end };
        let xen_maximum = Span { start: extra_internal.start, end: xen_end };
        Ok(Self {
            shadow,
            extra_external,
            extra_internal,
            shim,
            video,
            guest,
            balloon,
            build_maximum,
            build_start,
            xen_maximum,
        })
    }

    /// Where a block lies. Blocks that a domain does not have are empty.
    #[must_use]
    pub const fn block(&self, block: Block) -> Span {
        match block {
            Block::Shadow => self.shadow,
            Block::ExtraExternal => self.extra_external,
            Block::ExtraInternal => self.extra_internal,
            Block::Shim => self.shim,
            Block::Video => self.video,
            Block::Guest => self.guest,
            Block::Balloon => self.balloon,
        }
    }

    /// Where a bracket begins and ends.
    #[must_use]
    pub const fn span(&self, bracket: Bracket) -> Span {
        match bracket {
            Bracket::Overhead => Span { start: KiB::ZERO, end: self.shim.end },
            Bracket::StaticMaximum => Span { start: self.video.start, end: self.balloon.end },
            Bracket::BuildMaximum => self.build_maximum,
            Bracket::BuildStart => self.build_start,
            Bracket::Actual => Span { start: self.video.start, end: self.guest.end },
            Bracket::XenMaximum => self.xen_maximum,
            Bracket::Footprint => Span { start: KiB::ZERO, end: self.guest.end },
        }
    }

    /// All of it.
    #[must_use]
    pub const fn total(&self) -> KiB {
        self.balloon.end
    }
}
