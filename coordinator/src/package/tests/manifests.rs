//! Which manifest comes out of which files, and why there is none.

use drover_protocol::manifest::{ManifestSource, Python};
use serde_json::json;

use super::*;

fn of(files: &[(&str, &str)]) -> Result<Manifest> {
    let zip = zip(files.iter().map(|(name, content)| item(name, content)));
    validate(Cursor::new(zip.bytes()), &Limits::default())
}

fn refused_files(files: &[(&str, &str)]) -> String {
    match of(files) {
        Err(Error::Refused { code: Code::InvalidPackage, message }) => message,
        other => panic!("{files:?}: {other:?}"),
    }
}

const RUN: &str = "[run]\ncommand = [\"a\"]\n";

#[test]
fn process_toml_wins_and_brings_its_schemas() {
    let manifest = of(&[
        ("process.toml", &format!("{RUN}[input]\nschema = \"schemas/in.json\"\n[output]\nschema = \"./out.json\"\n[python]\nrequirements = \"./r.txt\"")),
        ("schemas/in.json", "\u{feff}{\"type\": \"object\"}"),
        ("out.json", "true"),
        ("r.txt", ""),
        ("robot.yaml", "tasks: {a: {shell: b}}"),
        ("main.py", ""),
    ])
    .unwrap();
    assert_eq!(manifest.source, ManifestSource::ProcessToml);
    assert_eq!(manifest.run.command, ["a"]);
    assert_eq!(manifest.input_schema, Some(json!({"type": "object"})));
    assert_eq!(manifest.output_schema, Some(json!(true)));
    assert_eq!(manifest.python, Some(Python { requirements: "r.txt".to_owned() }));
}

