//! Bits: micro-kernels agree with each other, rows do not depend on their neighbours, cuts do not show.

use super::cpu::multiply;
use super::cpu_pack::{Operand, Part, ROW, pack_a, pack_b};
use super::cpu_simd::{Kernel, Panels};
use super::{Accumulate, Epilogue, Forward, Layout, accumulate, forward};
use crate::runtime::philox::{Site, uniform};
use crate::runtime::{Arena, Class, Device, Element, Float, Plan, Rows, RowsMut, Stream, Tensor, bf16, f16};

fn random(len: usize, site: u32) -> Vec<f32> {
    let site = Site { seed: 5, step: 0, site };
    (0..len).map(|index| 2.0 * uniform(site.words(index as u64 / 4)[index % 4]) - 1.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// All micro-kernels for f32 that run here.
fn kernels() -> Vec<Kernel> {
    let best = Kernel::select::<f32, f32>();
    [Kernel::Portable, Kernel::Avx2, Kernel::Avx512].into_iter().filter(|kernel| *kernel <= best).collect()
}

#[test]
fn micro_kernels_agree_bit_for_bit_with_the_order_of_the_text() {
    for kernel in kernels() {
        let (rows, columns) = (kernel.rows(), kernel.columns());
        for deep in [true, false] {
            for depth in [0, 1, 2, 17, 256] {
                let (a, b) = (random(kernel.panel_a(), 0), random(256 * columns, 1));
                for add in [false, true] {
                    let mut tile = random(kernel.tile(), 2);
                    let mut expected = tile.clone();
                    for (row, expected) in expected.chunks_exact_mut(columns).enumerate() {
                        for (column, expected) in expected.iter_mut().enumerate() {
                            let a = |k: usize| a[if deep { row * ROW + k } else { k * rows + row }];
                            let sum = (0..depth).fold(0.0f32, |sum, k| a(k).mul_add(b[k * columns + column], sum));
                            *expected = if add { *expected + sum } else { sum };
                        }
                    }
                    kernel.run(Panels { steps: depth, a: &a, deep, b: &b }, &mut tile, add);
                    assert_eq!(bits(&tile), bits(&expected), "{kernel:?} deep {deep} depth {depth} add {add}");
                }
            }
        }
    }
}

struct Matrices<T: Float> {
    a: Tensor<T>,
    b: Tensor<T>,
    c: Tensor<T>,
    sum: Tensor<T::Acc>,
    stream: Stream,
    _arena: Arena,
}

fn upload<T: Float>(stream: &Stream, tensor: Tensor<T>, site: u32) {
    let values = random(tensor.len(), site);
    let narrow: Vec<T> = values.into_iter().map(|value| T::from_acc(<T::Acc as crate::runtime::Real>::of(f64::from(value)))).collect();
    stream.upload(tensor, &narrow).unwrap();
}

fn matrices<T: Float>(device: &Device, m: usize, n: usize, k: usize) -> Matrices<T> {
    let mut plan = Plan::new(Class::Activations);
    let (a, b) = (plan.tensor("a", [m, k]), plan.tensor("b", [n, k]));
    let (c, sum) = (plan.tensor("c", [m, n]), plan.tensor("sum", [m, n]));
    let arena = Arena::allocate(device, plan).unwrap();
    let stream = Stream::new(device, 0).unwrap();
    upload(&stream, a, 0);
    upload(&stream, b, 1);
    Matrices { a, b, c, sum, stream, _arena: arena }
}

fn raw<T: Element>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn rows_do_not_depend_on_the_batch<T: Float>() {
    let device = Device::cpu(2).unwrap();
    let (m, n, k) = (300, 45, 700);
    let all = matrices::<T>(&device, m, n, k);
    let run = |a: Tensor<T>, c: Tensor<T>, sum: Tensor<T::Acc>| {
        forward(&all.stream, Forward { c, a, b: all.b, layout: Layout::NT, epilogue: Epilogue::None }).unwrap();
        all.stream.zero(sum);
        accumulate(&all.stream, Accumulate { c: sum, a, b: all.b, layout: Layout::NT }).unwrap();
        (all.stream.fetch(c).unwrap(), all.stream.fetch(sum).unwrap())
    };
    let (c, sum) = run(all.a, all.c, all.sum);
    for (row, count) in [(0, 1), (299, 1), (17, 1), (9, 2), (31, 3), (70, 5), (100, 7), (1, 8), (2, 9), (55, 120)] {
        let (part, part_sum) = run(all.a.row_range(row, count), all.c.row_range(row, count), all.sum.row_range(row, count));
        assert_eq!(raw(&part), raw(&c[row * n..(row + count) * n]), "{} row {row}", T::NAME);
        assert_eq!(raw(&part_sum), raw(&sum[row * n..(row + count) * n]), "{} row {row}, accumulated", T::NAME);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    rows_do_not_depend_on_the_batch::<f32>();
    rows_do_not_depend_on_the_batch::<f64>();
    rows_do_not_depend_on_the_batch::<bf16>();
    rows_do_not_depend_on_the_batch::<f16>();
}

#[test]
fn large_products_are_cut_without_a_trace() {
    let device = Device::cpu(3).unwrap();
    let (m, n, k) = (37, 700, 9000);
    let all = matrices::<f32>(&device, m, n, k);
    forward(&all.stream, Forward { c: all.c, a: all.a, b: all.b, layout: Layout::NT, epilogue: Epilogue::None }).unwrap();
    let whole = all.stream.fetch(all.c).unwrap();
    let part = all.b.row_range(650, 9);
    let c = all.c.columns(650, 9);
    all.stream.zero(c);
    forward(&all.stream, Forward { c, a: all.a, b: part, layout: Layout::NT, epilogue: Epilogue::None }).unwrap();
    assert_eq!(bits(&all.stream.fetch(all.c).unwrap()), bits(&whole));
    let (a, b) = (all.stream.fetch(all.a).unwrap(), all.stream.fetch(all.b).unwrap());
    for at in [0, 699, 12_345, m * n - 1] {
        let products = (0..k).map(|p| f64::from(a[at / n * k + p]) * f64::from(b[at % n * k + p]));
        assert!((products.sum::<f64>() - f64::from(whole[at])).abs() < 2e-4);
    }
}

#[test]
fn multiply_scales_and_adds() {
    let (m, n, k) = (5, 7, 9);
    let (a, b) = (random(m * k, 0), random(k * n, 1));
    let half: Vec<bf16> = b.iter().map(|value| bf16::from_f32(*value)).collect();
    let mut c = vec![1.0f32; m * n];
    multiply(RowsMut::of(&mut c, n), Rows::of(&a, k), Rows::of(&half, n), Layout::NN, 0.5, false);
    multiply(RowsMut::of(&mut c, n), Rows::of(&a, k), Rows::of(&half, n), Layout::NN, 2.0, true);
    for (at, c) in c.iter().enumerate() {
        let sum: f32 = (0..k).map(|p| a[at / n * k + p] * half[p * n + at % n].to_f32()).sum();
        assert!((c - 2.5 * sum).abs() < 1e-4);
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let device = Device::cpu(1).unwrap();
    let all = matrices::<f32>(&device, 4, 6, 8);
    let call = |c, a, b, layout| forward(&all.stream, Forward { c, a, b, layout, epilogue: Epilogue::None });
    assert!(call(all.c, all.a, all.b, Layout::NT).is_ok());
    assert!(call(all.c, all.a, all.b, Layout::NN).is_err());
    assert!(call(all.c.columns(0, 5), all.a, all.b, Layout::NT).is_err());
    assert!(call(all.c, all.a.columns(0, 7), all.b, Layout::NT).is_err());
}

#[test]
fn packing_transposes_and_pads() {
    let (columns, depth) = (37, 83);
    let b = random(columns * depth, 0);
    for kernel in kernels() {
        let width = kernel.columns();
        for deep in [true, false] {
            let matrix = Rows::of(&b, if deep { depth } else { columns });
            let count = columns.min(width);
            let mut packed = vec![f32::NAN; depth * width];
            pack_b(kernel, &mut packed, Operand { matrix, deep }, Part { start: columns - count, count, from: 2, depth: depth - 5 });
            for (at, value) in packed[..(depth - 5) * width].iter().enumerate() {
                let (k, column) = (at / width + 2, at % width + columns - count);
                let expected = if at % width < count { b[if deep { column * depth + k } else { k * columns + column }] } else { 0.0 };
                assert_eq!(value.to_bits(), expected.to_bits(), "{kernel:?} deep {deep} element {at}");
            }
        }
    }
}

/// What the bf16 dot product does to one lane: two products, each fused with its addition, the second of a pair first.
fn dot_pair(sum: f32, a: f32, b: f32) -> f32 {
    let halves = |pair: f32| {
        let bits = pair.to_bits();
        (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000))
    };
    let ((a_first, a_second), (b_first, b_second)) = (halves(a), halves(b));
    a_first.mul_add(b_first, a_second.mul_add(b_second, sum))
}

#[test]
fn pairs_of_bf16_meet_their_partners() {
    let kernel = Kernel::Avx512Bf16;
    let (rows, columns) = (kernel.rows(), kernel.columns());
    for (m, n, k) in [(6, 64, 512), (4, 50, 77), (1, 1, 1)] {
        let narrow = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let (a, b) = (narrow(random(m * k, 0)), narrow(random(n * k, 1)));
        for (deep_a, deep_b) in [(true, true), (true, false), (false, false)] {
            let operand = |values, outer, deep| Operand { matrix: Rows::of(values, if deep { k } else { outer }), deep };
            let (left, right) = (operand(&a, m, deep_a), operand(&b, n, deep_b));
            let steps = k.div_ceil(2);
            let (mut panel_a, mut panel_b) = (vec![f32::NAN; kernel.panel_a()], vec![f32::NAN; steps * columns]);
            pack_a(kernel, &mut panel_a, left, Part { start: 0, count: m, from: 0, depth: k });
            pack_b(kernel, &mut panel_b, right, Part { start: 0, count: n, from: 0, depth: k });
            for at in 0..rows * columns {
                let (row, column) = (at / columns, at % columns);
                let a_at = |step: usize| panel_a[if deep_a { row * ROW + step } else { step * rows + row }];
                let sum = (0..steps).fold(0.0, |sum, step| dot_pair(sum, a_at(step), panel_b[step * columns + column]));
                let element = |values: &[bf16], outer: usize, deep: bool, at: usize, p: usize| {
                    values[if deep { at * k + p } else { p * outer + at }].to_f64()
                };
                let inside = row < m && column < n;
                let product = |p| element(&a, m, deep_a, row, p) * element(&b, n, deep_b, column, p);
                let expected = if inside { (0..k).map(product).sum::<f64>() } else { 0.0 };
                assert!((f64::from(sum) - expected).abs() < 1e-4, "{m}x{n}x{k} at {row},{column}: {sum} {expected}");
            }
        }
    }
}
