//! Whole answers.

use scmmgpt_engine::Error;
use scmmgpt_engine::generate::answer::{Answer, Finish, Request, Words, answer};
use scmmgpt_engine::generate::{GenerationConfig, Prompt};
use serde_json::Value;

use crate::setup::{Tiny, integers};

fn config(settings: &Value) -> GenerationConfig {
    let mut settings = settings.clone();
    // Absent there is 0; the default here is the authors' 8.
    let least = settings.as_object_mut().unwrap().remove("min_new_tokens");
    settings["min_length"] = least.unwrap_or(0.into());
    serde_json::from_value(settings).unwrap()
}

#[test]
fn greedy_and_beams_equal_hugging_face() {
    hugging_face(&Tiny::open());
}

pub(crate) fn hugging_face(tiny: &Tiny) {
    for case in tiny.golden["cases"].as_array().unwrap() {
        let settings = &case["settings"];
        let config = config(settings);
        let (answers, texts) = tiny.answer(&tiny.requests(), &config, 4 * config.num_beams);
        for ((answer, text), expected) in answers.iter().zip(texts).zip(case["answers"].as_array().unwrap()) {
            let mut tokens = integers(&expected["tokens"]);
            let finish = if tokens.last().is_some_and(|last| tiny.eos.contains(last)) { Finish::End } else { Finish::Length };
            if finish == Finish::End {
                tokens.pop();
            }
            assert_eq!((&answer.tokens, answer.finish), (&tokens, finish), "{settings}");
            assert_eq!(answer.text, text);
            assert_eq!(answer.text, tiny.tokenizer.decode(&tokens).unwrap());
            if let Some(score) = expected["score"].as_f64() {
                assert!((answer.score / score - 1.0).abs() < 1e-4, "{settings}: score {}, expected {score}", answer.score);
            }
        }
    }
}

fn sampling() -> GenerationConfig {
    GenerationConfig { do_sample: true, temperature: 1.5, top_p: 0.95, seed: 11, ..GenerationConfig::greedy(20) }
}

#[test]
fn company_changes_no_bit() {
    let tiny = Tiny::open();
    let requests = tiny.requests();
    let beams = GenerationConfig { num_beams: 3, min_length: 2, max_new_tokens: 12, ..GenerationConfig::default() };
    for config in [GenerationConfig::greedy(20), sampling(), beams] {
        let alone: Vec<Answer> = requests.iter().flat_map(|request| tiny.answer(&[*request], &config, config.num_beams).0).collect();
        for batch in [2, 4, 7] {
            assert_eq!(tiny.answer(&requests, &config, batch * config.num_beams).0, alone, "{batch} at a time: {config:?}");
        }
        let backwards: Vec<Request<'_>> = requests.iter().rev().copied().collect();
        let mut answers = tiny.answer(&backwards, &config, 4 * config.num_beams).0;
        answers.reverse();
        assert_eq!(answers, alone);
    }
}

#[test]
fn draws_depend_on_seed_number_and_place_alone() {
    let tiny = Tiny::open();
    // The same prompt several times is computed once, and answered differently.
    let prompt = Prompt::from(tiny.prompts[0].as_slice());
    let requests: Vec<Request<'_>> = (0..6).map(|number| Request { prompt, number }).collect();
    let answers = tiny.answer(&requests, &sampling(), 6).0;
    let distinct: std::collections::BTreeSet<&[u32]> = answers.iter().map(|answer| answer.tokens.as_slice()).collect();
    assert!(distinct.len() >= 5, "{distinct:?}");
    assert_eq!(tiny.answer(&requests[4..5], &sampling(), 1).0[0], answers[4]);
    assert_ne!(tiny.answer(&requests, &GenerationConfig { seed: 12, ..sampling() }, 6).0, answers);
    // Almost nothing but the most probable token is left: greedy.
    let narrow = GenerationConfig { top_k: 1, ..sampling() };
    assert_eq!(tiny.answer(&requests, &narrow, 6).0[3].tokens, tiny.answer(&requests, &GenerationConfig::greedy(20), 6).0[0].tokens);
}

