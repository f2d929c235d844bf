//! What writers do, and how often.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An operation of a writer. Each is one write section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Op {
    /// Maps a region that was absent, with new memory.
    Plug,
    /// Removes a region, or two at once, then poisons and unmaps the memory.
    Unplug,
    /// Makes two VMAs of one.
    Split,
    /// Changes the flags of all of a region, or a part: which splits it, or merges
    /// what a split has left.
    Protect,
    /// Moves a region to other addresses.
    Move,
    /// Removes a region and maps it again with new memory, in one section.
    Replace,
    /// Moves the border between two regions.
    Border,
    /// Keeps a section open until the readers that wait for it were called back.
    Call,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Plug,
        Self::Unplug,
        Self::Split,
        Self::Protect,
        Self::Move,
        Self::Replace,
        Self::Border,
        Self::Call,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Unplug => "unplug",
            Self::Split => "split",
            Self::Protect => "protect",
            Self::Move => "move",
            Self::Replace => "replace",
            Self::Border => "border",
            Self::Call => "call",
        }
    }

    /// Whether a running guest can bear it.
    pub(super) const fn is_for_kvm(self) -> bool {
        matches!(
            self,
            Self::Plug | Self::Unplug | Self::Split | Self::Protect
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How often each operation is chosen, in shares of the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix([u32; Op::ALL.len()]);

impl Mix {
    /// These shares, and none of the other operations.
    pub const fn of<const N: usize>(shares: [(Op, u32); N]) -> Self {
        let mut all = [0; Op::ALL.len()];
        let mut i = 0;
        while i < N {
            all[shares[i].0 as usize] = shares[i].1;
            i += 1;
        }
        Self(all)
    }

    /// The share of an operation.
    pub const fn share(&self, op: Op) -> u32 {
        self.0[op as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|share| *share == 0)
    }

    /// Whether something in it wants regions that come and go.
    pub(super) fn wants_volatile(&self) -> bool {
        [Op::Plug, Op::Unplug, Op::Move]
            .iter()
            .any(|op| self.share(*op) > 0)
    }

    pub(super) fn first_without_kvm(&self) -> Option<Op> {
        Op::ALL
            .into_iter()
            .find(|op| self.share(*op) > 0 && !op.is_for_kvm())
    }

    /// Chooses one.
    pub(super) fn choose(&self, random: &mut fastrand::Rng) -> Op {
        let sum: u64 = self.0.iter().copied().map(u64::from).sum();
        let mut at = random.u64(0..sum.max(1));
        for op in Op::ALL {
            let share = u64::from(self.share(op));
            if at < share {
                return op;
            }
            at -= share;
        }
        Op::Protect
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for op in Op::ALL.into_iter().filter(|op| self.share(*op) > 0) {
            write!(f, "{comma}{op}={}", self.share(op))?;
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for Mix {
    type Err = String;

    /// As it is displayed: `plug=40,unplug=40,split=10`. What is not named is not done.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Op::ALL.map(Op::name).join(", ");
        let mut mix = Self::default();
        for pair in text.split(',') {
            let (name, share) = pair
                .split_once('=')
                .ok_or_else(|| format!("'{pair}' is no OPERATION=SHARE"))?;
            let op = Op::ALL.into_iter().find(|op| op.name() == name);
            let op = op.ok_or_else(|| format!("'{name}' is none of {}", names()))?;
            mix.0[op as usize] = share
                .parse()
                .map_err(|_| format!("{name}: '{share}' is no share: write a number"))?;
        }
        match mix.is_empty() {
            true => Err(format!("all shares are 0; there are {}", names())),
            false => Ok(mix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_what_it_says() {
        let mix: Mix = "plug=40,unplug=40,split=10,protect=10".parse().unwrap();
        assert_eq!(mix.share(Op::Plug), 40);
        assert_eq!(mix.to_string().parse(), Ok(mix));
        let mut random = fastrand::Rng::with_seed(1);
        let mut chosen = [0; Op::ALL.len()];
        (0..10_000).for_each(|_| chosen[mix.choose(&mut random) as usize] += 1);
        assert!((3_700..4_300).contains(&chosen[0]), "{chosen:?}");
        assert!((800..1_200).contains(&chosen[2]), "{chosen:?}");
        assert_eq!(chosen[Op::Move as usize], 0);
    }

    #[test]
    fn a_bad_mix_is_refused() {
        for bad in [
            "", "plug", "plug=", "plug=x", "plugs=1", "plug=0", "plug=1,", "plug=-1",
        ] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