#[test]
fn what_is_wrong_with_process_toml_is_named() {
    let long = "x".repeat(129);
    let words = |count: usize| format!("[run]\ncommand = [{}]", "\"a\",".repeat(count));
    let cases = [
        ("[run]\ncomand = [\"a\"]".to_owned(), "`process.toml`: line 2: run.comand"),
        ("[run]\ntimeout = 5".to_owned(), "run.command is missing"),
        ("[run]\ncommand = [\"\"]".to_owned(), "run.command names no program"),
        (words(65), "run.command has more than 64 words"),
        ("[run.linux]\ncommand = []".to_owned(), "run.linux.command names no program"),
        (format!("[run]\ncommand = [\"{}\"]", "a".repeat(4097)), "longer than 4096 bytes"),
        ("[run]\ncommand = [\"a\\u0000\"]".to_owned(), "NUL"),
        (format!("{RUN}[process]\nname = \"{long}\""), "process.name"),
        (format!("{RUN}[process]\nname = \"\""), "is no name"),
        (format!("{RUN}[process]\ndescription = \"{}\"", "d".repeat(2049)), "2048 characters"),
        (format!("{RUN}[requires]\nqueues = [\"{long}\"]"), "requires.queues"),
        (format!("{RUN}[requires]\nresources = [\" a\"]"), "requires.resources"),
        (format!("{RUN}[requires]\nstorages = [\"a\", \"a\"]"), "names `a` twice"),
        (format!("{RUN}[requires]\nlabels = {{ os = \"{long}\" }}"), "requires.labels.`os`"),
        (
            format!("{RUN}[python]\nrequirements = \"r.txt\""),
            "python.requirements names `r.txt`, which is not in the package",
        ),
        (format!("{RUN}[python]\nrequirements = \"../r.txt\""), "which is not in the package"),
        (format!("{RUN}[input]\nschema = \"s.json\""), "input.schema names `s.json`, which is not in the package"),
        (format!("{RUN}[input]\nschema = \"bad.json\""), "`bad.json`: no JSON"),
        (format!("{RUN}[output]\nschema = \"remote.json\""), "`remote.json`: no valid JSON Schema"),
        (format!("{RUN}[output]\nschema = \"large.json\""), "`large.json` is larger than 256 KiB"),
        ("#".repeat(65 * 1024), "`process.toml` is larger than 64 KiB"),
    ];
    let large = format!("\"{}\"", "x".repeat(256 * 1024));
    for (text, reason) in cases {
        let message = refused_files(&[
            ("process.toml", &text),
            ("bad.json", "{"),
            ("remote.json", "{\"$ref\": \"https://example.com/s\"}"),
            ("large.json", &large),
        ]);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let not_text = zip([Item { content: vec![0xff, 0xfe], ..item("process.toml", "") }]);
    assert!(refused(&not_text).contains("`process.toml` is not UTF-8 text"));
}

#[test]
fn robot_yaml_runs_its_first_task() {
    let cases: [(&str, &[&str]); 4] = [
        (
            "tasks:\n  z:\n    shell: python -m robot --name 'My tests' .\n  a:\n    shell: no\n",
            &["python", "-m", "robot", "--name", "My tests", "."],
        ),
        (
            "tasks:\n  a:\n    command:\n      - python\n      - task.py\ncondaConfigFile: conda.yaml\n",
            &["python", "task.py"],
        ),
        ("tasks: {only: {command: [a]}}\nartifactsDir: output\nPATH: [.]\n", &["a"]),
        (
            "tasks: {only: {robotTaskName: Book it}}",
            &["python3", "-c", inferred::RUN_ROBOT_FRAMEWORK, "--task", "Book it", "."],
        ),
    ];
    for (yaml, command) in cases {
        let manifest = of(&[("robot.yaml", yaml), ("requirements.txt", "")]).unwrap();
        assert_eq!(manifest.source, ManifestSource::RobotYaml);
        assert_eq!(manifest.run.command_for("linux").unwrap(), command);
        assert_eq!(manifest.python, Some(Python { requirements: "requirements.txt".to_owned() }));
    }
}

#[test]
fn what_is_wrong_with_robot_yaml_is_named() {
    let bomb = format!(
        "a: &a [x]\n{}tasks: {{a: {{shell: b}}}}\n",
        ('b'..='z')
            .map(|letter| {
                let before = char::from(letter as u8 - 1);
                format!("{letter}: &{letter} [{}]\n", vec![format!("*{before}"); 9].join(","))
            })
            .collect::<String>()
    );
    let cases = [
        ("tasks: {}", "it has no tasks"),
        ("other: 1", "it has no tasks"),
        ("tasks: [a]", "`robot.yaml`"),
        ("tasks:\n  a: {}\n", "the task `a` must have one of"),
        ("tasks:\n  a: {shell: b, robotTaskName: c}\n", "the task `a` must have one of"),
        ("tasks:\n  a: {shell: \"it's\"}\n", "open quote"),
        ("tasks:\n  a: {shell: \"\"}\n", "names no program"),
        ("tasks:\n\t- x", "`robot.yaml`"),
        (&bomb, "`robot.yaml`"),
    ];
    for (yaml, reason) in cases {
        let message = refused_files(&[("robot.yaml", yaml)]);
        assert!(message.contains(reason), "{yaml}: {message}");
    }
}

#[test]
fn a_lone_main_file_says_how_it_is_run() {
    let powershell: &[&str] = &["powershell", "-ExecutionPolicy", "Bypass", "-File", "main.ps1"];
    let robot: &[&str] = &["python3", "-c", inferred::RUN_ROBOT_FRAMEWORK, "tests.robot"];
    let python: &[&str] = &["python3", "main.py"];
    let bash: &[&str] = &["bash", "main.sh"];
    type Command<'a> = Option<&'a [&'a str]>;
    let cases: [(&[&str], Command, Command); 6] = [
        (&["main.py"], Some(python), Some(&["python", "main.py"])),
        (&["main.sh"], Some(bash), None),
        (&["main.ps1"], None, Some(powershell)),
        (&["main.sh", "main.ps1"], Some(bash), Some(powershell)),
        (&["tests.robot", "sub/other.robot"], Some(robot), Some(&["python", robot[1], robot[2], robot[3]])),
        (&["main.py", "tests.robot"], Some(python), Some(&["python", "main.py"])),
    ];
    for (names, linux, windows) in cases {
        let files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
        let manifest = of(&files).unwrap();
        assert_eq!((manifest.source, &manifest.python), (ManifestSource::Inferred, &None));
        for (os, expected) in [("linux", linux), ("windows", windows)] {
            let command = manifest.run.command_for(os).map(|command| command.iter().map(String::as_str).collect());
            assert_eq!(command, expected.map(<[&str]>::to_vec), "{names:?} on {os}");
        }
    }
    let manifest = of(&[("main.py", ""), ("requirements.txt", "requests")]).unwrap();
    assert_eq!(manifest.python, Some(Python { requirements: "requirements.txt".to_owned() }));
}

#[test]
fn packages_that_do_not_say_what_is_run_are_refused_with_the_remedy() {
    let cases: [(&[&str], &str); 6] = [
        (&["readme.txt"], "does not say what is run; add a process.toml"),
        (&["main.py", "main.sh"], "both `main.py` and `main.sh`"),
        (&["a.robot", "b.robot"], "both `a.robot` and `b.robot`"),
        (&["invoices/process.toml", "invoices/main.py"], "everything lies in the folder `invoices`"),
        (&["invoices/main.py", "__MACOSX/invoices/._main.py", ".DS_Store"], "everything lies in the folder `invoices`"),
        (&["a/main.py", "b/main.py"], "does not say what is run"),
    ];
    for (names, reason) in cases {
        let files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
        let message = refused_files(&files);
        assert!(message.contains(reason), "{names:?}: {message}");
    }
}
