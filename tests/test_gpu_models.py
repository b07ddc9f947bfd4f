"""A model on another device does what it does on the processor: every session, instrument and system, in small.

    WORKBENCH_TEST_DEVICE=cuda python -m pytest -m gpu tests/test_gpu_models.py      # where there is a GPU
    python -m pytest tests/test_gpu_models.py                                        # anywhere, on a device that is pretended

The pretended device (`tests/pretend.py`) refuses what a GPU would: tensors of two places in one operation, and `numpy()` of what lies
there. Its arithmetic is the processor's; a GPU adds in another order, so numbers may differ by 1e-4 of their size while tokens, chosen
sets and routes are the same: in fp32 no two logits of these models lie that close.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests import pretend
from tests.models.conftest import make_llama
from workbench import models
from workbench.instruments import attention, neurons, router
from workbench.models import masked_hub
from workbench.models.devices import beside, device_of, made_once
from workbench.models.drafts import open_draft, open_session
from workbench.models.hub import LoadedModel
from workbench.models.masked import open_canvas
from workbench.models.session import HFSession
from workbench.record import Record

DEVICE = os.environ.get("WORKBENCH_TEST_DEVICE", "cuda")
REAL = pytest.param(DEVICE, marks=pytest.mark.gpu if DEVICE.startswith("cuda") else ())
pytestmark = [
    pytest.mark.filterwarnings("ignore::workbench.kernels.KernelWarning"),  # without CuPy they bring a GPU's arrays here
    pytest.mark.filterwarnings("ignore:Please use the new API settings"),  # of torch's switch for products of ten bits
]

IDS = np.random.default_rng(5).integers(0, 60, 40)
SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip

Move = Callable[[Any], Any]


@pytest.fixture(params=[REAL, pretend.NAME])
def move(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    """Return what takes a copy of a module, or of a loaded model, to the device."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # products of ten bits in convolutions are the default there
    if request.param == pretend.NAME:
        if not pretend.possible():
            pytest.skip("This torch lets no Python code be a device; later ones do.")
        with pretend.device():
            yield lambda model: _moved(model, pretend.move)
    else:
        yield lambda model: _moved(model, lambda module: module.to(request.param))


def _moved(model: Any, there: Move) -> Any:
    if isinstance(model, LoadedModel):
        module = _moved(model.model, there)
        return LoadedModel(module, model.tokenizer, model.name, image_processor=model.image_processor)
    if isinstance(model, masked_hub.MaskedNet):
        return masked_hub.MaskedNet(_moved(model.module, there), model.mask_id, model.eos_id, model.shift)
    return there(copy.deepcopy(model))


