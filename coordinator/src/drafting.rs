//! Jobs about to start: what they name is found, and their input is checked against the schema of their version, both off
//! the writer's thread, for compiling a schema and checking a value by it may take long.

use drover_protocol::AccountId;

use crate::{
    app::App,
    error::{Error, Result},
    json_schema::{self, Side},
    operations::{
        job::{Draft, MAX_JSON_BYTES, too_large},
        process_version,
    },
    store::Reader,
};

/// A draft whose input fits.
#[derive(Clone, Debug)]
pub struct Checked {
    pub draft: Draft,
    /// The draft's input as JSON.
    pub input: Vec<u8>,
}

/// Checks what `draft` finds.
pub async fn checked(app: &App, account: AccountId, draft: impl FnOnce(&Reader) -> Result<Draft>) -> Result<Checked> {
    let (draft, manifest) = app.db.read(account, |reading| {
        let draft = draft(reading)?;
        let version = draft.version.id;
        let manifest = app.manifests.get(version, || process_version::manifest(reading, version))?;
        Ok((draft, manifest))
    })?;
    if let Some(schema) = &manifest.input_schema {
        let unusable = |error| Error::Internal(format!("the input schema of a version is unusable: {error}"));
        let validator = app.schemas.get(draft.version.id.uuid(), Side::Input, schema).map_err(unusable)?;
        let errors = json_schema::check(&validator, schema, &draft.input, "/input").await;
        if !errors.is_empty() {
            return Err(Error::Invalid(errors));
        }
    }
    let input = serde_json::to_vec(&draft.input)
        .map_err(|error| Error::Internal(format!("an input cannot be written: {error}")))?;
    if input.len() > MAX_JSON_BYTES {
        return Err(too_large("input"));
    }
    Ok(Checked { draft, input })
}
