"""How a public server bears a class: 1, 10 and 50 visitors who move live knobs on two cores.

Run `python benchmarks/serve.py` (`--seconds 120` for each crowd; no browser). A server of its own process is started as
`workbench serve --public` starts it. Every visitor opens a page, connects with the browser's protocol, and moves: a live knob,
and now and then the step scrubber; the next move follows a pause after the answer to the one before.

- *answer*: milliseconds from the message to the hero picture that belongs to it, over the socket. What a browser then needs to
  repaint is in `benchmarks/ui.py`.
- *cross-talk*: the figure that arrives must be, character for character, the one that a page alone in this process draws for
  the same knob and step; and the address must name the visitor's own step.
- *memory*: the server's resident megabytes over the second and the last quarter of each crowd's time.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import numpy as np
from _visitor import Visitor

from widgets import worker
from widgets.bench import Bench
from widgets.controls import kind
from workbench import system as systems
from workbench import threads

VALUES, STEPS = 12, 3  # different positions of a knob, and of the scrubber
SCRUB = 0.2  # share of the moves that go to the scrubber


@dataclass
class Script:
    """What visitors of one page do: the knob they move, and the figure that must come back for each position and step."""

    key: str
    knob: str
    question: str
    values: list[Any]
    steps: list[int]
    figures: dict[tuple[Any, int], str] = field(default_factory=dict)


def digest(figure: str) -> str:
    """Return a short name of a figure."""
    return hashlib.blake2b(figure.encode(), digest_size=12).hexdigest()


def script(key: str) -> Script:
    """Write a script by playing it on a page alone in this process."""
    worker.QUEUE.waiting = 0  # nothing here runs a system
    page = Bench(systems.get(key)())
    assert page.record is not None, f"{key} has no recorded run"
    cls = type(page.system)
    info = next(k for k in cls.knobs().values() if k.live and kind(k) == "range")
    low, high = info.bounds or (0, 1)
    spread = np.linspace(low, high, VALUES)
    whole = isinstance(info.default, int)
    values = list(dict.fromkeys(round(v) if whole else round(float(v), 3) for v in spread))
    count = max(1, min(_steps_at(page, info.name, value) for value in values))  # steps that every value leaves
    steps = sorted({round(s) for s in np.linspace(0, count - 1, STEPS)})
    hero = page.stage.slots["hero"]
    assert hero.view is not None
    made = Script(key, info.name, hero.view.question, values, steps)
    for step in steps:
        page._heard({"kind": "step", "step": step})
        for value in values:
            page._heard({"kind": "live", "values": {info.name: value}})
            made.figures[value, step] = digest(hero.picture.figure)
    return made


def _steps_at(page: Bench, knob: str, value: Any) -> int:
    page._heard({"kind": "live", "values": {knob: value}})
    return page.stage.steps()


@dataclass
class Crowd:
    """What the visitors of one measurement saw."""

    size: int
    answers: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    received: int = 0


async def visit(address: str, plan: Script, crowd: Crowd, until: float, pause: float, rng: random.Random) -> None:
    """Be one visitor until the time is over."""
    visitor = Visitor(address, plan.key)
    try:
        await visitor.open()
        picture = visitor.part("Picture", title=plan.question)
        value: Any = None
        step, seq = 0, 0
        while time.monotonic() < until:
            await asyncio.sleep(rng.uniform(0.5, 1.5) * pause)
            seq += 1
            scrub = value is not None and len(plan.steps) > 1 and rng.random() < SCRUB
            part = "Scrubber" if scrub else "Controls"
            if scrub:
                step = rng.choice(plan.steps)
                message: dict[str, Any] = {"kind": "step", "step": step, "seq": seq}
            else:
                value = rng.choice([v for v in plan.values if v != value])
                message = {"kind": "live", "values": {plan.knob: value}, "seq": seq}
            began = time.perf_counter()
            await visitor.send(part, message)
            asked, sent = visitor.part(part), seq
            await visitor.until(lambda asked=asked, sent=sent: asked.get("ack", 0) >= sent, f"the answer to {message['kind']}")
            crowd.answers.append((time.perf_counter() - began) * 1e3)
            check(visitor, plan, picture, value, step, crowd)
    except ConnectionError as error:
        crowd.errors[str(error)] += 1
    finally:
        crowd.received += visitor.received
        await visitor.close()


def check(visitor: Visitor, plan: Script, picture: dict[str, Any], value: Any, step: int, crowd: Crowd) -> None:
    """Compare what arrived with what a lone page draws."""
    expected = plan.figures.get((value, step)) if value is not None else None
    if expected is not None and digest(picture["figure"]) != expected:
        crowd.wrong.append(f"{plan.key}: another figure than that of {plan.knob}={value}, step {step}")
    if visitor.search and f"step={step}" not in visitor.search and step:
        crowd.wrong.append(f"{plan.key}: the address says {visitor.search}, the step is {step}")
    header = visitor.part("Header")
    if header.get("message") and header.get("tone") == "error":
        crowd.errors[header["message"]] += 1


async def measure(address: str, token: str, plans: list[Script], size: int, seconds: float, pause: float) -> Crowd:
    """Let a crowd of visitors at the server for a time."""
    crowd, until = Crowd(size), time.monotonic() + seconds
    began = time.monotonic()
    watch = asyncio.create_task(_watch(address, token, crowd, began, until))
    async with asyncio.TaskGroup() as group:
        for i in range(size):
            group.create_task(visit(address, plans[i % len(plans)], crowd, until, pause, random.Random(i)))
            await asyncio.sleep(min(0.1, 0.1 * seconds / size))  # a class does not arrive within one millisecond
    crowd.seconds = time.monotonic() - began
    await watch
    return crowd


async def _watch(address: str, token: str, crowd: Crowd, began: float, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(1.0)
        figures = await asyncio.to_thread(metrics, address, token)
        crowd.memory.append((time.monotonic() - began, float(figures["memory_mb"])))


def metrics(address: str, token: str) -> dict[str, Any]:
    """Return the server's own figures."""
    with urlopen(f"{address}/metrics?format=json&token={token}", timeout=60) as answer:
        return dict(json.load(answer))


