"""Runs real clients against the real binary; called by `run`, which installs them."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

import conformance
import matrix
import meet
from library import KINDS


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{title}\n")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
    print(flush=True)


async def run_meet(_: argparse.Namespace) -> None:
    """Prints who has met."""
    rows = await meet.meet(list(KINDS.values()))
    print_table("Real peers on one topic, two workers", [("peer", "version", "verdict"), *rows])


async def run_autobahn(arguments: argparse.Namespace) -> None:
    """Prints the verdicts by way of receiving."""
    rows = [("received by", "groups", "cases", "verdicts")]
    for way in conformance.WAYS:
        rows.append(await conformance.run_cases(arguments.groups, way, arguments.compression))
    print_table("The Autobahn cases", rows)


async def run_matrix(arguments: argparse.Namespace) -> None:
    """Prints the verdicts by peer and route."""
    table, rows, proxies = await matrix.matrix(list(KINDS.values()), arguments.compression)
    print_table("Every peer on every route", rows)
    print_table(f"Proxies in front, with an idle time-out of {matrix.IDLE_SECONDS} s", proxies)
    assert table.is_good, "not all is ok"


SUITES = {"meet": run_meet, "autobahn": run_autobahn, "matrix": run_matrix}


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
        "--compression", choices=["off", "on"], default="off", help="passed to the gateway"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    for name, suite in SUITES.items():
        if arguments.suite in ("all", name):
            asyncio.run(suite(arguments))
    print(f"real peers: all passed in {time.monotonic() - started:.0f} s")


main()
