"""Proves what a program tells the agent: output, error, log lines, artifacts, and that it ends when a stop is asked."""

import datetime
import decimal
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import drover
from drover import _log

from .support import PACKAGE, lines, run_program


class Run(unittest.TestCase):
    def run_main(self, main, files=None, **environment):
        done, left = run_program(f"import drover\n{main}\ndrover.run(main)\n", files, **environment)
        self.lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.left = left
        self.assertEqual(done.stderr, "")
        return done.returncode

    def test_what_main_returns_is_the_output(self):
        code = self.run_main("def main(robot): return {'doubled': robot.input['n'] * 2}", {"input.json": '{"n": 21}'})
        self.assertEqual((code, json.loads(self.left["output.json"])), (0, {"doubled": 42}))
        self.assertNotIn("error.json", self.left)

    def test_main_needs_no_robot_and_no_output(self):
        self.assertEqual(self.run_main("def main(): pass"), 0)
        self.assertEqual(self.left, {})

    def test_an_error_says_whom_it_concerns(self):
        code = self.run_main("def main(): raise drover.BusinessError('no such supplier', code='unknown_supplier')")
        self.assertEqual(code, 1)
        wanted = {"kind": "business", "code": "unknown_supplier", "message": "no such supplier"}
        self.assertEqual(json.loads(self.left["error.json"]), wanted)

    def test_a_code_may_be_anything_and_is_a_text(self):
        ways = ("raise drover.BusinessError('gone', code=404)", "robot.job.set_error('business', 'gone', 404)")
        for way in ways:
            self.run_main(f"def main(robot): {way}")
            error = json.loads(self.left["error.json"])
            self.assertEqual(error, {"kind": "business", "code": "404", "message": "gone"})

    def test_an_error_keeps_its_kind_whatever_file_it_names(self):
        main = "import os\ndef main(): raise drover.BusinessError('cannot read ' + os.fsdecode(b'caf\\xe9.pdf'))"
        self.assertEqual(self.run_main(main), 1)
        error = json.loads(self.left["error.json"])
        self.assertEqual((error["kind"], error["message"]), ("business", "cannot read caf?.pdf"))

    def test_a_bug_is_an_application_error_with_its_traceback_in_the_log(self):
        self.assertEqual(self.run_main("def main(): return 1 / 0"), 1)
        error = json.loads(self.left["error.json"])
        self.assertEqual((error["kind"], error["code"]), ("application", "ZeroDivisionError"))
        self.assertIn("division by zero", error["message"])
        self.assertTrue(any("Traceback" in line["message"] and line["level"] == "error" for line in self.lines))

    def test_an_output_that_is_no_json_fails_the_job(self):
        for value in ("{'a': object()}", "float('nan')"):
            self.assertEqual(self.run_main(f"def main(): return {value}"), 1)
            self.assertEqual(json.loads(self.left["error.json"])["kind"], "application")
            self.assertNotIn("output.json", self.left)

    def test_an_input_that_cannot_be_used_is_an_error_that_says_so(self):
        for text, why in (("[]", "must be a JSON object"), ("{", "cannot be read")):
            self.assertEqual(self.run_main("def main(robot): return robot.input", {"input.json": text}), 1)
            self.assertIn(why, json.loads(self.left["error.json"])["message"])

    def test_artifacts_lie_in_their_folder(self):
        self.assertEqual(self.run_main("def main(robot): robot.artifact('a/b.txt').write_text('x')"), 0)
        self.assertEqual(self.left, {os.path.join("artifacts", "a", "b.txt"): "x"})

    def test_without_a_coordinator_only_what_needs_one_fails_and_says_what_is_missing(self):
        self.assertEqual(self.run_main("def main(robot): robot.info('works'); robot.resource('x')"), 1)
        self.assertEqual(self.lines[0]["message"], "works")
        self.assertIn("DROVER_URL", json.loads(self.left["error.json"])["message"])

    def test_the_stop_file_asks_to_stop(self):
        main = "def main(robot): return {'stop': robot.stop_requested()}"
        self.run_main(main)
        self.assertEqual(json.loads(self.left["output.json"]), {"stop": False})
        self.run_main(main, {"stop": ""})
        self.assertEqual(json.loads(self.left["output.json"]), {"stop": True})

    def test_an_interrupt_asks_to_stop_and_breaks_nothing_off(self):
        text = (
            "import drover, time\n"
            "def main(robot):\n"
            "    robot.info('begun')\n"
            "    while not robot.stop_requested(): time.sleep(0.01)\n"
            "    robot.info('ended in order')\n"
            "drover.run(main)\n"
        )
        command = [sys.executable, "-B", "-c", text]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE)}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            self.assertIn("begun", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            self.assertIn("ended in order", process.communicate(timeout=30)[0])
            self.assertEqual(process.returncode, 0)


class Log(unittest.TestCase):
    def test_a_line_is_a_record_in_ascii(self):
        robot = drover.Robot(job=drover.Job({}))
        with lines() as records:
            robot.warning("счёт №1", supplier="Müller", amount=decimal.Decimal("1.50"))
            robot.progress(12.345, "half")
        self.assertEqual(
            records[0],
            {"level": "warning", "message": "счёт №1", "fields": {"supplier": "Müller", "amount": "1.50"}},
        )
        self.assertEqual(records[1]["progress"], {"percent": 12.3, "text": "half"})

    def test_what_json_or_utf_8_cannot_hold_costs_a_line_nothing_else(self):
        name = os.fsdecode(b"caf\xe9.pdf")
        with lines() as records:
            _log.write("error", name, {"share": float("nan"), name: [float("-inf")]})
        fields = {"share": "NaN", "caf?.pdf": ["-Infinity"]}
        self.assertEqual(records, [{"level": "error", "message": "caf?.pdf", "fields": fields}])

    def test_whole_numbers_that_readers_would_round_are_texts(self):
        kept = {"least": -(2**63), "most": 2**64 - 1, "half": 0.5, "is": True}
        long = {"account": 40817810099910004312, "deep": [{"n": [-(2**63) - 1, 2**64]}]}
        with lines() as records:
            _log.write("info", "booked", {**long, **kept})
        texts = {"account": "40817810099910004312", "deep": [{"n": ["-9223372036854775809", "18446744073709551616"]}]}
        self.assertEqual(records[0]["fields"], {**texts, **kept})

    def test_secrets_that_were_read_are_masked_wherever_they_stand(self):
        drover.Secret("hunter2-hunter2")
        drover.Secret("hunter2")
        with lines() as records:
            _log.write("info", "it is hunter2-hunter2", {"deep": [{"hunter2": "x hunter2 y"}]})
        self.assertNotIn("hunter2", json.dumps(records))

    def test_secrets_do_not_show_what_they_hold(self):
        secret, credential = drover.Secret("s3cr3t-text"), drover.Credential("user", "p4ssw0rd")
        shown = f"{secret} {secret!r} {[secret]} {credential} {credential!r} {vars(credential)}"
        self.assertNotIn("s3cr3t", shown)
        self.assertNotIn("p4ssw0rd", shown)
        self.assertEqual((secret.reveal(), tuple(credential)), ("s3cr3t-text", ("user", "p4ssw0rd")))

    def test_what_python_logs_goes_there_as_well(self):
        import logging

        logger = logging.Logger("erp")
        logger.addHandler(drover.LogHandler())
        with lines() as records:
            logger.error("screen %s is missing", 7)
        self.assertEqual(records, [{"level": "error", "message": "screen 7 is missing", "fields": {"logger": "erp"}}])

    def test_an_unknown_level_is_refused(self):
        with self.assertRaisesRegex(ValueError, "critical"):
            _log.write("loud", "x")


class Values(unittest.TestCase):
    def test_dates_decimals_and_paths_become_texts(self):
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder, "out.json")
            job = drover.Job({"DROVER_OUTPUT": str(target)})
            at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone(datetime.timedelta(hours=3)))
            job.set_output(
                {"at": at, "day": at.date(), "sum": decimal.Decimal("0.10"), "path": pathlib.PurePosixPath("a/b")}
            )
            self.assertEqual(
                json.loads(target.read_text()),
                {"at": "2026-01-02T00:04:05.678Z", "day": "2026-01-02", "sum": "0.10", "path": "a/b"},
            )


if __name__ == "__main__":
    unittest.main()
