//! Manifests of packages without a `process.toml`: the Robocorp layout, and a lone main file.

use std::{
    collections::BTreeMap,
    io::{Read, Seek},
};

use drover_protocol::manifest::{Manifest, ManifestSource, Python, Requires, Run};
use serde::Deserialize;

use super::{refusal, shown, zip::Archive};
use crate::error::Result;

const REQUIREMENTS: &str = "requirements.txt";
const REMEDY: &str = "add a process.toml whose [run] table has the command";

/// Runs the suite whose name follows, with its reports where the agent collects files: a command expands no variables.
pub(super) const RUN_ROBOT_FRAMEWORK: &str = "import os, sys, robot; \
     robot.run_cli(['--outputdir', os.environ.get('DROVER_ARTIFACTS', 'output')] + sys.argv[1:])";

/// What of `robot.yaml` says how to run. Its other fields are about other tools.
#[derive(Debug, Deserialize)]
struct RobotYaml {
    /// In the order of the file.
    #[serde(default)]
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Tasks(Vec<(String, RobotTask)>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RobotTask {
    shell: Option<String>,
    robot_task_name: Option<String>,
    command: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for Tasks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Tasks;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping from names of robot tasks to how they are run")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Tasks, A::Error> {
                let mut tasks = Vec::new();
                while let Some(task) = map.next_entry()? {
                    tasks.push(task);
                }
                Ok(Tasks(tasks))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// `requirements.txt` at the root says what Python needs.
pub(super) fn python<R: Read + Seek>(archive: &Archive<R>) -> Option<Python> {
    archive.contains(REQUIREMENTS).then(|| Python { requirements: REQUIREMENTS.to_owned() })
}

fn manifest(source: ManifestSource, run: Run, python: Option<Python>) -> Manifest {
    Manifest {
        source,
        name: None,
        description: String::new(),
        run,
        python,
        input_schema: None,
        output_schema: None,
        requires: Requires::default(),
    }
}

/// Runs the first of the tasks of a `robot.yaml`.
pub(super) fn from_robot_yaml(text: &str, python: Option<Python>) -> Result<Manifest> {
    let wrong = |reason: &str| refusal(format!("`robot.yaml`: {reason}"));
    // The parser's own budget refuses documents that unfold endlessly.
    let yaml: RobotYaml = serde_saphyr::from_str(text).map_err(|error| wrong(&first_line(&error.to_string())))?;
    let Some((name, task)) = yaml.tasks.0.into_iter().next() else {
        return Err(wrong("it has no tasks; add one under `tasks:` with `shell:`, `command:` or `robotTaskName:`"));
    };
    let run = match (task.command, task.shell, task.robot_task_name) {
        (Some(command), None, None) => Run { command, ..Run::default() },
        (None, Some(shell), None) => {
            let words = shlex::split(&shell)
                .ok_or_else(|| wrong(&format!("the shell line of {} has an open quote; close it", shown(&name))))?;
            Run { command: words, ..Run::default() }
        }
        (None, None, Some(robot_task)) => python_run(&["-c", RUN_ROBOT_FRAMEWORK, "--task", &robot_task, "."]),
        _ => {
            let name = shown(&name);
            return Err(wrong(&format!("the task {name} must have one of `shell:`, `command:` or `robotTaskName:`")));
        }
    };
    if run.command.is_empty() {
        return Err(wrong(&format!("the command of the task {} names no program", shown(&name))));
    }
    Ok(manifest(ManifestSource::RobotYaml, run, python))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The interpreter has another name on Windows, where `python3` may open a shop.
fn python_run(arguments: &[&str]) -> Run {
    Run { command: words("python3", arguments), windows: Some(words("python", arguments)), ..Run::default() }
}

fn words(program: &str, arguments: &[&str]) -> Vec<String> {
    std::iter::once(program).chain(arguments.iter().copied()).map(str::to_owned).collect()
}

/// `main.py`; or `main.sh`, `main.ps1`, or both, each for its system; or the only `*.robot` at the root.
pub(super) fn from_main_file<R: Read + Seek>(archive: &Archive<R>) -> Result<Manifest> {
    let at_root: BTreeMap<&str, ()> =
        archive.files().filter(|name| !name.contains('/')).map(|name| (name, ())).collect();
    let has = |name: &str| at_root.contains_key(name);
    let suites: Vec<&str> = at_root.keys().copied().filter(|name| name.ends_with(".robot")).collect();
    let run = match (has("main.py"), has("main.sh"), has("main.ps1")) {
        (true, false, false) => python_run(&["main.py"]),
        (true, _, _) => {
            let other = if has("main.sh") { "main.sh" } else { "main.ps1" };
            return Err(refusal(format!("both `main.py` and `{other}` could be what is run; {REMEDY}")));
        }
        (false, false, false) => match suites.as_slice() {
            [only] => python_run(&["-c", RUN_ROBOT_FRAMEWORK, only]),
            [] => {
                return Err(refusal(format!(
                    "the package does not say what is run; {REMEDY}, or name the file main.py, main.sh or main.ps1"
                )));
            }
            [one, other, ..] => {
                let (one, other) = (shown(one), shown(other));
                return Err(refusal(format!("both {one} and {other} could be what is run; {REMEDY}")));
            }
        },
        (false, sh, ps1) => Run {
            linux: sh.then(|| words("bash", &["main.sh"])),
            windows: ps1.then(|| words("powershell", &["-ExecutionPolicy", "Bypass", "-File", "main.ps1"])),
            ..Run::default()
        },
    };
    Ok(manifest(ManifestSource::Inferred, run, python(archive)))
}
