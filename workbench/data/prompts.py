"""Prompts of mixed kinds, cut from the corpora or asked as questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("play", "code", "technical", "question")

SUBJECTS = (
    "photosynthesis, gravity, the water cycle, black holes, vaccines, DNA, earthquakes, volcanoes, rainbows, magnets, "
    "batteries, the moon, the tides, the human heart, sleep, memory, dreams, the brain, bees, whales, dinosaurs, trees, "
    "coral reefs, deserts, glaciers, the ocean, recycling, solar power, wind turbines, nuclear energy, electric cars, "
    "bicycles, airplanes, bridges, the internet, computers, search engines, encryption, databases, recursion, sorting, "
    "binary search, machine learning, neural networks, a hash table, a linked list, version control, open source, "
    "debugging, unit tests, probability, prime numbers, fractions, geometry, algebra, statistics, the number zero, "
    "infinity, chess, football, running, yoga, cooking rice, baking bread, making tea, coffee, chocolate, cheese, "
    "olive oil, healthy food, vegetables, gardening, cats, dogs, horses, birds, music, jazz, the piano, the guitar, "
    "painting, photography, poetry, novels, theatre, Shakespeare, fairy tales, movies, museums, ancient Rome, "
    "ancient Egypt, the Silk Road, the printing press, the Renaissance, the industrial revolution, democracy, taxes, "
    "money, banks, inflation, trade, advertising, job interviews, public speaking, friendship, kindness, courage, "
    "honesty, patience, time management, learning a language, travelling by train, Paris, Japan, Brazil, Kenya, India"
)
QUESTIONS = (
    "What is the most important thing to know about {}?",
    "Explain {} to a ten-year-old child.",
    "Write a short paragraph about {}.",
    "Give me three facts about {}.",
    "Why do people care about {}?",
    "Write a short poem about {}.",
    "How would you teach a class about {}? Make a list of five steps.",
    "What are the advantages and disadvantages of {}?",
    "Tell me a short story in which {} plays a part.",
    "Write an e-mail to a friend about {}.",
    "Summarize what a beginner should learn about {}.",
    "What is a common mistake people make about {}?",
    "Describe the history of {} in a few sentences.",
    "Write a Python function that prints a sentence about {}.",
    "Compare {} with something similar.",
    "List some questions that a teacher could ask about {}.",
    "What words are often used when talking about {}?",
    "Give me some advice about {}.",
)


@dataclass(frozen=True)
class Prompt:
    """A text to continue, where it came from, and whether it is a question for a model's chat template."""

    text: str
    kind: str
    source: str
    chat: bool = False


def questions(held_out: bool) -> list[Prompt]:
    """Return every question on the subjects of one side of the split."""
    from workbench.data import held_out as is_held_out

    subjects = [name for name in SUBJECTS.split(", ") if is_held_out(name) is held_out]
    return [Prompt(form.format(name), "question", name, chat=True) for name in subjects for form in QUESTIONS]


def prompts(count: int = 20, *, seed: int = 0, kinds: Sequence[str] = KINDS, held_out: bool = True) -> list[Prompt]:
    """Return `count` prompts, the kinds in turn, drawn with `seed` from one side of the split.

    Texts are 160 to 240 characters (about 40-60 tokens) and begin at the start of a line; questions are whole.

    Raises:
        UnknownNameError: a kind is none of `KINDS`.
    """
    from workbench.errors import unknown

    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of prompt", kind, KINDS)
    rng = np.random.default_rng(seed)
    return [draw(kinds[index % len(kinds)], rng, held_out) for index in range(count)]


def draw(kind: str, rng: np.random.Generator, held_out: bool, shortest: int = 160, longest: int = 240) -> Prompt:
    """Return one prompt of a kind; `shortest` and `longest` bound the text in characters."""
    if kind == "question":
        choices = questions(held_out)
        return choices[rng.integers(len(choices))]
    name, text = pick_document(kind, rng, held_out)
    start = text.find("\n", int(rng.integers(max(1, len(text) - 2 * longest)))) + 1
    return Prompt(text[start : start + int(rng.integers(shortest, longest + 1))].strip("\n"), kind, name)


def pick_document(kind: str, rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    """Return name and text of a document on one side of the split, each character of the corpus equally likely."""
    import workbench.data as data

    corpus = {"play": data.plays, "code": data.stdlib_code, "technical": data.technical_english}[kind]()
    names = [name for name in corpus if data.held_out(name) is held_out]
    sizes = np.array([len(corpus[name]) for name in names], dtype=float)
    name = names[rng.choice(len(names), p=sizes / sizes.sum())]
    return name, corpus[name]


def passage(kind: str, letters: int) -> str:
    """Return the first `letters` characters, ended at a line, of the first long enough held-out document of a kind."""
    from workbench.data import held_out, plays, stdlib_code, technical_english

    documents = {"play": plays, "code": stdlib_code, "technical": technical_english}[kind]()
    text = next(text for name, text in documents.items() if held_out(name) and len(text) > letters)
    return text[: text.rfind("\n", 0, letters) + 1]


def needle(letters: int, secret: str = "The password of the library is seven green lanterns.") -> str:
    """Return a passage of a play with a sentence of ours in its middle, and the sentence once more at its end.

    A model that has read the first can write the last words of the second; hold them back and see.
    """
    lines = passage("play", letters).split("\n")
    lines.insert(len(lines) // 2, secret)
    return "\n".join(lines) + "\n" + secret
