mod builder;
mod manifests;

use std::io::{Cursor, Write};

use ::zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};
use proptest::prelude::*;

use self::builder::{Item, Zip, crc32, item, local, zip};
use super::*;

fn refused_bytes(bytes: &[u8], limits: &Limits) -> String {
    match validate(Cursor::new(bytes), limits) {
        Err(Error::Refused { code: Code::InvalidPackage, message }) => message,
        other => panic!("{other:?}"),
    }
}

fn refused(zip: &Zip) -> String {
    refused_bytes(&zip.bytes(), &Limits::default())
}

fn accepted(bytes: &[u8]) -> Manifest {
    validate(Cursor::new(bytes), &Limits::default()).unwrap()
}

fn main_py() -> Item {
    item("main.py", "print('hello')")
}

/// Writes a zip as an honest tool does.
fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn extra(id: u16, content: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &(content.len() as u16).to_le_bytes(), content].concat()
}

fn descriptor(item: &Item) -> Vec<u8> {
    let size = (item.content.len() as u32).to_le_bytes();
    [&b"PK\x07\x08"[..], &crc32(&item.content).to_le_bytes(), &size, &size].concat()
}

#[test]
fn honest_zips_of_every_kind_are_accepted() {
    let streamed = Item { flags: 1 << 3, local_crc32: Some(0), gap: descriptor(&main_py()), ..main_py() };
    let bare = Item { gap: streamed.gap[4..].to_vec(), ..streamed.clone() };
    let unicode = item("данные/é.txt", "x");
    let mut field = vec![1];
    field.extend(crc32(&unicode.name).to_le_bytes());
    field.extend(&unicode.name);
    let unmarked =
        Item { flags: 0, extra: extra(0x7075, &field), local_extra: extra(0x7075, &field), ..unicode.clone() };
    let wide = Item { size: Some(u32::MAX), extra: extra(1, &14_u64.to_le_bytes()), ..main_py() };
    let wide = Item { local_extra: wide.extra.clone(), ..wide };
    let accept = [
        zip([main_py()]),
        zip([main_py(), item("lib/", ""), item("lib/a.py", ""), unicode]),
        zip([streamed]),
        zip([bare, item("b", "x")]),
        zip([main_py(), unmarked]),
        zip([wide]),
        Zip { comment: b"made by hand".to_vec(), ..zip([main_py()]) },
        Zip { zip64: true, ..zip([main_py()]) },
        zip([
            Item { attributes: 0o100_755 << 16, ..main_py() },
            Item { attributes: 0o040_755 << 16, ..item("d/", "") },
        ]),
    ];
    for zip in accept {
        let manifest = validate(Cursor::new(zip.bytes()), &Limits::default());
        assert_eq!(manifest.unwrap_or_else(|error| panic!("{error}: {zip:?}")).run.command, ["python3", "main.py"]);
    }
    let mut stream = ZipWriter::new_stream(Vec::new());
    stream.start_file("main.py", SimpleFileOptions::default()).unwrap();
    stream.write_all(&[b'#'; 5000]).unwrap();
    accepted(&stream.finish().unwrap().into_inner());
    accepted(&packed(&[("main.py", b"pass"), ("lib/data", &[7; 100_000])]));
}

#[test]
fn what_is_no_zip_is_refused() {
    for bytes in [&b""[..], b"PK", b"hello, this is text and no zip at all", &[0; 100]] {
        assert!(refused_bytes(bytes, &Limits::default()).contains("not a zip file"), "{bytes:?}");
    }
    let whole = zip([main_py()]).bytes();
    for end in 0..whole.len() {
        refused_bytes(&whole[..end], &Limits::default());
    }
    assert!(refused(&zip([])).contains("the package is empty"));
}

#[test]
fn hostile_names_are_refused_by_name() {
    for (name, reason) in [
        ("../../etc/cron.d/x", "`..`"),
        ("/etc/passwd", "absolute"),
        ("C:/Windows/x", "drive letter"),
        ("..\\..\\x", "backslash"),
        ("aux.py", "device"),
        ("a\u{1b}[31m", "control character"),
    ] {
        let message = refused(&zip([main_py(), item(name, "x")]));
        assert!(message.contains(reason) && message.starts_with(&format!("the entry {}", shown(name))), "{message}");
        assert!(!message.contains('\u{1b}'), "nothing in a message moves the cursor of a terminal");
    }
    let cases: [(&[Item], &str); 5] = [
        (&[main_py(), main_py()], "`main.py` is there twice"),
        (&[main_py(), item("MAIN.py", "")], "`MAIN.py` and `main.py` are the same name"),
        (&[item("Straße", ""), item("STRASSE", "")], "are the same name"),
        (&[item("a", ""), item("a/b", "")], "makes `a` a file and a folder at once"),
        (&[Item { flags: 0, ..item("é", "") }], "not marked as UTF-8"),
    ];
    for (items, reason) in cases {
        assert!(refused(&zip(items.to_vec())).contains(reason), "{reason}");
    }
    let latin1 = Item { name: b"caf\xe9".to_vec(), ..main_py() };
    assert!(refused(&zip([latin1])).contains("is not UTF-8"));
}

