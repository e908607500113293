//! `drover status`: which coordinator answers, and who is asking.

use drover_protocol::{account::Me, system::ServiceState};

use crate::{
    error::Error,
    output::{Shown, Tone, toned},
    session::Session,
};

pub async fn status(session: &Session) -> Result<(), Error> {
    let answer = session.client.get(&["account", "me"])?.send().await?;
    if session.out.raw(&answer)? {
        return Ok(());
    }
    let me: Me = answer.decode()?;
    session.out.fields(vec![
        ("coordinator", session.client.root().to_string().into()),
        ("state", service_state(session).await?),
        ("account", me.account.name.into()),
        ("signed in as", format!("{} ({})", me.name, me.kind).into()),
        ("roles", me.roles.join(", ").into()),
        ("key", me.key_id.to_string().into()),
        ("API documents", session.client.address(&["docs"])?.to_string().into()),
    ])
}

/// What the coordinator says of itself. That it is not ready is worth a line, not a failure of this command.
async fn service_state(session: &Session) -> Result<Shown, Error> {
    let state = match session.client.get_outside_api("readyz")?.send().await {
        Ok(answer) => answer.decode::<ServiceState>(),
        Err(error) => Err(error),
    };
    Ok(match state {
        Ok(state) => {
            let tone = if state.status == "ok" { Tone::Good } else { Tone::Warning };
            let detail = state.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            toned(format!("{}{detail} (version {})", state.status, state.version), tone)
        }
        Err(error) => toned(format!("not ready: {error}"), Tone::Bad),
    })
}
