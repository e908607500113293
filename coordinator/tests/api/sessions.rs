//! Sessions: signing in and out, the cookie and its token, how long they last, and that nobody guesses passwords.

use drover_coordinator::{
    external::{Admission, Known},
    operations::external,
};
use drover_protocol::session::SignInMethod;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Call, PASSWORD, World, each, text};

/// Somebody who has signed in.
struct Browser<'a> {
    world: &'a World,
    cookie: String,
    token: String,
}

async fn try_from(world: &World, address: &str, login: &str, password: &str) -> Answer {
    let call = Call::new(world.router.clone(), Method::POST, "/session").from(address);
    call.json(&json!({ "login": login, "password": password })).send().await
}

async fn try_sign_in(world: &World, login: &str, password: &str) -> Answer {
    try_from(world, "10.0.0.1:5000", login, password).await
}

impl<'a> Browser<'a> {
    fn of(world: &'a World, answer: &Answer) -> Self {
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Self { world, cookie, token: text(&answer.json(), "/csrf_token") }
    }

    async fn sign_in(world: &'a World, login: &str, password: &str) -> Self {
        Self::of(world, &try_sign_in(world, login, password).await.expect(200))
    }

    fn call(&self, method: Method, path: &str) -> Call {
        Call::new(self.world.router.clone(), method, path).header("cookie", &format!("a=b; {}; c=d", self.cookie))
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path).header("x-csrf-token", &self.token).json(&body).send().await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).header("x-csrf-token", &self.token).send().await
    }
}

