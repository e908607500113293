"""Proves how calls are repeated, how refusals are told, and that files arrive whole or not at all."""

import base64
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
import traceback
import unittest
import unittest.mock

import drover
from drover import Client, Job, Robot

from .support import CoordinatorCase, Scripted, answer, cut, cut_within, problem, tunnel


def client_of(server, retry_seconds=20.0):
    return Client(server.url, "a-key", retry_seconds=retry_seconds)


def digest_of(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def certificate(folder):
    """A new certificate of this host, and its key."""
    files = [f"{folder}/certificate.pem", f"{folder}/key.pem"]
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    return files


class Certificates(unittest.TestCase):
    def test_an_authority_that_the_agent_names_is_trusted_beside_those_of_the_host(self):
        with tempfile.TemporaryDirectory() as folder:
            files = certificate(folder)
            server = Scripted(self, answer({"id": 1}), certificate=files)
            environment = {"DROVER_URL": server.url, "DROVER_TOKEN": "a-key", "DROVER_CA_FILE": files[0]}
            self.assertEqual(Client.from_environment(environment).call("GET", ("tasks", "1")), {"id": 1})
            with self.assertRaisesRegex(drover.Unreachable, "certificate verify failed"):
                client_of(server, 0.5).call("GET", ("tasks", "1"))


class Proxies(unittest.TestCase):
    def through(self, proxy, url):
        """A client whose environment names this proxy."""
        environment = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}
        patched = unittest.mock.patch.dict(os.environ, environment)
        patched.start()
        self.addCleanup(patched.stop)
        return Client(url, "a-key", retry_seconds=0.5)

    def test_a_proxy_gets_the_password_that_stands_in_its_address(self):
        server = Scripted(self, answer({"id": 1}))
        place = server.url.partition("://")[2]
        client = self.through(f"http://us%40er:p%3Aass-w%C3%B6rd@{place}", "http://drover.example")
        self.assertEqual(client.call("GET", ("tasks", "1")), {"id": 1})
        _, target, headers, _ = server.seen[0]
        self.assertEqual(target, "http://drover.example/api/v1/tasks/1")
        self.assertEqual(base64.b64decode(headers["Proxy-Authorization"].split()[1]).decode(), "us@er:p:ass-wörd")
        self.through(server.url, "http://drover.example").call("GET", ("tasks", "1"))
        self.assertNotIn("Proxy-Authorization", server.seen[1][2])

    def test_a_tunnel_is_opened_with_the_password_and_what_goes_through_it_has_none(self):
        with tempfile.TemporaryDirectory() as folder:
            files = certificate(folder)
            server = Scripted(self, answer({"id": 1}), certificate=files)
            proxy = Scripted(self, tunnel(server))
            client = self.through(f"http://user:pass-word@{proxy.url[7:]}", server.url)
            client._ca_file = files[0]
            self.assertEqual(client.call("GET", ("tasks", "1")), {"id": 1})
        self.assertEqual(proxy.seen[0][0], "CONNECT")
        self.assertEqual(base64.b64decode(proxy.seen[0][2]["Proxy-Authorization"].split()[1]), b"user:pass-word")
        self.assertNotIn("Proxy-Authorization", server.seen[0][2])

    def test_no_error_shows_the_password(self):
        refusing = Scripted(self, answer(b"<html>", 407))
        gone = "http://user:pass-word@127.0.0.1:1"
        for proxy in (f"http://user:pass-word@{refusing.url[7:]}", gone, "http://user:pass-word#1@proxy:3128"):
            for url in ("http://drover.example", "https://drover.example"):
                with self.assertRaises(drover.DroverError) as raised:
                    self.through(proxy, url).call("GET", ("tasks", "1"))
                trace = "".join(traceback.format_exception(None, raised.exception, raised.exception.__traceback__))
                self.assertNotIn("pass-word", trace)


