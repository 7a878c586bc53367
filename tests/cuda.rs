//! The CUDA runtime below the kernels: memory, copies, streams, events and what is refused; and what the kernels' own cases leave out:
//! strides, nothing to do, and input that the device alone sees. Needs a driver, as tests/kernels.rs does.

mod driver;

use driver::device;
use scmmgpt_kernels::contrastive;
use scmmgpt_kernels::cross_entropy::{self, IGNORE};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Event, Pinned, Plan, Stream, Tensor};
use scmmgpt_kernels::topk::{self, Metric};
use scmmgpt_kernels::{Error, activation, embedding, gemm, reduce};

#[test]
fn strided_tensors_travel_and_zero() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Activations);
    let (wide, narrow): (Tensor<f32>, Tensor<f32>) = (plan.tensor("wide", [5, 8]), plan.tensor("narrow", [5, 3]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    assert_eq!(stream.fetch(wide).unwrap(), [0.0; 40], "arenas are zeroed");
    let values: Vec<f32> = (0..15).map(|value| value as f32).collect();
    let middle = wide.columns(2, 3);
    stream.upload(middle, &values).unwrap();
    assert_eq!(stream.fetch(middle).unwrap(), values);
    stream.copy(narrow, middle).unwrap();
    assert_eq!(stream.fetch(narrow).unwrap(), values);
    stream.zero(wide.columns(3, 1));
    let all = stream.fetch(wide).unwrap();
    assert_eq!(all[..8], [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    assert!(matches!(stream.upload(narrow, &values[..14]), Err(Error::Shape { .. })));
}

#[test]
fn streams_are_ordered_by_events_and_pinned_memory_waits() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Batch);
    let (x, y): (Tensor<f32>, Tensor<f32>) = (plan.tensor("x", [64]), plan.tensor("y", [64]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let (copy, compute) = (Stream::new(&device, 0).unwrap(), Stream::new(&device, 0).unwrap());
    let mut staging: Pinned<f32> = Pinned::new(&device, 64);
    let (mut arrived, mut used) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
    for round in 0..8 {
        // Waits for the last round's copy, which is only queued.
        staging.as_mut_slice().fill(round as f32 - 3.0);
        copy.wait(&used).unwrap();
        copy.upload_pinned(x, &staging).unwrap();
        copy.record(&mut arrived).unwrap();
        compute.wait(&arrived).unwrap();
        activation::forward(&compute, activation::Forward { y, x, kind: activation::Kind::Relu }).unwrap();
        compute.record(&mut used).unwrap();
        assert_eq!(compute.fetch(y).unwrap(), [(round as f32 - 3.0).max(0.0); 64]);
    }
    used.synchronize().unwrap();
    assert!(arrived.elapsed_ms(&used).unwrap() >= 0.0);
}

#[test]
fn what_cannot_be_is_a_typed_error() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Weights);
    plan.tensor::<f32>("x", [1 << 20, 1 << 20]);
    assert!(matches!(Arena::allocate(&device, plan), Err(Error::OutOfMemory { class: "weights", .. })));
    assert!(matches!(Device::cuda(99, 1), Err(Error::DeviceUnavailable { .. })));
    assert!(matches!(Device::open("cuda:x", 1), Err(Error::DeviceUnavailable { .. })));
    // f64 is for the CPU.
    let mut plan = Plan::new(Class::Activations);
    let (x, y): (Tensor<f64>, Tensor<f64>) = (plan.tensor("x", [4]), plan.tensor("y", [4]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let refused = activation::forward(&stream, activation::Forward { y, x, kind: activation::Kind::Relu });
    assert!(matches!(refused, Err(Error::NoCudaKernel { element: "f64", .. })));
    assert!(device.describe().starts_with("cuda:0"));
    assert_eq!(device.describe().contains("software without a GPU"), device.is_software());
    assert_eq!(Device::open("auto", 1).unwrap().is_cuda(), !device.is_software(), "auto takes hardware and nothing else");
}

/// tf32 is a choice: with it operands are rounded to 10 bits, ties away from 0, for many rows and for few; without it nothing is.
#[test]
fn products_of_f32_are_rounded_only_where_that_is_allowed() {
    let Some(device) = device() else { return };
    let (exact, rounded) = ([1.0 + 2f32.powi(-11), -1.0 - 3.0 * 2f32.powi(-11)], [1.0 + 2f32.powi(-10), -1.0 - 2f32.powi(-9)]);
    for (rows, allow) in [(24, false), (24, true), (2, false), (2, true)] {
        let device = device.clone().allow_tf32(allow);
        let mut plan = Plan::new(Class::Activations);
        let (a, b): (Tensor<f32>, Tensor<f32>) = (plan.tensor("a", [rows, 8]), plan.tensor("b", [8, 8]));
        let c: Tensor<f32> = plan.tensor("c", [rows, 8]);
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        stream.upload(a, &exact.repeat(4 * rows)).unwrap();
        stream.upload(b, &(0..64).map(|at| if at % 9 == 0 { 1.0 } else { 0.0 }).collect::<Vec<_>>()).unwrap();
        gemm::forward(&stream, gemm::Forward { c, a, b, layout: gemm::Layout::NT, epilogue: gemm::Epilogue::None }).unwrap();
        let expected = if allow { rounded } else { exact };
        assert_eq!(stream.fetch(c).unwrap(), expected.repeat(4 * rows), "{rows} rows, tf32 {allow}");
    }
}

/// Ids are read by the device alone, which cannot refuse one.
#[test]
fn an_id_without_a_row_gives_nan_and_receives_nothing() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Activations);
    let (table, dtable): (Tensor<f32>, Tensor<f32>) = (plan.tensor("table", [3, 8]), plan.tensor("dtable", [3, 8]));
    let (wide, ids): (Tensor<f32>, Tensor<u32>) = (plan.tensor("wide", [4, 8]), plan.tensor("ids", [4]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, embedding::scratch(4)).unwrap();
    let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
    stream.upload(ids, &[2, 3, u32::MAX, 2]).unwrap();
    stream.upload(table, &values).unwrap();
    // Four floats a lane, and columns that begin inside 16 bytes.
    for (start, width) in [(0, 8), (3, 4)] {
        let columns = |tensor: Tensor<f32>| tensor.columns(start, width);
        stream.zero(dtable);
        let (y, table, dtable) = (columns(wide), columns(table), columns(dtable));
        embedding::forward(&stream, embedding::Forward { y, table, ids }).unwrap();
        let found = stream.fetch(y).unwrap();
        let expected = &values[16 + start..16 + start + width];
        assert_eq!((&found[..width], &found[3 * width..]), (expected, expected));
        assert!(found[width..3 * width].iter().all(|value| value.is_nan()));
        embedding::backward(&stream, embedding::Backward { dtable, dy: y, ids, padding_id: None }).unwrap();
        let found = stream.fetch(dtable).unwrap();
        assert_eq!(found[..2 * width], vec![0.0; 2 * width]);
        assert!(found[2 * width..].iter().zip(expected).all(|(found, value)| *found == 2.0 * value));
    }
    let narrow = Stream::new(&device, embedding::scratch(4) - 1).unwrap();
    let refused = embedding::backward(&narrow, embedding::Backward { dtable, dy: wide, ids, padding_id: None });
    assert!(matches!(refused, Err(Error::Scratch { op: "embedding::backward", .. })));
}

/// Logits whose rows lie apart and whose gradient takes their place; then a target that is no class.
#[test]
fn cross_entropy_of_columns_in_place() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Activations);
    let (logits, dlogits): (Tensor<f32>, Tensor<f32>) = (plan.tensor("logits", [3, 5]), plan.tensor("dlogits", [3, 5]));
    let (wide, targets): (Tensor<f32>, Tensor<u32>) = (plan.tensor("wide", [3, 9]), plan.tensor("targets", [3]));
    let [loss, weight_sum, dloss] = ["loss", "weight_sum", "dloss"].map(|name| plan.tensor::<f32>(name, [1]));
    let logsumexp = plan.tensor::<f32>("logsumexp", [3]);
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, cross_entropy::scratch(3)).unwrap();
    let values: Vec<f32> = (0..15).map(|value| (value * 7 % 11) as f32 * 0.3).collect();
    stream.upload(logits, &values).unwrap();
    stream.upload(dloss, &[1.0]).unwrap();
    let run = |logits, dlogits, targets_of: [u32; 3]| {
        stream.upload(targets, &targets_of).unwrap();
        let (class_weight, label_smoothing) = (None, 0.1);
        let forward = cross_entropy::Forward { loss, logsumexp, weight_sum, logits, targets, class_weight, label_smoothing };
        cross_entropy::forward(&stream, forward).unwrap();
        let backward = cross_entropy::Backward { dlogits, dloss, logits, targets, logsumexp, weight_sum, class_weight, label_smoothing };
        cross_entropy::backward(&stream, backward).unwrap();
        (stream.fetch(loss).unwrap()[0], stream.fetch(dlogits).unwrap())
    };
    let (apart, expected) = run(logits, dlogits, [4, IGNORE, 0]);
    assert!(apart > 0.0 && expected[..5].iter().sum::<f32>().abs() < 1e-6 && expected[5..10] == [0.0; 5]);
    let middle = wide.columns(3, 5);
    stream.upload(middle, &values).unwrap();
    assert_eq!(run(middle, middle, [4, IGNORE, 0]), (apart, expected));
    let (foreign, gradient) = run(logits, dlogits, [4, 5, 0]);
    assert!(foreign.is_nan() && gradient.iter().all(|value| value.is_nan()));
}

