//! Reads `process.toml`. Errors name the line, the field, and for an unknown field the nearest known one.

use std::collections::BTreeMap;

use drover_protocol::manifest::{Manifest, ManifestSource, Python, Requires, Run};
use serde::{Deserialize, Deserializer, de};

use super::manifest::inside;

/// The longest time a manifest may name, in seconds: a year.
const MAX_SECONDS: u64 = 366 * 24 * 60 * 60;

/// A manifest whose schemas are still to be loaded from the package.
#[derive(Debug)]
pub(super) struct Parsed {
    pub manifest: Manifest,
    pub input_schema: Option<String>,
    pub output_schema: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    process: ProcessTable,
    run: RunTable,
    python: Option<PythonTable>,
    input: Option<SchemaTable>,
    output: Option<SchemaTable>,
    #[serde(default)]
    requires: RequiresTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessTable {
    name: Option<String>,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunTable {
    command: Option<Vec<String>>,
    linux: Option<CommandTable>,
    windows: Option<CommandTable>,
    #[serde(default, deserialize_with = "seconds")]
    timeout: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    stop_grace: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandTable {
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PythonTable {
    requirements: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaTable {
    schema: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequiresTable {
    labels: BTreeMap<String, String>,
    resources: Vec<String>,
    queues: Vec<String>,
    storages: Vec<String>,
}

/// Says what is wrong as a fragment that follows the name of the file.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let deserializer = toml::Deserializer::parse(text).map_err(|error| described(text, "", &error))?;
    let file: File = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        described(text, &path, error.inner())
    })?;
    let RunTable { command, linux, windows, timeout, stop_grace } = file.run;
    if command.as_ref().is_some_and(Vec::is_empty) {
        return Err("run.command is empty; its first word must be the program to run".to_owned());
    }
    let manifest = Manifest {
        source: ManifestSource::ProcessToml,
        name: file.process.name,
        description: file.process.description,
        run: Run {
            command: command.unwrap_or_default(),
            linux: linux.map(|table| table.command),
            windows: windows.map(|table| table.command),
            timeout_seconds: timeout,
            stop_grace_seconds: stop_grace,
        },
        python: file.python.map(|table| Python { requirements: inside(&table.requirements).to_owned() }),
        input_schema: None,
        output_schema: None,
        requires: Requires {
            labels: file.requires.labels,
            resources: file.requires.resources,
            queues: file.requires.queues,
            storages: file.requires.storages,
        },
    };
    let schema = |table: Option<SchemaTable>| table.map(|table| table.schema);
    Ok(Parsed { manifest, input_schema: schema(file.input), output_schema: schema(file.output) })
}

fn described(text: &str, path: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let mut described = String::new();
    if let Some(span) = error.span() {
        let line = 1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
        described.push_str(&format!("line {line}: "));
    }
    if !path.is_empty() && path != "." {
        described.push_str(path);
        described.push_str(": ");
    }
    described.push_str(message);
    if let Some(nearest) = nearest_field(message) {
        described.push_str(&format!("; did you mean `{nearest}`?"));
    }
    if path.ends_with("command") && message.starts_with("invalid type: string") {
        described.push_str("; write it as words, for example [\"python3\", \"main.py\"]");
    }
    described
}

/// serde says "unknown field `x`, expected one of `a`, `b`": the expected name that is most like the unknown one.
fn nearest_field(message: &str) -> Option<&str> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|field| (strsim::jaro_winkler(unknown, field), field))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, field)| field)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time such as \"30s\" or \"1h30m\", or a whole number of seconds")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
            in_range(u64::try_from(number).ok()).map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            in_range(Some(number)).map_err(E::custom)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            duration_seconds(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Visitor).map(Some)
}

/// "1h30m": numbers with the units d, h, m and s, each at most once and the larger first.
fn duration_seconds(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let wrong = || format!("{text:?} is no time; write for example \"30s\", \"1h30m\" or \"2d\" (units d, h, m, s)");
    let mut units = UNITS.iter();
    let mut total = Some(0_u64);
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letter = after.chars().next().ok_or_else(wrong)?;
        let (_, unit_seconds) = units.find(|(unit, _)| *unit == letter).ok_or_else(wrong)?;
        if number.is_empty() {
            return Err(wrong());
        }
        // More digits than fit are out of range, not unreadable.
        let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_seconds));
        total = total.zip(seconds).and_then(|(total, seconds)| total.checked_add(seconds));
        rest = after[letter.len_utf8()..].trim_start();
    }
    in_range(total)
}