class Repetitions(unittest.TestCase):
    def test_a_call_whose_answer_is_lost_is_repeated_under_the_same_key(self):
        server = Scripted(self, cut, cut, problem(503, "unavailable"), answer({"id": "t-1"}, 201))
        self.assertEqual(client_of(server).call("POST", ("queues", "q", "tasks"), {"payload": 1}), {"id": "t-1"})
        keys = {headers["Idempotency-Key"] for _, _, headers, _ in server.seen}
        self.assertEqual((len(server.seen), len(keys)), (4, 1))
        self.assertTrue(all(body == b'{"payload":1}' for *_, body in server.seen))

    def test_two_calls_have_two_keys(self):
        server = Scripted(self, answer({}))
        client = client_of(server)
        client.call("POST", ("a",))
        client.call("POST", ("a",))
        self.assertEqual(len({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}), 2)

    def test_retry_after_is_obeyed(self):
        server = Scripted(self, problem(429, "too_many_requests", headers={"Retry-After": "1"}), answer({}))
        began = time.monotonic()
        client_of(server).call("GET", ("queues",))
        self.assertGreaterEqual(time.monotonic() - began, 1)

    def test_it_gives_up_in_bounded_time_and_says_what_to_look_at(self):
        for step in (cut, problem(503, "unavailable", "starting"), problem(429, "x", headers={"Retry-After": "3600"})):
            server = Scripted(self, step)
            with self.assertRaisesRegex(drover.Unreachable, "Is the coordinator running"):
                client_of(server, 0.5).call("GET", ("queues",))

    def test_an_answer_that_breaks_off_is_no_answer(self):
        server = Scripted(self, cut_within(b'{"id": ', 100), answer({"id": 1}))
        self.assertEqual(client_of(server).call("GET", ("tasks", "1")), {"id": 1})

    def test_a_delete_whose_answer_was_lost_is_done(self):
        server = Scripted(self, cut, problem(404, "not_found"))
        self.assertIsNone(client_of(server).call("DELETE", ("tasks", "1")))
        with self.assertRaises(drover.NotFound):
            client_of(Scripted(self, problem(404, "not_found"))).call("DELETE", ("tasks", "1"))

    def test_an_answer_in_the_place_of_the_coordinators_is_none(self):
        page = answer(b"<html>sign in</html>", Content_Type="text/html")
        for step in (page, answer(b""), answer(b'{"id": '), answer(b"\xff"), answer(b"", 302, Location="/sign-in")):
            server = Scripted(self, step, step, answer({"id": 1}))
            self.assertEqual(client_of(server).call("POST", ("tasks", "1", "succeed"), {}), {"id": 1})
            self.assertEqual(len({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}), 1)
        with self.assertRaisesRegex(drover.Unreachable, "200 with text/html .* proxy"):
            client_of(Scripted(self, page), 0.5).call("GET", ("queues",))

    def test_a_delete_is_not_done_because_something_between_knows_nothing_of_it(self):
        with self.assertRaises(drover.ApiError):
            client_of(Scripted(self, cut, answer(b"<html>", 404))).call("DELETE", ("tasks", "1"))

    def test_a_refusal_is_told_and_not_repeated(self):
        fields = [{"pointer": "/priority", "detail": "must be 1, 2 or 3"}]
        server = Scripted(self, problem(422, "invalid", "the task is not valid", errors=fields))
        with self.assertRaises(drover.ApiError) as raised:
            client_of(server).call("POST", ("queues", "q", "tasks"), {})
        text = str(raised.exception)
        for part in ("POST queues/q/tasks", "the task is not valid", "/priority: must be 1, 2 or 3", "r-1"):
            self.assertIn(part, text)
        self.assertEqual(len(server.seen), 1)

    def test_refusals_that_programs_handle_have_classes_of_their_own(self):
        for code, kind in (
            ("not_found", drover.NotFound),
            ("already_exists", drover.AlreadyExists),
            ("stale_attempt", drover.StaleAttempt),
            ("forbidden", drover.ApiError),
        ):
            server = Scripted(self, problem(409, code, id="the-other"))
            with self.assertRaises(kind) as raised:
                client_of(server).call("POST", ("x",))
            self.assertEqual((raised.exception.code, raised.exception.id), (code, "the-other"))

    def test_a_resource_that_is_closed_to_jobs_is_told_with_how_to_open_it(self):
        for detail, remedy in (
            ('jobs may not set the value of "days": its writable_by_jobs is false', "--writable-by-jobs true"),
            ('the process version does not declare "days"', "process.toml"),
        ):
            server = Scripted(self, problem(403, "forbidden", detail))
            with self.assertRaises(drover.ApiError) as raised:
                client_of(server).call("PUT", ("resources", "days", "value"), {"value": 1})
            text = str(raised.exception)
            self.assertIn(remedy, text)
            self.assertEqual("process.toml" in text, remedy == "process.toml")

    def test_a_server_that_is_no_coordinator_is_named(self):
        with self.assertRaisesRegex(drover.ApiError, "DROVER_URL"):
            client_of(Scripted(self, answer(b"<html>", 404))).call("GET", ("queues",))
        moved = answer(b"", 308, Location="https://elsewhere.example/sign-in?ticket=7")
        with self.assertRaisesRegex(drover.ApiError, "elsewhere.example/sign-in; is DROVER_URL .* proxy") as raised:
            client_of(Scripted(self, moved)).call("PUT", ("resources", "last-run", "value"), {"value": 1})
        self.assertNotIn("ticket", str(raised.exception))
        with self.assertRaisesRegex(drover.NotConnected, "DROVER_URL"):
            Client("ftp://host", "key")

    def test_names_with_any_character_stay_one_segment(self):
        server = Scripted(self, answer({}))
        client_of(server).call("GET", ("queues", "a/b ?#%ё"), query={"tag": ["a", "-b"], "state": None})
        self.assertEqual(server.seen[0][1], "/api/v1/queues/a%2Fb%20%3F%23%25%D1%91?tag=a&tag=-b")

    def test_the_key_is_sent_and_not_shown(self):
        server = Scripted(self, answer({}))
        client = client_of(server)
        client.call("GET", ("queues",))
        self.assertEqual(server.seen[0][2]["Authorization"], "Bearer a-key")
        self.assertNotIn("a-key", repr(client))

    def test_the_connection_is_kept(self):
        ports = set()

        def step(handler):
            ports.add(handler.client_address[1])
            answer({})(handler)

        client = client_of(Scripted(self, step))
        for _ in range(5):
            client.call("POST", ("x",), {})
        self.assertEqual(len(ports), 1)

    def test_the_connection_of_a_thread_ends_with_it(self):
        handlers = []

        def step(handler):
            handlers.append(handler)
            answer({})(handler)

        client = client_of(Scripted(self, step))
        for _ in range(20):
            thread = threading.Thread(target=client.call, args=("GET", ("queues",)))
            thread.start()
            thread.join()
        client.call("GET", ("queues",))
        *ended, kept = handlers
        ends_at = time.monotonic() + 10
        while not all(handler.rfile.closed for handler in ended) and time.monotonic() < ends_at:
            time.sleep(0.01)
        self.assertEqual([handler.rfile.closed for handler in handlers], [True] * 20 + [False])
        client.close()
        while not kept.rfile.closed and time.monotonic() < ends_at:
            time.sleep(0.01)
        self.assertTrue(kept.rfile.closed)


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.content = os.urandom(3 * 1024 * 1024 + 17)
        self.digest = digest_of(self.content)

    def storage(self, server):
        return Robot(client_of(server), Job({})).storage("reports/2026")

    def test_what_is_put_arrives_with_its_digest_also_after_a_broken_try(self):
        source = self.folder / "in.bin"
        source.write_bytes(self.content)
        for given in (source, self.content, io.BytesIO(self.content)):
            server = Scripted(self, cut, answer({"size_bytes": len(self.content)}, 201))
            self.storage(server).put("a & b/ü.bin", given, "application/x-test")
            method, path, headers, body = server.seen[-1]
            self.assertEqual((method, path), ("PUT", "/api/v1/storages/reports%2F2026/files/a%20%26%20b/%C3%BC.bin"))
            self.assertEqual((body, headers["Content-Digest"]), (self.content, self.digest))
            self.assertEqual(headers["Content-Type"], "application/x-test")

    def test_a_file_that_grows_while_it_is_sent_arrives_as_it_was_and_spoils_no_further_call(self):
        source = self.folder / "in.log"
        source.write_bytes(self.content)
        server = Scripted(self, answer({"size_bytes": 1}, 201))
        storage = self.storage(server)
        self.meanwhile(storage, lambda: source.write_bytes(self.content + b"GET /api/v1/x HTTP/1.1\r\n\r\n"))
        storage.put("in.log", source)
        storage.put("next", b"x")
        self.assertEqual([body for *_, body in server.seen], [self.content, b"x"])

    def test_a_file_that_shrinks_while_it_is_sent_is_told_and_spoils_no_further_call(self):
        source = self.folder / "in.log"
        source.write_bytes(self.content)

        def broken_off(handler):
            handler.close_connection = True

        kept = answer({"size_bytes": 1}, 201)
        server = Scripted(self, kept, broken_off, kept)
        storage = self.storage(server)
        storage.put("before", b"x")
        self.meanwhile(storage, lambda: source.write_bytes(b"new"))
        with self.assertRaisesRegex(drover.Changed, "in.log became .* shorter"):
            storage.put("in.log", source)
        storage.put("next", b"y")
        self.assertEqual(server.seen[-1][3], b"y")

    def meanwhile(self, storage, change):
        """Between the digest of the next file and its sending."""
        send = storage._client.send

        def changed(*given, **more):
            storage._client.send = send
            change()
            return send(*given, **more)

        storage._client.send = changed

    def test_what_is_got_is_whole_or_the_target_stays_as_it_was(self):
        target = self.folder / "out.bin"
        target.write_bytes(b"before")
        whole = answer(self.content, Content_Digest=self.digest)
        self.storage(Scripted(self, cut_within(self.content[:99], len(self.content)), whole)).get("x", target)
        self.assertEqual(target.read_bytes(), self.content)
        with self.assertRaises(drover.Damaged):
            self.storage(Scripted(self, answer(b"other", Content_Digest=self.digest))).get("x", target)
        self.assertEqual(target.read_bytes(), self.content)
        self.assertEqual(os.listdir(self.folder), ["out.bin"])

    def test_a_page_that_a_proxy_answers_is_no_file_and_keeps_none(self):
        page = answer(b"<html>", Content_Type="text/html")
        storage = self.storage(Scripted(self, page, answer({"size_bytes": 1}, 201)))
        self.assertEqual(storage.put("x", b"1"), {"size_bytes": 1})
        for get in (lambda storage: storage.read("x"), lambda storage: storage.get("x", self.folder / "out.bin")):
            get(self.storage(Scripted(self, page, answer(self.content, Content_Digest=self.digest))))
        self.assertEqual((self.folder / "out.bin").read_bytes(), self.content)
        moved = answer(b"", 308, Location="https://elsewhere.example/")
        with self.assertRaisesRegex(drover.ApiError, "redirection"):
            self.storage(Scripted(self, moved)).put("x", b"1")

    def test_what_this_host_refuses_is_told_at_once_and_as_it_is(self):
        small = answer(b"small", Content_Digest=digest_of(b"small"))

        def once(handler):
            small(handler)
            handler.close_connection = True

        server = Scripted(self, once, small)
        storage = self.storage(server)
        with self.assertRaises(FileNotFoundError):
            storage.get("x", self.folder / "nowhere" / "out.bin")
        self.assertEqual(len(server.seen), 1)
        self.assertEqual(storage.read("x"), b"small")

    def test_a_path_that_a_url_would_drop_is_refused(self):
        for path in ("", "a//b", "../x", "a/./b"):
            with self.assertRaises(ValueError):
                self.storage(Scripted(self, answer({}))).read(path)


