"""Load a model by name, once for each process; say what there is; fetch what can be fetched."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError, KindError, ModelError, expected
from workbench.models.chain_dlm import ChainDLM, plays_chain
from workbench.models.table import NAMED_TABLES, TableLM, named_table
from workbench.models.table_dlm import NAMED_JOINTS, TableDLM, named_joint

#: Called with the share done (0 to 1) and what is going on.
Progress = Callable[[float, str], None]

SMOLLM2 = "smollm2-135m"
#: name -> (folder, kind, recipe that makes it)
_SHIPPED = {
    "lab-target": ("lab/target", "language model, Python source (lab pair)", "lab_pair"),
    "lab-draft": ("lab/draft", "language model, Python source (lab pair)", "lab_pair"),
    "scene-reader": ("scenes/reader", "vision-language model, made scenes of digits and shapes", "scene_reader"),
    "moe-8": ("moe/e8", "mixture of 8 experts, four kinds of text", "small_moe"),
    "moe-16": ("moe/e16", "mixture of 16 experts, four kinds of text", "small_moe"),
}
#: The small models of the diffusion papers: TinyMDM and TinyAR, three seeds each.
_TINY = {f"tiny-{kind}{f'-{seed}' if seed else ''}": f"diffusion/{kind}_{seed}" for kind in ("mdm", "ar") for seed in range(3)}
_CHAIN = "plays-chain"
_HERE = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run, shared by all: in eval mode, without gradients, never changed.

    Attributes:
        model: the Hugging Face module, or a `TableLM`.
        tokenizer: its tokenizer; None for tables and bare modules that came without.
        name: what it was loaded by. card: where it comes from, licence, losses, as Markdown.
        image_processor: of a vision-language model; None for the others.
    """

    model: Any
    tokenizer: Any
    name: str
    card: str = ""
    image_processor: Any = field(default=None, repr=False)
    _eos: frozenset[int] | None = field(default=None, repr=False)

    @property
    def is_table(self) -> bool:
        """Whether the model is a `TableLM`."""
        return isinstance(self.model, TableLM)

    @property
    def vocab_size(self) -> int:
        """Tokens that the model gives a probability."""
        if hasattr(self.model, "vocab_size"):
            return int(self.model.vocab_size)
        return int(self.model.config.get_text_config().vocab_size)

    @functools.cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text; none for tables."""
        if not hasattr(self.model, "config"):
            return frozenset()
        configs = (getattr(self.model, "generation_config", None), self.model.config, self.tokenizer)
        found = [getattr(config, "eos_token_id", None) for config in configs if config is not None]
        flat = [i for ids in found for i in (ids if isinstance(ids, (list, tuple)) else [ids])]
        return frozenset(int(i) for i in flat if i is not None)

    def encode(self, prompt: str | Sequence[int], chat: bool | None = None) -> list[int]:
        """Return the token ids of a prompt; a list of ids comes back as it is.

        Args:
            prompt: a text, or token ids.
            chat: put the text as a question through the tokenizer's chat template; None = if there is one.
        Raises:
            InputError: an id is outside the vocabulary. ModelError: a text, but no tokenizer.
        """
        if not isinstance(prompt, str):
            return self._checked_ids(prompt)
        if self.tokenizer is None:
            raise ModelError(f"Model {self.name!r} has no tokenizer, so it cannot read a text. Pass a list of token ids.")
        template = getattr(self.tokenizer, "chat_template", None)
        if chat and not template:
            raise ModelError(f"Model {self.name!r} has no chat template. Pass chat=False to continue the text.")
        if template and chat is not False:
            messages = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(prompt, verbose=False))

    def _checked_ids(self, ids: Sequence[int]) -> list[int]:
        values = np.asarray(ids)
        if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
            raise KindError(expected("prompt", "a text or a list of token ids", repr(ids)[:60]))
        if values.size and not (values.min() >= 0 and values.max() < self.vocab_size):
            raise InputError(expected("prompt", f"ids from 0 to {self.vocab_size - 1}", f"{values.min()} to {values.max()}"))
        return [int(i) for i in values]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        r"""Return each token's own text; a byte that is not whole UTF-8 by itself is written `\xNN`."""
        if self.tokenizer is None:
            return [str(int(i)) for i in ids]
        from workbench.models.pieces import token_pieces

        return token_pieces(self.tokenizer, ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids read together, special tokens included."""
        if self.tokenizer is None:
            return " ".join(self.pieces(ids))
        return self.tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)

    def __repr__(self) -> str:
        return f"LoadedModel({self.name!r}, vocab_size={self.vocab_size})"


@dataclass(frozen=True)
class Entry:
    """A model that `load` knows by name: `kind`, `size` in MB on disk, `where` it lies, `status` ("ready" or how to get it)."""

    name: str
    kind: str
    size_mb: float
    where: str
    status: str

    @property
    def ready(self) -> bool:
        return self.status == "ready"


def cache_folder() -> Path:
    """Return the folder of fetched models: `WORKBENCH_CACHE`, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("WORKBENCH_CACHE") or platformdirs.user_cache_dir("workbench", appauthor=False))


