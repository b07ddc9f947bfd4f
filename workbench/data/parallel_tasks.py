"""Tasks on which the price of deciding several tokens at once is known: list operations, sums in chains, templated sentences.

Every exercise is a prompt and an answer in one small vocabulary. List operations say exactly how much the answer's tokens
depend on each other given the prompt: nothing for a copy, everything for a shuffle. Chains of sums have one right answer that
is deep; sentences have many right ones that must agree with themselves. All of it is made, so truth and law are exact.

One prompt in ten is held out for good by a hash of its ids (`held_out`), list and arithmetic prompts alike. Sentences have 32
prompts in all and hold none out: what is learned there is a law, not a mapping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import InputError, expected, unknown

PAD, MASK, EOS, SEP = "<pad>", "<mask>", "<eos>", "<sep>"
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
NEW = "#"  # the item that replaces or joins another
DIGITS = tuple("0123456789")
#: Operations with one right answer given the prompt, and those with many.
FIXED = ("copy", "reverse", "sort", "replace_index", "insert_index", "remove_index")
FREE = ("shuffle", "replace_random", "insert_random", "remove_random")
LISTS = FIXED + FREE
TASKS = (*LISTS, "arithmetic", "sentences")

_OPERATIONS = tuple([f"+{i}" for i in range(1, 6)] + [f"-{i}" for i in range(1, 6)] + ["*2", "*3"])
_NOUNS = (("king", "he"), ("boy", "he"), ("queen", "she"), ("girl", "she"), ("kings", "they"), ("boys", "they"), ("queens", "they"), ("girls", "they"))  # fmt: skip
_MOODS = ("old", "young", "tired", "happy")
_GOES = (("walks", "walk"), ("rides", "ride"), ("runs", "run"), ("sails", "sail"))
_GETS = (("buys", "buy"), ("finds", "find"), ("sells", "sell"), ("takes", "take"))
_CITIES = (("New", "York"), ("Los", "Angeles"), ("San", "Diego"), ("Hong", "Kong"), ("Cape", "Town"), ("Tel", "Aviv"))
_GOODS = (("fresh", "bread"), ("sharp", "knife"), ("warm", "coat"))
_LENGTHS = ("one", "two", "three", "four")
_FILLERS = ("the", "from", "to", "a", "in", ".")

VOCABULARY: tuple[str, ...] = (
    *(PAD, MASK, EOS, SEP, NEW, ";"),
    *LETTERS,
    *DIGITS,
    *TASKS,
    *_OPERATIONS,
    *dict.fromkeys(w for row in (*_NOUNS, *_GOES, *_GETS, *_CITIES, *_GOODS) for w in row),
    *_MOODS,
    *_LENGTHS,
    *_FILLERS,
)
ID = {piece: i for i, piece in enumerate(VOCABULARY)}
PAD_ID, MASK_ID, EOS_ID, SEP_ID = (ID[piece] for piece in (PAD, MASK, EOS, SEP))

#: Fewest and most items (list), steps (arithmetic) or sentences that an exercise may have.
SIZES = {**dict.fromkeys(LISTS, (1, 16)), "arithmetic": (1, 12), "sentences": (1, 4)}
#: Where the answer's position numbers start; item j of a prompt's list shares its number with token j of the answer.
ANSWER_AT = 5
_FIRST_LETTER, _FIRST_DIGIT, _FIRST_OPERATION = ID["A"], ID["0"], ID["+1"]
_MOVES = np.array([[i + 1 for i in range(5)], [-i - 1 for i in range(5)]]).ravel()


@dataclass(frozen=True)
class Batch:
    """Exercises of one task and size.

    Attributes:
        task: its name; size: items, steps or sentences.
        prompt: (B, P) int64 ids, ending with `<sep>`.
        answer: (B, L) int64 ids of one right answer drawn from the task's law, without `<eos>`.
    """

    task: str
    size: int
    prompt: np.ndarray
    answer: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)


def answer_length(task: str, size: int) -> int:
    """Return the tokens of a right answer, without `<eos>`."""
    if task == "arithmetic":
        return 3 * size - 1
    if task == "sentences":
        return 11 + 9 * (size - 1)
    return size + {"insert_index": 1, "insert_random": 1, "remove_index": -1, "remove_random": -1}.get(task, 0)


def checked(task: str, size: int) -> None:
    """Raise unless there are exercises of this task and size."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    low, high = SIZES[task]
    if not low <= size <= high:
        raise InputError(expected("items", f"{low} to {high} for {task}", size))


