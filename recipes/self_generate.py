"""Self-generated text of a llama-type model with its hidden states, many sequences at once on one core.

Rows of a batch are left-aligned and start with prompts of different lengths; a row still inside its prompt is fed
the prompt's next token, any other its own last choice. Linear weights are bfloat16 (the processor's native product).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


def rope_tables(model: torch.nn.Module, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of every position, (length, head_dim), as the model's own rotary module makes them."""
    positions = torch.arange(length)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1), positions)
    return cos[0], sin[0]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return `x` (..., head_dim) turned by its position."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


@dataclass
class Batch:
    """Tokens (B, S) int64, lengths (B,), prompt lengths (B,), temperatures (B,), hidden (B, S, D) bfloat16."""

    ids: torch.Tensor
    length: torch.Tensor
    prompt_length: torch.Tensor
    temperature: torch.Tensor
    hidden: torch.Tensor


class BatchDecoder:
    """One position of every row a call, with a preallocated KV cache; weights fused and cast once."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        self.config, self.source = model.config, model
        self.eps = model.config.rms_norm_eps
        self.embedding = model.get_input_embeddings().weight.detach().to(dtype)
        self.head = model.get_output_embeddings().weight.detach().to(dtype)
        self.norm = model.model.norm.weight.detach().to(dtype)
        self.layers = [self.fuse(layer, dtype) for layer in model.model.layers]

    @staticmethod
    def fuse(layer: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return the weights of one decoder layer, products of the same input joined."""
        attention, mlp = layer.self_attn, layer.mlp
        parts = {
            "qkv": torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            "out": attention.o_proj.weight,
            "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            "down": mlp.down_proj.weight,
            "norm_in": layer.input_layernorm.weight,
            "norm_mlp": layer.post_attention_layernorm.weight,
        }
        return {name: tensor.detach().to(dtype) for name, tensor in parts.items()}

    def start(self, rows: int, length: int) -> None:
        """Make room for `rows` sequences of `length` tokens."""
        c, dtype = self.config, self.embedding.dtype
        self.rows, self.heads, self.kv_heads, self.head_dim = (
            rows, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
        )  # fmt: skip
        shape = (len(self.layers), rows * self.kv_heads, length, self.head_dim)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        cos, sin = rope_tables(self.source, length)
        self.cos, self.sin = cos.to(dtype), sin.to(dtype)

    def attend(self, index: int, qkv: torch.Tensor, position: int) -> torch.Tensor:
        """Write the new keys and values of layer `index` at `position`; return the attention output (B, H * D)."""
        rows, kv, dim = self.rows, self.kv_heads, self.head_dim
        q, k, v = qkv.split([self.heads * dim, kv * dim, kv * dim], dim=-1)
        cos, sin = self.cos[position], self.sin[position]
        q = rotate(q.reshape(rows, self.heads, dim), cos, sin).reshape(rows * kv, 1, self.heads // kv, dim)
        self.keys[index, :, position] = rotate(k.reshape(rows * kv, dim), cos, sin)
        self.values[index, :, position] = v.reshape(rows * kv, dim)
        keys, values = self.keys[index, :, None, : position + 1], self.values[index, :, None, : position + 1]
        return F.scaled_dot_product_attention(q, keys, values).reshape(rows, self.heads * dim)

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """Return the last hidden state, after the final norm, (B, D), of `tokens` (B,) at `position`."""
        x = self.embedding[tokens]
        for index, layer in enumerate(self.layers):
            qkv = F.linear(F.rms_norm(x, x.shape[-1:], layer["norm_in"], self.eps), layer["qkv"])
            x = x + F.linear(self.attend(index, qkv, position), layer["out"])
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer["norm_mlp"], self.eps), layer["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)


def choose(logits: torch.Tensor, temperature: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one token a row (B,): the arg-max where the temperature is 0, else a sample of the tempered law."""
    tokens = logits.argmax(-1)
    warm = torch.nonzero(temperature > 0)[:, 0]
    if len(warm):
        scaled = logits[warm].float() / temperature[warm, None]
        mass = torch.exp(scaled - scaled.amax(-1, keepdim=True)).cumsum(-1)  # inverse of the distribution function
        u = torch.rand(len(warm), 1, generator=generator) * mass[:, -1:]
        tokens[warm] = torch.searchsorted(mass, u)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens


@torch.inference_mode()
def self_generate(
    decoder: BatchDecoder, prompts: list[list[int]], temperature: torch.Tensor, length: int, stop: int, seed: int
) -> Batch:
    """Return every prompt continued to `length` tokens or to `stop`, with the hidden state of every position."""
    rows = len(prompts)
    prompt_length = torch.tensor([len(prompt) for prompt in prompts])
    ids = torch.full((rows, length), stop)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    hidden = torch.zeros(rows, length, decoder.embedding.shape[1], dtype=torch.bfloat16)
    ended = torch.full((rows,), length)
    generator = torch.Generator().manual_seed(seed)
    decoder.start(rows, length)
    for position in range(length):
        state = decoder.step(ids[:, position], position)
        hidden[:, position] = state.to(torch.bfloat16)
        if position + 1 == length or position + 1 < int(prompt_length.min()):
            continue
        tokens = choose(F.linear(state, decoder.head), temperature, generator)
        free = prompt_length <= position + 1
        ids[free, position + 1] = tokens[free]
        stopped = free & (tokens == stop) & (ended == length)
        ended[stopped] = position + 2
    return Batch(ids, ended, prompt_length, temperature, hidden)
