//! Apache Parquet: a column of lists of numbers is the vectors, one is the ids, one the metadata in JSON; or the other
//! plain columns are the metadata. Files of pyarrow, pandas, polars and DuckDB are read; what is written they read.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use parquet::basic::{Compression, Type as Physical, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::reader::RowIter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{SchemaDescriptor, Type};

use super::{MAX_DIMENSION, Point, Sink, Source};

mod labels;

use labels::Labels;

/// Records decoded at once.
const BATCH_RECORDS: usize = 64;
/// A row group is written when its vectors are this large.
const ROW_GROUP_BYTES: usize = 32 << 20;

const SCHEMA: &str = "message nearfield {
    required binary id (STRING);
    required group values (LIST) { repeated group list { required float element; } }
    optional binary metadata (STRING);
    optional int64 version;
}";

/// Which columns of a .parquet file are what.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Columns {
    /// The column of a .parquet file that holds the vectors: lists of f32 or f64. The default is the one that does
    #[arg(long)]
    vector_column: Option<String>,
    /// The column that holds the ids. The default is `id`; without it a point's id is the number of its row
    #[arg(long)]
    id_column: Option<String>,
    /// The column that holds the metadata as JSON text. The default is `metadata`; without it every other plain column
    /// is a member of the metadata
    #[arg(long)]
    metadata_column: Option<String>,
}

pub(super) struct Reader {
    file: SerializedFileReader<std::fs::File>,
    /// Of the vectors, among the leaves.
    column: usize,
    row_group: usize,
    vectors: Option<Vectors>,
    labels: Labels,
    total: u64,
    /// The row to read next.
    row: u64,
    /// The first point, read ahead for its dimension.
    first: Option<Point>,
    dimension: Option<usize>,
}

impl Reader {
    pub(super) fn open(path: &Path, columns: &Columns) -> Result<Self> {
        let open = || -> Result<_> { Ok(SerializedFileReader::new(fs::File::open(path)?.into_parts().0)?) };
        let file = open().with_context(|| format!("reading {}", path.display()))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let column = vector_column(&schema, columns.vector_column.as_deref())?;
        let projection = Projection::choose(&schema, column, columns)?;
        let rows = RowIter::from_file_into(Box::new(open()?)).project(Some(projection.schema))?;
        let labels = Labels::new(rows, projection.id, projection.metadata);
        let total = u64::try_from(file.metadata().file_metadata().num_rows()).unwrap_or(0);
        let mut reader =
            Self { file, column, row_group: 0, vectors: None, labels, total, row: 0, first: None, dimension: None };
        reader.first = reader.read()?;
        reader.dimension = reader.first.as_ref().map(|point| point.values.len());
        Ok(reader)
    }

    fn read(&mut self) -> Result<Option<Point>> {
        loop {
            let row = self.row;
            if let Some(vectors) = &mut self.vectors
                && let Some(values) = vectors.next().with_context(|| format!("the vector of row {row}"))?
            {
                let (id, metadata) = self.labels.next(row).with_context(|| format!("row {row}"))?;
                self.row += 1;
                return Ok(Some(Point { id, values, metadata, version: None }));
            }
            if !self.next_row_group()? {
                return Ok(None);
            }
        }
    }

    fn next_row_group(&mut self) -> Result<bool> {
        if self.row_group == self.file.num_row_groups() {
            return Ok(false);
        }
        let group = self.file.get_row_group(self.row_group)?;
        let levels = self.file.metadata().file_metadata().schema_descr().column(self.column).max_def_level();
        self.vectors = Some(Vectors::new(group.get_column_reader(self.column)?, levels)?);
        self.row_group += 1;
        Ok(true)
    }
}

impl Source for Reader {
    fn next(&mut self) -> Result<Option<Point>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.read(),
        }
    }

    fn skip(&mut self, points: u64) -> Result<()> {
        for _ in 0..points {
            self.next()?;
        }
        Ok(())
    }

    fn dimension(&self) -> Option<usize> {
        self.dimension
    }

    fn total(&self) -> Option<u64> {
        Some(self.total)
    }

    fn place(&self) -> String {
        format!("row {}", self.row.saturating_sub(1))
    }
}

