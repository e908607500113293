//! Looks into the mailboxes of triggers, each at its time. A server that dawdles holds up nobody else.

use std::{collections::HashSet, panic::catch_unwind, sync::Arc, time::Duration};

use bytes::Bytes;
use drover_protocol::{
    AccountId, FileId, Timestamp, TriggerId,
    trigger::{ByMail, MailJobs},
};
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{measured, open_accounts};
use crate::{
    app::App,
    domain::{
        storage::StorageFolder,
        trigger::{
            Trigger,
            by_mail::{MailMark, fits},
            by_webhook::occasion_of,
        },
    },
    drafting,
    error::{Error, Result},
    mailbox::{Attachment, Dialer, Letter, Login, MAX_MAIL_BYTES, Mail, MailError, Mailbox, note_done},
    operations::{
        file::{self, Content, Described},
        garbage,
        trigger::by_mail,
        trigger_fire::{self, Occasion, Ready},
    },
    store::{Topic, blob::BlobName},
};

/// Mailboxes that are open at the same time.
const MAX_AT_ONCE: usize = 8;
/// A look that takes longer is given up; what it has fired for stays.
const LOOK_SECONDS: u64 = 300;
/// No mailbox is waited for longer than this without looking at the clock.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// The largest mail that is read on the thread where it came: there a small one takes less time than going to another.
const SMALL_BYTES: usize = 64 * 1024;

/// Looks that are under way.
struct Looks {
    dialer: Arc<dyn Dialer>,
    tasks: JoinSet<(AccountId, TriggerId)>,
    of: HashSet<(AccountId, TriggerId)>,
}

impl Looks {
    fn by(dialer: Arc<dyn Dialer>) -> Self {
        Self { dialer, tasks: JoinSet::new(), of: HashSet::new() }
    }

