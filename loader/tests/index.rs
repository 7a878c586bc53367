//! Retrieval indexes: written, read, damaged.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use scmmgpt_loader::Error;
use scmmgpt_loader::index::{IndexElement, IndexError, IndexMetric, IndexSpec, IndexWriter, VectorIndex};
use sha2::{Digest, Sha256};

const SPEC: IndexSpec = IndexSpec { width: 300, vectors_per_item: 2, element: IndexElement::F32, metric: IndexMetric::Euclidean };

/// Value `at` of item `item`; exact in bf16.
fn value(item: usize, at: usize) -> f32 {
    ((item * 31 + at * 7) % 255) as f32 - 127.0
}

fn label(item: usize) -> Option<&'static str> {
    ["B cell", "T cell", "ζ"].get(item % 4).copied()
}

fn vectors(spec: IndexSpec, item: usize) -> Vec<f32> {
    (0..spec.width * spec.vectors_per_item).map(|at| value(item, at)).collect()
}

fn build(path: &Path, spec: IndexSpec, items: usize) {
    let mut writer = IndexWriter::create(path, spec, BTreeMap::from([("model".to_owned(), "abc".to_owned())])).unwrap();
    for item in 0..items {
        writer.push(&format!("cell-{item}é"), label(item), &vectors(spec, item)).unwrap();
    }
    writer.commit().unwrap();
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("x.index")
    }
}

