//! Triton's integer products, sorting, gathering, locks and attention's gradients.

use crate::machine::{Argument, Machine, brain, bytes_of, close, every, floats, numbers};

const NONE: Argument = Argument::Pointer(0);

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn products_of_bytes() {
    let (m, n, k) = (64, 96, 128);
    let bytes = |count: usize, salt: u32| numbers(count, salt).iter().map(|value| (128.0 * value) as i8 as u8).collect::<Vec<_>>();
    let (a, b) = (bytes(m * k, 20), bytes(k * n, 21));
    let element = |i: usize, j: usize| (0..k).map(|p| i32::from(a[i * k + p] as i8) * i32::from(b[p * n + j] as i8)).sum::<i32>();
    let expected: Vec<i32> = (0..m * n).map(|at| element(at / n, at % n)).collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("triton_matmul_bytes.ptx"), seed, numerics);
        let (x, y, z) = (machine.upload(&a), machine.upload(&b), machine.empty(4 * m * n));
        let sizes = [m, n, k].map(|size| Argument::Int(size as u32));
        machine.launch("matmul_bytes", [2, 3, 1], [128, 1, 1], 16 << 10, &[&x, &y, &z, &sizes[0], &sizes[1], &sizes[2], &NONE, &NONE]);
        assert_eq!(ints(&machine.download(&z, 4 * m * n)), expected);
    }
}

#[test]
fn sorted_rows_and_running_sums() {
    let (rows, width) = (3, 128);
    let x = numbers(rows * width, 22);
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("triton_order.ptx"), seed, numerics);
        let (from, ordered, sums, best) =
            (machine.upload(&bytes_of(&x)), machine.empty(4 * x.len()), machine.empty(4 * x.len()), machine.empty(4 * rows));
        machine.launch("order", [rows as u32, 1, 1], [128, 1, 1], 512, &[&from, &ordered, &sums, &best, &NONE, &NONE]);
        let (ordered, sums) = (floats(&machine.download(&ordered, 4 * x.len())), floats(&machine.download(&sums, 4 * x.len())));
        let best = ints(&machine.download(&best, 4 * rows));
        for (row, values) in x.chunks(width).enumerate() {
            let mut expected = values.to_vec();
            expected.sort_by(f32::total_cmp);
            assert_eq!(ordered[row * width..(row + 1) * width], expected);
            assert_eq!(values[best[row] as usize], expected[width - 1]);
            let mut sum = 0.0;
            let running: Vec<f64> = values
                .iter()
                .map(|value| {
                    sum += f64::from(*value);
                    sum
                })
                .collect();
            close(&sums[row * width..(row + 1) * width], &running, 1e-5, 1e-5);
        }
    }
}

#[test]
fn gathered_and_counted() {
    let x: Vec<i32> = numbers(256, 23).iter().map(|value| (1000.0 * value) as i32).collect();
    let index: Vec<i32> = numbers(256, 24).iter().map(|value| (128.0 * (value + 1.0)) as i32 & 255).collect();
    let mut counts = vec![0; 32];
    x.iter().for_each(|value| counts[(value & 31) as usize] += 1);
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("triton_gather.ptx"), seed, numerics);
        let (from, at, out, count) = (machine.upload(&words(&x)), machine.upload(&words(&index)), machine.empty(1024), machine.empty(128));
        machine.launch("gather", [1, 1, 1], [128, 1, 1], 1024, &[&from, &at, &out, &count, &NONE, &NONE]);
        assert_eq!(ints(&machine.download(&out, 1024)), index.iter().map(|&at| x[at as usize]).collect::<Vec<_>>());
        assert_eq!(ints(&machine.download(&count, 128)), counts);
    }
}

