use super::*;
use crate::Error;
use crate::runtime::philox::Site;
use crate::runtime::{Arena, Class, Device, Plan};

/// What is set; the rest chooses the most probable token.
#[derive(Clone, Default)]
struct Settings {
    temperature: f64,
    top_k: usize,
    min_p: f64,
    top_p: Option<f64>,
    penalty: Option<f32>,
    hidden: Vec<u32>,
    barred: Vec<u32>,
    seen: Vec<u32>,
}

/// Tokens and log-probabilities of as many rows of the same logits as there are random numbers.
fn chosen(logits: &[f32], settings: &Settings, random: &[u64]) -> Result<(Vec<u32>, Vec<f32>)> {
    let (rows, device) = (random.len(), Device::cpu(1)?);
    let mut plan = Plan::new(Class::Activations);
    let matrix = plan.tensor::<f32>("logits", [rows, logits.len()]);
    let (tokens, log_probabilities) = (plan.tensor("tokens", [rows]), plan.tensor("log_probabilities", [rows]));
    let words = plan.tensor("random", [rows, 2]);
    let mut list = |name: &'static str, values: &[u32]| (!values.is_empty()).then(|| plan.tensor::<u32>(name, [values.len()]));
    let (hidden, barred) = (list("hidden", &settings.hidden), list("barred", &settings.barred));
    let seen = (!settings.seen.is_empty()).then(|| plan.tensor::<u32>("seen", [rows, settings.seen.len()]));
    let _arena = Arena::allocate(&device, plan)?;
    let stream = Stream::new(&device, 0)?;
    stream.upload(matrix, &logits.repeat(rows))?;
    stream.upload(words, &random.iter().flat_map(|&number| [number as u32, (number >> 32) as u32]).collect::<Vec<_>>())?;
    hidden.map_or(Ok(()), |tensor| stream.upload(tensor, &settings.hidden))?;
    barred.map_or(Ok(()), |tensor| stream.upload(tensor, &settings.barred))?;
    seen.map_or(Ok(()), |tensor| stream.upload(tensor, &settings.seen.repeat(rows)))?;
    let args = Choose {
        tokens,
        log_probabilities,
        logits: matrix,
        hidden,
        barred,
        seen,
        repetition_penalty: settings.penalty.unwrap_or(1.0),
        random: words,
        temperature: settings.temperature,
        top_k: settings.top_k,
        min_p: settings.min_p,
        top_p: settings.top_p.unwrap_or(1.0),
    };
    choose(&stream, args)?;
    Ok((stream.fetch(tokens)?, stream.fetch(log_probabilities)?))
}

fn randoms(count: u64) -> Vec<u64> {
    let words = |block| Site { seed: 5, step: 0, site: 1 }.words(block);
    (0..count).map(|block| u64::from(words(block)[1]) << 32 | u64::from(words(block)[0])).collect()
}

const LOGITS: [f32; 5] = [1.0, 3.0, f32::NAN, 2.0, 3.0];

fn shares(settings: &Settings) -> [f64; 5] {
    const DRAWS: u64 = 20_000;
    let mut shares = [0.0; 5];
    chosen(&LOGITS, settings, &randoms(DRAWS)).unwrap().0.iter().for_each(|&token| shares[token as usize] += 1.0 / DRAWS as f64);
    shares
}

#[test]
fn greedy_takes_the_first_of_equals_and_never_nan() {
    let greedy = |logits: &[f32], settings: Settings| chosen(logits, &settings, &[0]).unwrap().0[0];
    assert_eq!(greedy(&LOGITS, Settings::default()), 1);
    let penalised = Settings { penalty: Some(2.0), seen: vec![1, 1, NOTHING], ..Settings::default() };
    assert_eq!(greedy(&LOGITS, penalised), 4, "a token that has occurred twice is penalised once");
    let penalised = Settings { penalty: Some(2.0), seen: vec![0], ..Settings::default() };
    assert_eq!(greedy(&[-1.0, -1.5], penalised), 1, "a penalty lowers negative logits too");
    assert_eq!(greedy(&LOGITS, Settings { hidden: vec![1, 77], barred: vec![4], ..Settings::default() }), 3);
    assert_eq!(greedy(&[f32::NAN, f32::NEG_INFINITY], Settings::default()), 0);
}

