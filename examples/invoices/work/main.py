"""Works off the queue `invoices`: books what keeps the rules, and tells a person what breaks them."""

import datetime
import time

import drover
import rules


def work(robot):
    as_of = rules.parse_date(robot.input.get("as_of")) or datetime.date.today()

    def book(task):
        time.sleep(robot.input.get("delay_ms", 0) / 1000)
        broken = rules.check(task.payload, as_of)
        if broken:
            raise drover.BusinessError("; ".join(explanation for _, explanation in broken), code=broken[0][0])
        return {"booked": task.payload["total"], "currency": task.payload["currency"]}

    return robot.work("invoices", book)


drover.run(work)