/// Some unpackers prefer the name in the extra field, so it could smuggle in what the checked name does not show.
#[test]
fn a_second_name_is_refused() {
    let mut field = vec![1];
    field.extend(crc32(b"main.py").to_le_bytes());
    field.extend(b"../../x");
    let central = Item { extra: extra(0x7075, &field), ..main_py() };
    assert!(refused(&zip([central])).contains("second, different name"));
    let local = Item { local_extra: extra(0x7075, &field), ..main_py() };
    assert!(refused(&zip([local])).contains("another name in its own header"));
    let twice = [extra(0x7075, &[&field[..5], b"main.py"].concat()), extra(0x7075, &field)].concat();
    assert!(refused(&zip([Item { extra: twice, ..main_py() }])).contains("name"));
}

#[test]
fn links_and_special_files_are_refused() {
    for (mode, reason) in [
        (0o120_777, "symbolic link"),
        (0o010_644, "special file"),
        (0o020_644, "special file"),
        (0o060_644, "special file"),
        (0o140_644, "special file"),
        (0o040_755, "a folder by its mode and a file by its name"),
    ] {
        let message = refused(&zip([main_py(), Item { attributes: mode << 16, ..item("x", "/etc/passwd") }]));
        assert!(message.contains("`x`") && message.contains(reason), "{message}");
    }
    assert!(refused(&zip([Item { attributes: 0x400, ..main_py() }])).contains("reparse point"));
    assert!(refused(&zip([item("d/", "content")])).contains("a folder with content"));
}

#[test]
fn encryption_and_other_methods_are_refused() {
    for flag in [0, 6, 13] {
        assert!(refused(&zip([Item { flags: 1 << flag, ..main_py() }])).contains("is encrypted"));
    }
    for method in [1, 9, 12, 14, 93, 95, 99] {
        let message = refused(&zip([Item { method, ..main_py() }]));
        assert!(message.contains(&format!("packed by method {method}")), "{message}");
    }
}