class Resources(unittest.TestCase):
    def resource(self, kind, value):
        server = Scripted(self, answer({"kind": kind, "value": value}))
        return Robot(client_of(server), Job({})).resource("erp login"), server

    def test_values_come_as_their_kind(self):
        for kind, value in (("text", "x"), ("integer", 7), ("boolean", False), ("json", {"a": [1]})):
            self.assertEqual(self.resource(kind, value)[0], value)
        credential, server = self.resource("credential", {"username": "u", "password": "a-password"})
        self.assertEqual(tuple(credential), ("u", "a-password"))
        self.assertEqual(server.seen[0][1], "/api/v1/resources/erp%20login/value")
        self.assertEqual(self.resource("secret", "a-token")[0].reveal(), "a-token")

    def test_credentials_are_written_as_the_api_takes_them(self):
        server = Scripted(self, answer({}))
        Robot(client_of(server), Job({})).set_resource("erp", drover.Credential("u", "pass-word"))
        self.assertEqual(json.loads(server.seen[0][3]), {"value": {"username": "u", "password": "pass-word"}})


class Real(CoordinatorCase):
    def test_a_wrong_key_is_told_with_the_remedy(self):
        with self.assertRaisesRegex(drover.ApiError, "DROVER_KEY"):
            self.coordinator.client("wrong").call("GET", ("jobs",))

    def test_a_coordinator_that_restarts_is_waited_for(self):
        client = self.coordinator.client()
        client.call("GET", ("jobs",))
        self.coordinator.end()
        self.coordinator.start()
        self.assertEqual(client.call("GET", ("jobs",))["items"], [])


if __name__ == "__main__":
    unittest.main()
