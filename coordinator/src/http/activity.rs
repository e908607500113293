//! What a connection is doing, so that nobody holds one for nothing: without asking, or without taking the answer.
//!
//! Long polls and streams are under way for as long as they like; it is the client's turn only while it has not begun
//! a request, or has not taken the part of an answer that was handed over last.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A client that does not take the next part of its answer in this time has gone.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// The requests of one connection.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    next_id: u64,
    /// Requests under way; with the time since when a part of the answer waits to be taken.
    under_way: Vec<(u64, Option<Instant>)>,
    idle_since: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(State { next_id: 0, under_way: Vec::new(), idle_since: Instant::now() }))
    }
}

impl Activity {
    /// A request has begun; it is under way until the ticket is dropped.
    pub fn begin(self: &Arc<Self>) -> Ticket {
        let mut state = self.0.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.under_way.push((id, None));
        Ticket { activity: Arc::clone(self), id }
    }

    /// Why the connection is not worth keeping, if it is not: idle for `idle_allowance`, or an answer is not taken.
    pub fn overdue(&self, idle_allowance: Duration) -> Option<&'static str> {
        let state = self.0.lock();
        if state.under_way.is_empty() {
            return (state.idle_since.elapsed() >= idle_allowance).then_some("it was idle");
        }
        let stuck = |(_, since): &(u64, Option<Instant>)| since.is_some_and(|since| since.elapsed() >= TAKE_TIMEOUT);
        state.under_way.iter().any(stuck).then_some("the client does not take its answer")
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Ticket {
    activity: Arc<Activity>,
    id: u64,
}

impl Ticket {
    /// Whether it is the client's turn, to take what was handed over.
    fn wait_for_client(&self, waiting: bool) {
        let mut state = self.activity.0.lock();
        if let Some((_, since)) = state.under_way.iter_mut().find(|(id, _)| *id == self.id) {
            *since = waiting.then(Instant::now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.activity.0.lock();
        state.under_way.retain(|(id, _)| *id != self.id);
        state.idle_since = Instant::now();
    }
}

/// The body of an answer, which notes whose turn it is.
pub struct Watched {
    pub body: Body,
    pub ticket: Ticket,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.ticket.wait_for_client(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ticket.wait_for_client(true);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const ALLOWANCE: Duration = Duration::from_secs(30);

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// Whoever asks nothing is idle from the beginning, and from the end of the last answer on.
    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_between_requests() {
        let activity = Arc::new(Activity::default());
        pass(29).await;
        assert_eq!(activity.overdue(ALLOWANCE), None);
        pass(1).await;
        assert_eq!(activity.overdue(ALLOWANCE), Some("it was idle"));
        let (first, second) = (activity.begin(), activity.begin());
        pass(3600).await;
        assert_eq!(activity.overdue(ALLOWANCE), None, "a long poll may take its time");
        drop(first);
        pass(3600).await;
        assert_eq!(activity.overdue(ALLOWANCE), None);
        drop(second);
        assert_eq!(activity.overdue(ALLOWANCE), None);
        pass(30).await;
        assert_eq!(activity.overdue(ALLOWANCE), Some("it was idle"));
    }

    /// A part that was handed over must be taken in time; while the coordinator itself has nothing, nobody is late.
    #[tokio::test(start_paused = true)]
    async fn an_answer_must_be_taken_part_by_part() {
        let activity = Arc::new(Activity::default());
        let (sender, pieces) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(pieces));
        let mut watched = Watched { body, ticket: activity.begin() };
        sender.send(Ok(Bytes::from_static(b"one"))).await.expect("there is room");
        watched.frame().await.expect("a part").expect("no error");
        pass(59).await;
        assert_eq!(activity.overdue(ALLOWANCE), None);
        assert!(futures::poll!(watched.frame()).is_pending());
        pass(3600).await;
        assert_eq!(activity.overdue(ALLOWANCE), None, "there is nothing to take");
        sender.send(Ok(Bytes::from_static(b"two"))).await.expect("there is room");
        watched.frame().await.expect("a part").expect("no error");
        pass(60).await;
        assert_eq!(activity.overdue(ALLOWANCE), Some("the client does not take its answer"));
    }
}
