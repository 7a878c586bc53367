//! Against a naive softmax in f64, and what must not change a bit.

use super::cpu_tile::{Product, exp2, portable, transpose};
use super::{Dims, Dropout, Forward, Mask, forward};
use crate::runtime::philox::{Site, uniform};
use crate::runtime::{Arena, Class, Device, Float, Plan, Stream, Tensor, bf16};
use crate::{Error, Result};

/// Uniform in [-2, 2): scores spread far enough for the running maximum to move.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let site = Site { seed, step: 0, site: 0 };
    (0..len).map(|index| 4.0 * uniform(site.words(index as u64)[0]) - 2.0).collect()
}

/// Inputs of one call on the host; lengths of each kind may be absent.
#[derive(Clone)]
struct Host {
    dims: Dims,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    queries: Vec<u32>,
    keys: Vec<u32>,
    known: Option<Vec<u32>>,
    causal: bool,
    dropout: Option<Dropout>,
}

impl Host {
    fn new(dims: Dims, queries: &[u32], keys: &[u32]) -> Host {
        let (wide, narrow) = (dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim);
        let (q, k) = (numbers(1, dims.batch * dims.query_len * wide), numbers(2, dims.batch * dims.key_len * narrow));
        let v = numbers(3, k.len());
        Host { dims, q, k, v, queries: queries.to_vec(), keys: keys.to_vec(), known: None, causal: false, dropout: None }
    }

    /// `out` and `logsumexp`.
    fn run(&self, threads: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        self.run_in::<f32>(threads)
    }

    /// The same with inputs and output in another type.
    fn run_in<T: Float<Acc = f32>>(&self, threads: usize) -> Result<(Vec<T>, Vec<f32>)> {
        let Dims { batch, query_len, key_len, num_heads, num_kv_heads, head_dim } = self.dims;
        let mut plan = Plan::new(Class::Activations);
        let (wide, narrow) = (num_heads * head_dim, num_kv_heads * head_dim);
        let [out, q]: [Tensor<T>; 2] = ["out", "q"].map(|name| plan.tensor(name, [batch * query_len, wide]));
        let [k, v]: [Tensor<T>; 2] = ["k", "v"].map(|name| plan.tensor(name, [batch * key_len, narrow]));
        let logsumexp = plan.tensor("logsumexp", [batch, num_heads, query_len]);
        let [queries, keys, known]: [Tensor<u32>; 3] = ["queries", "keys", "known"].map(|name| plan.tensor(name, [batch]));
        let device = Device::cpu(threads)?;
        let _arena = Arena::allocate(&device, plan)?;
        let stream = Stream::new(&device, 0)?;
        for (tensor, values) in [(q, &self.q), (k, &self.k), (v, &self.v)] {
            stream.upload(tensor, &values.iter().map(|&value| T::from_acc(value)).collect::<Vec<_>>())?;
        }
        stream.upload(queries, &self.queries)?;
        stream.upload(keys, &self.keys)?;
        let mask = match &self.known {
            Some(lengths) => {
                stream.upload(known, lengths)?;
                Mask::Prefix { known_lengths: known }
            }
            None if self.causal => Mask::Causal,
            None => Mask::Full,
        };
        let (query_lengths, key_lengths, scale) = (Some(queries), Some(keys), 1.0 / (head_dim as f64).sqrt());
        let args = Forward { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale, dropout: self.dropout, dims: self.dims };
        forward(&stream, args)?;
        Ok((stream.fetch(out)?, stream.fetch(logsumexp)?))
    }

