//! A package with its fields, as a browser's form sends them (`multipart/form-data`), received with bounded memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    body::{Body, Bytes},
    extract::{
        DefaultBodyLimit, FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::{HeaderMap, header, request::Parts},
};
use drover_protocol::process::UploadQuery;
use futures::stream;

use super::{Fault, extract::Pieces};
use crate::{app::App, error::Error, store::blob::Staged};

const MAX_FIELD_BYTES: usize = 64 * 1024;
/// The reader of the form holds what it has not made out yet, such as the headers of a part; at most so many bytes.
const MAX_AHEAD_BYTES: u64 = 1024 * 1024;
const MAX_PIECE_BYTES: usize = 64 * 1024;

/// For the API's document.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "it only describes the form in the API's document")]
pub struct UploadForm {
    #[schema(format = Binary, content_media_type = "application/zip")]
    package: String,
    label: Option<String>,
    notes: Option<String>,
    activate: Option<bool>,
}

pub fn is_form(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.to_ascii_lowercase().starts_with("multipart/form-data")
}

/// What the form says goes before what the query says.
pub fn merge(query: UploadQuery, form: UploadQuery) -> UploadQuery {
    UploadQuery {
        label: form.label.or(query.label),
        notes: form.notes.or(query.notes),
        activate: form.activate.or(query.activate),
    }
}

/// Takes the package in as staged content, with the fields beside it. Each of them may be there once.
pub async fn receive(app: &Arc<App>, parts: &Parts, body: Body) -> Result<(Staged, UploadQuery), Fault> {
    let ahead = Arc::new(AtomicU64::new(0));
    let mut request = Request::from_parts(parts.clone(), paced(body, Arc::clone(&ahead)));
    DefaultBodyLimit::disable().apply(&mut request);
    let mut form =
        Multipart::from_request(request, app).await.map_err(|rejection| Fault::bad_request(rejection.body_text()))?;
    let (mut staged, mut fields) = (None, UploadQuery::default());
    let mut seen = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        if !["package", "label", "notes", "activate"].contains(&name.as_str()) {
            return Err(Error::invalid(name, "there is no such field").into());
        }
        if seen.contains(&name) {
            return Err(Error::invalid(name, "is there twice").into());
        }
        seen.push(name.clone());
        let mut field = Paced { field, ahead: &ahead };
        if name == "package" {
            let mut staging = app.blobs.stage(app.rules.limits.package_bytes).await?;
            while let Some(piece) = field.next().await? {
                staging.write(piece).await?;
            }
            staged = Some(staging.finish().await?);
            continue;
        }
        let text = field.text().await?;
        match name.as_str() {
            "label" => fields.label = Some(text).filter(|text| !text.is_empty()),
            "notes" => fields.notes = Some(text),
            _ => fields.activate = Some(parse_flag(&text)?),
        }
    }
    let missing = || Error::invalid("package", "is required");
    Ok((staged.ok_or_else(missing)?, fields))
}

fn broken(error: &MultipartError) -> Fault {
    // What was wrong with the body itself lies at the bottom.
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Fault::bad_request(format!("The form could not be read: {cause}"))
}

/// The body for the reader of the form, which takes whatever is there without asking whether anybody wants it: between
/// two pieces it has to wait once, and it may not be too far ahead of what is taken from it.
fn paced(body: Body, ahead: Arc<AtomicU64>) -> Body {
    let begin = (Pieces::of(body), Bytes::new(), ahead);
    let pieces = stream::try_unfold(begin, |(mut pieces, mut rest, ahead)| async move {
        tokio::task::yield_now().await;
        if ahead.load(Ordering::Relaxed) > MAX_AHEAD_BYTES {
            return Err(std::io::Error::other("the headers of a part, or what is around the parts, are too long"));
        }
        while rest.is_empty() {
            match pieces.next().await.map_err(|fault| std::io::Error::other(fault.detail().to_owned()))? {
                Some(piece) => rest = piece,
                None => return Ok(None),
            }
        }
        let piece = rest.split_to(rest.len().min(MAX_PIECE_BYTES));
        ahead.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(Some((piece, (pieces, rest, ahead))))
    });
    Body::from_stream(pieces)
}

/// A field whose reader is told what has been taken.
struct Paced<'a> {
    field: Field<'a>,
    ahead: &'a AtomicU64,
}

impl Paced<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let piece = self.field.chunk().await.map_err(|error| broken(&error))?;
        let taken = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.ahead.fetch_sub(taken, Ordering::Relaxed);
        Ok(piece)
    }

    async fn text(&mut self) -> Result<String, Fault> {
        let mut text = Vec::new();
        while let Some(piece) = self.next().await? {
            text.extend_from_slice(&piece);
            if text.len() > MAX_FIELD_BYTES {
                return Err(Error::TooLarge("a field of the form is over 64 KiB".to_owned()).into());
            }
        }
        String::from_utf8(text).map_err(|_| Fault::bad_request("A field of the form is not UTF-8."))
    }
}

/// A field of a form that is on or off; `on` is what a browser sends for a box that is ticked.
fn parse_flag(text: &str) -> Result<bool, Fault> {
    match text {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" | "" => Ok(false),
        _ => Err(Error::invalid("activate", "must be true or false").into()),
    }
}
