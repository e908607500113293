//! Sees every commit as far as it is about files, and says when something has happened that must not. The rules are written
//! here once more, from the product's promises and not from its code.

use std::collections::{BTreeMap, BTreeSet};

use drover_coordinator::{
    domain::{audit, audit::Act, file::File, storage::StorageFolder},
    store::{
        Reader,
        blob::{BlobName, Blobs},
        engine::WriteSet,
        key::Kind,
        table,
    },
};
use drover_protocol::{FileId, FolderId};
use futures::FutureExt;
use sha2::{Digest, Sha256};
use uuid::Uuid;

type Verdict = Result<(), String>;

macro_rules! hold {
    ($holds:expr, $($text:tt)+) => { if !$holds { return Err(format!($($text)+)); } };
}

/// Where a file lies: key of its folder, path.
pub type Place = (String, String);

/// What is known of a content by everybody who has it.
pub fn digest_of(content: &[u8]) -> String {
    audit::hex(&Sha256::digest(content).into())
}

/// Every file that is there, and what lay where before.
pub struct FileWitness {
    /// The content as it is, without any fault.
    kept: Blobs,
    folders: BTreeMap<FolderId, StorageFolder>,
    files: BTreeMap<FileId, File>,
    places: BTreeMap<Place, FileId>,
    /// What lies at a place from which commit on: its digest.
    past: BTreeMap<Place, Vec<(u64, Option<String>)>>,
    /// Files of which the trail of audit says that people have written them, with their digests.
    written: BTreeSet<(String, String)>,
    /// Digests of what somebody has sent as a whole.
    sent: BTreeSet<String>,
    /// Places from which somebody has asked to delete or move what is there.
    leaving: BTreeSet<Place>,
    reached: BTreeSet<String>,
}

impl FileWitness {
    pub fn new(kept: Blobs) -> Self {
        Self {
            kept,
            folders: BTreeMap::new(),
            files: BTreeMap::new(),
            places: BTreeMap::new(),
            past: BTreeMap::new(),
            written: BTreeSet::new(),
            sent: BTreeSet::new(),
            leaving: BTreeSet::new(),
            reached: BTreeSet::new(),
        }
    }

    /// Somebody sends this whole content from now on.
    pub fn note_sent(&mut self, content: &[u8]) {
        self.sent.insert(digest_of(content));
    }

    /// Somebody asks from now on that what lies there goes away.
    pub fn note_leaving(&mut self, place: Place) {
        self.leaving.insert(place);
    }

