//! Columns of Parquet files.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::{RawRecords, Template};
use crate::prepare::config::{Kind, SourceConfig};
use crate::{Error, Result};

/// Rows that are decoded together.
const ROWS: usize = 256;

/// A file that is being read row by row.
pub(crate) struct Rows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    template: Template,
    record_bytes_max: u64,
    rows: u64,
    /// Bytes that these rows stand for.
    told: u64,
    /// All rows, and the bytes of the file, for the progress.
    total: (u64, u64),
    read: Arc<AtomicU64>,
}

impl Rows {
    pub(super) fn open(path: &Path, source: &SourceConfig, read: Arc<AtomicU64>) -> Result<Self> {
        let bad = |reason: String| Error::BadInput { path: path.to_owned(), reason };
        if source.kind == Kind::Chat {
            return Err(bad(
                "conversations are read from JSONL; write them as one JSON object a line".to_owned()
            ));
        }
        let template = match &source.template {
            Some(template) => Template::parse(template).map_err(bad)?,
            None => Template::field(source.field()),
        };
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
        let damaged =
            |error: parquet::errors::ParquetError| bad(format!("it is no whole Parquet file: {error}"));
        // Types as they are stored: a column that was a dictionary is read as the strings that it stands for.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder =
            ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(damaged)?;
        let columns: Vec<String> =
            builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        if let Some(missing) = template.fields().iter().find(|name| !columns.contains(name)) {
            return Err(bad(format!("it has no column `{missing}`; there are: {}", columns.join(", "))));
        }
        let names = template.fields().iter().map(String::as_str);
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
        let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(damaged)?;
        let (path, record_bytes_max) = (path.to_owned(), source.max_record_bytes);
        Ok(Self { path, reader, template, record_bytes_max, rows: 0, told: 0, total: (rows, bytes), read })
    }

    /// Adds rows until there are enough or the file ends.
    pub(super) fn read(&mut self, records: &mut RawRecords) -> Result<()> {
        while !records.is_full() {
            let Some(batch) = self.reader.next() else { break };
            let batch = batch.map_err(|error| self.bad(format!("it is damaged: {error}")))?;
            let columns = self.columns(&batch)?;
            for row in 0..batch.num_rows() {
                self.rows += 1;
                let values = columns.iter().map(|column| Cow::Borrowed(column.value(row))).collect();
                let text = self.template.join(values);
                if text.len() as u64 > self.record_bytes_max {
                    let (path, limit) = (self.path.clone(), self.record_bytes_max);
                    return Err(Error::RecordTooLong { path, place: format!("row {}", self.rows), limit });
                }
                records.push(text.as_bytes(), self.rows);
            }
        }
        self.tell();
        Ok(())
    }

    /// The columns in the order of the template.
    fn columns<'b>(&self, batch: &'b RecordBatch) -> Result<Vec<Texts<'b>>> {
        let column = |name: &String| {
            let array =
                batch.column_by_name(name).ok_or_else(|| self.bad(format!("it has no column `{name}`")))?;
            Texts::of(array).ok_or_else(|| {
                self.bad(format!("the column `{name}` should be of strings, it is of {}", array.data_type()))
            })
        };
        self.template.fields().iter().map(column).collect()
    }

    /// Rows stand for bytes: the library reads the file out of order.
    fn tell(&mut self) {
        let (rows, bytes) = self.total;
        let done = (u128::from(bytes) * u128::from(self.rows) / u128::from(rows.max(1))) as u64;
        self.read.fetch_add(done - self.told, Ordering::Relaxed);
        self.told = done;
    }

    fn bad(&self, reason: String) -> Error {
        Error::BadInput { path: self.path.clone(), reason }
    }
}

/// A column of strings.
enum Texts<'a> {
    Small(&'a arrow_array::StringArray),
    Large(&'a arrow_array::LargeStringArray),
    View(&'a arrow_array::StringViewArray),
}

impl<'a> Texts<'a> {
    fn of(array: &'a dyn Array) -> Option<Self> {
        None.or_else(|| array.as_string_opt::<i32>().map(Self::Small))
            .or_else(|| array.as_string_opt::<i64>().map(Self::Large))
            .or_else(|| array.as_string_view_opt().map(Self::View))
    }

    /// A null is empty.
    fn value(&self, row: usize) -> &'a str {
        let null = match self {
            Self::Small(array) => array.is_null(row),
            Self::Large(array) => array.is_null(row),
            Self::View(array) => array.is_null(row),
        };
        match self {
            _ if null => "",
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
        }
    }
}
