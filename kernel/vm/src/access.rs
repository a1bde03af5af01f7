//! The access rules: who may do what to a domain, and who may look into its memory.
//!
//! Hides the rules, and is the only place where they are. Every operation on a domain begins with
//! `decide`, which answers with a `Permit` for one action; and the layer below gives access to
//! what is in a page only for a [`Window`], which only a permit opens, for the purposes that its
//! action has: the table of those is checked by the compiler. So:
//!
//! 1. no page of a domain is visible to the hypervisor but through a window, which names one page
//!    and one purpose and ends with the operation;
//! 2. memory is mapped into the space of its owner, or by a share that its owner's grant made;
//! 3. a builder reaches the domain that it builds until that is sealed; afterwards nobody does;
//! 4. a page is cleared when its owner changes, and when it is set aside for later (purpose
//!    [`Purpose::Clearing`]);
//! 5. a grant's page is opened for the copy that its owner granted, and no longer;
//! 6. the registers of a domain's processors and its memory image are not shown to anybody once
//!    it is sealed.
//!
//! What a builder can still do to a sealed domain is what changes no memory of it: set its target,
//! claim, kill. A domain whose builder is gone has none.

use core::fmt;
use core::marker::PhantomData;

use heliox_types::Frame;

use crate::guest::DomainId;

/// What is to be done to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Give it memory, at guest frames or for later.
    Populate,
    /// Mark guest frames that get memory when they are used.
    PopulateOnDemand,
    /// Write into its memory from outside.
    Build,
    /// Measure it and shut everybody out.
    Seal,
    /// Take memory from it.
    Balloon,
    /// Change its target.
    SetTarget,
    /// Claim memory for it.
    Claim,
    /// Let it use a guest frame that is to get memory when it is used.
    Fault,
    /// Do what it asked for with its own memory and grant table.
    UseOwn,
    /// Use what it granted to another.
    UseGranted,
    /// Stop using what it granted to another.
    EndGranted,
    /// Read the registers of its processors, or dump it.
    ReadState,
    /// End it.
    Kill,
    /// Free what it had.
    TearDown,
}

/// How far a domain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being built, or runs.
    Running,
    /// It is being measured; nobody reaches its memory any more, and it does not run.
    Sealing,
    /// It used memory that there was none for, and is stopped.
    Crashed,
    /// It was ended; its memory is being freed.
    Dying,
}

/// What the rules depend on of the domain that something is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The domain.
    pub domain: DomainId,
    /// Who builds it, unless that domain is gone.
    pub builder: Option<DomainId>,
    /// How far it has come.
    pub phase: Phase,
    /// Whether it was measured, and so shut to its builder.
    pub is_sealed: bool,
}

/// Who asks: a domain, or the hypervisor for its own reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The hypervisor.
    Hypervisor,
    /// A domain.
    Domain(DomainId),
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor => formatter.write_str("the hypervisor"),
            Self::Domain(domain) => write!(formatter, "domain {domain}"),
        }
    }
}

/// Why something must not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The domain is dying.
    Dying,
    /// The domain has crashed.
    Crashed,
    /// The domain is being measured.
    Sealing,
    /// The domain was sealed, which shuts its builder out.
    Sealed,
    /// Only the domain itself, or only its builder, may do that.
    NotYours,
}

/// The permission for an action on a domain.
#[derive(Debug)]
pub(crate) struct Permit<A> {
    domain: DomainId,
    action: PhantomData<A>,
}

/// Decide whether `subject` may do `A` to a domain.
pub(crate) fn decide<A: Acts>(subject: Subject, standing: &Standing) -> Result<Permit<A>, Denied> {
    may(subject, A::ACTION, standing)?;
    Ok(Permit { domain: standing.domain, action: PhantomData })
}

