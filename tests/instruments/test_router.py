"""The routing read off every mixture of experts that transformers has, against the router's own weights multiplied out by hand."""

from __future__ import annotations

import inspect
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.errors import InputError, ModelError
from workbench.instruments import router
from workbench.models.devices import device_of

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
    "max_position_embeddings": 64, "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "num_experts_per_token": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
    "decoder_sparse_step": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_topk": 2, "moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1, "num_shared_experts": 1,
    "moe_layer_start_index": 0, "num_dense_layers": 1, "mlp_only_layers": [], "interleave_moe_layer_step": 1, "shared_intermediate_size": 16,
    "top_k_experts": 2, "enable_moe_block": True, "expert_intermediate_size": 16, "intermediate_size_mlp": 48, "num_experts_per_layer": 8,
    "zero_expert_num": 2, "hidden_size_per_layer_input": 8, "num_layers": 2,
}  # fmt: skip
MODELS = Path(transformers.__file__).parent / "models"


def families() -> list[str]:
    """Return every causal language model of the installed transformers whose code has a router class."""
    found = []
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        kind = name if isinstance(name, str) else name[0]
        cls = getattr(transformers, kind, None)
        if cls is None or kind in found:
            continue
        folder = MODELS / cls.__module__.split(".")[-2]
        code = "".join(p.read_text("utf-8") for p in folder.glob("modeling_*.py"))
        if re.search(r"class \w*(Router|TopKGating|MoEV1Gate|CDMoE)\(", code):
            found.append(kind)
    return found


FAMILIES = families()
TINY_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}
#: Mixtures that read more than text and have no causal class of their own: the part that reads the text.
TOWERS = [
    "DeepseekOcr2TextModel", "DiffusionGemmaEncoderTextModel", "Ernie4_5_VLMoeTextModel", "Glm4vMoeTextModel", "Glm5NextTextModel", "Mistral4ForCausalLM",
    "MistralLarge4TextModel", "MuseSparkTextModel", "OpenAIPrivacyFilterModel", "Qwen3OmniMoeThinkerTextModel", "Qwen3VLMoeTextModel", "Step3p7TextModel",
    "UnlimitedOcrTextModel",
]  # fmt: skip
#: What single families need besides the settings above.
OWN: dict[str, dict[str, Any]] = {
    "BeamForCausalLM": {"mlp_layer_types": ["dense", "sparse"]},
    "DbrxForCausalLM": {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2, "hidden_size": 32},
    },
    "DeepseekOcr2TextModel": {"mlp_layer_types": ["dense", "sparse"]},
    "DogeForCausalLM": {"is_moe": True, "num_experts": 16},
    "Ernie4_5_VLMoeTextModel": {"moe_intermediate_size": [16, 16], "mlp_layer_types": ["sparse", "sparse"], "rope_parameters": TINY_ROPE},
    "Gemma4ForCausalLM": {"vocab_size_per_layer_input": 64},
    "Glm4vMoeTextModel": {"rope_parameters": TINY_ROPE},
    "Glm5NextTextModel": {"qk_rope_head_dim": 0, "mlp_layer_types": ["dense", "sparse"]},
    "GraniteMoeHybridForCausalLM": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "Lfm2MoeForCausalLM": {"layer_types": ["full_attention", "full_attention"]},
    "LongcatFlashForCausalLM": {"expert_ffn_hidden_size": 16, "ffn_hidden_size": 48},
    "MiMoV2FlashForCausalLM": {"num_key_value_heads": 2},
    "Step3p7TextModel": {"mlp_layer_types": ["dense", "sparse"], "sliding_window": 32},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
}  # fmt: skip
#: Names of the mapping that are not a decoder of text alone: their language model stands under a name of its own.
WRAPPERS = {kind for kind in FAMILIES if kind.endswith("ForConditionalGeneration")}
TEXT = [kind for kind in FAMILIES if kind not in WRAPPERS]
#: Checked in every run: the commonest families, and every one whose router is read in a way of its own. The others take a minute: `-m long`.
ALWAYS = {
    f"{family}ForCausalLM"
    for family in (
        "Mixtral", "Olmoe", "Qwen2Moe", "Qwen3Moe", "DeepseekV2", "DeepseekV3", "DeepseekV4", "GraniteMoe", "GptOss", "Phimoe", "Jamba", "Dbrx", "JetMoe", "Gemma4",
        "Zaya", "Ernie4_5_Moe",
    )
} | {"Llama4ForCausalLM", "Glm4vMoeTextModel"}  # fmt: skip
REFUSED = {"DogeForCausalLM": "product keys"}