def start(keys: list[str], procs: int, token: str, folder: str) -> tuple[subprocess.Popen[str], str]:
    """Start a public server for the papers and return it with its address once it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "workbench", "serve", *keys, "--public", "--no-show", "--port", str(port), "--num-procs", str(procs)]  # fmt: skip
    log = open(os.path.join(folder, "log"), "w", encoding="utf-8")  # noqa: SIM115 - the server's own, for as long as it lives
    variables = os.environ | {"WORKBENCH_ADMIN_TOKEN": token, "WORKBENCH_DATA": folder}
    process = subprocess.Popen(command, stderr=log, stdout=log, text=True, env=variables)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            with urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return process, address
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def quarter(crowd: Crowd, index: int) -> float:
    """Return the mean memory over a quarter of the time."""
    low, high = crowd.seconds * index / 4, crowd.seconds * (index + 1) / 4
    found = [mb for at, mb in crowd.memory if low <= at <= high]
    return float(np.mean(found)) if found else float("nan")


def report(crowd: Crowd) -> str:
    """Return a row of the table."""
    p50, p95, p99 = np.percentile(crowd.answers, [50, 95, 99]) if crowd.answers else (float("nan"),) * 3
    second, last = quarter(crowd, 1), quarter(crowd, 3)
    rate, megabytes = len(crowd.answers) / crowd.seconds, crowd.received / crowd.seconds / 1e6
    return (
        f"  {crowd.size:>8} {crowd.seconds:>7.0f}s {len(crowd.answers):>7} {rate:>8.1f} {p50:>8.0f} {p95:>8.0f} {p99:>8.0f} {megabytes:>7.2f} "
        f"{sum(crowd.errors.values()):>7} {len(crowd.wrong):>11} {second:>8.0f} {last:>6.0f} ({(last / second - 1) * 100:+.1f} %)"
    )


def logged_errors(folder: str) -> list[str]:
    """Return the server's log lines of level error."""
    found = []
    with open(os.path.join(folder, "log"), encoding="utf-8") as log:
        for line in log:
            try:
                level = json.loads(line).get("level")
            except ValueError:
                level = "error" if "Traceback" in line else ""
            if level in {"error", "critical"}:
                found.append(line.strip())
    return found


def main() -> None:
    """Print the table; exit with 1 after any error or cross-talk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--systems", nargs="+", default=["rsd", "g_search", "parallelbench"])
    parser.add_argument("--visitors", nargs="+", type=int, default=[1, 10, 50])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between an answer and the next move")
    parser.add_argument("--num-procs", type=int, default=1)
    options = parser.parse_args()
    plans, token = [script(key) for key in options.systems], secrets.token_hex(8)
    crowds: list[Crowd] = []
    with tempfile.TemporaryDirectory(prefix="workbench-load-") as folder:
        process, address = start(options.systems, options.num_procs, token, folder)
        print(f"public server, {options.num_procs} process(es), {threads.available()} processors shared with the visitors, {platform.machine()}; "
              f"pages {', '.join(f'{p.key} ({p.knob})' for p in plans)}; a move every {options.pause:g} s after the answer")  # fmt: skip
        print("  visitors    time   moves  moves/s  p50 ms   p95 ms   p99 ms    MB/s  errors  cross-talk  memory MB, 2nd and 4th quarter")  # fmt: skip
        try:
            for size in options.visitors:
                crowd = asyncio.run(measure(address, token, plans, size, options.seconds, options.pause))
                crowds.append(crowd)
                print(report(crowd), flush=True)
            figures = metrics(address, token)
        finally:
            process.terminate()
            process.wait(60)
        errors = logged_errors(folder)
    own = figures["latencies_ms"].get("move")
    print(f"  the server's own time for a live move: {own}; requests {figures['requests']}")
    print(f"  errors in the server's log: {len(errors)}")
    for sentence in [*(e for c in crowds for e in c.errors), *(w for c in crowds for w in c.wrong[:3]), *errors[:3]]:
        print(f"    {sentence[:240]}")
    sys.exit(int(bool(errors) or any(c.errors or c.wrong for c in crowds)))


if __name__ == "__main__":
    main()