def available() -> list[Entry]:
    """Return every model that can be loaded by name here, ready or not."""
    from workbench.models import smollm2

    folder = smollm2.folder(cache_folder())
    ready = smollm2.is_ready(folder)
    size = _size_mb(folder) if ready else smollm2.WHEEL_MB
    status = "ready" if ready else f"workbench models pull {SMOLLM2} ({smollm2.WHEEL_MB} MB)"
    entries = [Entry(SMOLLM2, "language model, 135 M parameters, chat", size, str(folder), status)]
    for name, (inside, kind, recipe) in _SHIPPED.items():
        where = _HERE / inside
        status = "ready" if (where / "model.safetensors").exists() else f"python recipes/{recipe}.py makes {name}"
        entries.append(Entry(name, kind, _size_mb(where), str(where), status))
    eagle = _HERE / "assets" / "eagle_smollm2"
    status = "ready" if (eagle / "draft.safetensors").exists() else "python recipes/eagle_smollm2.py makes it"
    entries.append(Entry("eagle", f"draft layer for {SMOLLM2} (knob draft='eagle')", _size_mb(eagle), str(eagle), status))
    gate = _HERE / "readme"
    status = "ready" if (gate / "router.safetensors").exists() else "python recipes/read_me_router.py makes it"
    entries.append(Entry("pregate", f"pre-gating router for {SMOLLM2} (system read_me)", _size_mb(gate), str(gate), status))
    for name, inside in _TINY.items():
        where = _HERE / inside
        status = "ready" if (where / "model.safetensors").exists() else "python recipes/tiny_diffusion.py makes it"
        kind = "masked diffusion" if "mdm" in name else "left to right"
        entries.append(Entry(name, f"small {kind} model of tasks with known laws", _size_mb(where), str(where), status))
    entries += [Entry(n, "table of 4 tokens: every law is exact", 0.0, "made on the spot", "ready") for n in NAMED_TABLES]
    entries += [
        Entry(n, "ideal masked-diffusion model: a joint law, enumerated", 0.0, "made on the spot", "ready") for n in NAMED_JOINTS
    ]
    entries.append(
        Entry(_CHAIN, "ideal masked-diffusion model of the plays: a chain of characters", 0.0, "made on the spot", "ready")
    )
    return entries


