//! From labels and metadata to texts and their batches.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{block, names, vocab};
use scmmgpt_loader::Error;
use scmmgpt_loader::batch::SampleKey;
use scmmgpt_loader::dataset::{CellDataset, CellDatasetBuilder};
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, write_with};
use scmmgpt_loader::text::{
    AUTHORS_CLASS_PROMPT, CellTexts, DescriptionConfig, Descriptions, LabelSet, Literature, Metadata, Ontology, TEMPLATE_POOL,
    TextCollator, TextError,
};
use scmmgpt_loader::tokenizer::TextTokenizer;

const TEST: SampleKey = SampleKey { seed: 5, epoch: 0, training: false };
const CONDITION: &str = "cell type: {cell_type}. condition: {condition}.[ {definition}]";
const B_CELL: &str = "A lymphocyte of B lineage that is capable of B cell mediated immunity.";

fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn ontology() -> Ontology {
    Ontology::open(data_file("cell_text.json")).unwrap()
}

fn text_error<T: std::fmt::Debug>(result: scmmgpt_loader::Result<T>) -> TextError {
    match result.unwrap_err() {
        Error::Text(error) => error,
        other => panic!("{other}"),
    }
}

/// One cell a label.
fn dataset(labels: &[&str]) -> CellDataset {
    let mut builder = CellDatasetBuilder::new(vocab(&["A"]));
    let rows: Vec<&[(u32, f32)]> = labels.iter().map(|_| &[(0, 1.0)][..]).collect();
    let labels = labels.iter().map(|label| (!label.is_empty()).then(|| label.to_string())).collect();
    builder.add_source("made", &names(&["A"]), [Ok(block(0, 1, &rows))], Some(labels)).unwrap();
    builder.build()
}

fn config(change: impl FnOnce(&mut DescriptionConfig)) -> DescriptionConfig {
    let mut config = DescriptionConfig::default();
    change(&mut config);
    config
}

fn with_templates(templates: &[&str]) -> DescriptionConfig {
    config(|config| config.templates = names(templates))
}

fn metadata(columns: &[(&str, &[&str])]) -> Metadata {
    let column = |values: &[&str]| values.iter().map(|value| (!value.is_empty()).then(|| value.to_string())).collect();
    let rows = columns[0].1.len();
    Metadata::from_columns(rows, columns.iter().map(|(name, values)| (name.to_string(), column(values)))).unwrap()
}

fn texts(config: &DescriptionConfig, labels: &[&str], columns: &[(&str, &[&str])]) -> scmmgpt_loader::Result<CellTexts> {
    let descriptions = Descriptions::new(config, Some(ontology()), None).unwrap();
    let metadata = if columns.is_empty() { Metadata::empty(labels.len()) } else { metadata(columns) };
    CellTexts::new(Arc::new(descriptions), &dataset(labels), metadata)
}

#[test]
fn terms_are_found_by_every_name() {
    let ontology = ontology();
    assert_eq!(ontology.terms().len(), 21);
    for label in ["CL:0000236", "B cell", "b CELL", " B-lymphocyte "] {
        assert_eq!(ontology.get(label).unwrap().definition.as_deref(), Some(B_CELL), "{label}");
    }
    let error = text_error(ontology.find("cd14 monocytes").map(|term| term.name.clone()));
    assert!(matches!(&error, TextError::UnknownTerm { similar, .. } if similar[0] == "CD14-positive monocyte"), "{error}");
    assert!(ontology.get("").is_none());
}

