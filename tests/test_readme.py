"""What the README tells a reader to type is what the program takes; what it shows is there."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import workbench as wb
from workbench import cli, views
from workbench import system as systems

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "CONTRIBUTING.md")
TEXT = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in FILES)
#: Lines of a block of commands: what stands after `#` is a remark, `[...]` may be left out.
LINES = [
    line.strip().split("  #")[0].strip() for line in TEXT.splitlines() if re.match(r"    (workbench|make|\.venv/bin)\b", line)
]
COMMANDS = sorted({line for line in LINES if line.startswith("workbench ")})
MAKE = sorted({word for line in LINES if line.startswith("make ") for word in line.split()[1:] if "=" not in word})
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def spellings(line: str) -> list[list[str]]:
    """Return the words of a command without and with what stands in brackets."""
    bare = re.sub(r"\[[^\]]*\](?!,)", "", line)
    whole = re.sub(r"\[([^\]]*)\](?!,)", r"\1", line)
    return [shlex.split(text)[1:] for text in dict.fromkeys((bare, whole))]


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) >= 12
    assert {"serve", "test", "lab"} <= set(MAKE)
    assert len(CODE) >= 2


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    group: Any = typer.main.get_command(cli.app)
    for words in spellings(line):
        name, *rest = words
        command = group.commands[name]
        context = command.make_context(name, list(rest), resilient_parsing=False)
        if name in {"run", "sweep"} and "--help" not in rest:
            cls = systems.get(context.params["name"])
            cls(**cli.parse_knobs(cls, context.args))
            if name == "sweep":
                cli.parse_grid(cls, context.params["grid"])


@pytest.mark.parametrize("target", MAKE)
def test_make_targets_are_there(target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("code", CODE)
def test_calls_name_what_exists(code: str) -> None:
    """Nothing is run: every `wb.` name is there, every system, knob, grid and view that is spelt out is known."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wb":
            assert hasattr(wb, node.attr), node.attr
    for call in (c for c in calls if isinstance(c.func, ast.Attribute)):
        assert isinstance(call.func, ast.Attribute)
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if call.func.attr in {"run", "open", "sweep"} and first is not None:
            values = {k.arg: k.value for k in call.keywords if k.arg not in {"client", "host", None}}
            assert set(values) <= set(systems.get(str(first)).knob_names()), ast.unparse(call)
            plain = {str(n): ast.literal_eval(v) for n, v in values.items() if isinstance(v, ast.Constant)}
            systems.get(str(first))(**plain)
        if call.func.attr in {"figure", "text"}:
            assert str(first) in views.registry()
        if call.func.attr == "image":
            assert ast.literal_eval(call.args[1]) in views.registry()


def test_pictures_and_files_are_there() -> None:
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
            assert (ROOT / path).is_file(), f"{path}: python scripts/pictures.py draws it"
    named = re.findall(r"`((?:workbench|scripts|notebooks|benchmarks|recipes|tests|docs|widgets)/[\w./-]+\.\w+)`", TEXT)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_system_has_a_row() -> None:
    for key in systems.registry():
        assert f"(`{key}`" in TEXT, f"{key} is not in the README's table"
