"""Makes invoices.csv: the same invoices on every run. Some are wrong on purpose, each kind a fixed number of times."""

import csv
import datetime
import decimal
import io
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "work"))

import rules  # noqa: E402, it lies beside the program that uses it

COUNT = 400
COLUMNS = ["supplier", "number", "date", "due_date", "currency", "net", "vat_rate", "vat", "total", "iban"]

# Name, country of the bank, currency, VAT rate in percent.
SUPPLIERS = [
    ("Alpenland Papier GmbH", "AT", "EUR", "20"),
    ("Bäckerei Müller & Söhne", "DE", "EUR", "7"),
    ("Brightwater Cleaning Ltd", "GB", "GBP", "20"),
    ("Bureau Vallée SARL", "FR", "EUR", "20"),
    ("Drukarnia Łódź sp. z o.o.", "PL", "PLN", "23"),
    ("Elektro Novák s.r.o.", "CZ", "CZK", "21"),
    ("Fenwick & Partners LLP", "GB", "USD", "0"),
    ("Göteborgs Frakt AB", "SE", "SEK", "25"),
    ("Hafenlogistik Bremen KG", "DE", "EUR", "19"),
    ("Imprimerie du Rhône", "FR", "EUR", "5.5"),
    ("Janssen Bloemen B.V.", "NL", "EUR", "9"),
    ("Kanzlei Dr. Weiß", "DE", "EUR", "19"),
    ("Matterhorn Consulting AG", "CH", "CHF", "8.1"),
    ("Net & Wire Telecom B.V.", "NL", "EUR", "21"),
    ("ООО «Ромашка»", "CZ", "RUB", "20"),
    ("Zakład Ślusarski Kowalski", "PL", "PLN", "23"),
]

# What is spoilt, and in how many invoices.
MISTAKES = [
    ("vat", 7), ("total", 4), ("duplicate", 5), ("iban", 6), ("future", 3), ("supplier", 3), ("currency", 3), ("due", 2),
]


class Dice:
    """Picks by `Random.random()` alone, whose sequence is the same in every version of Python."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def below(self, limit):
        return int(self.random.random() * limit)

    def pick(self, items):
        return items[self.below(len(items))]


def iban(country, dice):
    account = "".join(str(dice.below(10)) for _ in range(rules.IBAN_LENGTHS[country] - 4))
    digits = "".join(str(int(character, 36)) for character in account + country + "00")
    return f"{country}{98 - int(digits) % 97:02}{account}"


def invoices():
    dice = Dice(2025)
    accounts = {name: iban(country, dice) for name, country, _, _ in SUPPLIERS}
    counters = {name: 100 + dice.below(900) for name, _, _, _ in SUPPLIERS}
    rows = []
    for index in range(COUNT):
        name, _, currency, rate = dice.pick(SUPPLIERS)
        counters[name] += 1 + dice.below(3)
        date = datetime.date(2025, 1, 2) + datetime.timedelta(days=index * 180 // COUNT)
        net = decimal.Decimal(500 + dice.below(100) ** 2 * (1 + dice.below(120))) / 100
        vat = (net * decimal.Decimal(rate) / 100).quantize(rules.CENT, decimal.ROUND_HALF_UP)
        rows.append({
            "supplier": name, "number": f"2025-{counters[name]:05}", "date": date.isoformat(),
            "due_date": (date + datetime.timedelta(days=dice.pick([14, 30, 45]))).isoformat(), "currency": currency,
            "net": f"{net:.2f}", "vat_rate": rate, "vat": f"{vat:.2f}", "total": f"{net + vat:.2f}",
            "iban": accounts[name],
        })
    spoil(rows, dice)
    return rows


def spoil(rows, dice):
    unspoilt = list(range(20, len(rows)))
    for mistake, count in MISTAKES:
        for _ in range(count):
            index = unspoilt.pop(dice.below(len(unspoilt)))
            spoil_one(rows, index, mistake)
            # The one that a duplicate repeats must stay as it is.
            if mistake == "duplicate" and index - 1 in unspoilt:
                unspoilt.remove(index - 1)


def spoil_one(rows, index, mistake):
    row = rows[index]
    cents = decimal.Decimal
    if mistake == "vat":
        vat = cents(row["vat"]) + cents("1.80")
        row["vat"], row["total"] = f"{vat:.2f}", f"{cents(row['net']) + vat:.2f}"
    elif mistake == "total":
        row["total"] = f"{cents(row['total']) + 10:.2f}"
    elif mistake == "duplicate":
        rows[index] = dict(rows[index - 1])
    elif mistake == "iban":
        last = str((int(row["iban"][-1]) + 1) % 10)
        row["iban"] = row["iban"][:-1] + last
    elif mistake == "future":
        row["date"], row["due_date"] = "2052" + row["date"][4:], "2052" + row["due_date"][4:]
    elif mistake == "supplier":
        row["supplier"] = ""
    elif mistake == "currency":
        row["currency"] = "EURO"
    elif mistake == "due":
        row["due_date"] = "2024-12-31"


def as_csv():
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(invoices())
    return text.getvalue()


if __name__ == "__main__":
    (HERE / "load" / "invoices.csv").write_text(as_csv(), encoding="utf-8", newline="\n")
