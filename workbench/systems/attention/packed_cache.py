"""A key-value cache at few bits, really packed: what it stores is what `nbytes` counts.

Asymmetric min-max quantization, q = round((x - min) / s), s = (max - min) / (2**bits - 1). Keys have one (min, s) for each channel,
over the tokens of a set; values one for each token, over the channels, after every channel is divided by sqrt(max |v|)
("channel-separable, token-wise"). Parameters are stored in fp16.

Source: ZipVL, arXiv 2410.08584, section 3.2; ZipCache, arXiv 2405.14256, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDTHS = (16, 8, 4, 3, 2)  # bits; 16 keeps the numbers as they are and counts two bytes each


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return integer codes (any shape, 0 to 2**bits - 1) as bytes without a gap: ceil(size * bits / 8) of them."""
    planes = (codes.reshape(-1, 1).astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1))


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the codes that `pack` stored, uint8."""
    size = int(np.prod(shape))
    planes = np.unpackbits(packed, count=size * bits).reshape(size, bits)
    return (planes << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8).reshape(shape)


@dataclass(frozen=True)
class Packed:
    """One quantized matrix (tokens, channels): packed codes, fp16 minimum and step (along `axis` kept as 1), fp16 channel divisor.

    A set of no tokens has no bytes. With 16 bits `plain` holds the numbers and there are no parameters.
    """

    shape: tuple[int, int]
    bits: int
    codes: np.ndarray
    low: np.ndarray
    step: np.ndarray
    divisor: np.ndarray
    plain: np.ndarray | None = None

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes."""
        return 2 * self.shape[0] * self.shape[1] if self.plain is not None else self.codes.nbytes

    @property
    def parameter_bytes(self) -> int:
        """Bytes of minimum, step and divisor."""
        return self.low.nbytes + self.step.nbytes + self.divisor.nbytes

    def numbers(self) -> np.ndarray:
        """Return what attention reads: (tokens, channels) fp32."""
        if self.plain is not None:
            return self.plain
        codes = unpack(self.codes, self.bits, self.shape).astype(np.float32)
        restored = self.low.astype(np.float32) + codes * self.step.astype(np.float32)
        return restored * self.divisor.astype(np.float32) if self.divisor.size else restored


_NONE = np.zeros(0, np.float16)


def quantize(x: np.ndarray, bits: int, axis: int, divisor: np.ndarray = _NONE) -> Packed:
    """Return a matrix (tokens, channels) fp32 at `bits`, one minimum and step for each slice along `axis`.

    Args:
        axis: 0 gives a pair for each channel (keys), 1 for each token (values).
        divisor: (channels,) fp16, what every channel is divided by first; empty for nothing.
    """
    if bits == 16 or not x.size:
        return Packed((x.shape[0], x.shape[1]), bits, np.zeros(0, np.uint8), _NONE, _NONE, _NONE, x.astype(np.float32))
    scaled = x / divisor.astype(np.float32) if divisor.size else x
    low = _half(scaled.min(axis, keepdims=True), -np.inf)
    top = 2**bits - 1
    step = _half((scaled.max(axis, keepdims=True) - low.astype(np.float32)) / top, np.inf)
    safe = np.where(step > 0, step, np.float16(1)).astype(np.float32)  # a constant slice: every code is 0
    codes = np.clip(np.rint((scaled - low.astype(np.float32)) / safe), 0, top).astype(np.uint8)
    return Packed((x.shape[0], x.shape[1]), bits, pack(codes, bits), low, step, divisor)


def _half(x: np.ndarray, towards: float) -> np.ndarray:
    """Return fp16 numbers not above (towards -inf) or not below (+inf) those given: no number then falls outside the codes."""
    half = x.astype(np.float16)
    wrong = half.astype(np.float32) > x if towards < 0 else half.astype(np.float32) < x
    return np.where(wrong, np.nextafter(half, np.float16(towards)), half).astype(np.float16)


def channel_divisor(values: np.ndarray) -> np.ndarray:
    """Return sqrt(max |v|) of every channel of (tokens, channels), fp16; 1 where a channel is zero."""
    largest = np.sqrt(np.abs(values).max(0)).astype(np.float16) if len(values) else np.ones(values.shape[1], np.float16)
    return np.where(largest > 0, largest, np.float16(1))


@dataclass(frozen=True)
class LayerCache:
    """One layer's cache: keys and values of the important tokens and of the others."""

    important: np.ndarray  # (tokens,) bool
    keys: tuple[Packed, Packed]
    values: tuple[Packed, Packed]

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return keys and values as attention reads them, (tokens, channels) fp32 each, in the order of the text."""
        return tuple(self._merge(pair) for pair in (self.keys, self.values))  # type: ignore[return-value]

    def _merge(self, pair: tuple[Packed, Packed]) -> np.ndarray:
        out = np.empty((len(self.important), pair[0].shape[1]), np.float32)
        out[self.important], out[~self.important] = pair[0].numbers(), pair[1].numbers()
        return out

    def nbytes(self) -> tuple[int, int, int]:
        """Return bytes of (important codes, other codes, parameters)."""
        both = (self.keys, self.values)
        return (
            sum(pair[0].code_bytes for pair in both),
            sum(pair[1].code_bytes for pair in both),
            sum(part.parameter_bytes for pair in both for part in pair),
        )


def compress(keys: np.ndarray, values: np.ndarray, important: np.ndarray, bits: tuple[int, int]) -> LayerCache:
    """Return keys and values (tokens, channels) fp32 at bits[0] for the important tokens and bits[1] for the others."""
    sets = (important, ~important)
    packed_keys = tuple(quantize(keys[rows], b, 0) for rows, b in zip(sets, bits))
    packed_values = tuple(quantize(values[rows], b, 1, channel_divisor(values[rows])) for rows, b in zip(sets, bits))
    return LayerCache(important, packed_keys, packed_values)  # type: ignore[arg-type]


def account(tokens: int, important: int, channels: int, bits: tuple[int, int]) -> tuple[int, int, int]:
    """Return bytes of (important codes, other codes, parameters) of one layer by formula: what `LayerCache.nbytes` counts."""
    counts = (important, tokens - important)
    codes = [2 * (2 * n * channels if b == 16 else -(-n * channels * b // 8)) for n, b in zip(counts, bits)]
    # keys: min and step of each channel; values: min and step of each token, and the divisor of each channel
    parameters = sum(2 * (2 * channels + 2 * n + channels) for n, b in zip(counts, bits) if n and b < 16)
    return codes[0], codes[1], parameters
