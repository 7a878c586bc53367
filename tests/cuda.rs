//! The CUDA runtime below the kernels: memory, copies, streams, events and what is refused. Needs a driver, as tests/kernels.rs does.

use scmmgpt_kernels::runtime::{Arena, Class, Device, Event, Pinned, Plan, Stream, Tensor};
use scmmgpt_kernels::{Error, activation, embedding};

/// The device; none without a driver, unless `SCMMGPT_REQUIRE_CUDA=1` makes that a failure.
fn device() -> Option<Device> {
    match Device::cuda(0, 1) {
        Ok(device) => Some(device),
        Err(Error::DriverNotFound { tried }) => {
            assert!(std::env::var_os("SCMMGPT_REQUIRE_CUDA").is_none(), "no driver among {tried:?}: run tools/test.sh");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

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
    let (mut arrived, mut used) = (Event::new(&device), Event::new(&device));
    for round in 0..8 {
        // Waits for the last round's copy, which is only queued.
        staging.as_mut_slice().fill(round as f32 - 3.0);
        copy.wait(&used);
        copy.upload_pinned(x, &staging).unwrap();
        copy.record(&mut arrived);
        compute.wait(&arrived);
        activation::forward(&compute, activation::Forward { y, x, kind: activation::Kind::Relu }).unwrap();
        compute.record(&mut used);
        assert_eq!(compute.fetch(y).unwrap(), [(round as f32 - 3.0).max(0.0); 64]);
    }
    used.synchronize();
    assert!(arrived.elapsed_ms(&used).unwrap() >= 0.0);
}

#[test]
fn what_cannot_be_is_a_typed_error() {
    let Some(device) = device() else { return };
    let mut plan = Plan::new(Class::Weights);
    plan.tensor::<f32>("x", [1 << 20, 1 << 20]);
    assert!(matches!(Arena::allocate(&device, plan), Err(Error::OutOfMemory { class: "weights", .. })));
    assert!(matches!(Device::cuda(7, 1), Err(Error::Driver { call: "cuDeviceGet", .. })));
    assert!(matches!(Device::open("cuda:x", 1), Err(Error::DeviceUnavailable { .. })));
    // f64 is for the CPU.
    let mut plan = Plan::new(Class::Activations);
    let (x, y): (Tensor<f64>, Tensor<f64>) = (plan.tensor("x", [4]), plan.tensor("y", [4]));
    let _arena = Arena::allocate(&device, plan).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let refused = activation::forward(&stream, activation::Forward { y, x, kind: activation::Kind::Relu });
    assert!(matches!(refused, Err(Error::NoCudaKernel { element: "f64", .. })));
    assert!(device.describe().starts_with("cuda:0"));
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