/// Embeddings whose rows lie apart, in two slices a side: the bits of rows without gaps, and the same again. Then a NaN in the last cell,
/// and a temperature that is none.
#[test]
fn contrastive_of_columns_and_with_a_nan() {
    let Some(device) = device() else { return };
    let (items, width) = (150, 3);
    for queries in [1, 3] {
        let (mut plan, rows) = (Plan::new(Class::Activations), items * queries);
        let [cells, dcells] = [("cells", width), ("dcells", width)].map(|(name, width)| plan.tensor::<f32>(name, [rows, width]));
        let [texts, dtexts] = [("texts", width), ("dtexts", width)].map(|(name, width)| plan.tensor::<f32>(name, [items, width]));
        let [wide_cells, wide_texts] = [("wide_cells", rows), ("wide_texts", items)].map(|(name, rows)| plan.tensor(name, [rows, 9]));
        let [loss, dloss, temperature] = ["loss", "dloss", "temperature"].map(|name| plan.tensor::<f32>(name, [1]));
        let [row_logsumexp, column_logsumexp] = ["rows", "columns"].map(|name| plan.tensor::<f32>(name, [items]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, contrastive::scratch::<f32>(items, queries, width)).unwrap();
        let values: Vec<f32> = (0..rows * width).map(|value| (value * 29 % 97) as f32 / 97.0 - 0.5).collect();
        stream.upload(temperature, &[0.2]).unwrap();
        stream.upload(dloss, &[1.0]).unwrap();
        let run = |cells: Tensor<f32>, texts: Tensor<f32>, [dcells, dtexts]: [Tensor<f32>; 2], values: &[f32]| {
            stream.upload(cells, values).unwrap();
            stream.upload(texts, &values.iter().rev().take(items * width).copied().collect::<Vec<_>>()).unwrap();
            let (classes, group, symmetric, dtemperature) = (None, 0, true, None);
            let args = contrastive::Forward {
                loss,
                row_logsumexp,
                column_logsumexp,
                cells,
                texts,
                classes,
                temperature,
                queries,
                group,
                symmetric,
            };
            contrastive::forward(&stream, args).unwrap();
            let backward = contrastive::Backward {
                dcells,
                dtexts,
                dtemperature,
                dloss,
                row_logsumexp,
                column_logsumexp,
                cells,
                texts,
                classes,
                temperature,
                queries,
                group,
                symmetric,
            };
            contrastive::backward(&stream, backward).unwrap();
            (stream.fetch(loss).unwrap()[0], stream.fetch(dcells).unwrap(), stream.fetch(dtexts).unwrap())
        };
        let whole = run(cells, texts, [dcells, dtexts], &values);
        assert!(whole.0 > 0.0 && whole.1.iter().chain(&whole.2).all(|value| value.is_finite()));
        let parts = |wide: Tensor<f32>, from| wide.columns(from, width);
        let apart = || run(parts(wide_cells, 1), parts(wide_texts, 2), [parts(wide_cells, 5), parts(wide_texts, 5)], &values);
        assert!(apart() == whole && apart() == whole, "{queries} queries");
        let mut spoilt = values.clone();
        *spoilt.last_mut().unwrap() = f32::NAN;
        let nan = run(cells, texts, [dcells, dtexts], &spoilt);
        assert!(nan.0.is_nan() && nan.2.iter().all(|value| value.is_nan()), "{queries} queries");
        assert!(queries > 1 || nan.1.iter().all(|value| value.is_nan()));
        for temperature_of in [0.0, -0.2, f32::NAN, f32::INFINITY] {
            stream.upload(temperature, &[temperature_of]).unwrap();
            assert!(run(cells, texts, [dcells, dtexts], &values).0.is_nan(), "temperature {temperature_of}");
        }
    }
}

#[test]
fn norms_and_updates_of_columns() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Gradients);
    let (wide, x): (Tensor<f32>, Tensor<f32>) = (plan.tensor("wide", [5, 9]), plan.tensor("x", [5, 4]));
    let long: Tensor<f32> = plan.tensor("long", [10_007]);
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, reduce::scratch::<f32>(1, 1)).unwrap();
    stream.upload(wide, &[2.0; 45]).unwrap();
    let middle = wide.columns(3, 4);
    assert_eq!(reduce::squared_norm(&stream, &[middle]).unwrap(), 80.0);
    reduce::scale(&stream, &[middle], 0.5).unwrap();
    assert_eq!(reduce::squared_norm(&stream, &[wide, middle]).unwrap(), 20.0 + 100.0 + 20.0);
    stream.upload(x, &(0..20).map(|value| value as f32).collect::<Vec<_>>()).unwrap();
    reduce::add_assign(&stream, reduce::AddAssign { y: middle, x }).unwrap();
    assert_eq!(stream.fetch(middle).unwrap(), (1..21).map(|value| value as f32).collect::<Vec<_>>());
    assert_eq!(stream.fetch(wide.columns(7, 2)).unwrap(), [2.0; 10]);
    assert!(reduce::all_finite(&stream, &[wide, long]).unwrap());
    for bad in [f32::NAN, f32::INFINITY] {
        stream.upload(long.row_range(0, 1).columns(10_006, 1), &[bad]).unwrap();
        assert!(!reduce::all_finite(&stream, &[wide, long]).unwrap());
    }
    stream.upload(long, &[1e30; 10_007]).unwrap();
    assert!((reduce::squared_norm(&stream, &[long]).unwrap() / 10_007e60 - 1.0).abs() < 1e-6, "beyond the range of f32");
    assert_eq!(reduce::squared_norm::<f32>(&stream, &[]).unwrap(), 0.0);
}

