"""What is left behind for people: report.html and rejected.csv. Nothing here decides anything."""

import csv
import html
import os

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c2024; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #d9dde2; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: #b42318; } .good { color: #18794e; } .note { color: #60646c; }
"""


def write_html(path, source, result, rejected):
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Invoices</title>",
        f"<style>{STYLE}</style><h1>Invoices</h1>",
        f"<p>{result['checked']} invoices of {escape(source)} checked: ",
        f"<b class='good'>{result['accepted']} accepted</b>, <b class='bad'>{result['rejected']} rejected</b>.</p>",
    ]
    if result["stopped"]:
        parts.append("<p class='note'>A stop was asked: the invoices after these were not checked.</p>")
    parts.append(table(["Currency", "Accepted in all"], result["totals_by_currency"].items()))
    parts.append(table(["Broken rule", "Invoices"], result["rejections_by_rule"].items()))
    if rejected:
        parts.append("<h2>Rejected</h2>")
        parts.append(rejected_table(rejected))
    replace_file(path, "".join(parts) + "</html>\n")


def table(header, rows):
    rows = list(rows)
    if not rows:
        return ""
    body = "".join(f"<tr><td>{escape(name)}</td><td class='number'>{escape(value)}</td></tr>" for name, value in rows)
    return "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + f"</tr>{body}</table>"


def rejected_table(rejected):
    rows = []
    for line, row, broken in rejected:
        why = "<br>".join(escape(explanation) for _, explanation in broken)
        cells = [str(line), row.get("supplier"), row.get("number"), row.get("date")]
        total = f"{row.get('total') or ''} {row.get('currency') or ''}"
        rows.append(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f"<td class='number'>{escape(total)}</td><td class='bad'>{why}</td></tr>"
        )
    header = "".join(f"<th>{cell}</th>" for cell in ["Line", "Supplier", "Number", "Date", "Total", "Why"])
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def write_rejected_csv(path, columns, rejected):
    with open(path + ".part", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["line", *columns, "rules", "why"])
        for line, row, broken in rejected:
            rules = " ".join(rule for rule, _ in broken)
            why = "; ".join(explanation for _, explanation in broken)
            writer.writerow([line, *(row.get(column) or "" for column in columns), rules, why])
    os.replace(path + ".part", path)


def replace_file(path, text):
    """Writes the file whole or not at all, so that nobody reads half of it."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)


def escape(value):
    return html.escape(str(value if value is not None else ""))