#[test]
fn gradients_of_a_norm_under_locks() {
    let (rows, n, groups) = (11, 200, 4);
    let (x, dy, weight) = (numbers(rows * n, 25), numbers(rows * n, 26), numbers(n, 27));
    let wide = |value: f32| f64::from(value);
    let (mut mean, mut rstd, mut dx, mut dweight) = (Vec::new(), Vec::new(), Vec::new(), vec![0.0; n]);
    for row in 0..rows {
        let (x, dy) = (&x[row * n..(row + 1) * n], &dy[row * n..(row + 1) * n]);
        let m = (x.iter().map(|value| wide(*value)).sum::<f64>() / n as f64) as f32;
        let variance = x.iter().map(|value| (wide(*value) - wide(m)).powi(2)).sum::<f64>() / n as f64;
        let r = (1.0 / (variance + 1e-5).sqrt()) as f32;
        let normed: Vec<f64> = x.iter().map(|value| (wide(*value) - wide(m)) * wide(r)).collect();
        let scaled: Vec<f64> = dy.iter().zip(&weight).map(|(dy, weight)| wide(*dy) * wide(*weight)).collect();
        let along = normed.iter().zip(&scaled).map(|(a, b)| a * b).sum::<f64>() / n as f64;
        let offset = scaled.iter().sum::<f64>() / n as f64;
        dx.extend(normed.iter().zip(&scaled).map(|(normed, scaled)| (scaled - normed * along - offset) * wide(r)));
        dweight.iter_mut().zip(normed.iter().zip(dy)).for_each(|(sum, (normed, dy))| *sum += normed * wide(*dy));
        mean.push(m);
        rstd.push(r);
    }
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("triton_norm_backward.ptx"), seed, numerics);
        let up = |values: &[f32]| machine.upload(&bytes_of(values));
        let (out, sums, locks) = (machine.empty(4 * rows * n), up(&vec![0.0; groups * n]), machine.upload(&[0; 16]));
        let inputs = [up(&dy), up(&x), up(&weight), up(&mean), up(&rstd)];
        let [dy, x, weight, mean, rstd] = &inputs;
        let arguments = [&out, dy, &sums, x, weight, mean, rstd, &locks, &Argument::Int(n as u32), &NONE, &NONE];
        machine.launch("norm_backward", [rows as u32, 1, 1], [128, 1, 1], 1024, &arguments);
        close(&floats(&machine.download(&out, 4 * rows * n)), &dx, 1e-4, 1e-4);
        let parts = floats(&machine.download(&sums, 4 * groups * n));
        let total: Vec<f32> = (0..n).map(|column| (0..groups).map(|group| parts[group * n + column]).sum()).collect();
        close(&total, &dweight, 1e-4, 1e-4);
    }
}

#[test]
fn gradients_of_attention() {
    let (heads, n, d, scale) = (2, 64, 32, 0.25f64);
    let [(q, q_bytes), (k, k_bytes), (v, v_bytes), (dout, dout_bytes)] = [30, 31, 32, 33].map(|salt| brain(&numbers(heads * n * d, salt)));
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; heads * n * d]);
    let (mut logsumexp, mut delta) = (Vec::new(), Vec::new());
    for head in 0..heads {
        let at = |row: usize| (head * n + row) * d..(head * n + row + 1) * d;
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for row in 0..n {
            let powers: Vec<f64> = (0..=row).map(|key| (dot(&q[at(row)], &k[at(key)]) * scale).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let shares: Vec<f64> = (0..=row).map(|key| dot(&dout[at(row)], &v[at(key)])).collect();
            let mixed = powers.iter().zip(&shares).map(|(power, share)| power / sum * share).sum::<f64>();
            logsumexp.push(sum.ln() as f32);
            delta.push(mixed as f32);
            for key in 0..=row {
                let p = powers[key] / sum;
                let dscore = p * (shares[key] - mixed) * scale;
                for c in 0..d {
                    let (i, j) = (at(row).start + c, at(key).start + c);
                    dq[i] += dscore * f64::from(k[j]);
                    dk[j] += dscore * f64::from(q[i]);
                    dv[j] += p * f64::from(dout[i]);
                }
            }
        }
    }
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("triton_attention_backward.ptx"), seed, numerics);
        let inputs =
            [&q_bytes, &k_bytes, &v_bytes, &dout_bytes, &bytes_of(&logsumexp), &bytes_of(&delta)].map(|bytes| machine.upload(bytes));
        let outputs = [(); 3].map(|()| machine.upload(&vec![0; 4 * heads * n * d]));
        let (length, scale) = (Argument::Int(n as u32), Argument::Float(scale as f32));
        let arguments: Vec<&Argument> = inputs.iter().chain(&outputs).chain([&length, &scale, &NONE, &NONE]).collect();
        machine.launch("attention_backward", [2, heads as u32, 1], [128, 1, 1], 32 << 10, &arguments);
        for (output, expected) in outputs.iter().zip([&dq, &dk, &dv]) {
            // Probabilities and their gradients are rounded to bf16 before they are multiplied.
            close(&floats(&machine.download(output, 4 * heads * n * d)), expected, 1e-2, 2e-2);
        }
    }
}
