//! Chunks of logs: as agents send them, and as they lie in the store.

use drover_coordinator::{
    operations::log::pack,
    store::lines::{pack as pack_lines, unpack as unpack_lines},
};
use drover_protocol::{agent::LogChunk, log::NewLogLine};

/// Bytes as JSON of a chunk, and as packed lines: what can be packed comes out as it went in.
pub fn run(bytes: &[u8]) {
    if let Ok(chunk) = serde_json::from_slice::<LogChunk>(bytes) {
        let lines = chunk.lines.clone();
        if pack(chunk).is_ok() {
            let packed = pack_lines(&lines, 1).expect("what is within the limits can be packed");
            assert_eq!(unpack_lines(&packed).expect("what was packed can be read"), lines);
        }
    }
    if let Ok(lines) = unpack_lines(bytes) {
        pack_lines(&lines, 1).expect("lines can be packed again");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let json = r#"{"attempt": 1, "first_seq": 1, "lines": [{"time": "2026-11-23T08:00:00.000Z", "level": "info",
        "message": "300 invoices", "fields": {"a": [1, null, {"b": 1.5}]}}]}"#;
    let chunk: LogChunk = serde_json::from_str(json).expect("a chunk");
    let lines: Vec<NewLogLine> = chunk.lines;
    vec![json.as_bytes().to_vec(), pack_lines(&lines, 1).expect("a few lines"), pack_lines(&[], 1).expect("none")]
}