    /// What has come about at all since this was asked last.
    pub fn take_reached(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.reached)
    }

    /// The folder that people made under this name.
    pub fn folder(&self, name: &str) -> Option<&StorageFolder> {
        self.folders.values().find(|folder| folder.name == name)
    }

    /// Files in folders that people made.
    pub fn in_folders(&self) -> impl Iterator<Item = (&StorageFolder, &File)> {
        let folder = |file: &File| file.made_folder().and_then(|id| self.folders.get(&id));
        self.files.values().filter_map(move |file| Some((folder(file)?, file)))
    }

    pub fn folders(&self) -> impl Iterator<Item = &StorageFolder> {
        self.folders.values()
    }

    /// Whether the file is said to have been written by people, with this content.
    pub fn was_written(&self, id: FileId, digest: &str) -> bool {
        self.written.contains(&(id.to_string(), digest.to_owned()))
    }

    /// Whether this, or nothing, lay at the place at some time since a commit.
    pub fn lay_there_since(&self, commit: u64, place: &Place, digest: Option<&str>) -> bool {
        let past = self.past.get(place).map_or(&[][..], Vec::as_slice);
        let first = past.iter().rposition(|(at, _)| *at <= commit);
        let nothing_before = first.is_none() && digest.is_none();
        nothing_before || past[first.unwrap_or(0)..].iter().any(|(_, lay)| lay.as_deref() == digest)
    }

    /// Looks at a commit that has just been made; `commit` is its number.
    pub fn judge(&mut self, reading: &Reader, written: &WriteSet, commit: u64) -> Verdict {
        let broken = |error: drover_coordinator::error::Error| error.to_string();
        let mut changed: Vec<(FileId, Option<File>)> = Vec::new();
        let mut touched: BTreeSet<String> = BTreeSet::new();
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for (key, value) in written {
            let id = || Uuid::from_slice(&key[18..34]).expect("a key with an id");
            match Kind::of(key) {
                Some(Kind::File) => {
                    let id = FileId::from_uuid(id());
                    changed.push((id, table::find(reading, id).map_err(broken)?));
                }
                Some(Kind::StorageFolder) => {
                    let folder: Option<StorageFolder> =
                        table::find(reading, FolderId::from_uuid(id())).map_err(broken)?;
                    touched.extend(folder.iter().map(StorageFolder::key));
                    self.folders.extend(folder.map(|folder| (folder.id, folder)));
                }
                Some(Kind::Audit) if value.is_some() => {
                    let seq = u64::from_be_bytes(key[18..26].try_into().expect("a number in a key"));
                    let act: Act = table::get(reading, seq).map_err(broken)?;
                    gone.extend(self.read_act(&act));
                }
                _ => {}
            }
        }
        for (id, after) in &changed {
            self.judge_file(*id, after.as_ref())?;
            touched.extend(after.iter().map(|file| file.folder.clone()));
        }
        let left = self.remember(changed);
        touched.extend(left.iter().map(|file| file.folder.clone()));
        for file in left.iter().filter(|file| file.made_folder().is_some()) {
            let place = (file.folder.clone(), file.path.clone());
            let asked = gone.contains(&file.id.to_string()) && self.leaving.contains(&place);
            hold!(asked || self.places.contains_key(&place), "the file {} at {place:?} was lost", file.id);
        }
        touched.iter().for_each(|folder| self.write_past(folder, commit));
        touched.iter().try_for_each(|folder| self.judge_folder(folder))
    }

    /// Notes what people have done to a file; gives its id if it is not any more where it was.
    fn read_act(&mut self, act: &Act) -> Option<String> {
        let record = act.record().filter(|record| record.noun == "file")?;
        self.reached.insert(format!("file {}", record.verb));
        if matches!(record.verb.as_str(), "delete" | "move") {
            return Some(record.object);
        }
        let digest = record.after?["sha256"].as_str()?.to_owned();
        self.written.insert((record.object, digest));
        None
    }

    /// A file has the content that its record says, the whole of what somebody has sent.
    fn judge_file(&self, id: FileId, after: Option<&File>) -> Verdict {
        let Some(after) = after else { return Ok(()) };
        if let Some(before) = self.files.get(&id) {
            let same = (&before.sha256, before.content_id()) == (&after.sha256, after.content_id());
            hold!(same, "the content of the file {id} was changed under its id");
            return Ok(());
        }
        hold!(self.sent.contains(&after.sha256), "nobody has sent what the file {id} at {} is to be", after.path);
        let name = BlobName::file(after.content_id());
        let content = self.kept.read_all(&name).now_or_never().expect("memory is read at once");
        let Ok(content) = content else { return Err(format!("the file {id} was written and has no content yet")) };
        let fits = content.len() as u64 == after.size_bytes && digest_of(&content) == after.sha256;
        hold!(fits, "the content of the file {id} is not what its record says");
        Ok(())
    }

    /// Takes over what the commit has changed; gives files that were, at least where they were, and are no more.
    fn remember(&mut self, changed: Vec<(FileId, Option<File>)>) -> Vec<File> {
        let mut left = Vec::new();
        for (id, after) in &changed {
            let before = match after {
                Some(file) => self.files.insert(*id, file.clone()),
                None => self.files.remove(id),
            };
            let place = |file: &File| (file.folder.clone(), file.path.clone());
            if let Some(before) = before.filter(|before| after.as_ref().map(place) != Some(place(before))) {
                self.places.remove(&place(&before));
                left.push(before);
            }
        }
        for file in changed.into_iter().filter_map(|(_, after)| after) {
            self.places.insert((file.folder, file.path), file.id);
        }
        left
    }

    fn write_past(&mut self, folder: &str, commit: u64) {
        let places = self.places.keys().chain(self.past.keys()).filter(|place| place.0 == folder);
        let places: BTreeSet<Place> = places.cloned().collect();
        for place in places {
            let lies = self.places.get(&place).map(|id| self.files[id].sha256.clone());
            let past = self.past.entry(place).or_default();
            if past.last().and_then(|(_, lay)| lay.clone()) != lies {
                past.push((commit, lies));
            }
        }
    }

    /// The figures of a folder are those of its files, and within its quota.
    fn judge_folder(&self, key: &str) -> Verdict {
        let Some(folder) = self.folders.values().find(|folder| folder.key() == key) else { return Ok(()) };
        let files = || self.files.values().filter(|file| file.folder == key);
        let figures = (files().count() as u64, files().map(|file| file.size_bytes).sum::<u64>());
        let said = (folder.file_count, folder.used_bytes);
        hold!(said == figures, "the folder {} says {said:?} files and bytes of {figures:?}", folder.name);
        let quota = folder.quota_bytes.unwrap_or(u64::MAX);
        hold!(folder.used_bytes <= quota, "the folder {} has more than its quota: {said:?}", folder.name);
        Ok(())
    }
}
