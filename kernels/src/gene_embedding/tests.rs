//! Tables against the plain layers where it matters most: at the breakpoints, and in accuracy.

use super::*;
use crate::runtime::philox::uniform;
use crate::runtime::{Arena, Class, Device};

/// A layer, its gradients and one batch of tokens.
struct Layer<T: Float> {
    stream: Stream,
    parameters: Parameters<T>,
    gradients: Gradients<T>,
    tables: Tables<T::Acc>,
    saved: Saved<T>,
    y: Tensor<T>,
    dy: Tensor<T>,
    ids: Tensor<u32>,
    values: Tensor<T::Acc>,
    generated: Generated,
    _arena: Arena,
}

const VOCAB: usize = 5;

fn cpu() -> Device {
    Device::cpu(2).unwrap()
}

/// Needs a driver: `tools/test.sh` puts the emulated one on the library path, and `SCMMGPT_REQUIRE_CUDA=1` makes its absence a failure.
fn cuda() -> Option<Device> {
    match Device::cuda(0, 1) {
        Ok(device) => Some(device),
        Err(Error::DriverNotFound { .. }) if std::env::var_os("SCMMGPT_REQUIRE_CUDA").is_none() => None,
        Err(error) => panic!("{error}"),
    }
}

impl<T: Float> Layer<T> {
    fn new(device: &Device, width: usize, values: &[f64]) -> Layer<T> {
        let mut plan = Plan::new(Class::Activations);
        let tokens = values.len();
        let mut add = |name: &str, rows: usize, columns: usize| plan.tensor::<T>(name, [rows, columns]);
        let [table, linear1_weight, linear2_weight, flag] =
            [("table", VOCAB, width), ("w1", width, 1), ("w2", width, width), ("flag", 2, width)].map(|(name, r, c)| add(name, r, c));
        let (y, dy) = (add("y", tokens, width), add("dy", tokens, width));
        let [gene_weight, gene_bias, linear1_bias, linear2_bias, value_weight, value_bias] =
            ["gw", "gb", "b1", "b2", "vw", "vb"].map(|name| plan.tensor(name, [width]));
        let mut row = |name: &str| Some(plan.tensor::<T::Acc>(name, [width]));
        let gradients = Gradients {
            gene_weight: row("dgw"),
            gene_bias: row("dgb"),
            linear1_bias: row("db1"),
            linear2_bias: row("db2"),
            value_weight: row("dvw"),
            value_bias: row("dvb"),
            table: Some(plan.tensor("dtable", [VOCAB, width])),
            linear1_weight: Some(plan.tensor("dw1", [width, 1])),
            linear2_weight: Some(plan.tensor("dw2", [width, width])),
            flag: Some(plan.tensor("dflag", [2, width])),
        };
        let [gene_mean, gene_rstd, value_mean, value_rstd] = ["gm", "gr", "vm", "vr"].map(|name| plan.tensor(name, [tokens]));
        let (ids, value, known_lengths) = (plan.tensor("ids", [tokens]), plan.tensor("values", [tokens]), plan.tensor("known", [1]));
        let layer = Layer {
            tables: plan_tables(&mut plan, width),
            _arena: Arena::allocate(device, plan).unwrap(),
            stream: Stream::new(device, scratch::<T>(tokens, width, Method::Piecewise).max(scratch::<T>(tokens, width, Method::Gemm)))
                .unwrap(),
            parameters: Parameters {
                table,
                gene_weight,
                gene_bias,
                linear1_weight,
                linear1_bias,
                linear2_weight,
                linear2_bias,
                value_weight,
                value_bias,
                flag: Some(flag),
            },
            gradients,
            saved: Saved { gene_mean, gene_rstd, value_mean, value_rstd },
            y,
            dy,
            ids,
            values: value,
            generated: Generated { known_lengths, seq_len: tokens },
        };
        let parameters =
            [table, linear1_weight, linear2_weight, flag, dy, gene_weight, gene_bias, linear1_bias, linear2_bias, value_weight, value_bias];
        for (site, tensor) in parameters.into_iter().enumerate() {
            layer.fill(tensor, site as u32);
        }
        layer.stream.upload(known_lengths, &[tokens as u32]).unwrap();
        layer.set_values(values);
        layer
    }

