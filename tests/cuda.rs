//! The CUDA runtime below the kernels: memory, copies, streams, events and what is refused. Needs a driver, as tests/kernels.rs does.

use scmmgpt_kernels::runtime::{Arena, Class, Device, Event, Pinned, Plan, Stream, Tensor};
use scmmgpt_kernels::{Error, activation};

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