    /// What the definition says, in f64, with the whole matrix of scores.
    fn naive(&self) -> (Vec<f64>, Vec<f64>) {
        let Dims { batch, query_len, key_len, num_heads, num_kv_heads, head_dim: d } = self.dims;
        let (mut out, mut sums) = (vec![0.0; self.q.len()], vec![f64::NEG_INFINITY; batch * num_heads * query_len]);
        let at = |x: &[f32], row: usize, heads: usize, head: usize, c: usize| f64::from(x[(row * heads + head) * d + c]);
        for (b, h, i) in (0..batch).flat_map(|b| (0..num_heads).flat_map(move |h| (0..query_len).map(move |i| (b, h, i)))) {
            let (query, kv) = (b * query_len + i, h / (num_heads / num_kv_heads));
            let seen = |j: usize| {
                let known = self.known.as_ref().is_none_or(|known| j < known[b] as usize || (j == i && i >= known[b] as usize));
                let causal = !self.causal || (j as isize) <= i as isize + key_len as isize - query_len as isize;
                i < self.queries[b] as usize && j < self.keys[b] as usize && known && causal
            };
            let score = |j: usize| -> f64 {
                let dot: f64 =
                    (0..d).map(|c| at(&self.q, query, num_heads, h, c) * at(&self.k, b * key_len + j, num_kv_heads, kv, c)).sum();
                dot / (d as f64).sqrt()
            };
            let weights: Vec<(usize, f64)> = (0..key_len).filter(|j| seen(*j)).map(|j| (j, score(j).exp())).collect();
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            sums[(b * num_heads + h) * query_len + i] = total.ln();
            for (c, out) in out[(query * num_heads + h) * d..][..d].iter_mut().enumerate() {
                *out = weights.iter().map(|(j, weight)| weight / total * at(&self.v, b * key_len + j, num_kv_heads, kv, c)).sum();
            }
        }
        (out, sums)
    }

    fn check(&self) {
        let ((out, sums), (expected, expected_sums)) = (self.run(2).unwrap(), self.naive());
        for (index, (got, expected)) in out.iter().zip(&expected).chain(sums.iter().zip(&expected_sums)).enumerate() {
            let same = f64::from(*got) == *expected;
            assert!(same || (f64::from(*got) - expected).abs() < 2e-5, "{:?} {index}: {got} {expected}", self.dims);
        }
    }
}

fn dims(batch: usize, query_len: usize, key_len: usize, num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Dims {
    Dims { batch, query_len, key_len, num_heads, num_kv_heads, head_dim }
}

#[test]
fn equals_the_definition() {
    Host::new(dims(2, 130, 65, 4, 2, 24), &[130, 99], &[65, 0]).check();
    Host::new(dims(1, 7, 300, 1, 1, 64), &[7], &[299]).check();
    let mut host = Host::new(dims(2, 150, 150, 2, 1, 16), &[150, 101], &[150, 101]);
    host.causal = true;
    host.check();
    host.causal = false;
    host.known = Some(vec![1, 97]);
    host.check();
    let mut late = Host::new(dims(1, 33, 130, 1, 1, 8), &[33], &[120]);
    late.causal = true;
    late.check();
}

#[test]
fn an_item_does_not_feel_its_neighbours_or_its_padding() {
    for (causal, known) in [(false, None), (true, None), (false, Some(60u32))] {
        let length = 101;
        let mut alone = Host::new(dims(1, length, length, 2, 2, 24), &[length as u32], &[length as u32]);
        (alone.causal, alone.known) = (causal, known.map(|known| vec![known]));
        let padded = 257;
        let mut among = Host::new(dims(3, padded, padded, 2, 2, 24), &[257, 101, 7], &[257, 101, 7]);
        (among.causal, among.known) = (causal, known.map(|known| vec![200, known, 1]));
        let (width, start) = (48, padded * 48);
        for (wide, narrow) in [(&mut among.q, &alone.q), (&mut among.k, &alone.k), (&mut among.v, &alone.v)] {
            wide[start + length * width..start + padded * width].fill(f32::NAN);
            wide[start..start + length * width].copy_from_slice(narrow);
        }
        let ((one, one_sums), (many, many_sums)) = (alone.run(1).unwrap(), among.run(3).unwrap());
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&one), bits(&many[start..start + length * width]));
        assert!(many[start + length * width..start + padded * width].iter().all(|value| *value == 0.0), "padding is 0");
        for head in 0..2 {
            assert_eq!(bits(&one_sums[head * length..][..length]), bits(&many_sums[(2 + head) * padded..][..length]));
        }
    }
}