    fn fill(&self, tensor: Tensor<T>, site: u32) {
        let site = Site { seed: 1, step: 0, site };
        let values = (0..tensor.len()).map(|index| 2.0 * uniform(site.words(index as u64)[0]) - 1.0);
        self.stream.upload(tensor, &values.map(|value| T::from_acc(T::Acc::of(f64::from(value)))).collect::<Vec<_>>()).unwrap();
    }

    fn set_values(&self, values: &[f64]) {
        self.stream.upload(self.values, &values.iter().map(|value| T::Acc::of(*value)).collect::<Vec<_>>()).unwrap();
    }

    fn forward(&self, method: Method) -> Result<Vec<f64>> {
        build_tables(&self.stream, self.parameters, self.tables)?;
        forward(
            &self.stream,
            Forward {
                y: self.y,
                gene: None,
                saved: self.saved,
                ids: self.ids,
                values: self.values,
                generated: Some(self.generated),
                parameters: self.parameters,
                tables: self.tables,
                clamp: 512.0,
                eps: 1e-5,
                dropout: None,
                method,
            },
        )?;
        Ok(self.stream.fetch(self.y)?.into_iter().map(|value| value.to_acc().f64()).collect())
    }

    /// After [`Layer::forward`]: every gradient, from zero.
    fn backward(&self, method: Method, gradients: Gradients<T>, padding_id: Option<u32>) -> Vec<Vec<f64>> {
        let all = list(self.gradients);
        all.iter().flatten().for_each(|gradient| self.stream.zero(*gradient));
        backward(
            &self.stream,
            Backward {
                gradients,
                dy: self.dy,
                dgene: None,
                saved: self.saved,
                ids: self.ids,
                values: self.values,
                generated: Some(self.generated),
                parameters: self.parameters,
                tables: self.tables,
                clamp: 512.0,
                dropout: None,
                method,
                padding_id,
            },
        )
        .unwrap();
        all.iter().flatten().map(|gradient| self.stream.fetch(*gradient).unwrap().into_iter().map(Real::f64).collect()).collect()
    }
}

fn list<T: Float>(g: Gradients<T>) -> [Option<Tensor<T::Acc>>; 10] {
    [
        g.table,
        g.gene_weight,
        g.gene_bias,
        g.linear1_weight,
        g.linear1_bias,
        g.linear2_weight,
        g.linear2_bias,
        g.value_weight,
        g.value_bias,
        g.flag,
    ]
}

