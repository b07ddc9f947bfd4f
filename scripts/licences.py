"""Write docs/licences.md: every package that a checkout installs, with its version, its licence and what it is for.

    .venv/bin/python scripts/licences.py            writes the list
    .venv/bin/python scripts/licences.py --ask      also asks pip what the packages say that are pinned but not installed here
    .venv/bin/python scripts/licences.py --check    says what differs, what has no licence, what is of a kind we do not take

Names and versions come from constraints.txt, licences from what each installed package says of itself. A package that is
pinned but not installed here (GPU packages on a machine without one) keeps the line it has.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "docs" / "licences.md"
#: Kinds that may stand beside Apache-2.0 in one environment. Weak copyleft is used as it is, never changed or copied.
FREE = ("MIT", "BSD", "APACHE", "ISC", "PSF", "PYTHON", "ZLIB", "HPND", "MPL", "UNLICENSE", "CC0", "0BSD", "LGPL", "LLVM")
#: Not free, used where it is installed and never shipped; each with the reason why it is here all the same.
_NVIDIA = "NVIDIA's own terms: libraries of an NVIDIA GPU, installed by torch's build for it and by the extra `cuda`"
KNOWN = {"nvidia-": _NVIDIA, "cuda-": _NVIDIA}
NOT_HERE = "not installed where this list was made"
HEAD = """# Licences

Workbench is Apache-2.0 (`LICENSE`). What it ships beside code, each with source and licence: `workbench/data/README.md` (texts and
pictures), and a card beside each trained model under `workbench/models/`. Nothing of the packages below is copied into it.

Written by `python scripts/licences.py` from what each package says of itself; `make audit` checks it against `constraints.txt`.

| package | version | licence | for |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str
    use: str

    @property
    def row(self) -> str:
        return f"| {self.name} | {self.version} | {self.licence} | {self.use} |"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Return `{package: version}` of constraints.txt."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def packages() -> list[Package]:
    """Return every pinned package, with the licence that it, or failing that the present list, names."""
    needed, before = closure(_project()["dependencies"]), listed()
    found = []
    for name, version in pins().items():
        licence = licence_of(name) or before.get(name, ("", NOT_HERE))[1]
        found.append(Package(name, version, licence, "running" if name in needed else "development, notebooks, GPU"))
    return found


def _project() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def closure(requirements: list[str]) -> set[str]:
    """Return the names of all that these requirements install here."""
    seen: set[str] = set()
    waiting = [Requirement(r) for r in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonical(wanted.name)
        if name in seen or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            waiting += [Requirement(r) for r in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
    return seen


def licence_of(name: str) -> str:
    """Return the licence that an installed package names, in its fields or in its licence file; "" if it is not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    said = named(about.get("License-Expression"), about.get_all("Classifier") or (), about.get("License"))
    return said or _from_file(name) or "not said"


def named(expression: str | None, classifiers: Iterable[str], words: str | None) -> str:
    """Return a package's licence from its fields: the SPDX expression, else the classifiers, else the first short words."""
    classes = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License ::") and not c.endswith(":: OSI Approved")]
    first = next((line.strip() for line in str(words or "").splitlines() if line.strip()), "")
    short = first if len(first) <= 60 and first.upper() not in {"UNKNOWN", "DUAL LICENSE"} else ""
    return str(expression or "") or " / ".join(classes) or short


def asked(missing: list[str]) -> dict[str, str]:
    """Return what pip knows of packages without installing them, as far as it knows it."""
    if not missing:
        return {}
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-"]
    done = subprocess.run([*pip, *missing], capture_output=True, text=True, check=True)
    about = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return {canonical(m["name"]): named(m.get("license_expression"), m.get("classifier", ()), m.get("license")) for m in about}


def _from_file(name: str) -> str:
    """Return the licence whose words stand in the package's own licence file; "" if none is known."""
    signs = {
        "Permission is hereby granted, free of charge": "MIT",
        "Apache License": "Apache-2.0",
        "Redistribution and use in source and binary forms": "BSD",
        "Permission to use, copy, modify, and": "ISC",
        "NVIDIA": "NVIDIA Proprietary Software",
    }
    files = [f for f in metadata.files(name) or () if "licen" in f.name.lower()]
    for file in files:
        try:
            text = " ".join(file.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            continue
        found = next((licence for sign, licence in signs.items() if sign in text), "")
        if found:
            return found
    return ""


def listed() -> dict[str, tuple[str, str]]:
    """Return `{package: (version, licence)}` of the list as it is."""
    text = LIST.read_text(encoding="utf-8") if LIST.is_file() else ""
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    return {name: (version, licence) for name, version, licence in rows if name != "package"}


def text_of(found: list[Package]) -> str:
    known = "\n".join(f"- `{name}*`: {why}." for name, why in KNOWN.items())
    return HEAD + "\n".join(p.row for p in found) + f"\n\nNot free software, and not shipped:\n\n{known}\n"


def problems(found: list[Package]) -> list[str]:
    """Return a sentence for each package that is not in the list as it is, or whose licence is of no kind that we take."""
    told, written = [], listed()
    for p in found:
        if written.get(p.name) not in {(p.version, p.licence), (p.version, NOT_HERE)}:
            told.append(f"{p.name} {p.version} ({p.licence}): not so in {LIST.name}. Write it again: python scripts/licences.py")
        free = any(kind in p.licence.upper() for kind in FREE)
        excused = p.licence == NOT_HERE or any(p.name.startswith(k) for k in KNOWN)
        if not free and not excused:
            told.append(f"{p.name} {p.version}: its licence is {p.licence!r}. Look at it, and take it in or out on purpose.")
    told += [f"{name}: in {LIST.name}, but no longer pinned." for name in written if name not in {p.name for p in found}]
    return told


def main(arguments: list[str]) -> int:
    found = packages()
    if "--ask" in arguments:
        more = asked([f"{p.name}=={p.version}" for p in found if p.licence == NOT_HERE])
        found = [replace(p, licence=more.get(p.name) or p.licence) for p in found]
    if "--check" not in arguments:
        LIST.write_text(text_of(found), encoding="utf-8")
    told = problems(found)
    print(*told, f"{len(found)} packages, {len(told)} to look at", sep="\n")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