/// The leaf that holds the vectors: the named one, else the only one, else one with a name that says so.
fn vector_column(schema: &SchemaDescriptor, named: Option<&str>) -> Result<usize> {
    let is_list = |leaf: usize| {
        let column = schema.column(leaf);
        column.max_rep_level() == 1 && matches!(column.physical_type(), Physical::FLOAT | Physical::DOUBLE)
    };
    let candidates: Vec<usize> = (0..schema.num_columns()).filter(|leaf| is_list(*leaf)).collect();
    let root = |leaf: &usize| schema.get_column_root(*leaf).name().to_owned();
    let found = match named {
        Some(named) => candidates.iter().copied().find(|leaf| root(leaf) == named),
        None if candidates.len() == 1 => Some(candidates[0]),
        None => candidates
            .iter()
            .copied()
            .find(|leaf| ["values", "vector", "embedding", "embeddings"].contains(&root(leaf).as_str())),
    };
    found.with_context(|| {
        let names: Vec<String> = candidates.iter().map(root).collect();
        match (named, names.is_empty()) {
            (_, true) => "no column holds lists of f32 or f64".to_owned(),
            (Some(named), false) => format!("no column {named:?} holds lists of f32 or f64; {} do", names.join(", ")),
            (None, false) => format!("several columns could be the vectors: --vector-column {}", names.join(" or ")),
        }
    })
}

/// The columns beside the vectors that are read.
struct Projection {
    schema: Type,
    id: Option<String>,
    /// The one that is JSON; None when all but the id are metadata.
    metadata: Option<String>,
}

impl Projection {
    fn choose(schema: &SchemaDescriptor, vectors: usize, columns: &Columns) -> Result<Self> {
        let fields = schema.root_schema().get_fields();
        let has = |name: &str| fields.iter().any(|field| field.name() == name);
        let column = |named: &Option<String>, default: &str| match named {
            Some(named) if !has(named) => bail!("there is no column {named:?}"),
            Some(named) => Ok(Some(named.clone())),
            None => Ok(has(default).then(|| default.to_owned())),
        };
        let id = column(&columns.id_column, "id")?;
        let metadata = column(&columns.metadata_column, "metadata")?;
        let vectors = schema.get_column_root(vectors).name();
        let wanted = |field: &&Arc<Type>| {
            let name = field.name();
            let plain = field.is_primitive() && name != vectors;
            plain && (id.as_deref() == Some(name) || metadata.as_deref().is_none_or(|metadata| metadata == name))
        };
        let chosen = fields.iter().filter(wanted).cloned().collect();
        let schema = Type::group_type_builder(schema.name()).with_fields(chosen).build()?;
        Ok(Self { schema, id, metadata })
    }
}

/// The vectors of one row group.
enum Vectors {
    Double(Lists<DoubleType>),
    Float(Lists<FloatType>),
}

impl Vectors {
    fn new(reader: ColumnReader, max_definition: i16) -> Result<Self> {
        Ok(match reader {
            ColumnReader::FloatColumnReader(reader) => Self::Float(Lists::new(reader, max_definition)),
            ColumnReader::DoubleColumnReader(reader) => Self::Double(Lists::new(reader, max_definition)),
            _ => bail!("the vectors are neither f32 nor f64"),
        })
    }

    fn next(&mut self) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Double(lists) => Ok(lists.next()?.map(|values| values.iter().map(|value| *value as f32).collect())),
            Self::Float(lists) => Ok(lists.next()?.map(<[f32]>::to_vec)),
        }
    }
}

/// Lists out of a column's levels (the Dremel encoding): repetition 0 begins a record, and a value is there where the
/// definition is the highest.
struct Lists<T: DataType> {
    reader: ColumnReaderImpl<T>,
    max_definition: i16,
    values: Vec<T::T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    /// Where the next record begins among the levels, and among the values.
    level: usize,
    value: usize,
}

impl<T: DataType> Lists<T> {
    fn new(reader: ColumnReaderImpl<T>, max_definition: i16) -> Self {
        let (values, definitions, repetitions) = (Vec::new(), Vec::new(), Vec::new());
        Self { reader, max_definition, values, definitions, repetitions, level: 0, value: 0 }
    }

