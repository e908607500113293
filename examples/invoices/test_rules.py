"""Proves each rule by an invoice that keeps it and one that breaks it, and a whole run by what it leaves behind."""

import csv
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
AS_OF = datetime.date(2025, 7, 31)
GOOD = {
    "supplier": "Hafenlogistik Bremen KG", "number": "2025-00001", "date": "2025-03-01", "due_date": "2025-03-31",
    "currency": "EUR", "net": "100.00", "vat_rate": "19", "vat": "19.00", "total": "119.00",
    "iban": "DE89370400440532013000",
}


def broken(**changes):
    return [rule for rule, _ in rules.check({**GOOD, **changes}, AS_OF, set())]


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

    def test_the_second_of_two_equal_numbers_is_the_duplicate(self):
        seen = set()
        self.assertEqual(rules.check(GOOD, AS_OF, seen), [])
        self.assertEqual([rule for rule, _ in rules.check(GOOD, AS_OF, seen)], ["number_duplicate"])
        self.assertEqual(rules.check({**GOOD, "supplier": "Another"}, AS_OF, seen), [])

    def test_iban(self):
        for good in ["GB29 NWBK 6016 1331 9268 19", "ch9300762011623852957", "NL91ABNA0417164300"]:
            self.assertTrue(rules.iban_is_valid(good), good)
        for bad in ["", None, "DE", "XX89370400440532013000", "DE8937040044053201300", "DE٨٩370400440532013000"]:
            self.assertFalse(rules.iban_is_valid(bad), bad)

    def test_a_row_with_missing_columns_is_rejected_without_a_crash(self):
        self.assertIn("amount_invalid", [rule for rule, _ in rules.check({}, AS_OF, set())])


class Data(unittest.TestCase):
    def test_the_shipped_file_is_what_the_generator_makes(self):
        self.assertEqual((HERE / "invoices.csv").read_text(encoding="utf-8"), generate_invoices.as_csv())


class Run(unittest.TestCase):
    """Runs main.py as an agent does: own folders, own environment."""

    def run_main(self, values, stop=False):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "input.json").write_text(json.dumps(values), encoding="utf-8")
            if stop:
                (place / "stop").touch()
            environment = {
                "PATH": os.environ["PATH"], "DROVER_INPUT": str(place / "input.json"),
                "DROVER_OUTPUT": str(place / "output.json"), "DROVER_ERROR": str(place / "error.json"),
                "DROVER_ARTIFACTS": str(place / "artifacts"), "DROVER_STOP_FILE": str(place / "stop"),
            }
            command = [sys.executable, "-B", "main.py"]
            done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, timeout=60, check=False)
            self.lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
            self.assertEqual(done.stderr, b"")
            self.files = {path.name: path.read_text(encoding="utf-8") for path in place.rglob("*") if path.is_file()}
            return done.returncode

    def test_every_spoilt_invoice_is_found_and_no_other(self):
        self.assertEqual(self.run_main({"as_of": "2025-07-31"}), 0)
        output = json.loads(self.files["output.json"])
        spoilt = sum(count for _, count in generate_invoices.MISTAKES)
        self.assertEqual((output["checked"], output["rejected"], output["stopped"]), (400, spoilt, False))
        self.assertEqual(output["accepted"], 400 - spoilt)
        self.assertEqual(sum(output["rejections_by_rule"].values()), spoilt)
        rejected = list(csv.DictReader(self.files["rejected.csv"].splitlines()))
        self.assertEqual(len(rejected), spoilt)
        self.assertIn("Rejected", self.files["report.html"])
        self.assertEqual(sum(line["level"] == "warning" for line in self.lines), spoilt)
        self.assertEqual([line["progress"]["percent"] for line in self.lines if "progress" in line][-1], 100)

    def test_a_limit_ends_it_early_and_rejects_may_fail_it(self):
        self.assertEqual(self.run_main({"limit": 300, "fail_on_reject": True, "as_of": "2025-07-31"}), 1)
        self.assertEqual(json.loads(self.files["output.json"])["checked"], 300)
        error = json.loads(self.files["error.json"])
        self.assertEqual((error["kind"], error["code"]), ("business", "invoices_rejected"))

    def test_a_stop_leaves_what_was_done_so_far(self):
        self.assertEqual(self.run_main({}, stop=True), 0)
        output = json.loads(self.files["output.json"])
        self.assertEqual((output["checked"], output["stopped"]), (0, True))
        self.assertIn("report.html", self.files)

    def test_a_wrong_input_is_an_error_that_says_what_is_wrong(self):
        wrong = [({"limits": 3}, "limits"), ({"limit": 0}, "limit"), ({"as_of": "soon"}, "as_of"), ([], "object")]
        for values, text in wrong:
            self.assertEqual(self.run_main(values), 1)
            error = json.loads(self.files["error.json"])
            self.assertEqual(error["code"], "bad_input")
            self.assertIn(text, error["message"])


if __name__ == "__main__":
    unittest.main()