def make(family: str, **changes: Any) -> Any:
    """Return a random model of a family of transformers."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(SMALL | changes))
    return getattr(transformers, f"{family}ForCausalLM")(config).eval().requires_grad_(False)


def mixture() -> Any:
    return make(
        "Qwen2Moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=12, decoder_sparse_step=1
    )  # fmt: skip


def close(found: Any, wanted: Any, what: str = "") -> None:
    """Fail unless two arrays agree: numbers to 1e-4 of the largest, everything else exactly."""
    assert isinstance(found, np.ndarray), what
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), what
    if found.dtype == np.uint8:  # rounded numbers: one step may go the other way
        assert np.abs(found.astype(int) - wanted).max(initial=0) <= 1, what
    elif found.dtype.kind == "f":
        size = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * size, err_msg=what)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=what)


def same(found: Record, wanted: Record, without: tuple[str, ...] = ()) -> None:
    """Fail unless two runs recorded the same, times apart; `without` are groups that need not agree."""
    assert set(found.groups) == set(wanted.groups)
    timed = ("_ms", "seconds", "predicted")
    for group in set(wanted.groups) - {"meters", *without}:
        for name in wanted.variables(group):
            if not any(word in name for word in timed):
                close(found.column(group, name), wanted.column(group, name), f"{group}/{name}")
    kinds = wanted.column("meters", "kind")
    for i in np.flatnonzero(kinds == "quality") if "meters" not in without else ():
        close(found.column("meters", "value")[i : i + 1], wanted.column("meters", "value")[i : i + 1], "meters")


# ---- where a model lies ----------------------------------------------------------------------------------------------


def test_inputs_go_beside_the_weights_and_views_follow_a_model_that_moves(move: Move) -> None:
    here = make("Llama")
    there = move(here)
    assert device_of(here).type == "cpu"
    assert beside(there, [[1, 2]]).device == device_of(there)
    assert device_of(object()).type == "cpu"
    made = made_once(lambda model: [device_of(model)])
    assert made(there) is made(there)
    assert made(there) == [device_of(there)]


@pytest.mark.parametrize("device", [REAL])
def test_a_model_that_was_used_and_then_moved(device: str) -> None:
    """Buffers of a view made before the move stay behind: it must be made anew."""
    model = make("Gemma2", sliding_window=8)
    before = attention.capture(model, IDS), open_session(models.load(model)).forward(IDS[:5], np.arange(-1, 4))
    model.to(device)
    after = attention.capture(model, IDS), open_session(models.load(model)).forward(IDS[:5], np.arange(-1, 4))
    close(after[0].mass, before[0].mass)
    close(after[1], before[1])


@pytest.mark.parametrize("device", ["cpu", REAL])
def test_a_model_with_a_device_map(device: str, tmp_path: Path) -> None:
    """A layer and the head wait on a disk; they come to the device when they run."""
    accelerate = pytest.importorskip("accelerate")
    whole = make("Qwen2", tie_word_embeddings=False)
    waiting = {"model.layers.1": "disk", "lm_head": "disk"}
    inside = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.2", "model.norm")
    places = dict.fromkeys(inside, device) | waiting
    spread = accelerate.dispatch_model(copy.deepcopy(whole), places, main_device=device, offload_dir=str(tmp_path))
    assert any(p.device.type == "meta" for p in spread.parameters())
    tree = np.array([-1, 0, 0, 1])
    close(
        open_session(models.load(spread)).forward([1, 2, 3, 4], tree),
        open_session(models.load(whole)).forward([1, 2, 3, 4], tree),
    )
    close(attention.capture(spread, IDS).mass, attention.capture(whole, IDS).mass)
    close(neurons.activation_means(spread, IDS[None]), neurons.activation_means(whole, IDS[None]))


# ---- sessions and speculation ----------------------------------------------------------------------------------------


def tree_logits(model: Any, draft: str = "") -> list[np.ndarray]:
    """Return the logits of a prompt, of a tree behind it, of a level below after a cut path, and after a rewind."""
    loaded = models.load(model)
    session = open_session(loaded)
    session.forward(IDS[:9], np.arange(-1, 8), last_only=True)
    session.keep(range(9))
    held = open_draft(draft, loaded, session, IDS[:9].tolist()) if draft else session
    if draft:
        held.forward(IDS[:9], np.arange(-1, 8))
        held.keep(range(9))
    found = [held.forward([3, 7, 9, 4], [-1, 0, 0, 2])]
    found.append(held.forward([5, 6], [3, 1]))
    held.keep([0, 2, 3])
    found.append(held.forward([8], [-1]))
    held.rewind(4)
    return [*found, held.forward([2], [-1])]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma", "Phi"])
def test_tree_rows(move: Move, family: str) -> None:
    here = make(family)
    there = move(here)
    assert device_of(there).type == "cpu" or isinstance(open_session(models.load(there)), HFSession)
    for found, wanted in zip(tree_logits(there), tree_logits(here), strict=True):
        close(found, wanted)


def test_the_int8_draft(move: Move) -> None:
    here = make("Qwen2")
    for found, wanted in zip(tree_logits(move(here), "int8"), tree_logits(here, "int8"), strict=True):
        close(found, wanted)


@pytest.mark.parametrize("draft", ["int8", "lookup", "lookup+int8", "model"])
def test_greedy_speculation_writes_the_same_tokens(move: Move, draft: str) -> None:
    from workbench.systems.speculation.rsd import RSD

    here, small = make_llama(), make_llama(layers=1, seed=3)
    knobs: dict[str, Any] = {"prompt": IDS[:12].tolist(), "max_new_tokens": 16, "temperature": 0.0, "depth": 3, "width": 2}
    there = RSD(target=move(here), draft=move(small) if draft == "model" else draft, **knobs).record()
    record = RSD(target=here, draft=small if draft == "model" else draft, **knobs).record()
    close(there.column("text", "token_id"), record.column("text", "token_id"))
    close(there.column("text", "target_logprob"), record.column("text", "target_logprob"))


def test_sampled_speculation_draws_the_same_trees(move: Move) -> None:
    from workbench.systems.speculation.rsd import RSD

    here, small = make_llama(), make_llama(layers=1, seed=3)
    knobs: dict[str, Any] = {
        "prompt": IDS[:12].tolist(),
        "max_new_tokens": 12,
        "temperature": 1.0,
        "method": "rsd-c",
        "depth": 2,
        "width": 2,
    }
    there = RSD(target=move(here), draft=move(small), **knobs).record()
    same(there, RSD(target=here, draft=small, **knobs).record(), without=("curve/latency",))


# ---- instruments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_attention(move: Move, family: str) -> None:
    changes = {"sliding_window": 8} if family == "Gemma2" else {}
    here = make(family, **changes)
    asked: dict[str, Any] = {"bins": 7, "readers": True, "keep_heads": [1], "windows": [attention.Window(1, 2, 10, 30, 4, 40)]}
    found, wanted = (attention.capture(model, IDS, **asked) for model in (move(here), here))
    for name in ("mass", "column_sum", "readers"):
        close(getattr(found, name), getattr(wanted, name), name)
    for parts in zip(found.heads_of[1], wanted.heads_of[1], strict=True):
        close(*parts)
    close(*found.windows.values(), *wanted.windows.values())
    few, same_few = (attention.capture(model, IDS, probes=np.array([3, 20, 39])) for model in (move(here), here))
    close(few.column_sum, same_few.column_sum)


def test_neurons_and_routers(move: Move) -> None:
    dense, texts = make("Llama"), IDS.reshape(2, -1)
    close(neurons.activation_means(move(dense), texts), neurons.activation_means(dense, texts))
    here = mixture()
    found, wanted = (router.capture(model, texts, rows=1) for model in (move(here), here))
    for name in ("logits", "expert", "weight"):
        close(getattr(found, name), getattr(wanted, name), name)


# ---- systems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs",
    [{}, {"skip": "keys"}, {"others": "evict", "new_tokens": 102}, {"compare_on": "the text's own end"}],
    ids=lambda k: "-".join(map(str, k.values())) or "queries",
)
def test_zipvl(move: Move, knobs: dict[str, Any]) -> None:
    """At 16 bits: of fewer, one number on the border of two codes would change the logits behind it."""
    from workbench.systems.attention.zipvl import ZipVL

    here = make("Llama")
    knobs = {"new_tokens": 8, "probes_recent": 9, "probes_random": 5, "tau": 0.8, "bits_high": 16, "bits_low": 16} | knobs
    same(*(ZipVL(model=model, prompt=IDS.tolist(), **knobs).record() for model in (move(here), here)))


def test_zipvl_in_few_bits_and_on_a_picture(move: Move) -> None:
    from workbench.systems.attention.zipvl import ZipVL

    here = make("Llama")
    loose = ("text", "curve/divergence")
    found, wanted = (ZipVL(model=model, prompt=IDS.tolist(), new_tokens=8).record() for model in (move(here), here))
    for name in ("mass", "token_score", "keep"):
        close(found.column("attention", name), wanted.column("attention", name), name)
    reader = models.load("scene-reader")
    picture: dict[str, Any] = {"image": "scene", "prompt": "auto", "new_tokens": 1, "probes_recent": 3, "keep_recent": 3}
    picture |= {"bits_high": 16, "bits_low": 16}
    same(*(ZipVL(model=model, **picture).record() for model in (move(reader), reader)), without=loose)


def test_picture_tokens(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searched schedules and trained thresholds, beside every other method (chance, an even grid, the truth, ZipVL's rule)."""
    from workbench.systems.attention import pictures_report
    from workbench.systems.attention.atp_llava import ATP
    from workbench.systems.attention.g_search import GSearch

    monkeypatch.setattr(pictures_report, "SHARES", (0.35,))
    monkeypatch.setattr(pictures_report, "TAUS", (0.8,))
    here = models.load("scene-reader")
    there = move(here)
    # how many trials a search needs may turn on the last digit of a metric: its schedule is compared, its trace is not
    found, wanted = (GSearch(model=m, method="g-search", calibration=20, held_out=23).record() for m in (there, here))
    same(found, wanted, without=("curve/search",))
    same(*(ATP(model=m, budget=0.35, held_out=23, compare=False).record() for m in (there, here)))


