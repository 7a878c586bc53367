//! WordPiece from every kind of file, and what is no tokenizer.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use scmmgpt_loader::Error;
use scmmgpt_loader::text::TextError;
use scmmgpt_loader::tokenizer::{Encoding, TextTokenizer};

const SMALL: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncell\nt\n##s\n-\nB\nb\n[\n]\ncls\n";

fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn tokens(tokenizer: &TextTokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, 64).unwrap().ids;
    ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect()
}

fn text_error(path: &Path) -> TextError {
    match TextTokenizer::open(path).unwrap_err() {
        Error::Text(error) => error,
        other => panic!("{other}"),
    }
}

/// Ids by Hugging Face `tokenizers` 0.22.1, `BertWordPieceTokenizer(vocabulary, lowercase=True)`.
#[test]
fn known_strings() {
    let tokenizer = TextTokenizer::open(data_file("text_vocab.txt")).unwrap();
    let known: [(&str, &[u32]); 5] = [
        ("B cell", &[2, 44, 1563, 3]),
        ("CD4-positive, alpha-beta T cell", &[2, 1755, 630, 17, 1904, 16, 4359, 17, 4891, 62, 1563, 3]),
        ("Naïve café; 10 µm", &[2, 6250, 4046, 4827, 31, 273, 73, 302, 3]),
        ("lymphocyte 细胞", &[2, 54, 7445, 4943, 5293, 6495, 1, 1, 3]),
        ("hematopoietic zzzqqqxx", &[2, 6824, 5387, 4583, 747, 2549, 68, 563, 563, 2148, 2148, 2148, 676, 676, 3]),
    ];
    for (text, ids) in known {
        assert_eq!(tokenizer.encode(text, 64).unwrap(), Encoding { ids: ids.to_vec(), truncated: false }, "{text}");
    }
    assert_eq!((tokenizer.pad(), tokenizer.cls(), tokenizer.sep()), (0, 2, 3));
    assert_eq!((tokenizer.decoder_start(), tokenizer.vocab_size()), (8054, 8055), "[DEC] comes last");
}

#[test]
fn truncation_keeps_the_end_sign_and_says_so() {
    let tokenizer = TextTokenizer::open(data_file("text_vocab.txt")).unwrap();
    let text = "alpha beta cell type blood";
    let whole = tokenizer.encode(text, 7).unwrap();
    assert_eq!((whole.ids.len(), whole.truncated), (7, false));
    for length in 3..7 {
        let cut = tokenizer.encode(text, length).unwrap();
        assert!(cut.truncated && cut.ids.len() == length);
        assert_eq!(cut.ids[..length - 1], whole.ids[..length - 1]);
        assert_eq!(cut.ids[length - 1], tokenizer.sep());
    }
    assert!(matches!(tokenizer.encode(text, 2), Err(Error::Setting { setting: "max_length", .. })));
    for empty in ["", " \n\t", "\u{200b}\u{0}"] {
        assert!(matches!(tokenizer.encode(empty, 8), Err(Error::Text(TextError::Empty))), "{empty:?}");
    }
}

#[test]
fn special_tokens_in_a_text_are_its_characters() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vocab.txt");
    fs::write(&file, SMALL).unwrap();
    let tokenizer = TextTokenizer::open(&file).unwrap();
    assert_eq!(tokens(&tokenizer, "[CLS]cell"), ["[CLS]", "[", "cls", "]", "cell", "[SEP]"]);
}

#[test]
fn a_json_file_neither_pads_nor_truncates_and_saving_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let plain = TextTokenizer::open(data_file("text_vocab.txt")).unwrap();
    let file = folder.path().join("tokenizer.json");
    plain.save(&file).unwrap();
    // As MiniLM's file has it.
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["post_processor"] = serde_json::json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    fs::write(&file, json.to_string()).unwrap();
    let opened = [TextTokenizer::open(&file).unwrap(), TextTokenizer::open(folder.path()).unwrap()];
    let again = folder.path().join("again.json");
    opened[0].save(&again).unwrap();
    for tokenizer in opened.into_iter().chain([TextTokenizer::open(&again).unwrap()]) {
        assert_eq!(tokenizer.vocab_size(), 8055);
        for text in ["B cell", "Naïve café; 10 µm [SEP]", "a long text about cells that goes on"] {
            assert_eq!(tokenizer.encode(text, 64).unwrap(), plain.encode(text, 64).unwrap());
        }
    }
}

#[test]
fn a_configuration_beside_the_vocabulary_decides_the_case() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), SMALL).unwrap();
    let open = || TextTokenizer::open(folder.path());
    assert_eq!(tokens(&open().unwrap(), "B cells"), ["[CLS]", "b", "cell", "##s", "[SEP]"]);
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": false, "model_max_length": 512}"#).unwrap();
    assert_eq!(tokens(&open().unwrap(), "B cells"), ["[CLS]", "B", "cell", "##s", "[SEP]"]);
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": "#).unwrap();
    assert!(matches!(open(), Err(Error::Json { what: "tokenizer configuration", .. })));
}

#[test]
fn what_is_no_tokenizer_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (list, json) = (folder.path().join("list.txt"), folder.path().join("x.json"));
    let of = |file: &Path, bytes: &[u8]| {
        fs::write(file, bytes).unwrap();
        text_error(file)
    };
    assert!(matches!(TextTokenizer::open(folder.path().join("none")), Err(Error::Io { .. })));
    assert!(text_error(folder.path()).to_string().contains("neither tokenizer.json nor vocab.txt"));
    assert!(matches!(of(&list, b""), TextError::MissingSpecial { tokens, .. } if tokens.len() == 4));
    let without = SMALL.replace("[SEP]", "sep").replace("[PAD]", "pad");
    let error = of(&list, without.as_bytes());
    assert!(matches!(&error, TextError::MissingSpecial { tokens, .. } if *tokens == ["[PAD]", "[SEP]"]), "{error}");
    let twice = of(&list, format!("{SMALL}cell\n").as_bytes());
    assert!(matches!(&twice, TextError::DuplicateToken { token, first: 6, second: 15, .. } if token == "cell"), "{twice}");
    assert!(matches!(of(&list, b"\xff\xfe\x00"), TextError::NotTokenizer { .. }));

    assert!(of(&json, b"{}").to_string().contains("no entry `model`"));
    assert!(of(&json, b"[1]").to_string().contains("no entry `model`"));
    assert!(matches!(of(&json, br#"{"model": 3}"#), TextError::NotTokenizer { .. }));
    let words = br#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}"#;
    assert!(of(&json, words).to_string().contains("word-level"));
    let gap = br###"{"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cell": 9}}}"###;
    let error = of(&json, gap);
    assert!(matches!(error, TextError::TokenIds { .. }), "{error}");
    fs::write(&json, "{").unwrap();
    assert!(matches!(TextTokenizer::open(&json), Err(Error::Json { what: "tokenizer", .. })));
}
