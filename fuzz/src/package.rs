//! Packages: the zip as such, and the files in it that say how it runs.

use std::io::{Cursor, Write};

use drover_coordinator::package::{Limits, validate};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

const LIMITS: Limits =
    Limits { max_entries: 50, max_unpacked_bytes: 1 << 20, max_ratio: 200, ratio_free_bytes: 1 << 18 };

/// What is accepted must be harmless to an unpacker that knows nothing of our rules.
pub fn run(bytes: &[u8]) {
    if validate(Cursor::new(bytes), &LIMITS).is_err() {
        return;
    }
    let mut zip = ZipArchive::new(Cursor::new(bytes)).expect("an accepted zip can be opened");
    assert!(zip.len() <= LIMITS.max_entries);
    let mut total = 0;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).expect("every entry of an accepted zip can be read");
        assert!(entry.enclosed_name().is_some() && !entry.is_symlink(), "{:?}", entry.name());
        total += std::io::copy(&mut entry, &mut std::io::sink()).expect("every entry of an accepted zip is whole");
    }
    assert!(total <= LIMITS.max_unpacked_bytes);
}

fn packed(files: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, options).expect("a small file");
        zip.write_all(content).expect("memory takes it");
    }
    zip.finish().expect("memory takes it").into_inner()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let deflated = SimpleFileOptions::default();
    let mut streamed = ZipWriter::new_stream(Vec::new());
    streamed.start_file("main.py", deflated).expect("a small file");
    streamed.write_all(b"pass").expect("memory takes it");
    vec![
        packed(&[("main.sh", b"true")], stored),
        packed(&[("main.sh", b"true")], stored.large_file(true)),
        packed(&[("process.toml", b"[run]\ncommand = [\"a\"]\n"), ("lib/x", &[b'x'; 300])], deflated),
        packed(&[("main.py", b"pass"), ("\u{434}/\u{e9}", b"x"), ("d/e/f", b"")], stored),
        streamed.finish().expect("memory takes it").into_inner(),
    ]
}

/// The first byte says which file the rest is.
pub fn run_manifest(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let by_schema: &[u8] = b"[run]\ncommand = [\"a\"]\n[input]\nschema = \"s.json\"\n[output]\nschema = \"s.json\"\n";
    let package = match which % 3 {
        0 => packed(&[("process.toml", text), ("s.json", b"{}"), ("requirements.txt", b"")], stored),
        1 => packed(&[("robot.yaml", text)], stored),
        _ => packed(&[("process.toml", by_schema), ("s.json", text)], stored),
    };
    let limits = Limits { max_unpacked_bytes: 4 << 20, ..LIMITS };
    if let Ok(manifest) = validate(Cursor::new(package), &limits) {
        let json = serde_json::to_vec(&manifest).expect("a manifest can be written");
        let read: drover_protocol::manifest::Manifest = serde_json::from_slice(&json).expect("and read again");
        assert_eq!(read, manifest);
    }
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let toml = "\u{0}[process]\nname = \"invoices\"\ndescription = \"x\"\n[run]\ncommand = [\"python3\", \"main.py\"]\n\
        timeout = \"1h\"\nstop_grace = \"30s\"\n[run.windows]\ncommand = [\"x\"]\n[python]\nrequirements = \"requirements.txt\"\n\
        [input]\nschema = \"s.json\"\n[requires]\nresources = [\"a\"]\n[requires.labels]\nos = \"linux\"\n";
    let yaml = "\u{1}tasks:\n  First:\n    shell: python -m robot --report NONE 'a b'\n  Second: &a\n    command:\n      - x\n";
    let schema = "\u{2}{\"$defs\": {\"n\": {\"properties\": {\"a\": {\"$ref\": \"#/$defs/n\"}}}}, \"$ref\": \"#/$defs/n\", \
        \"required\": [\"a\"], \"patternProperties\": {\"^[a-z]{1,8}$\": {\"type\": [\"string\", \"null\"]}}}";
    [toml, yaml, schema].iter().map(|text| text.as_bytes().to_vec()).collect()
}
