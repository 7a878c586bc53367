//! Mutants that compute the same as the kernel, and why.

use super::Mutant;
use crate::statement::Kind;

struct Equivalent {
    /// Begin of the entry's name.
    entry: &'static str,
    kinds: &'static [Kind],
    /// Begin of the line.
    statement: &'static str,
    /// Which of several such lines of an entry; 0: each of them.
    repeat: usize,
    reason: &'static str,
}

const ALL_LANES: &str = "a butterfly has left the same value in every lane, and lanes of one instruction may store the same";
const CONTINUOUS: &str = "on both sides of the bound the two branches have the same value";
const LEADER: &[Kind] = &[Kind::Negated, Kind::Constant];

const EQUIVALENTS: &[Equivalent] = &[
    Equivalent {
        entry: "attention_forward_f32",
        kinds: LEADER,
        statement: "setp.eq.u32 %first_lane, %lane_column, 0",
        repeat: 0,
        reason: ALL_LANES,
    },
    Equivalent {
        entry: "contrastive_backward",
        kinds: &[Kind::Bound],
        statement: "setp.ge.or.u32 %same, %own_item",
        repeat: 0,
        reason: "a cell behind the last has scores of 0, and no place for its slopes",
    },
    Equivalent {
        entry: "contrastive_forward",
        kinds: LEADER,
        statement: "setp.eq.u32 %writes, %met_lane, 0",
        repeat: 0,
        reason: ALL_LANES,
    },
    Equivalent {
        entry: "contrastive_forward",
        kinds: &[Kind::Guard],
        statement: "@%writes st.shared.v2.f32 [%warp",
        repeat: 0,
        reason: "both lanes that share a text have the same sums",
    },
    Equivalent {
        entry: "contrastive_forward",
        kinds: &[Kind::Bound],
        statement: "setp.gt.or.f32 %wins",
        repeat: 0,
        reason: "of equal products either is the largest",
    },
    Equivalent { entry: "cross_entropy", kinds: LEADER, statement: "setp.eq.u32 %leader, %lane, 0", repeat: 0, reason: ALL_LANES },
    Equivalent { entry: "l2_normalize", kinds: LEADER, statement: "setp.eq.u32 %first, %lane, 0", repeat: 0, reason: ALL_LANES },
    Equivalent { entry: "layer_norm", kinds: LEADER, statement: "setp.eq.u32 %first, %lane, 0", repeat: 0, reason: ALL_LANES },
    Equivalent { entry: "pool_score", kinds: LEADER, statement: "setp.eq.u32 %first, %lane, 0", repeat: 0, reason: ALL_LANES },
    Equivalent { entry: "activation", kinds: &[Kind::Bound], statement: "setp.lt.f32 %near, %size", repeat: 0, reason: CONTINUOUS },
    Equivalent {
        entry: "l2_normalize",
        kinds: &[Kind::Bound],
        statement: "setp.lt.f32 %short, %norm, %eps",
        repeat: 0,
        reason: CONTINUOUS,
    },
    Equivalent {
        entry: "topk_select_f32_euclidean",
        kinds: &[Kind::Swap],
        statement: "sub.rn.f32 %gap,",
        repeat: 0,
        reason: "the difference is squared",
    },
];

/// Why a mutant is none; nothing for one that should be caught.
pub(crate) fn reason(mutant: &Mutant) -> Option<&'static str> {
    let same = |known: &&Equivalent| {
        mutant.places[0].0.starts_with(known.entry)
            && known.kinds.contains(&mutant.kind)
            && mutant.original.starts_with(known.statement)
            && [0, mutant.repeat].contains(&known.repeat)
    };
    EQUIVALENTS.iter().find(same).map(|known| known.reason)
}
