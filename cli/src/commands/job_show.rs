//! What can be seen of a job: itself, why it waits, its attempts, its files, its result.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use drover_protocol::{
    job::{Attempt, Cause, Explanation, Job, JobError, Reason},
    page::Page,
    storage::StoredFile,
};

use crate::{
    client::Answer,
    commands::{ListArgs, MAX_PAGE, job::NOUN, list, process, target_in_words},
    error::Error,
    output::{
        Shown, Tone, duration_ms, job_state, labels, moment, moment_opt, note, number, outcome_tone, paint, size,
        toned, took,
    },
    session::Session,
    transfer,
};

#[derive(Args)]
pub struct DownloadArgs {
    /// Id of the job
    job: String,
    /// Which files (default: all)
    files: Vec<String>,
    /// Folder to put them into (default: one with the id of the job)
    #[arg(long, short)]
    dir: Option<PathBuf>,
}

pub async fn show(session: &Session, id: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, id])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let job: Job = answer.decode()?;
    let target = target_in_words(session, &job.target).await;
    let unfinished = job.outcome.is_none();
    let progress = job.progress.as_ref().filter(|_| unfinished).map(|progress| {
        let percent = progress.percent.map(|percent| format!("{percent:.0} % "));
        format!("{}{}", percent.unwrap_or_default(), progress.text.as_deref().unwrap_or_default())
    });
    let mut rows = vec![
        ("id", job.id.to_string().into()),
        ("process", process::of_job(&job).into()),
        ("state", job_state(&job)),
        ("progress", progress.unwrap_or_default().into()),
        ("target", target.into()),
        ("robot", job.robot_name.clone().unwrap_or_default().into()),
        ("attempt", job.attempt.to_string().into()),
        ("priority", job.priority.to_string().into()),
        ("labels", labels(&job.labels).into()),
        ("made", moment(job.created_at).into()),
        ("not before", moment_opt(job.not_before).into()),
        ("started", moment_opt(job.started_at).into()),
        ("finished", moment_opt(job.finished_at).into()),
        ("took", took(&job).into()),
    ];
    rows.extend(end_in_words(&job));
    rows.push(("input", job.input.as_ref().map(pretty).unwrap_or_default().into()));
    rows.push(("output", job.output.as_ref().map(pretty).unwrap_or_default().into()));
    session.out.fields(rows)
}

