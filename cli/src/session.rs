//! What every command works with: a client for the coordinator that was chosen, and the output.

use url::{Host, Url};

use crate::{
    args::Connection,
    client::Client,
    error::Error,
    login_file::{self, Login},
    output::Output,
};

pub struct Session {
    pub client: Client,
    pub out: Output,
    /// The saved login, if its key is the one in use: a new key must be saved there too.
    saved: Option<Login>,
}

impl Session {
    /// Chooses coordinator and key: arguments and environment first, then the saved login.
    pub fn open(connection: &Connection) -> Result<Self, Error> {
        let given = connection.server.as_deref().map(parse_server).transpose()?;
        let saved = if given.is_some() && connection.key.is_some() { None } else { login_file::read()? };
        let Some(server) = given.or_else(|| saved.as_ref().map(|login| login.server.clone())) else {
            return Err(Error::Usage(
                "no coordinator is chosen: use 'drover login', or give --server and --key, or DROVER_URL and DROVER_KEY"
                    .to_owned(),
            ));
        };
        // A saved key is for the coordinator that it was saved for, and must not be shown to another one.
        let saved = saved.filter(|login| login.server == server && connection.key.is_none());
        let key = connection.key.as_deref().or(saved.as_ref().map(|login| login.key.as_str()));
        let Some(key) = key else {
            return Err(Error::Usage(format!(
                "there is no key for {server}: use 'drover login', or give --key or DROVER_KEY"
            )));
        };
        Ok(Self { client: Client::new(server, Some(key.trim()))?, out: Output::new(connection.json), saved })
    }

    /// Says that the caller's own key is another one from now on. True if it has been saved.
    pub fn own_key_changed(&self, key: &str) -> Result<bool, Error> {
        let Some(login) = &self.saved else { return Ok(false) };
        login_file::write(&Login { key: key.to_owned(), ..login.clone() })?;
        Ok(true)
    }
}

/// The address of a coordinator as a person writes it: the scheme may be missing, `/api/v1` may be there.
pub fn parse_server(text: &str) -> Result<Url, Error> {
    let text = text.trim();
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let wrong = || Error::Usage(format!("\"{text}\" is not an address such as https://drover.example.com"));
    let mut url = Url::parse(&whole).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Usage("the address must not hold a name or password: give the key by --key".to_owned()));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix(drover_protocol::API_BASE).unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Whether everybody on the way can read what is sent there.
pub fn is_readable_on_the_way(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    url.scheme() == "http" && !loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:7070", "http://127.0.0.1:7070/"),
            ("https://drover.example.com/", "https://drover.example.com/"),
            ("https://example.com/drover/api/v1/", "https://example.com/drover"),
        ] {
            assert_eq!(parse_server(text).expect(text).as_str(), expected);
        }
        for text in ["", "ftp://host", "http://", "http://user:secret@host"] {
            assert!(parse_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_plain_http_to_other_hosts_is_readable_on_the_way() {
        let readable = |text: &str| is_readable_on_the_way(&parse_server(text).expect(text));
        assert!(readable("http://drover.example.com"));
        assert!(!readable("https://drover.example.com") && !readable("http://localhost:1") && !readable("[::1]:7070"));
    }
}
