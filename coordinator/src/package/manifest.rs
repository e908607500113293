//! Finds the manifest of a package, and holds it to the limits that go for every source of it.

use std::{
    collections::HashSet,
    io::{Read, Seek},
};

use drover_protocol::{
    json::{MAX_DEPTH, is_too_deep},
    manifest::{Manifest, ManifestSource, Python, Run},
};
use serde_json::Value;

use super::{inferred, process_toml, refusal, shown, zip::Archive};
use crate::{
    domain::name::MAX_LABELS_BYTES,
    error::{Error, Result},
    json_schema,
};

const PROCESS_TOML: &str = "process.toml";
const ROBOT_YAML: &str = "robot.yaml";
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;
const MAX_SCHEMA_BYTES: u64 = 256 * 1024;
const MAX_NAME_CHARS: usize = 128;
const MAX_DESCRIPTION_CHARS: usize = 2048;
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT_BYTES: usize = 4096;
const MAX_LABELS: usize = 64;
const MAX_REQUIRED: usize = 256;

/// Reads `process.toml`; if there is none `robot.yaml`; if there is none either, what a lone main file tells.
pub(super) fn read<R: Read + Seek>(archive: &mut Archive<R>) -> Result<Manifest> {
    let manifest = if let Some(text) = archive.read_text(PROCESS_TOML, MAX_MANIFEST_BYTES)? {
        from_process_toml(archive, &text)?
    } else if let Some(text) = archive.read_text(ROBOT_YAML, MAX_MANIFEST_BYTES)? {
        let python = inferred::python(archive);
        inferred::from_robot_yaml(&text, python)?
    } else {
        refuse_single_folder(archive)?;
        inferred::from_main_file(archive)?
    };
    check(archive, &manifest)?;
    Ok(manifest)
}

fn from_process_toml<R: Read + Seek>(archive: &mut Archive<R>, text: &str) -> Result<Manifest> {
    let parsed = process_toml::parse(text).map_err(|reason| in_file(PROCESS_TOML, &reason))?;
    let mut manifest = parsed.manifest;
    manifest.input_schema = read_schema(archive, "input.schema", parsed.input_schema)?;
    manifest.output_schema = read_schema(archive, "output.schema", parsed.output_schema)?;
    Ok(manifest)
}

/// Loads a schema that the field names, and proves that it can be used.
fn read_schema<R: Read + Seek>(archive: &mut Archive<R>, field: &str, path: Option<String>) -> Result<Option<Value>> {
    let Some(path) = path else { return Ok(None) };
    let name = inside(&path);
    let Some(text) = archive.read_text(name, MAX_SCHEMA_BYTES)? else {
        return Err(in_file(PROCESS_TOML, &missing_file(field, &path)));
    };
    let schema: Value = serde_json::from_str(&text).map_err(|error| in_file(name, &format!("no JSON: {error}")))?;
    if is_too_deep(&schema) {
        return Err(in_file(name, &format!("nested deeper than {MAX_DEPTH} levels; make it flatter")));
    }
    json_schema::compile(&schema).map_err(|reason| in_file(name, &reason))?;
    Ok(Some(schema))
}

fn missing_file(field: &str, path: &str) -> String {
    format!("{field} names {}, which is not in the package; add the file or remove the line", shown(path))
}