fn in_range(seconds: Option<u64>) -> Result<u64, String> {
    seconds
        .filter(|seconds| (1..=MAX_SECONDS).contains(seconds))
        .ok_or_else(|| "a time must be between 1 second and 366 days".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_the_documents_is_read_whole() {
        let text = r#"
            [process]
            name = "invoices"
            description = "Books supplier invoices from the queue"
            [run]
            command = ["python3", "main.py"]
            timeout = "1h"
            stop_grace = "30s"
            [run.windows]
            command = ["python", "main.py"]
            [python]
            requirements = "./requirements.txt"
            [input]
            schema = "input.schema.json"
            [output]
            schema = "output.schema.json"
            [requires]
            labels = { os = "linux" }
            resources = ["erp-login"]
            queues = ["invoices"]
            storages = ["reports"]
        "#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed.input_schema.as_deref(), Some("input.schema.json"));
        assert_eq!(parsed.output_schema.as_deref(), Some("output.schema.json"));
        let manifest = parsed.manifest;
        assert_eq!(manifest.source, ManifestSource::ProcessToml);
        assert_eq!(manifest.name.as_deref(), Some("invoices"));
        assert_eq!(manifest.description, "Books supplier invoices from the queue");
        assert_eq!(manifest.run.command_for("linux").unwrap(), ["python3", "main.py"]);
        assert_eq!(manifest.run.command_for("windows").unwrap(), ["python", "main.py"]);
        assert_eq!((manifest.run.timeout_seconds, manifest.run.stop_grace_seconds), (Some(3600), Some(30)));
        assert_eq!(manifest.python, Some(Python { requirements: "requirements.txt".to_owned() }));
        assert_eq!(manifest.requires.labels["os"], "linux");
        assert_eq!(manifest.requires.resources, ["erp-login"]);
        assert_eq!(manifest.requires.queues, ["invoices"]);
        assert_eq!(manifest.requires.storages, ["reports"]);
    }

    #[test]
    fn errors_name_line_field_and_remedy() {
        let refused = [
            ("[run]\ncomand = [\"a\"]", "line 2: run.comand: unknown field `comand`", "did you mean `command`?"),
            ("[runn]\ncommand = [\"a\"]", "line 1: ", "did you mean `run`?"),
            ("[run]\ncommand = \"python3 main.py\"", "line 2: run.command", "write it as words"),
            ("[run]\ncommand = [\"a\"]\ntimeout = \"soon\"", "line 3: run.timeout", "\"soon\" is no time"),
            ("[run]\ncommand = [\"a\"]\ntimeout = -1", "line 3: run.timeout", "between 1 second"),
            ("[run]\ncommand = [\"a\"]\ntimeout = 1.5", "line 3: run.timeout", "a whole number of seconds"),
            ("[run]\ncommand = [\"a\", 1]", "line 2: run.command[1]", "invalid type: integer"),
            ("[run]\ncommand = []", "run.command is empty", "program"),
            ("[process]\nname = \"x\"", "", "missing field `run`"),
            ("[run]\ncommand = [\"a\"]\n[run.linux]", "line 3: run.linux", "missing field `command`"),
            ("[requires]\nlabels = { gpu = true }\n[run]\n", "line 2: requires.labels.gpu", "boolean"),
            ("[run\n", "line 1: ", ""),
            ("[run]\ncommand = [\"a\"]\ncommand = [\"b\"]", "line 3: ", "duplicate key"),
        ];
        for (text, start, part) in refused {
            let refusal = parse(text).expect_err(text);
            assert!(refusal.starts_with(start) && refusal.contains(part), "{text}: {refusal}");
        }
    }

    #[test]
    fn times_are_read() {
        let fine = [("30s", 30), ("1h30m", 5400), ("2d", 172_800), ("1d 2h 3m 4s", 93_784), (" 90m ", 5400)];
        for (text, seconds) in fine {
            assert_eq!(duration_seconds(text), Ok(seconds), "{text}");
        }
        for text in ["", "s", "30", "1h1h", "1s1m", "500ms", "1.5h", "-1s", "1H", "1é", "٣s"] {
            assert!(duration_seconds(text).unwrap_err().contains("is no time"), "{text}");
        }
        for text in ["0s", "367d", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration_seconds(text).unwrap_err().contains("between"), "{text}");
        }
    }
}
