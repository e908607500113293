"""Proves the loop over tasks against a real coordinator: every task ends as its body ends, once, whatever happens."""

import contextlib
import datetime
import email.utils
import json
import os
import signal
import threading
import time
import unittest
import unittest.mock

import drover
from drover import _clock, _tasks

from .support import Coordinator, CoordinatorCase, Scripted, answer, by_clock, cut, lines, problem, run_program


class Loop(CoordinatorCase):
    def add(self, queue, count, **settings):
        robot = self.coordinator.robot()
        return [robot.add_task(queue, {"n": n}, f"ref-{n}", **settings) for n in range(count)]

    def states(self, queue):
        return {task["reference"]: task["state"] for task in self.listed(queue)}

    def task(self, queue, reference):
        found = self.listed(queue, reference=reference)
        return self.call("GET", "tasks", found[0]["id"])

    def test_tasks_end_as_their_handler_ends_and_in_their_order(self):
        queue = self.queue()
        self.add(queue, 4)
        order = []

        def handle(task):
            order.append(task.reference)
            if task.payload["n"] == 1:
                raise drover.BusinessError("not ours", code="foreign", output={"seen": True})
            if task.payload["n"] == 2:
                return 1 / 0
            return {"twice": task.payload["n"] * 2}

        with lines() as records:
            result = self.coordinator.robot().work(queue, handle)
        self.assertEqual(result, {"succeeded": 2, "failed": 2, "stopped": False})
        self.assertEqual(order, ["ref-0", "ref-1", "ref-2", "ref-3"])
        self.assertEqual(self.task(queue, "ref-3")["output"], {"twice": 6})
        failed = self.task(queue, "ref-1")
        self.assertEqual(failed["error"], {"kind": "business", "code": "foreign", "message": "not ours"})
        self.assertEqual(failed["output"], {"seen": True})
        self.assertEqual(self.task(queue, "ref-2")["error"]["code"], "ZeroDivisionError")
        told = {record["fields"]["reference"]: record["level"] for record in records}
        self.assertEqual(told, {"ref-1": "warning", "ref-2": "error"})

    def test_one_call_ends_a_task_and_takes_the_next(self):
        queue = self.queue()
        self.add(queue, 3)
        robot = self.coordinator.robot()
        calls = []
        call = robot.client.call
        robot.client.call = lambda *args, **more: calls.append(args[1][-1]) or call(*args, **more)
        for task in robot.tasks(queue):
            with task:
                pass
        self.assertEqual(calls, ["take", "succeed", "succeed", "succeed"])

    def test_the_body_of_a_plain_loop_ends_its_tasks_too(self):
        queue = self.queue()
        self.add(queue, 2)
        for task in self.coordinator.robot().tasks(queue):
            task.output = task.payload["n"]
        self.assertEqual(self.states(queue), {"ref-0": "succeeded", "ref-1": "succeeded"})
        self.assertEqual(self.task(queue, "ref-1")["output"], 1)

    def test_a_task_that_was_ended_by_a_call_is_not_ended_again(self):
        queue = self.queue()
        self.add(queue, 3)
        loop = self.coordinator.robot().tasks(queue)
        for task in loop:
            with task:
                if task.payload["n"] == 0:
                    task.succeed({"by": "call"})
                elif task.payload["n"] == 1:
                    task.fail("by call", "why")
                else:
                    task.postpone(datetime.timedelta(hours=1), {"step": 3})
        self.assertEqual(self.states(queue), {"ref-0": "succeeded", "ref-1": "failed", "ref-2": "postponed"})
        self.assertEqual(self.task(queue, "ref-2")["checkpoint"], {"step": 3})
        self.assertEqual(loop.result(), {"succeeded": 1, "failed": 1, "stopped": False})

    def test_a_loop_that_is_left_gives_back_what_it_has_not_begun(self):
        queue = self.queue()
        self.add(queue, 3)
        for task in self.coordinator.robot().tasks(queue):
            with task:
                pass
            break
        self.assertEqual(self.states(queue), {"ref-0": "succeeded", "ref-1": "new", "ref-2": "new"})
        self.assertEqual(self.coordinator.robot().work(queue, lambda task: None)["succeeded"], 2)

    def test_what_is_given_back_is_free_at_once_whatever_the_clock_of_this_host_says(self):
        queue = self.queue()
        self.add(queue, 2)
        later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=10)
        with unittest.mock.patch.object(_clock, "now", return_value=later):
            for task in self.coordinator.robot().tasks(queue):
                with task:
                    pass
                break
        self.assertEqual(self.states(queue), {"ref-0": "succeeded", "ref-1": "new"})

    def test_a_limit_takes_no_more(self):
        queue = self.queue()
        self.add(queue, 3)
        self.assertEqual(self.coordinator.robot().work(queue, lambda task: None, limit=2)["succeeded"], 2)
        self.assertEqual(self.states(queue)["ref-2"], "new")

    def test_filters_choose(self):
        queue = self.queue()
        robot = self.coordinator.robot()
        for n, tags in enumerate((["a"], ["b"], ["a", "b"])):
            robot.add_task(queue, {}, f"ref-{n}", tags=tags)
        seen = []
        robot.work(queue, lambda task: seen.append(task.reference), tags=["a", "-b"])
        robot.work(queue, lambda task: seen.append(task.reference), reference="ref-2")
        self.assertEqual(seen, ["ref-0", "ref-2"])
        self.assertEqual(self.states(queue)["ref-1"], "new")

    def test_one_application_error_after_another_ends_the_loop_and_spares_the_rest(self):
        queue = self.queue()
        self.add(queue, 6)
        with lines(), self.assertRaisesRegex(drover.TooManyErrors, "screen is missing"):
            self.coordinator.robot().work(queue, self.fail_with(RuntimeError("screen is missing")), give_up_after=3)
        states = list(self.states(queue).values())
        self.assertEqual((states.count("failed"), states.count("new")), (3, 3))

    def test_application_errors_that_are_told_by_a_call_end_the_loop_as_well(self):
        for ends in (lambda task: contextlib.nullcontext(), lambda task: task):
            queue = self.queue()
            self.add(queue, 6)
            loop = self.coordinator.robot().tasks(queue, give_up_after=3)
            with self.assertRaisesRegex(drover.TooManyErrors, "screen 2 is missing"):
                for task in loop:
                    with ends(task):
                        task.fail(f"screen {task.payload['n']} is missing", kind="application")
            states = list(self.states(queue).values())
            self.assertEqual((states.count("failed"), states.count("new"), loop.failed), (3, 3, 3))

    def test_business_errors_do_not_end_the_loop(self):
        queue = self.queue()
        self.add(queue, 6)
        with lines():
            handle = self.fail_with(drover.BusinessError("no"))
            self.assertEqual(self.coordinator.robot().work(queue, handle, give_up_after=2)["failed"], 6)

    def fail_with(self, error):
        def handle(_task):
            raise error

        return handle

    def test_a_stop_ends_the_loop_after_the_task_at_hand(self):
        queue = self.queue()
        self.add(queue, 3)
        robot = self.coordinator.robot()
        robot.job.stop_requested = lambda: bool(self.states(queue)["ref-0"] != "new")
        result = robot.work(queue, lambda task: None)
        self.assertEqual(result, {"succeeded": 1, "failed": 0, "stopped": True})
        self.assertEqual(list(self.states(queue).values()).count("new"), 2)

    def test_a_waiting_loop_gets_what_is_added_later(self):
        queue = self.queue()
        robot = self.coordinator.robot()
        adding = threading.Timer(0.3, lambda: self.coordinator.robot().add_task(queue, {"late": True}))
        adding.start()
        seen = []
        robot.work(queue, lambda task: seen.append(task.payload), wait_seconds=30, limit=1)
        adding.join()
        self.assertEqual(seen, [{"late": True}])

    def test_a_checkpoint_goes_to_the_next_attempt(self):
        queue = self.queue(max_attempts=2)
        self.add(queue, 1)
        seen = []

        def handle(task):
            seen.append((task.attempt, task.checkpoint))
            if task.checkpoint is None:
                task.save({"step": 3}, 50, "halfway")
                raise drover.ApplicationError("the connection broke")

        with lines():
            self.coordinator.robot().work(queue, handle, wait_seconds=5, limit=2)
        self.assertEqual(seen, [(1, None), (2, {"step": 3})])

    def test_a_lease_is_renewed_while_the_body_runs(self):
        queue = self.queue(lease_seconds=1)
        self.add(queue, 1)
        result = self.coordinator.robot().work(queue, lambda task: time.sleep(2.5))
        self.assertEqual((result["succeeded"], self.states(queue)), (1, {"ref-0": "succeeded"}))
        self.assertEqual(self.task(queue, "ref-0")["attempt"], 1)

    def test_a_task_that_was_taken_away_ends_nothing_and_the_loop_goes_on(self):
        queue = self.queue()
        self.add(queue, 2)

        def handle(task):
            if task.payload["n"] == 0:
                self.call(
                    "POST", "tasks", task.id, "fail", body={"attempt": task.attempt, "kind": "business", "message": "x"}
                )

        with lines() as records:
            self.coordinator.robot().work(queue, handle)
        self.assertEqual(self.states(queue), {"ref-0": "failed", "ref-1": "succeeded"})
        self.assertIn("does not count", records[0]["message"])

    def test_an_output_that_the_queue_refuses_fails_the_task(self):
        queue = self.queue(output_schema={"type": "object", "required": ["total"]})
        self.add(queue, 1)
        with lines():
            result = self.coordinator.robot().work(queue, lambda task: {"sum": 1})
        self.assertEqual(result["failed"], 1)
        self.assertEqual(self.task(queue, "ref-0")["error"]["code"], "output_refused")

    def test_files_travel_with_a_task(self):
        if "/api/v1/tasks/{task}/files/{name}" not in self.call("GET", "openapi.json")["paths"]:
            self.skipTest("this coordinator keeps no files of tasks yet")
        queue = self.queue()
        (task_id,) = self.add(queue, 1)
        for task in self.coordinator.robot().tasks(queue):
            with task:
                task.attach("scan & copy.pdf", b"%PDF")
        names = [file["name"] for file in self.call("GET", "tasks", task_id)["files"]]
        self.assertEqual(names, ["scan & copy.pdf"])

    def test_what_cannot_be_kept_fails_its_task_and_the_loop_goes_on(self):
        queue = self.queue()
        self.add(queue, 6)
        name = os.fsdecode(b"caf\xe9.pdf")

        def handle(task):
            n = task.payload["n"]
            if n == 3:
                raise drover.BusinessError("cannot read " + name, code="unreadable")
            if n == 4:
                raise drover.BusinessError("no share", output={"share": float("nan")})
            return [{"share": float("nan")}, {"name": name}, {"no": 10**20}, None, None, {"done": True}][n]

        with lines():
            result = self.coordinator.robot().work(queue, handle)
        self.assertEqual(result, {"succeeded": 1, "failed": 5, "stopped": False})
        ends = [self.task(queue, f"ref-{n}")["error"] for n in range(6)]
        self.assertEqual([end and end.get("code") for end in ends], ["output_refused"] * 3 + ["unreadable", None, None])
        self.assertEqual((ends[3]["kind"], ends[3]["message"]), ("business", "cannot read caf?.pdf"))
        self.assertEqual((ends[4]["kind"], ends[4]["message"]), ("business", "no share"))

    def test_what_is_said_of_a_failure_holds_no_secret(self):
        queue = self.queue()
        self.add(queue, 2)
        drover.Secret("hunter2-xyz")
        text = "no way to https://svc:hunter2-xyz@erp/"

        def handle(task):
            if task.payload["n"] == 0:
                raise ConnectionError(text)
            task.fail(text)

        with lines():
            self.coordinator.robot().work(queue, handle)
        for n in range(2):
            message = self.task(queue, f"ref-{n}")["error"]["message"]
            self.assertIn("no way to https://svc:", message)
            self.assertNotIn("hunter2", message)

    def test_a_code_may_be_anything_and_is_a_text(self):
        queue = self.queue()
        self.add(queue, 4)
        codes = [404, 0, os.fsdecode(b"caf\xe9"), "ж" * 200]

        def handle(task):
            n = task.payload["n"]
            if n == 1:
                task.fail("gone", codes[n])
            else:
                raise drover.BusinessError("gone", code=codes[n])

        with lines():
            self.assertEqual(self.coordinator.robot().work(queue, handle)["failed"], 4)
        kept = [self.task(queue, f"ref-{n}")["error"] for n in range(4)]
        self.assertEqual([error["code"] for error in kept], ["404", "0", "caf?", "ж" * 128])
        self.assertEqual({error["kind"] for error in kept}, {"business"})

    def test_a_reference_that_is_there_is_told_with_its_id(self):
        queue = self.queue(unique_references=True)
        (task_id,) = self.add(queue, 1)
        with self.assertRaises(drover.AlreadyExists) as raised:
            self.add(queue, 1)
        self.assertEqual(raised.exception.id, task_id)

    def test_a_program_that_fails_in_a_plain_loop_fails_its_task_and_gives_back_the_rest(self):
        queue = self.queue()
        self.add(queue, 3)
        program = (
            "import drover\n"
            "def main(robot):\n"
            f"    for task in robot.tasks({queue!r}):\n"
            "        if task.payload['n'] == 1: raise drover.BusinessError('it stops here')\n"
            "drover.run(main)\n"
        )
        done, left = run_program(program, DROVER_URL=self.coordinator.url, DROVER_TOKEN=self.coordinator.key)
        self.assertEqual((done.returncode, done.stderr), (1, ""))
        self.assertEqual(self.states(queue), {"ref-0": "succeeded", "ref-1": "failed", "ref-2": "new"})
        self.assertEqual(json.loads(left["error.json"])["message"], "it stops here")


