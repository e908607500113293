"""Proves each rule by an invoice that keeps it and one that breaks it, and both processes against a real coordinator."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import generate_invoices
import rules

HERE = pathlib.Path(__file__).resolve().parent
SDK = HERE.parents[1] / "sdk" / "python"
sys.path.insert(0, str(SDK))

from tests.support import CoordinatorCase  # noqa: E402, it lies with the tests of the helper

AS_OF = datetime.date(2025, 7, 31)
GOOD = {
    "supplier": "Hafenlogistik Bremen KG", "number": "2025-00001", "date": "2025-03-01", "due_date": "2025-03-31",
    "currency": "EUR", "net": "100.00", "vat_rate": "19", "vat": "19.00", "total": "119.00",
    "iban": "DE89370400440532013000",
}
DUPLICATES = dict(generate_invoices.MISTAKES)["duplicate"]
REJECTED = sum(count for _, count in generate_invoices.MISTAKES) - DUPLICATES


def broken(**changes):
    return [rule for rule, _ in rules.check({**GOOD, **changes}, AS_OF)]


class Rules(unittest.TestCase):
    def test_a_good_invoice_breaks_no_rule(self):
        self.assertEqual(broken(), [])

    def test_each_mistake_is_named(self):
        self.assertEqual(broken(supplier=" "), ["supplier_missing"])
        self.assertEqual(broken(number=""), ["number_missing"])
        self.assertEqual(broken(date="01.03.2025"), ["date_invalid"])
        self.assertEqual(broken(date="2025-08-01"), ["date_in_future"])
        self.assertEqual(broken(due_date=""), ["due_date_invalid"])
        self.assertEqual(broken(due_date="2025-02-28"), ["due_before_date"])
        self.assertEqual(broken(currency="EURO"), ["currency_unknown"])
        self.assertEqual(broken(net="a hundred"), ["amount_invalid"])
        self.assertEqual(broken(vat="21.00", total="121.00"), ["vat_wrong"])
        self.assertEqual(broken(total="118.00"), ["total_wrong"])
        self.assertEqual(broken(iban="DE89370400440532013001"), ["iban_invalid"])

    def test_amounts_that_are_no_amounts_are_refused(self):
        for text in ["NaN", "Infinity", "1e30", "", None, "1,50"]:
            self.assertIsNone(rules.parse_amount(text), text)

    def test_one_cent_of_rounding_is_allowed(self):
        self.assertEqual(broken(vat="19.01", total="119.01"), [])
        self.assertEqual(broken(vat="19.02", total="119.02"), ["vat_wrong"])

    def test_iban(self):
        for good in ["GB29 NWBK 6016 1331 9268 19", "ch9300762011623852957", "NL91ABNA0417164300"]:
            self.assertTrue(rules.iban_is_valid(good), good)
        for bad in ["", None, "DE", "XX89370400440532013000", "DE8937040044053201300", "DE٨٩370400440532013000"]:
            self.assertFalse(rules.iban_is_valid(bad), bad)

    def test_a_row_with_missing_columns_is_rejected_without_a_crash(self):
        self.assertIn("amount_invalid", [rule for rule, _ in rules.check({}, AS_OF)])


class Data(unittest.TestCase):
    def test_the_shipped_file_is_what_the_generator_makes(self):
        text = (HERE / "load" / "invoices.csv").read_text(encoding="utf-8")
        self.assertEqual(text, generate_invoices.as_csv())


class Processes(CoordinatorCase):
    """Runs both programs as an agent does: own folders, own environment."""

    def setUp(self):
        for queue in self.call("GET", "queues")["items"]:
            self.call("POST", "tasks", "bulk-action", body={"filter": {"queue": "invoices"}, "action": "delete"})
            self.call("DELETE", "queues", queue["id"])
        self.call("POST", "queues", body={"name": "invoices", "unique_references": True})

    def run_main(self, name, values=None, stop=False):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "input.json").write_text(json.dumps(values or {}), encoding="utf-8")
            if stop:
                (place / "stop").touch()
            environment = {
                "PATH": os.environ["PATH"], "PYTHONPATH": str(SDK), "DROVER_JOB_ID": "a-job",
                "DROVER_URL": self.coordinator.url, "DROVER_TOKEN": self.coordinator.key,
                "DROVER_INPUT": str(place / "input.json"), "DROVER_OUTPUT": str(place / "output.json"),
                "DROVER_ERROR": str(place / "error.json"), "DROVER_STOP_FILE": str(place / "stop"),
            }
            command = [sys.executable, "-B", "main.py"]
            done = subprocess.run(
                command, cwd=HERE / name, env=environment, capture_output=True, timeout=120, check=False
            )
            self.lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
            self.assertEqual((done.returncode, done.stderr), (0, b""), self.lines)
            return json.loads((place / "output.json").read_text(encoding="utf-8"))

    def test_every_invoice_is_loaded_once_however_often_the_loader_runs(self):
        wanted = generate_invoices.COUNT - DUPLICATES
        self.assertEqual(self.run_main("load"), {"added": wanted, "duplicates": DUPLICATES, "failed": 0})
        self.assertEqual(self.run_main("load"), {"added": 0, "duplicates": generate_invoices.COUNT, "failed": 0})

    def test_every_spoilt_invoice_is_told_and_no_other(self):
        added = self.run_main("load")["added"]
        result = self.run_main("work", {"as_of": "2025-07-31"})
        self.assertEqual(result, {"succeeded": added - REJECTED, "failed": REJECTED, "stopped": False})
        failed = self.listed("invoices", state="failed")
        self.assertEqual(len(failed), REJECTED)
        self.assertEqual({task["error"]["kind"] for task in failed}, {"business"})
        self.assertIn("vat_wrong", {task["error"]["code"] for task in failed})
        self.assertEqual(sum(line["level"] == "warning" for line in self.lines), REJECTED)

    def test_a_stop_leaves_the_rest_in_the_queue(self):
        added = self.run_main("load")["added"]
        self.assertEqual(self.run_main("work", stop=True), {"succeeded": 0, "failed": 0, "stopped": True})
        self.assertEqual(self.call("GET", "queues", "invoices", "stats")["counts"]["new"], added)


if __name__ == "__main__":
    unittest.main()
