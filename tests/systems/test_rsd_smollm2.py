"""The main job on the embedded model: tree rows equal their paths, greedy text is the target's, bad input is a sentence."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.errors import InputError, ModelError

pytestmark = pytest.mark.model
PROMPT = "Name three kinds of clouds and say how to tell them apart."


@pytest.fixture(scope="module")
def loaded():
    return wb.models.load("smollm2-135m")


def test_tree_rows_equal_plain_forwards(loaded) -> None:
    import torch

    from workbench.models.drafts import open_session
    from workbench.models.session import chain_parents

    ids = loaded.encode(PROMPT)
    session = open_session(loaded, 128)
    session.forward(ids, chain_parents(len(ids)), last_only=True)
    session.keep(range(len(ids)))
    rows = session.forward([504, 1000, 2000, 3000], [-1, 0, 0, 2])
    for row, path in ((1, [504, 1000]), (3, [504, 2000, 3000])):
        with torch.inference_mode():
            plain = loaded.model(torch.tensor([ids + path])).logits[0, -1].numpy()
        np.testing.assert_allclose(rows[row], plain, atol=2e-4)


@pytest.mark.parametrize(("draft", "depth", "width"), [("int8", 3, 2), ("lookup+int8", 4, 1), ("lookup", 4, 1), ("eagle", 2, 2)])
def test_greedy_text_is_the_targets(loaded, draft, depth, width) -> None:
    if draft == "eagle" and not any(e.name == "eagle" and e.ready for e in wb.models.available()):
        pytest.skip("the trained draft layer is not in this checkout")
    record = wb.run(
        "rsd",
        target=loaded,
        draft=draft,
        prompt=PROMPT,
        temperature=0.0,
        depth=depth,
        width=width,
        max_new_tokens=24,
        progress=False,
    )
    same, tie = record.meter("identical_to_greedy")["value"], record.meter("differs_at_a_tie")["value"]
    assert same == 1 or tie == 1
    assert record.meter("tokens_per_target_call")["value"] >= 1


def test_sampled_run_is_fixed_by_its_seed(loaded) -> None:
    knobs = {"target": loaded, "prompt": PROMPT, "temperature": 0.8, "top_p": 0.95, "depth": 3, "width": 3, "max_new_tokens": 16}
    first, second = (wb.run("rsd", seed=4, progress=False, **knobs)["text"]["token_id"].values for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_bad_prompts_and_models(loaded) -> None:
    for knobs, error, words in (
        ({"prompt": "  "}, InputError, "some text"),
        ({"prompt": "word " * 9000}, InputError, "context window 8192"),
        ({"target": "no-such-model-anywhere"}, ModelError, "smollm2-135m"),
        ({"draft": "lab-draft"}, InputError, "vocabulary of 49152"),
        ({"num_samples": 10}, InputError, "TableLM"),
    ):
        with pytest.raises(error, match=words):
            wb.run("rsd", **({"target": loaded, "prompt": PROMPT, "progress": False, "max_new_tokens": 4} | knobs))