/// Scores and rows of every query, whatever the device.
fn search(device: &Device, base: &[f32], query: &[f32], metric: Metric, k: usize) -> Vec<(u32, u32)> {
    let mut plan = Plan::new(Class::Activations);
    let (rows, queries) = (base.len() / 3, query.len() / 3);
    let (all, some): (Tensor<f32>, Tensor<f32>) = (plan.tensor("base", [rows, 7]), plan.tensor("query", [queries, 5]));
    let (scores, indices) = (plan.tensor::<f32>("scores", [queries, k]), plan.tensor::<u32>("indices", [queries, k]));
    let _arena = Arena::allocate(device, plan).unwrap();
    let stream = Stream::new(device, topk::scratch(queries, rows, k)).unwrap();
    let (all, some) = (all.columns(2, 3), some.columns(1, 3));
    stream.upload(all, base).unwrap();
    stream.upload(some, query).unwrap();
    topk::forward(&stream, topk::Forward { scores, indices, query: some, base: all, metric, k }).unwrap();
    // NaN has many bit patterns, and 0 two.
    let bits = |score: f32| if score.is_nan() { f32::NAN.to_bits() } else { (score + 0.0).to_bits() };
    stream.fetch(scores).unwrap().into_iter().map(bits).zip(stream.fetch(indices).unwrap()).collect()
}