def test_mixtures_of_experts_under_a_limit(move: Move) -> None:
    from workbench.systems.routing.openmoe import OpenMoE

    here = mixture()
    for knobs in ({}, {"top_k": 1}):
        same(*(OpenMoE(model=m, text=IDS.tolist(), capacity_factor=0.5, **knobs).record() for m in (move(here), here)))


def test_experts_cut_out_of_a_dense_model(move: Move) -> None:
    from workbench.systems.routing.read_me import ReadMe

    here = models.load("lab-target")
    knobs: dict[str, Any] = {
        "router": "domain", "windows": 1, "length": 16, "requests": 8, "experts": 3, "cache_size": 2, "study": True, "bandwidth": 0.1,
    }  # fmt: skip
    found, wanted = (ReadMe(model=m, **knobs).record() for m in (move(here), here))
    read = {"masks", "perplexity", "routing", "traffic", "curve/keep", "curve/layer_choice"}
    same(found, wanted, without=tuple(set(wanted.groups) - read))  # what is served when follows from measured times


def test_the_router_that_reads_ids_alone(move: Move, tmp_path: Path) -> None:
    from workbench.systems.routing import experts as cut

    torch.manual_seed(0)
    table = torch.nn.Embedding(300, 96).requires_grad_(False)
    gate = cut.PreGate(table.weight, 4)
    gate.save(tmp_path / "gate.safetensors", means=np.zeros((1, 1, 1), np.float32))
    found, wanted = (cut.load_pregate(tmp_path / "gate.safetensors", t.weight)[0] for t in (move(table), table))
    close(found.choose(IDS[None], 3), wanted.choose(IDS[None], 3))


