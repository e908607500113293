"""People sign in to a real coordinator by a real provider of OpenID Connect and by a real directory."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse

import oidc_provider_mock
import requests

from coordinator import Coordinator

SUFFIX = "dc=example,dc=com"
MANAGER, MANAGER_PASSWORD = f"cn=manager,{SUFFIX}", "manager's password"
SLAPD = shutil.which("slapd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec")
START_SECONDS = 30


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port):
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {port}")


@contextlib.contextmanager
def directory():
    """A directory with two people, of whom one is in a group; gives its address."""
    with tempfile.TemporaryDirectory(prefix="drover-ldap.") as folder:
        folder = pathlib.Path(folder)
        (folder / "data").mkdir()
        schemas = pathlib.Path("/etc/ldap/schema")
        (folder / "slapd.conf").write_text(
            "\n".join(f"include {schemas / name}.schema" for name in ["core", "cosine", "inetorgperson"])
            + f"\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {folder}/pid\ndatabase mdb\nsuffix {SUFFIX}\n"
            + f'rootdn "{MANAGER}"\nrootpw "{MANAGER_PASSWORD}"\ndirectory {folder}/data\n'
            + "access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by anonymous auth\n"
        )
        people = [f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: example\ndc: example\n"]
        for login, name, group in [("ann", "Ann Smith", "ops"), ("bob", "Bob (the other) Jones", "nothing")]:
            people.append(
                f"dn: uid={login},{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {login}\ncn: {name}\nsn: {name}\n"
                f"mail: {login}@example.com\nou: cn={group},ou=groups,{SUFFIX}\nuserPassword: {login}'s password\n"
            )
        (folder / "people.ldif").write_text("\n".join(people))
        subprocess.run([SLAPD, "-T", "add", "-f", folder / "slapd.conf", "-l", folder / "people.ldif"], check=True)
        port = free_port()
        address = f"ldap://127.0.0.1:{port}"
        process = subprocess.Popen([SLAPD, "-f", folder / "slapd.conf", "-h", address, "-d", "0"])
        try:
            wait_for(port)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)


def sign_in_by_directory():
    """The directory's password opens the account, with the role of the group; nothing else does."""
    with directory() as address:
        settings = {
            "DROVER_LDAP__URL": address,
            "DROVER_LDAP__BIND_DN": MANAGER,
            "DROVER_LDAP__BIND_PASSWORD": MANAGER_PASSWORD,
            "DROVER_LDAP__BASE_DN": SUFFIX,
            "DROVER_LDAP__GROUPS_ATTRIBUTE": "ou",
            "DROVER_LDAP__ROLES": "ops=operator",
        }
        with Coordinator(settings) as c:

            def attempt(login, password):
                body = {"login": login, "password": password}
                return requests.post(f"{c.url}/api/v1/session", json=body, timeout=60)

            first = attempt("ann", "ann's password")
            assert first.status_code == 200, first.text
            user = first.json()["user"]
            assert (user["name"], user["roles"], user["email"]) == ("Ann Smith", ["operator"], "ann@example.com"), user
            assert user["external_id"] == f"ldap:uid=ann,{SUFFIX}", user
            assert first.json()["session"]["method"] == "ldap"
            again = attempt("ANN", "ann's password")
            assert again.json()["user"]["id"] == user["id"], again.text
            for login, password in [("ann", ""), ("ann", "wrong"), ("*", "ann's password"), ("a*", "ann's password")]:
                assert attempt(login, password).status_code == 401, (login, password)
            none = attempt("bob", "bob's password")
            assert none.status_code == 403, none.text
            assert attempt("nobody", "x").status_code == 401
            acts = c.json("GET", "/audit?noun=session")["items"]
            assert [act["verb"] for act in acts].count("sign_in") == 2, acts
            assert "password" not in str(acts)


def sign_in_by_openid_connect():
    """The provider's page leads back with a session; a code of somebody else, or one that comes twice, does not."""
    with oidc_provider_mock.run_server_in_thread() as server:
        issuer = f"http://localhost:{server.server_port}"
        groups = {"sub": "1", "userinfo": {"preferred_username": "ann", "name": "Ann Smith", "groups": ["ops"]}}
        requests.put(f"{issuer}/users/1", json=groups["userinfo"], timeout=60).raise_for_status()
        port = free_port()
        public = f"http://127.0.0.1:{port}"
        settings = {
            "DROVER_HTTP__LISTEN": f"127.0.0.1:{port}",
            "DROVER_HTTP__PUBLIC_URL": public,
            "DROVER_OPENID__ISSUER": issuer,
            "DROVER_OPENID__CLIENT_ID": "drover",
            "DROVER_OPENID__CLIENT_SECRET": "of the client",
            "DROVER_OPENID__ROLES": "ops=operator",
            "DROVER_OPENID__DEFAULT_ROLES": "viewer",
        }
        with Coordinator(settings) as c:
            browser = requests.Session()
            leading = browser.get(f"{c.url}/api/v1/session/openid", allow_redirects=False, timeout=60)
            assert leading.status_code == 303, leading.text
            asked = urllib.parse.parse_qs(urllib.parse.urlparse(leading.headers["Location"]).query)
            assert asked["code_challenge_method"] == ["S256"], asked
            assert asked["redirect_uri"] == [f"{public}/api/v1/session/openid/callback"], asked
            allowed = requests.post(leading.headers["Location"], data={"sub": "1"}, allow_redirects=False, timeout=60)
            back = allowed.headers["Location"]
            # Somebody else's browser has not brought the way along.
            assert requests.get(back, allow_redirects=False, timeout=60).status_code == 401
            wrong = urllib.parse.urlparse(back)._replace(query="code=x&state=y").geturl()
            assert browser.get(wrong, allow_redirects=False, timeout=60).status_code == 401
            arrived = browser.get(back, allow_redirects=False, timeout=60)
            assert arrived.status_code == 303, arrived.text
            assert arrived.headers["Location"] == f"{public}/"
            own = browser.get(f"{c.url}/api/v1/session", timeout=60).json()
            assert own["session"]["method"] == "openid_connect", own
            assert own["user"]["external_id"] == f"openid:{issuer}#1", own
            assert own["user"]["roles"] in (["operator"], ["viewer"]), own
            assert browser.get(back, allow_redirects=False, timeout=60).status_code == 401
            verbs = [act["verb"] for act in c.json("GET", "/audit?noun=session")["items"]]
            assert verbs == ["sign_in_refused", "sign_in", "sign_in_refused", "sign_in_refused"], verbs


if __name__ == "__main__":
    sign_in_by_openid_connect()
    print("people sign in by OpenID Connect")
    sign_in_by_directory()
    print("people sign in by a directory")
