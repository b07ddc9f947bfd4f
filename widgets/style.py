"""The style of a page's frame: both designs as variables, and the layout."""

from __future__ import annotations

from functools import cache

from widgets.parts import asset
from workbench import theme as themes


@cache
def page_style() -> str:
    """Return the style sheet that a page's frame wears."""
    return "\n".join([_variables("light", ":host(.wb-page)"), _variables("dark", ":host(.wb-page.wb-dark)"), asset("page.css")])


def _variables(theme: str, selector: str) -> str:
    d = themes.design(theme)
    values = {
        "page": d.background, "panel": d.raised, "ink": d.text, "soft": d.muted, "line": d.grid, "accent": d.ink("target"),
        "good": d.ink("accepted"), "bad": d.ink("rejected"), "select": d.line("selected"), "sans": themes.SANS, "mono": themes.MONO,
    }  # fmt: skip
    body = " ".join(f"--wb-{name}: {value};" for name, value in values.items())
    return f"{selector} {{ {body} color-scheme: {theme}; }}"
