//! `obs` and `var` before anndata 0.7: one compound array, first field the index, the labels of a
//! categorical field elsewhere under `<field>_categories`.

use hdf5_pure::{CompoundMember, Dataset, Datatype, DatatypeByteOrder, StringPadding};

use super::column::Column;
use super::frame;
use super::heap::Heap;
use super::store::{DAMAGED, Kind, Node, Store};
use crate::Result;

/// An open compound dataframe.
pub(super) struct Records {
    store: Store,
    key: String,
    dataset: Dataset,
    members: Vec<CompoundMember>,
    rows: usize,
    size: usize,
    /// The group that holds `<field>_categories`.
    categories: String,
}

impl Records {
    pub(super) fn open(store: &Store, key: &str, dataset: Dataset, categories: &str) -> Result<Records> {
        let rows = store.length(key, &dataset)?;
        match dataset.datatype().map_err(|source| store.error(key, source))? {
            Datatype::Compound { size, members } if !members.is_empty() => Ok(Records {
                store: store.clone(),
                key: key.into(),
                dataset,
                members,
                rows,
                size: size as usize,
                categories: categories.into(),
            }),
            _ => {
                let found = store.type_name(&dataset);
                Err(store.malformed(key, "a group or a compound array", found, DAMAGED))
            }
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.members.iter().skip(1).map(|member| member.name.clone()).collect()
    }

    pub(super) fn index(&self) -> Result<Vec<String>> {
        let column = match self.members.first() {
            Some(member) => self.decode(member)?,
            None => Column::Text(Vec::new()),
        };
        Ok(column.labels().into_iter().map(Option::unwrap_or_default).collect())
    }

    /// `None` where there is no such field.
    pub(super) fn column(&self, name: &str) -> Result<Option<Column>> {
        let Some(member) = self.members.iter().skip(1).find(|m| m.name == name) else {
            return Ok(None);
        };
        let column = self.decode(member)?;
        let labels_key = format!("{}/{name}_categories", self.categories);
        let (Column::Number(codes), Some(Node::Dataset(labels))) = (&column, self.store.find(&labels_key)?) else {
            return Ok(Some(column));
        };
        let labels = frame::plain(&self.store, &labels_key, &labels)?;
        let codes = codes.iter().map(|&code| code as i64).collect();
        let key = format!("{}/{name}", self.key);
        frame::coded(&self.store, &key, codes, &labels).map(Some)
    }

    fn decode(&self, member: &CompoundMember) -> Result<Column> {
        let key = format!("{}/{}", self.key, member.name);
        let raw = self.dataset.read_raw().map_err(|source| self.store.error(&key, source))?;
        let start = member.byte_offset as usize;
        let width = member.datatype.type_size() as usize;
        let end = start.saturating_add(width);
        if end > self.size || width == 0 || raw.len() != self.rows.saturating_mul(self.size) {
            let found = format!("bytes {start}..{end}");
            let expected = format!("a field inside records of {} bytes", self.size);
            return Err(self.store.malformed(&key, expected, found, DAMAGED));
        }
        let fields = raw.chunks_exact(self.size).map(|record| &record[start..end]);
        let column = match (Kind::of(&member.datatype), &member.datatype) {
            (Kind::Text, Datatype::String { padding, .. }) => Some(Column::Text(fields.map(|field| fixed_text(field, padding)).collect())),
            (Kind::Text, _) => {
                let mut heap = Heap::open(&self.store)?;
                let texts = fields.map(|field| heap.text(&key, field));
                Some(Column::Text(texts.collect::<Result<_>>()?))
            }
            (Kind::Boolean, _) => {
                let flags = fields.map(|field| Some(field.iter().any(|&byte| byte != 0)));
                Some(Column::Boolean(flags.collect()))
            }
            (_, datatype) => {
                let numbers = fields.map(|field| number(datatype, field));
                numbers.collect::<Option<_>>().map(Column::Number)
            }
        };
        column.ok_or_else(|| {
            let found = format!("{}", member.datatype);
            let advice = "convert the file with a newer anndata in Python first";
            self.store.malformed(&key, "text, numbers or booleans", found, advice)
        })
    }
}

fn fixed_text(field: &[u8], padding: &StringPadding) -> String {
    let end = match padding {
        StringPadding::NullTerminate => field.iter().position(|&b| b == 0).unwrap_or(field.len()),
        StringPadding::NullPad => field.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1),
        StringPadding::SpacePad => field.iter().rposition(|&b| b != b' ').map_or(0, |last| last + 1),
    };
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// A standard integer or float of 1 to 8 bytes; `None` for anything else.
fn number(datatype: &Datatype, field: &[u8]) -> Option<f64> {
    let little = |order: &DatatypeByteOrder| -> Option<[u8; 8]> {
        let mut bytes = [0; 8];
        let target = bytes.get_mut(..field.len())?;
        target.copy_from_slice(field);
        match order {
            DatatypeByteOrder::LittleEndian => {}
            DatatypeByteOrder::BigEndian => target.reverse(),
            DatatypeByteOrder::Vax => return None,
        }
        Some(bytes)
    };
    match datatype {
        Datatype::FixedPoint { byte_order, layout, .. } => {
            let value = u64::from_le_bytes(little(byte_order)?);
            if !layout.signed {
                return Some(value as f64);
            }
            // Move the sign bit to the top and back down, which fills in its copies.
            let shift = 64 - 8 * field.len() as u32;
            Some((((value << shift) as i64) >> shift) as f64)
        }
        Datatype::FloatingPoint { byte_order, .. } => {
            let [a, b, c, d, ..] = little(byte_order)?;
            match field.len() {
                2 => Some(half::f16::from_le_bytes([a, b]).to_f64()),
                4 => Some(f64::from(f32::from_le_bytes([a, b, c, d]))),
                8 => Some(f64::from_le_bytes(little(byte_order)?)),
                _ => None,
            }
        }
        _ => None,
    }
}
