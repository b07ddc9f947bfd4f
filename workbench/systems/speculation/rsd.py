"""Recursive speculative decoding: draft a token tree without replacement, verify it in one target call, lose nothing.

Jeon, Gagrani, Goel, Park, Lee, Lott, "Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without
Replacement", arXiv 2402.14160 (2024). A draft proposes siblings that are all different (Gumbel-top-k, or a stochastic beam
search over whole paths); the target scores the tree in one call; recursive rejection sampling walks it and emits tokens
distributed exactly as the target's. Measured here: tokens per second and per target call against plain decoding of the same
prompt in the same run, acceptance by sibling rank, milliseconds of every step.

Differs from the paper: the drafts (the paper trains a 115M drafter for Llama 2; here the target's own int8 weights, a trained
one-layer draft, prompt lookup, or any model by name), a batch of one, and a tree size chosen from this machine's measured
latencies. At temperature 0 the siblings are the likeliest tokens instead of draws, which is lossless for any tree.

| paper | here | shape |
|---|---|---|
| p(.|s) | target law after temperature and top-p | (V,) |
| q(.|s) | draft law after temperature and top-p | (V,) |
| L | `depth` | |
| b, W | `width` (list or int for rsd-c; beam width for rsd-s) | |
| eta | `tokens_per_target_call`: accepted + 1, the bonus or residual token counts | |
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import param

from workbench import models
from workbench.errors import InputError, KindError, expected
from workbench.models.drafts import open_draft, open_session
from workbench.models.session import Session
from workbench.record import Record
from workbench.system import Branching, Columns, ModelName, Prompt, System, knob
from workbench.systems.speculation import analysis, plan, report
from workbench.systems.speculation import draft as drafting
from workbench.systems.speculation import verify as rules
from workbench.systems.speculation.tree import Builder, Rule, Step, prefill, processed_law, speculate
from workbench.tape import NullTape

METHODS = ["rsd-s", "rsd-c", "with-replacement", "chain", "top-k", "autoregressive"]
BREAKS = ["none", "sorted-siblings", "unrenormalised-draft", "top-k-as-sampled"]
#: Methods whose siblings are drawn without replacement, which the broken verifiers get wrong.
BREAKABLE = ("rsd-s", "rsd-c", "chain")
COLDEST = 0.01  # below, fp32 logits divided by the temperature overflow; 0 is greedy and exact
DEFAULT_PROMPT = "Explain in simple words why the sky is blue, and why sunsets are red."


#: What the presets set apart from their own point: the real model, or tables whose output law can be enumerated.
_ON_TEXT = {
    "prompt": DEFAULT_PROMPT, "target": "smollm2-135m", "draft": "int8", "max_new_tokens": 64, "num_samples": 0,
    "top_p": 1.0, "draft_alignment": 0.0, "break_it": "none", "study": False, "keep_depth": 8, "keep_width": 8,
}  # fmt: skip
_ON_TABLE = _ON_TEXT | {
    "prompt": [0], "target": "table-target", "draft": "table-draft", "max_new_tokens": 4, "num_samples": 4000,
    "method": "rsd-s", "depth": 2, "width": 3, "temperature": 1.0,
}  # fmt: skip


@dataclass
class Output:
    """Tokens that one decode wrote after the prompt, and how long its steps took."""

    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    logprobs: list[float] = field(default_factory=list)  # under the target's processed law (temperature 1 at 0)
    ranks: list[float] = field(default_factory=list)  # probability-integral transform under the target's law
    gaps: list[float] = field(default_factory=list)  # difference of the target's two best logits


class RSD(System):
    """Recursive speculative decoding on any causal language model, with its baselines behind the same knob."""

    key = "rsd"
    title = "Recursive Speculative Decoding"
    year = 2024
    arxiv = "2402.14160"
    family = "speculation"
    asks = "Which drafted tokens survive, and what do they buy?"
    shows = (
        "token_tree",
        "text_strip",
        "rejection_ladder",
        "acceptance_by_rank",
        "step_timeline",
        "lossless_monitor",
        "latency_profile",
        "length_and_budget",
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": _ON_TEXT | {"method": "rsd-s", "depth": 3, "width": 3, "temperature": 0.3},
        "fastest here": _ON_TEXT | {"method": "rsd-s", "depth": None, "width": None, "temperature": 0.0},
        "wide tree": _ON_TEXT | {"method": "rsd-c", "depth": 3, "width": [3, 2, 1], "temperature": 0.7},
        "extreme": _ON_TEXT | {"method": "rsd-s", "depth": 6, "width": 8, "temperature": 1.0},
        "prove it": _ON_TABLE,
        "break it": _ON_TABLE | {"break_it": "sorted-siblings"},
    }
    notes = (
        "The paper's targets (Llama 2, OPT) and its trained drafters are not reproduced; its settings (temperature 0.3, "
        "draft lengths 2 to 5, target budgets 6 to 30) are reported, unverified."
    )
    follows: ClassVar[dict[str, str]] = {"keep_depth": "depth", "keep_width": "width"}
    limits: ClassVar[dict[str, int]] = {"max_new_tokens": 256, "num_samples": 20_000, "prompt": 4000}

    prompt = knob(Prompt, DEFAULT_PROMPT, doc="Text to continue (a chat model sees it as a question), or a list of token ids.")
    method = knob(
        param.Selector, "rsd-s", objects=METHODS, doc="How siblings are chosen: beam (rsd-s), constant branching (rsd-c), ..."
    )
    depth = knob(
        param.Integer,
        None,
        allow_None=True,
        bounds=(1, 8),
        unit="levels",
        symbol="L",
        doc="Levels of the drafted tree; auto measures.",
    )
    width = knob(
        Branching,
        None,
        bounds=(1, 8),
        unit="tokens",
        symbol="W, b",
        doc="Beam width (rsd-s), or branching for each level (a list or int).",
    )
    temperature = knob(
        param.Number, 0.7, bounds=(0.0, 2.0), step=0.05, symbol="T", doc="0 is greedy; both laws are divided by it."
    )
    top_p = knob(param.Number, 1.0, bounds=(0.05, 1.0), step=0.05, doc="Keep the likeliest tokens up to this mass; 1 keeps all.")
    max_new_tokens = knob(param.Integer, 64, bounds=(1, 2048), unit="tokens", doc="Tokens to write after the prompt.")
    target = knob(
        ModelName,
        "smollm2-135m",
        names=("smollm2-135m", "lab-target", "table-target"),
        doc="Model whose text is written, exactly.",
    )
    draft = knob(
        ModelName,
        "int8",
        names=("int8", "lookup+int8", "lookup", "eagle", "lab-draft", "table-draft"),
        doc="Who proposes: the target's own weights in int8, prompt lookup, a trained layer, or any model of the same vocabulary.",
    )
    draft_alignment = knob(
        param.Number,
        0.0,
        bounds=(0.0, 1.0),
        step=0.05,
        symbol="lambda",
        doc="Teaching knob: moves the draft's law towards the target's.",
    )
    break_it = knob(
        param.Selector, "none", objects=BREAKS, doc="Verify wrongly on purpose: the output is no longer the target's."
    )
    num_samples = knob(
        param.Integer,
        0,
        bounds=(0, 1_000_000),
        doc="On table models: this many independent outputs, to check their law.",
        advanced=True,
    )
    budget = knob(
        param.Integer,
        64,
        bounds=(1, 256),
        unit="nodes",
        symbol="N",
        doc="Refuse a tree with more nodes than this.",
        advanced=True,
    )
    study = knob(
        param.Boolean, False, doc="Also measure every method at several depths: fixed length against fixed budget.", advanced=True
    )
    keep_depth = knob(
        param.Integer, 8, bounds=(1, 8), live=True, unit="levels", doc="Trim the recorded trees to this many levels."
    )
    keep_width = knob(param.Integer, 8, bounds=(1, 8), live=True, unit="tokens", doc="Trim the recorded trees to this width.")
    latency_model = knob(
        param.Selector, next(iter(analysis.LATENCY_MODELS)), objects=list(analysis.LATENCY_MODELS), live=True,
        doc="Which machine the predicted times are for.",
    )  # fmt: skip

    def prepare(self) -> None:
        """Load target and draft, resolve `auto`, and check the knobs against each other."""
        self._loaded = models.load(self.target)
        self._prompt = self._prompt_ids()
        self._stop_ids = frozenset(self._loaded.eos_ids)
        if self.temperature == 0 and self.top_p < 1:
            raise InputError(
                expected("top_p", "1 at temperature 0 (the law is one token)", self.top_p, "", "Raise temperature or set top_p=1")
            )
        if 0 < self.temperature < COLDEST:
            raise InputError(expected("temperature", f"0 (greedy) or at least {COLDEST}", self.temperature))
        if self.break_it != "none" and self.method not in BREAKABLE:
            raise InputError(
                expected(
                    "break_it",
                    f"'none' with method {self.method!r}",
                    repr(self.break_it),
                    "",
                    f"Break one of {', '.join(BREAKABLE)}",
                )
            )
        if self.num_samples and not self._loaded.is_table:
            raise InputError(
                expected("num_samples", "0 on a language model", self.num_samples, "", "Use a TableLM target to sample a law")
            )
        self._session = open_session(self._loaded, capacity=len(self._prompt) + self.max_new_tokens + self.budget + 8)
        room = self._session.context - self.max_new_tokens - 1
        if len(self._prompt) > room:
            raise InputError(
                expected("prompt", f"at most {room} tokens so that {self.max_new_tokens} new ones fit", f"{len(self._prompt)} tokens",
                         f"context window {self._session.context}", "Shorten the prompt")
            )  # fmt: skip
        self._draft = self._open_draft(self._session)
        self._branching, self._depth = self._shape()
        nodes = plan.node_count(*self._built())
        if nodes > self.budget:
            raise InputError(
                expected("tree", f"at most {self.budget} nodes (knob budget)", f"{nodes} nodes", "", "Lower depth or width")
            )

    def _built(self) -> tuple[str, list[int], int]:
        """Return (method, branching, depth) of the tree that is really built: one broken verifier brings its own tree."""
        if self.break_it != "top-k-as-sampled":
            return self.method, self._branching, self._depth
        full = self._branching if len(self._branching) == self._depth else self._branching * self._depth
        return "top-k", full, self._depth

    def warm(self) -> None:
        """Load the models and compile their steps, so that a reader's first run waits for neither."""
        self.prepare()
        for session in (self._session, self._draft):
            if session is not None:
                for count in (1, 2, 5):
                    session.forward([0] * count, [-1] * count)
                    session.keep([])

    def _prompt_ids(self) -> list[int]:
        if isinstance(self.prompt, str):
            if not self.prompt.strip():
                raise InputError(expected("prompt", "some text", "an empty one", "", "Write a sentence"))
            if self._loaded.is_table:
                raise KindError(expected("prompt", "a list of token ids on a table model", "a text", "", "Use prompt=[0]"))
            return self._loaded.encode(self.prompt)
        ids = [int(t) for t in self.prompt]
        size = self._loaded.vocab_size
        if not ids or min(ids) < 0 or max(ids) >= size:
            raise InputError(expected("prompt", f"at least one id from 0 to {size - 1}", repr(ids[:8])))
        return ids

    def _open_draft(self, session: Session) -> Session | None:
        if self.method == "autoregressive":
            return None
        return open_draft(self.draft, self._loaded, session, self._prompt, self.draft_alignment, self.temperature)

    def _shape(self) -> tuple[list[int], int]:
        """Return (branching per level or [beam width], depth), `auto` resolved by a latency profile."""
        depth, width = self.depth, self.width
        if self.method == "autoregressive":
            return [], 0
        if (depth is None or width is None) and not self._loaded.is_table:
            best = plan.choose(self._loaded, self.draft, self.temperature)
            depth, width = depth or best.depth, width or best.width
        return plan.branching(self.method, depth, width)

    def _method(self, rng: np.random.Generator) -> tuple[Builder, Rule]:
        """Return the builder and the acceptance rule that the knobs name."""
        drawer = drafting.Drawer(rng, self.temperature)
        b, depth = self._branching, self._depth
        builders = {
            "rsd-s": lambda: drafting.stochastic_beam(b[0], depth, drawer),
            "rsd-c": lambda: drafting.constant_branching(b, drawer),
            "chain": lambda: drafting.constant_branching(b, drawer),
            "with-replacement": lambda: drafting.with_replacement(b, drawer),
            "top-k": lambda: drafting.likeliest(b, drawer),
            "autoregressive": lambda: drafting.constant_branching([], drawer),
        }
        if self.break_it == "top-k-as-sampled":
            return drafting.likeliest(self._built()[1], drawer), rules.recursive_rejection
        special: dict[str, Rule] = {"with-replacement": rules.rejection_with_replacement, "top-k": rules.sample_then_follow}
        broken: dict[str, Rule] = {"sorted-siblings": rules.sorted_siblings, "unrenormalised-draft": rules.unrenormalised}
        rule = broken.get(self.break_it) or special.get(self.method) or rules.recursive_rejection
        return builders[self.method](), rule

    def run(self, tape: NullTape) -> None:
        """Decode the prompt plainly, then with the tree; write both."""
        if self.num_samples:
            report.write_samples(self, tape)
        prefill(self._session, self._draft, self._prompt)
        start = len(self._prompt) - 1
        plain = Output()
        if self.method != "autoregressive":
            plain = self.decode(NullTape(tape.on_step, tape.cancel), "autoregressive", phase="baseline")
            self.rewind(start)
        output = self.decode(tape, self.method, phase="decoding")
        report.write_run(self, tape, output, plain)
        if self.study:
            self.rewind(start)
            report.write_study(self, tape, start)

    def rewind(self, length: int) -> None:
        """Forget what target and draft have read from `length` tokens on."""
        for session in (self._session, self._draft):
            if session is not None:
                session.rewind(length)

    def decode(self, tape: NullTape, method: str, phase: str = "", seed: int | None = None) -> Output:
        """Return what one decode of the prompt writes. The session must hold the prompt but its last token.

        Alg.: draft a tree (1), score it in one target call (2), walk it by recursive rejection (3), keep the path (4).
        """
        draws, uniforms, checks = np.random.default_rng(self.seed if seed is None else seed).spawn(3)
        build, rule = self._method(draws)
        draft = None if method == "autoregressive" else self._draft
        law = processed_law(self.temperature, self.top_p)
        draft_law = law if self.temperature > 0 else processed_law(1.0, 1.0)
        sequence, output = list(self._prompt), Output()
        began = time.perf_counter()
        while len(output.tokens) < self.max_new_tokens:
            step = speculate(self._session, draft, sequence, build, rule, (law, draft_law), uniforms, tape)
            emitted, stop = self._cut(step, self.max_new_tokens - len(output.tokens))
            analysis.observe(output, step, emitted, law, self.temperature, checks)
            report.write_step(tape, self, output.steps, step, emitted, stop, law)
            sequence += emitted
            output.tokens += emitted
            output.steps += 1
            tape.step(len(output.tokens), self.max_new_tokens, self._watch(output, tape), phase)
            if stop == "eos":
                break
        output.seconds = time.perf_counter() - began
        return output

    def _cut(self, step: Step, room: int) -> tuple[list[int], str]:
        """Return the tokens of a step up to an end-of-text token or the length limit, and what stopped it."""
        emitted, stop = step.emitted[:room], step.walk.stop
        for i, token in enumerate(emitted):
            if token in self._stop_ids:
                return emitted[: i + 1], "eos"
        return emitted, stop

    def _watch(self, output: Output, tape: NullTape) -> str:
        return "".join(self._loaded.pieces(output.tokens)) if tape.on_step is not None else ""

    def derive(self, record: Record) -> Columns:
        """Return the trimmed trees, predicted times and acceptance curves for the present live knobs."""
        return analysis.derive(record, self.keep_depth, self.keep_width, self.latency_model)
