"""LLaDA- and Dream-shaped checkpoints as masked-diffusion models, without running the code that they bring along.

LLaDA is a Llama whose attention looks both ways, under other names; Dream is a Qwen2 that looks both ways and predicts
position i at i - 1. So each is read into transformers' own module and called with a mask that hides nothing. Their mask ids
are found in the configuration; where it has none the published ones are used (reported, unverified).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.models.hub import LoadedModel, first_line, quiet_transformers

#: Mask and end-of-text ids of published checkpoints, for configurations that leave them out.
PUBLISHED = {"llada": (126336, 126081), "dream": (151666, 151643)}
_LLADA_NAMES = (
    (r"^model\.transformer\.wte\.", "model.embed_tokens."),
    (r"^model\.transformer\.ln_f\.", "model.norm."),
    (r"^model\.transformer\.ff_out\.", "lm_head."),
    (r"^model\.transformer\.blocks\.(\d+)\.([qkv]_proj)\.", r"model.layers.\1.self_attn.\2."),
    (r"^model\.transformer\.blocks\.(\d+)\.attn_out\.", r"model.layers.\1.self_attn.o_proj."),
    (r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
    (r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.", r"model.layers.\1.mlp.gate_proj."),
    (r"^model\.transformer\.blocks\.(\d+)\.up_proj\.", r"model.layers.\1.mlp.up_proj."),
    (r"^model\.transformer\.blocks\.(\d+)\.ff_out\.", r"model.layers.\1.mlp.down_proj."),
)


@dataclass(frozen=True, eq=False)
class MaskedNet:
    """A bidirectional module and what a decoder must know of it.

    Attributes:
        module: transformers' `LlamaForCausalLM` or `Qwen2ForCausalLM`, in eval mode.
        shift: 1 where the logits at i - 1 are the prediction for i (Dream), else 0.
    """

    module: Any
    mask_id: int
    eos_id: int
    shift: int
    fills_masks: bool = True

    @property
    def vocab_size(self) -> int:
        """Ids that the module gives a logit."""
        return int(self.module.config.vocab_size)

    def aligned_logits(self, ids: Any) -> Any:
        """Return logits (B, T, V): row i predicts token i, whatever the model's habit.

        Args:
            ids: (B, T) int64 tensor, masks included, on the module's device.
        """
        import torch

        with torch.inference_mode():
            batch, length = ids.shape
            dtype = next(self.module.parameters()).dtype
            nothing_hidden = torch.zeros(batch, 1, length, length, dtype=dtype, device=ids.device)
            logits = self.module(input_ids=ids, attention_mask=nothing_hidden, use_cache=False).logits
            return torch.cat([logits[:, :1], logits[:, :-1]], 1) if self.shift else logits


def family_of(config: dict[str, Any]) -> str:
    """Return "llada", "dream" or "" for a checkpoint's `config.json`."""
    kind = str(config.get("model_type", "")).lower()
    return next((family for family in PUBLISHED if kind.startswith(family)), "")


def fills_masks(folder: Path) -> bool:
    """Return whether a folder holds a LLaDA- or Dream-shaped checkpoint."""
    try:
        return bool(family_of(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return False


def read_folder(folder: Path, name: str) -> LoadedModel:
    """Return the masked-diffusion model of a folder: safetensors only, no code of the checkpoint is run.

    Raises:
        ModelError: weights or configuration do not fit together.
    """
    from transformers import AutoTokenizer

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        net = build(config, weights_of(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        then = "Use a LLaDA or Dream checkpoint with safetensors weights"
        raise ModelError(
            f"Model {name!r} in {folder} cannot be read as a masked-diffusion model: {first_line(error)}. {then}."
        ) from error
    tokenizer = None
    if any((folder / file).exists() for file in ("tokenizer.json", "tokenizer_config.json")):
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            except (OSError, ValueError, KeyError, ImportError, AttributeError):
                tokenizer = None  # a tokenizer that is code stays unread; prompts can be ids
    card = folder / "README.md"
    return LoadedModel(net, tokenizer, name, card.read_text(encoding="utf-8") if card.exists() else "")


def weights_of(folder: Path) -> dict[str, Any]:
    """Return all tensors of a folder's safetensors files."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    if not found:
        raise OSError("no safetensors weights")
    return found


def build(config: dict[str, Any], weights: dict[str, Any]) -> MaskedNet:
    """Return the module of a configuration with these weights.

    Raises:
        RuntimeError: a weight is missing or too many. KeyError: a size is missing in the configuration.
    """
    import torch

    family = family_of(config)
    kind, shape = _llada(config) if family == "llada" else _dream(config)
    if family == "llada":
        weights = {_renamed(n): w for n, w in weights.items()}
    if shape.tie_word_embeddings or "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with torch.device("meta"):
        module = kind(shape)
    module.load_state_dict(weights, strict=True, assign=True)
    module.model.rotary_emb = type(module.model.rotary_emb)(shape)  # its buffers are in no checkpoint
    mask_id, eos_id = (config.get(key) for key in ("mask_token_id", "eos_token_id"))
    mask_id = PUBLISHED[family][0] if mask_id is None else mask_id
    eos_id = PUBLISHED[family][1] if eos_id is None else eos_id[0] if isinstance(eos_id, list) else eos_id
    return MaskedNet(module.eval().requires_grad_(False), int(mask_id), int(eos_id), int(family == "dream"))


def _renamed(name: str) -> str:
    for pattern, ours in _LLADA_NAMES:
        name, done = re.subn(pattern, ours, name)
        if done:
            break
    return name


def _llada(config: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"], hidden_size=config["d_model"], num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"], num_key_value_heads=config.get("n_kv_heads") or config["n_heads"],
        intermediate_size=config["mlp_hidden_size"], rms_norm_eps=config.get("rms_norm_eps", 1e-5), attention_bias=bool(config.get("include_qkv_bias")),
        max_position_embeddings=config.get("max_sequence_length", 4096), tie_word_embeddings=bool(config.get("weight_tying")),
        rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10000.0))},
    )  # fmt: skip
    return LlamaForCausalLM, shape


def _dream(config: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = Qwen2Config(
        vocab_size=config["vocab_size"], hidden_size=config["hidden_size"], num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"], num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        intermediate_size=config["intermediate_size"], rms_norm_eps=config.get("rms_norm_eps", 1e-6), use_sliding_window=False,
        max_position_embeddings=config.get("max_position_embeddings", 32768), tie_word_embeddings=bool(config.get("tie_word_embeddings")),
        rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rope_theta", 1e6))},
    )  # fmt: skip
    return Qwen2ForCausalLM, shape
