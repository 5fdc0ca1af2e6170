"""Runs real clients against the real binary; called by `run`, which installs them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import alerts
import conformance
import matrix
import meet
import metrics
import page
import tokens
from library import KINDS


Rows = Sequence[Sequence[str]]

RESULTS = Path(__file__).parent / "README.md"


def table(title: str, rows: Rows) -> str:
    """A table in Markdown, its columns as wide as their widest entry; the first row is the
    heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(["", title, "", *lines])


def has_place(suite: str) -> bool:
    """Whether the file of results has marks for this suite."""
    return f"<!-- {suite} -->\n" in RESULTS.read_text()


def record(suite: str, tables: list[str]) -> None:
    """Puts the tables between the marks of this suite in the file of results, with the command."""
    first, last = f"<!-- {suite} -->\n", f"<!-- end of {suite} -->\n"
    before, _, rest = RESULTS.read_text().partition(first)
    _, found, after = rest.partition(last)
    assert found, f"{RESULTS} has no place for {suite}"
    command = f"`run {' '.join(sys.argv[1:])}` on {date.today()}."
    RESULTS.write_text(before + "\n".join([first, command, *tables, ""]) + "\n" + last + after)


async def run_meet(arguments: argparse.Namespace) -> list[str]:
    """Who has met."""
    rows = await meet.meet(list(KINDS.values()), arguments.compression)
    return [table("Real peers on one topic, two workers:", [("peer", "version", "verdict"), *rows])]


async def run_autobahn(arguments: argparse.Namespace) -> list[str]:
    """The verdicts by way of receiving."""
    rows = await conformance.run_cases(
        arguments.ways, arguments.groups, arguments.compression
    )
    return [table("The Autobahn cases:", rows)]


async def run_matrix(arguments: argparse.Namespace) -> list[str]:
    """The verdicts by peer and route."""
    verdicts, proxies = await matrix.matrix(list(KINDS.values()), arguments.compression)
    tables = [
        table("Every peer on every route:", verdicts.rows()),
        table(f"Proxies in front, with an idle time-out of {matrix.IDLE_SECONDS} s:", proxies),
    ]
    if not verdicts.is_good:
        print(*tables, sep="\n")
        raise AssertionError("not all is ok")
    return tables


async def run_metrics(_: argparse.Namespace) -> list[str]:
    """What was scraped under load."""
    rows = await metrics.metrics()
    heading = ("scrapes", "samples", "deliveries", "verdict")
    return [table("`/metrics` read by promtool:", [heading, *rows])]


async def run_page(_: argparse.Namespace) -> list[str]:
    """How the page was looked at."""
    rows = await page.page()
    return [table("The page in Chromium:", [("size", "colours", "verdict"), *rows])]


async def run_tokens(_: argparse.Namespace) -> list[str]:
    """Which tokens were let in, and which were refused."""
    let_in, refused = await tokens.tokens()
    heading = ("algorithm", "key file", *(f"JWK set, {name}" for name in tokens.ENTRIES), "at exp")
    return [
        table("Tokens of PyJWT that are let in:", [heading, *let_in]),
        table("And that are refused:", [("what", "tries", "status", "counted as"), *refused]),
    ]


async def run_alerts(_: argparse.Namespace) -> list[str]:
    """Which alerts were provoked."""
    rows = await alerts.alerts()
    return [table("Alerts and the board in Prometheus:", [("what", "verdict"), *rows])]


SUITES = {
    "meet": run_meet,
    "metrics": run_metrics,
    "page": run_page,
    "tokens": run_tokens,
    "alerts": run_alerts,
    "autobahn": run_autobahn,
    "matrix": run_matrix,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument("suite", choices=["all", *SUITES], help="which suite to run")
    parser.add_argument(
        "--groups",
        type=conformance.parse_groups,
        default=conformance.UNCOMPRESSED,
        help="groups of Autobahn cases (default: %(default)s)",
    )
    parser.add_argument(
        "--ways",
        type=conformance.parse_ways,
        default=conformance.WAYS_BY_DEFAULT,
        help="ways of receiving that the Autobahn cases run on, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--compression",
        choices=["off", "on"],
        default="off",
        help="passed to the gateway; groups 12 and 13 have it in any case",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"write what is shown into {RESULTS.name} too, where that has a place for it",
    )
    arguments = parser.parse_args()
    places = ["all", *filter(has_place, SUITES)]
    if arguments.record and arguments.suite not in places:
        there_are = ", ".join(places)
        parser.error(f"{RESULTS.name} has no place for {arguments.suite}: record {there_are}")
    started = time.monotonic()
    for name, suite in SUITES.items():
        if arguments.suite not in ("all", name):
            continue
        tables = asyncio.run(suite(arguments))
        print(*tables, "", sep="\n", flush=True)
        if arguments.record and has_place(name):
            record(name, tables)
    print(f"real peers: all passed in {time.monotonic() - started:.0f} s")


main()