fn end_in_words(job: &Job) -> Vec<(&'static str, Shown)> {
    let exit = job.exit.as_ref().map(|exit| match (exit.code, exit.signal) {
        (Some(code), _) => format!("{code}: {}", exit.meaning),
        (None, Some(signal)) => format!("signal {signal}: {}", exit.meaning),
        (None, None) => exit.meaning.clone(),
    });
    let usage = job.usage.as_ref().map(|usage| {
        let memory = usage.peak_memory_bytes.map(|bytes| format!("{} memory at most", size(bytes)));
        let cpu = usage.cpu_time_ms.map(|ms| format!("{} of CPU", duration_ms(u128::from(ms))));
        [memory, cpu].into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    vec![
        ("cause", job.cause.as_ref().map(cause_in_words).unwrap_or_default().into()),
        ("error", job.error.as_ref().map(error_in_words).map_or(String::new().into(), |text| toned(text, Tone::Bad))),
        ("exit", exit.unwrap_or_default().into()),
        ("used", usage.unwrap_or_default().into()),
    ]
}

/// Who and why; the id of a person or trigger is left to `--json`.
fn cause_in_words(cause: &Cause) -> String {
    let by = cause.by.split(':').next().unwrap_or_default();
    format!("{by}: {}", cause.message)
}

fn error_in_words(error: &JobError) -> String {
    // The same words as in JSON.
    let kind = serde_json::to_value(error.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    let code = error.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
    format!("{}{code}: {}", kind.unwrap_or_default(), error.message)
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// How a job ended: outcome, cause, exit, output and files.
pub async fn result(session: &Session, job: &Job) -> Result<(), Error> {
    let outcome =
        job.outcome.map_or(("unfinished", Tone::Warning), |outcome| (outcome.as_str(), outcome_tone(outcome)));
    let robot = job.robot_name.as_ref().map(|robot| format!(" on {robot}")).unwrap_or_default();
    let duration =
        Some(took(job)).filter(|took| !took.is_empty()).map(|took| format!(" in {took}")).unwrap_or_default();
    session.out.line("")?;
    session.out.styled_line(&format!("{}{duration}{robot}", paint(outcome.0, outcome.1)))?;
    let mut rows: Vec<(&str, Shown)> = end_in_words(job);
    rows.push(("output", job.output.as_ref().map(pretty).unwrap_or_default().into()));
    let id = job.id.to_string();
    let (files, _) = files_of(session, &id).await?;
    let listed: Vec<String> = files.iter().map(|file| format!("{}  {}", file.path, size(file.size_bytes))).collect();
    rows.push(("artifacts", listed.join("\n").into()));
    session.out.fields(rows)?;
    if !files.is_empty() {
        note(&format!("Download them: drover job download {id}"));
    }
    Ok(())
}

pub async fn explain(session: &Session, id: &str) -> Result<(), Error> {
    let answer = session.client.get(&[NOUN, id, "explain"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let explanation: Explanation = answer.decode()?;
    session.out.line(&explanation.summary)?;
    for reason in &explanation.reasons {
        session.out.line(&format!("  {}", reason.text))?;
    }
    if explanation.candidates.is_empty() {
        return Ok(());
    }
    session.out.line("")?;
    let rows = explanation.candidates.into_iter().map(|candidate| {
        let suits = if candidate.suits { toned("yes", Tone::Good) } else { toned("no", Tone::Warning) };
        vec![candidate.robot.into(), suits, in_words(&candidate.reasons).into()]
    });
    session.out.table(&["ROBOT", "SUITS", "WHY"], rows.collect())
}

fn in_words(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.text.as_str()).collect::<Vec<_>>().join("; ")
}

pub async fn attempts(session: &Session, args: &ListArgs, id: &str) -> Result<(), Error> {
    let listed = list::<Attempt, _>(session, args, |session| session.client.get(&[NOUN, id, "attempts"])).await?;
    let Some(attempts) = listed else { return Ok(()) };
    if attempts.is_empty() {
        return session.out.line("No robot has got this job yet.");
    }
    let rows = attempts.into_iter().map(|attempt| {
        let outcome = match (attempt.outcome, attempt.ended_at) {
            (Some(outcome), _) => toned(outcome.as_str(), outcome_tone(outcome)),
            (None, Some(_)) => toned("not accepted", Tone::Warning),
            (None, None) => toned("under way", Tone::Plain),
        };
        let why = attempt.cause.as_ref().map(cause_in_words).unwrap_or_default();
        vec![
            attempt.attempt.to_string().into(),
            attempt.robot_name.into(),
            outcome,
            moment(attempt.assigned_at).into(),
            moment_opt(attempt.ended_at).into(),
            why.into(),
        ]
    });
    session.out.table(&["ATTEMPT", "ROBOT", "OUTCOME", "ASSIGNED", "ENDED", "WHY"], rows.collect())
}

/// The files of a job, and the pages in which they came.
async fn files_of(session: &Session, id: &str) -> Result<(Vec<StoredFile>, Vec<Answer>), Error> {
    let folder = format!("jobs/{id}");
    let (mut files, mut pages, mut cursor) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let call = session.client.get(&["storages", &folder, "files"])?.query("limit", MAX_PAGE);
        let answer = call.query_opt("cursor", cursor).send().await?;
        let page: Page<StoredFile> = answer.decode()?;
        files.extend(page.items);
        pages.push(answer);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok((files, pages));
        }
    }
}

/// With `--json` prints the pages as they came, one per line, and is true.
fn raw_pages(session: &Session, pages: &[Answer]) -> Result<bool, Error> {
    for page in pages {
        session.out.raw(page)?;
    }
    Ok(session.out.is_json())
}

pub async fn artifacts(session: &Session, id: &str) -> Result<(), Error> {
    let (files, pages) = files_of(session, id).await?;
    if raw_pages(session, &pages)? {
        return Ok(());
    }
    if files.is_empty() {
        return session.out.line("This job has left no files (so far).");
    }
    let rows = files.into_iter().map(|file| {
        vec![file.path.into(), number(size(file.size_bytes)), file.content_type.into(), file.sha256.into()]
    });
    session.out.table(&["FILE", "SIZE", "TYPE", "SHA-256"], rows.collect())
}

pub async fn download(session: &Session, args: DownloadArgs) -> Result<(), Error> {
    let (files, pages) = files_of(session, &args.job).await?;
    if let Some(missing) = args.files.iter().find(|name| files.iter().all(|file| file.path != **name)) {
        return Err(Error::Usage(format!("job {} has no file {missing}; see 'drover job artifacts'", args.job)));
    }
    let folder = args.dir.unwrap_or_else(|| PathBuf::from(&args.job));
    let wanted = files.iter().filter(|file| args.files.is_empty() || args.files.contains(&file.path));
    let mut count = 0;
    for file in wanted {
        let target = folder.join(safe_path(&file.path)?);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
        }
        let storage = format!("jobs/{}", args.job);
        let path: Vec<&str> = ["storages", &storage, "files"].into_iter().chain(file.path.split('/')).collect();
        transfer::download("downloading", || session.client.get(&path), &target, Some(&file.sha256)).await?;
        if !session.out.is_json() {
            session.out.line(&target.display().to_string())?;
        }
        count += 1;
    }
    if !raw_pages(session, &pages)? && count == 0 {
        session.out.line("This job has left no files (so far).")?;
    }
    Ok(())
}

/// The path of a file within the folder, refused if it would lead out of it.
fn safe_path(path: &str) -> Result<&Path, Error> {
    let relative = Path::new(path);
    if relative.components().all(|part| matches!(part, Component::Normal(_))) && !path.is_empty() {
        Ok(relative)
    } else {
        Err(Error::Answer(format!("the file name {path:?} would lead out of the folder")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_never_lead_out_of_the_folder() {
        assert!(safe_path("deep/отчёт & 1.html").is_ok());
        for path in ["", "../x", "/etc/passwd", "a/../../x", "./x"] {
            assert!(safe_path(path).is_err(), "{path}");
        }
    }
}
