//! Storage: a large file up and down, beside a plain copy of it on the same disk.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use drover_protocol::API_BASE;
use serde_json::json;

use super::{Setting, runtime};
use crate::{
    http::{Connection, Request},
    program::{Coordinator, KEY, cpu_time, peak_mb},
    report::Row,
};

const FILE_BYTES: u64 = 1_000_000_000;
const PIECE_BYTES: usize = 1 << 20;
/// Each is measured so often; the median counts, for the disk has its moods.
const ROUNDS: usize = 3;

pub fn measure(setting: &Setting) -> anyhow::Result<Vec<Row>> {
    let source = setting.folder.join("source");
    make(&source)?;
    let coordinator = Coordinator::start(&setting.folder.join("store"))?;
    let (address, pid) = (coordinator.address, coordinator.program.pid());
    runtime()?.block_on(async {
        let folder = Request::json("POST", &format!("{API_BASE}/storages"), KEY, &json!({ "name": "f" }))?;
        Connection::open(address).await?.call(&folder).await?.require(201)
    })?;
    let (mut copies, mut uploads, mut downloads) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    for round in 0..ROUNDS {
        copies.push(timed(|| copy(&source, &setting.folder.join("copy")))?);
        let before = cpu_time(pid)?;
        uploads.push(timed(|| upload(address, &source, round))?);
        used += cpu_time(pid)? - before;
        downloads.push(timed(|| download(address, round))?);
    }
    let copied = rate(copies);
    let share = |took: Vec<Duration>| {
        let reached = rate(took);
        (reached / copied * 100.0, format!("{reached:.0} MB/s, a copy with fsync {copied:.0} MB/s"))
    };
    let (uploaded, beside) = share(uploads);
    let cpu = used.as_secs_f64() / ROUNDS as f64;
    let up = Row::at_least("upload of 1 GB, of the speed of a copy", 60.0, uploaded, "%");
    let (downloaded, beside_down) = share(downloads);
    let rows = vec![
        up.beside(format!("{beside}; CPU {cpu:.2} s")),
        Row::at_least("download of 1 GB, of the speed of a copy", 60.0, downloaded, "%").beside(beside_down),
        Row::below("largest memory of the coordinator meanwhile", 150.0, peak_mb(pid)?, "MB"),
    ];
    coordinator.program.stop()?;
    Ok(rows)
}

/// The median, in MB/s.
fn rate(mut took: Vec<Duration>) -> f64 {
    took.sort();
    FILE_BYTES as f64 / 1e6 / took[took.len() / 2].as_secs_f64()
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// Bytes that no disk makes less of.
fn make(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = FILE_BYTES;
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = left.min(PIECE_BYTES as u64);
        file.write_all(&piece[..usize::try_from(count)?])?;
        left -= count;
    }
    Ok(file.sync_all()?)
}

/// As a program copies that wants to be sure.
fn copy(source: &Path, target: &Path) -> anyhow::Result<()> {
    let (mut from, mut to) = (File::open(source)?, File::create(target)?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(to.sync_all()?),
            count => to.write_all(&piece[..count])?,
        }
    }
}

fn upload(address: SocketAddr, source: &Path, round: usize) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let path = format!("{API_BASE}/storages/f/files/large-{round}");
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: drover\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {FILE_BYTES}\r\n\r\n"
    )?;
    let mut file = File::open(source)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => stream.write_all(&piece[..count])?,
        }
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 201"), "the upload was answered with {answer}");
    Ok(())
}

fn download(address: SocketAddr, round: usize) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let path = format!("{API_BASE}/storages/f/files/large-{round}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: drover\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n")?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut received = 0;
    let mut head = 0;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if head == 0 {
            let end = piece[..count].windows(4).position(|four| four == b"\r\n\r\n").context("no whole head")?;
            head = end as u64 + 4;
        }
        received += count as u64;
    }
    anyhow::ensure!(received == head + FILE_BYTES, "{received} bytes came");
    Ok(())
}
