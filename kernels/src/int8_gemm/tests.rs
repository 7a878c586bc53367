//! Bits: those of a row are the same alone and in company, on every path.

use super::*;
use crate::runtime::{Arena, Class, Device, Plan, Real, bf16};

#[test]
fn weights_are_rounded_to_the_nearest_of_255_steps() {
    let (words, scale) = quantize(&[1.27, -0.634_999_9, 0.005, 0.015, 0.0, 0.0, 0.0, 0.0, f32::NAN, 1.0, 2.0, 3.0], 4);
    assert_eq!(words[0].to_le_bytes().map(|byte| byte as i8), [127, -63, 0, 2], "0.5 steps go to 0, 1.5 to 2");
    assert_eq!((words[1], words[2], scale[1]), (0, 0, 0.0));
    assert!((scale[0] - 0.01).abs() < 1e-9 && scale[2].is_nan());
    let weights: Vec<f32> = (0..997).map(|at| (at as f32 * 0.731).sin() * 1.3).collect();
    let (words, scale) = quantize(&weights, 997);
    let integers = words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| f32::from(byte as i8));
    let worst = weights.iter().zip(integers).map(|(weight, integer)| (weight - integer * scale[0]).abs()).fold(0.0, f32::max);
    assert!(worst <= 0.501 * scale[0] && words.len() == 250, "{worst}");
}

/// The product of `rows` rows, each the same, as far as a batch shows.
fn product<T: Float>(threads: usize, rows: usize, n: usize, k: usize) -> Vec<T> {
    let device = Device::cpu(threads).unwrap();
    let mut plan = Plan::new(Class::Activations);
    let weight = Weight { words: plan.tensor("words", [n, words(k)]), scale: plan.tensor("scale", [n]) };
    let (x, y) = (plan.tensor("x", [rows, k]), plan.tensor("y", [rows, n]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let number = |at: usize, step: f64| T::from_acc(T::Acc::of((at as f64 * step).sin()));
    let weights: Vec<f32> = (0..n * k).map(|at| (at as f64 * 0.37).cos() as f32).collect();
    let (integers, scales) = quantize(&weights, k);
    stream.upload(weight.words, &integers).unwrap();
    stream.upload(weight.scale, &scales.into_iter().map(|scale| T::Acc::of(scale.into())).collect::<Vec<_>>()).unwrap();
    stream.upload(x, &(0..rows * k).map(|at| number(at, 0.113)).collect::<Vec<_>>()).unwrap();
    forward(&stream, Forward { y, x, weight, residual: None }).unwrap();
    stream.fetch(y).unwrap()
}

fn bits_do_not_depend_on_company<T: Float>() {
    for (n, k) in [(16, 4), (50, 64), (37, 1100), (130, 576), (20, 35)] {
        let all = product::<T>(1, 300, n, k);
        assert!(all.iter().any(|value| *value != T::default()));
        for rows in [1, 2, 3, 5, 8, 9, 257] {
            for threads in [1, 2] {
                assert!(product::<T>(threads, rows, n, k) == all[..rows * n], "{} {rows}x{n}x{k}, {threads} threads", T::NAME);
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_company() {
    bits_do_not_depend_on_company::<f32>();
    bits_do_not_depend_on_company::<bf16>();
    bits_do_not_depend_on_company::<f64>();
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let device = Device::cpu(1).unwrap();
    let mut plan = Plan::new(Class::Activations);
    let weight = Weight { words: plan.tensor("words", [3, 2]), scale: plan.tensor("scale", [3]) };
    let (x, y) = (plan.tensor::<f32>("x", [2, 9]), plan.tensor::<f32>("y", [2, 3]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let error = forward(&stream, Forward { y, x, weight, residual: None }).unwrap_err().to_string();
    assert!(error.contains("int8_gemm::forward") && error.contains("weight"), "{error}");
    assert!(backward(&stream, Backward { dx: x, dy: y, weight }).unwrap_err().to_string().contains("weight"));
}