fn worst(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

/// Makes constant units, on and off, and ties: three units with one breakpoint, of both directions, and one at 0.
fn set_special_units<T: Float>(layer: &Layer<T>) {
    let (mut weights, mut biases) =
        (layer.stream.fetch(layer.parameters.linear1_weight).unwrap(), layer.stream.fetch(layer.parameters.linear1_bias).unwrap());
    let zero = T::from_acc(T::Acc::ZERO);
    (weights[0], weights[1]) = (zero, zero);
    (weights[3], biases[3]) = (weights[2], biases[2]);
    (weights[4], biases[4]) = (T::from_acc(-weights[2].to_acc()), T::from_acc(-biases[2].to_acc()));
    biases[5] = zero;
    layer.stream.upload(layer.parameters.linear1_weight, &weights).unwrap();
    layer.stream.upload(layer.parameters.linear1_bias, &biases).unwrap();
    build_tables(&layer.stream, layer.parameters, layer.tables).unwrap();
}

/// Both methods at every breakpoint, the numbers next to it, and halves of the largest.
fn at_breakpoints<T: Float>(device: &Device, width: usize, next: impl Fn(T::Acc, bool) -> T::Acc, tolerance: f64) {
    let layer = Layer::<T>::new(device, width, &vec![0.0; 3 * width]);
    set_special_units(&layer);
    let points = layer.stream.fetch(layer.tables.breakpoints).unwrap();
    assert_eq!(points.iter().filter(|point| !point.is_finite()).count(), 2);
    let finite = points.into_iter().map(|point| if point.is_finite() { point } else { T::Acc::ONE });
    let values: Vec<f64> = finite.flat_map(|point| [next(point, false), point, next(point, true)]).map(Real::f64).collect();
    layer.set_values(&values);
    let expected = layer.forward(Method::Gemm).unwrap();
    let reference = layer.backward(Method::Gemm, layer.gradients, None);
    let got = layer.forward(Method::Piecewise).unwrap();
    assert!(worst(&expected, &got) < tolerance, "{}", worst(&expected, &got));
    for (index, (expected, got)) in reference.iter().zip(layer.backward(Method::Piecewise, layer.gradients, None)).enumerate() {
        // One token on the wrong side of its kink would show as an error of the size of the gradient itself.
        let scale = expected.iter().fold(1.0f64, |scale, value| scale.max(value.abs()));
        assert!(worst(expected, &got) < tolerance * scale, "gradient {index}: {} at scale {scale}", worst(expected, &got));
    }
}

#[test]
fn methods_agree_at_breakpoints() {
    let next = |point: f32, up: bool| if up { point.next_up() } else { point.next_down() };
    at_breakpoints::<f32>(&cpu(), 37, next, 2e-5);
    at_breakpoints::<f64>(&cpu(), 37, |point, up| if up { point.next_up() } else { point.next_down() }, 1e-12);
    at_breakpoints::<f32>(&cpu(), 128, next, 5e-5);
    if let Some(device) = cuda() {
        at_breakpoints::<f32>(&device, 37, next, 2e-5);
        at_breakpoints::<f32>(&device, 70, next, 5e-5);
    }
}

#[test]
fn a_cuda_device_builds_the_tables_of_the_cpu() {
    let Some(device) = cuda() else { return };
    for width in [7, 37, 150] {
        let [left, right] = [cpu(), device.clone()].map(|device| {
            let layer = Layer::<f32>::new(&device, width, &[0.0]);
            set_special_units(&layer);
            let (stream, tables) = (&layer.stream, layer.tables);
            let reals = [tables.breakpoints, tables.slope, tables.intercept].map(|tensor| stream.fetch(tensor).unwrap());
            (reals, stream.fetch(tables.order).unwrap())
        });
        assert!(left == right, "width {width}");
    }
}

#[test]
fn a_cuda_device_gives_nan_for_an_id_that_names_no_row() {
    let Some(device) = cuda() else { return };
    let layer = Layer::<f32>::new(&device, 19, &[1.0, 3.0, -2.0, 0.0]);
    layer.stream.upload(layer.ids, &[1, VOCAB as u32, 0, u32::MAX]).unwrap();
    layer.stream.upload(layer.generated.known_lengths, &[3]).unwrap();
    let y = layer.forward(Method::Piecewise).unwrap();
    let rows = y.chunks(19).map(|row| (row.iter().all(|value| value.is_nan()), row.iter().any(|value| value.is_nan())));
    assert_eq!(rows.collect::<Vec<_>>(), [(false, false), (true, true), (false, false), (true, true)]);
    let gradients = layer.backward(Method::Piecewise, layer.gradients, None);
    assert!(gradients[0][..2 * 19].iter().all(|value| value.is_finite() && *value != 0.0), "rows that have a token");
    assert!(gradients[0][2 * 19..].iter().all(|value| *value == 0.0), "rows that have none");
}

#[test]
fn tables_are_no_less_accurate_than_the_layers() {
    let width = 256;
    let values: Vec<f64> = (0..400).map(|step| f64::from(step) * 0.02 - 2.0).chain((0..100).map(|step| f64::from(5 * step))).collect();
    // f32 values in both, so that only the arithmetic differs.
    let values: Vec<f64> = values.into_iter().map(|value| f64::from(value as f32)).collect();
    let truth = Layer::<f64>::new(&cpu(), width, &values).forward(Method::Gemm).unwrap();
    let layer = Layer::<f32>::new(&cpu(), width, &values);
    let [tables, layers] = [Method::Piecewise, Method::Gemm].map(|method| worst(&layer.forward(method).unwrap(), &truth));
    assert!(tables <= layers, "tables {tables:e}, layers {layers:e}");
    assert!(tables < 3e-6, "{tables:e}");
}

#[test]
fn nan_reaches_the_output_and_nothing_else() {
    for method in [Method::Piecewise, Method::Gemm] {
        let layer = Layer::<f32>::new(&cpu(), 8, &[1.0, f64::NAN, 1e9]);
        let y = layer.forward(method).unwrap();
        assert!(y[8..16].iter().all(|value| value.is_nan()), "{method:?}");
        assert!(y[..8].iter().chain(&y[16..]).all(|value| value.is_finite()), "{method:?}");
        layer.set_values(&[1.0, 2.0, 512.0]);
        assert_eq!(layer.forward(method).unwrap()[16..], y[16..], "clamped");
    }
}

#[test]
fn frozen_gradients_do_not_change_the_others() {
    let layer = Layer::<f32>::new(&cpu(), 19, &[1.0, 3.0, -2.0, 0.0, 7.0]);
    layer.stream.upload(layer.ids, &[1, 0, 3, 3, 1]).unwrap();
    layer.stream.upload(layer.generated.known_lengths, &[4]).unwrap();
    for method in [Method::Piecewise, Method::Gemm] {
        layer.forward(method).unwrap();
        let all = layer.backward(method, layer.gradients, None);
        assert!(all.iter().all(|gradient| gradient.iter().any(|value| *value != 0.0)));
        let g = layer.gradients;
        let none = Gradients::none();
        let single = [
            Gradients { table: g.table, ..none },
            Gradients { gene_weight: g.gene_weight, ..none },
            Gradients { gene_bias: g.gene_bias, ..none },
            Gradients { linear1_weight: g.linear1_weight, ..none },
            Gradients { linear1_bias: g.linear1_bias, ..none },
            Gradients { linear2_weight: g.linear2_weight, ..none },
            Gradients { linear2_bias: g.linear2_bias, ..none },
            Gradients { value_weight: g.value_weight, ..none },
            Gradients { value_bias: g.value_bias, ..none },
            Gradients { flag: g.flag, ..none },
        ];
        for (index, gradients) in single.into_iter().enumerate() {
            for (other, got) in layer.backward(method, gradients, None).into_iter().enumerate() {
                let expected = if other == index { all[index].clone() } else { vec![0.0; got.len()] };
                assert_eq!(got, expected, "{method:?}: {other} with only {index} trained");
            }
        }
        let padded = layer.backward(method, layer.gradients, Some(3));
        assert_eq!(padded[1..], all[1..]);
        assert_eq!(padded[0][..3 * 19], all[0][..3 * 19]);
        assert!(padded[0][3 * 19..].iter().all(|value| *value == 0.0));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut layer = Layer::<f32>::new(&cpu(), 4, &[1.0, 2.0]);
    layer.stream.upload(layer.ids, &[0, VOCAB as u32]).unwrap();
    assert!(matches!(layer.forward(Method::Piecewise), Err(Error::Index { position: 1, .. })));
    layer.parameters.flag = None;
    assert!(matches!(layer.forward(Method::Piecewise), Err(Error::Argument { argument: "flag", .. })));
    layer.generated.seq_len = 3;
    assert!(matches!(layer.forward(Method::Piecewise), Err(Error::Shape { tensor: "ids", .. })));
}
