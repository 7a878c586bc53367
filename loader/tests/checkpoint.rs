//! Safetensors: round trips, shards, and every kind of damaged file.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use scmmgpt_loader::Error;
use scmmgpt_loader::checkpoint::{Checkpoint, Dtype, INDEX_NAME, TensorProblem, write};

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write_one(path: &Path, name: &str, values: &[f32]) {
    let (shape, bytes) = ([values.len()], f32_bytes(values));
    write(path, [(name, Dtype::F32, &shape[..], &bytes[..])], &BTreeMap::new()).unwrap();
}

/// A file of a JSON header and zeros behind it.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(path)
}

#[test]
fn round_trip_of_every_float_and_deterministic_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let values = [1.5f32, -2.0, 0.25];
    let f32s = f32_bytes(&values);
    let f64s: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
    let tensors: [(&str, Dtype, &[usize], &[u8]); 6] = [
        ("b.half", Dtype::F16, &[3], &f16s),
        ("a.bfloat", Dtype::BF16, &[3, 1], &bf16s),
        ("single", Dtype::F32, &[1, 3], &f32s),
        ("double", Dtype::F64, &[3], &f64s),
        ("empty", Dtype::F32, &[0, 4], &[]),
        ("ids", Dtype::U8, &[3], &[1, 2, 3]),
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let (one, two) = (folder.path().join("one.safetensors"), folder.path().join("two.safetensors"));
    write(&one, tensors, &metadata).unwrap();
    write(&two, tensors.into_iter().rev(), &metadata).unwrap();
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap(), "order of the input is irrelevant");

    let file = Checkpoint::open(&one).unwrap();
    let names: Vec<_> = file.names().collect();
    assert_eq!(names, ["a.bfloat", "b.half", "double", "empty", "ids", "single"]);
    for name in ["a.bfloat", "b.half", "double", "single"] {
        assert_eq!(file.to_f32(name).unwrap(), values, "{name}");
    }
    assert!(matches!(file.f32s("single").unwrap(), std::borrow::Cow::Borrowed(_)));
    assert_eq!(file.to_f32("empty").unwrap(), [0f32; 0]);
    assert_eq!(file.view("single").unwrap().shape, [1, 3]);
    assert_eq!(file.metadata(), &metadata);
    assert!(matches!(file.to_f32("ids"), Err(Error::TensorType { .. })));
    assert!(matches!(file.read_f32("single", &mut [0.0; 2]), Err(Error::TensorSize { .. })));

    // The official parser agrees, and the header is aligned.
    let bytes = fs::read(&one).unwrap();
    assert_eq!(bytes[0] % 8, 0);
    let official = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(official.tensor("single").unwrap().data(), &f32s[..]);
}

#[test]
fn a_file_of_the_official_python_writer_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/binning.safetensors");
    let file = Checkpoint::open(path).unwrap();
    assert_eq!(file.view("00.n_bins").unwrap().dtype, Dtype::F32);
    assert!(file.metadata().contains_key("numpy"));
}

#[test]
fn unaligned_elements_are_copied() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
    let mut bytes = raw(header, 5);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&2.5f32.to_le_bytes());
    let file = open_bytes(&bytes).unwrap();
    assert_eq!(file.to_f32("b").unwrap(), [2.5]);
    assert_eq!(file.f32s("b").unwrap()[..], [2.5]);
}

#[test]
fn truncated_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.safetensors");
    write_one(&path, "weight", &[1.0, 2.0, 3.0]);
    let whole = fs::read(&path).unwrap();
    assert!(open_bytes(&whole).is_ok());
    for len in 0..whole.len() {
        let error = open_bytes(&whole[..len]).unwrap_err();
        let named = matches!(error, Error::NotSafetensors { .. } | Error::TruncatedFile { .. } | Error::TensorRange { .. });
        assert!(named, "{len}: {error}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(open_bytes(&longer), Err(Error::Header { .. })));
}

#[test]
fn every_flipped_byte_of_the_header_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.safetensors");
    write_one(&path, "weight", &[1.0, 2.0]);
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() - 8 {
        for flip in [0x01, 0x02, 0x20, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] ^= flip;
            // Some flips change a name or the metadata and are legal; none may panic or read outside.
            if let Ok(file) = open_bytes(&bytes) {
                file.names().for_each(|name| assert!(file.view(name).is_ok()));
            }
        }
    }
}

