"""The page at `GET /` in headless Chromium, under load: its numbers are those of `/stats`, it loads
nothing from elsewhere and runs nothing that is not its own, it fits a phone, and its box opens a
topic and publishes, with a client's token where they need one. A page of another site can do none of
it."""

from __future__ import annotations

import asyncio
import math
import os
import re
import tempfile
import time
from contextlib import AsyncExitStack
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import jwt
from websockets.asyncio.client import ClientConnection, connect

from browser import Browser
from gateway import PATIENCE, Gateway, Stats, total

SUBSCRIBERS = 60
LEAVING = 7
PUBLICATIONS_PER_SECOND = 40

# Pictures go here, if anywhere.
PICTURES = os.environ.get("RINGWAY_PICTURES")

SIZES = {"desktop": (1280, 1000), "phone": (390, 844)}

# What the page shows beside what /stats says; all of them only grow while the suite runs.
GROWING = {
    "closed-total": lambda stats: sum(sum(it["closed"].values()) for it in stats["workers"]),
    "refused-total": lambda stats: sum(sum(it["refused"].values()) for it in stats["workers"]),
}

# The rate that a tile shows, and the counter it is of.
RATES = {
    "received": "messages_received",
    "delivered": "messages_delivered",
    "sent": "sent_bytes",
}

# A rate of the page is one over three seconds of once a second, and a machine that others use as
# well does not keep the time of the load.
RATE_TOLERANCE = 0.35


# Of scope read.
READER = "a-token-of-sixteen-bytes-or-more"

SECRET = "a secret of at least thirty-two bytes"

PERCENTILES = ("p50", "p99", "p999")


def rounded(value: float, digits: int) -> str:
    """So many digits behind the point, halves up as ECMAScript has them, thousands apart."""
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,}"


def count_in_words(value: float) -> str:
    """A number, as people read it."""
    return rounded(value, 0)


def rate_in_words(value: float) -> str:
    """Of messages."""
    return f"{rounded(value, 1 if 0 < value < 10 else 0)}/s"


def bytes_in_words(value: float) -> str:
    """Of bytes a second."""
    unit = 0
    while value >= 1024 and unit < 4:
        value /= 1024
        unit += 1
    digits = 0 if unit == 0 or value >= 100 else 1
    return f"{rounded(value, digits)}{('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}/s"


def span_in_words(ns: int) -> str:
    """A time: two digits, three from ten of its unit on."""
    unit, size = next(((u, s) for u, s in (("s", 1e9), ("ms", 1e6)) if ns >= s), ("µs", 1e3))
    value = ns / size
    digits = 0 if value >= 100 else (3 if value >= 10 else 2) - 1 - math.floor(math.log10(value))
    text = rounded(value, digits)
    # What was rounded up to the next power of ten has a digit less.
    if value < 100 and float(text) >= 10 ** (math.floor(math.log10(value)) + 1):
        text = rounded(value, digits - 1)
    return f"{text} {unit}"


# What each tile says of its number.
IN_WORDS = {
    "connections": count_in_words,
    "received": rate_in_words,
    "delivered": rate_in_words,
    "sent": bytes_in_words,
}


async def shown(browser: Browser, name: str) -> float:
    """The number behind what an element shows."""
    value = await browser.value(f"document.getElementById('{name}').dataset.value")
    assert value is not None, f"{name} shows nothing"
    return float(value)


async def hear(client: ClientConnection) -> None:
    """Takes whatever comes."""
    async for _ in client:
        pass


async def load(gateway: Gateway, clients: list[ClientConnection]) -> None:
    """Publishes at a steady rate, over HTTP and by a client in turn."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    number = 0
    while True:
        due += 1 / PUBLICATIONS_PER_SECOND
        await asyncio.sleep(max(0.0, due - loop.time()))
        number += 1
        if number % 2:
            await gateway.publish("load", f"publication {number} " + "x" * 200)
        else:
            await clients[number % len(clients)].send(f"message {number} " + "x" * 200)


async def compare_rates(browser: Browser, gateway: Gateway) -> None:
    """Each tile shows a rate between those of the last seconds, as `/stats` has them."""
    counts: list[tuple[float, Stats]] = []
    loop = asyncio.get_running_loop()
    for _ in range(9):
        counts.append((loop.time(), await gateway.http("GET", "/stats")))
        await asyncio.sleep(1)
    for name, field in RATES.items():
        rates = [
            (total(after, field) - total(before, field)) / (then - now)
            for (now, before), (then, after) in zip(counts, counts[3:], strict=False)
        ]
        rate = await shown(browser, name)
        low, high = min(rates) * (1 - RATE_TOLERANCE), max(rates) * (1 + RATE_TOLERANCE)
        assert low <= rate <= high, f"{name}: {rate} is not within {rates}"
        assert rate > 0, name


async def compare_totals(browser: Browser, gateway: Gateway) -> None:
    """What only grows lies between `/stats` before the page's last poll and `/stats` now."""
    before = await gateway.http("GET", "/stats")
    polls = await browser.value("samples.at(-1).at")
    await browser.until(f"samples.at(-1).at > {polls}")
    values = {name: await shown(browser, name) for name in GROWING}
    connections = await shown(browser, "connections")
    after = await gateway.http("GET", "/stats")
    for name, of in GROWING.items():
        assert of(before) <= values[name] <= of(after), f"{name}: {values[name]}"
    assert connections == before["connections"] == after["connections"], connections


