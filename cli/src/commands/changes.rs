//! `drover events`: follows the changes of objects as they happen.

use std::time::Duration;

use clap::Args as ClapArgs;
use drover_protocol::change::ObjectChange;
use futures::StreamExt;

use crate::{
    client::reason,
    commands::logs::broken,
    decode::decode,
    error::Error,
    event_stream::{Event, EventReader},
    output::{moment, note, printable},
    session::Session,
};

#[derive(ClapArgs)]
pub struct EventsArgs {
    /// Only changes of this kind of objects, such as job (repeatable)
    #[arg(long = "noun", value_name = "NOUN")]
    nouns: Vec<String>,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How soon a stream that has ended is opened again, and how often in vain.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_FAILURES: u32 = 120;

pub async fn follow(session: &Session, args: EventsArgs) -> Result<(), Error> {
    let mut follower = Follower { session, args, last: None, seen: 0 };
    let mut failures = 0;
    loop {
        let seen = follower.last.clone();
        match follower.stream().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error @ (Error::Network(_) | Error::Answer(_))) if follower.last.is_some() => {
                failures = if follower.last == seen { failures + 1 } else { 1 };
                if failures > MAX_FAILURES {
                    return Err(error);
                }
                note(&format!("{error} Trying again."));
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Follower<'a> {
    session: &'a Session,
    args: EventsArgs,
    last: Option<String>,
    seen: u64,
}

impl Follower<'_> {
    /// One connection; `true` when enough has been shown.
    async fn stream(&mut self) -> Result<bool, Error> {
        let mut call = self.session.client.get(&["events"])?.accept("text/event-stream");
        for noun in &self.args.nouns {
            call = call.query("noun", noun);
        }
        let response = call.last_event_id(self.last.as_ref()).open().await?;
        let mut pieces = response.bytes_stream();
        let mut reader = EventReader::default();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| broken(self.session, &reason(&error)))?;
            for event in reader.push(&piece).map_err(|_| Error::Answer("an event is too large".to_owned()))? {
                if self.show(&event)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn show(&mut self, event: &Event) -> Result<bool, Error> {
        self.last = event.id.clone().or(self.last.take());
        match event.name.as_str() {
            "message" => {}
            "reset" => {
                note("Some changes were missed; what is shown goes on from here.");
                return Ok(false);
            }
            _ => return Ok(false),
        }
        let out = &self.session.out;
        if out.is_json() {
            out.line(&event.data)?;
        } else {
            let change: ObjectChange = decode(event.data.as_bytes())?;
            let name = change.name.as_deref().unwrap_or_default();
            out.line(&format!("{}  {:<22} {}  {}", moment(change.at), change.kind, change.id, printable(name)))?;
        }
        self.seen += 1;
        Ok(self.args.count == Some(self.seen))
    }
}
