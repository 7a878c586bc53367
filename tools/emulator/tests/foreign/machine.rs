//! A device with a text and its data, and what results are compared with.

use scmmgpt_emulator::{ApproxModel, Config, Counters, Device, Error, Launch, MmaModel, Module, Numerics};

/// An argument of a launch.
pub(crate) enum Argument {
    Pointer(u64),
    Int(u32),
    Float(f32),
}

pub(crate) struct Machine {
    pub(crate) device: Device,
    pub(crate) module: Module,
}

impl Machine {
    pub(crate) fn new(text: &str, seed: u64, numerics: Numerics) -> Machine {
        let device = Device::new(Config { seed, numerics, ..Config::default() });
        let module = device.load(text).unwrap_or_else(|error| panic!("{error}"));
        Machine { device, module }
    }

    pub(crate) fn upload(&self, bytes: &[u8]) -> Argument {
        let address = self.device.allocate(bytes.len() as u64).unwrap();
        self.device.write(address, bytes).unwrap();
        Argument::Pointer(address)
    }

    pub(crate) fn empty(&self, bytes: usize) -> Argument {
        Argument::Pointer(self.device.allocate(bytes as u64).unwrap())
    }

    pub(crate) fn download(&self, argument: &Argument, bytes: usize) -> Vec<u8> {
        let Argument::Pointer(address) = argument else { panic!("not a pointer") };
        let mut out = vec![0; bytes];
        self.device.read(*address, &mut out).unwrap();
        out
    }

    pub(crate) fn launch(&self, name: &str, grid: [u32; 3], block: [u32; 3], shared: u32, arguments: &[&Argument]) -> Counters {
        self.try_launch(name, grid, block, shared, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        arguments: &[&Argument],
    ) -> Result<Counters, Error> {
        let function = self.module.function(name).unwrap();
        let last = function.parameters().last().unwrap();
        let mut params = vec![0; last.offset + last.size];
        for (parameter, argument) in function.parameters().iter().zip(arguments) {
            let bytes = match argument {
                Argument::Pointer(value) => value.to_le_bytes().to_vec(),
                Argument::Int(value) => value.to_le_bytes().to_vec(),
                Argument::Float(value) => value.to_le_bytes().to_vec(),
            };
            assert_eq!(bytes.len(), parameter.size);
            params[parameter.offset..parameter.offset + parameter.size].copy_from_slice(&bytes);
        }
        let launch = Launch { grid, block, dynamic_shared: shared, max_dynamic_shared: shared, params };
        self.device.launch(&function, &launch)
    }
}

/// Seeds and numeric models that every text runs under.
pub(crate) fn every() -> Vec<(u64, Numerics)> {
    let model = |mma, approx| Numerics { mma, approx };
    vec![(0, Numerics::default()), (1, model(MmaModel::Exact, ApproxModel::Highest)), (2, model(MmaModel::Blocks, ApproxModel::Lowest))]
}

/// Numbers in [-1, 1) from an index.
pub(crate) fn value(index: usize, salt: u32) -> f32 {
    let mut word = (index as u32 ^ salt.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1);
    word ^= word >> 15;
    word = word.wrapping_mul(0x2c1b_3c6d);
    word ^= word >> 12;
    (word >> 8) as f32 / 8_388_608.0 - 1.0
}

pub(crate) fn numbers(count: usize, salt: u32) -> Vec<f32> {
    (0..count).map(|index| value(index, salt)).collect()
}

pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rounded to bf16: values and bytes.
pub(crate) fn brain(values: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let bits: Vec<u16> = values.iter().map(|value| (value.to_bits() >> 16) as u16).collect();
    let rounded = bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16)).collect();
    (rounded, bits.iter().flat_map(|bits| bits.to_le_bytes()).collect())
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

pub(crate) fn brains(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(2).map(|half| f32::from_bits(u32::from(u16::from_le_bytes(half.try_into().unwrap())) << 16)).collect()
}

#[track_caller]
pub(crate) fn close(got: &[f32], expected: &[f64], absolute: f64, relative: f64) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= absolute + relative * expected.abs(), "element {index}: {got} for {expected}");
    }
}

pub(crate) fn product(a: &[f32], b: impl Fn(usize, usize) -> f32, m: usize, n: usize, k: usize) -> Vec<f64> {
    let element = |i: usize, j: usize| (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b(p, j))).sum();
    (0..m * n).map(|index| element(index / n, index % n)).collect()
}