#[test]
fn answers_end_where_they_are_told_to() {
    let tiny = Tiny::open();
    let greedy = GenerationConfig::greedy(20);
    let (whole, _) = tiny.answer(&tiny.requests(), &greedy, 4);
    let text = &whole[0].text;
    let stop = text.chars().skip(4).take(2).collect::<String>();
    let expected = &text[..text.find(&stop).unwrap()];
    for num_beams in [1, 2] {
        let config = GenerationConfig { stop: vec![stop.clone(), "never said".into()], num_beams, ..greedy.clone() };
        let (answers, texts) = tiny.answer(&tiny.requests()[..1], &config, num_beams);
        assert!(!answers[0].text.contains(&stop) && texts[0] == answers[0].text);
        if num_beams == 1 {
            assert_eq!((answers[0].text.as_str(), answers[0].finish), (expected, Finish::Stop));
        }
    }
    // A token that is suppressed occurs in no answer, and takes no probability.
    let taken = whole[0].tokens[2];
    let words = Words { suppress: &[taken], ..tiny.words() };
    let mut generator = tiny.generator(10, 40);
    for num_beams in [1, 2] {
        let config = GenerationConfig { num_beams, ..greedy.clone() };
        let answers = answer(&tiny.model, &mut generator, words, &tiny.requests(), &config, &mut |_, _| Ok(())).unwrap();
        assert!(answers.iter().all(|answer| !answer.tokens.contains(&taken)));
    }
    // Memory for prompt and answer together bounds the answer.
    let mut small = tiny.generator(4, 10);
    let answers = answer(&tiny.model, &mut small, tiny.words(), &tiny.requests(), &greedy, &mut |_, _| Ok(())).unwrap();
    for (answer, prompt) in answers.iter().zip(&tiny.prompts) {
        assert!(prompt.len() + answer.tokens.len() <= 10);
    }
    assert_eq!(answers[2].tokens, whole[2].tokens[..2]);
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let tiny = Tiny::open();
    let refused = |requests: &[Request<'_>], config: &GenerationConfig, named: &str| {
        let error = answer(&tiny.model, &mut tiny.generator(2, 8), tiny.words(), requests, config, &mut |_, _| Ok(())).unwrap_err();
        assert!(matches!(&error, Error::Setting { key, .. } if key == named), "{error}");
    };
    let greedy = GenerationConfig::greedy(4);
    refused(&tiny.requests(), &greedy, "generate.prompt");
    refused(&[Request { prompt: Prompt::from(&[][..]), number: 0 }], &greedy, "generate.prompt");
    refused(&[Request { prompt: Prompt { tokens: &[1, 2], rows: Some((1, &[0.0; 128])) }, number: 0 }], &greedy, "generate.prompt");
    refused(&[Request { prompt: Prompt { tokens: &[1, 2], rows: Some((0, &[0.0; 63])) }, number: 0 }], &greedy, "generate.prompt");
    refused(&tiny.requests()[..1], &GenerationConfig { num_beams: 3, ..greedy.clone() }, "generate.num_beams");
    refused(&tiny.requests()[..1], &GenerationConfig { temperature: f64::NAN, ..greedy.clone() }, "generate.temperature");
    let mut generator = tiny.generator(2, 8);
    let unknown = [Request { prompt: Prompt::from(&[1, 99][..]), number: 0 }];
    assert!(answer(&tiny.model, &mut generator, tiny.words(), &unknown, &greedy, &mut |_, _| Ok(())).is_err());
    let known = &tiny.requests()[..1];
    let stopped = answer(&tiny.model, &mut generator, tiny.words(), known, &greedy, &mut |_, _| Err(Error::Stopped { step: 3 }));
    assert!(matches!(stopped, Err(Error::Stopped { step: 3 })));
    assert!(answer(&tiny.model, &mut generator, tiny.words(), known, &greedy, &mut |_, _| Ok(())).is_ok(), "it goes on after errors");
}