class Bulk(CoordinatorCase):
    def test_many_are_added_with_an_answer_for_each(self):
        queue = self.queue(unique_references=True)
        robot = self.coordinator.robot()
        robot.add_task(queue, {}, "5")
        answers = []
        tasks = (drover.new_task({"n": n}, str(n), priority=9 if n == 7 else 2) for n in range(2500))
        result = robot.add_tasks(queue, tasks, each=answers.append)
        self.assertEqual(result.as_dict(), {"added": 2498, "duplicates": 1, "failed": 1})
        self.assertEqual([answer["line"] for answer in answers], list(range(1, 2501)))
        self.assertIn("duplicate_of", answers[5])
        self.assertEqual(result.errors[0][0], 8)
        self.assertIn("priority", result.errors[0][1])

    def test_what_is_no_json_holds_up_no_other_and_can_be_mended_under_the_same_key(self):
        queue = self.queue()
        robot = self.coordinator.robot()
        odd = {0: float("nan"), 4: {1, 2}, 999: os.fsdecode(b"caf\xe9.pdf"), 1000: object()}
        answers = []
        tasks = (drover.new_task({"value": odd.get(n, n)}) for n in range(1100))
        result = robot.add_tasks(queue, tasks, key="an-import", each=answers.append)
        self.assertEqual(result.as_dict(), {"added": 1096, "duplicates": 0, "failed": 4})
        self.assertEqual([answer["line"] for answer in answers], list(range(1, 1101)))
        self.assertEqual([line for line, _ in result.errors], [n + 1 for n in odd])
        self.assertIn("set cannot be written as JSON", result.errors[1][1])
        again = robot.add_tasks(queue, [drover.new_task({"value": n}) for n in range(1100)], key="an-import")
        self.assertEqual(again.as_dict(), {"added": 1100, "duplicates": 0, "failed": 0})
        self.assertEqual(self.call("GET", "queues", queue, "stats")["counts"]["new"], 1100)

    def test_tasks_keep_their_numbers_when_others_become_longer_or_shorter(self):
        """Wherever the pieces are cut: by lines as well as by bytes."""
        queue = self.queue()
        robot = self.coordinator.robot()
        texts = [str(n) * (600 if n % 3 else 5) for n in range(1005)]
        for odd, failed in (({0: float("nan"), 500: "x" * 5_000, 1001: {1}}, 3), ({3: "x" * 5_000}, 1), ({}, 0)):
            tasks = [drover.new_task(odd.get(n, text), priority=9 if n in odd else 2) for n, text in enumerate(texts)]
            answers = []
            with unittest.mock.patch.object(_tasks, "_PIECE_BYTES", 20_000):
                result = robot.add_tasks(queue, tasks, key="k1", each=answers.append)
            self.assertEqual([answer["line"] for answer in answers], list(range(1, 1006)))
            self.assertEqual(result.as_dict(), {"added": 1005 - failed, "duplicates": 0, "failed": failed})
            self.assertEqual([line for line, _ in result.errors], [n + 1 for n in odd])
        self.assertEqual(len({answer["id"] for answer in answers}), 1005)
        self.assertEqual(self.call("GET", "queues", queue, "stats")["counts"]["new"], 1005)

    def test_large_tasks_of_which_one_is_mended_are_there_once(self):
        queue = self.queue()
        robot = self.coordinator.robot()
        texts = [str(n) * 600_000 for n in range(10)]
        results = []
        for first in (float("nan"), texts[0]):
            tasks = [drover.new_task(text) for text in (first, *texts[1:])]
            results.append(robot.add_tasks(queue, tasks, key="k1").as_dict())
        self.assertEqual([result["added"] for result in results], [9, 10])
        self.assertEqual(self.call("GET", "queues", queue, "stats")["counts"]["new"], 10)

    def test_a_piece_of_nothing_but_what_is_no_json_is_told_as_well(self):
        result = self.coordinator.robot().add_tasks(self.queue(), [drover.new_task(float("nan"))] * 2)
        self.assertEqual([line for line, _ in result.errors], [1, 2])

    def test_the_same_key_adds_nothing_twice(self):
        queue = self.queue()
        robot = self.coordinator.robot()
        ids = [[], []]
        for seen in ids:
            tasks = [drover.new_task({"n": n}) for n in range(1200)]
            robot.add_tasks(queue, tasks, key="an-import", each=lambda answer, seen=seen: seen.append(answer["id"]))
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(self.call("GET", "queues", queue, "stats")["counts"]["new"], 1200)


