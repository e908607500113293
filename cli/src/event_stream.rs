//! Server-sent events, as the HTML standard defines them, read from the pieces in which they arrive.

/// More than the largest line of a log takes, whatever is escaped in it.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `message` unless the server says otherwise.
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

/// Puts pieces together into events.
#[derive(Default)]
pub struct EventReader {
    pending: Vec<u8>,
    name: String,
    id: Option<String>,
    data: Option<String>,
    size: usize,
}

/// An event is larger than any that Drover sends.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

impl EventReader {
    /// Takes the next piece and answers the events that are complete with it.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLarge> {
        self.pending.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.pending[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.pending[start..start + length]).into_owned();
            start += length + 1;
            if let Some(event) = self.line(line.strip_suffix('\r').unwrap_or(&line)) {
                events.push(event);
            }
            if self.size > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
        }
        self.pending.drain(..start);
        if self.pending.len() > MAX_EVENT_BYTES { Err(TooLarge) } else { Ok(events) }
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.size = 0;
            let name = std::mem::take(&mut self.name);
            let (id, data) = (self.id.take(), self.data.take());
            let name = if name.is_empty() { "message".to_owned() } else { name };
            // An event without data is none, but for the end, which needs no more than its name.
            return (data.is_some() || name != "message").then(|| Event { name, id, data: data.unwrap_or_default() });
        }
        self.size += line.len();
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment (an empty field) keeps the connection alive; others mean nothing here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nid: 7\ndata: {\"a\":\ndata:  \"ö\"}\r\n\r\nretry: 5\nevent: end\n\n";

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let expected = [event("message", Some("7"), "{\"a\":\n \"ö\"}"), event("end", None, "")];
        for cut in 0..STREAM.len() {
            let mut reader = EventReader::default();
            let mut events = reader.push(&STREAM.as_bytes()[..cut]).expect("small events");
            events.extend(reader.push(&STREAM.as_bytes()[cut..]).expect("small events"));
            assert_eq!(events, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        assert_eq!(reader.push(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(TooLarge));
        let mut reader = EventReader::default();
        let line = format!("data: {}\n", "x".repeat(1024 * 1024)).into_bytes();
        assert!((0..5).any(|_| reader.push(&line).is_err()));
    }
}