/// The cookie is for this API alone and out of the reach of pages and of other sites; it is no key, nor a key a cookie;
/// nothing of it is in the store.
#[tokio::test]
async fn who_signs_in_gets_a_cookie() {
    let world = World::new().await;
    let answer = try_sign_in(&world, "admin", PASSWORD).await.expect(200);
    let set = answer.header("set-cookie").unwrap();
    for part in ["Path=/api/v1", "HttpOnly", "SameSite=Strict", "Max-Age=86400"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure"), "without TLS it would never come back: {set}");
    assert_eq!(answer.json()["user"]["login"], "admin");
    let browser = Browser::of(&world, &answer);
    let me = browser.get("/account/me").await.ok();
    assert_eq!((&me["kind"], &me["name"]), (&json!("user"), &json!("admin")));
    let own = browser.get("/session").await.ok();
    assert_eq!((text(&own, "/csrf_token"), text(&own, "/session/address")), (browser.token.clone(), "10.0.0.1".into()));
    let secret = browser.cookie.split_once('=').unwrap().1;
    Call::new(world.router.clone(), Method::GET, "/account/me").key(secret).send().await.expect(401);
    let as_cookie = Call::new(world.router.clone(), Method::GET, "/account/me");
    as_cookie.header("cookie", &format!("drover_session={}", world.admin)).send().await.expect(401);
    world.get("/session").await.expect(404);
    assert_eq!(world.mentions(secret.as_bytes()), 0);
    // A key goes before a cookie.
    let both = browser.call(Method::GET, "/account/me").key("unknown").send().await;
    both.expect(401);
    let mut rules = crate::support::rules();
    rules.public_url = "https://drover.example.com".to_owned();
    let secure = World::with_rules(rules).await;
    let answer = try_sign_in(&secure, "admin", PASSWORD).await.expect(200);
    assert!(answer.header("set-cookie").unwrap().contains("; Secure"));
}

/// What changes anything needs the token of this very session; what only reads does not.
#[tokio::test]
async fn changes_in_a_session_need_its_token() {
    let world = World::new().await;
    let browser = Browser::sign_in(&world, "admin", PASSWORD).await;
    let other = Browser::sign_in(&world, "admin", PASSWORD).await;
    let queue = json!({ "name": "q" });
    for token in ["", "x", &other.token] {
        let call = browser.call(Method::POST, "/queues").header("x-csrf-token", token).json(&queue);
        let problem = call.send().await.refused("forbidden");
        assert!(text(&problem, "/detail").contains("X-CSRF-Token"));
    }
    browser.call(Method::POST, "/queues").json(&queue).send().await.expect(403);
    browser.call(Method::POST, "/account/key").send().await.expect(403);
    browser.get("/queues").await.ok();
    browser.post("/queues", queue).await.created();
    browser.delete("/queues/q").await.done();
    // The user's own key can be replaced in a session, and the session goes on.
    let made = browser.call(Method::POST, "/account/key").header("x-csrf-token", &browser.token).send().await.ok();
    world.get("/account/me").await.expect(401);
    Call::new(world.router.clone(), Method::GET, "/account/me").key(&text(&made, "/key")).send().await.ok();
    browser.get("/account/me").await.ok();
}

/// A session ends by signing out, by being ended from another one, by not being used, by its age, by a new password, and
/// with its user.
#[tokio::test]
async fn sessions_end() {
    let world = World::new().await;
    let browser = Browser::sign_in(&world, "admin", PASSWORD).await;
    let answer = browser.delete("/session").await.expect(204);
    assert!(answer.header("set-cookie").unwrap().starts_with("drover_session=;"));
    browser.get("/session").await.expect(401);
    let (one, two) =
        (Browser::sign_in(&world, "admin", PASSWORD).await, Browser::sign_in(&world, "admin", PASSWORD).await);
    let listed = one.get("/sessions").await.ok();
    assert_eq!(each(&listed, "current"), [json!(false), json!(true)]);
    one.delete(&format!("/sessions/{}", text(&listed, "/items/0/id"))).await.done();
    two.get("/session").await.expect(401);
    // It is used every half an hour, and still it does not live for ever.
    for _ in 0..47 {
        world.move_clock(1800);
        one.get("/session").await.ok();
        crate::support::settle().await;
    }
    world.move_clock(1801);
    one.get("/session").await.expect(401);
    let idle = Browser::sign_in(&world, "admin", PASSWORD).await;
    world.move_clock(3601);
    idle.get("/session").await.expect(401);
    world.retain(0, 0).await;
    assert_eq!(each(&world.get("/audit?noun=session&verb=sign_out").await.ok(), "verb").len(), 1);
    let (staying, ending) =
        (Browser::sign_in(&world, "admin", PASSWORD).await, Browser::sign_in(&world, "admin", PASSWORD).await);
    assert_eq!(each(&staying.get("/sessions").await.ok(), "id").len(), 2, "what has expired was removed");
    staying.post("/account/password", json!({ "old": PASSWORD, "new": "another password" })).await.done();
    staying.get("/session").await.ok();
    ending.get("/session").await.expect(401);
    let ann = json!({ "login": "ann", "password": "a long password", "roles": ["viewer"] });
    world.post("/users", ann).await.created();
    for change in [json!({ "password": "a newer password" }), json!({ "blocked": true })] {
        world.patch("/users/ann", json!({ "blocked": false, "password": "a long password" })).await.ok();
        let ann = Browser::sign_in(&world, "ann", "a long password").await;
        world.patch("/users/ann", change).await.ok();
        ann.get("/session").await.expect(401);
    }
    try_sign_in(&world, "ann", "a newer password").await.expect(401);
}

/// A user's sessions are nobody else's to see or end.
#[tokio::test]
async fn sessions_are_ones_own() {
    let world = World::new().await;
    let ann = json!({ "login": "ann", "password": "a long password", "roles": ["admin"] });
    world.post("/users", ann).await.created();
    let admin = Browser::sign_in(&world, "admin", PASSWORD).await;
    let ann = Browser::sign_in(&world, "ANN ", "a long password").await;
    let id = text(&admin.get("/session").await.ok(), "/session/id");
    assert_eq!(each(&ann.get("/sessions").await.ok(), "id").len(), 1);
    ann.delete(&format!("/sessions/{id}")).await.expect(404);
    ann.delete(&format!("/keys/{id}")).await.expect(404);
    admin.get("/session").await.ok();
    assert_eq!(each(&admin.get("/keys").await.ok(), "id").len(), 0, "a session is no named key");
}

/// Wrong passwords and unknown logins are refused in the same words; after five there is a wait for that login from that
/// address, whoever comes from elsewhere; all of it is in the trail with the address.
#[tokio::test]
async fn passwords_are_not_guessed() {
    let world = World::new().await;
    let unknown = try_sign_in(&world, "nobody", "some password").await.expect(401);
    let wrong = try_sign_in(&world, "admin", "some password").await.expect(401);
    assert_eq!(text(&unknown.json(), "/detail"), text(&wrong.json(), "/detail"));
    for _ in 0..4 {
        try_sign_in(&world, "Admin", "some password").await.expect(401);
    }
    for _ in 0..3 {
        let answer = try_sign_in(&world, "admin", PASSWORD).await.expect(429);
        assert_eq!(answer.header("retry-after"), Some("900"));
    }
    try_from(&world, "10.0.0.2:1", "admin", PASSWORD).await.expect(200);
    world.move_clock(900);
    try_sign_in(&world, "admin", PASSWORD).await.expect(200);
    let trail = world.get("/audit?noun=session&limit=100").await.ok();
    let mut verbs: Vec<String> = each(&trail, "verb").iter().map(|verb| verb.as_str().unwrap().to_owned()).collect();
    verbs.reverse();
    let expected = [&["sign_in_refused"; 6][..], &["sign_in_throttled", "sign_in", "sign_in"]].concat();
    assert_eq!(verbs, expected);
    assert!(each(&trail, "address").iter().all(|address| address.as_str().unwrap().starts_with("10.0.0.")));
    assert!(!trail.to_string().contains("some password"));
    // What was typed as an unknown login may be a password, and is not kept.
    assert!(!trail.to_string().contains("nobody"), "{trail}");
    let by_nobody = world.get("/audit?actor=unauthenticated").await.ok();
    assert_eq!(each(&by_nobody, "verb").len(), 7);
    world.get("/audit/verify").await.ok();
    try_sign_in(&world, "", "").await.expect(401);
    try_sign_in(&world, &"x".repeat(10_000), "x").await.expect(401);
}

/// Where several accounts have a login, the password tells which one is meant, or else the account's name does.
#[tokio::test]
async fn a_login_may_be_in_several_accounts() {
    let world = World::new().await;
    let new = |name: &str, password: &str| json!({ "name": name, "admin": { "login": "admin", "password": password } });
    world.post("/accounts", new("north", "northern password")).await.created();
    world.post("/accounts", new("south", PASSWORD)).await.created();
    let north = Browser::sign_in(&world, "admin", "northern password").await;
    assert_eq!(north.get("/account").await.ok()["name"], "north");
    try_sign_in(&world, "admin", PASSWORD).await.invalid(&["/account"]);
    let named = |account: &str| {
        let call = Call::new(world.router.clone(), Method::POST, "/session");
        call.json(&json!({ "login": "admin", "password": PASSWORD, "account": account })).send()
    };
    let south = Browser::of(&world, &named("south").await.expect(200));
    assert_eq!(south.get("/account").await.ok()["name"], "south");
    named("north").await.expect(401);
    named("nowhere").await.expect(401);
    world.patch("/accounts/south", json!({ "disabled": true })).await.ok();
    south.get("/account").await.expect(401);
    named("south").await.expect(401);
    assert_eq!(Browser::sign_in(&world, "admin", PASSWORD).await.get("/account").await.ok()["name"], "main");
}

/// Whoever is known elsewhere becomes a user with the roles of their groups, is the same user next time whatever the login
/// has become, and never becomes somebody who was there before.
#[tokio::test]
async fn who_is_known_elsewhere_becomes_a_user() {
    let world = World::new().await;
    let admission = Admission {
        account: String::new(),
        roles: vec![("ops".to_owned(), "operator".to_owned()), ("boss".to_owned(), "admin".to_owned())],
        default_roles: Vec::new(),
        creates_users: true,
    };
    let admit = async |subject: &str, login: &str, groups: &[&str]| {
        let known = Known {
            method: SignInMethod::OpenidConnect,
            external_id: format!("openid:https://id.example.com#{subject}"),
            login: login.to_owned(),
            name: "Ann Smith".to_owned(),
            email: None,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let (secrets, admission) = (world.app.secrets.clone(), admission.clone());
        world.app.db.write(world.account, move |tx| external::admit(tx, &known, &admission, &secrets)).await
    };
    let ann = admit("1", "Ann", &["ops", "other"]).await.unwrap();
    let user = world.get("/users/ann").await.ok();
    assert_eq!((&user["roles"], &user["has_password"]), (&json!(["operator"]), &json!(false)));
    assert_eq!(admit("1", "annabel", &["boss"]).await.unwrap(), ann);
    assert_eq!(world.get("/users/ann").await.ok()["roles"], json!(["admin"]));
    for (subject, login, groups) in [("2", "admin", &["ops"][..]), ("3", "bob", &[]), ("4", "bob", &["other"])] {
        let refused = admit(subject, login, groups).await;
        assert!(matches!(refused, Err(drover_coordinator::error::Error::Forbidden(_))), "{login}: {refused:?}");
    }
    // An administrator may say that a user is the one who is known elsewhere.
    let link = json!({ "external_id": "openid:https://id.example.com#2" });
    world.patch("/users/admin", link.clone()).await.ok();
    world.patch("/users/ann", link).await.invalid(&["/external_id"]);
    world.patch("/users/ann", json!({ "external_id": "x" })).await.invalid(&["/external_id"]);
    let admin = admit("2", "whatever", &["boss"]).await.unwrap();
    assert_eq!(world.get("/users/admin").await.ok()["id"], admin.to_string());
    // The last administrator stays one, whatever the groups are.
    admit("1", "ann", &["ops"]).await.unwrap();
    admit("2", "admin", &["ops"]).await.unwrap();
    assert_eq!(world.get("/users/admin").await.ok()["roles"], json!(["admin"]));
    let by = each(&world.get("/audit?noun=user&actor=coordinator").await.ok(), "verb");
    assert_eq!(by, ["update", "update", "create"]);
}

/// Two hundred sign-ins at once do not hold up what robots say: those that would have to wait for long are told to come back,
/// and a heartbeat goes between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_sign_ins_holds_nobody_up() {
    let world = World::new().await;
    let agent = world.agent("r").await;
    let flood: Vec<_> = (0..200)
        .map(|number| {
            let call = Call::new(world.router.clone(), Method::POST, "/session").from("10.0.0.1:5000");
            let body = json!({ "login": format!("login {number}"), "password": "some password" });
            tokio::spawn(call.json(&body).send())
        })
        .collect();
    crate::support::settle().await;
    let began = std::time::Instant::now();
    for _ in 0..20 {
        agent.beat(&[]).await;
    }
    let beats = began.elapsed();
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for answer in flood {
        *statuses.entry(answer.await.unwrap().status.as_u16()).or_default() += 1;
    }
    assert!(beats < std::time::Duration::from_secs(2), "20 heartbeats took {beats:?}");
    assert_eq!(statuses.values().sum::<usize>(), 200);
    assert!(statuses.keys().all(|status| [401, 429].contains(status)), "{statuses:?}");
    assert!(statuses.contains_key(&429), "{statuses:?}");
}
