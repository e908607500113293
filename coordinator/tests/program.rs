//! The program itself, as an operator meets it: started, stopped in order and killed, with good settings and bad ones,
//! backed up and restored.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

const KEY: &str = "OTFiMmE3YzQtN2QzZS00ZjVhLThiNmMtMWQyZTNmNGE1YjZj";
const LIMIT: Duration = Duration::from_secs(60);

/// A coordinator that runs; it is killed when it goes out of scope.
struct Coordinator {
    child: Child,
    url: String,
    /// What it says after it has said where it listens.
    log: Arc<Mutex<String>>,
}

fn program(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover-coordinator"));
    command
        .env("DROVER_STORE__PATH", store)
        .env("DROVER_STORE__SEGMENT_MIB", "2")
        .env("DROVER_HTTP__LISTEN", "127.0.0.1:0")
        .env("DROVER_LOG__FORMAT", "json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Coordinator {
    /// Starts it, and reads from its own log where it listens.
    fn start(store: &Path) -> Self {
        Self::start_by(&mut program(store))
    }

    fn start_by(command: &mut Command) -> Self {
        let mut child = command.env("DROVER_BOOTSTRAP__API_KEY", KEY).arg("run").spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log is read")).lines();
        let address = lines
            .by_ref()
            .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("a log of JSON has JSON lines"))
            .find_map(|line| line["fields"]["address"].as_str().map(str::to_owned))
            .expect("it says where it listens");
        let log = Arc::<Mutex<String>>::default();
        let said = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| *said.lock().expect("a log") += &line.unwrap_or_default()));
        Self { child, url: format!("http://{address}"), log }
    }

    /// Waits until it says this in its log.
    async fn says(&self, text: &str) {
        let said = async {
            while !self.log.lock().expect("a log").contains(text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, said).await.unwrap_or_else(|_| panic!("it does not say: {text}"));
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: the process is our own child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(started.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as(KEY, method, path, body).await
    }

    async fn call_as(&self, key: &str, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let method = method.parse().expect("a method");
        let request = client().request(method, format!("{}{path}", self.url)).bearer_auth(key);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One for all calls: making one takes longer than most of them. Each call has a connection of its own, for the coordinator
/// it was kept to may have been killed.
fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> =
        LazyLock::new(|| Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client"));
    &CLIENT
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn make_process(coordinator: &Coordinator, name: &str) {
    let (status, body) = coordinator.call("POST", "/api/v1/processes", json!({"name": name})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

async fn names_of_processes(coordinator: &Coordinator) -> Vec<String> {
    let (status, body) = coordinator.call("GET", "/api/v1/processes?limit=1000", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let names = body["items"].as_array().expect("a list").iter();
    let mut names: Vec<String> = names.map(|item| item["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// Joins a robot by hand; gives its key.
async fn join(coordinator: &Coordinator) -> String {
    let (_, token) = coordinator.call("POST", "/api/v1/join-tokens", json!({})).await;
    let request = json!({"token": token["token"], "machine_id": "m", "host": {"hostname": "h", "os": "linux"}});
    let (status, joined) = coordinator.call("POST", "/api/v1/agent/join", request).await;
    assert_eq!(status, StatusCode::CREATED, "{joined}");
    joined["key"].as_str().expect("a key").to_owned()
}

/// A certificate for 127.0.0.1, signed by itself, put where the program reads it.
fn put_certificate(folder: &Path) -> reqwest::Certificate {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("written");
    reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("it is in PEM form")
}

/// A new client, which knows no session of before and so has to look at the certificate; it trusts this one alone.
fn trusting(certificate: &reqwest::Certificate) -> Client {
    Client::builder().no_proxy().tls_certs_only([certificate.clone()]).build().expect("a client")
}

fn encrypted_program(store: &Path, files: &Path) -> Command {
    let mut command = program(store);
    command
        .env("DROVER_HTTP__CERTIFICATE_FILE", files.join("certificate.pem"))
        .env("DROVER_HTTP__CERTIFICATE_KEY_FILE", files.join("key.pem"));
    command
}

async fn is_ready(client: &Client, address: &str) -> bool {
    let answer = client.get(format!("{address}/readyz")).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

/// With a certificate all connections are encrypted and plain ones are not served. A new certificate counts within seconds
/// without a restart, and files that are broken meanwhile change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_and_a_new_certificate_counts_without_a_restart() {
    let (store, files) = (folder(), folder());
    let first = put_certificate(files.path());
    let coordinator = Coordinator::start_by(&mut encrypted_program(store.path(), files.path()));
    let encrypted = coordinator.url.replace("http://", "https://");
    assert!(is_ready(&trusting(&first), &encrypted).await);
    assert!(!is_ready(client(), &coordinator.url).await, "plain HTTP is served");

    std::fs::write(files.path().join("key.pem"), "nothing of use").expect("written");
    coordinator.says("the new certificate cannot be used").await;
    assert!(is_ready(&trusting(&first), &encrypted).await, "a broken file took the certificate away");

    let second = put_certificate(files.path());
    tokio::time::timeout(LIMIT, async {
        while !is_ready(&trusting(&second), &encrypted).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the new certificate counts");
    assert!(!is_ready(&trusting(&first), &encrypted).await, "the old certificate is still in use");
}

/// Over the coordinator's own TLS the cookie of a session is for TLS alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_of_an_encrypted_session_is_sent_over_nothing_else() {
    const PASSWORD: &str = "a password for tests";
    let (store, files) = (folder(), folder());
    let certificate = put_certificate(files.path());
    let mut command = encrypted_program(store.path(), files.path());
    let coordinator = Coordinator::start_by(command.env("DROVER_BOOTSTRAP__PASSWORD", PASSWORD));
    let url = format!("{}/api/v1/session", coordinator.url.replace("http://", "https://"));
    let request = trusting(&certificate).post(url).json(&json!({ "login": "admin", "password": PASSWORD }));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
}

/// A key that is not the certificate's is said at the start, without a word of the key.
#[test]
fn a_certificate_that_cannot_be_used_is_said_at_the_start() {
    let (store, files, other) = (folder(), folder(), folder());
    put_certificate(files.path());
    put_certificate(other.path());
    std::fs::copy(other.path().join("key.pem"), files.path().join("key.pem")).expect("copied");
    let (ended_well, _, told) = run(encrypted_program(store.path(), files.path()).arg("run"));
    assert!(!ended_well);
    assert!(told.contains("does not belong to the first certificate"), "{told}");
    let key = std::fs::read_to_string(files.path().join("key.pem")).expect("read");
    assert!(key.lines().skip(1).all(|line| !told.contains(line) || line.starts_with("-----")), "{told}");
}

/// SIGTERM answers long polls and streams instead of cutting them, and ends with 0 although they were open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_answers_those_who_wait() {
    let folder = folder();
    let mut coordinator = Coordinator::start(folder.path());
    let key = join(&coordinator).await;
    let url = format!("{}/api/v1/agent/next", coordinator.url);
    let poll = client().post(url).bearer_auth(key).json(&json!({"free": 1, "wait_seconds": 60})).send();
    let poll = tokio::spawn(poll);
    tokio::time::timeout(LIMIT, async {
        while !is_under_way(&coordinator, "/api/v1/agent/next").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the poll arrives");
    coordinator.signal(libc::SIGTERM);
    let answer = tokio::time::timeout(LIMIT, poll).await.expect("the poll ends").expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert!(coordinator.wait().success());
}

/// Whether the coordinator has a request for this route that it has not answered yet, by its own figures.
async fn is_under_way(coordinator: &Coordinator, route: &str) -> bool {
    let figures = client().get(format!("{}/metrics", coordinator.url)).send().await.expect("an answer");
    let figures = figures.text().await.expect("text");
    let begin = format!("drover_http_requests_under_way{{method=\"POST\",route=\"{route}\"}} ");
    figures.lines().any(|line| line.strip_prefix(&begin) == Some("1"))
}

/// What was answered is there after kill -9, and after a clean end as well; the key given at the first start stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill() {
    let folder = folder();
    let mut coordinator = Coordinator::start(folder.path());
    for name in ["a", "b"] {
        make_process(&coordinator, name).await;
    }
    coordinator.signal(libc::SIGKILL);
    coordinator.wait();
    let mut coordinator = Coordinator::start(folder.path());
    assert_eq!(names_of_processes(&coordinator).await, ["a", "b"]);
    make_process(&coordinator, "c").await;
    coordinator.signal(libc::SIGINT);
    assert!(coordinator.wait().success());
    let coordinator = Coordinator::start(folder.path());
    assert_eq!(names_of_processes(&coordinator).await, ["a", "b", "c"]);
}

fn run(command: &mut Command) -> (bool, String, String) {
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// A backup of the running coordinator becomes a second one that knows the same, with the key file put beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_a_coordinator() {
    let (first, second) = (folder(), folder());
    let coordinator = Coordinator::start(first.path());
    make_process(&coordinator, "Счета & Co").await;
    let url = format!("{}/api/v1/system/backup", coordinator.url);
    let answer = client().get(url).bearer_auth(KEY).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let backup = first.path().join("backup.tar");
    std::fs::write(&backup, answer.bytes().await.expect("the whole backup")).expect("it is kept");
    let target = second.path().join("store");

    let (good, text, errors) = run(program(&target).args(["restore", "--verify", "--from"]).arg(&backup));
    assert!(good, "{text}{errors}");
    assert!(!target.exists(), "verifying leaves nothing");
    let (good, text, errors) = run(program(&target).args(["restore", "--from"]).arg(&backup));
    assert!(good, "{text}{errors}");
    let (good, _, errors) = run(program(&target).arg("run"));
    assert!(!good && errors.contains("secrets.key"), "without its key file it refuses: {errors}");
    std::fs::copy(first.path().join("secrets.key"), target.join("secrets.key")).expect("the key file");
    let restored = Coordinator::start(&target);
    assert_eq!(names_of_processes(&restored).await, ["Счета & Co"]);
    drop(restored);
    let (good, text, errors) = run(program(&target).arg("check"));
    assert!(good, "{text}{errors}");
}

/// Bytes that must not be readable in any file below a folder.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files_with(&entry, needle));
        } else if std::fs::read(&entry).expect("a file").windows(needle.len()).any(|window| window == needle) {
            found.push(entry);
        }
    }
    found
}

const SECRETS: usize = 300;

fn secret(number: usize) -> String {
    format!("correct-horse-battery-{number}-{}", "s".repeat(500))
}

async fn read_secrets(coordinator: &Coordinator) {
    for number in 0..SECRETS {
        let (status, body) = coordinator.call("GET", &format!("/api/v1/resources/s{number}/value"), Value::Null).await;
        assert_eq!((status, body["value"].as_str()), (StatusCode::OK, Some(secret(number).as_str())), "{body}");
    }
}

/// The sealing key is changed while the coordinator stands still. Killed half-way, nothing is lost: it starts, and the
/// change is ended by calling it again. Nowhere on the disk nor in a backup is a secret readable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sealing_key_is_changed_and_nothing_is_lost() {
    let folder = folder();
    let key_file = folder.path().join("secrets.key");
    let length = || std::fs::read(&key_file).expect("the key file").len();
    let mut coordinator = Coordinator::start(folder.path());
    for number in 0..SECRETS {
        let new = json!({"name": format!("s{number}"), "kind": "secret", "value": secret(number)});
        let (status, body) = coordinator.call("POST", "/api/v1/resources", new).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    let url = format!("{}/api/v1/system/backup", coordinator.url);
    let backup = client().get(url).bearer_auth(KEY).send().await.expect("an answer").bytes().await.expect("a backup");
    let backup_file = folder.path().join("backup.tar");
    std::fs::write(&backup_file, &backup).expect("it is kept");
    coordinator.signal(libc::SIGTERM);
    assert!(coordinator.wait().success());
    assert_eq!(files_with(folder.path(), b"correct-horse-battery"), Vec::<std::path::PathBuf>::new());
    let first = std::fs::read(&key_file).expect("the key file");
    assert_eq!(first.len(), 32);

    let mut child = program(folder.path()).arg("rotate-key").spawn().expect("it starts");
    let started = Instant::now();
    while length() == 32 {
        assert!(started.elapsed() < LIMIT, "it does not begin");
        std::thread::yield_now();
    }
    child.kill().expect("it is killed");
    child.wait().expect("it has ended");
    assert!([64, 96].contains(&length()));
    let mut coordinator = Coordinator::start(folder.path());
    read_secrets(&coordinator).await;
    coordinator.signal(libc::SIGTERM);
    assert!(coordinator.wait().success());

    let (good, text, errors) = run(program(folder.path()).arg("rotate-key"));
    assert!(good, "{text}{errors}");
    assert_eq!(length(), 64);
    let coordinator = Coordinator::start(folder.path());
    read_secrets(&coordinator).await;
    drop(coordinator);
    let (good, text, errors) = run(program(folder.path()).arg("check"));
    assert!(good, "{text}{errors}");
    // The key file of before is refused by name, instead of being found out with the first secret.
    let new = std::fs::read(&key_file).expect("the key file");
    std::fs::write(&key_file, first).expect("it is put back");
    let (good, _, errors) = run(program(folder.path()).arg("run"));
    assert!(!good && errors.contains("of another time"), "{errors}");
    std::fs::write(&key_file, new).expect("it is put back");
    read_secrets(&Coordinator::start(folder.path())).await;
}

/// The first start shows the administrator's key once, on standard output and not in the log; `new-key` replaces it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_key_is_shown_once_and_can_be_replaced() {
    let folder = folder();
    let mut child = program(folder.path()).arg("run").spawn().expect("it starts");
    let mut shown = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("its output is read"));
    while !shown.contains("/docs") {
        assert_ne!(out.read_line(&mut shown).expect("text"), 0, "it ended: {shown}");
    }
    let key = shown.lines().map(str::trim).find(|line| line.len() == 48).expect("a key stands on a line").to_owned();
    child.kill().expect("it is killed");
    let mut log = String::new();
    child.stderr.take().expect("its log is read").read_to_string(&mut log).expect("text");
    child.wait().expect("it has ended");
    assert!(!log.contains(&key), "the key is in the log");

    let (good, replaced, errors) = run(program(folder.path()).arg("new-key"));
    assert!(good, "{errors}");
    let new = replaced.lines().map(str::trim).find(|line| line.len() == 48).expect("a key stands on a line");
    let coordinator = Coordinator::start(folder.path());
    let me = "/api/v1/account/me";
    assert_eq!(coordinator.call_as(&key, "GET", me, Value::Null).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(coordinator.call_as(new, "GET", me, Value::Null).await.1["name"], "admin");
}

/// What cannot work is refused with the reason before anything is touched.
#[test]
fn bad_settings_are_named() {
    let folder = folder();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[http]\nlisten_on = \"x\"\n").expect("a file");
    let (good, _, errors) = run(program(folder.path()).args(["check-config", "--config"]).arg(&file));
    assert!(!good && errors.contains("did you mean listen"), "{errors}");
    let (good, _, errors) = run(program(folder.path()).env("DROVER_STORE__ENGINE", "tape").arg("run"));
    assert!(!good && errors.contains("tape"), "{errors}");
    let (good, _, errors) = run(program(folder.path()).env("DROVER_HTTP__LISTEN", "nowhere").arg("run"));
    assert!(!good && errors.contains("http.listen"), "{errors}");
    let (good, printed, _) =
        run(program(folder.path()).env("DROVER_BOOTSTRAP__PASSWORD", "hidden-password").arg("--print-config"));
    assert!(good && printed.contains("lost_after_seconds = 300") && !printed.contains("hidden-password"), "{printed}");
    let mut with_certificate = program(folder.path());
    with_certificate
        .env("DROVER_HTTP__CERTIFICATE_FILE", "/none.pem")
        .env("DROVER_HTTP__CERTIFICATE_KEY_FILE", "/none.key");
    let (good, _, errors) = run(with_certificate.arg("check-config"));
    assert!(!good && errors.contains("/none.pem"), "{errors}");
    // What the environment holds beside the settings is nobody's business, and who reads no further has read enough.
    let strange = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
    let mut child = program(folder.path()).env("STRANGE", strange).arg("openapi").spawn().expect("it starts");
    drop(child.stdout.take());
    assert!(child.wait().expect("it ends").success());
}

/// A command about a store that is there makes none where the path is wrong, and leaves the store of another user as it is:
/// with files of root in it that one's service would not start again.
#[test]
fn a_store_that_is_not_there_or_of_another_user_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("typo");
    for command in ["check", "rebuild", "new-key", "rotate-key"] {
        let (good, _, errors) = run(program(&path).arg(command));
        assert!(!good && errors.contains("there is no store in") && errors.contains("--config"), "{command}: {errors}");
    }
    assert!(!path.exists());
    drop(Coordinator::start(&path));
    let own = std::fs::metadata(path.join("LOCK")).expect("the lock is there");
    let other = std::os::unix::fs::MetadataExt::uid(&own) + 12_345;
    if std::os::unix::fs::chown(path.join("LOCK"), Some(other), None).is_err() {
        eprintln!("only root can give files away: the other half was not tried");
        return;
    }
    let (good, _, errors) = run(program(&path).arg("check"));
    assert!(!good && errors.contains(&format!("sudo -u '#{other}'")), "{errors}");
}

/// `check` also looks whether the blobs are there that records name, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_blobs_that_are_lost_cut_off_or_left_behind() {
    let folder = folder();
    let mut coordinator = Coordinator::start(folder.path());
    make_process(&coordinator, "p").await;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("main.sh", zip::write::SimpleFileOptions::default()).expect("a zip");
    let package = zip.finish().expect("a zip").into_inner();
    let url = format!("{}/api/v1/processes/p/versions", coordinator.url);
    let upload = client().post(url).bearer_auth(KEY).header("content-type", "application/zip").body(package);
    let version: Value = upload.send().await.expect("an answer").json().await.expect("a version");
    let sha256 = version["sha256"].as_str().expect("a digest");
    coordinator.signal(libc::SIGTERM);
    assert!(coordinator.wait().success());
    let check = || run(program(folder.path()).arg("check"));
    let (good, text, errors) = check();
    assert!(good, "{text}{errors}");

    let blob = folder.path().join("blobs/package").join(&sha256[62..]).join(&sha256[60..62]).join(sha256);
    let whole = std::fs::read(&blob).expect("it lies there");
    std::fs::write(&blob, &whole[1..]).expect("it is cut off");
    assert!(!check().0 && check().1.contains("bytes instead of"), "{}", check().1);
    let other = blob.with_file_name(format!("{}{}", "0".repeat(60), &sha256[60..]));
    std::fs::rename(&blob, &other).expect("it is renamed");
    let (good, text, _) = check();
    assert!(!good && text.contains(&format!("{sha256} is missing")) && text.contains("no record names"), "{text}");
    std::fs::remove_file(&other).expect("it is removed");
    std::fs::write(&blob, &whole).expect("it is put back");
    let (good, text, errors) = check();
    assert!(good, "{text}{errors}");
}

/// Two coordinators on one store would both believe to be the writer.
#[test]
fn a_second_coordinator_is_refused() {
    let folder = folder();
    let _first = Coordinator::start(folder.path());
    let (good, _, errors) = run(program(folder.path()).arg("run"));
    assert!(!good && errors.contains("another process uses the store"), "{errors}");
}

/// How many files this process, or a child that is to be started, may have open.
fn limit_files(files: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum.map_or(files, |most| most.min(files));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) });
}

/// A coordinator that may have no more than so many files open.
fn start_with_files(store: &Path, files: u64) -> Coordinator {
    use std::os::unix::process::CommandExt;
    let mut command = program(store);
    let limit = move || {
        limit_files(files);
        Ok(())
    };
    // SAFETY: between fork and exec only a system call is made.
    unsafe { command.pre_exec(limit) };
    Coordinator::start_by(&mut command)
}

/// What a process takes of memory at the most since its start, in KiB.
fn peak_kib(coordinator: &Coordinator) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", coordinator.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// More clients than there may be files open, most of which say nothing: the store can still open what it needs, who is
/// connected is answered, and who comes new is let in as those who say nothing lose their places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_do_not_stop_the_fleet() {
    // The clients are all in this process, whose limit is often a low one.
    limit_files(8_192);
    let folder = folder();
    let mut coordinator = start_with_files(folder.path(), 700);
    let key = join(&coordinator).await;
    // Unlike others it keeps its connection.
    let agent = Client::builder().no_proxy().build().expect("a client");
    let url = format!("{}/api/v1/agent/heartbeat", coordinator.url);
    let health = json!({"memory_used_bytes": 1, "memory_total_bytes": 2, "disk_free_bytes": 3});
    let beat = async |client: &Client| {
        let request = client.post(&url).bearer_auth(&key).json(&json!({"health": health})).timeout(LIMIT);
        request.send().await.map(|answer| answer.status())
    };
    assert_eq!(beat(&agent).await.expect("an answer"), StatusCode::OK);
    let address = coordinator.url.trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        // What is beyond the backlog of the system is not even accepted by it, which is as good.
        let connecting = tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(&address));
        if let Ok(Ok(stream)) = connecting.await {
            idle.push(stream);
        }
    }
    assert!(idle.len() > 300, "{} idle connections", idle.len());
    let began = Instant::now();
    assert_eq!(beat(&agent).await.expect("who is connected is answered"), StatusCode::OK);
    assert_eq!(beat(client()).await.expect("who comes new is let in"), StatusCode::OK);
    make_process(&coordinator, "p").await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    drop(idle);
    coordinator.signal(libc::SIGTERM);
    assert!(coordinator.wait().success(), "the store was not harmed");
}

/// Bodies that unpack to a gigabyte each, many at once, with a key and without: refused, and held nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_take_no_memory() {
    let folder = folder();
    let coordinator = Coordinator::start(folder.path());
    make_process(&coordinator, "p").await;
    let before = peak_kib(&coordinator);
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(b' '), 1 << 30), 3).expect("memory takes it");
    let call = |path: &str| {
        let url = format!("{}/api/v1{path}", coordinator.url);
        let request = client().post(url).bearer_auth(KEY).header("content-type", "application/json");
        request.header("content-encoding", "zstd").body(bomb.clone()).send()
    };
    let calls = (0..40).map(|number| call(if number % 2 == 0 { "/agent/join" } else { "/jobs" }));
    // Refused before all of it was sent, the connection may be closed under the client's hands.
    let answers: Vec<_> = futures::future::join_all(calls).await.into_iter().flatten().collect();
    assert!(!answers.is_empty());
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::PAYLOAD_TOO_LARGE), "{answers:?}");
    let grown = peak_kib(&coordinator) - before;
    assert!(grown < 200 * 1024, "{grown} KiB more");
    assert_eq!(coordinator.call("GET", "/readyz", Value::Null).await.0, StatusCode::OK);
}