/// The usual `./` in front says nothing.
pub(super) fn inside(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

fn in_file(name: &str, reason: &str) -> Error {
    refusal(format!("{}: {reason}", shown(name)))
}

/// The most frequent mistake: the folder was packed instead of what is in it.
fn refuse_single_folder<R: Read + Seek>(archive: &Archive<R>) -> Result<()> {
    // What macOS adds by itself is not what the package is about.
    let tops: HashSet<Option<&str>> = archive
        .files()
        .filter(|name| !name.starts_with("__MACOSX/") && !name.ends_with(".DS_Store"))
        .map(|name| name.split_once('/').map(|(top, _)| top))
        .collect();
    match tops.iter().next() {
        Some(Some(top)) if tops.len() == 1 => Err(refusal(format!(
            "everything lies in the folder {}, and it must lie at the root of the package; pack what is in \
                 the folder, not the folder itself",
            shown(top)
        ))),
        _ => Ok(()),
    }
}

/// What holds for a manifest wherever it was read from.
fn check<R: Read + Seek>(archive: &Archive<R>, manifest: &Manifest) -> Result<()> {
    let named = |reason: String| match manifest.source {
        ManifestSource::ProcessToml => in_file(PROCESS_TOML, &reason),
        ManifestSource::RobotYaml => in_file(ROBOT_YAML, &reason),
        ManifestSource::Inferred => refusal(reason),
    };
    check_fields(manifest).map_err(named)?;
    match &manifest.python {
        Some(Python { requirements }) if !archive.contains(requirements) => {
            Err(named(missing_file("python.requirements", requirements)))
        }
        _ => Ok(()),
    }
}

fn check_fields(manifest: &Manifest) -> Result<(), String> {
    if let Some(name) = &manifest.name {
        check_name("process.name", name)?;
    }
    if manifest.description.chars().count() > MAX_DESCRIPTION_CHARS {
        return Err(format!("process.description is longer than {MAX_DESCRIPTION_CHARS} characters; shorten it"));
    }
    check_commands(&manifest.run)?;
    let requires = &manifest.requires;
    if requires.labels.len() > MAX_LABELS {
        return Err(format!("requires.labels has more than {MAX_LABELS} labels; remove some"));
    }
    let bytes: usize = requires.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_LABELS_BYTES {
        return Err(format!("requires.labels is over {MAX_LABELS_BYTES} bytes in all; remove some"));
    }
    for (key, value) in &requires.labels {
        check_name("requires.labels", key)?;
        check_name(&format!("requires.labels.{}", shown(key)), value)?;
    }
    let lists = [
        ("requires.resources", &requires.resources),
        ("requires.queues", &requires.queues),
        ("requires.storages", &requires.storages),
    ];
    for (field, names) in lists {
        if names.len() > MAX_REQUIRED {
            return Err(format!("{field} has more than {MAX_REQUIRED} names; remove some"));
        }
        let mut seen = HashSet::new();
        for name in names {
            check_name(field, name)?;
            if !seen.insert(name) {
                return Err(format!("{field} names {} twice; remove one", shown(name)));
            }
        }
    }
    Ok(())
}

fn check_name(field: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.trim() != name || name.chars().any(char::is_control) {
        return Err(format!(
            "{field}: {} is no name; a name is not empty and has no spaces at its ends and no control characters",
            shown(name)
        ));
    }
    if name.chars().count() > MAX_NAME_CHARS {
        return Err(format!("{field}: {} is longer than {MAX_NAME_CHARS} characters; shorten it", shown(name)));
    }
    Ok(())
}

fn check_commands(run: &Run) -> Result<(), String> {
    if run.command.is_empty() && run.linux.is_none() && run.windows.is_none() {
        return Err("run.command is missing; add for example command = [\"python3\", \"main.py\"]".to_owned());
    }
    if !run.command.is_empty() {
        check_command("run.command", &run.command)?;
    }
    let special = [("run.linux.command", &run.linux), ("run.windows.command", &run.windows)];
    special
        .iter()
        .filter_map(|(field, command)| Some((field, command.as_ref()?)))
        .try_for_each(|(field, command)| check_command(field, command))
}

fn check_command(field: &str, command: &[String]) -> Result<(), String> {
    if command.first().is_none_or(|program| program.trim().is_empty()) {
        return Err(format!("{field} names no program; its first word must be the program to run"));
    }
    if command.len() > MAX_ARGUMENTS {
        return Err(format!("{field} has more than {MAX_ARGUMENTS} words; put them into a script in the package"));
    }
    if command.iter().any(|word| word.len() > MAX_ARGUMENT_BYTES) {
        return Err(format!(
            "{field} has a word longer than {MAX_ARGUMENT_BYTES} bytes; put it into a file in the package"
        ));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(format!("{field} has a word with a NUL character; remove it"));
    }
    Ok(())
}
