//! What the specification covers beyond the thesis, in layers that can be switched on one by one.

use std::fmt;
use std::str::FromStr;

/// Something that the thesis left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layer {
    /// Rights of a mapping: read, write, execute, and whether programs may use it. Without this
    /// layer every mapping allows everything, and kernel mappings are the kernel's alone.
    Permissions,
    /// `ModifyMappingH`. Needs [`Layer::Permissions`].
    Modify,
    /// `RemoveKernelMappingH`.
    KernelRemoval,
    /// Mappings larger than a page.
    Superpages,
    /// Translations that processors go on using after the tables changed, and the waiting that
    /// follows from that.
    Tlb,
    /// Memory that a device writes.
    Devices,
    /// Owners of pages other than domain 0, and sharing between them.
    Owners,
}

impl Layer {
    /// All layers.
    pub const ALL: [Self; 7] = [
        Self::Permissions,
        Self::Modify,
        Self::KernelRemoval,
        Self::Superpages,
        Self::Tlb,
        Self::Devices,
        Self::Owners,
    ];

    /// The layer's name on command lines and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permissions => "permissions",
            Self::Modify => "modify",
            Self::KernelRemoval => "kernel-removal",
            Self::Superpages => "superpages",
            Self::Tlb => "tlb",
            Self::Devices => "devices",
            Self::Owners => "owners",
        }
    }
}

/// A set of layers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layers(u8);

impl Layers {
    /// No layer: the thesis's interface.
    pub const NONE: Self = Self(0);
    /// Every layer.
    pub const ALL: Self = Self((1 << Layer::ALL.len()) - 1);

    /// Whether `layer` is switched on.
    #[must_use]
    pub const fn has(self, layer: Layer) -> bool {
        self.0 & (1 << layer as u8) != 0
    }

    /// This set and `layer`, with what `layer` needs.
    #[must_use]
    pub const fn with(self, layer: Layer) -> Self {
        let needed = match layer {
            Layer::Modify => 1 << Layer::Permissions as u8,
            _ => 0,
        };
        Self(self.0 | 1 << layer as u8 | needed)
    }

    /// This set without `layer` and what needs it.
    #[must_use]
    pub const fn without(self, layer: Layer) -> Self {
        let needing = match layer {
            Layer::Permissions => 1 << Layer::Modify as u8,
            _ => 0,
        };
        Self(self.0 & !(1 << layer as u8 | needing))
    }
}

/// A word that names no layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownLayer {
    /// The word.
    pub word: String,
}

impl fmt::Display for UnknownLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Layer::ALL.iter().map(|layer| layer.name()).collect();
        write!(formatter, "no layer is called `{}`; there are {}", self.word, names.join(", "))
    }
}

impl std::error::Error for UnknownLayer {}

impl FromStr for Layers {
    type Err = UnknownLayer;

    /// `all`, `none`, or names separated by commas.
    fn from_str(text: &str) -> Result<Self, UnknownLayer> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        text.split(',').try_fold(Self::NONE, |layers, word| {
            let found = Layer::ALL.into_iter().find(|layer| layer.name() == word.trim());
            found.map(|layer| layers.with(layer)).ok_or_else(|| UnknownLayer { word: word.into() })
        })
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return formatter.write_str("all");
        }
        let names: Vec<_> =
            Layer::ALL.into_iter().filter(|layer| self.has(*layer)).map(Layer::name).collect();
        formatter.write_str(if names.is_empty() { "none" } else { "" })?;
        formatter.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_sets_agree() {
        for text in ["all", "none", "tlb", "permissions,modify", "superpages,devices,owners"] {
            assert_eq!(
                text.parse::<Layers>().map(|layers| layers.to_string()).as_deref(),
                Ok(text)
            );
        }
        assert_eq!("modify".parse::<Layers>(), "permissions,modify".parse::<Layers>());
        assert!("tlb,cache".parse::<Layers>().is_err());
        assert_eq!(
            Layers::ALL.without(Layer::Permissions).to_string(),
            "kernel-removal,superpages,tlb,devices,owners"
        );
    }
}
