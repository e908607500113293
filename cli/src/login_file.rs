//! The saved login: which coordinator, which key. One file that only this account may read.

use std::{fs, io, path::PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{error::Error, place};

/// What `drover login` leaves behind. Members that are not known are left alone by later versions too.
#[derive(Clone, Serialize, Deserialize)]
pub struct Login {
    pub server: Url,
    pub key: String,
}

/// Where the login is saved: `drover/login.toml` in this person's configuration folder.
pub fn path() -> Result<PathBuf, Error> {
    let strategy = choose_base_strategy()
        .map_err(|_| Error::Usage("this account has no home folder: give --server and --key".to_owned()))?;
    Ok(strategy.config_dir().join("drover").join("login.toml"))
}

/// The saved login, if there is one.
pub fn read() -> Result<Option<Login>, Error> {
    // Without a home folder nothing can have been saved.
    let Ok(path) = path() else { return Ok(None) };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    // The parser's message would quote the line, and with it perhaps the key.
    let login = toml::from_str(&text)
        .map_err(|_| Error::Usage(format!("{} is damaged: sign in again with 'drover login'", path.display())))?;
    Ok(Some(login))
}

/// Saves it, readable by this account only, whole or not at all.
pub fn write(login: &Login) -> Result<PathBuf, Error> {
    let path = path()?;
    let folder = path.parent().ok_or_else(|| Error::Usage("the configuration folder has no name".to_owned()))?;
    fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    let text = toml::to_string(login).map_err(|error| Error::Usage(format!("the login cannot be saved: {error}")))?;
    place::write_private(&path, &text)?;
    Ok(path)
}

/// Removes it; false if there was none.
pub fn remove() -> Result<bool, Error> {
    let path = path()?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}
