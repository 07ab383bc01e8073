"""Writes orders.jsonl: `python examples/data/generate.py`. The same lines every time."""

import json
from pathlib import Path
from random import Random

ORDERS = 1_400
BROKEN = {
    217: '{"event":"order.placed","order":"A-00092","customer":"c-117","cents":',
    604: "2026-03-02 11:40:07 INFO rotating log",
    911: '["order.placed","A-00391","c-220",1250]',
    1288: '{"order":"A-00548","carrier":"DHL"}',
    1530: '{"event":"order placed","order":"A-00651","customer":"c-031","cents":990}',
    1977: '{"event":"order.payed","order":"A-00842","cents":4200}',
    2208: '{"event":"order.placed","order":"A-00944","customer":"c-412","cents":"12.50"}',
    2209: '{"event":"order.placed","order":"A-00945","customer":"c-412","cents":-300}',
    2640: '{"event":"order.shipped","order":"A-01127"}',
    2955: '{"event":"order.cancelled","order":null,"reason":"duplicate"}',
    3102: '{"event":"order.rated","order":"A-01371","stars":11}',
    3103: "%PDF-1.7 %% not an event",
}


def main() -> None:
    """Write the events of many overlapping orders, and break some lines."""
    random = Random(7).random  # noqa: S311 - the same numbers in every version of Python

    def pick(*values: str) -> str:
        return values[int(random() * len(values))]

    waiting: list[dict[str, object]] = []
    lines: list[str] = []
    for number in range(ORDERS):
        order = f"A-{number:05}"
        customer, cents = f"c-{int(random() * 500):03}", 490 + int(random() ** 3 * 24_000)
        lines.append(
            dump({"event": "order.placed", "order": order, "customer": customer, "cents": cents})
        )
        if random() < 0.07:
            reason = pick("changed my mind", "found it cheaper", "duplicate", "too slow")
            waiting.append({"event": "order.cancelled", "order": order, "reason": reason})
        else:
            carrier = pick("DHL", "UPS", "Royal Mail", "PostNL")
            waiting.append({"event": "order.shipped", "order": order, "carrier": carrier})
            if random() < 0.3:
                stars = 1 + int(random() ** 0.5 * 5)
                waiting.append({"event": "order.rated", "order": order, "stars": stars})
        while len(waiting) > 40:
            lines.append(dump(waiting.pop(0)))
    lines += [dump(line) for line in waiting]
    for position, line in BROKEN.items():
        lines.insert(position - 1, line)
    target = Path(__file__).with_name("orders.jsonl")
    target.write_text("\n".join(lines) + "\n", encoding="ascii")


def dump(line: dict[str, object]) -> str:
    """Return one line of JSON."""
    return json.dumps(line, separators=(",", ":"))


if __name__ == "__main__":
    main()
