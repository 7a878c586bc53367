//! Rows of few distinct logits, the same in every element type, so that tokens are compared as they are, and ties abound.

use super::{Choose, NOTHING, choose};
use crate::Result;
use crate::runtime::{Float, Real, Stream, Tensor};
use crate::testing::{Bindings, Case, Fill, Op};

/// What a case sets; the rest is as in greedy choice.
#[derive(Clone, Copy)]
struct Settings {
    temperature: f64,
    top_k: usize,
    min_p: f64,
    top_p: f64,
    penalty: f32,
    lists: bool,
}

const GREEDY: Settings = Settings { temperature: 0.0, top_k: 0, min_p: 0.0, top_p: 1.0, penalty: 1.0, lists: false };
const DRAWN: Settings = Settings { temperature: 1.0, ..GREEDY };

impl Op for Settings {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let Settings { temperature, top_k, min_p, top_p, penalty, lists } = *self;
        let list = |name| lists.then(|| t.index(name));
        let tokens = t.index("tokens");
        let args = Choose {
            tokens,
            log_probabilities: t.accumulated("log_probabilities"),
            logits: t.value("logits"),
            hidden: list("hidden"),
            barred: list("barred"),
            seen: list("seen"),
            repetition_penalty: penalty,
            random: t.index("random"),
            temperature,
            top_k,
            min_p,
            top_p,
        };
        choose(stream, args)?;
        upload_indices::<T>(stream, tokens, t.accumulated("found"))
    }
}

/// Indices as numbers, so that they are compared.
fn upload_indices<T: Float>(stream: &Stream, indices: Tensor<u32>, found: Tensor<T::Acc>) -> Result<()> {
    let values: Vec<_> = stream.fetch(indices)?.into_iter().map(|index| T::Acc::of(f64::from(index))).collect();
    stream.upload(found, &values)
}

/// One class, primes, more than one chunk of a warp; each cut alone and all of them; hidden, barred and penalised tokens; rows that are all
/// equal, with NaN and infinities, and without any number; and a language model's vocabulary.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, (rows, classes): (usize, usize), logits: Vec<f64>, settings: Settings| {
        Case::new(format!("{rows}x{classes}_{name}"), settings)
            .fixed("logits", [rows, classes], Fill::Values(logits))
            // In the first row of `steps` the largest logit is that of 27, 128, 229, 330, ..: each list takes one of them away.
            .index("hidden", [3], Fill::Integers(vec![27, 1, classes as u32]))
            .index("barred", [2], Fill::Integers(vec![128, NOTHING]))
            .index("seen", [rows, 4], Fill::Integers(vec![229, 9, 12, NOTHING, 9]))
            .index("random", [rows, 2], Fill::Below(u32::MAX))
            .index("tokens", [rows], Fill::Integers(vec![0]))
            .statistic("log_probabilities", [rows])
            .statistic("found", [rows])
            .bytes(4 * rows * classes)
            .forward_only()
    };
    let steps = || (0..1009).map(|step| f64::from(step * 389 % 101) / 8.0 - 7.0).collect::<Vec<_>>();
    let few = || vec![1.0, -0.0, 0.0, 1.0, -2.0];
    let all = Settings { temperature: 0.75, top_k: 40, min_p: 0.001, top_p: 0.9, penalty: 1.25, lists: true };
    let odd = || {
        let mut values = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3.0];
        values.extend([0.5; 6]);
        values
    };
    let nothing = || vec![f64::NAN, f64::NEG_INFINITY];
    vec![
        case("greedy", (1, 1), few(), GREEDY),
        case("greedy", (5, 131), steps(), GREEDY),
        case("greedy_lists", (5, 2311), steps(), Settings { penalty: 1.25, lists: true, ..GREEDY }),
        case("draw", (7, 2311), steps(), DRAWN),
        case("draw_hot", (7, 131), steps(), Settings { temperature: 9.0, ..DRAWN }),
        case("draw_cold", (7, 131), steps(), Settings { temperature: 1e-30, ..DRAWN }),
        case("top_k", (9, 2311), steps(), Settings { top_k: 5, temperature: 4.0, ..DRAWN }),
        case("top_k_beyond", (3, 67), steps(), Settings { top_k: 68, temperature: 4.0, ..DRAWN }),
        case("min_p", (9, 331), steps(), Settings { min_p: 0.3, ..DRAWN }),
        case("top_p", (9, 2311), steps(), Settings { top_p: 0.5, temperature: 2.0, ..DRAWN }),
        case("ties_top_k", (9, 67), few(), Settings { top_k: 3, ..DRAWN }),
        case("ties_top_p", (9, 67), few(), Settings { top_p: 0.25, ..DRAWN }),
        case("everything", (9, 2311), steps(), all),
        case("odd_greedy", (3, 70), odd(), GREEDY),
        case("odd_draw", (9, 70), odd(), DRAWN),
        case("nothing", (2, 70), nothing(), Settings { lists: true, ..DRAWN }),
        case("greedy", (8, 49_152), steps(), GREEDY).bench(),
        case("everything", (8, 49_152), steps(), all).bench(),
    ]
}
