"""The list of packages and licences is that of the pinned packages, and none of a kind we do not take came in unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import licences


def test_the_list_is_current() -> None:
    assert licences.problems(licences.packages()) == []


def test_a_package_that_changes_or_is_not_free_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numpy = next(p for p in licences.packages() if p.name == "numpy")
    others = [p for p in licences.packages() if p.name != "numpy"]
    newer = licences.replace(numpy, version="99")
    closed = licences.replace(numpy, licence="All rights reserved")
    assert "Write it again" in " ".join(licences.problems([newer, *others]))
    assert "Look at it" in " ".join(licences.problems([closed, *others]))
    assert licences.problems(others) == ["numpy: in licences.md, but no longer pinned."]
    monkeypatch.setattr(licences, "LIST", tmp_path / "none.md")
    assert len(licences.problems([numpy])) == 1


@pytest.mark.parametrize(
    ("expression", "classifiers", "words", "licence"),
    [
        ("MIT OR Apache-2.0", ["License :: OSI Approved :: MIT License"], "", "MIT OR Apache-2.0"),
        (None, ["License :: OSI Approved :: BSD License", "Topic :: X"], "UNKNOWN", "BSD License"),
        (None, ["License :: OSI Approved"], "MIT", "MIT"),
        (None, [], "Copyright (c) 2020 somebody, who wrote a whole licence text into one field", ""),
    ],
)
def test_what_a_package_says(expression: str | None, classifiers: list[str], words: str, licence: str) -> None:
    assert licences.named(expression, classifiers, words) == licence
