"""The EAGLE-type draft as a trainable module: one decoder layer from the target's last hidden state to its next.

Row t reads the hidden state of position t - 1 and the embedding of token t, and predicts the hidden state of position t,
whose product with the target's own head (a subset of its rows) is the law of token t + 1. Deeper drafts read the
module's own prediction instead of the target's state; `roll_out` trains exactly that.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from self_generate import rope_tables, rotate


class EagleLayer(nn.Module):
    """fc over [hidden / gain, embedding * scale], one llama layer, final norm; the head is the target's and is frozen."""

    def __init__(self, target: nn.Module, subset: torch.Tensor, length: int) -> None:
        super().__init__()
        c = target.config
        self.dim, self.heads, self.kv_heads, self.head_dim = (
            c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
        )  # fmt: skip
        self.eps = c.rms_norm_eps
        width, kv, inner = self.heads * self.head_dim, self.kv_heads * self.head_dim, c.intermediate_size
        gain, embedding = target.model.norm.weight.detach().clone(), target.get_input_embeddings().weight.detach()
        self.register_buffer("gain", gain)
        self.register_buffer("embedding", embedding)
        self.register_buffer("subset", subset)
        self.register_buffer("head", target.get_output_embeddings().weight.detach()[subset].clone())
        self.scale = float(1 / embedding.pow(2).mean().sqrt())
        cos, sin = rope_tables(target, length)
        self.register_buffer("cos", cos.clone())
        self.register_buffer("sin", sin.clone())
        self.fc = nn.Linear(2 * self.dim, self.dim, bias=False)
        self.qkv = nn.Linear(self.dim, width + 2 * kv, bias=False)
        self.out = nn.Linear(width, self.dim, bias=False)
        self.gate_up = nn.Linear(self.dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, self.dim, bias=False)
        self.norm_in = nn.Parameter(torch.ones(self.dim))
        self.norm_mlp = nn.Parameter(torch.ones(self.dim))
        self.norm = nn.Parameter(gain.clone())
        nn.init.zeros_(self.out.weight)  # the layer starts as the linear map alone
        nn.init.zeros_(self.down.weight)

    def inputs(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return (B, T, 2D): the previous position's hidden state and this position's embedding, both of unit size."""
        return torch.cat([hidden / self.gain, self.embedding[ids] * self.scale], dim=-1)

    def attend(self, q: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        """Return attention of draft depth k = len(keys): depth-1 rows up to t - k + 1, then the chain's own deeper rows."""
        depth, length = len(keys), q.shape[2]
        scores = (q @ keys[0].transpose(-1, -2)).float() * self.head_dim**-0.5  # (B, H, T, T)
        position = torch.arange(length)
        hidden = position[None] > position[:, None] - (depth - 1)
        scores = scores.masked_fill(hidden & (position[None] > 0), -1e4)
        chain = [torch.roll(k, depth - 1 - j, dims=2) for j, k in enumerate(keys) if j > 0]
        own = [(q * k).float().sum(-1, keepdim=True) * self.head_dim**-0.5 for k in chain]
        probs = torch.softmax(torch.cat([scores, *own], dim=-1), dim=-1).to(q.dtype)
        mixed = probs[..., :length] @ values[0]
        for j in range(1, depth):
            mixed = mixed + probs[..., length + j - 1, None] * torch.roll(values[j], depth - 1 - j, dims=2)
        return mixed

    def one(self, x: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        """Return the predicted hidden states (B, T, D) of one depth; append its keys and values."""
        batch, length, _ = x.shape
        x = self.fc(x)
        qkv = self.qkv(F.rms_norm(x.float(), (self.dim,), self.norm_in, self.eps))
        qkv = qkv.view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        repeat = self.heads // self.kv_heads
        q, k = rotate(q, self.cos[:length], self.sin[:length]), rotate(k, self.cos[:length], self.sin[:length])
        keys.append(k.repeat_interleave(repeat, dim=1).to(v.dtype))
        values.append(v.repeat_interleave(repeat, dim=1))
        mixed = self.attend(q.to(v.dtype), keys, values)
        x = x.float() + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(F.rms_norm(x, (self.dim,), self.norm_mlp, self.eps)).chunk(2, dim=-1)
        x = x + self.down(F.silu(gate) * up)
        return F.rms_norm(x, (self.dim,), self.norm, self.eps)

    def roll_out(self, hidden: torch.Tensor, ids: torch.Tensor, depth: int) -> list[torch.Tensor]:
        """Return the predictions of depths 1 to `depth`, each (B, T, D); those of row t < depth - 1 mean nothing.

        Args:
            hidden: (B, T, D) the target's states; row t is the state after reading ids[:, t].
            ids: (B, T).
        """
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        out, previous = [], hidden
        for _ in range(depth):
            shifted = F.pad(previous, (0, 0, 1, 0))[:, :-1]  # nothing comes before position 0
            out.append(self.one(self.inputs(shifted, ids), keys, values))
            previous = out[-1]
        return out

    @torch.no_grad()
    def fit_linear(self, hidden: torch.Tensor, ids: torch.Tensor, valid: torch.Tensor, ridge: float = 1.0) -> None:
        """Set `fc` to the ridge regression of the next state (of unit size) on the inputs; the layer adds nothing yet."""
        shifted = F.pad(hidden, (0, 0, 1, 0))[:, :-1]
        gram, cross = torch.zeros(2 * self.dim, 2 * self.dim), torch.zeros(2 * self.dim, self.dim)
        for rows in torch.arange(len(ids)).split(32):
            keep = valid[rows]
            x = self.inputs(shifted[rows].float(), ids[rows])[keep]
            gram += x.T @ x
            cross += x.T @ (hidden[rows].float() / self.gain)[keep]
        gram += ridge * len(ids) * torch.eye(2 * self.dim)
        self.fc.weight.copy_(torch.linalg.solve(gram, cross).T)


def draft_loss(layer: EagleLayer, hidden: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the weighted loss: soft cross-entropy to the target's law on the subset, plus the distance of the states.

    Args:
        weight: (B, T) how much a position counts.
        depth: depths rolled out; depth k counts 0.6 ** (k - 1).
    """
    with torch.no_grad():
        law = F.linear(hidden, layer.head).float().softmax(-1)
    total, share = hidden.new_zeros(()), 0.0
    for k, state in enumerate(layer.roll_out(hidden, ids, depth)):
        seen = weight[:, k:]
        log_q = F.linear(state[:, k:], layer.head).float().log_softmax(-1)
        entropy = -(law[:, k:] * log_q).sum(-1)
        distance = F.smooth_l1_loss(state[:, k:].float() / layer.gain, hidden[:, k:] / layer.gain, reduction="none").mean(-1)
        total = total + 0.6**k * ((entropy + 0.3 * distance) * seen).sum() / seen.sum()
        share += 0.6**k
    return total / share


@torch.inference_mode()
def agreement(
    layer: EagleLayer, hidden: torch.Tensor, ids: torch.Tensor, valid: torch.Tensor, full_head: torch.Tensor, depth: int = 4
) -> tuple[list[float], list[float]]:
    """Return, for each depth, how often the draft's best token is the target's, and how often the whole chain is.

    The chain is drafted from the target's own text: depth k reads k - 1 own predictions and true tokens.
    """
    right, survived, count = torch.zeros(depth), torch.zeros(depth), 0
    for rows in torch.arange(len(ids)).split(16):
        goal = F.linear(hidden[rows].float(), full_head).argmax(-1)
        states = layer.roll_out(hidden[rows].float(), ids[rows], depth)
        hits = [layer.subset[F.linear(state.float(), layer.head).argmax(-1)] == goal for state in states]
        starts = ids.shape[1] - depth + 1  # a chain that starts at row t has its depth-k row at t + k - 1
        inside = valid[rows][:, depth - 1 :] & valid[rows][:, :starts]
        alive = inside
        for k in range(depth):
            here = hits[k][:, k : starts + k] & inside
            alive = alive & here
            right[k] += here.sum()
            survived[k] += alive.sum()
        count += int(inside.sum())
    return (right / count).tolist(), (survived / count).tolist()
