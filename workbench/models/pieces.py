"""The text of single tokens, exactly: byte-level and sentence-piece vocabularies, bytes that are not whole UTF-8."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any


@functools.cache
def byte_of_letter() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for (GPT-2's printable stand-ins)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def is_byte_level(tokenizer: Any) -> bool:
    """Return whether the vocabulary's letters stand for bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "ByteLevel" in repr(getattr(backend, "decoder", None))


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return each token's own text; special tokens by their name, lone bytes as `\\xNN`, unknown ids as `<id>`."""
    tokens = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    read = _byte_level if is_byte_level(tokenizer) else _sentence_piece
    return [f"<{i}>" if t is None else t if t in special else read(t) for i, t in zip(ids, tokens)]


def _byte_level(token: str) -> str:
    table = byte_of_letter()
    if not all(letter in table for letter in token):
        return token
    return bytes(table[letter] for letter in token).decode("utf-8", errors="backslashreplace")


def _sentence_piece(token: str) -> str:
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    if byte:
        value = int(byte[1], 16)
        return chr(value) if value < 0x80 else f"\\x{value:02x}"
    return token.replace("▁", " ")