async def compare_tables(browser: Browser, gateway: Gateway) -> None:
    """Rows of workers and of reasons, of what stands still."""
    stats = await gateway.http("GET", "/stats")
    rows = await browser.value(
        "[...document.querySelectorAll('#workers tbody tr')].map(it => +it.dataset.connections)"
    )
    assert rows == [worker["connections"] for worker in stats["workers"]], rows
    for field in ("closed", "refused"):
        rows = await browser.value(
            f"[...document.querySelectorAll('#{field} tr[data-reason]')]"
            ".map(it => [it.dataset.reason, +it.dataset.value])"
        )
        reasons = {reason: total(stats, field, reason) for reason in stats["workers"][0][field]}
        assert dict(rows) == {reason: n for reason, n in reasons.items() if n}, rows
        assert rows, f"no {field} row was there to be compared"


async def compare_words(browser: Browser, gateway: Gateway) -> None:
    """What people read is the number that was compared."""
    tiles = await browser.value(
        "[...document.querySelectorAll('#tiles output')]"
        ".map(it => [it.id, +it.dataset.value, it.innerText])"
    )
    assert [name for name, _, _ in tiles] == list(IN_WORDS), tiles
    for name, value, text in tiles:
        assert "".join(text.split()) == IN_WORDS[name](value), f"{name}: {value} is {text}"
    rows = await browser.value(
        "[...document.querySelectorAll('#workers tbody tr')]"
        ".map(it => [it.dataset.connections, ...[...it.cells].map(it => it.innerText.trim())])"
    )
    for number, (connections, *cells) in enumerate(rows):
        assert cells[0] == str(number), cells
        assert cells[2] == count_in_words(int(connections)), cells
    for field in ("closed", "refused"):
        rows = await browser.value(
            f"[...document.querySelectorAll('#{field} tr[data-reason]')]"
            ".map(it => [it.dataset.reason, it.dataset.value, it.cells[0].innerText,"
            " it.cells[1].innerText])"
        )
        for reason, value, label, number in rows:
            assert label == reason.replace("_", " "), label
            assert number == count_in_words(int(value)), number
        all_of_them = await browser.value(f"document.getElementById('{field}-total').innerText")
        assert all_of_them == count_in_words(sum(int(row[1]) for row in rows)), all_of_them
    stats = await gateway.http("GET", "/stats")
    facts = await browser.value("document.getElementById('facts').innerText")
    for fact in ("version", "engine", "kernel"):
        assert stats[fact] in facts, facts


async def compare_latency(browser: Browser, gateway: Gateway) -> None:
    """Each stage has the figures of its last interval, and a curve whose last point is where the
    grid of its own drawing has that figure."""
    drawn = await browser.value(
        """(() => {
            const stage = (label) => {
                const svg = document.getElementById(`${label}-chart`);
                const figures = document.querySelectorAll(`#${label}-figures b`);
                const grid = [...svg.querySelectorAll('line.grid')];
                const curve = (name) => svg.querySelector(`path.${name}`).getAttribute('d');
                return {
                    figures: [...figures].map(it => it.innerText),
                    grid: grid.map(it => [+it.getAttribute('y1'), it.nextSibling.textContent]),
                    curves: ['p50', 'p99', 'p999'].map(curve),
                };
            };
            const labels = Object.keys(STAGES).map(label => [label, stage(label)]);
            return { starts: intervals.map(it => it.start), stages: Object.fromEntries(labels) };
        })()"""
    )
    known = (await gateway.http("GET", "/latency/intervals"))["intervals"]
    # Those that have ended since are not drawn yet.
    known = [it for it in known if it["start"] <= drawn["starts"][-1]]
    assert [it["start"] for it in known] == drawn["starts"], drawn["starts"]
    with_counts = 0
    for label, stage in drawn["stages"].items():
        last = known[-1]["stages"][label]
        if last["count"] == 0:
            assert not stage["figures"], stage
            continue
        with_counts += 1
        assert stage["figures"] == [span_in_words(last[it]) for it in PERCENTILES], (label, last)
        units = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}
        (low, from_text), *_, (high, to_text) = stage["grid"]
        scale = [float(n) * units[unit] for n, unit in (it.split() for it in (from_text, to_text))]
        points = sum(it["stages"][label]["count"] > 0 for it in known)
        for name, curve in zip(PERCENTILES, stage["curves"], strict=True):
            places = re.findall(r"[ML]([\d.]+) ([\d.]+)", curve)
            assert len(places) == points, f"{label}: {points} intervals, {curve}"
            decades = math.log10(scale[1] / scale[0])
            part = max(0, math.log10(last[name] / scale[0])) / decades
            expected = low + part * (high - low)
            assert abs(float(places[-1][1]) - expected) < 0.6, f"{label} {name}: {places[-1]}"
    assert with_counts > 2, "too little was timed to be compared"