#[test]
fn an_obo_graph_gives_its_live_classes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cl.json");
    let uri = |number: u32| format!("http://purl.obolibrary.org/obo/CL_{number:07}");
    let graph = serde_json::json!({"graphs": [{"id": "cl", "nodes": [
        {"id": uri(1), "lbl": "cell", "type": "CLASS", "meta": {"definition": {"val": "A  unit\nof life.", "xrefs": ["x"]}}},
        {"id": uri(2), "lbl": "T cell", "type": "CLASS", "meta": {"definition": {"val": "It kills."}, "synonyms": [
            {"pred": "hasExactSynonym", "val": "T lymphocyte"}, {"pred": "hasBroadSynonym", "val": "lymphocyte"}]}},
        {"id": uri(3), "lbl": "obsolete cell", "type": "CLASS", "meta": {"deprecated": true}},
        {"id": uri(4), "type": "CLASS"},
        {"id": "http://purl.obolibrary.org/obo/RO_1", "lbl": "part of", "type": "PROPERTY"},
        {"id": uri(5), "lbl": "thymocyte", "meta": {"synonyms": [{"pred": "hasExactSynonym", "val": "T CELL"}]}}],
        "edges": [{"sub": uri(2), "pred": "is_a", "obj": uri(1)}, {"sub": uri(2), "pred": "part_of", "obj": uri(4)}]}]});
    fs::write(&file, graph.to_string()).unwrap();
    let ontology = Ontology::open(&file).unwrap();
    let found: Vec<_> = ontology.terms().iter().map(|term| (term.id.as_str(), term.name.as_str())).collect();
    assert_eq!(found, [("CL:0000001", "cell"), ("CL:0000002", "T cell"), ("CL:0000005", "thymocyte")]);
    assert_eq!(ontology.terms()[0].definition.as_deref(), Some("A unit of life."));
    assert_eq!(ontology.terms()[1].parents, ["CL:0000001"]);
    assert_eq!(ontology.get("t lymphocyte").unwrap().id, "CL:0000002");
    assert_eq!(ontology.get("t cell").unwrap().id, "CL:0000002", "a name comes before another term's synonym");
    assert!(ontology.get("lymphocyte").is_none(), "a broad synonym is another type");
}

