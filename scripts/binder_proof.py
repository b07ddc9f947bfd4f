"""Run the steps of binder/ in a fresh environment and home, with the memory of all processes held to two gigabytes.

    make binder-proof, or: python scripts/binder_proof.py [--keep FOLDER]   (in an environment that has playwright)

Clones the last commit, installs binder/requirements.txt, then inside the limit: postBuild, the server through binder/start,
the start notebook executed from top to bottom, and the live page in a browser (the browser itself is outside the limit).
Where a memory cgroup can be made the kernel enforces the limit; elsewhere the resident memory of the whole process tree is
sampled and compared with it. The last lines say which it was and what the peak was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

LIMIT = 2 << 30
CGROUP = Path("/sys/fs/cgroup/memory")
PORT, TOKEN = 8899, "proof"
PAGE = f"http://127.0.0.1:{PORT}/panel/app?system=rsd&token={TOKEN}"
LAB = f"http://127.0.0.1:{PORT}/lab/tree/notebooks/00_start_here.ipynb?token={TOKEN}"
EXECUTE = """
import nbformat, time
from nbclient import NotebookClient
start = time.time()
NotebookClient(nbformat.read("notebooks/00_start_here.ipynb", 4), timeout=600, kernel_name="python3",
               resources={"metadata": {"path": "notebooks"}}).execute()
print(f"start notebook executed in {time.time() - start:.0f} s")
"""
PICTURE = """() => {const f = r => [...r.querySelectorAll('*')].some(e => (e.classList && e.classList.contains('js-plotly-plot'))
             || (e.shadowRoot && f(e.shadowRoot))); return f(document)}"""


class Limit:
    """Two gigabytes for every process that is started through `run`: enforced by a cgroup, or sampled."""

    def __init__(self) -> None:
        self.group = CGROUP / f"workbench-proof-{os.getpid()}"
        self.roots: list[int] = []
        self.sampled = 0
        try:
            self.group.mkdir()
            (self.group / "memory.limit_in_bytes").write_text(str(LIMIT))
            self.enforced = True
        except OSError:
            self.enforced = False
            threading.Thread(target=self._sample, daemon=True).start()

    def start(self, command: list[str], **options: object) -> subprocess.Popen[str]:
        """Start a command inside the limit, in a session of its own."""

        def enter() -> None:
            if self.enforced:
                (self.group / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(command, preexec_fn=enter, start_new_session=True, text=True, **options)  # type: ignore[call-overload]
        self.roots.append(process.pid)
        return process

    def peak(self) -> int:
        """Return the most memory used at once, in bytes (page cache that could be dropped included, if enforced)."""
        return int((self.group / "memory.max_usage_in_bytes").read_text()) if self.enforced else self.sampled

    def anonymous(self) -> int:
        """Return the memory that cannot be dropped now, in bytes."""
        if not self.enforced:
            return self._resident()
        rows = dict(line.split() for line in (self.group / "memory.stat").read_text().splitlines())
        return int(rows["rss"])

    def failures(self) -> int:
        """Return how many processes the kernel ended for want of memory."""
        text = (self.group / "memory.oom_control").read_text() if self.enforced else ""
        return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)

    def _sample(self) -> None:
        while True:
            self.sampled = max(self.sampled, self._resident())
            time.sleep(0.2)

    def _resident(self) -> int:
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                if os.getsid(int(rows["Pid"])) in self.roots:
                    total += int(rows.get("VmRSS", "0 kB").split()[0]) << 10
            except (OSError, ValueError):
                continue  # it ended meanwhile
        return total

    def close(self) -> None:
        """End what is left inside, and remove the group."""
        if not self.enforced:
            return
        for pid in (self.group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(1)
        self.group.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--keep", type=Path, help="use this folder, and keep it for the next time")
    keep = parser.parse_args().keep
    room = (keep or Path(tempfile.mkdtemp(prefix="binder-"))).resolve()
    try:
        return prove(room)
    finally:
        if keep is None:
            shutil.rmtree(room, ignore_errors=True)


def prove(room: Path) -> int:
    """Return 0 if every step passed within the limit."""
    clone, home, top = room / "clone", room / "home", Path(__file__).resolve().parent.parent
    home.mkdir(parents=True, exist_ok=True)
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", str(top), str(clone)], check=True)
    kept = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    path = f"{room / 'venv' / 'bin'}:{os.environ['PATH']}"
    env = kept | {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
    install(room, clone, env)
    limit = Limit()
    where = {"cwd": str(clone), "env": env}
    server = None
    try:
        step("postBuild", limit, lambda: succeeded(limit.start([str(clone / "binder/postBuild")], **where)))
        root = ["--allow-root"] if os.geteuid() == 0 else []
        lab = ["jupyter", "lab", "--no-browser", f"--port={PORT}", f"--IdentityProvider.token={TOKEN}", *root]
        with (room / "server.log").open("w") as log:
            server = limit.start([str(clone / "binder/start"), *lab], stdout=log, stderr=log, **where)
        step("JupyterLab answers", limit, lambda: answers(LAB))
        step("live page drawn", limit, look)
        step(
            "start notebook",
            limit,
            lambda: succeeded(limit.start([str(clone / "binder/start"), "python", "-c", EXECUTE], **where)),
        )
        step("live page still drawn", limit, look)
    finally:
        stop(server)
        peak, killed = limit.peak(), limit.failures()
        how = "enforced by a cgroup" if limit.enforced else "sampled resident memory of the process tree, not enforced"
        print(f"peak {peak / 2**30:.2f} GiB of {LIMIT / 2**30:.0f} GiB ({how}), processes ended for want of memory: {killed}")
        limit.close()
    return int(killed > 0 or peak > LIMIT)


def install(room: Path, clone: Path, env: dict[str, str]) -> None:
    """Make the environment as the image does (once for a kept folder)."""
    if (room / "venv" / "installed").exists():
        return
    start = time.time()
    subprocess.run([sys.executable, "-m", "venv", str(room / "venv")], check=True, env=env)
    pip = [str(room / "venv/bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", "binder/requirements.txt"], check=True, cwd=clone, env=env)
    (room / "venv" / "installed").touch()
    print(f"installed in {time.time() - start:.0f} s", flush=True)


def step(name: str, limit: Limit, work: Callable[[], None]) -> None:
    """Do one step and print its seconds and the memory in use after it."""
    start = time.time()
    work()
    print(f"{name}: {time.time() - start:.0f} s, {limit.anonymous() / 2**30:.2f} GiB in use", flush=True)


def succeeded(process: subprocess.Popen[str]) -> None:
    code = process.wait(timeout=900)
    if code:
        raise SystemExit(f"{process.args} ended with {code}")


def answers(url: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                assert page.status == 200
                return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"{url} does not answer")


def look() -> None:
    """Open the live page in Chromium (outside the limit) and wait for a picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(PAGE, timeout=120_000)
        page.wait_for_function(PICTURE, timeout=120_000)
        browser.close()


def stop(server: subprocess.Popen[str] | None) -> None:
    """End the server and what it started."""
    if server is not None:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
