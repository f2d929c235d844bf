//! What the storm holds against the map, and what it found.

use std::fmt;

use serde::Serialize;

macro_rules! oracles {
    ($($(#[$doc:meta])* $name:ident => $text:literal: $rule:literal,)+) => {
        /// A rule that the storm watches over.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Oracle {
            $(#[doc = $rule] $name,)+
        }

        impl Oracle {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The rule itself.
            pub const fn rule(self) -> &'static str {
                match self {
                    $(Self::$name => $rule,)+
                }
            }
        }
    };
}

oracles! {
    Age => "age": "What is held is the VMA in force, at both ends of the hold.",
    Bounds => "bounds": "What is held covers the address, and its bounds, flags and number stay.",
    Canary => "canary": "The memory of what is held is its own, at both ends of the hold.",
    Miss => "miss": "An address that stays mapped is found by every lookup.",
    Hit => "hit": "An address that is not mapped is not found.",
    Bare => "bare": "A bare walk sees one version, of the time of the walk.",
    Border => "border": "Across a border both sides are of one version.",
    Leftover => "leftover": "After a removal no record holds what was removed.",
    Shared => "shared": "After a removal the writer has the memory alone.",
    Bounded => "bounded": "A lookup that slept takes what that section left there.",
    Nested => "nested": "Who holds a member of a write set does not sleep for that section.",
    Called => "called": "Who is called back from a wait returns while the section is still open.",
    Rounds => "rounds": "A drain does not need a second round as a rule.",
    Stuck => "stuck": "Every thread gets on, and every drain ends.",
    LateAccess => "late-access": "Nobody touches memory that was removed.",
    Error => "error": "No operation fails that cannot.",
    Panic => "panic": "No thread panics.",
    Guest => "guest": "The guest finds every value it wrote; guest, VMM and KVM count the same.",
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// Which.
    pub oracle: Oracle,
    /// What was seen.
    pub what: String,
    /// By which thread.
    pub thread: String,
    /// The last operations on the VMAs concerned, the oldest first.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VIOLATION of \"{}\" ({}) seen by {}: {}",
            self.oracle,
            self.oracle.rule(),
            self.thread,
            self.what
        )
    }
}
