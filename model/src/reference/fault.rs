//! Faults that can be planted in the reference implementation.

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Fault {
            $($(#[doc = $doc])* $name,)*
        }

        impl Fault {
            /// All faults.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What is wrong.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*)),*
                }
            }
        }
    };
}

faults! {
    /// A region is derived that ends one page behind the one it comes from.
    DeriveBeyondRegion,
    /// A page-map page is made without looking at the page's status.
    CreateIgnoresStatus,
    /// A page-map page is made of a page that is mapped.
    CreateIgnoresReferences,
    /// A page-map page is made of a page that a processor may still write to.
    CreateIgnoresStaleTranslations,
    /// A page-map page keeps what the page contained.
    CreateKeepsContents,
    /// A page-map page is released without changing its status.
    ReleaseKeepsStatus,
    /// The last entry of the kernel's half is not copied into a new directory.
    AllocateCopiesTooLittle,
    /// A directory is made of a page that is nobody's.
    AllocateIgnoresOwner,
    /// A directory is freed that has mappings.
    FreeIgnoresMappings,
    /// A directory is freed that another processor translates with.
    FreeIgnoresOtherProcessors,
    /// A directory is freed and stays loaded.
    FreeStaysLoaded,
    /// A freed directory keeps the kernel's half.
    FreeKeepsContents,
    /// A page is mapped whatever its status.
    AddIgnoresStatus,
    /// Only the first page of a large page is looked at.
    AddLooksAtFirstPageOnly,
    /// A large page is mapped at an address that is not a multiple of its size.
    AddIgnoresAlignment,
    /// A page is mapped whoever owns it.
    AddIgnoresOwner,
    /// A mapping is not counted.
    AddForgetsReference,
    /// What was mapped is mapped over.
    AddIgnoresPresentMapping,
    /// The last page of user space can be mapped.
    AddIgnoresUserEnd,
    /// A new table keeps the status of a page-map page.
    AddForgetsTableStatus,
    /// The first entry of a new table is not counted.
    AddForgetsEntryCount,
    /// A mapping is given rights that the share does not allow.
    AddIgnoresShareRights,
    /// A share is used by somebody else than the one whom it is for.
    AddIgnoresGrantee,
    /// A share is used for other memory of its owner.
    AddIgnoresSharedRegion,
    /// A mapping of shared memory is not marked.
    AddForgetsForeign,
    /// A mapping allows writing though only reading was asked for.
    AddAllowsWriting,
    /// A removed mapping is still counted.
    RemoveForgetsReference,
    /// The processor that removes a mapping keeps it cached.
    RemoveForgetsInvalidation,
    /// Other processors do not owe a flush for a removed mapping.
    RemoveForgetsDebt,
    /// A page that was unmapped does not wait for other processors.
    RemoveForgetsStamp,
    /// A table that became empty stays.
    RemoveKeepsEmptyTable,
    /// A table is taken out that has an entry left.
    RemoveFreesTableTooEarly,
    /// A table that was taken out does not wait for other processors.
    RemoveForgetsDraining,
    /// The processor that takes out a table keeps its position cached.
    RemoveForgetsFlush,
    /// The mapping behind the one that was meant is removed.
    RemoveTakesTheNext,
    /// A mapping made through a share gains rights.
    ModifyUpgradesForeign,
    /// The processor that takes rights away keeps the old ones cached.
    ModifyForgetsInvalidation,
    /// Other processors do not owe a flush when rights are taken away.
    ModifyForgetsDebt,
    /// A mapping whose rights are changed is no longer marked as foreign.
    ModifyForgetsForeign,
    /// All parts of a large page that is split lead to its first frame.
    SplitRepeatsFirstFrame,
    /// The parts of a large page that is split allow everything.
    SplitAllowsEverything,
    /// The processor that splits a large page keeps it cached.
    SplitForgetsFlush,
    /// A kernel mapping is made whatever the page's status.
    KernelAddIgnoresStatus,
    /// A kernel mapping is made whoever owns the page.
    KernelAddIgnoresOwner,
    /// A kernel mapping is not counted.
    KernelAddForgetsReference,
    /// A page is mapped for the kernel a second time.
    KernelAddIgnoresPresentMapping,
    /// Every kernel mapping can be used by programs.
    KernelAddShowsPrograms,
    /// A page is mapped for the kernel that programs may still use at the same address.
    KernelAddIgnoresStaleTranslations,
    /// A removed kernel mapping stays in the tables.
    KernelRemoveKeepsEntry,
    /// A removed kernel mapping is still counted.
    KernelRemoveForgetsReference,
    /// Other processors do not owe a flush for a kernel mapping that programs could use.
    KernelRemoveForgetsDebt,
    /// The processor that removes a kernel mapping keeps it cached.
    KernelRemoveForgetsInvalidation,
    /// The kernel writes through a mapping that allows reading only.
    KernelWritesReadOnly,
    /// A processor keeps its cached translations when it loads another directory.
    ExecuteForgetsFlush,
    /// It is not recorded which directory a processor loads.
    ExecuteForgetsRecord,
    /// A processor pays what it owes without dropping anything.
    EnterForgetsFlush,
    /// A processor that owes a flush of everything drops user space only.
    EnterFlushesTooLittle,
    /// A table is reclaimed while a processor may walk through it.
    ReclaimIgnoresOtherProcessors,
    /// Memory of a domain is assigned to another.
    AssignIgnoresOwner,
    /// Memory is released by somebody else than its owner.
    ReleaseIgnoresOwner,
    /// Memory is released that is mapped or shared.
    ReleaseIgnoresReferences,
    /// Memory is released that a processor may still write to.
    ReleaseIgnoresStaleTranslations,
    /// Released memory keeps what it contained.
    ReleaseKeepsContents,
    /// Memory is shared by somebody else than its owner.
    ShareIgnoresOwner,
    /// Memory that is shared can be released.
    ShareForgetsReference,
    /// A share that ended is still counted.
    EndShareForgetsReference,
}