async def fill(browser: Browser, name: str, text: str) -> None:
    """Writes into a field."""
    await browser.value(f"document.getElementById('{name}').value = {text!r}")


async def press(browser: Browser, form: str) -> None:
    """Presses the button of a form."""
    await browser.value(f"document.querySelector('#{form} button').click()")


async def try_a_topic(browser: Browser) -> None:
    """The box opens a topic, publishes to it, shows what comes as text, and closes it."""
    note = "document.getElementById('{}-note').innerText"
    await fill(browser, "topic", "rooms/a b")
    await press(browser, "open-form")
    await browser.until(f"{note.format('open')}.startsWith('Subscribed')")
    hostile = "<img src=x onerror=document.title=1> hello"
    await fill(browser, "message", hostile)
    await press(browser, "publish-form")
    await browser.until(f"{note.format('publish')} === 'Taken for 1 subscriber.'")
    await browser.until(f"document.querySelector('#messages span')?.innerText === {hostile!r}")
    assert await browser.value("document.querySelector('#messages img')") is None
    assert await browser.value("document.title") == "Ringway"


async def close_topic(browser: Browser) -> None:
    """The button that has opened it closes it."""
    await browser.value("document.getElementById('open').click()")
    await browser.until("document.getElementById('open-note').innerText.startsWith('Closed: 1000')")


async def check_policy(browser: Browser, gateway: Gateway) -> None:
    """Nothing was asked of anybody else, nothing has failed, and a foreign script does not run."""
    own = {gateway.admin, gateway.data}
    for event in browser.events:
        if event["method"] == "Network.requestWillBeSent":
            url = event["params"]["request"]["url"]
            assert url.split("/")[2] in own or url == "about:blank", url
        bad = event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
        assert not bad, event
    await browser.value(
        "{ const script = document.createElement('script');"
        " script.textContent = 'document.title = 2'; document.body.append(script) }"
    )
    assert await browser.value("document.title") == "Ringway"
    blocked = f"fetch('http://{gateway.data}/healthz').then(() => 1, () => 0)"
    result = await browser.call(
        "Runtime.evaluate", expression=blocked, awaitPromise=True, returnByValue=True
    )
    assert result["result"]["value"] == 0, "the page may ask others"


async def check_width(browser: Browser) -> None:
    """Nothing stands beyond the right edge."""
    beyond = await browser.value(
        "[...document.querySelectorAll('main *')]"
        ".filter(it => it.getBoundingClientRect().right > innerWidth + 1)"
        ".map(it => it.outerHTML.slice(0, 80))"
    )
    width = await browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert width and not beyond, beyond


