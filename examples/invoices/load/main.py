"""Puts the invoices of invoices.csv into the queue `invoices`. One that is there already is not added again."""

import csv

import drover


def load(robot):
    # A byte order mark, as spreadsheets write it, is no part of the first column's name.
    with open("invoices.csv", encoding="utf-8-sig", newline="") as file:
        tasks = (drover.new_task(row, f"{row['supplier']}/{row['number']}") for row in csv.DictReader(file))
        result = robot.add_tasks("invoices", tasks)
    robot.info(f"{result.added} invoices added, {result.duplicates} were there already", errors=result.errors)
    return result.as_dict()


drover.run(load)
