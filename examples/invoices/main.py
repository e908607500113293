"""
Checks the invoices of invoices.csv against the rules of rules.py.

Under Drover it takes its input from DROVER_INPUT, tells its progress as JSON lines on standard output, leaves
report.html and rejected.csv in DROVER_ARTIFACTS and the figures in DROVER_OUTPUT, and ends in order when
DROVER_STOP_FILE appears. Run by hand (python3 main.py) it uses sensible places of its own.
"""

import collections
import csv
import datetime
import decimal
import json
import os
import pathlib
import signal
import sys
import time

import report
import rules

HERE = pathlib.Path(__file__).resolve().parent
INPUT_NAMES = {"limit", "delay_ms", "fail_on_reject", "as_of"}


class BadInput(Exception):
    """The input or the file of invoices cannot be used; the text says why."""


def log(level, message, fields=None, progress=None):
    """One structured record: Drover reads a JSON object with `message` as a line of the job's log."""
    record = {"level": level, "message": message}
    if fields:
        record["fields"] = fields
    if progress:
        record["progress"] = progress
    # Flushed line by line, so that a person who follows the log sees each as it happens.
    print(json.dumps(record, ensure_ascii=False), flush=True)


class StopRequest:
    """Whether a soft stop was asked: by the stop file, or by Ctrl-C, which Drover sends as well."""

    def __init__(self, stop_file):
        self.stop_file = stop_file
        self.interrupted = False
        signal.signal(signal.SIGINT, self.on_interrupt)

    def on_interrupt(self, _signal, _frame):
        self.interrupted = True

    def asked(self):
        return self.interrupted or bool(self.stop_file and os.path.exists(self.stop_file))


def read_input(path):
    """The input as a dictionary with every value checked."""
    if not path or not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except (OSError, ValueError) as error:
        raise BadInput(f"the input cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise BadInput("the input must be a JSON object")
    unknown = sorted(set(values) - INPUT_NAMES)
    if unknown:
        raise BadInput(f"unknown input {', '.join(unknown)}; known are {', '.join(sorted(INPUT_NAMES))}")
    for name, least in (("limit", 1), ("delay_ms", 0)):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise BadInput(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not isinstance(values.get("fail_on_reject", False), bool):
        raise BadInput("fail_on_reject must be true or false")
    if "as_of" in values and (not isinstance(values["as_of"], str) or rules.parse_date(values["as_of"]) is None):
        raise BadInput(f"as_of must be a date such as 2025-07-31, not {values['as_of']!r}")
    return values


def read_invoices(path, limit):
    """The invoices as (line in the file, row), at most `limit` of them."""
    try:
        # A byte order mark, as spreadsheets write it, is no part of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            invoices = []
            for row in reader:
                if limit is not None and len(invoices) >= limit:
                    break
                invoices.append((reader.line_num, row))
            return invoices, reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"the invoices cannot be read: {error}") from error


class Checker:
    """Checks invoices one by one and keeps the sums."""

    def __init__(self, as_of):
        self.as_of = as_of
        self.seen = set()
        self.checked = 0
        self.rejected = []
        self.totals = collections.defaultdict(decimal.Decimal)
        self.broken_rules = collections.Counter()

    def take(self, line, row):
        self.checked += 1
        broken = rules.check(row, self.as_of, self.seen)
        if not broken:
            self.totals[row["currency"].strip()] += rules.parse_amount(row["total"])
            return
        self.rejected.append((line, row, broken))
        self.broken_rules.update(rule for rule, _ in broken)
        log(
            "warning",
            f"invoice {row.get('number') or '(no number)'} of {row.get('supplier') or '(no supplier)'} is rejected: "
            + "; ".join(explanation for _, explanation in broken),
            {"line": line, "rules": [rule for rule, _ in broken]},
        )

    def result(self, stopped):
        return {
            "checked": self.checked,
            "accepted": self.checked - len(self.rejected),
            "rejected": len(self.rejected),
            "stopped": stopped,
            "totals_by_currency": {currency: f"{total:.2f}" for currency, total in sorted(self.totals.items())},
            "rejections_by_rule": dict(sorted(self.broken_rules.items())),
        }


def check_all(invoices, checker, stop, delay_seconds):
    """Checks until the end, or until a stop is asked; true in the latter case."""
    every = max(1, len(invoices) // 20)
    for index, (line, row) in enumerate(invoices):
        if stop.asked():
            log("warning", f"a stop was asked: ending after {index} of {len(invoices)} invoices")
            return True
        checker.take(line, row)
        done = index + 1
        if done % every == 0 or done == len(invoices):
            text = f"{done} of {len(invoices)} invoices checked"
            progress = {"percent": round(100 * done / len(invoices), 1), "text": text}
            log("info", text, {"rejected": len(checker.rejected)}, progress)
        if delay_seconds:
            time.sleep(delay_seconds)
    return False


def run():
    values = read_input(os.environ.get("DROVER_INPUT"))
    as_of = rules.parse_date(values["as_of"]) if "as_of" in values else datetime.date.today()
    artifacts = pathlib.Path(os.environ.get("DROVER_ARTIFACTS") or HERE / "out")
    artifacts.mkdir(parents=True, exist_ok=True)
    output = os.environ.get("DROVER_OUTPUT") or str(artifacts / "output.json")
    stop = StopRequest(os.environ.get("DROVER_STOP_FILE"))

    invoices, columns = read_invoices(HERE / "invoices.csv", values.get("limit"))
    log("info", f"checking {len(invoices)} invoices as of {as_of}", {"file": "invoices.csv"})
    checker = Checker(as_of)
    stopped = check_all(invoices, checker, stop, values.get("delay_ms", 0) / 1000)

    result = checker.result(stopped)
    report.write_html(str(artifacts / "report.html"), "invoices.csv", result, checker.rejected)
    report.write_rejected_csv(str(artifacts / "rejected.csv"), columns, checker.rejected)
    report.replace_file(output, json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    log("info", f"{result['accepted']} accepted, {result['rejected']} rejected: report.html, rejected.csv", result)

    if values.get("fail_on_reject") and result["rejected"]:
        message = f"{result['rejected']} of {result['checked']} invoices are rejected"
        return fail("business", "invoices_rejected", message)
    return 0


def fail(kind, code, message):
    """Says why the job fails, in the log and to Drover, and answers the exit code."""
    log("error", message, {"code": code})
    if os.environ.get("DROVER_ERROR"):
        report.replace_file(os.environ["DROVER_ERROR"], json.dumps({"kind": kind, "code": code, "message": message}))
    return 1


def main():
    # The log is UTF-8 whatever the locale of the host.
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        return run()
    except BadInput as error:
        return fail("application", "bad_input", str(error))


if __name__ == "__main__":
    sys.exit(main())
