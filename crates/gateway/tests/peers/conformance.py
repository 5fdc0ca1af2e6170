"""The public Autobahn cases against `/echo`, on both ways of receiving. Only OK passes, INFORMATIONAL
where the case can give nothing else, and a case that was not run fails."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections import Counter

import kosoku
import kosoku.cases
from kosoku._kosoku import CaseResult

from gateway import Gateway
from library import KINDS, start

# How many cases the suite has in each group.
CASES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}

# Those that need no compression, and those that a gateway without it cannot pass.
UNCOMPRESSED = "1-7,9,10"
COMPRESSED = {12, 13}

# The cases that only show what is done, without saying what should be.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

# The engine and the `[limits]` that force each way of receiving: by the default of the ring a
# connection is polled until it is busy, so that most cases would end before the other way begins.
WAYS: dict[str, tuple[str, dict[str, int]]] = {
    "poll": ("ring", {"multishot_messages_min": 0}),
    "multishot": ("ring", {"multishot_messages_min": 1, "multishot_share": 1}),
    "tokio-uring": ("tokio-uring", {}),
    "epoll": ("epoll", {}),
}

# The tests of the binary run on the other engines too: the cases do so where somebody asks.
WAYS_BY_DEFAULT = "poll,multishot"

# Cases that run at once: most of their time is waiting.
CONCURRENCY = 4

# Group 9 sends messages of 16 MiB.
FLAGS = ["--echo", "--message-bytes-max", "16MiB", "--send-queue-bytes-max", "64MiB"]


def mend(case: type) -> None:
    """Lets a case of groups 12 and 13 take a message that was echoed plainly: the runner hands its
    bytes on as characters, where the case expects the bytes that it gets of a compressed one."""
    take = case.onMessage

    def on_message(self: object, message: str | bytes, binary: bool) -> None:
        take(self, message.encode("latin-1") if isinstance(message, str) else message, binary)

    case.onMessage = on_message


for name, case in kosoku.cases.CASES.items():
    if name.startswith(("12.", "13.")):
        mend(case)


def parse_groups(text: str) -> list[int]:
    """Groups as written on the command line, `1-7,9,10` or `all`."""
    if text == "all":
        return list(CASES)
    groups: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        groups.extend(range(int(first), int(last or first) + 1))
    unknown = [group for group in groups if group not in CASES]
    if unknown:
        raise ArgumentTypeError(f"there are no cases in {unknown}, only in {list(CASES)}")
    return groups


def parse_ways(text: str) -> list[str]:
    """Ways of receiving as written on the command line, `poll,epoll` or `all`."""
    ways = list(WAYS) if text == "all" else text.split(",")
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise ArgumentTypeError(f"{unknown} are not among {list(WAYS)}")
    return ways


async def prove(gateway: Gateway, way: str) -> None:
    """Proves the way of receiving by what waits in the kernel for a connection at rest."""
    async with start(KINDS["websockets"]) as peer:
        client = await peer.open(f"ws://{gateway.data}/echo")
        await client.send("once")
        assert await client.receive() == "once"
        assert gateway.has_receives_armed() == (way == "multishot"), f"not received by {way}"
        await client.close()


def describe(result: CaseResult) -> str:
    """A case that did not pass."""
    return (
        f"case {result.case_id}: {result.behavior.value}, close {result.behavior_close.value}\n"
        f"    wanted: {result.expectation}\n    {result.result}\n    {result.result_close}"
    )


def judge(results: list[CaseResult], groups: list[int], way: str) -> tuple[str, str]:
    """How many cases of these groups ran, and with which verdicts; or an exception."""
    verdicts = Counter()
    failed = []
    ran = Counter()
    for result in results:
        ran[int(result.case_id.split(".")[0])] += 1
        verdicts[result.behavior.value] += 1
        passing = {"OK", "INFORMATIONAL"} if result.case_id in INFORMATIONAL else {"OK"}
        if not {result.behavior.value, result.behavior_close.value} <= passing:
            failed.append(describe(result))
    assert not failed, f"received by {way}:\n" + "\n".join(failed)
    not_run = {group: CASES[group] - ran[group] for group in groups if ran[group] != CASES[group]}
    assert not not_run, f"cases not run, by group: {not_run}"
    verdict = ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items(), reverse=True))
    return f"{len(results)} of {sum(CASES[group] for group in groups)}", verdict


async def run_groups(groups: list[int], way: str, compression: str) -> tuple[str, ...]:
    """Runs these groups on one way of receiving; a line of the table, or an exception."""
    engine, limits = WAYS[way]
    flags = [*FLAGS, "--compression", compression, "--engine", engine]
    async with Gateway("--workers", "2", *flags, limits=limits) as gateway:
        await prove(gateway, way)
        url = f"ws://{gateway.data}/echo"
        patterns = [f"{group}.*" for group in groups]
        try:
            results = await kosoku.run_fuzzingclient(url, patterns, concurrency=CONCURRENCY)
        except kosoku.FailureError as failure:
            results = failure.results
    cases, verdicts = judge(results, groups, way)
    return way, compression, ", ".join(map(str, groups)), cases, verdicts


async def run_cases(
    ways: list[str], groups: list[int], compression: str
) -> list[tuple[str, ...]]:
    """Runs these groups on these ways of receiving; the table with its heading, or an exception.
    Groups that need compression have it, the others as it is said."""
    forms: dict[str, list[int]] = {}
    for group in groups:
        forms.setdefault("on" if group in COMPRESSED else compression, []).append(group)
    rows = [("received by", "compression", "groups", "cases", "verdicts")]
    for way in ways:
        for form, members in forms.items():
            rows.append(await run_groups(members, way, form))
    return rows