def _size_mb(folder: Path) -> float:
    return round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1)


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model and return its folder; nothing is fetched that is there already.

    Raises:
        ModelError: the name is none that can be fetched, or the fetch failed (the sentence says why).
    """
    if name == SMOLLM2:
        from workbench.models import smollm2

        return smollm2.fetch(cache_folder(), progress)
    if name in _SHIPPED:
        return _HERE / _SHIPPED[name][0]
    if name in _TINY:
        return _HERE / _TINY[name]
    if name in {*NAMED_TABLES, *NAMED_JOINTS, _CHAIN}:
        raise ModelError(f"{name!r} is a table that is made on the spot. There is nothing to fetch.")
    from workbench.models import remote

    return remote.fetch(name, known_names())


def known_names() -> list[str]:
    """Return the names that `load` takes beside folders and hub ids."""
    return [SMOLLM2, *_SHIPPED, *_TINY, *NAMED_TABLES, *NAMED_JOINTS, _CHAIN]


_loaded: dict[str, LoadedModel] = {}
_wrapped: weakref.WeakKeyDictionary[Any, LoadedModel] = weakref.WeakKeyDictionary()
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def load(source: Any, tokenizer: Any = None, progress: Progress | None = None) -> LoadedModel:
    """Return a model, loaded once for each process and shared by all who ask (threads may ask at once).

    Args:
        source: a name of `available()`, a local folder, a hub id; or a `LoadedModel`, a bare Hugging Face module or a
            `TableLM`, which come back wrapped.
        tokenizer: the tokenizer of a bare module.
        progress: called while a model is fetched for the first time; None shows a bar.
    Raises:
        ModelError: the model cannot be found or loaded; the sentence says what is available.
    """
    if isinstance(source, LoadedModel):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _load_named(os.fspath(source), progress)
    if isinstance(source, (TableLM, TableDLM, ChainDLM)) or (hasattr(source, "forward") and hasattr(source, "config")):
        return _wrap(source, tokenizer)
    wanted = "a model's name, a folder, a LoadedModel, a Hugging Face causal LM, a TableLM or a TableDLM"
    raise KindError(expected("model", wanted, type(source).__name__))


def _wrap(model: Any, tokenizer: Any) -> LoadedModel:
    with _guard:
        if model not in _wrapped or tokenizer is not None:
            name = model.name if isinstance(model, (TableLM, TableDLM, ChainDLM)) else _module_name(model)
            if getattr(model, "training", False):
                raise ModelError(f"Model {name!r} is in training mode, where dropout changes its law. Call model.eval() first.")
            _wrapped[model] = LoadedModel(model, tokenizer, name)
        return _wrapped[model]


def _module_name(module: Any) -> str:
    return getattr(module, "name_or_path", "") or type(module).__name__


def _load_named(name: str, progress: Progress | None) -> LoadedModel:
    if not name.strip():
        raise ModelError(f"Model: expected a name, got an empty one. Available are {', '.join(known_names())}.")
    key = str(Path(name).resolve()) if Path(name).is_dir() and name not in known_names() else name
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _loaded:
            _loaded[key] = _read(name, progress)
        return _loaded[key]


def _read(name: str, progress: Progress | None) -> LoadedModel:
    if name in NAMED_TABLES:
        return LoadedModel(named_table(name), None, name)
    if name in NAMED_JOINTS:
        return LoadedModel(named_joint(name), None, name)
    if name == _CHAIN:
        return LoadedModel(plays_chain(), None, name)
    if name in _TINY:
        from workbench.models import tiny

        folder = pull(name, progress)
        card = folder / "README.md"
        return LoadedModel(tiny.read(folder), None, name, card.read_text(encoding="utf-8") if card.exists() else "")
    if name in known_names():
        folder = pull(name, progress)
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        from workbench.models import remote

        folder = remote.fetch(name, known_names())
    from workbench.models import masked_hub

    if masked_hub.fills_masks(folder):
        return masked_hub.read_folder(folder, name)
    return read_folder(folder, name)


def read_folder(folder: Path, name: str) -> LoadedModel:
    """Return the causal or vision-language model of a local folder in fp32: safetensors only, no code of the checkpoint is run."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    processor = None
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            sees = getattr(config, "vision_config", None) is not None
            kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            model = kind.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
            if sees:
                processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"Model {name!r} in {folder} cannot be loaded: {first_line(error)}. "
                "Use a checkpoint of a causal or vision-language model with safetensors weights and a tokenizer."
            ) from error
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, name, text, processor)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def nearest(name: str, names: Sequence[str]) -> str:
    """Return " Did you mean ...?" or nothing."""
    near = difflib.get_close_matches(name.lower(), list(names), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


_quiet = threading.Lock()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars and notes; what was set before comes back."""
    from transformers.utils import logging

    with _quiet:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