class LostAnswers(unittest.TestCase):
    """What a scripted server alone can show."""

    def test_a_piece_whose_answer_breaks_off_is_sent_again_under_its_key(self):
        done = b'{"line":1,"id":"a"}\n{"added":1,"duplicates":0,"failed":0}\n'
        server = Scripted(self, answer(b'{"line":1,"id":"a"}\n'), cut, answer(done))
        robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
        self.assertEqual(robot.add_tasks("q", [drover.new_task(1)], key="k").added, 1)
        self.assertEqual({headers["Idempotency-Key"] for _, _, headers, _ in server.seen}, {"k.0"})

    def test_a_while_from_now_is_meant_by_the_clock_of_the_coordinator(self):
        self.addCleanup(setattr, _clock, "_ahead_seconds", 0.0)
        for ahead in (0, 400, -600, 0):
            taken = answer({"items": [{"id": "t", "attempt": 1, "payload": {}}]})
            server = Scripted(self, by_clock(ahead, taken), answer({}))
            robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
            for task in robot.tasks("q", limit=1):
                task.postpone(300)
            until = _tasks._parsed(json.loads(server.seen[1][3])["until"])
            self.assertAlmostEqual(until.timestamp() - time.time(), ahead + 300, delta=1.5)

    def test_a_clock_that_is_right_is_not_rounded_to_the_seconds_of_answers(self):
        self.addCleanup(setattr, _clock, "_ahead_seconds", 0.0)
        # Earlier tests may have left what they learnt of their coordinators.
        _clock._ahead_seconds = 0.0
        for tenth in range(30):
            at = 1_800_000_000 + tenth / 10
            _clock.note(email.utils.formatdate(int(at), usegmt=True), at - 0.01, at + 0.01)
            self.assertEqual(_clock._ahead_seconds, 0)
        for date in ("", "yesterday", "Sun, 29 Nov 99999 20:42:53 GMT"):
            _clock.note(date, at, at)
        self.assertEqual(_clock._ahead_seconds, 0)

    def test_pieces_are_bounded(self):
        lines = [{"payload": "x" * 100_000} for _ in range(100)]
        pieces = list(_tasks._pieces(lines))
        self.assertEqual([first for first, _ in pieces], [0, 41, 82])
        self.assertEqual([len(piece) for _, piece in pieces], [41, 41, 18])
        self.assertTrue(all(sum(len(line.content) for line in piece) <= _tasks._PIECE_BYTES for _, piece in pieces))
        pieces = [(first, len(piece)) for first, piece in _tasks._pieces({"payload": n} for n in range(2001))]
        self.assertEqual(pieces, [(0, 1000), (1000, 1000), (2000, 1)])

    def test_a_thousand_tasks_have_one_key_however_many_pieces_they_are(self):
        def told(handler):
            lines = enumerate(server.seen[-1][3].splitlines(), 1)
            answers = [{"line": number, "id": str(number)} for number, line in lines if line]
            answer(b"".join(json.dumps(line).encode() + b"\n" for line in [*answers, {"added": len(answers)}]))(handler)

        server = Scripted(self, told)
        robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
        with unittest.mock.patch.object(_tasks, "_PIECE_BYTES", 10_000):
            robot.add_tasks("q", (drover.new_task("x" * 20) for _ in range(2500)), key="k")
        places = {}
        for _, _, headers, body in server.seen:
            before = len(body) - len(body.lstrip(b"\n"))
            self.assertLessEqual(len(body), 10_000 + 999)
            self.assertEqual(before, places.get(headers["Idempotency-Key"], 0))
            places[headers["Idempotency-Key"]] = len(body.splitlines())
        self.assertEqual(places, {"k.0": 1000, "k.1": 1000, "k.2": 500})
        self.assertGreater(len(server.seen), 6)

    def test_a_stop_in_a_long_wait_is_seen(self):
        server = Scripted(self, answer({"items": []}))
        robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
        robot.job.stop_requested = lambda: len(server.seen) >= 3
        self.assertEqual(list(robot.tasks("q", wait_seconds=None)), [])
        self.assertTrue(all(json.loads(body)["wait_seconds"] <= 5 for *_, body in server.seen))

    def test_a_success_whose_answer_was_not_understood_stays_one(self):
        task = {"id": "t", "attempt": 1, "payload": {}}
        taken, page = answer({"items": [task]}), answer(b"<html>")
        server = Scripted(self, taken, page, answer({"next": None}), answer({"items": []}))
        robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
        self.assertEqual(robot.work("q", lambda task: {"paid": 1})["succeeded"], 1)
        self.assertEqual([path.rpartition("/")[2] for _, path, *_ in server.seen][1:3], ["succeed", "succeed"])
        for step in (page, answer(b"", 308, Location="/sign-in"), answer(b"too large", 413)):
            server = Scripted(self, taken, step)
            robot = drover.Robot(drover.Client(server.url, "k", retry_seconds=0.2), drover.Job({}))
            with self.assertRaises(drover.DroverError) as raised:
                robot.work("q", lambda task: {"paid": 1})
            robot._clean_up(raised.exception)
            self.assertFalse([path for _, path, *_ in server.seen if path.endswith("/fail")])

    def test_a_bulk_addition_that_a_proxy_answers_is_sent_again(self):
        done = b'{"line":1,"id":"a"}\n{"added":1,"duplicates":0,"failed":0}\n'
        server = Scripted(self, answer(b"<html>"), answer(done))
        robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
        self.assertEqual(robot.add_tasks("q", [drover.new_task(1)]).added, 1)

    def test_a_program_whose_coordinator_is_gone_does_not_try_to_end_its_task_for_ever(self):
        task = {"id": "t", "attempt": 1, "payload": {}}
        server = Scripted(self, answer({"items": [task]}), problem(503, "unavailable"))
        robot = drover.Robot(drover.Client(server.url, "k", retry_seconds=0.2), drover.Job({}))
        with self.assertRaises(drover.Unreachable) as raised:
            robot.work("q", lambda task: None)
        seen = len(server.seen)
        robot._clean_up(raised.exception)
        self.assertEqual(len(server.seen), seen)


    def test_what_a_proxy_refuses_fails_the_task_unless_it_is_its_end(self):
        def program(body, *steps):
            server = Scripted(self, answer({"items": [{"id": "t", "attempt": 1, "payload": {}}]}), *steps)
            robot = drover.Robot(drover.Client(server.url, "k"), drover.Job({}))
            with lines(), self.assertRaises(drover.ApiError) as raised:
                for task in robot.tasks("q"):
                    body(robot, task)
            with lines():
                robot._clean_up(raised.exception)
            return [path.rsplit("/", 1)[1] for _, path, _, _ in server.seen]

        large = answer(b"<html>", 413)
        seen = program(lambda robot, _: robot.storage("s").put("a", b"1"), large, answer({"id": "t"}))
        self.assertEqual(seen, ["take", "a", "fail"])
        self.assertEqual(program(lambda _, task: task.succeed("x"), large), ["take", "succeed"])


class Crash(unittest.TestCase):
    def test_a_coordinator_killed_in_the_middle_loses_and_doubles_nothing(self):
        coordinator = Coordinator()
        self.addCleanup(coordinator.close)
        robot = coordinator.robot()
        robot.client.call("POST", ("queues",), {"name": "q"})
        robot.add_tasks("q", [drover.new_task({"n": n}) for n in range(60)])
        seen = []

        def handle(task):
            seen.append(task.payload["n"])
            if len(seen) % 20 == 10:
                coordinator.end(signal.SIGKILL)
                coordinator.start()

        self.assertEqual(robot.work("q", handle)["succeeded"], 60)
        self.assertEqual(seen, list(range(60)))
        counts = robot.client.call("GET", ("queues", "q", "stats"))["counts"]
        self.assertEqual((counts["succeeded"], counts["new"], counts["in_progress"]), (60, 0, 0))


if __name__ == "__main__":
    unittest.main()
