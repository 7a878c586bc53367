//! Cached sequences: in pieces, copied, cut, and with rows that are no tokens.

use scmmgpt_engine::Error;
use scmmgpt_engine::generate::Prompt;
use scmmgpt_kernels::runtime::Stream;
use scmmgpt_kernels::testing::{Tolerance, compare};

use crate::setup::Tiny;

fn close(what: &str, expected: &[f32], got: &[f32]) {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    compare(what, &wide(expected), &wide(got), Tolerance::new(1e-4, 1e-4)).unwrap();
}

#[test]
fn pieces_equal_the_whole() {
    let tiny = Tiny::open();
    pieces(&tiny, 1..tiny.prompts[2].len());
}

/// The third prompt in two pieces, cut at each of these places.
pub(crate) fn pieces(tiny: &Tiny, splits: impl IntoIterator<Item = usize>) {
    let long = &tiny.prompts[2];
    let whole = tiny.logits_behind(long);
    for split in splits {
        let mut generator = tiny.generator(3, 16);
        let parts = [&long[..split], &tiny.prompts[1], &tiny.prompts[3]].map(Prompt::from);
        generator.prefill(&tiny.model, &parts).unwrap();
        let more = [&long[split..], &[5, 6], &[9]].map(Prompt::from);
        generator.extend_all(&tiny.model, &more).unwrap();
        let logits = generator.logits().unwrap();
        let width = whole.len();
        let (first, rest) = logits.split_at((long.len() - split) * width);
        close(&format!("behind {split}"), &whole, &first[first.len() - width..]);
        assert_eq!((rest.len(), generator.lengths()), (3 * width, &[long.len(), tiny.prompts[1].len() + 2, 2][..]));
        // Alone, to the bit.
        let mut alone = tiny.generator(1, 16);
        alone.prefill(&tiny.model, &parts[..1]).unwrap();
        alone.extend(&tiny.model, &more[..1]).unwrap();
        assert!(alone.logits().unwrap() == first[first.len() - width..], "neighbours changed the bits");
        // One token through the cache of one, as through that of several.
        alone.prefill(&tiny.model, &[parts[1]]).unwrap();
        alone.extend(&tiny.model, &more[1..2]).unwrap();
        generator.select(&[1, 1]).unwrap();
        generator.decode(&tiny.model, &[8, 3]).unwrap();
        let both = generator.logits().unwrap();
        for (token, both) in [8, 3].into_iter().zip(both.chunks(width)) {
            alone.truncate(&[tiny.prompts[1].len() + 2]);
            alone.decode(&tiny.model, &[token]).unwrap();
            assert!(alone.logits().unwrap() == both);
        }
    }
}

#[test]
fn copies_and_cuts_are_what_they_copy() {
    copies_and_cuts(&Tiny::open());
}

pub(crate) fn copies_and_cuts(tiny: &Tiny) {
    let prompts: Vec<Prompt<'_>> = tiny.prompts.iter().map(|tokens| Prompt::from(tokens.as_slice())).collect();
    let mut generator = tiny.generator(6, 24);
    // What each sequence is, by its tokens.
    let mut expected: Vec<Vec<u32>> = tiny.prompts.clone();
    generator.prefill(&tiny.model, &prompts).unwrap();
    let choices = [&[0, 0, 1, 2, 2, 3][..], &[1, 3, 4], &[0, 1, 1, 1, 2, 2], &[3, 5], &[0, 0, 0, 0, 1, 1], &[2, 2, 3, 4, 5, 5], &[0, 5]];
    for (turn, sources) in choices.into_iter().enumerate() {
        generator.select(sources).unwrap();
        expected = sources.iter().map(|&source| expected[source].clone()).collect();
        let tokens: Vec<u32> = (0..sources.len() as u32).map(|row| (row * 7 + turn as u32 * 11) % 53).collect();
        generator.decode(&tiny.model, &tokens).unwrap();
        let logits = generator.logits().unwrap();
        for (row, (sequence, &token)) in expected.iter_mut().zip(&tokens).enumerate() {
            sequence.push(token);
            let fresh = tiny.logits_behind(sequence);
            close(&format!("{sources:?}, sequence {row}"), &fresh, &logits[row * fresh.len()..][..fresh.len()]);
        }
        assert_eq!(generator.lengths(), expected.iter().map(Vec::len).collect::<Vec<_>>());
    }
    generator.truncate(&[3, 30]);
    expected[0].truncate(3);
    generator.decode(&tiny.model, &[1, 2]).unwrap();
    let logits = generator.logits().unwrap();
    for (row, sequence) in expected.iter_mut().enumerate() {
        sequence.push(row as u32 + 1);
        let fresh = tiny.logits_behind(sequence);
        close("after a cut", &fresh, &logits[row * fresh.len()..][..fresh.len()]);
    }
    for sources in [&[1, 0][..], &[2], &[], &[0; 7]] {
        assert!(matches!(generator.select(sources), Err(Error::Setting { .. })), "{sources:?}");
    }
}

#[test]
fn rows_take_the_place_of_tokens() {
    rows_for_tokens(&Tiny::open());
}

pub(crate) fn rows_for_tokens(tiny: &Tiny) {
    let stream = Stream::new(&tiny.device, 0).unwrap();
    let table = stream.fetch(tiny.parameters.named("model.embed_tokens.weight").unwrap().parameter.value).unwrap();
    let row = |token: u32| &table[token as usize * 64..][..64];
    let (with, without) = ([3, 8, 21, 5], [3, 0, 1, 5]);
    let rows = [row(8), row(21)].concat();
    let replaced = Prompt { tokens: &without, rows: Some((1, &rows)) };
    let plain = Prompt::from(&with[..]);
    let mut three = tiny.generator(3, 8);
    three.prefill(&tiny.model, &[plain, replaced, Prompt::from(&without[..])]).unwrap();
    let logits = three.logits().unwrap();
    let width = logits.len() / 3;
    assert!(logits[..width] == logits[width..2 * width], "the rows of the table are the tokens");
    assert!(logits[..width] != logits[2 * width..], "and other tokens are not");
    let mut generator = tiny.generator(1, 8);
    generator.prefill(&tiny.model, &[Prompt::from(&with[..1])]).unwrap();
    generator.extend(&tiny.model, &[Prompt { tokens: &without[1..], rows: Some((0, &rows)) }]).unwrap();
    close("rows behind the cache", &logits[..width], &generator.logits().unwrap());
}