fn a_row_alone_is_the_row_among_others<T: Float<Acc = f32>>() {
    for (heads, kv_heads, d, keys) in [(6, 2, 64, 300), (4, 4, 16, 97), (5, 1, 32, 1), (9, 3, 80, 96)] {
        let rows = 50;
        for causal in [false, true] {
            let mut many = Host::new(dims(2, rows, keys, heads, kv_heads, d), &[rows as u32; 2], &[keys as u32, keys as u32 / 2]);
            many.causal = causal;
            let (out, sums) = many.run_in::<T>(2).unwrap();
            let width = heads * d;
            // Under a causal mask the only row is the last one.
            for row in if causal { rows - 1..rows } else { 0..3 } {
                let at = |item: usize| (item * rows + row) * width..(item * rows + row + 1) * width;
                let q = [0, 1].map(|item| many.q[at(item)].to_vec()).concat();
                let one = Host { dims: Dims { query_len: 1, ..many.dims }, q, queries: vec![1; 2], ..many.clone() };
                let (alone, alone_sums) = one.run_in::<T>(1).unwrap();
                assert!(alone == [0, 1].map(|item| out[at(item)].to_vec()).concat(), "{heads} {kv_heads} {d} {keys} row {row}");
                let sums: Vec<f32> = sums.iter().skip(row).step_by(rows).copied().collect();
                assert!(alone_sums == sums, "{heads} {kv_heads} {d} {keys} row {row}");
                one.check();
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_of_a_row_among_others() {
    a_row_alone_is_the_row_among_others::<f32>();
    a_row_alone_is_the_row_among_others::<bf16>();
}

#[test]
fn a_generated_row_is_blind_to_the_others() {
    let mut host = Host::new(dims(1, 130, 130, 2, 2, 16), &[130], &[130]);
    host.known = Some(vec![70]);
    let (before, _) = host.run(2).unwrap();
    let (width, other) = (32, 100);
    for values in [&mut host.q, &mut host.k, &mut host.v] {
        values[other * width..(other + 1) * width].iter_mut().for_each(|value| *value = -3.0 * *value + 1.0);
    }
    let (after, _) = host.run(2).unwrap();
    for (row, (before, after)) in before.chunks(width).zip(after.chunks(width)).enumerate() {
        assert_eq!(before == after, row != other, "row {row}");
    }
}

#[test]
fn dropout_reads_the_documented_bits() {
    // Equal scores and an identity for values: the output is the row of factors over the number of keys.
    let mut host = Host::new(dims(2, 60, 104, 2, 1, 104), &[60, 60], &[104, 104]);
    host.q.fill(0.0);
    for (at, v) in host.v.iter_mut().enumerate() {
        *v = if at / 104 % 104 == at % 104 { 1.0 } else { 0.0 };
    }
    let site = Site { seed: 3, step: 2, site: 1 };
    host.dropout = Some(Dropout { probability: 0.25, site });
    let (out, _) = host.run(2).unwrap();
    let mut dropped = 0;
    for (b, i, h) in (0..2).flat_map(|b| (0..60).flat_map(move |i| (0..2).map(move |h| (b, i, h)))) {
        for j in 0..104 {
            let word = site.words(i as u64 + ((j as u64 / 8) << 22) + ((b as u64 * 2 + h as u64) << 42))[j % 8 / 2];
            let drop = (word >> (16 * (j % 2))) & 0xffff < 16384;
            let expected = if drop { 0.0 } else { 1.0 / (0.75 * 104.0) };
            assert!((out[((b * 60 + i) * 2 + h) * 104 + j] - expected).abs() < 1e-7);
            dropped += usize::from(drop);
        }
    }
    assert!((dropped as f64 / (240.0 * 104.0) - 0.25).abs() < 0.02);
}

#[test]
fn refuses_what_does_not_fit() {
    let good = Host::new(dims(1, 7, 9, 2, 2, 8), &[7], &[9]);
    let with = |change: &dyn Fn(&mut Host)| {
        let mut host = good.clone();
        change(&mut host);
        host.run(1)
    };
    assert!(with(&|_| {}).is_ok());
    assert!(matches!(with(&|host| host.keys = vec![10]), Err(Error::Index { tensor: "key_lengths", index: 10, bound: 9, .. })));
    assert!(matches!(with(&|host| host.queries = vec![8]), Err(Error::Index { tensor: "query_lengths", .. })));
    assert!(matches!(with(&|host| host.known = Some(vec![3])), Err(Error::Argument { argument: "key_len", .. })));
    let odd = Host::new(dims(1, 7, 9, 2, 2, 12), &[7], &[9]);
    assert!(matches!(odd.run(1), Err(Error::Argument { argument: "head_dim", .. })));
    let uneven = Host::new(dims(1, 7, 9, 3, 2, 8), &[7], &[9]);
    assert!(matches!(uneven.run(1), Err(Error::Argument { argument: "num_kv_heads", .. })));
}

#[test]
fn leaf_and_portable_product_give_the_same_bits() {
    for (m, n, k, a_row, a_step, add) in [
        (8, 16, 5, 5, 1, false),
        (96, 48, 64, 64, 1, false),
        (24, 32, 7, 1, 24, true),
        (16, 80, 33, 1, 16, true),
        (40, 128, 1, 1, 40, false),
        (4, 112, 9, 9, 1, true),
        (12, 96, 64, 64, 1, false),
        (4, 16, 3, 3, 1, false),
    ] {
        let shape = Product { m, n, k, a_row, a_step, b_row: n + 16, c_row: n, add };
        let (a, b) = (numbers(4, m * k), numbers(5, k * (n + 16)));
        let mut leaf = numbers(6, m * n);
        let mut plain = leaf.clone();
        shape.run(&mut leaf, &a, &b);
        portable(&shape, &mut plain, &a, &b);
        assert!(leaf.iter().zip(&plain).all(|(leaf, plain)| leaf.to_bits() == plain.to_bits()), "{shape:?}");
    }
}

#[test]
fn transposes_every_size() {
    for (rows, lanes, columns, width) in [(1, 16, 8, 8), (33, 48, 24, 32), (16, 16, 64, 64), (24, 24, 7, 16), (8, 8, 48, 48)] {
        let source = numbers(7, rows * width);
        let mut target = vec![f32::NAN; columns * lanes + 1];
        transpose(&mut target, lanes, &source, width, rows, columns);
        for (at, value) in target[..columns * lanes].iter().enumerate() {
            let (column, row) = (at / lanes, at % lanes);
            assert_eq!(*value, if row < rows { source[row * width + column] } else { 0.0 }, "{row} {column}");
        }
        assert!(target[columns * lanes].is_nan(), "nothing beyond");
    }
}

#[test]
fn powers_of_two() {
    assert_eq!((exp2(0.0f32), exp2(-1.0f32), exp2(f32::NEG_INFINITY), exp2(-200.0f32)), (1.0, 0.5, 0.0, 0.0));
    assert!(exp2(f32::NAN).is_nan());
    let worst = (-1_260_000..=10_000).map(|step| {
        let x = step as f32 * 1e-4;
        (f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs()
    });
    assert!(worst.fold(0.0, f64::max) < f64::from(f32::EPSILON));
}

#[test]
fn bf16_is_exact_up_to_its_own_rounding() {
    // One key: the output is the value, whatever the score.
    let device = Device::cpu(1).unwrap();
    let mut plan = Plan::new(Class::Activations);
    let [out, q, k, v]: [Tensor<bf16>; 4] = ["out", "q", "k", "v"].map(|name| plan.tensor(name, [1, 8]));
    let logsumexp = plan.tensor("logsumexp", [1, 1, 1]);
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let values: Vec<bf16> = numbers(9, 8).into_iter().map(bf16::from_f32).collect();
    for tensor in [q, k, v] {
        stream.upload(tensor, &values).unwrap();
    }
    let (query_lengths, key_lengths, mask, dropout, dims) = (None, None, Mask::Full, None, dims(1, 1, 1, 1, 1, 8));
    forward(&stream, Forward { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale: 1.0, dropout, dims }).unwrap();
    assert_eq!(stream.fetch(out).unwrap(), values);
}
