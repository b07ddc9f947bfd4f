"""Texts are there, split for good, and prompts are the same for the same seed."""

from __future__ import annotations

import pytest

from workbench import data
from workbench.errors import UnknownNameError


def test_corpora_are_there_and_split():
    for corpus in (data.plays(), data.stdlib_code(), data.technical_english()):
        held = [name for name in corpus if data.held_out(name)]
        assert 0 < len(held) < len(corpus) / 2
        assert all(len(text) > 300 for text in corpus.values())
    assert "HAMLET" in data.plays()["hamlet"]
    assert "class JSONDecoder" in data.stdlib_code()["json/decoder.py"]


def test_no_subject_is_on_both_sides():
    known, unknown = ({p.source for p in data.questions(side)} for side in (False, True))
    assert known
    assert unknown
    assert not known & unknown


def test_prompts_are_mixed_held_out_and_repeatable():
    prompts = data.prompts(20)
    assert prompts == data.prompts(20)
    assert prompts != data.prompts(20, seed=1)
    assert [p.kind for p in prompts[:4]] == list(data.KINDS)
    assert all(data.held_out(p.source) for p in prompts)
    assert all(p.text.strip() for p in prompts)
    assert all(p.chat == (p.kind == "question") for p in prompts)


def test_training_prompts_come_from_the_other_side():
    assert not any(data.held_out(p.source) for p in data.prompts(40, held_out=False))


def test_an_unknown_kind_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'play'"):
        data.prompts(1, kinds=["plays"])
