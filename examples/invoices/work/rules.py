"""The rules that an invoice must satisfy. Pure functions: nothing here reads files, clocks or the environment."""

import datetime
import decimal

CURRENCIES = {"EUR", "USD", "GBP", "CHF", "PLN", "CZK", "SEK", "RUB"}

# Length of an IBAN per country, for the countries that our suppliers bank in.
IBAN_LENGTHS = {"AT": 20, "CH": 21, "CZ": 24, "DE": 22, "FR": 27, "GB": 22, "NL": 18, "PL": 28, "SE": 24}

CENT = decimal.Decimal("0.01")

# No invoice in this world is larger; a larger number is a slip of the keyboard, and rounding it would not be exact.
LARGEST_AMOUNT = decimal.Decimal("1000000000000")


class Amounts:
    """Net, VAT rate, VAT and total of one invoice as exact decimals."""

    def __init__(self, row):
        self.net = parse_amount(row.get("net"))
        self.vat_rate = parse_amount(row.get("vat_rate"))
        self.vat = parse_amount(row.get("vat"))
        self.total = parse_amount(row.get("total"))


def parse_amount(text):
    """The amount as a Decimal, or None if the text is no plain decimal number."""
    try:
        amount = decimal.Decimal((text or "").strip())
    except decimal.InvalidOperation:
        return None
    if not amount.is_finite() or abs(amount) > LARGEST_AMOUNT:
        return None
    return amount


def parse_date(text):
    """The date as YYYY-MM-DD says it, or None."""
    try:
        return datetime.datetime.strptime((text or "").strip(), "%Y-%m-%d").date()
    except ValueError:
        return None


def iban_is_valid(text):
    """Whether country, length and check digits (ISO 13616: modulo 97 is 1) of an IBAN are right."""
    iban = (text or "").replace(" ", "").upper()
    if not iban.isascii() or not iban.isalnum() or IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    digits = "".join(str(int(character, 36)) for character in iban[4:] + iban[:4])
    return int(digits) % 97 == 1


def check(row, as_of):
    """
    The rules that the invoice `row` breaks, as a list of (rule, explanation); empty if it can be booked.

    `as_of` is the day that counts as today. That no number of a supplier comes twice is the queue's business: the
    reference of a task is made of both, and references are unique.
    """
    broken = []
    supplier = (row.get("supplier") or "").strip()
    number = (row.get("number") or "").strip()
    if not supplier:
        broken.append(("supplier_missing", "the invoice names no supplier"))
    if not number:
        broken.append(("number_missing", "the invoice has no number"))
    broken += check_dates(row, as_of)
    broken += check_amounts(row)
    if not iban_is_valid(row.get("iban")):
        broken.append(("iban_invalid", f"the check digits or the length of IBAN {row.get('iban') or ''!r} are wrong"))
    return broken


def check_dates(row, as_of):
    date, due = parse_date(row.get("date")), parse_date(row.get("due_date"))
    if date is None:
        return [("date_invalid", f"{row.get('date') or ''!r} is not a date")]
    if date > as_of:
        return [("date_in_future", f"dated {date}, which is after {as_of}")]
    if due is None:
        return [("due_date_invalid", f"{row.get('due_date') or ''!r} is not a date")]
    if due < date:
        return [("due_before_date", f"due on {due}, before its own date {date}")]
    return []


def check_amounts(row):
    broken = []
    currency = (row.get("currency") or "").strip()
    if currency not in CURRENCIES:
        broken.append(("currency_unknown", f"{currency!r} is not a currency we book"))
    amounts = Amounts(row)
    if None in (amounts.net, amounts.vat_rate, amounts.vat, amounts.total):
        broken.append(("amount_invalid", "net, VAT rate, VAT or total is not a number"))
        return broken
    expected_vat = (amounts.net * amounts.vat_rate / 100).quantize(CENT, decimal.ROUND_HALF_UP)
    # Suppliers round per line or per invoice: one cent of difference is no error.
    if abs(expected_vat - amounts.vat) > CENT:
        broken.append(("vat_wrong", f"VAT is {amounts.vat}, but {amounts.vat_rate} % of {amounts.net} is {expected_vat}"))
    if amounts.net + amounts.vat != amounts.total:
        broken.append(("total_wrong", f"total is {amounts.total}, but net and VAT make {amounts.net + amounts.vat}"))
    return broken
