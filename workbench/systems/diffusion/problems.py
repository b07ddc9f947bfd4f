"""What a decoder is asked to fill: exercises on a small trained model, a task's exact law, a joint law, a stretch of real text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from workbench import data, models
from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, ModelError, expected
from workbench.models.chain_dlm import ChainDLM
from workbench.models.masked import Canvas, ExactCanvas, TinyCanvas, open_canvas
from workbench.models.table_dlm import TableDLM
from workbench.systems.diffusion import rules

IDEAL = "ideal"
#: What a page offers by name.
NAMES = ("tiny-mdm", "tiny-mdm-1", "tiny-mdm-2", IDEAL, "joint-soft", "joint-sharp", "plays-chain")


@dataclass(frozen=True)
class Problem:
    """A batch of states to fill, and how to tell right from wrong.

    Attributes:
        canvas: the model with its prompts. start: (S, n) ids, the mask where the decoder decides.
        prompts: (S, P) ids. prompt_pieces: their texts for the sample on show (the first).
        judge: which filled states are right, (S, n) -> (S,) bool; None where nothing is wrong (every text has a probability).
        table: the joint law, where it is enumerated. task, size: of the exercises, "" for other problems.
        name: the model's. nats: information of a right answer where all are equally likely, else NaN.
    """

    canvas: Canvas
    start: np.ndarray
    prompts: np.ndarray
    prompt_pieces: list[str]
    judge: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    table: TableDLM | None
    task: str
    size: int
    name: str
    nats: float = math.nan

    @property
    def hidden(self) -> int:
        """Tokens to decide in each sample."""
        return int((self.start[0] == self.canvas.mask_id).sum())

    @property
    def prompt_text(self) -> str:
        """The prompt of the sample on show as a reader wants it: without fillers."""
        if not self.task:
            return "".join(self.prompt_pieces)
        return " ".join(p for p in self.prompt_pieces if p not in {tasks.PAD, tasks.SEP})

    def right(self, tokens: np.ndarray) -> np.ndarray:
        """Return which filled states are right, (S,) bool."""
        return self.judge(tokens, np.arange(len(tokens))) if self.judge else np.ones(len(tokens), bool)

    def first(self, count: int) -> Problem:
        """Return the same with fewer samples."""
        judge = self.judge
        return replace(self, start=self.start[:count], prompts=self.prompts[:count], judge=judge)


def make(model: Any, task: str, size: int, samples: int, seed: int, *, text: str = "", length: int = 64) -> Problem:
    """Return the problem that the knobs name.

    Args:
        model: "ideal" (the task's exact law), a name of `workbench.models`, a `TableDLM`, or a LLaDA or Dream checkpoint.
        task, size: of the exercises, for "ideal" and TinyMDM. samples: prompts (or repetitions of one).
        text: what comes before, for `plays-chain` and checkpoints with a tokenizer. length: positions to fill there.
    Raises:
        WorkbenchError: the model fills no masks, or the exercise does not exist or is too large.
    """
    if isinstance(model, str) and model == IDEAL:
        return ideal(task, size, samples, seed)
    loaded = models.load(model)
    if isinstance(loaded.model, TableDLM):
        return _table(loaded.model, loaded.name, samples)
    if isinstance(loaded.model, ChainDLM):
        return _chain(loaded, samples, text, length)
    if getattr(loaded.model, "fills_masks", False):
        return _hub(loaded, samples, text, length)
    return _tiny(loaded, task, size, samples, seed)


def ideal(task: str, size: int, samples: int, seed: int) -> Problem:
    """Return the exact law of a list operation, all samples on one prompt.

    Raises:
        InputError: the task is no list operation, or has too many right answers.
    """
    tasks.checked(task, size)
    if task not in tasks.LISTS:
        raise InputError(expected("task", f"a list operation with model='{IDEAL}' (its law is enumerated)", task, then="Use model='tiny-mdm'"))  # fmt: skip
    batch = tasks.draw(task, size, 1, np.random.default_rng([seed, 5]), held=None)
    prompt = batch.prompt[0]
    rows = tasks.support(task, prompt)
    if not rows.shape[1]:
        raise InputError(expected("items", f"at least 2 for {task} (its answer would be empty)", size))
    table = TableDLM.of_rows(rows, vocab_size=len(tasks.VOCABULARY))
    canvas = ExactCanvas(table, rows.shape[1], samples, tasks.VOCABULARY)
    start = np.full((samples, rows.shape[1]), canvas.mask_id)
    right = {tuple(row) for row in rows.tolist()}

    def judge(tokens: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.array([tuple(row) in right for row in tokens.tolist()])

    prompts = np.repeat(batch.prompt, samples, 0)
    pieces = [tasks.VOCABULARY[i] for i in prompt]
    return Problem(canvas, start, prompts, pieces, judge, table, task, size, IDEAL, math.log(len(rows)))


def _table(table: TableDLM, name: str, samples: int) -> Problem:
    canvas = ExactCanvas(table, table.length, samples)
    start = np.full((samples, table.length), canvas.mask_id)

    def judge(tokens: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.isfinite(table.log_evidence(tokens))

    return Problem(canvas, start, np.zeros((samples, 0), np.int64), [], judge, table, "", table.length, name)


def _chain(loaded: Any, samples: int, text: str, length: int) -> Problem:
    chain: ChainDLM = loaded.model
    before = chain.encode(text)
    if len(before) < 2:
        raise InputError(expected("text", "at least two characters", repr(text)))
    prompts = np.repeat(np.array([before]), samples, 0)
    if length < 2:
        raise InputError(expected("length", "at least 2 for the chain", length))
    canvas = open_canvas(loaded, prompts, length)
    start = np.full((samples, length), canvas.mask_id)
    return Problem(canvas, start, prompts, [chain.pieces[i] for i in before], None, None, "", length, loaded.name)


#: Most samples that are decoded in one batch; more draws of a table come in lots.
LOT = 20_000


def lots(problem: Problem) -> list[Problem]:
    """Return the problem cut into batches that fit in memory, the first of them the one that is looked at closely.

    Raises:
        InputError: too many prompts for a trained model.
    """
    count = len(problem.start)
    if problem.table is None and count > LOT:
        raise InputError(expected("num_samples", f"at most {LOT:,} without an enumerated law", f"{count:,}"))
    sizes = [LOT] * (count // LOT) + ([count % LOT] if count % LOT else [])
    return [problem.first(size) for size in sizes]


def warm_up(problem: Problem) -> None:
    """Call the model once and compile the statistics, so that the first measured round is one like the others."""
    rules.warm()
    problem.canvas.forward(problem.start[:1], np.zeros(1, np.int64))


DEFAULT_TEXT = "to be or not to be, that is the "


def _hub(loaded: Any, samples: int, text: str, length: int) -> Problem:
    if loaded.tokenizer is None:
        raise ModelError(f"Model {loaded.name!r} has no tokenizer that can be read. Use a checkpoint with tokenizer.json.")
    template = getattr(loaded.tokenizer, "chat_template", None)
    if template:
        said = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        ids = list(loaded.tokenizer.encode(said, add_special_tokens=False))
    else:
        ids = list(loaded.tokenizer.encode(text))
    prompts = np.repeat(np.array([ids], np.int64).reshape(1, -1), samples, 0)
    canvas = open_canvas(loaded, prompts, length)
    start = np.full((samples, length), canvas.mask_id)
    return Problem(canvas, start, prompts, canvas.pieces(ids), None, None, "", length, loaded.name)


def _tiny(loaded: Any, task: str, size: int, samples: int, seed: int) -> Problem:
    """Return held-out exercises; the last `<eos>` is given, so that a round decides tokens of the answer only."""
    tasks.checked(task, size)
    length = tasks.answer_length(task, size)
    if length < 1:
        raise InputError(expected("items", f"at least 2 for {task} (its answer would be empty)", size))
    batch = tasks.draw(task, size, samples, np.random.default_rng([seed, 11]), held=True)
    canvas = open_canvas(loaded, batch.prompt, length + 1)
    assert isinstance(canvas, TinyCanvas)
    start = np.full((samples, length + 1), canvas.mask_id)
    start[:, -1] = tasks.EOS_ID

    def judge(tokens: np.ndarray, which: np.ndarray) -> np.ndarray:
        pairs = zip(batch.prompt[which], tokens, strict=True)
        return np.array([tasks.is_right(task, prompt, row) for prompt, row in pairs])

    pieces = [tasks.VOCABULARY[i] for i in batch.prompt[0]]
    return Problem(canvas, start, batch.prompt, pieces, judge, None, task, size, loaded.name, right_nats(task, size))


def right_nats(task: str, size: int) -> float:
    """Return the information of a right answer under the task's own law, nats: all right answers are equally likely."""
    if task == "sentences":
        return tasks.story_nats(size)
    counts = {"shuffle": math.factorial(size), "replace_random": size, "insert_random": size + 1, "remove_random": size}
    return math.log(counts.get(task, 1))


@functools.lru_cache(maxsize=8)
def task_entropies(task: str, size: int) -> np.ndarray | None:
    """Return the entropies, bits, of all subsets of the answer's positions; None where the task has no small exact law."""
    if task not in tasks.LISTS or tasks.answer_length(task, size) > MOST_POSITIONS or size > MOST_POSITIONS:
        return None
    batch = tasks.draw(task, size, 1, np.random.default_rng(0), held=None)
    rows = tasks.support(task, batch.prompt[0])
    return TableDLM.of_rows(rows, vocab_size=len(tasks.VOCABULARY)).subset_entropies() / math.log(2)


#: Longest answers whose subset entropies are enumerated.
MOST_POSITIONS = 8


def play_text(seed: int, length: int) -> str:
    """Return a stretch of a held-out play in the chain's alphabet."""
    titles = [t for t in data.plays() if data.held_out(t)] or list(data.plays())
    text = " ".join(data.plays()[titles[seed % len(titles)]].lower().split())
    at = int(np.random.default_rng([seed, 3]).integers(0, max(1, len(text) - length)))
    return text[at : at + length]
