//! What the same machine does without Drover: axum that answers at once, and axum that answers after its few bytes are
//! on disk, many calls with one flush. Runs as a process of its own, as the coordinator does.

use std::{fs::File, io::Write, os::unix::fs::FileExt, path::Path, sync::mpsc};

use anyhow::bail;
use axum::{Router, body::Bytes, extract::State, routing::post};
use tokio::sync::oneshot;

const FILE_BYTES: u64 = 64 * 1024 * 1024;

type Append = (Bytes, oneshot::Sender<()>);

/// Serves until it is killed; says on standard error where.
pub fn serve(kind: &str, folder: &Path) -> anyhow::Result<()> {
    let router = match kind {
        "echo" => Router::new().route("/", post(|body: Bytes| async { body })),
        "append" => {
            let (queue, waiting) = mpsc::channel();
            let file = File::create(folder.join("bare-append"))?;
            file.write_all_at(&vec![0; usize::try_from(FILE_BYTES)?], 0)?;
            file.sync_all()?;
            std::thread::spawn(move || append_all(&file, &waiting));
            Router::new().route("/", post(append)).with_state(queue)
        }
        other => bail!("there is no bare service {other}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stderr(), "{}", listener.local_addr()?)?;
        Ok(axum::serve(listener, router).await?)
    })
}

async fn append(State(queue): State<mpsc::Sender<Append>>, body: Bytes) -> Result<Bytes, axum::http::StatusCode> {
    let gone = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    let (done, waiting) = oneshot::channel();
    queue.send((body.clone(), done)).map_err(|_| gone)?;
    waiting.await.map_err(|_| gone)?;
    Ok(body)
}

/// Writes all that waits, flushes once, answers all.
fn append_all(file: &File, waiting: &mpsc::Receiver<Append>) {
    let mut offset = 0;
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Append> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let bytes: Vec<u8> = batch.iter().flat_map(|(body, _)| body.iter().copied()).collect();
        if offset + bytes.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        if file.write_all_at(&bytes, offset).and_then(|()| file.sync_data()).is_err() {
            // Nobody is answered what is not true.
            return;
        }
        offset += bytes.len() as u64;
        for (_, done) in batch {
            let _ = done.send(());
        }
    }
}