/// NaN comes after every number, -inf and all, and before nothing; and no block size is smaller than what may be asked.
#[test]
fn topk_orders_what_is_no_number() {
    let Some(device) = device() else { return };
    let cpu = Device::cpu(1).unwrap();
    let mut base: Vec<f32> = (0..3 * 300).map(|value| (value * 37 % 19) as f32 - 9.0).collect();
    (10..200).for_each(|row| base[3 * row] = f32::NAN);
    base[3 * 250] = f32::NEG_INFINITY;
    base[3 * 251..3 * 252].copy_from_slice(&[-1e-30, 0.0, 0.0]);
    let query = [1.0, -0.5, 0.25, 1e-30, 0.0, 0.0];
    for metric in [Metric::InnerProduct, Metric::Euclidean] {
        for k in [1, 5, 130, 301] {
            assert_eq!(search(&device, &base, &query, metric, k), search(&cpu, &base, &query, metric, k), "{metric:?} k {k}");
        }
    }
}

#[test]
fn nothing_to_do_is_done() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Activations);
    let (table, none): (Tensor<f32>, Tensor<f32>) = (plan.tensor("table", [3, 2]), plan.tensor("none", [0, 2]));
    let ids: Tensor<u32> = plan.tensor("ids", [0]);
    let [loss, weight_sum, sum] = [1, 1, 2].map(|len| plan.tensor::<f32>("out", [len]));
    let logsumexp: Tensor<f32> = plan.tensor("logsumexp", [0]);
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, reduce::scratch::<f32>(0, 2)).unwrap();
    embedding::forward(&stream, embedding::Forward { y: none, table, ids }).unwrap();
    embedding::backward(&stream, embedding::Backward { dtable: table, dy: none, ids, padding_id: None }).unwrap();
    reduce::column_sum(&stream, reduce::ColumnSum { sum, x: none }).unwrap();
    reduce::add_assign(&stream, reduce::AddAssign { y: none, x: none }).unwrap();
    assert_eq!(reduce::squared_norm(&stream, &[none]).unwrap(), 0.0);
    let arguments =
        cross_entropy::Forward { loss, logsumexp, weight_sum, logits: none, targets: ids, class_weight: None, label_smoothing: 0.0 };
    cross_entropy::forward(&stream, arguments).unwrap();
    assert_eq!((stream.fetch(loss).unwrap(), stream.fetch(sum).unwrap()), (vec![0.0], vec![0.0; 2]));
    for k in [0, 2] {
        assert_eq!(search(&device, &[], &[1.0, 2.0, 3.0], Metric::Euclidean, k), vec![(f32::NEG_INFINITY.to_bits(), u32::MAX); k]);
        assert!(search(&device, &[1.0, 2.0, 3.0], &[], Metric::Euclidean, k).is_empty());
    }
}
