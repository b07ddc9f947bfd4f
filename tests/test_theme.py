"""Colours keep their meaning and their contrast; tokens are shown as a reader can see them."""

from __future__ import annotations

import pytest

from workbench import theme
from workbench.errors import UnknownNameError


@pytest.mark.parametrize("name", theme.DESIGNS)
@pytest.mark.parametrize("meaning", theme.MEANINGS)
def test_every_meaning_stands_out_in_both_designs(name: str, meaning: str) -> None:
    d = theme.design(name)
    assert theme.contrast(d.line(meaning), d.background) >= theme.MARK_CONTRAST
    for surface in (d.background, d.raised):
        assert theme.contrast(d.ink(meaning), surface) >= theme.TEXT_CONTRAST


@pytest.mark.parametrize("name", theme.DESIGNS)
def test_text_is_readable_on_both_surfaces(name: str) -> None:
    d = theme.design(name)
    for ink in (d.text, d.muted):
        for surface in (d.background, d.raised):
            assert theme.contrast(ink, surface) >= theme.TEXT_CONTRAST


def test_contrast_has_the_values_of_the_standard() -> None:
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the classic grey that just fails


def test_a_readable_colour_is_left_alone() -> None:
    assert theme.readable("#0072B2", "#ffffff", 3.0).lower() == "#0072b2"


def test_every_meaning_has_a_second_mark_of_its_own() -> None:
    marks = [m.mark for m in theme.MEANINGS.values()]
    assert len(set(marks)) == len(marks)


def test_an_unknown_theme_names_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="dark, light"):
        theme.design("darkk")


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "↵↵"),
        ("\tx", "→x"),
        ("", "∅"),
        ("\x00", "\\x00"),
        ("a\u202eb", "a\\u202eb"),  # a direction override must not reach the page
        ("\u200b", "\\u200b"),
        ("supercalifragilistic", "supercalifrag…"),
        ("שלום", "\u2068שלום\u2069"),
        ("\\xe2\\x80", "\\xe2\\x80"),
        ("日本", "日本"),
        ("e\u0301", "e\u0301"),
    ],
)
def test_tokens_are_visible(piece: str, shown: str) -> None:
    assert theme.token(piece) == shown


def test_labels_cannot_be_read_as_markup() -> None:
    assert theme.label("<b>&") == "&lt;b&gt;&amp;"


def test_width_counts_columns_of_a_monospaced_grid() -> None:
    assert theme.width("ab") == 2
    assert theme.width("日本") == 4
    assert theme.width("e\u0301") == 1
    assert theme.width("\u2068ab\u2069") == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.8349, "1.83"),
        (0.0421, "0.0421"),
        (98.6, "98.6"),
        (1234.5, "1,234"),
        (0, "0.00"),
        (float("nan"), "–"),
        (2e-7, "2.00e-07"),
    ],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert theme.number(value) == shown


def test_a_template_holds_for_all_plotly_properties() -> None:
    import plotly.graph_objects as go

    for name in theme.DESIGNS:
        go.layout.Template(theme.template(name))


def test_badges_tell_measured_from_predicted_without_colour() -> None:
    assert "solid" in theme.badge("measured")
    assert "dashed" in theme.badge("predicted")
    assert "gradient" in theme.badge("predicted")
