"""The page at `GET /` in headless Chromium, under load: its numbers are those of `/stats`, it loads
nothing from elsewhere and runs nothing that is not its own, it fits a phone, and its box opens a
topic and publishes."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

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


async def try_a_topic(browser: Browser) -> None:
    """The box opens a topic, publishes to it, shows what comes as text, and closes it."""

    async def fill(name: str, text: str) -> None:
        await browser.value(f"document.getElementById('{name}').value = {text!r}")

    async def press(form: str) -> None:
        await browser.value(f"document.querySelector('#{form} button').click()")

    note = "document.getElementById('{}-note').innerText"
    await fill("topic", "rooms/a b")
    await press("open-form")
    await browser.until(f"{note.format('open')}.startsWith('Subscribed')")
    hostile = "<img src=x onerror=document.title=1> hello"
    await fill("message", hostile)
    await press("publish-form")
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
        file.write("read R-0123456789abcdef\n")
        file.flush()
        async with Gateway("--admin-token-file", file.name) as gateway:
            await visit(browser, gateway)
            await browser.until("!document.getElementById('unlock').hidden")
            await browser.value("document.getElementById('token').value = 'R-0123456789abcdef'")
            await browser.value("document.querySelector('#unlock button').click()")
            await browser.until("samples.length > 0 && document.getElementById('unlock').hidden")
            assert await shown(browser, "connections") == 0
            await browser.value("document.querySelector('#publish-form button').click()")
            note = "document.getElementById('publish-note')"
            await browser.until(f"{note}.classList.contains('bad')")
            said = await browser.value(f"{note}.innerText")
            assert said == "this token has the scope read, and publish is needed", said


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
        await compare_rates(browser, gateway)
        await try_a_topic(browser)
        await browser.until("intervals.length > 1")
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
        await unlock(browser)
        assert not any(task.done() for task in tasks), "the load has ended"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            await client.close()
    return rows