/// The rules.
fn may(subject: Subject, action: Action, standing: &Standing) -> Result<(), Denied> {
    use Action as A;
    let is_self = subject == Subject::Domain(standing.domain);
    let is_builder = standing.builder.is_some_and(|builder| subject == Subject::Domain(builder));
    let is_hypervisor = subject == Subject::Hypervisor;
    // Who.
    let is_theirs = match action {
        A::Populate | A::Balloon | A::ReadState => is_self || is_builder,
        A::PopulateOnDemand | A::Build | A::Seal => is_builder,
        A::SetTarget | A::Claim | A::Kill => is_builder || is_hypervisor,
        A::UseOwn => is_self,
        // The grant is the consent.
        A::UseGranted | A::EndGranted => !is_self && !is_hypervisor,
        A::Fault | A::TearDown => is_hypervisor,
    };
    if !is_theirs {
        return Err(Denied::NotYours);
    }
    // When.
    let reaches_memory = matches!(
        action,
        A::Populate | A::PopulateOnDemand | A::Balloon | A::Build | A::Seal | A::ReadState
    );
    match (standing.phase, action) {
        (_, A::EndGranted) | (Phase::Dying, A::TearDown) => Ok(()),
        (Phase::Dying, _) => Err(Denied::Dying),
        (_, A::TearDown) => Err(Denied::NotYours),
        (_, A::Kill | A::SetTarget | A::Claim) => Ok(()),
        // A sealed domain stays out of its builder's reach, whatever became of it.
        _ if reaches_memory && standing.is_sealed && !is_self => Err(Denied::Sealed),
        (Phase::Crashed, A::ReadState | A::UseGranted) => Ok(()),
        (Phase::Crashed, _) => Err(Denied::Crashed),
        (Phase::Sealing, A::Seal) => Ok(()),
        (Phase::Sealing, _) => Err(Denied::Sealing),
        (Phase::Running, _) => Ok(()),
    }
}

/// What a page is looked into for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// To fill it with zeros.
    Clearing,
    /// To keep a list of pages that are set aside, in those pages.
    SettingAside,
    /// To see whether it has zeros only, when memory ran out.
    SearchingZeros,
    /// To measure it.
    Measuring,
    /// To write what its builder puts there.
    Building,
    /// To use it as a grant table.
    GrantTable,
    /// To copy from or to it, as its owner granted or asked.
    Copying,
}

/// The permission to look into one page, for one purpose.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    owner: DomainId,
    frame: Frame,
    purpose: Purpose,
}

impl Window {
    /// Whose page it is.
    #[must_use]
    pub const fn owner(&self) -> DomainId {
        self.owner
    }

    /// The page.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }

    /// What for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl<A> Permit<A> {
    /// The domain.
    pub(crate) const fn domain(&self) -> DomainId {
        self.domain
    }

    /// A window onto one of the domain's pages.
    pub(crate) fn window<P: LooksFor>(&self, frame: Frame) -> Window
    where
        A: Opens<P>,
    {
        Window { owner: self.domain, frame, purpose: P::PURPOSE }
    }
}

/// A type that stands for an [`Action`].
pub(crate) trait Acts {
    const ACTION: Action;
}

/// A type that stands for a [`Purpose`].
pub(crate) trait LooksFor {
    const PURPOSE: Purpose;
}

/// An action for which pages are looked into for the purpose `P`.
pub(crate) trait Opens<P> {}

/// An action that can need a page where none is left: it looks for one among those set aside, and
/// then for zeros.
pub(crate) trait FindsPages:
    Opens<purpose::SettingAside> + Opens<purpose::SearchingZeros>
{
}

impl<A: Opens<purpose::SettingAside> + Opens<purpose::SearchingZeros>> FindsPages for A {}

macro_rules! types {
    ($trait:ident, $constant:ident, $of:ident: $($name:ident)*) => {
        $(
            #[derive(Debug)]
            pub(crate) enum $name {}

            impl super::$trait for $name {
                const $constant: super::$of = super::$of::$name;
            }
        )*
    };
}

/// The purposes as types.
pub(crate) mod purpose {
    types! {
        LooksFor, PURPOSE, Purpose:
        Clearing SettingAside SearchingZeros Measuring Building GrantTable Copying
    }
}

/// The actions as types, and what each looks into pages for.
pub(crate) mod action {
    use super::Opens;
    use super::purpose::{
        Building, Clearing, Copying, GrantTable, Measuring, SearchingZeros, SettingAside,
    };

    types! {
        Acts, ACTION, Action:
        Populate PopulateOnDemand Build Seal Balloon SetTarget Claim Fault UseOwn UseGranted
        EndGranted ReadState Kill TearDown
    }

    macro_rules! opens {
        ($($action:ident: $($purpose:ident)*;)*) => {
            $($(impl Opens<$purpose> for $action {})*)*
        };
    }

    opens! {
        Populate: SettingAside;
        Build: Building;
        Seal: Measuring;
        Balloon: Clearing SettingAside;
        SetTarget: SettingAside;
        Fault: SettingAside SearchingZeros;
        UseOwn: SettingAside SearchingZeros Clearing GrantTable Copying;
        UseGranted: SettingAside SearchingZeros GrantTable Copying;
        EndGranted: GrantTable;
        TearDown: SettingAside GrantTable;
    }
}
