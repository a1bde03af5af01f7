//! What a case is, and how it fails.

use crate::stage::Stage;

/// Why a case failed: what was looked at, and the two numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

/// What a case and its parts answer.
pub(crate) type Checked<T = ()> = Result<T, Failure>;

/// A case: the rules that it shows, separated by spaces, and what it does.
pub(crate) struct Case {
    pub(crate) rules: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Stage) -> Checked,
}

impl Case {
    /// The group of its first rule.
    pub(crate) fn group(&self) -> &'static str {
        self.rules.split('-').next().unwrap_or("")
    }

    /// Whether it belongs to what was asked for: a group, a rule, or everything.
    pub(crate) fn is_of(&self, wanted: &str) -> bool {
        wanted.is_empty()
            || self.group() == wanted
            || self.rules.split(' ').any(|rule| rule == wanted)
            || self.name == wanted
    }
}

/// Makes a table of cases from lines `"RULES" => function`.
macro_rules! cases {
    ($($rules:literal => $function:ident,)+) => {
        pub(crate) const CASES: &[crate::case::Case] = &[
            $(crate::case::Case { rules: $rules, name: stringify!($function), run: $function },)+
        ];
    };
}
pub(crate) use cases;

/// Fails unless two numbers are equal.
pub(crate) fn equal(what: &'static str, expected: u64, found: u64) -> Checked {
    if expected == found { Ok(()) } else { Err(Failure { what, expected, found }) }
}

/// Fails unless a condition holds.
pub(crate) fn holds(what: &'static str, condition: bool) -> Checked {
    equal(what, 1, u64::from(condition))
}

/// Fails unless `found` is at least `least`.
pub(crate) fn at_least(what: &'static str, least: u64, found: u64) -> Checked {
    if found >= least { Ok(()) } else { Err(Failure { what, expected: least, found }) }
}

/// Fails unless `found` is at most `most`.
pub(crate) fn at_most(what: &'static str, most: u64, found: u64) -> Checked {
    if found <= most { Ok(()) } else { Err(Failure { what, expected: most, found }) }
}

/// Fails.
pub(crate) fn fail<T>(what: &'static str, found: u64) -> Checked<T> {
    Err(Failure { what, expected: 0, found })
}