def held_out(prompt: np.ndarray) -> np.ndarray:
    """Return which prompts (B, P) are never trained on: one in ten, by a hash that stays."""
    powers = np.array([pow(0x9E3779B1, i + 1, 2**32) | 1 for i in range(prompt.shape[1])], np.uint64)
    mixed = ((prompt.astype(np.uint64) + np.uint64(7)) * powers[None]).sum(1) & np.uint64(0xFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    return ((mixed ^ (mixed >> np.uint64(13))) % np.uint64(10)) == 0


def draw(task: str, size: int, count: int, rng: np.random.Generator, *, held: bool | None = None, largest: int = 5) -> Batch:
    """Return `count` exercises.

    Args:
        task: one of `TASKS`. size: items (list), steps (arithmetic) or sentences.
        held: True for held-out prompts, False for the others, None for any (sentences: always any).
        largest: of arithmetic, the largest number that is added or taken away, 1 to 5.
    Raises:
        UnknownNameError, InputError: no such task or size.
    """
    checked(task, size)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    got = 0
    while got < count:
        rows = max(16, (count - got) * (12 if held else 2))
        prompt, answer = _make(task, size, rows, rng, largest)
        if held is not None and task != "sentences":
            chosen = held_out(prompt) == held
            prompt, answer = prompt[chosen], answer[chosen]
        parts.append((prompt, answer))
        got += len(prompt)
    prompts, answers = (np.concatenate(column)[:count] for column in zip(*parts, strict=True))
    return Batch(task, size, prompts, answers)


def _make(task: str, size: int, count: int, rng: np.random.Generator, largest: int) -> tuple[np.ndarray, np.ndarray]:
    if task == "arithmetic":
        return _sums(size, count, rng, largest)
    if task == "sentences":
        return _sentences(size, count, rng)
    return _lists(task, size, count, rng)


# ---- list operations -------------------------------------------------------------------------------------------------


def _lists(task: str, size: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    items = _FIRST_LETTER + np.argsort(rng.random((count, 26)), axis=1)[:, :size]
    places = size + 1 if task.startswith("insert") else size
    index = rng.integers(0, places, count)
    answer = _OPERATE[task](items, index, rng)
    argument = _FIRST_DIGIT + 1 + index if task.endswith("index") else np.full(count, PAD_ID)
    if size > 8 and task.endswith("index"):
        raise InputError(expected("items", f"at most 8 for {task} (an index is one digit)", size))
    head = np.full(count, ID[task])
    return np.column_stack([head, argument, items, np.full(count, SEP_ID)]), answer


def _replaced(items: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = items.copy()
    out[np.arange(len(items)), index] = ID[NEW]
    return out


def _inserted(items: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide = np.concatenate([items, np.full((len(items), 1), ID[NEW])], 1)
    keys = np.concatenate([np.broadcast_to(np.arange(items.shape[1]) + 0.5, items.shape), index[:, None]], 1)
    return np.take_along_axis(wide, np.argsort(keys, axis=1, kind="stable"), 1)


def _removed(items: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    keep = np.arange(items.shape[1])[None] != index[:, None]
    return items[keep].reshape(len(items), items.shape[1] - 1)


def _shuffled(items: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.take_along_axis(items, np.argsort(rng.random(items.shape), axis=1), 1)


_OPERATE: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "copy": lambda items, index, rng: items.copy(),
    "reverse": lambda items, index, rng: items[:, ::-1].copy(),
    "sort": lambda items, index, rng: np.sort(items, axis=1),
    "shuffle": _shuffled,
    **dict.fromkeys(("replace_index", "replace_random"), _replaced),
    **dict.fromkeys(("insert_index", "insert_random"), _inserted),
    **dict.fromkeys(("remove_index", "remove_random"), _removed),
}


def support(task: str, prompt: Sequence[int]) -> np.ndarray:
    """Return every right answer (M, L) of a list exercise, all equally likely; M is 1 for the fixed operations.

    Raises:
        InputError: too many to enumerate (the error says how many).
    """
    items = np.asarray(prompt, np.int64)[None, 2:-1]
    size = len(prompt) - 3
    counts: dict[str, int] = {"shuffle": math.factorial(size), "insert_random": size + 1}
    count = counts.get(task, size if task in FREE else 1)
    if count > MOST_ROWS:
        then = "Take fewer items; the closed forms hold for any number"
        raise InputError(expected("items", f"at most {MOST_ROWS:,} right answers to enumerate", f"{count:,} ({task} of {size})", then=then))  # fmt: skip
    rng = np.random.default_rng(0)
    if task == "shuffle":
        from itertools import permutations

        return np.array(list(permutations(items[0].tolist())), np.int64)
    if task in FREE:
        return _OPERATE[task](np.repeat(items, count, 0), np.arange(count), rng)
    index = np.array([int(prompt[1]) - _FIRST_DIGIT - 1])
    return _OPERATE[task](items, index, rng)


#: Most rows of an enumerated law.
MOST_ROWS = 100_000


# ---- sums in chains --------------------------------------------------------------------------------------------------


def _results() -> np.ndarray:
    """Return what each operation makes of 0 to 99 (100, 12); -1 where it leaves that range."""
    start = np.arange(100)[:, None]
    after = np.concatenate([start + _MOVES[None], start * 2, start * 3], 1)
    return np.where((after >= 0) & (after <= 99), after, -1)


_RESULT = _results()


def _sums(size: int, count: int, rng: np.random.Generator, largest: int) -> tuple[np.ndarray, np.ndarray]:
    allowed = np.r_[np.abs(_MOVES) <= largest, True, True]
    value = rng.integers(0, 100, count)
    digits = [_FIRST_DIGIT + value // 10, _FIRST_DIGIT + value % 10]
    operations, answer = [], []
    for step in range(size):
        good = (_RESULT[value] >= 0) & allowed[None]
        chosen = np.argmax(np.where(good, rng.random((count, len(_OPERATIONS))), -1.0), 1)
        value = _RESULT[value, chosen]
        operations.append(_FIRST_OPERATION + chosen)
        separator = [np.full(count, ID[";"])] if step else []
        answer += [*separator, _FIRST_DIGIT + value // 10, _FIRST_DIGIT + value % 10]
    head = [np.full(count, ID["arithmetic"]), np.full(count, PAD_ID)]
    return np.column_stack([*head, *digits, *operations, np.full(count, SEP_ID)]), np.column_stack(answer)


# ---- sentences -------------------------------------------------------------------------------------------------------


def _sentences(size: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    nouns = rng.integers(0, len(_NOUNS), count)
    answers = [_story(int(noun), size, rng) for noun in nouns]
    head, length, end = np.full(count, ID["sentences"]), np.full(count, ID[_LENGTHS[size - 1]]), np.full(count, SEP_ID)
    noun_ids = np.array([ID[_NOUNS[i][0]] for i in nouns])
    return np.column_stack([head, noun_ids, length, end]), np.array(answers, np.int64)


def _story(noun: int, size: int, rng: np.random.Generator) -> list[int]:
    """Return one story: who goes from where to where, and what they get there."""
    name, pronoun = _NOUNS[noun]
    plural = pronoun == "they"
    start, goal = rng.choice(len(_CITIES), 2, replace=False)
    words = [
        "the",
        _MOODS[rng.integers(4)],
        name,
        _GOES[rng.integers(4)][plural],
        "from",
        *_CITIES[start],
        "to",
        *_CITIES[goal],
        ".",
    ]
    for _ in range(size - 1):
        good = _GOODS[rng.integers(3)]
        words += [pronoun, _GETS[rng.integers(4)][plural], "a", *good, "in", *_CITIES[rng.integers(6)], "."]
    return [ID[w] for w in words]


def story_law(prompt: Sequence[int]) -> list[tuple[int, list[tuple[str, ...]], bool]]:
    """Return the independent choices of a story: (first position, equally likely word tuples, "differs from the one before").

    The words at all other positions follow from the prompt. So the law of a story, its entropy and its total correlation
    are exact for any length.
    """
    noun = VOCABULARY[prompt[1]]
    plural = dict(_NOUNS)[noun] == "they"
    size = _LENGTHS.index(VOCABULARY[prompt[2]]) + 1
    choices: list[tuple[int, list[tuple[str, ...]], bool]] = [
        (1, [(w,) for w in _MOODS], False),
        (3, [(w[plural],) for w in _GOES], False),
        (5, list(_CITIES), False),
        (8, list(_CITIES), True),
    ]
    for i in range(size - 1):
        at = 11 + 9 * i
        choices += [(at + 1, [(w[plural],) for w in _GETS], False), (at + 3, list(_GOODS), False), (at + 6, list(_CITIES), False)]
    return choices


def story_nats(size: int) -> float:
    """Return the information of any right story, nats: they are all equally likely."""
    return math.log(4 * 4 * 6 * 5) + (size - 1) * math.log(4 * 3 * 6)


# ---- right or wrong --------------------------------------------------------------------------------------------------


def is_right(task: str, prompt: Sequence[int], answer: Sequence[int]) -> bool:
    """Return whether the tokens (up to the first `<eos>`) are a right answer; any permutation is right for a shuffle."""
    ids = [int(i) for i in answer]
    ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
    items = [int(i) for i in prompt[2:-1]]
    if task == "shuffle":
        return sorted(ids) == sorted(items)
    if task == "sentences":
        return _is_story(prompt, ids)
    if task == "arithmetic":
        return ids == _sum_answer(prompt)
    return any(ids == row for row in support(task, prompt).tolist())


def can_be_right(task: str, prompt: Sequence[int], state: Sequence[int]) -> bool:
    """Return whether a right answer agrees with all visible tokens of a state (`<mask>` where hidden, `<eos>` at the end)."""
    length = answer_length(task, size_of(prompt))
    seen = [(i, int(t)) for i, t in enumerate(state) if int(t) != MASK_ID]
    if any(t != EOS_ID for i, t in seen if i >= length) or any(t == EOS_ID for i, t in seen if i < length):
        return False
    seen = [(i, t) for i, t in seen if i < length]
    if task == "shuffle":
        visible, items = [t for _, t in seen], {int(i) for i in prompt[2:-1]}
        return len(set(visible)) == len(visible) and set(visible) <= items
    if task == "sentences":
        return _fits_story(prompt, dict(seen))
    rows = [_sum_answer(prompt)] if task == "arithmetic" else support(task, prompt).tolist()
    return any(all(row[i] == t for i, t in seen) for row in rows)


def size_of(prompt: Sequence[int]) -> int:
    """Return the items, steps or sentences of an exercise."""
    task = VOCABULARY[prompt[0]]
    if task == "sentences":
        return _LENGTHS.index(VOCABULARY[prompt[2]]) + 1
    return len(prompt) - (5 if task == "arithmetic" else 3)


def _fits_story(prompt: Sequence[int], seen: dict[int, int]) -> bool:
    noun = next(i for i, row in enumerate(_NOUNS) if row[0] == VOCABULARY[prompt[1]])
    frame = _story(noun, size_of(prompt), np.random.default_rng(0))
    free: set[int] = set()
    before: list[tuple[str, ...]] = []
    for at, options, differs in story_law(prompt):
        places = range(at, at + len(options[0]))
        free |= set(places)
        fits = [o for o in options if all(seen.get(i, ID[w]) == ID[w] for i, w in zip(places, o, strict=True))]
        if not fits or (differs and len(fits) == 1 and fits == before):
            return False
        before = fits
    return all(frame[i] == t for i, t in seen.items() if i not in free)


def _sum_answer(prompt: Sequence[int]) -> list[int]:
    value = 10 * (int(prompt[2]) - _FIRST_DIGIT) + int(prompt[3]) - _FIRST_DIGIT
    out: list[int] = []
    for operation in prompt[4:-1]:
        value = int(_RESULT[value, int(operation) - _FIRST_OPERATION])
        out += [ID[";"]] * bool(out) + [_FIRST_DIGIT + value // 10, _FIRST_DIGIT + value % 10]
    return out


def _is_story(prompt: Sequence[int], ids: list[int]) -> bool:
    size = size_of(prompt)
    if len(ids) != answer_length("sentences", size):
        return False
    noun = next(i for i, row in enumerate(_NOUNS) if row[0] == VOCABULARY[prompt[1]])
    frame = _story(noun, size, np.random.default_rng(0))
    last: tuple[str, ...] = ()
    words = [VOCABULARY[i] for i in ids]
    for at, options, differs in story_law(prompt):
        found = tuple(words[at : at + len(options[0])])
        if found not in options or (differs and found == last):
            return False
        frame[at : at + len(found)] = ids[at : at + len(found)]
        last = found
    return frame == ids


def positions(prompt: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the position number of each prompt token: items, sums and operations stand where the answer needs them."""
    task, count = VOCABULARY[prompt[0]], len(prompt)
    places = np.arange(count)
    if task == "arithmetic":
        places[4:-1] = ANSWER_AT - 1 + 3 * np.arange(1, count - 4)
    elif task != "sentences":
        places[2:] = ANSWER_AT + np.arange(count - 2)  # `<sep>` behind the last item says how many there are
        return places
    places[-1] = ANSWER_AT - 1
    return places


def text(ids: Sequence[int]) -> str:
    """Return the pieces with blanks between them."""
    return " ".join(VOCABULARY[int(i)] for i in ids)
