"""Triggers that look into mailboxes, against a real mail server: Dovecot with its own folder, ports and certificate."""

import email.message
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from coordinator import Coordinator
from world import World

PATIENCE_SECONDS = 60
PASSWORD = "böx & password"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class MailServer:
    """Dovecot in the foreground; mails are delivered by writing them into the mailbox."""

    def __init__(self):
        assert shutil.which("dovecot"), "dovecot is missing: apt-get install dovecot-imapd dovecot-pop3d"
        self.folder = tempfile.TemporaryDirectory(prefix="drover-mail.")
        self.root = pathlib.Path(self.folder.name)
        self.imap, self.imaps, self.pop3, self.pop3s = free_ports(4)
        self.ca = self.root / "ca.pem"

    def __enter__(self):
        os.chmod(self.root, 0o755)
        self.certify()
        root = os.getuid() == 0
        owner = (65534, 65534) if root else (os.getuid(), os.getgid())
        users = "" if root else f"default_internal_user = {getpass.getuser()}\ndefault_login_user = {getpass.getuser()}\n"
        self.owner = owner
        (self.root / "users").write_text(f"box:{{PLAIN}}{PASSWORD}::::::\n")
        os.chmod(self.root / "users", 0o644)
        config = self.root / "dovecot.conf"
        config.write_text(
            f"""
{users}base_dir = {self.root}/run
state_dir = {self.root}/state
log_path = {self.root}/log
protocols = imap pop3
listen = 127.0.0.1
ssl = yes
ssl_cert = <{self.root}/cert.pem
ssl_key = <{self.root}/key.pem
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = maildir:{self.root}/box
passdb {{
  driver = passwd-file
  args = {self.root}/users
}}
userdb {{
  driver = static
  args = uid={owner[0]} gid={owner[1]} home={self.root}/box
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imaps}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {self.pop3}
  }}
  inet_listener pop3s {{
    port = {self.pop3s}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
"""
        )
        for name in ["new", "cur", "tmp"]:
            (self.root / "box" / name).mkdir(parents=True)
        for path in [self.root / "box", *(self.root / "box").iterdir()]:
            os.chown(path, *owner)
        self.process = subprocess.Popen(["dovecot", "-F", "-c", config])
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends_at:
            try:
                socket.create_connection(("127.0.0.1", self.pop3s), 1).close()
                return self
            except OSError:
                assert self.process.poll() is None, (self.root / "log").read_text()
                time.sleep(0.05)
        raise RuntimeError("dovecot does not start")

    def certify(self):
        """A certificate for localhost, by an authority of its own."""

        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=self.root, check=True, capture_output=True)

        new_key = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
        openssl("req", "-x509", *new_key, "-subj", "/CN=drover test", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", "-new", *new_key, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem")
        (self.root / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl("x509", "-req", "-in", "request.pem", *authority, "-days", "2", "-extfile", "extensions", "-out", "cert.pem")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        self.folder.cleanup()

    def deliver(self, name, subject, text="Hello", attachments=()):
        mail = email.message.EmailMessage()
        mail["From"] = "Jürgen <j@example.com>"
        mail["To"] = "box@example.com"
        mail["Subject"] = subject
        mail["Date"] = "Mon, 23 Nov 2026 09:05:11 +0100"
        mail["Message-ID"] = f"<{name}@example.com>"
        mail.set_content(text)
        for file, content in attachments:
            mail.add_attachment(content, maintype="application", subtype="pdf", filename=file)
        path = self.root / "box" / "tmp" / name
        path.write_bytes(bytes(mail))
        os.chown(path, *self.owner)
        path.rename(self.root / "box" / "new" / name)

    def said(self, *texts):
        """How many lines of its log have all of these texts."""
        return sum(all(text in line for text in texts) for line in (self.root / "log").read_text().splitlines())

    def flags(self, name):
        found = [path.name for path in (self.root / "box").glob(f"*/{name}*")]
        assert len(found) == 1, found
        return found[0].partition(":2,")[2]


def wait_for(what, look):
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come about")


class Mailbox:
    """A trigger that looks into the mailbox, and its jobs."""

    def __init__(self, coordinator, server, name, mail):
        self.c, self.server, self.name, self.protocol = coordinator, server, name, mail.get("protocol", "imap")
        mail = {"server": "localhost", "credential": "mailbox", "interval_seconds": 10} | mail
        trigger = {"name": name, "kind": "mail", "process": "invoices", "target": {"group": "all"}, "mail": mail}
        self.made = self.c.json("POST", "/triggers", trigger)

    def look(self):
        """A look now, instead of in a while."""
        for verb in ["disable", "enable"]:
            self.c.json("POST", f"/triggers/{self.name}/{verb}")

    def looked(self, times=1):
        """Looks, each when the one before has ended."""
        ended = (f"{self.protocol}(box)", "Logged out")
        for _ in range(times):
            before = self.server.said(*ended)
            self.look()
            wait_for("a look", lambda: self.server.said(*ended) > before)

    def inputs(self):
        jobs = self.c.json("GET", f"/jobs?trigger={self.name}&limit=100")["items"]
        return [self.c.json("GET", f"/jobs/{job['id']}")["input"] for job in reversed(jobs)]

    def events(self):
        return [event["code"] for event in self.c.json("GET", f"/triggers/{self.name}/events")["items"]]


def imap(coordinator, server):
    """Filters, attachments, marks, and each mail once."""
    server.deliver("old", "Invoice from before", attachments=[("old.pdf", b"old")])
    box = Mailbox(
        coordinator,
        server,
        "imap",
        {"port": server.imaps, "unread_only": True, "mark_as_read": True, "subject_contains": ["invoice"],
         "attachment_names": ["*.PDF"], "attachments_folder": "mails"},
    )  # fmt: skip
    box.looked()
    server.deliver("one", "Your invoice 1007 — Счёт", "Please pay", [("../a b.pdf", b"%PDF\0\xff"), ("c.txt", b"c")])
    server.deliver("two", "Your invoice 1008, without a file")
    server.deliver("three", "Something else", attachments=[("d.pdf", b"d")])
    box.look()
    wait_for("a job for the mail", box.inputs)
    box.looked(times=3)
    inputs = box.inputs()
    assert len(inputs) == 1, inputs
    mail = inputs[0]["mail"]
    assert mail["subject"] == "Your invoice 1007 — Счёт" and mail["from"] == "Jürgen <j@example.com>", mail
    assert mail["text"].strip() == "Please pay" and mail["date"] == "2026-11-23T08:05:11.000Z", mail
    assert [one["name"] for one in mail["attachments"]] == ["a b.pdf", "c.txt"], mail
    path = mail["attachments"][0]["path"]
    assert coordinator.call("GET", f"/storages/mails/files/{path}").content == b"%PDF\0\xff"
    wait_for("the mark", lambda: "S" in server.flags("one"))
    assert [server.flags(name) for name in ["two", "three", "old"]] == ["", "", ""]


def pop3(coordinator, server):
    """One job for all mails of a look, once enough of them have come, with TLS begun by a command."""
    box = Mailbox(
        coordinator,
        server,
        "pop3",
        {"protocol": "pop3", "security": "starttls", "port": server.pop3, "body_contains": ["for pop"],
         "jobs": "per_look", "threshold": 2},
    )  # fmt: skip
    box.looked()
    server.deliver("p1", "one", "this is for POP\n.\n..dots")
    box.looked()
    assert box.inputs() == [], "one is not enough"
    server.deliver("p2", "two", "and this For Pop as well")
    server.deliver("p3", "three", "not this")
    box.look()
    wait_for("a job for both", box.inputs)
    box.looked(times=3)
    inputs = box.inputs()
    assert len(inputs) == 1, inputs
    assert sorted(mail["subject"] for mail in inputs[0]["mails"]) == ["one", "two"], inputs
    one = next(mail for mail in inputs[0]["mails"] if mail["subject"] == "one")
    assert one["text"].split() == ["this", "is", "for", "POP", ".", "..dots"], one


def refusals(coordinator, server):
    """What goes wrong is told beside the trigger, once, and without the password."""
    box = Mailbox(coordinator, server, "wrong", {"port": server.imaps, "credential": "wrong"})
    wait_for("the failure", lambda: "mailbox_failed" in box.events())
    refusals = server.said("auth failed")
    box.look()
    wait_for("another refusal", lambda: server.said("auth failed") > refusals)
    text = coordinator.call("GET", "/triggers/wrong/events").text
    assert "signing in" in text and "not the password" not in text, text
    coordinator.json("PATCH", "/triggers/wrong", {"mail": {"credential": "mailbox", "security": "plain"}})
    wait_for("the second failure", lambda: box.events().count("mailbox_failed") >= 2)
    coordinator.json("PATCH", "/triggers/wrong", {"mail": {"port": server.imap}})
    server.deliver("plain", "plain")
    wait_for("a job", lambda: box.look() or time.sleep(1) or server.deliver(f"x{time.time()}", "x") or box.inputs())


def main():
    with MailServer() as server:
        os.environ["SSL_CERT_FILE"] = str(server.ca)
        with Coordinator() as coordinator:
            World(coordinator)
            coordinator.json("POST", "/storages", {"name": "mails"})
            for name, password in [("mailbox", PASSWORD), ("wrong", "not the password")]:
                value = {"username": "box", "password": password}
                coordinator.json("POST", "/resources", {"name": name, "kind": "credential", "value": value})
            imap(coordinator, server)
            pop3(coordinator, server)
            refusals(coordinator, server)
            log = pathlib.Path(coordinator.log.name).read_text()
            assert PASSWORD not in log and "not the password" not in log


if __name__ == "__main__":
    main()