    fn next(&mut self) -> Result<Option<&[T::T]>> {
        if self.level == self.repetitions.len() {
            self.values.clear();
            self.definitions.clear();
            self.repetitions.clear();
            (self.level, self.value) = (0, 0);
            let (definitions, repetitions) = (Some(&mut self.definitions), Some(&mut self.repetitions));
            let (records, _, _) =
                self.reader.read_records(BATCH_RECORDS, definitions, repetitions, &mut self.values)?;
            if records == 0 {
                return Ok(None);
            }
        }
        let rest = &self.repetitions[self.level + 1..];
        let levels = 1 + rest.iter().position(|repetition| *repetition == 0).unwrap_or(rest.len());
        let definitions = &self.definitions[self.level..self.level + levels];
        let values = definitions.iter().filter(|definition| **definition == self.max_definition).count();
        let (first, from) = (definitions[0], self.value);
        self.level += levels;
        self.value += values;
        if values < levels {
            let what = if levels == 1 && first < self.max_definition { "is empty or absent" } else { "has a hole" };
            bail!("it {what}");
        }
        if values > MAX_DIMENSION {
            bail!("it has {values} numbers, more than {MAX_DIMENSION}");
        }
        Ok(Some(&self.values[from..from + values]))
    }
}

/// `id`, `values`, `metadata` (JSON text) and `version`.
pub(super) struct Writer {
    file: SerializedFileWriter<std::fs::File>,
    points: Vec<(ByteArray, Option<ByteArray>, Option<i64>)>,
    values: Vec<f32>,
    repetitions: Vec<i16>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).context("the schema is a constant")?);
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = SerializedFileWriter::new(fs::File::create(path)?.into_parts().0, schema, Arc::new(properties))?;
        Ok(Self { file, points: Vec::new(), values: Vec::new(), repetitions: Vec::new() })
    }

    fn flush(&mut self) -> Result<()> {
        if self.points.is_empty() {
            return Ok(());
        }
        let ids: Vec<ByteArray> = self.points.iter().map(|(id, ..)| id.clone()).collect();
        let (metadata, metadata_there) = optional(self.points.iter().map(|(_, metadata, _)| metadata.clone()));
        let (versions, versions_there) = optional(self.points.iter().map(|(.., version)| *version));
        // A list of required numbers, none of them empty: 1 wherever there is a number.
        let definitions = vec![1; self.values.len()];

        let mut group = self.file.next_row_group()?;
        let mut columns = 0;
        while let Some(mut column) = group.next_column()? {
            match columns {
                0 => column.typed::<ByteArrayType>().write_batch(&ids, None, None)?,
                1 => column.typed::<FloatType>().write_batch(
                    &self.values,
                    Some(&definitions),
                    Some(&self.repetitions),
                )?,
                2 => column.typed::<ByteArrayType>().write_batch(&metadata, Some(&metadata_there), None)?,
                _ => column.typed::<Int64Type>().write_batch(&versions, Some(&versions_there), None)?,
            };
            column.close()?;
            columns += 1;
        }
        group.close()?;
        self.points.clear();
        self.values.clear();
        self.repetitions.clear();
        Ok(())
    }
}

/// The values that are there, and for each place whether one is.
fn optional<T>(places: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let mut values = Vec::new();
    let mut there = Vec::new();
    for place in places {
        there.push(i16::from(place.is_some()));
        values.extend(place);
    }
    (values, there)
}

impl Sink for Writer {
    fn write(&mut self, point: &Point) -> Result<()> {
        if point.values.is_empty() {
            bail!("the point {:?} has no vector", point.id);
        }
        let metadata = point.metadata.as_ref().map(|metadata| ByteArray::from(metadata.get()));
        let version = point.version.map(i64::try_from).transpose().context("the version is too large")?;
        self.points.push((ByteArray::from(point.id.as_str()), metadata, version));
        self.values.extend_from_slice(&point.values);
        self.repetitions.push(0);
        self.repetitions.resize(self.values.len(), 1);
        if self.values.len() * size_of::<f32>() >= ROW_GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        self.file.close()?;
        Ok(())
    }
}