@pytest.mark.parametrize("system", ["parallelbench", "bits_to_rounds"])
def test_filling_masks(move: Move, system: str) -> None:
    from workbench.systems.diffusion.bits_to_rounds import BitsToRounds
    from workbench.systems.diffusion.parallelbench import ParallelBench

    here = models.load("tiny-mdm")
    kind: Any = {"parallelbench": ParallelBench, "bits_to_rounds": BitsToRounds}[system]
    knobs: dict[str, Any] = {"task": "shuffle", "items": 4, "num_samples": 6, "temperature": 1.0}
    found, wanted = (kind(model=m, **knobs, study=False).record() for m in (move(here), here))
    same(found, wanted)


def test_left_to_right_and_checkpoints_of_the_hub(move: Move, tmp_path: Path) -> None:
    from workbench.data import parallel_tasks as tasks
    from workbench.models.tiny import write_left_to_right

    here = models.load("tiny-ar").model
    prompts = tasks.draw("copy", 4, 3, np.random.default_rng(0), held=True).prompt
    for temperature in (0.0, 1.0):
        found, wanted = (write_left_to_right(m, prompts, 5, temperature, np.random.default_rng(1)) for m in (move(here), here))
        close(found, wanted)
    loaded = _masked(tmp_path)
    states, rows = np.array([[39, 4, 39, 6], [1, 39, 39, 2]]), np.array([1, 0])
    found, wanted = (open_canvas(net, np.array([[1, 2], [3, 4]]), 4).forward(states, rows) for net in (move(loaded), loaded))
    close(found, wanted)


def _masked(folder: Path) -> LoadedModel:
    """Return a random model of Dream's shape."""
    from safetensors.torch import save_file

    shape = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    }
    module = make("Qwen2", **shape, tie_word_embeddings=False)
    save_file({n: p.contiguous() for n, p in module.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "Dream", "mask_token_id": 39, "eos_token_id": 38} | shape))
    return masked_hub.read_folder(folder, "dream")


def test_depth_networks(move: Move) -> None:
    from workbench.systems.geometry import networks

    here = networks.load()
    there = networks.Networks({name: move(part) for name, part in here.parts.items()})
    rng = np.random.default_rng(0)
    image, volume = rng.random((64, 160, 3), np.float32), rng.random((networks.BINS, 64, 160), np.float32)
    for found, wanted in zip(there.teacher(image), here.teacher(image), strict=True):
        close(found, wanted)
    for which in ("auxiliary", "multi"):
        close(there.decode(which, image, volume), here.decode(which, image, volume))
