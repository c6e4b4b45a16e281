//! Ids and metadata out of a file's plain columns.

use anyhow::{Context, Result, bail};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

pub(super) struct Labels {
    rows: RowIter<'static>,
    id: Option<String>,
    /// The column of JSON text; None when every column but the id is metadata.
    metadata: Option<String>,
}

impl Labels {
    pub(super) fn new(rows: RowIter<'static>, id: Option<String>, metadata: Option<String>) -> Self {
        Self { rows, id, metadata }
    }

    /// The label of `row`, which must be the next.
    pub(super) fn next(&mut self, row: u64) -> Result<(String, Option<Box<RawValue>>)> {
        let columns = self.rows.next().context("the columns are not equally long")??;
        let id = self.id.as_deref().map_or_else(|| Ok(row.to_string()), |name| text(&columns, name))?;
        let metadata = match &self.metadata {
            Some(name) => json(&columns, name)?,
            None => others(&columns, self.id.as_deref())?,
        };
        Ok((id, metadata))
    }
}

fn field<'a>(columns: &'a Row, name: &str) -> Option<&'a Field> {
    columns.get_column_iter().find(|(column, _)| *column == name).map(|(_, field)| field)
}

fn text(columns: &Row, name: &str) -> Result<String> {
    match field(columns, name).map(value).transpose()?.flatten() {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => bail!("the column {name:?} holds no id"),
    }
}

/// One column, a JSON object in text.
fn json(columns: &Row, name: &str) -> Result<Option<Box<RawValue>>> {
    let text = match field(columns, name) {
        Some(Field::Str(text)) => text.clone(),
        Some(Field::Bytes(bytes)) => String::from_utf8(bytes.data().to_vec()).context("the metadata is no UTF-8")?,
        Some(Field::Null) | None => return Ok(None),
        Some(other) => bail!("the column {name:?} holds {other}, not JSON in text"),
    };
    Ok(Some(RawValue::from_string(text).with_context(|| format!("the column {name:?} holds no JSON"))?))
}

/// All columns but the id, by their names.
fn others(columns: &Row, id: Option<&str>) -> Result<Option<Box<RawValue>>> {
    let mut members = Map::new();
    for (name, field) in columns.get_column_iter().filter(|(name, _)| id != Some(name.as_str())) {
        if let Some(value) = value(field).with_context(|| format!("the column {name:?}"))? {
            members.insert(name.clone(), value);
        }
    }
    Ok(if members.is_empty() { None } else { Some(to_raw_value(&members)?) })
}

/// None for null. Dates and times are as ISO 8601 writes them, as the parquet library shows them.
fn value(field: &Field) -> Result<Option<Value>> {
    Ok(Some(match field {
        Field::Null => return Ok(None),
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => Value::from(value.to_f32()),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(_) => bail!("bytes that are no text cannot be metadata"),
        },
        other => Value::from(other.to_string().trim_matches('"')),
    }))
}
