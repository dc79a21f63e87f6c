"""Watch the page of the inbox in Chromium while 1,000 messages arrive in each second.

Run ``python benchmarks/inbox_page.py``; it needs Playwright and Chromium. The page is open at the
top of its list, then with an open message, then in follow mode, then with an open message while
retention removes old ones. No task of the page may be longer
than 100 ms, the count must be right at the end, and neither elements nor memory may grow with the
messages. The browser, the server and four clients share the machine: the time of the processor
that a task needs tells more than its length.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from contextlib import ExitStack
from multiprocessing import Process
from typing import TYPE_CHECKING, Any

from inbox import Running, get, send_paced

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

CLIENTS = 4
FIRST = 100
"""Messages that are there before the load."""

LONGEST = 100
"""Milliseconds of a task, at most."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
TRACED = ["devtools.timeline", "disabled-by-default-devtools.timeline"]
WATCH = """window.tasks = []; new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.tasks.push(one.duration);
}).observe({ entryTypes: ['longtask'] })"""
KINDS = ("at the top", "with an open message", "in follow mode", "while old ones are removed")
KEPT = 5000
"""Messages that the inbox keeps by default."""


def prepare(page: "Page", kind: str) -> None:
    page.locator("#live[data-state=live]").wait_for()
    if kind in ("with an open message", "while old ones are removed"):
        page.get_by_role("option").first.click()
        page.locator("#subject").wait_for()
    elif kind == "in follow mode":
        page.get_by_role("button", name="Follow").click()
    page.wait_for_timeout(1000)
    page.evaluate(WATCH)


def memory(session: "CDPSession") -> dict[str, float]:
    """Return the numbers of the page after a collection of its garbage."""
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Performance.getMetrics")["metrics"]
    return {one["name"]: one["value"] for one in found}


def load(page: "Page | None", server: Running, rate: int, seconds: int) -> tuple[str, list[float]]:
    """Let messages arrive; return what they took of the server, and how late the page answered."""
    senders = [
        Process(target=send_paced, args=(server.port, rate / CLIENTS, seconds))
        for _ in range(CLIENTS)
    ]
    late: list[float] = []
    used, began = server.cpu(), time.perf_counter()
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        asked = time.perf_counter()
        if page is not None:
            page.evaluate("new Promise(done => setTimeout(done))")
            late.append((time.perf_counter() - asked) * 1000)
        time.sleep(0.1)
    took, used = time.perf_counter() - began, server.cpu() - used
    found = json.loads(get(server.web, "/api/v1/info"))["RuntimeStats"]["SMTPAccepted"]
    count = found - FIRST
    return (
        f"{count} of {rate * seconds} stored, {count / took:.0f}/s, {used / count * 1000:.2f} ms of"
        " the server's processor for each",
        late,
    )


def alone(rate: int, seconds: int) -> None:
    """Measure the intake without a page."""
    with ExitStack() as stack:
        server = Running(stack, "store")
        send_paced(server.port, FIRST, 1)
        print(f"without a page: {load(None, server, rate, seconds)[0]}")


def tasks(trace: bytes) -> list[tuple[float, float]]:
    """Return the length of each task of the page and its time of the processor, longest first."""
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    main = {
        (one["pid"], one["tid"])
        for one in events
        if one["name"] == "thread_name" and one["args"].get("name") == "CrRendererMain"
    }
    found = [
        (one["dur"] / 1000, one.get("tdur", 0) / 1000)
        for one in events
        if one["name"] == "RunTask" and "dur" in one and (one["pid"], one["tid"]) in main
    ]
    return sorted(found, reverse=True)


def watch(browser: "Browser", kind: str, rate: int, seconds: int, *, trace: bool) -> None:
    with ExitStack() as stack:
        server = Running(stack, "kept" if kind == KINDS[-1] else "store")
        send_paced(server.port, FIRST, 1)
        context = browser.new_context(viewport={"width": 1280, "height": 760})
        stack.callback(context.close)
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto(f"http://127.0.0.1:{server.web}/")
        prepare(page, kind)
        before, busy = memory(session), os.getloadavg()[0]
        if trace:
            browser.start_tracing(page=page, categories=TRACED)
        stored, late = load(page, server, rate, seconds)
        total = FIRST + rate * seconds
        shown = min(total, KEPT) if kind == KINDS[-1] else total
        page.locator("#count", has_text=f"{shown:,} messages").wait_for(timeout=10_000)
        page.wait_for_timeout(1000)
        traced = tasks(browser.stop_tracing()) if trace else []
        after, seen = memory(session), sorted(page.evaluate("window.tasks"), reverse=True)
        rows = page.get_by_role("option").count()
        late.sort()
        longest = ", ".join(f"{one:.0f}" for one in seen[:5])
        print(
            f"{kind}: {stored};"
            f" {len(seen)} tasks over 50 ms, the longest {longest}"
            f" ms (wanted {LONGEST}); the page answers in {statistics.median(late):.0f} ms, at most"
            f" {late[-1]:.0f} ms"
        )
        if traced:
            most = sorted((used for _, used in traced), reverse=True)[:5]
            print(
                f"  processor of its longest tasks: {', '.join(f'{one:.0f}' for one in most)} ms;"
                f" of all, {sum(used for _, used in traced) / 1000:.1f} s"
            )
        print(
            f"  {rows} rows, {before['Nodes']:.0f} and {after['Nodes']:.0f} nodes, "
            f"{before['JSHeapUsedSize'] / 1e6:.1f} and {after['JSHeapUsedSize'] / 1e6:.1f} MB;"
            f" load of the machine {busy:.1f} and {os.getloadavg()[0]:.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--no-trace", action="store_true", help="do not count processor time")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright  # not installed everywhere

    program = next(filter(None, map(shutil.which, PROGRAMS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        for _ in range(args.rounds):
            alone(args.rate, args.seconds)
            for kind in [args.only] if args.only else KINDS:
                watch(browser, kind, args.rate, args.seconds, trace=not args.no_trace)
        browser.close()


if __name__ == "__main__":
    main()