#[test]
fn what_is_no_ontology_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.json");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        Ontology::open(&file)
    };
    // The authors' form, without the outer object.
    let authors = open(r#"{"CL:1": {"name": "b cell", "def": "It makes antibodies.", "xref": 3}}"#).unwrap();
    assert_eq!(authors.get("B cell").unwrap().definition.as_deref(), Some("It makes antibodies."));
    for text in ["{}", r#"{"graphs": []}"#, r#"{"cell_types": {}}"#] {
        assert!(text_error(open(text)).to_string().contains("holds no term"), "{text}");
    }
    let error = text_error(open(r#"{"CL:1": {"name": "b cell"}, "version": "1.0"}"#));
    assert!(matches!(&error, TextError::NotOntology { reason, .. } if reason.contains("`version`")), "{error}");
    assert!(text_error(open(r#"{"CL:1": {"title": "b cell"}}"#)).to_string().contains("`CL:1`"));
    let twice = r#"{"cell_types": {"CL:1": {"name": "a"}, "CL:1": {"name": "b"}}}"#;
    assert!(text_error(open(twice)).to_string().contains("`CL:1` occurs twice"));
    for text in ["", "[]", r#"{"cell_types": {"CL:1": {}}}"#, r#"{"graphs": [{"nodes": [{"lbl": "x"}]}]}"#, "{\"a\": "] {
        assert!(matches!(open(text), Err(Error::Json { what: "ontology", .. })), "{text}");
    }
    assert!(matches!(Ontology::open(folder.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn the_default_text_is_the_authors() {
    let texts = texts(&DescriptionConfig::default(), &["B lymphocyte", "space cell", ""], &[]).unwrap();
    let text = |row| texts.draw(row, TEST).unwrap();
    assert_eq!(text(0).text, format!("cell type: B cell. {B_CELL}"));
    assert_eq!(text(1).text, "cell type: space cell.");
    assert_eq!(texts.unknown_labels(), ["space cell"]);
    assert_eq!(texts.rows().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(texts.class_of(), [Some(0), Some(1), None]);
    assert!(matches!(texts.draw(2, TEST), Err(Error::Text(TextError::Unlabelled { row: 2 }))));
    assert!(matches!(texts.draw(3, TEST), Err(Error::Row { row: 3, rows: 3 })));
}

#[test]
fn a_column_outside_brackets_makes_classes() {
    let labels = ["B cell", "B-cell", "B cell", "platelet", "B cell"];
    let columns: [(&str, &[&str]); 1] = [("condition", &["unstimulated", "IFN-beta", "IFN-beta", "IFN-beta", "unstimulated"])];
    let texts = texts(&with_templates(&[CONDITION]), &labels, &columns).unwrap();
    assert_eq!(texts.draw(1, TEST).unwrap().text, format!("cell type: B cell. condition: IFN-beta. {B_CELL}"));
    let names: Vec<_> = texts.classes().iter().map(|class| class.name.as_str()).collect();
    assert_eq!(names, ["B cell | IFN-beta", "B cell | unstimulated", "platelet | IFN-beta"]);
    assert_eq!(texts.class_of(), [1, 0, 0, 2, 1].map(Some));
    assert_eq!(texts.classes()[1].text, format!("cell type: B cell. condition: unstimulated. {B_CELL}"));
    // One template that does not say the condition, and the types are the classes.
    let both = with_templates(&[CONDITION, "A {cell_type}[ under {condition}]."]);
    let error = text_error(Descriptions::new(&both, None, None));
    assert!(matches!(&error, TextError::ClassPrompt { field, .. } if field == "condition"), "{error}");
    let both = DescriptionConfig { class_prompt: Some(AUTHORS_CLASS_PROMPT.into()), ..both };
    let texts = self::texts(&both, &labels, &columns).unwrap();
    assert_eq!(texts.class_of(), [0, 0, 0, 1, 0].map(Some));
    assert_eq!(texts.classes()[0].text, format!("This cell belongs to B cell: {B_CELL}"));
}

#[test]
fn what_a_template_needs_must_be_known() {
    let columns: [(&str, &[&str]); 1] = [("condition", &["x", ""])];
    let error = text_error(texts(&with_templates(&[CONDITION]), &["B cell", "platelet"], &columns));
    let message = error.to_string();
    assert!(
        message.contains("`condition`") && message.contains("cell 1 (`platelet`)") && message.contains("`[ {condition}]`"),
        "{message}"
    );
    let error = text_error(texts(&with_templates(&["{cell_type}: {definition}"]), &["space cell"], &[]));
    assert!(matches!(&error, TextError::MissingField { field, .. } if field == "definition"), "{error}");
    let optional =
        texts(&with_templates(&["[Under {condition}: ]a {cell_type}[ ({synonym})]"]), &["B cell", "space cell"], &columns).unwrap();
    assert_eq!(optional.draw(0, TEST).unwrap().text, "Under x: a B cell (B lymphocyte)");
    assert_eq!(optional.draw(1, TEST).unwrap().text, "a space cell");
    let wrong = CellTexts::new(Arc::new(Descriptions::new(&config(|_| ()), None, None).unwrap()), &dataset(&["a"]), Metadata::empty(2));
    assert!(matches!(wrong, Err(Error::ColumnLength { expected: 1, got: 2, .. })));
}

#[test]
fn templates_that_cannot_be_read() {
    let position = |text: &str| match text_error(Descriptions::new(&with_templates(&[text]), None, None)) {
        TextError::Template { position, problem, .. } => (position, problem),
        other => panic!("{other}"),
    };
    assert_eq!(position("a {cell_type"), (2, "`{` without its `}`"));
    assert_eq!(position("{cell_type} }"), (12, "`}` without its `{`"));
    assert_eq!(position("{cell_type}[ {x}"), (16, "`[` without its `]`"));
    assert_eq!(position("{cell_type} ]"), (12, "`]` without its `[`"));
    assert_eq!(position("[a [{x}] ]"), (3, "`[` inside `[ ]`"));
    assert_eq!(position("{ }"), (0, "a field without a name"));
    assert_eq!(position("a cell"), (0, "no field: every cell would have the same text"));
    let none = Descriptions::new(&config(|config| config.templates.clear()), None, None);
    assert!(matches!(none, Err(Error::Setting { setting: "templates", .. })));
    let literal = texts(&with_templates(&["{{x}} [[y]] {cell_type}"]), &["a"], &[]).unwrap();
    assert_eq!(literal.draw(0, TEST).unwrap().text, "{x} [y] a");
}

#[test]
fn draws_are_counted_and_use_the_whole_pool() {
    let config = config(|config| config.template_pool = true);
    let labels = ["B cell"; 40];
    let texts = texts(&config, &labels, &[("tissue", &["blood"; 40])]).unwrap();
    let draw = |row, epoch| texts.draw(row, SampleKey { epoch, training: true, ..TEST }).unwrap().text;
    let seen: BTreeSet<String> =
        (0..40).flat_map(|row| (0..10).map(move |epoch| (row, epoch))).map(|(row, epoch)| draw(row, epoch)).collect();
    assert!(seen.len() > TEMPLATE_POOL.len(), "templates and synonyms: {seen:?}");
    assert!(seen.iter().all(|text| !text.contains(['{', '[', '}', ']']) && text.contains("B cell")), "{seen:?}");
    assert!(seen.contains(&format!("B cell from blood. {B_CELL}")));
    assert!(seen.contains("Cell identity: B cell; synonyms: B lymphocyte, B-cell and B-lymphocyte."));
    assert_eq!(draw(3, 7), draw(3, 7));
    assert!((0..10).any(|epoch| draw(3, epoch) != draw(4, epoch)) && (0..10).any(|epoch| draw(3, epoch) != draw(3, epoch + 1)));
    assert_eq!(texts.draw(3, TEST).unwrap().text, texts.draw(4, SampleKey { epoch: 9, ..TEST }).unwrap().text);
}

#[test]
fn columns_come_from_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, with) = (data_file("pbmc68k_700.h5ad"), folder.path().join("with.h5ad"));
    let column = |row: usize| ["unstimulated", "IFN-beta"][row % 2].to_owned();
    let additions = Additions { obs: vec![("condition".into(), Column::Text((0..700).map(column).collect()))], ..Additions::default() };
    write_with(&plain, &with, &additions, false).unwrap();
    let (plain, with) = (AnnData::open(&plain).unwrap(), AnnData::open(&with).unwrap());
    let read = |template: &str, pool, files: &[&AnnData]| {
        let config = DescriptionConfig { template_pool: pool, ..with_templates(&[template]) };
        Descriptions::new(&config, None, None).unwrap().metadata(files.iter().copied())
    };
    let metadata = read("{cell_type}[ of {tissue}][ {condition}]", true, &[&plain, &with]).unwrap();
    assert_eq!(metadata.rows(), 1400);
    assert_eq!((metadata.value("tissue", 699), metadata.value("condition", 699)), (Some("peripheral blood"), None));
    assert_eq!((metadata.value("condition", 701), metadata.value("sex", 701)), (Some("IFN-beta"), None));
    for (template, files) in [(CONDITION, &[&with, &plain][..]), ("{cell_type}[ {conditoin}]", &[&plain, &with])] {
        let error = text_error(read(template, false, files));
        assert!(matches!(&error, TextError::UnknownField { available, .. } if available.contains(&"tissue".to_owned())), "{error}");
    }
}

#[test]
fn literature_takes_a_share_and_joins_what_it_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passages.jsonl");
    let lines = [
        r#"{"key": "B-lymphocyte", "text": "B cells make antibodies.", "source": "pmid:1"}"#,
        "",
        r#"{"key": "GSE1", "text": "Blood under interferon.", "source": "pmid:2"}"#,
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let literature = Literature::open(&file, Some(&ontology())).unwrap();
    assert_eq!(literature.keys().collect::<Vec<_>>(), ["CL:0000236", "gse1"]);
    let labels = ["B cell", "platelet", "macrophage", "B cell"];
    let columns = [("dataset_id", &["", "GSE1", "gse1", ""][..])];
    let make = |share, keys: &[&str]| {
        let config = DescriptionConfig { literature_share: share, literature_keys: names(keys), ..DescriptionConfig::default() };
        let descriptions = Descriptions::new(&config, Some(ontology()), Some(literature.clone())).unwrap();
        CellTexts::new(Arc::new(descriptions), &dataset(&labels), metadata(&columns)).unwrap()
    };
    let training = SampleKey { training: true, ..TEST };
    let all = make(1.0, &["cell_type", "dataset_id"]);
    let text = all.draw(0, training).unwrap();
    assert_eq!((text.text.as_str(), text.source.as_deref()), ("B cells make antibodies.", Some("pmid:1")));
    assert_eq!(all.draw(2, training).unwrap().source.as_deref(), Some("pmid:2"));
    assert_eq!(all.draw(2, TEST).unwrap().source, None, "evaluation reads descriptions");

    let collator = TextCollator::new(Arc::new(TextTokenizer::open(data_file("text_vocab.txt")).unwrap()), 128).unwrap();
    let batch = all.collate(&collator, &[0, 1, 2, 3], training).unwrap();
    assert_eq!(batch.classes, [0, 1, 1, 0], "platelet and macrophage share a passage of their data set");
    assert_eq!(batch.sources, ["pmid:1", "pmid:2", "pmid:2", "pmid:1"].map(|id| Some(id.to_owned())));
    let batch = all.collate(&collator, &[0, 1, 2, 3], TEST).unwrap();
    assert_eq!((batch.classes, batch.sources), (vec![0, 2, 1, 0], vec![None; 4]));
    // A share: some of each over the epochs, and a passage about the data set joins a cell that is described.
    let some = make(0.5, &["cell_type", "dataset_id"]);
    let batches: Vec<_> = (0..40).map(|epoch| some.collate(&collator, &[1, 2], SampleKey { epoch, ..training }).unwrap()).collect();
    let passages = batches.iter().flat_map(|batch| &batch.sources).filter(|source| source.is_some()).count();
    assert!((20..60).contains(&passages), "{passages} of 80");
    for batch in batches {
        let joined = batch.classes[0] == batch.classes[1];
        assert_eq!(joined, batch.sources.iter().any(Option::is_some));
    }
}

#[test]
fn literature_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passages.jsonl");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        Literature::open(&file, None)
    };
    let good = r#"{"key": "x", "text": "y", "source": "z"}"#;
    let bad = ["{}", "[]", "x", r#"{"key": "x", "text": " ", "source": "z"}"#, r#"{"key": "x", "text": "y", "source": "z", "more": 1}"#];
    for bad in bad {
        let error = text_error(open(&format!("{good}\n{bad}\n")));
        assert!(matches!(error, TextError::Passage { line: 2, .. }), "{error}");
    }
    assert!(text_error(open("\n\n")).to_string().contains("no passage"));
    let config = DescriptionConfig { literature_share: 0.5, ..DescriptionConfig::default() };
    assert!(matches!(Descriptions::new(&config, None, None), Err(Error::Setting { setting: "literature_share", .. })));
    let unused = Descriptions::new(&config, None, Some(open(good).unwrap())).unwrap();
    let error = text_error(CellTexts::new(Arc::new(unused), &dataset(&["B cell"]), Metadata::empty(1)));
    assert!(matches!(error, TextError::UnusedLiterature { .. }), "{error}");
    let outside = DescriptionConfig { literature_share: 1.5, ..config };
    assert!(matches!(Descriptions::new(&outside, None, Some(open(good).unwrap())), Err(Error::Setting { .. })));
}

#[test]
fn label_files_of_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("labels");
    let open = |text: &str| {
        fs::write(&file, text).unwrap();
        LabelSet::open(&file)
    };
    let descriptions = |template| Descriptions::new(&with_templates(&[template]), Some(ontology()), None).unwrap();
    let lines = open("# blood\nB cell\n\n  space cell \r\n").unwrap();
    let texts = lines.texts(&descriptions("cell type: {cell_type}.[ {definition}]")).unwrap();
    assert_eq!(texts, [format!("cell type: B cell. {B_CELL}"), "cell type: space cell.".to_owned()]);
    // A model that writes is asked for what tells a label: the name as the ontology has it, and no definition.
    let described = descriptions("cell type: {cell_type}.[ also {synonym}.][ {definition}]");
    assert_eq!(open("B-lymphocyte\nspace cell").unwrap().name_texts(&described).unwrap(), ["cell type: B cell.", "cell type: space cell."]);
    let needed = open("B cell\nplatelet").unwrap().name_texts(&descriptions("{definition}")).unwrap();
    assert_eq!(needed[0], B_CELL);
    let json = open(r#"{"B": "Makes antibodies.", "stim": {"cell_type": "b cell", "condition": "IFN-beta"}}"#).unwrap();
    let texts = json.texts(&descriptions("{cell_type}[ under {condition}][: {definition}]")).unwrap();
    assert_eq!(texts, ["B: Makes antibodies.".to_owned(), format!("B cell under IFN-beta: {B_CELL}")]);
    let error = text_error(json.texts(&descriptions(CONDITION)));
    assert!(matches!(&error, TextError::MissingField { field, .. } if field == "condition"), "{error}");
    let same = open("B cell\nB-lymphocyte\n").unwrap().texts(&descriptions("{cell_type}"));
    assert!(text_error(same).to_string().contains("`B cell` and `B-lymphocyte` have the same text"));

    for (text, message) in [
        ("B cell\n", "1 label(s)"),
        ("", "0 label(s)"),
        ("{}", "0 label(s)"),
        ("a\nb\na\n", "`a` occurs twice"),
        (r#"{"a": "x", "a": "y"}"#, "`a` occurs twice"),
        (r#"{"a": " ", "b": "y"}"#, "`a` or something"),
        (r#"{"": "x", "b": "y"}"#, "`` or something"),
        (r#"{"a": {"cell_type": ""}, "b": "y"}"#, "`a` or something"),
    ] {
        let error = text_error(open(text)).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    assert!(matches!(open(r#"{"a": 3, "b": "y"}"#), Err(Error::Json { what: "label set", .. })));
    assert!(LabelSet::from_types("the model", &["a", "b"]).is_ok());
    let fields = BTreeMap::from([("definition".to_owned(), "Other.".to_owned())]);
    assert_eq!(descriptions("{cell_type}: {definition}").class_text("B cell", &fields).unwrap(), "B cell: Other.");
}

#[test]
fn batches_are_padded_and_equal_texts_are_one_class() {
    let tokenizer = Arc::new(TextTokenizer::open(data_file("text_vocab.txt")).unwrap());
    let collator = TextCollator::new(tokenizer.clone(), 12).unwrap();
    let long = "alpha beta ".repeat(20);
    let batch = collator.collate(&["B cell", &long, "b CELL", "T cell"], Some(&[7, 3, 5, 3])).unwrap();
    assert_eq!((batch.batch, batch.seq_len, batch.truncated), (4, 16, 1));
    assert_eq!(batch.lengths, [4, 12, 4, 4]);
    assert_eq!(batch.classes, [5, 3, 5, 3], "the first and third have the same tokens");
    assert_eq!(batch.token_ids.len(), 64);
    for row in 0..4 {
        let (ids, pads) = batch.token_ids[row * 16..(row + 1) * 16].split_at(batch.lengths[row] as usize);
        assert_eq!((ids[0], ids[ids.len() - 1]), (tokenizer.cls(), tokenizer.sep()));
        assert!(pads.iter().all(|&id| id == tokenizer.pad()));
    }
    let alone = collator.collate(&["B cell", "T cell", "B cell"], None).unwrap();
    assert_eq!((alone.seq_len, alone.classes.as_slice()), (8, &[0, 1, 0][..]));
    assert_eq!(alone.token_ids[..4], batch.token_ids[..4]);
    // 2 meets 1 by a text, and 1 meets 0 by another.
    assert_eq!(collator.collate(&["a", "b", "a", "b"], Some(&[2, 1, 1, 0])).unwrap().classes, [0; 4]);
    assert!(matches!(collator.collate::<&str>(&[], None), Err(Error::EmptyBatch)));
    assert!(matches!(collator.collate(&["a", ""], None), Err(Error::Text(TextError::Empty))));
    assert!(matches!(collator.collate(&["a"], Some(&[])), Err(Error::Text(TextError::ClassCount { texts: 1, classes: 0 }))));
    assert!(matches!(TextCollator::new(tokenizer, 2), Err(Error::Setting { .. })));
}
