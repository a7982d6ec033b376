"""Rows of text into records and totals, as an import of a CSV file does. Strings, small objects and dicts."""

from __future__ import annotations

from molt_worker import InvalidInput, current_request


class Sale:
    """One row."""

    __slots__ = ("cents", "paid", "region", "units")

    def __init__(self, region: str, units: int, cents: int, paid: bool) -> None:
        self.region = region
        self.units = units
        self.cents = cents
        self.paid = paid


def _text(count: int) -> str:
    regions = ("north", "east", "south", "west")
    return "\n".join(
        f'{n},"{regions[n * 7 % 4]}, {n % 10}",{n % 13},{n * 37 % 9000 / 100:.2f},{"yes" if n % 3 else "no"}'
        for n in range(count)
    )


def _cells(line: str) -> list[str]:
    """The cells of a line, in which a quoted one may hold commas."""
    cells: list[str] = []
    start = 0
    quoted = False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            cells.append(line[start:at])
            start = at + 1
    cells.append(line[start:])
    return cells


def _sale(line: str, number: int) -> Sale:
    cells = _cells(line)
    if len(cells) != 5:
        raise InvalidInput(f"line {number}: {len(cells)} cells; allowed: 5")
    whole, _, part = cells[3].partition(".")
    return Sale(cells[1].strip('"'), int(cells[2]), int(whole) * 100 + int(part), cells[4] == "yes")


def rows(count: int) -> dict[str, list[int]]:
    """Units, cents and unpaid rows for each region, of so many rows that are always the same."""
    request = current_request()
    totals: dict[str, list[int]] = {}
    for number, line in enumerate(_text(count).split("\n")):
        if number % 256 == 0:
            request.check()
        sale = _sale(line, number)
        total = totals.get(sale.region)
        if total is None:
            total = totals[sale.region] = [0, 0, 0]
        total[0] += sale.units
        total[1] += sale.units * sale.cents
        total[2] += 0 if sale.paid else 1
    return totals