#[test]
fn draws_follow_the_distribution_that_is_left() {
    let hot = Settings { temperature: 2.0, ..Settings::default() };
    let weights = [1.0f64, 3.0, f64::NEG_INFINITY, 2.0, 3.0].map(|logit| (logit / 2.0).exp());
    let total: f64 = weights.iter().sum();
    for (token, (got, weight)) in shares(&hot).iter().zip(weights).enumerate() {
        assert!((got - weight / total).abs() < 0.015, "token {token}: {got}, expected {}", weight / total);
    }
    let left = |settings: Settings| [0, 1, 2, 3, 4].map(|token: usize| shares(&settings)[token] > 0.0);
    assert_eq!(left(Settings { top_k: 2, ..hot.clone() }), [false, true, false, false, true]);
    assert_eq!(left(Settings { top_k: 1, ..hot.clone() }), [false, true, false, false, false]);
    assert_eq!(left(Settings { top_p: Some(0.6), ..hot.clone() }), [false, true, false, false, true]);
    assert_eq!(left(Settings { top_p: Some(0.3), ..hot.clone() }), [false, true, false, false, false]);
    assert_eq!(left(Settings { min_p: 0.5, ..hot.clone() }), [false, true, false, true, true]);
    assert_eq!(left(Settings { top_p: Some(0.6), barred: vec![1], ..hot.clone() }), [false, false, false, true, true]);
    assert_eq!(left(Settings { temperature: 1e300, hidden: vec![1], ..Settings::default() }), [true, false, false, true, true]);
}

/// The definition, with a sort and sums in f64: the most probable tokens that each cut leaves.
fn left_by_sorting(logits: &[f32], settings: &Settings) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    tokens.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let top = logits[tokens[0] as usize];
    let share = |token: u32| (f64::from(logits[token as usize] - top) / settings.temperature).exp();
    tokens.retain(|&token| share(token) >= settings.min_p);
    tokens.truncate(if settings.top_k == 0 { usize::MAX } else { settings.top_k });
    let total: f64 = tokens.iter().map(|&token| share(token)).sum();
    let mut mass = 0.0;
    let kept = tokens.iter().position(|&token| {
        mass += share(token);
        mass >= settings.top_p.unwrap_or(1.0) * total
    });
    tokens.truncate(kept.map_or(tokens.len(), |last| last + 1));
    tokens.sort_unstable();
    tokens
}

#[test]
fn cuts_leave_what_sorting_leaves() {
    for seed in 0..40u64 {
        let words = |token: u32| Site { seed, step: 1, site: token }.words(0);
        // Some ties among many distinct numbers.
        let logits: Vec<f32> = (0..53).map(|token| (words(token)[0] % if seed % 2 == 0 { 1_000_003 } else { 17 }) as f32 * 3e-6).collect();
        let settings = Settings {
            temperature: 0.3 + f64::from(words(99)[1] % 7),
            top_k: (words(99)[2] % 30) as usize,
            min_p: f64::from(words(99)[3] % 10) / 20.0,
            top_p: Some(0.05 + f64::from(words(98)[0] % 90) / 100.0),
            ..Settings::default()
        };
        let (mut tokens, _) = chosen(&logits, &settings, &randoms(3000)).unwrap();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens, left_by_sorting(&logits, &settings), "seed {seed}");
    }
}

#[test]
fn log_probabilities_are_the_models_own() {
    let settings =
        Settings { temperature: 0.5, top_k: 2, penalty: Some(3.0), seen: vec![1], barred: vec![4], hidden: vec![0], ..Settings::default() };
    let total: f64 = [3.0f64, 2.0, 3.0].iter().map(|logit| logit.exp()).sum();
    let (tokens, log_probabilities) = chosen(&LOGITS, &settings, &randoms(64)).unwrap();
    for (token, log_probability) in tokens.iter().zip(log_probabilities) {
        let expected = f64::from(LOGITS[*token as usize]) - total.ln();
        assert!([1, 3].contains(token) && (f64::from(log_probability) - expected).abs() < 1e-6, "{token}: {log_probability}");
    }
    let nothing = Settings { hidden: vec![0, 1, 2, 3, 4], ..Settings::default() };
    assert_eq!(chosen(&LOGITS, &nothing, &[1]).unwrap(), (vec![0], vec![f32::NEG_INFINITY]));
}

#[test]
fn impossible_arguments_are_refused() {
    for settings in [
        Settings { temperature: -1.0, ..Settings::default() },
        Settings { temperature: f64::NAN, ..Settings::default() },
        Settings { min_p: 1.5, ..Settings::default() },
        Settings { top_p: Some(0.0), ..Settings::default() },
        Settings { penalty: Some(0.0), ..Settings::default() },
    ] {
        assert!(matches!(chosen(&LOGITS, &settings, &[0]), Err(Error::Argument { op: "sample::choose", .. })));
    }
}
