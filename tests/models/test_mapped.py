"""Weights shared between processes: the same numbers, one file, no copy of another checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.models import fused, mapped


def tiny(seed: int) -> LlamaForCausalLM:

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )
    return LlamaForCausalLM(config).eval()


def steps(model: LlamaForCausalLM) -> list[np.ndarray]:
    """Return the logits of three tokens in fp32 and in int8."""
    return [
        fused.FusedSession(fused.weights_of(model, "tiny", dtype), 8).forward([1, 2, 3], [-1, 0, 1])
        for dtype in ("float32", "int8")
    ]


def test_mapped_weights_give_the_same_logits_and_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps(tiny(0))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_SHARE_WEIGHTS", "1")
    first, again = tiny(0), tiny(0)
    for model in (first, again):
        for own, shared in zip(expected, steps(model), strict=True):
            np.testing.assert_array_equal(own, shared)
    one, two = (fused.weights_of(m, "tiny", "int8").matrices["down"] for m in (first, again))
    assert isinstance(one.base, np.memmap)
    assert one.base.filename == two.base.filename
    assert {path.stem for path in tmp_path.rglob("*.npy")} == {"qkv", "o", "gate_up", "down", "head"}


def test_another_checkpoint_of_the_same_name_takes_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("WORKBENCH_SHARE_WEIGHTS", "1")
    for seed in (0, 1):
        expected = tiny(seed)(torch.tensor([[1, 2, 3]])).logits[0].detach().numpy()
        np.testing.assert_allclose(steps(tiny(seed))[0], expected, atol=2e-6)
    assert mapped.fingerprint(tiny(0)) == mapped.fingerprint(tiny(0)) != mapped.fingerprint(tiny(1))


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail(_: np.ndarray) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        mapped._mapped(tmp_path / "part.npy", (2,), np.float32, fail)
    assert not list(tmp_path.rglob("*.npy"))