#[test]
fn malformed_headers() {
    let error = |header: &str, data| open_bytes(&raw(header, data)).unwrap_err();
    let tensor = |dtype: &str, shape: &str, from: &str, to: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    assert!(matches!(error("{", 0), Error::Json { .. }));
    assert!(matches!(error("[]", 0), Error::Json { .. }));
    assert!(matches!(error(&"[".repeat(5000), 0), Error::Json { .. }), "deep nesting");
    assert!(matches!(error(r#"{"a":7}"#, 0), Error::Header { .. }));
    assert!(matches!(error(r#"{"__metadata__":{"a":1}}"#, 0), Error::Header { .. }));
    assert!(matches!(error(&tensor("F31", "[1]", "0", "4"), 4), Error::Header { .. }));
    assert!(matches!(error(&tensor("F32", "[-1]", "0", "4"), 4), Error::Header { .. }));
    assert!(matches!(error(&tensor("F32", "[2]", "0", "4"), 4), Error::Header { .. }), "shape");
    assert!(matches!(error(&tensor("F32", "[1]", "4", "8"), 8), Error::Header { .. }), "a hole");
    assert!(matches!(error(&tensor("F32", "[1]", "4", "0"), 4), Error::Header { .. }), "backwards");
    assert!(matches!(error(&tensor("F32", "[1]", "0", "4"), 3), Error::TensorRange { .. }));
    let huge = "[4294967296,4294967296,4]";
    assert!(matches!(error(&tensor("F32", huge, "0", "4"), 4), Error::Header { .. }), "overflow");
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(matches!(error(twice, 1), Error::DuplicateTensor { .. }));
    let mut not_utf8 = raw(r#"{"a":1}"#, 0);
    not_utf8[10] = 0xff;
    assert!(matches!(open_bytes(&not_utf8), Err(Error::Json { .. })));
}

/// Eight contiguous tensors whose sizes are legal one by one, and whose sum wraps around 64 bits: the
/// official parser (0.8.0) adds without a check, and panics in builds with overflow checks.
#[test]
fn ranges_that_overflow_together() {
    let size = (1u64 << 61) - 1;
    let entry = |index: u64| {
        let (from, to) = (index * size, (index + 1) * size);
        format!(r#""t{index}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{from},{to}]}}"#)
    };
    let mut header: Vec<String> = (0..8).map(entry).collect();
    let end = 8 * size;
    header.push(format!(r#""u":{{"dtype":"U8","shape":[7],"data_offsets":[{end},{}]}}"#, end + 7));
    let error = open_bytes(&raw(&format!("{{{}}}", header.join(",")), 0)).unwrap_err();
    assert!(matches!(error, Error::TensorRange { .. }), "{error}");
}

#[test]
fn other_kinds_of_file_are_named() {
    let error = |bytes: &[u8]| open_bytes(bytes).unwrap_err().to_string();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    assert!(error(pointer).contains("git lfs pull"));
    assert!(error(b"\n<!DOCTYPE html><html>").contains("HTML"));
    assert!(error(b"PK\x03\x04aaaaaaaaaaaa").contains("PyTorch"));
    assert!(error(b"\x80\x02}q\x00aaaaaaa").contains("PyTorch"));
    assert!(error(b"GGUF\x03\x00\x00\x00aaa").contains("GGUF"));
    assert!(error(b"").contains("empty"));
    assert!(error(&[0xff; 64]).contains("header of"));
}

fn shards(folder: &Path, weight_map: &[(&str, &str)]) {
    let entries: Vec<_> = weight_map.iter().map(|(name, file)| format!(r#""{name}":"{file}""#)).collect();
    let text = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{{{}}}}}"#, entries.join(","));
    fs::write(folder.join(INDEX_NAME), text).unwrap();
}

#[test]
fn shards_open_by_folder_and_by_index() {
    let folder = tempfile::tempdir().unwrap();
    write_one(&folder.path().join("model-1.safetensors"), "a", &[1.0]);
    write_one(&folder.path().join("model-2.safetensors"), "b", &[2.0, 3.0]);
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::NoCheckpoint { found, .. } if found.len() == 2), "{error}");

    shards(folder.path(), &[("a", "model-1.safetensors"), ("b", "model-2.safetensors")]);
    for path in [folder.path().to_path_buf(), folder.path().join(INDEX_NAME)] {
        let file = Checkpoint::open(path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.to_f32("b").unwrap(), [2.0, 3.0]);
    }
}

#[test]
fn bad_shards_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("model");
    fs::create_dir(&folder).unwrap();
    write_one(&parent.path().join("outside.safetensors"), "a", &[1.0]);
    write_one(&folder.join("one.safetensors"), "a", &[1.0]);
    write_one(&folder.join("two.safetensors"), "a", &[1.0]);
    write_one(&folder.join("three.safetensors"), "c", &[1.0]);
    let error = |weight_map: &[(&str, &str)]| {
        shards(&folder, weight_map);
        Checkpoint::open(&folder).unwrap_err()
    };
    let absolute = parent.path().join("outside.safetensors");
    for name in ["../outside.safetensors", absolute.to_str().unwrap(), ".", "..", "", "a/b", "a\\\\b"] {
        assert!(matches!(error(&[("a", name)]), Error::ShardName { .. }), "{name}");
    }
    let both = [("a", "one.safetensors"), ("c", "two.safetensors")];
    assert!(matches!(error(&both), Error::DuplicateTensor { .. }), "a in two shards");
    let lacking = [("a", "one.safetensors"), ("b", "three.safetensors")];
    assert!(matches!(error(&lacking), Error::ShardTensor { name, .. } if name == "b"));
    let wrong = [("c", "one.safetensors"), ("a", "three.safetensors")];
    assert!(matches!(error(&wrong), Error::ShardTensor { .. }), "in the other shard");
    let twice = [("a", "one.safetensors"), ("a", "three.safetensors")];
    assert!(matches!(error(&twice), Error::DuplicateTensor { .. }));
    assert!(matches!(error(&[("a", "none.safetensors")]), Error::Io { .. }));
    assert!(matches!(error(&[]), Error::NoCheckpoint { .. }));
    fs::write(folder.join(INDEX_NAME), "{}").unwrap();
    assert!(matches!(Checkpoint::open(&folder), Err(Error::Json { .. })));
}

#[cfg(unix)]
#[test]
fn links_may_not_leave_the_folder_except_into_the_blobs_of_a_hub_cache() {
    use std::os::unix::fs::symlink;
    let parent = tempfile::tempdir().unwrap();
    let (folder, blobs) = (parent.path().join("snapshots/abc"), parent.path().join("blobs"));
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    write_one(&parent.path().join("outside.safetensors"), "a", &[1.0]);
    write_one(&blobs.join("0123"), "a", &[1.0]);
    let link = folder.join("model.safetensors");
    symlink("../../outside.safetensors", &link).unwrap();
    assert!(matches!(Checkpoint::open(&folder), Err(Error::ShardName { .. })));
    fs::remove_file(&link).unwrap();
    symlink("../../blobs/0123", &link).unwrap();
    assert_eq!(Checkpoint::open(&folder).unwrap().to_f32("a").unwrap(), [1.0]);
}

#[test]
fn require_lists_every_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write_one(&path, "module.weight", &[1.0, 2.0]);
    let file = Checkpoint::open(&path).unwrap();
    file.require(&[("module.weight", [2])]).unwrap();
    let wanted: [(&str, &[usize]); 3] = [("weight", &[2]), ("module.weight", &[2, 1]), ("bias", &[2])];
    let error = file.require(&wanted).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("3 of 3") && text.contains("`weight`") && text.contains("[2, 1]"), "{text}");
    let Error::Tensors { problems, .. } = error else { panic!("{text}") };
    assert!(matches!(&problems[1], TensorProblem::Shape { got, .. } if got[..] == [2]));
    let missing = file.view("weight").unwrap_err().to_string();
    assert!(missing.contains("it has `module.weight`"), "{missing}");
}

#[test]
fn failed_writes_leave_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write_one(&path, "weight", &[1.0]);
    let old = fs::read(&path).unwrap();
    let none = BTreeMap::new();
    let tensor = |name, bytes| (name, Dtype::F32, &[1usize][..], bytes);
    let short = write(&path, [tensor("weight", &[0u8; 3][..])], &none);
    assert!(matches!(short, Err(Error::TensorSize { expected: 4, got: 3, .. })));
    let twice = write(&path, [tensor("w", &[0u8; 4][..]), tensor("w", &[0u8; 4][..])], &none);
    assert!(matches!(twice, Err(Error::DuplicateTensor { .. })));
    let reserved = write(&path, [tensor("__metadata__", &[0u8; 4][..])], &none);
    assert!(matches!(reserved, Err(Error::TensorName { .. })));
    assert_eq!(fs::read(&path).unwrap(), old);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}
