//! Signing in with a directory: somebody is looked up by login, and the password is tried by binding as them.

use std::{collections::HashMap, time::Duration};

use drover_protocol::session::SignInMethod;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, ldap_escape};

use super::{Admission, Known};
use crate::error::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(10);
/// What a directory answers to a wrong password (RFC 4511, 4.1.9).
const INVALID_CREDENTIALS: u32 = 49;

#[derive(Clone, Debug)]
pub struct Settings {
    pub url: String,
    pub start_tls: bool,
    pub bind_dn: String,
    pub bind_password: String,
    pub base_dn: String,
    /// `{login}` stands for the login.
    pub filter: String,
    pub name_attribute: String,
    pub email_attribute: String,
    pub groups_attribute: String,
    pub admission: Admission,
}

#[derive(Debug)]
pub struct Directory(Settings);

impl Directory {
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }

    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// Who this is, if the directory knows the login and the password is right.
    pub async fn recognise(&self, login: &str, password: &str) -> Result<Option<Known>> {
        // An empty password binds as nobody, and would be right for everybody (RFC 4513, 5.1.2).
        if login.is_empty() || password.is_empty() {
            return Ok(None);
        }
        let asking = tokio::time::timeout(TIMEOUT, self.ask(login, password));
        match asking.await {
            Ok(Ok(known)) => Ok(known),
            Ok(Err(error)) => Err(unavailable(&error.to_string())),
            Err(_) => Err(unavailable("it did not answer in time")),
        }
    }

    async fn connect(&self) -> std::result::Result<Ldap, LdapError> {
        let settings = LdapConnSettings::new().set_conn_timeout(TIMEOUT).set_starttls(self.0.start_tls);
        let (connection, ldap) = LdapConnAsync::with_settings(settings, &self.0.url).await?;
        // It ends with the last handle.
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "a connection to the directory ended");
            }
        });
        Ok(ldap)
    }

    async fn ask(&self, login: &str, password: &str) -> std::result::Result<Option<Known>, LdapError> {
        let mut ldap = self.connect().await?;
        if !self.0.bind_dn.is_empty() {
            ldap.simple_bind(&self.0.bind_dn, &self.0.bind_password).await?.success()?;
        }
        let filter = self.0.filter.replace("{login}", &ldap_escape(login));
        let wanted = [&self.0.name_attribute, &self.0.email_attribute, &self.0.groups_attribute];
        let (found, _) = ldap.search(&self.0.base_dn, Scope::Subtree, &filter, wanted.as_slice()).await?.success()?;
        // Where several would do, nobody is meant.
        let [entry] = <[_; 1]>::try_from(found).map_or([None], |[only]| [Some(only)]);
        let Some(entry) = entry.map(SearchEntry::construct) else {
            ldap.unbind().await?;
            return Ok(None);
        };
        let bound = ldap.simple_bind(&entry.dn, password).await?;
        ldap.unbind().await?;
        match bound.rc {
            0 => Ok(Some(self.known(login, entry.dn, entry.attrs))),
            INVALID_CREDENTIALS => Ok(None),
            _ => Err(bound.into()),
        }
    }

    fn known(&self, login: &str, dn: String, attributes: HashMap<String, Vec<String>>) -> Known {
        // Names of attributes are the same in capital letters.
        let values = |name: &str| {
            let found = attributes.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
            found.map(|(_, values)| values.clone()).unwrap_or_default()
        };
        let first = |name: &str| values(name).into_iter().next();
        let groups = values(&self.0.groups_attribute);
        let short = groups.iter().filter_map(|group| first_value(group)).collect::<Vec<_>>();
        Known {
            method: SignInMethod::Ldap,
            external_id: format!("ldap:{}", dn.to_lowercase()),
            login: login.to_owned(),
            name: first(&self.0.name_attribute).unwrap_or_default(),
            email: first(&self.0.email_attribute),
            groups: [groups, short].concat(),
        }
    }
}

/// The value of the first part of a name: `admins` of `cn=admins,ou=groups`.
fn first_value(dn: &str) -> Option<String> {
    let (first, _) = dn.split_once(',')?;
    first.split_once('=').map(|(_, value)| value.trim().to_owned())
}

fn unavailable(why: &str) -> Error {
    tracing::warn!(why, "the directory cannot be asked");
    Error::Unavailable("the directory cannot be asked now; try again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_its_first_value_as_well() {
        assert_eq!(first_value("cn=admins,ou=groups,dc=x").as_deref(), Some("admins"));
        assert_eq!(first_value("admins"), None);
    }
}