fn index_error<T: std::fmt::Debug>(result: scmmgpt_loader::Result<T>) -> IndexError {
    match result.unwrap_err() {
        Error::Index(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new();
    for (spec, items) in [
        (SPEC, 5000),
        (IndexSpec { element: IndexElement::Bf16, metric: IndexMetric::InnerProduct, ..SPEC }, 3500),
        (IndexSpec { width: 1, vectors_per_item: 1, ..SPEC }, 1),
        (IndexSpec { width: 700_001, vectors_per_item: 3, ..SPEC }, 2),
    ] {
        build(&folder.file(), spec, items);
        let index = VectorIndex::open(folder.file()).unwrap();
        index.verify().unwrap();
        assert_eq!((index.spec(), index.len(), index.is_empty()), (spec, items, false));
        assert_eq!(index.metadata()["model"], "abc");
        assert!(items < 4 || index.labels() == ["B cell", "T cell", "ζ"] && index.blocks() > 1);
        let mut next = 0;
        for number in 0..index.blocks() {
            let block = index.block(number).unwrap();
            assert_eq!(block.first(), next);
            let expected: Vec<f32> = (next..next + block.len()).flat_map(|item| vectors(spec, item)).collect();
            assert_eq!(block.vectors(), expected, "block {number}");
            next += block.len();
        }
        assert_eq!(next, items);
        for item in [0, items / 2, items - 1] {
            assert_eq!(index.item(item).unwrap(), (format!("cell-{item}é"), label(item)));
        }
        assert!(matches!(index_error(index.item(items)), IndexError::Beyond { what: "item", .. }));
        assert!(matches!(index_error(index.block(index.blocks())), IndexError::Beyond { what: "block", .. }));
        let last = index.block(index.blocks() - 1).unwrap();
        assert!(matches!(index_error(last.id(last.len())), IndexError::Beyond { .. }));
    }
}

#[test]
fn the_same_items_give_the_same_bytes() {
    let folder = Folder::new();
    build(&folder.file(), SPEC, 3000);
    let first = fs::read(folder.file()).unwrap();
    build(&folder.file(), SPEC, 3000);
    assert_eq!(first, fs::read(folder.file()).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_appears() {
    let folder = Folder::new();
    let create = |spec| IndexWriter::create(folder.file(), spec, BTreeMap::new());
    for spec in [IndexSpec { width: 0, ..SPEC }, IndexSpec { vectors_per_item: 0, ..SPEC }, IndexSpec { width: 1 << 32, ..SPEC }] {
        assert!(matches!(create(spec), Err(Error::Setting { .. })));
    }
    assert!(matches!(index_error(create(SPEC).unwrap().commit()), IndexError::Empty { .. }));
    let spec = IndexSpec { width: 2, vectors_per_item: 1, element: IndexElement::Bf16, ..SPEC };
    let mut writer = create(spec).unwrap();
    writer.push("a", None, &[1.0, 2.0]).unwrap();
    for (id, vectors) in
        [("b", &[1.0][..]), ("b", &[1.0, f32::NAN]), ("b", &[1.0, f32::INFINITY]), ("b", &[1.0, f32::MAX]), ("", &[1.0, 2.0])]
    {
        let error = index_error(writer.push(id, None, vectors));
        assert!(matches!(error, IndexError::Item { item: 1, .. }), "{error}");
    }
    drop(writer);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
    assert!(IndexWriter::create(folder.0.path().join("no/folder"), SPEC, BTreeMap::new()).is_err());
}

/// Writes changed bytes over the index and opens and verifies it.
fn reopen(path: &Path, bytes: &[u8]) -> scmmgpt_loader::Result<()> {
    fs::write(path, bytes).unwrap();
    VectorIndex::open(path)?.verify()
}

#[test]
fn every_damaged_byte_is_found() {
    let folder = Folder::new();
    let spec = IndexSpec { width: 3, ..SPEC };
    build(&folder.file(), spec, 3);
    let bytes = fs::read(folder.file()).unwrap();
    let mut parts = std::collections::BTreeSet::new();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        match index_error(reopen(&folder.file(), &damaged)) {
            IndexError::NotIndex { .. } => assert!(at < 8),
            IndexError::Version { .. } => assert!((8..12).contains(&at)),
            IndexError::Checksum { part, offset, .. } => {
                assert!(offset <= at as u64, "byte {at}: {part} from {offset}");
                parts.insert(part);
            }
            other => panic!("byte {at}: {other}"),
        }
    }
    assert_eq!(parts.into_iter().collect::<Vec<_>>(), ["block 0 (items 0 to 2)", "the directory", "the header"]);
    for len in 0..bytes.len() {
        let error = index_error(reopen(&folder.file(), &bytes[..len]));
        assert!(matches!(error, IndexError::NotIndex { .. } | IndexError::Length { .. }), "{len} bytes: {error}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(index_error(reopen(&folder.file(), &longer)), IndexError::Length { what: "the tail", .. }));
    assert!(reopen(&folder.file(), &bytes).is_ok());
    assert!(matches!(VectorIndex::open(folder.0.path()), Err(Error::Io { .. })));
    assert!(matches!(VectorIndex::open(folder.0.path().join("none")), Err(Error::Io { .. })));
}

/// The file with a change, and checksums that agree with it, as a hostile writer would have them.
fn forged(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (start, len) = (number(48), number(56));
    if let Some(tail) = bytes.get(start..start.saturating_add(len)) {
        let checksum = Sha256::digest(tail);
        bytes[64..96].copy_from_slice(&checksum);
    }
    let checksum = Sha256::digest(&bytes[..104]);
    bytes[104..136].copy_from_slice(&checksum);
    bytes
}

#[test]
fn contradictions_under_valid_checksums_are_named() {
    let folder = Folder::new();
    let spec = IndexSpec { width: 3, ..SPEC };
    build(&folder.file(), spec, 3);
    let bytes = fs::read(folder.file()).unwrap();
    let tail = bytes.len() - u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
    assert_eq!(forged(&bytes, |_| ()), bytes, "the layout that this test knows is the file's");
    let set = |at: usize, value: &[u8]| {
        let bytes = forged(&bytes, |bytes| bytes[at..at + value.len()].copy_from_slice(value));
        match reopen(&folder.file(), &bytes).unwrap_err() {
            Error::Index(IndexError::Field { field, .. }) => field,
            Error::Index(IndexError::Length { what, .. }) => what,
            Error::Index(IndexError::Checksum { .. }) => "checksum",
            other => panic!("{other}"),
        }
    };
    let (word, long) = (|value: u32| value.to_le_bytes(), |value: u64| value.to_le_bytes());
    assert_eq!(set(12, &word(2)), "the element type");
    assert_eq!(set(16, &word(7)), "the metric");
    assert_eq!(set(20, &word(0)), "the width");
    assert_eq!(set(20, &word(u32::MAX)), "the length of a block");
    assert_eq!(set(24, &word(0)), "vectors an item");
    assert_eq!(set(24, &word(u32::MAX)), "the length of a block");
    assert_eq!(set(28, &word(0)), "items a block");
    assert_eq!(set(28, &word(2)), "the number of blocks");
    assert_eq!(set(32, &long(0)), "items");
    assert_eq!(set(32, &long(30)), "the length of a block");
    assert_eq!(set(32, &long(u64::MAX)), "the number of blocks");
    assert_eq!(set(40, &long(2)), "the number of blocks");
    assert_eq!(set(48, &long(u64::MAX)), "the place of the tail");
    assert_eq!(set(48, &long(64)), "the tail");
    assert_eq!(set(56, &long(3)), "the length of the tail");
    assert_eq!(set(56, &long(u64::MAX)), "the place of the tail");
    assert_eq!(set(tail, &long(256)), "the place of a block");
    assert_eq!(set(tail + 8, &long(64)), "the length of a block");
    assert_eq!(set(tail + 8, &long(193)), "the length of a block");
    assert_eq!(set(tail + 8, &long(u64::MAX - 63)), "the length of a block");
    assert_eq!(set(tail + 8, &long(1024)), "the place of the tail");
    assert_eq!(set(tail + 16, &[0; 32]), "checksum");
    let broken = forged(&bytes, |bytes| bytes[tail + 48] = b'x');
    assert!(matches!(reopen(&folder.file(), &broken), Err(Error::Json { .. })));

    // Inside a block: label numbers and ends of names follow 3 items x 2 vectors x 3 numbers.
    let (labels, ends) = (192 + 3 * 2 * 3 * 4, 192 + 3 * 2 * 3 * 4 + 12);
    let inside = |at: usize, value: u32| {
        let bytes = forged(&bytes, |bytes| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let checksum = Sha256::digest(&bytes[192..tail]);
            bytes[tail + 16..tail + 48].copy_from_slice(&checksum);
        });
        match index_error(reopen(&folder.file(), &bytes)) {
            IndexError::Field { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(inside(labels, 3), "a label number");
    assert_eq!(inside(ends, u32::MAX), "a name");
    assert_eq!(inside(ends, 7), "a name", "ends inside a letter");
    assert_eq!(inside(ends + 4, 2), "a name", "ends before it begins");
}
