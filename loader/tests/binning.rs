//! Binning against numpy, bit for bit (`tools/golden/make_binning_fixture.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use scmmgpt_loader::binning;
use scmmgpt_loader::checkpoint::Checkpoint;

fn f64s(file: &Checkpoint, name: &str) -> Vec<f64> {
    let (chunks, _) = file.view(name).unwrap().bytes.as_chunks::<8>();
    chunks.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
}

#[test]
fn equals_numpy_bit_for_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/binning.safetensors");
    let file = Checkpoint::open(path).unwrap();
    let mut cases = 0;
    for name in file.names().filter_map(|name| name.strip_suffix(".values")) {
        let mut values = file.to_f32(&format!("{name}.values")).unwrap();
        let n_bins = file.to_f32(&format!("{name}.n_bins")).unwrap()[0] as usize;
        let uniforms = f64s(&file, &format!("{name}.uniforms"));

        let non_zero: Vec<f32> = values.iter().copied().filter(|&value| value != 0.0).collect();
        let edges: Vec<u64> = binning::edges(&non_zero, n_bins).into_iter().map(f64::to_bits).collect();
        let expected: Vec<u64> = f64s(&file, &format!("{name}.edges")).into_iter().map(f64::to_bits).collect();
        assert_eq!(edges, expected, "edges of case {name}");

        let mut uniforms = uniforms.into_iter();
        binning::bin(&mut values, n_bins, || uniforms.next().unwrap());
        assert_eq!(values, file.to_f32(&format!("{name}.bins")).unwrap(), "bins of case {name}");
        assert!(uniforms.next().is_none());
        cases += 1;
    }
    assert_eq!(cases, 39);
}