async def unlock(browser: Browser) -> None:
    """Where there are tokens the page asks for one, and reads with it what it may."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"read {READER}\n")
        file.flush()
        async with Gateway("--admin-token-file", file.name) as gateway:
            await visit(browser, gateway)
            await browser.until("!document.getElementById('unlock').hidden")
            await fill(browser, "token", READER)
            await browser.value("document.querySelector('#unlock button').click()")
            await browser.until("samples.length > 0 && document.getElementById('unlock').hidden")
            assert await shown(browser, "connections") == 0
            await browser.value("document.querySelector('#publish-form button').click()")
            note = "document.getElementById('publish-note')"
            await browser.until(f"{note}.classList.contains('bad')")
            said = await browser.value(f"{note}.innerText")
            assert said == "this token has the scope read, and publish is needed", said


async def open_with_a_token(browser: Browser) -> None:
    """Where clients need tokens the box takes one, which is shown nowhere; it passes over a listener
    behind a proxy."""
    claims = {"exp": int(time.time()) + 600, "topics": ["demo"], "publish": []}
    client_token = jwt.encode(claims, SECRET, "HS256")
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(SECRET)
        file.flush()
        flags = ("--token-key-file", file.name, "--allow-origin", "any")
        listen = ("127.0.0.1:0,proxy", "127.0.0.1:0")
        async with Gateway(*flags, listen=listen) as gateway:
            await visit(browser, gateway)
            await browser.until("samples.length > 0")
            note = "document.getElementById('open-note').innerText"
            await press(browser, "open-form")
            await browser.until(f"{note} === 'Closed: 1008 not allowed'")
            await fill(browser, "client-token", "no token: spaces")
            await press(browser, "open-form")
            await browser.until(f"{note} === 'This is no topic or no token.'")
            await fill(browser, "client-token", client_token)
            await press(browser, "open-form")
            url = f"ws://{gateway.data}/ws/demo"
            await browser.until(f"{note} === 'Subscribed at {url}'")
            await press(browser, "publish-form")
            await browser.until("document.querySelector('#messages span')?.innerText === 'hello'")
            text = await browser.value("document.body.innerText + location.href")
            assert client_token not in text, "a token is shown"
            await close_topic(browser)


async def serve_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Somebody else's server: an empty page, whatever is asked for."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def attack(browser: Browser, gateway: Gateway, client: ClientConnection) -> None:
    """A page of another site posts to the control plane, and reads it by a name that was pointed at
    this machine (DNS rebinding): both are refused, and nobody hears anything."""

    async def refused() -> int:
        return (await gateway.http("GET", "/stats"))["control_refused"]["not_allowed"]

    async def fetched(target: str, options: str = "") -> object:
        expression = f"fetch('{target}', {{{options}}}).then(it => it.status, () => 'failed')"
        result = await browser.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return result["result"]["value"]

    async def visit_evil(port: str) -> None:
        await browser.call("Page.navigate", url=f"http://evil.example:{port}/")
        await browser.until(
            f"location.host === 'evil.example:{port}' && document.readyState === 'complete'"
        )

    async with await asyncio.start_server(serve_page, "127.0.0.1", 0) as server:
        await visit_evil(str(server.sockets[0].getsockname()[1]))
        before = await refused()
        post = "method: 'POST', mode: 'no-cors', body: 'evil'"
        # Whatever was answered, the page is not told.
        assert await fetched(f"http://{gateway.admin}/publish/quiet", post) == 0
        assert await refused() == before + 1
    await visit_evil(gateway.admin.split(":")[1])
    assert "Host must be" in await browser.value("document.body.innerText")
    assert await fetched("/stats") == 403
    assert await fetched("/publish/quiet", "method: 'POST', body: 'evil'") == 403
    assert await gateway.publish("quiet", "the first that is heard") == 1
    heard = await asyncio.wait_for(client.recv(), PATIENCE)
    assert heard == "the first that is heard", heard


async def visit(browser: Browser, gateway: Gateway) -> None:
    """Opens the page."""
    await browser.call("Page.navigate", url=f"http://{gateway.admin}/")
    loaded = f"location.host === '{gateway.admin}' && document.readyState === 'complete'"
    await browser.until(loaded)


async def page() -> list[tuple[str, ...]]:
    """What was looked at, as rows."""
    rows = []
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway("--workers", "2"))
        url = f"ws://{gateway.data}/ws/load"
        clients = [await connect(url) for _ in range(SUBSCRIBERS + LEAVING)]
        for client in clients[SUBSCRIBERS:]:
            await client.close()
        del clients[SUBSCRIBERS:]
        tasks = [asyncio.create_task(hear(client)) for client in clients]
        for path in ("/nowhere", "/ws/$reserved"):
            reader, writer = await asyncio.open_connection(*gateway.data.split(":"))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert await asyncio.wait_for(reader.read(1), PATIENCE)
            writer.close()
        await gateway.connections(SUBSCRIBERS)
        tasks.append(asyncio.create_task(load(gateway, clients)))
        browser = await stack.enter_async_context(Browser())
        await browser.look(*SIZES["desktop"], "light")
        await visit(browser, gateway)
        await browser.until("samples.length > 3")
        await compare_totals(browser, gateway)
        await compare_tables(browser, gateway)
        await compare_words(browser, gateway)
        await compare_rates(browser, gateway)
        await try_a_topic(browser)
        await browser.until("intervals.length > 1")
        await compare_latency(browser, gateway)
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                await browser.look(width, height, scheme)
                polls = await browser.value("samples.at(-1).at")
                await browser.until(f"samples.at(-1).at > {polls}")
                await check_width(browser)
                if PICTURES:
                    await browser.screenshot(Path(PICTURES) / f"page-{size}-{scheme}.png")
                rows.append((size, scheme, "ok"))
        await close_topic(browser)
        await check_policy(browser, gateway)
        async with connect(f"ws://{gateway.data}/ws/quiet") as client:
            await attack(browser, gateway, client)
        await unlock(browser)
        await open_with_a_token(browser)
        assert not any(task.done() for task in tasks), "the load has ended"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    return rows