#[test]
fn headers_that_contradict_each_other_are_refused() {
    let cases = [
        (Item { local_name: Some(b"evil.py".to_vec()), ..main_py() }, "another name"),
        (Item { local_method: Some(8), ..main_py() }, "another method"),
        (Item { local_size: Some(5), ..main_py() }, "another size"),
        (Item { local_crc32: Some(5), ..main_py() }, "another checksum"),
        (Item { size: Some(5), ..main_py() }, "its two sizes differ"),
        (Item { size: Some(u32::MAX), ..main_py() }, "sizes of the entry `main.py` are damaged"),
        (Item { crc32: Some(5), ..main_py() }, "is damaged"),
        (Item { header_at: Some(3), gap: vec![0; 60], ..main_py() }, "data in front of the first entry"),
        (Item { header_at: Some(0), gap: vec![0; 60], ..main_py() }, "header of the entry `main.py` is missing"),
        (Item { header_at: Some(u32::MAX - 1), ..main_py() }, "data in front of the first entry"),
    ];
    for (item, reason) in cases {
        let message = refused(&zip([item]));
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let zips = [
        (Zip { entries: Some(2), ..zip([main_py()]) }, "ends too early"),
        (Zip { entries: Some(1), ..zip([main_py(), item("b", "")]) }, "more in it than its entries"),
        (Zip { directory_rest: b"PK\x05\x05\x01\x00x".to_vec(), ..zip([main_py()]) }, "more in it than its entries"),
        (Zip { disk: 1, ..zip([main_py()]) }, "one part of several"),
        (Zip { directory_at: Some(1), ..zip([main_py()]) }, "not where its end says"),
        (Zip { directory_at: Some(7), zip64: true, ..zip([main_py()]) }, "contradict each other"),
    ];
    for (zip, reason) in zips {
        let message = refused(&zip);
        assert!(message.contains(reason), "{reason}: {message}");
    }
}

#[test]
fn data_before_between_or_after_is_refused() {
    let good = zip([main_py()]).bytes();
    assert!(refused_bytes(&[&good[..], b"x"].concat(), &Limits::default()).contains("after the end of the zip"));
    assert!(refused_bytes(&[b"#!/bin/sh\n", &good[..]].concat(), &Limits::default()).contains("in front of the zip"));
    let two = [&good[..], &good].concat();
    assert!(refused_bytes(&two, &Limits::default()).contains("in front of the zip"));
    let hidden = local(&item("hidden.py", "evil"));
    let message = refused(&zip([Item { gap: hidden, ..main_py() }, item("b", "")]));
    assert!(message.contains("something hidden behind the entry `main.py`"), "{message}");
    let lie = Item { flags: 1 << 3, gap: descriptor(&item("", "other content")), ..main_py() };
    assert!(refused(&zip([lie])).contains("something hidden"));
    let commented = Zip { comment: [&b"PK\x05\x06"[..], &[0; 18]].concat(), ..zip([main_py()]) };
    refused(&commented);
}

/// Overlapping entries make a small file unpack to petabytes without any single suspicious ratio (Fifield, 2019).
#[test]
fn overlapping_entries_are_refused() {
    let inner = item("b", "kernel");
    let quoting = Item { content: local(&inner), ..item("a", "") };
    let at = local(&item("a", "")).len() as u32;
    let message = refused(&zip([quoting, Item { header_at: Some(at), ..inner }]));
    assert!(message.contains("the entry `a` overlaps"), "{message}");
    let same = Item { header_at: Some(0), local_name: None, ..item("c", "x") };
    refused(&zip([item("a", "x"), same]));
}

#[test]
fn sizes_are_measured_and_not_believed() {
    let limits = Limits { max_entries: 3, max_unpacked_bytes: 1 << 20, max_ratio: 200, ratio_free_bytes: 1 << 18 };
    let many = zip((0..4).map(|number| item(&format!("f{number}"), "")));
    assert!(refused_bytes(&many.bytes(), &limits).contains("4 entries, and at most 3"));

    let noise: Vec<u8> = (0..1_100_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let large = refused_bytes(&packed(&[("a", b"x"), ("noise", &noise)]), &limits);
    assert!(large.contains("the entry `noise` takes the package over 1 MiB unpacked"), "{large}");

    let bomb = refused_bytes(&packed(&[("a", b"x"), ("zeros", &vec![0; 900_000])]), &limits);
    assert!(bomb.contains("the entry `zeros` takes the package over 200 times"), "{bomb}");
    let harmless = packed(&[("main.py", &[b'#'; 200_000])]);
    validate(Cursor::new(harmless), &limits).expect("any ratio is harmless when it is small");
}

/// A size that lies, in both headers, about a deflated entry: found out while unpacking, however large it claims to be.
#[test]
fn a_lie_about_the_size_is_found_out() {
    let honest = packed(&[("main.py", &[b'#'; 70_000])]);
    for lie in [5_u32, 69_999, 70_001, 2_000_000_000] {
        let mut bytes = honest.clone();
        let told = 70_000_u32.to_le_bytes();
        let places: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == told).collect();
        assert_eq!(places.len(), 2, "one in each header");
        places.iter().for_each(|at| bytes[*at..*at + 4].copy_from_slice(&lie.to_le_bytes()));
        let message = refused_bytes(&bytes, &Limits::default());
        assert!(message.contains("`main.py`"), "{lie}: {message}");
    }
}

#[test]
fn a_failing_disk_is_not_the_fault_of_the_package() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
    }
    impl std::io::Seek for Failing {
        fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
            Ok(1000)
        }
    }
    assert!(matches!(validate(Failing, &Limits::default()), Err(Error::Internal(_))));
}

/// What an agent will do with an accepted package must stay inside of its folder and within the limits.
fn assert_harmless(bytes: &[u8], limits: &Limits) {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut total = 0;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).unwrap();
        assert!(entry.enclosed_name().is_some() && !entry.is_symlink());
        total += std::io::copy(&mut entry, &mut std::io::sink()).unwrap();
    }
    assert!(total <= limits.max_unpacked_bytes);
}

fn good_zips() -> Vec<Vec<u8>> {
    let mut stored = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    stored.start_file("main.py", options).unwrap();
    stored.write_all(b"pass").unwrap();
    vec![
        packed(&[
            ("process.toml", b"[run]\ncommand = [\"a\"]\n[input]\nschema = \"s.json\""),
            ("s.json", b"{\"type\": \"object\"}"),
            ("lib/data.txt", &[b'x'; 3000]),
        ]),
        stored.finish().unwrap().into_inner(),
        Zip { zip64: true, ..zip([main_py(), item("lib/", ""), item("lib/é", "x")]) }.bytes(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), tail in any::<bool>()) {
        let bytes = if tail { [&bytes[..], b"PK\x05\x06", &bytes[..bytes.len().min(18)]].concat() } else { bytes };
        let _ = validate(Cursor::new(bytes), &Limits::default());
    }

    #[test]
    fn mutated_zips_never_panic_and_are_harmless_when_accepted(
        which in 0..3_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = good_zips().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            let at = cut.index(bytes.len());
            bytes.remove(at);
        }
        let limits = Limits { max_entries: 100, max_unpacked_bytes: 1 << 20, ..Limits::default() };
        if validate(Cursor::new(&bytes), &limits).is_ok() {
            assert_harmless(&bytes, &limits);
        }
    }

    #[test]
    fn random_manifests_never_panic(text in "(\\[|\\]|\"|=|\n|run|command|timeout|[a-z]|: |- |&a|\\*a|\\{|\\}|'){0,40}") {
        for name in ["process.toml", "robot.yaml"] {
            let _ = validate(Cursor::new(zip([item(name, &text)]).bytes()), &Limits::default());
        }
    }
}
