//! The JSON forms of an ontology.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::TextError;
use super::ontology::Term;
use crate::json_pairs::Pairs;
use crate::{Error, Result};

/// Reads the terms of a file, in its order.
pub(super) fn read(path: &Path) -> Result<Vec<Term>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    let json_error = |source| Error::Json { path: path.into(), what: "ontology", source };
    let form: Form = serde_json::from_slice(&bytes).map_err(json_error)?;
    let refused = |reason| TextError::NotOntology { path: path.into(), reason };
    match form {
        Form { graphs: Some(graphs), .. } => Ok(graphs.into_iter().flat_map(Graph::terms).collect()),
        Form { cell_types: Some(Pairs(entries)), .. } => entries.into_iter().map(|(id, entry)| Ok(entry.term(id))).collect(),
        Form { entries, .. } => {
            let term = |(id, entry)| match entry {
                Entry::Term(entry) => Ok(entry.term(id)),
                Entry::Other(_) => {
                    Err(refused(format!("its entry `{id}` is no term with a name, and it has neither `cell_types` nor `graphs`")).into())
                }
            };
            entries.into_iter().map(term).collect()
        }
    }
}

/// The outermost object, whichever form it has.
#[derive(Default)]
struct Form {
    graphs: Option<Vec<Graph>>,
    cell_types: Option<Pairs<FlatTerm>>,
    entries: Vec<(String, Entry)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Term(FlatTerm),
    Other(IgnoredAny),
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Form, D::Error> {
        deserializer.deserialize_map(FormVisitor)
    }
}

struct FormVisitor;

impl<'de> Visitor<'de> for FormVisitor {
    type Value = Form;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON object of terms")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Form, A::Error> {
        let mut form = Form::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "graphs" => form.graphs = Some(map.next_value()?),
                "cell_types" => form.cell_types = Some(map.next_value()?),
                _ => form.entries.push((key, map.next_value()?)),
            }
        }
        Ok(form)
    }
}

#[derive(Deserialize)]
struct FlatTerm {
    name: String,
    #[serde(default)]
    synonyms: Vec<String>,
    #[serde(default, alias = "def")]
    definition: Option<String>,
    #[serde(default)]
    parents: Vec<String>,
}

impl FlatTerm {
    fn term(self, id: String) -> Term {
        let FlatTerm { name, synonyms, definition, parents } = self;
        Term {
            id,
            name: one_line(&name),
            synonyms,
            definition: definition.as_deref().map(one_line).filter(|text| !text.is_empty()),
            parents,
        }
    }
}

#[derive(Deserialize)]
struct Graph {
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    edges: Vec<Edge>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    lbl: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    definition: Option<Value>,
    synonyms: Vec<Value>,
    deprecated: bool,
}

#[derive(Deserialize)]
struct Value {
    val: String,
    pred: Option<String>,
}

#[derive(Deserialize)]
struct Edge {
    sub: String,
    pred: String,
    obj: String,
}

impl Graph {
    fn terms(self) -> Vec<Term> {
        let mut parents: std::collections::HashMap<String, Vec<String>> = Default::default();
        for edge in self.edges.into_iter().filter(|edge| edge.pred == "is_a") {
            parents.entry(edge.sub).or_default().push(short_id(&edge.obj));
        }
        let is_term = |node: &Node| !node.meta.deprecated && node.kind.as_deref().is_none_or(|kind| kind == "CLASS");
        let term = |node: Node| {
            let exact = |synonym: &Value| synonym.pred.as_deref().is_none_or(|pred| pred == "hasExactSynonym");
            let entry = FlatTerm {
                name: node.lbl?,
                synonyms: node.meta.synonyms.into_iter().filter(exact).map(|synonym| synonym.val).collect(),
                definition: node.meta.definition.map(|definition| definition.val),
                parents: parents.remove(&node.id).unwrap_or_default(),
            };
            Some(entry.term(short_id(&node.id)))
        };
        self.nodes.into_iter().filter(is_term).filter_map(term).collect()
    }
}

/// `CL:0000236` of `http://purl.obolibrary.org/obo/CL_0000236`; anything else stays as it is.
fn short_id(id: &str) -> String {
    match id.rsplit_once("/obo/") {
        Some((_, name)) => name.replacen('_', ":", 1),
        None => id.to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
