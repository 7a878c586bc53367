//! Classes that a batch joins.

use std::collections::BTreeMap;

/// Sets of class numbers, each under its smallest; a class that was joined to none is its own.
#[derive(Debug, Default)]
pub(super) struct Classes {
    smaller: BTreeMap<u32, u32>,
}

impl Classes {
    /// Makes two classes one.
    pub(super) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.of(one), self.of(other));
        if one != other {
            self.smaller.insert(one.max(other), one.min(other));
        }
    }

    /// The number under which a class goes.
    pub(super) fn of(&self, mut class: u32) -> u32 {
        while let Some(&smaller) = self.smaller.get(&class) {
            class = smaller;
        }
        class
    }
}
