//! `shunt links export`: everything, tombstones included, so that an import elsewhere is the same.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::cli::exit::{Code, Failure};
use crate::cli::output::Progress;
use crate::cli::rows::columns::{export_cells, export_header};
use crate::cli::rows::reader::Format;
use crate::client::{ApiClient, Lines, problem};

#[derive(Debug, clap::Args)]
#[command(long_about = "Write all links, deleted ones included, to a file or standard output.\n\n\
    The file appears whole or not at all. In CSV a cell that a spreadsheet would run as a formula \
    (it begins with = + - @, tab or carriage return), and one that begins with an apostrophe, gets \
    an apostrophe in front; `shunt links import` takes it away again.")]
pub(crate) struct Args {
    /// The file; left out or `-`: standard output
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    output: Option<PathBuf>,
    /// The format; left out, by the file's name, else NDJSON
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: &Args, client: &ApiClient) -> anyhow::Result<()> {
    let file = args.file.as_deref().or(args.output.as_deref());
    let file = file.filter(|file| file.as_os_str() != "-");
    let format = args.format.unwrap_or_else(|| {
        let csv = file.and_then(Path::extension).is_some_and(|end| end.eq_ignore_ascii_case("csv"));
        if csv { Format::Csv } else { Format::Ndjson }
    });
    if let Some(file) = file
        && file.exists()
        && !args.force
    {
        let text = format!("{} exists already; name another file or add --force", file.display());
        return Err(Failure::error(Code::CantCreate, text));
    }
    let request = Request::get("/api/v1/links:export").body(Body::empty())?;
    let response = client.send(request).await?;
    let status = response.status();
    let mut lines = Lines::of(response.into_body());
    if !status.is_success() {
        return Err(problem(status, &lines.next().await?.unwrap_or_default()));
    }
    let count = match file {
        Some(file) => to_file(file, format, &mut lines).await?,
        None => {
            let out = BufWriter::new(std::io::stdout());
            let mut writer = Writer::new(format, out)?;
            let count = copy(&mut writer, &mut lines).await?;
            writer.finish()?;
            count
        }
    };
    eprintln!("{count} rows exported");
    Ok(())
}

/// Writes under another name and renames at the end, so that a half export is never taken for a
/// whole one.
async fn to_file(file: &Path, format: Format, lines: &mut Lines) -> anyhow::Result<u64> {
    let part = Part::beside(file)?;
    let mut writer = Writer::new(format, BufWriter::new(part.open()?))?;
    let count = copy(&mut writer, lines).await?;
    let synced = writer.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error);
    synced
        .and_then(|written| written.sync_all())
        .and_then(|()| std::fs::rename(&part.0, file))
        .with_context(|| format!("write {}", file.display()))?;
    Ok(count)
}

/// The unfinished file; removed unless it was renamed.
struct Part(PathBuf);

impl Part {
    fn beside(file: &Path) -> anyhow::Result<Self> {
        let mut name = file.file_name().context("name a file, not a directory")?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        Ok(Self(file.with_file_name(name)))
    }

    fn open(&self) -> anyhow::Result<File> {
        File::create_new(&self.0).map_err(|error| {
            let text = format!("can't create {}: {error}", self.0.display());
            Failure::error(Code::CantCreate, text)
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _renamed_already = std::fs::remove_file(&self.0);
    }
}

async fn copy<W: Write>(writer: &mut Writer<W>, lines: &mut Lines) -> anyhow::Result<u64> {
    let mut progress = Progress::new("rows", None);
    let mut count = 0;
    while let Some(line) = lines.next().await? {
        writer.write(&line)?;
        count += 1;
        if count % 1_000 == 0 {
            progress.at(count, None);
        }
    }
    Ok(count)
}

enum Writer<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Ndjson(W),
}

impl<W: Write> Writer<W> {
    fn new(format: Format, out: W) -> anyhow::Result<Self> {
        Ok(match format {
            Format::Ndjson => Self::Ndjson(out),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(export_header()).context("write the header")?;
                Self::Csv(Box::new(writer))
            }
        })
    }

    fn write(&mut self, line: &Bytes) -> anyhow::Result<()> {
        match self {
            Self::Ndjson(out) => {
                out.write_all(line).and_then(|()| out.write_all(b"\n")).context("write a row")
            }
            Self::Csv(writer) => {
                let row: Value = serde_json::from_slice(line).context("read a row")?;
                writer.write_record(export_cells(&row)).map_err(csv_io).context("write a row")
            }
        }
    }

    fn finish(self) -> anyhow::Result<W> {
        let mut out = match self {
            Self::Ndjson(out) => out,
            Self::Csv(writer) => {
                writer.into_inner().map_err(|error| csv_io(error.into_error().into()))?
            }
        };
        out.flush().context("write the last rows")?;
        Ok(out)
    }
}

/// The file system's error inside a CSV error, so that it keeps its exit code.
fn csv_io(error: csv::Error) -> std::io::Error {
    error.into()
}