def make(kind: str, **changes: Any) -> Any:
    """Return a tiny instance with random weights and random correction biases."""
    cls = getattr(transformers, kind)
    config = cls.config_class
    known = set(getattr(config, "__dataclass_fields__", {})) | set(inspect.signature(config.__init__).parameters)
    own = OWN.get(kind, {})
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cls(config(**{k: v for k, v in (SMALL | own | changes).items() if k in known or k in own})).eval()
    for name, buffer in [*model.named_buffers(), *model.named_parameters()]:
        if "correction_bias" in name or "balancing_biases" in name or re.search(r"router\.(scale|router_states_scale)$", name):
            buffer.data.normal_(std=0.3)
        if "tid2eid" in name:  # a table from token ids to experts: any distinct ones
            buffer.data.copy_(torch.rand(len(buffer), 8).argsort(-1)[:, : buffer.shape[1]])
    return model.requires_grad_(False)


def inputs(model: Any, ids: np.ndarray) -> dict[str, list[Any]]:
    """Return the tensors that each router of the plain model is given, (N, d) each, seen by hooks that are taken off again."""
    found: dict[str, list[Any]] = {}
    hooks = []
    for name, module in model.named_modules():
        if router.is_router(name, module):

            def keep(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                given = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
                found[name] = [t.reshape(-1, t.shape[-1]).float() for t in given]

            hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(input_ids=torch.from_numpy(ids)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def by_hand(module: Any, tensors: list[Any], size: int) -> Any:
    """Return a router's logits: most are one matrix (its first E rows, shared experts may follow) and a bias of E numbers, or none."""
    given, kind = tensors[0], type(module).__name__
    if kind == "ZayaRouter":  # a small network that also hears the router before it
        state = module.down_proj(given) + (tensors[1] * module.router_states_scale if len(tensors) > 1 else 0)
        net = module.router_mlp
        state = state * (state.square().mean(-1, keepdim=True) + module.config.rms_norm_eps).rsqrt() * net.norm.weight
        for layer in (net.fc1, net.fc2):
            state = torch.nn.functional.gelu(state @ layer.weight.T + layer.bias)
        return state @ net.out_proj.weight.T
    if kind.endswith("GemmaTextRouter") or kind == "Gemma4TextRouter":  # a norm and a scale before the matrix
        even = given * (given.square().mean(-1, keepdim=True) + module.eps).rsqrt()
        return (even * module.scale * given.shape[-1] ** -0.5) @ module.proj.weight.T
    if kind == "MuseSparkTopkRouter":
        return given @ module.weight.T * module.output_multiplier
    matrix = next(p for p in module.parameters() if p.ndim == 2 and p.shape[0] >= size)[:size]
    bias = next((p for n, p in module.named_parameters() if n.split(".")[-1] == "bias" and p.shape == (size,)), 0.0)
    return given @ matrix.float().T + bias


def choices(module: Any, parent: Any, logits: Any, top_k: int) -> list[set[tuple[int, ...]]]:
    """Return the choices of every rule in use: largest logits; sigmoid plus correction, within the best groups or not; best groups by their largest."""
    held = [*module.named_buffers(), *module.named_parameters(), *parent.named_buffers(), *parent.named_parameters()]
    bias = next((t for n, t in held if "correction_bias" in n or "balancing_biases" in n), torch.zeros(logits.shape[1])).flatten()
    rules = [logits, logits + bias, logits.sigmoid() + bias, logits.softmax(-1) + bias]
    groups = next((int(getattr(module, n)) for n in ("n_group", "num_group") if getattr(module, n, None)), 1)
    for scores in (logits.sigmoid() + bias, logits.softmax(-1)):
        split = scores.view(len(scores), groups, -1)
        for strength in (split.topk(min(2, split.shape[2]), -1).values.sum(-1), split.amax(-1)):
            best = torch.zeros_like(strength).scatter_(
                1, strength.topk(int(getattr(module, "topk_group", 1) or 1), -1).indices, 1.0
            )
            rules.append(torch.where(best[..., None].expand_as(split).reshape(scores.shape) > 0, scores, -torch.inf))
    return [{(i, *sorted(row)) for i, row in enumerate(r.topk(top_k, -1).indices.tolist())} for r in rules]


def weights(module: Any, parent: Any, model: Any, logits: Any, expert: np.ndarray, given: Any) -> list[Any]:
    """Return the weights of chosen experts by every rule in use: a law of the logits (over all, or over the chosen), as it is or
    made to sum to one, times a factor that the router, its block or the configuration names."""
    chosen = torch.from_numpy(expert.astype(np.int64))
    if type(module).__name__ == "InklingTopkRouter":  # the experts that all tokens share take part in the sum
        shared = (given @ module.weight.T)[:, len(module.weight) - module.n_shared_experts :].sigmoid()
        own = logits.sigmoid().gather(1, chosen)
        return [own / (own.sum(1, keepdim=True) + shared.sum(1, keepdim=True)) * module.route_scale * module.global_scale]
    if type(module).__name__ == "PhimoeTopKRouter":  # each choice against those that nearly tie with it, the first taken out
        first, second = _near_tie(logits, 2 * module.router_jitter_noise)
        return [torch.stack([first, second], 1), torch.stack([second, first], 1)]
    root = torch.nn.functional.softplus(logits).sqrt()
    laws = [logits.softmax(-1), logits.sigmoid(), root]
    plain = [law.gather(1, chosen) for law in laws] + [logits.gather(1, chosen).softmax(-1)]
    plain += [p / (p.sum(-1, keepdim=True) + 1e-20) for p in plain]
    names = (
        "routed_scaling_factor",
        "router_scaling_factor",
        "moe_router_scaling_factor",
        "route_scale",
        "moe_routed_scaling_factor",
    )
    held = [getattr(owner, name, None) for owner in (module, parent, model.config) for name in names]
    factors = {1.0, 1 / chosen.shape[1], *(float(f) for f in held if isinstance(f, (int, float)))}
    return [p * f for p in plain for f in factors]


def _near_tie(logits: Any, width: float) -> list[Any]:
    """Return the weights of the two largest logits: softmax over what lies within `width` of the largest, in shares of its size."""
    found, left = [], logits.clone()
    for _ in range(2):
        top, at = left.max(1, keepdim=True)
        far = (top - logits) / torch.maximum(logits.abs(), top) > width
        found.append(left.masked_fill(far, -torch.inf).softmax(1).gather(1, at)[:, 0])
        left = left.scatter(1, at, -torch.inf)
    return found


IDS = np.arange(3, 23)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ALWAYS else pytest.mark.long) for k in (*TEXT, *TOWERS) if k not in REFUSED]
)
def test_the_routing_is_that_of_the_routers_own_weights(kind: str) -> None:
    model = make(kind)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    given = inputs(model, IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = router.capture(model, IDS)
    assert len(seen.layers) == len(seen.names) == len(given)
    assert seen.expert.shape == seen.weight.shape == (len(given), len(IDS), seen.top_k)
    modules = dict(model.named_modules())
    for row, name in enumerate(seen.names):
        assert f".{seen.layers[row]}." in f".{name}."
        size = int((np.isfinite(seen.logits[row]).all(0)).sum())
        truth = by_hand(modules[name], given[name], size)
        np.testing.assert_allclose(seen.logits[row, :, :size], truth.numpy(), rtol=1e-4, atol=2e-5)
        mine = {(i, *sorted(e)) for i, e in enumerate(seen.expert[row].tolist())}
        if hasattr(modules[name], "tid2eid"):
            np.testing.assert_array_equal(np.sort(seen.expert[row]), np.sort(modules[name].tid2eid.numpy()[IDS]))
            continue
        assert mine in choices(modules[name], modules[name.rpartition(".")[0]], truth, seen.top_k), (
            f"{name}: chosen by no known rule"
        )
        rules = weights(modules[name], modules[name.rpartition(".")[0]], model, truth, seen.expert[row], given[name][0])
        off = min(float((r - torch.from_numpy(seen.weight[row])).abs().max()) for r in rules)
        assert off < 1e-5, f"{name}: weighed by no known rule, {off:.2e} off"
    for weight, expert in zip(seen.weight, seen.expert):
        assert (np.diff(weight, axis=1) <= 1e-6).all()  # heaviest first
        assert all(len(set(e)) == seen.top_k for e in expert.tolist())
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_router_of_the_installed_transformers_is_forgotten() -> None:
    """Every router class in its source belongs to a family that is checked here, to one that is refused with a reason, or routes no token of a text."""
    checked = {getattr(transformers, kind).__module__.split(".")[-2] for kind in (*TEXT, *TOWERS)}
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        code = path.read_text("utf-8")
        for name in re.findall(r"^class (\w*(?:Router|TopKGating|Gate))\(", code, re.MULTILINE):
            known = (
                path.parent.name in checked
                or router._NOT_ROUTER.search(name)
                or any(f"class {kind}(" in code for kind in router.UNSUPPORTED)
            )
            assert known, f"{name} of {path.parent.name}: neither read nor refused"


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_what_cannot_be_read_is_named_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        router.capture(make(kind), IDS)


def test_four_bit_experts_that_choose_by_themselves_are_refused() -> None:
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts, Mxfp4GptOssMLP

    model = make("GptOssForCausalLM")
    for layer in model.model.layers:
        layer.mlp = Mxfp4GptOssMLP(layer.mlp.router, Mxfp4GptOssExperts(model.config))
    with pytest.raises(ModelError, match=r"MXFP4.*dequantize=True"):
        router.capture(model, IDS)


def test_two_stacks_are_refused() -> None:
    config = transformers.SwitchTransformersConfig(
        vocab_size=64,
        d_model=32,
        d_ff=32,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    )
    with pytest.raises(ModelError, match="two stacks"):
        router.view(transformers.SwitchTransformersForConditionalGeneration(config))


def test_a_dense_model_has_no_router() -> None:
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    with pytest.raises(ModelError, match="has no router: all its layers are dense"):
        router.capture(transformers.LlamaForCausalLM(config).eval(), IDS)
    with pytest.raises(ModelError, match="has no router"):
        router.capture(object(), IDS)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([], "at least one token"),
        ([99], "ids from 0 to 63"),
        ([-1], "ids from 0 to 63"),
        (list(range(3)) * 30, "at most 64 tokens"),
    ],
)
def test_bad_texts_are_refused(ids: list[int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        router.capture(make("MixtralForCausalLM"), np.array(ids, np.int64))


def test_one_token_and_many_texts() -> None:
    model = make("Qwen2MoeForCausalLM")
    one = router.capture(model, np.array([5]))
    assert one.logits.shape == (2, 1, 8)
    rows = np.arange(2, 62).reshape(6, 10)
    whole = router.capture(model, rows, rows=4)
    for i, row in enumerate(rows):  # batch = loop, batch-major
        alone = router.capture(model, row)
        np.testing.assert_allclose(whole.logits[:, i * 10 : i * 10 + 10], alone.logits, atol=1e-5)
        np.testing.assert_array_equal(whole.expert[:, i * 10 : i * 10 + 10], alone.expert)


def test_an_answer_is_what_the_experts_get_and_does_not_leak() -> None:
    """Every token to expert 0 with weight 0 leaves only the shared path; a capture without an answer sees the model as it is."""
    model, ids = make("Qwen2MoeForCausalLM"), IDS
    plain = model(input_ids=torch.from_numpy(ids)[None]).logits
    silent: list[Any] = []
    router.capture(
        model, ids, handler=lambda seen: (seen.expert * 0, seen.weight * 0), on_rows=lambda _, logits: silent.append(logits)
    )
    bare = make("Qwen2MoeForCausalLM")
    for block in (layer.mlp.experts for layer in bare.model.layers):
        for parameter in block.parameters():
            parameter.data.zero_()
    np.testing.assert_allclose(silent[0].numpy(), bare(input_ids=torch.from_numpy(ids)[None]).logits.numpy(), atol=1e-5)
    assert np.abs(silent[0].numpy() - plain.numpy()).max() > 1e-4
    again: list[Any] = []
    router.capture(model, ids, on_rows=lambda _, logits: again.append(logits))
    np.testing.assert_allclose(again[0].numpy(), plain.numpy(), atol=1e-6)


def test_a_model_spread_over_devices_is_read_as_a_whole_one(tmp_path: Path) -> None:
    """A device map with a layer on disk: its weights lie on no device until the layer runs."""
    import accelerate

    whole = router.capture(make("Qwen2MoeForCausalLM"), IDS)
    places = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "lm_head": "cpu",
    }
    spread = accelerate.dispatch_model(make("Qwen2MoeForCausalLM"), places, main_device="cpu", offload_dir=str(tmp_path))
    assert any(p.device.type == "meta" for p in spread.parameters())
    for _ in range(2):
        seen = router.capture(spread, IDS)
        np.testing.assert_array_equal(seen.expert, whole.expert)
        np.testing.assert_allclose(seen.logits, whole.logits, atol=1e-6)
    assert str(device_of(spread)) == "cpu"


def test_two_captures_at_once_do_not_meet() -> None:
    model, texts = make("OlmoeForCausalLM"), [np.arange(3, 23), np.arange(30, 50)]
    alone = [router.capture(model, t) for t in texts]
    found: dict[int, Any] = {}
    start = threading.Barrier(2)

    def work(i: int) -> None:
        start.wait()
        found[i] = [router.capture(model, texts[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        for seen in found[i]:
            np.testing.assert_array_equal(seen.expert, alone[i].expert)
            np.testing.assert_allclose(seen.logits, alone[i].logits, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "rule"), [("MixtralForCausalLM", "renormalised"), ("OlmoeForCausalLM", "softmax"), ("DeepseekV3ForCausalLM", "own")]
)
def test_the_rule_from_logits_to_weights_is_recognised(kind: str, rule: str) -> None:
    assert router.capture(make(kind), IDS).rule == rule


def test_probabilities_under_the_name_of_logits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("MixtralForCausalLM")
    gate = type(next(m for n, m in model.named_modules() if router.is_router(n, m)))
    plain = gate.forward

    def soft(self: Any, *args: Any, **kwargs: Any) -> Any:
        logits, *rest = plain(self, *args, **kwargs)
        return (logits.softmax(-1), *rest)

    monkeypatch.setattr(gate, "forward", soft)
    with pytest.raises(ModelError, match="returns probabilities under their name"):
        router.capture(model, IDS)
    monkeypatch.undo()
    assert router.capture(model, IDS).logits.min() < 0