    /// Begins looks that are due, as far as there is room.
    fn begin(&mut self, app: &Arc<App>) -> Result<()> {
        for account in open_accounts(app)? {
            for id in app.db.read(account, |reading| by_mail::due(reading, 2 * MAX_AT_ONCE))? {
                if self.of.len() == MAX_AT_ONCE {
                    return Ok(());
                }
                if self.of.insert((account, id)) {
                    let (app, dialer) = (Arc::clone(app), Arc::clone(&self.dialer));
                    self.tasks.spawn(async move {
                        if let Err(error) = look(&app, &*dialer, account, id).await {
                            tracing::warn!(%error, trigger = %id, "a look into a mailbox could not be written down");
                            // It is due still, and must not be tried again at once.
                            tokio::time::sleep(Duration::from_secs(5)).await;
                        }
                        (account, id)
                    });
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of a look; for ever if there is none.
    async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(look)) => {
                self.of.remove(&look);
            }
            Some(Err(error)) => {
                tracing::error!(%error, "a look into a mailbox ended badly");
                // Whose that was is not known; what is due is found again.
                if self.tasks.is_empty() {
                    self.of.clear();
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Runs until the coordinator stops.
pub async fn run(app: Arc<App>, dialer: Arc<dyn Dialer>) {
    let mut looks = Looks::by(dialer);
    loop {
        let watch = app.db.watch(&[Topic::Mailboxes]);
        measured(&app, "mailboxes", async { looks.begin(&app) }).await;
        let sleep = match next(&app) {
            Some(at) if looks.of.is_empty() => at.since(app.db.now()).min(MAX_SLEEP),
            _ => MAX_SLEEP,
        };
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return,
            () = looks.ended() => {}
            () = watch.woken() => {}
            () = tokio::time::sleep(sleep.max(Duration::from_millis(10))) => {}
        }
    }
}

/// Looks into every mailbox that is due now, and waits for the end.
pub async fn pass(app: &Arc<App>, dialer: Arc<dyn Dialer>) -> Result<()> {
    let mut looks = Looks::by(dialer);
    looks.begin(app)?;
    while !looks.of.is_empty() {
        looks.ended().await;
    }
    Ok(())
}

fn next(app: &App) -> Option<Timestamp> {
    let accounts = open_accounts(app).ok()?;
    accounts.into_iter().filter_map(|account| app.db.read(account, |r| by_mail::next_due(r)).ok()?).min()
}

/// Why a look came to nothing.
enum Failure {
    /// For the person who has set the trigger up.
    Told(String),
    /// For the next try.
    Store(Error),
}

impl From<MailError> for Failure {
    fn from(error: MailError) -> Self {
        Self::Told(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match trigger_fire::cannot(error) {
            Ok(reason) => Self::Told(reason),
            Err(error) => Self::Store(error),
        }
    }
}

async fn look(app: &Arc<App>, dialer: &dyn Dialer, account: AccountId, id: TriggerId) -> Result<()> {
    let Some((trigger, mark, settings)) = app.db.read(account, |reading| by_mail::looking(reading, id))? else {
        return Ok(());
    };
    let mut looking = Looking { app, dialer, account, trigger: &trigger, settings: &settings, mark };
    let done = match tokio::time::timeout(Duration::from_secs(LOOK_SECONDS), looking.whole()).await {
        Ok(Ok(more)) => Ok(more),
        Ok(Err(Failure::Told(why))) => Err(why),
        Ok(Err(Failure::Store(error))) => return Err(error),
        Err(_) => Err(format!("the server was not done after {LOOK_SECONDS} s")),
    };
    let mark = looking.mark;
    app.db.write(account, move |tx| by_mail::end_look(tx, &mark, &settings, done)).await
}

/// Reads a mail as it was received; a large one on a thread where that holds nobody up. Whatever it is made of, it ends
/// nothing but itself.
async fn parsed(bytes: Vec<u8>) -> std::result::Result<Mail, MailError> {
    let unreadable = || Err(MailError("a mail cannot be read".to_owned()));
    let is_small = bytes.len() <= SMALL_BYTES;
    let parse = move || catch_unwind(|| Mail::parse(&bytes)).unwrap_or_else(|_| unreadable());
    if is_small {
        return parse();
    }
    tokio::task::spawn_blocking(parse).await.unwrap_or_else(|_| unreadable())
}

/// One look into one mailbox.
struct Looking<'a> {
    app: &'a Arc<App>,
    dialer: &'a dyn Dialer,
    account: AccountId,
    trigger: &'a Trigger,
    settings: &'a ByMail,
    mark: MailMark,
}

/// A mail that fits.
struct Fitting {
    letter: Letter,
    mail: std::result::Result<Mail, String>,
}

impl Looking<'_> {
    /// Gives whether there is more than one look sees.
    async fn whole(&mut self) -> std::result::Result<bool, Failure> {
        let secrets = Arc::clone(&self.app.secrets);
        let credential =
            self.app.db.read(self.account, |reading| by_mail::credential(reading, self.settings, &secrets))?;
        let credential = credential.map_err(Failure::Told)?;
        let login = Login { username: credential.username, password: credential.password };
        let mut mailbox = Mailbox::open(self.dialer, self.settings, &login).await?;
        drop(login);
        let news = mailbox.news(self.settings, &mut self.mark).await?;
        let done = match self.settings.jobs {
            MailJobs::PerMail => self.one_by_one(&mut mailbox, news.letters).await,
            MailJobs::PerLook => self.together(&mut mailbox, news.letters, news.more).await,
        };
        mailbox.close().await;
        done.map(|()| news.more)
    }

    /// The mail, if it fits. One that cannot be read fits: somebody has to know of it.
    async fn fitting(&self, mailbox: &mut Mailbox, letter: Letter) -> std::result::Result<Option<Fitting>, Failure> {
        if letter.size_bytes > MAX_MAIL_BYTES {
            let why = format!("a mail of {} bytes is over the limit of {MAX_MAIL_BYTES} bytes", letter.size_bytes);
            return Ok(Some(Fitting { letter, mail: Err(why) }));
        }
        let bytes = mailbox.read(&letter).await?;
        let mail = parsed(bytes).await;
        let fits = mail.as_ref().map_or(true, |mail| fits(self.settings, &mail.outline()));
        Ok(fits.then(|| Fitting { letter, mail: mail.map_err(|error| error.to_string()) }))
    }

    async fn one_by_one(&mut self, mailbox: &mut Mailbox, letters: Vec<Letter>) -> std::result::Result<(), Failure> {
        for letter in letters {
            let fitting = self.fitting(mailbox, letter.clone()).await?;
            note_done(&mut self.mark, self.settings, &letter);
            if let Some(fitting) = fitting {
                let occasion = self.occasion(&letter.name);
                let told = self.told(&fitting, &occasion).await?;
                let input = told.map(|mail| Map::from_iter([("mail".to_owned(), Value::Object(mail))]));
                self.fire(mailbox, &occasion, input, &[letter]).await?;
            }
        }
        Ok(())
    }

    async fn together(
        &mut self,
        mailbox: &mut Mailbox,
        letters: Vec<Letter>,
        more: bool,
    ) -> std::result::Result<(), Failure> {
        let mut fitting = Vec::new();
        for letter in &letters {
            fitting.extend(self.fitting(mailbox, letter.clone()).await?);
        }
        // With more than one look sees, those would never be reached if these had to wait.
        let fires = fitting.len() >= self.settings.threshold as usize || (more && !fitting.is_empty());
        if !fires && !fitting.is_empty() {
            return Ok(());
        }
        letters.iter().for_each(|letter| note_done(&mut self.mark, self.settings, letter));
        if !fires {
            return Ok(());
        }
        let names: Vec<&str> = fitting.iter().map(|one| one.letter.name.as_str()).collect();
        let occasion = self.occasion(&names.join("\n"));
        let mut mails = Vec::new();
        let mut input = Ok(());
        for one in &fitting {
            match self.told(one, &occasion).await? {
                Ok(mail) => mails.push(Value::Object(mail)),
                Err(why) => input = Err(why),
            }
        }
        let input = input.map(|()| Map::from_iter([("mails".to_owned(), Value::Array(mails))]));
        let letters: Vec<Letter> = fitting.into_iter().map(|one| one.letter).collect();
        self.fire(mailbox, &occasion, input, &letters).await
    }

    fn occasion(&self, names: &str) -> Uuid {
        let what = [self.mark.epoch.as_bytes().as_slice(), names.as_bytes()].concat();
        occasion_of(self.trigger.id, "mail", &what)
    }

    /// What the job is told of a mail, whose attachments are put away for it.
    async fn told(
        &self,
        fitting: &Fitting,
        occasion: &Uuid,
    ) -> std::result::Result<std::result::Result<Map<String, Value>, String>, Failure> {
        let mail = match &fitting.mail {
            Ok(mail) => mail,
            Err(why) => return Ok(Err(why.clone())),
        };
        let folder = match self.app.db.read(self.account, |reading| by_mail::folder(reading, self.settings))? {
            Ok(folder) => folder,
            Err(why) => return Ok(Err(why)),
        };
        let mut paths = Vec::new();
        if let Some(folder) = &folder {
            for (number, attachment) in mail.attachments.iter().enumerate() {
                // The same mail has the same paths however often it is put away.
                let place = format!("{occasion}/{}", fitting.letter.name.replace(['/', '\\', ' '], "-"));
                let path = format!("{place}/{}-{}", number + 1, attachment.name);
                match self.put(folder, &path, attachment).await {
                    Ok(()) => paths.push(path),
                    Err(Failure::Told(why)) => return Ok(Err(format!("an attachment cannot be put away: {why}"))),
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(Ok(mail.told(&fitting.letter.name, folder.as_ref().map(|folder| folder.name.as_str()), &paths)))
    }

    /// Keeps an attachment as a file.
    async fn put(
        &self,
        folder: &StorageFolder,
        path: &str,
        attachment: &Attachment,
    ) -> std::result::Result<(), Failure> {
        let app = self.app;
        let mut staging = app.blobs.stage(app.rules.limits.file_bytes).await?;
        staging.write(Bytes::copy_from_slice(&attachment.content)).await?;
        let staged = staging.finish().await?;
        let content = Content {
            id: FileId::from_uuid(app.db.new_id()),
            sha256: staged.sha256.clone(),
            size_bytes: staged.size_bytes,
        };
        let name = BlobName::file(content.id);
        let _arriving = app.blobs.arriving(&name).await;
        let noted = name.to_string();
        app.db.write(self.account, move |tx| garbage::announce(tx, noted)).await?;
        app.blobs.keep(staged, &name).await?;
        let described = Described { content_type: attachment.content_type.clone(), ..Described::default() };
        let (folder, path, by) = (folder.id, path.to_owned(), format!("trigger:{}", self.trigger.id));
        let put = app.db.write(self.account, move |tx| file::put_by(tx, &by, folder, &path, &content, &described));
        put.await?;
        Ok(())
    }

    /// Fires for mails that are done with, and marks them as read if that is wanted.
    async fn fire(
        &self,
        mailbox: &mut Mailbox,
        occasion: &Uuid,
        input: std::result::Result<Map<String, Value>, String>,
        letters: &[Letter],
    ) -> std::result::Result<(), Failure> {
        let ready = self.ready(input).await?;
        let why = match letters.len() {
            1 => "a mail has come".to_owned(),
            count => format!("{count} mails have come"),
        };
        let occasion = Occasion { id: Some(*occasion), why, comes_again: false, event_id: None, chain: 0 };
        let (mark, leases) = (self.mark.clone(), self.app.rules.leases);
        let fired =
            self.app.db.write(self.account, move |tx| by_mail::fire(tx, &mark, &occasion, &ready, &leases)).await?;
        if fired.is_some_and(|row| !row.job_ids.is_empty()) && self.settings.mark_as_read {
            for letter in letters {
                mailbox.mark_as_read(letter).await?;
            }
        }
        Ok(())
    }

    async fn ready(
        &self,
        input: std::result::Result<Map<String, Value>, String>,
    ) -> std::result::Result<Ready, Failure> {
        let input = match input {
            Ok(input) => input,
            Err(why) => return Ok(Err(why)),
        };
        let new = trigger_fire::request_with(self.trigger, input, self.app.db.now());
        let checked =
            drafting::checked(self.app, self.account, |reading| trigger_fire::draft(reading, self.trigger, &new)).await;
        match checked {
            Ok(checked) => Ok(Ok((new, checked))),
            Err(error) => match Failure::from(error) {
                Failure::Told(reason) => Ok(Err(reason)),
                failure => Err(failure),
            },
        }
    }
}
