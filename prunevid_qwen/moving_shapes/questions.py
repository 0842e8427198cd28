"""Questions about a scene, their answers, and which objects each one is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunevid_qwen.moving_shapes.scene import COLORS, DIRECTIONS, SHAPES, MovingObject, Scene

QUESTION_TYPES: tuple[str, ...] = ("color", "shape", "direction", "last", "first", "count", "brief", "exists")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six")
LETTERS = "ABCD"
ANSWER_PREFIX = "Best option: ("
"""What the answer to a multiple-choice question begins with (MVBench's way of asking); the letter comes next."""


@dataclass(frozen=True)
class Question:
    """One question with its right answer.

    Args:
        type: one of ``QUESTION_TYPES``.
        text: what is asked; for multiple choice with its options, a line each.
        answer: a single word, or the letter of the right option.
        word: the right answer as a word, also when a letter is asked for.
        options: the words to choose from, in order; empty for a one-word question.
        objects: indices into ``scene.objects`` of what the question is about.
    """

    type: str
    text: str
    answer: str
    word: str
    options: tuple[str, ...]
    objects: tuple[int, ...]

    @property
    def multiple_choice(self) -> bool:
        """Whether a letter is asked for."""
        return bool(self.options)

    @property
    def answer_prefix(self) -> str:
        """What the assistant's turn is begun with before the model goes on: empty for one-word questions."""
        return ANSWER_PREFIX if self.options else ""


@dataclass(frozen=True)
class _Fact:
    """A question before it is worded as one-word or multiple choice; ``pool`` holds right and wrong answers."""

    type: str
    text: str
    word: str
    pool: tuple[str, ...]
    objects: tuple[int, ...]


def make_questions(scene: Scene, seed: int, multiple_choice: bool = False) -> list[Question]:
    """Ask everything there is to ask about a scene, each fact once.

    Args:
        scene: what is asked about.
        seed: chooses wordings, wrong options and their order; at least 0.
        multiple_choice: ask for the letter of an option instead of a word.
    """
    rng = np.random.default_rng([seed, 2])
    return [_word(rng, fact, multiple_choice) for fact in _facts(rng, scene, moving=True)]


def sample_questions(
    scene: Scene,
    rng: np.random.Generator,
    count: int,
    multiple_choice: bool = False,
    types: Sequence[str] = QUESTION_TYPES,
    weights: dict[str, float] | None = None,
    moving: bool = True,
    fewest_options: int = 4,
    clauses: bool = False,
) -> list[Question]:
    """Draw ``count`` questions with every type equally likely (or as ``weights`` say), for training.

    Args:
        scene: what is asked about; it must hold an object.
        rng: where the randomness comes from; it is advanced.
        count: how many, repeats possible.
        multiple_choice: ask for the letter of an option instead of a word.
        types: the types to choose from.
        weights: how likely a type is relative to the others, 1 where it is not named.
        moving: False for a picture, about which nothing in time can be asked.
        fewest_options: with multiple choice, options are this many to 4; 2 to 4.
        clauses: say "the object that appears last" for "the last object", and so on.
    """
    by_type: dict[str, list[_Fact]] = {}
    for fact in _facts(rng, scene, moving, clauses):
        if fact.type in types:
            by_type.setdefault(fact.type, []).append(fact)
    names = list(by_type)
    chance = np.array([(weights or {}).get(name, 1.0) for name in names])
    drawn = rng.choice(len(names), size=count, p=chance / chance.sum())
    questions = []
    for index in drawn:
        facts = by_type[names[index]]
        questions.append(_word(rng, facts[int(rng.integers(len(facts)))], multiple_choice, fewest_options))
    return questions


def _facts(rng: np.random.Generator, scene: Scene, moving: bool, clauses: bool = False) -> list[_Fact]:
    """List what can be asked about a scene and has exactly one right answer."""
    colors, directions = tuple(COLORS), tuple(DIRECTIONS)
    facts: list[_Fact] = []
    for k, item in enumerate(scene.objects):
        name = item.shape if rng.random() < 0.5 else f"{item.color} object"
        facts.append(_Fact("color", f"What color is the {item.shape}?", item.color, colors, (k,)))
        facts.append(_Fact("shape", f"What shape is the {item.color} object?", item.shape, SHAPES, (k,)))
        if not moving:
            continue
        if item.brief:
            facts += _named_facts("brief", item, k, clauses)
        else:
            text = f"Which direction does the {name} move?"
            facts.append(_Fact("direction", text, item.direction, directions, (k,)))
    if moving and len(scene.objects) > 1:
        facts += _order_facts(scene, clauses)
    count = len(scene.objects)
    facts.append(_Fact("count", "How many objects are there?", NUMBERS[count], NUMBERS[1:], tuple(range(count))))
    if scene.objects:
        facts.append(_existence_fact(rng, scene))
    return facts


def _order_facts(scene: Scene, clauses: bool) -> list[_Fact]:
    """What appeared last and what was there first, where one object alone did."""
    starts = [item.appears for item in scene.objects]
    facts = []
    for kind, moment in (("last", max(starts)), ("first", min(starts))):
        if starts.count(moment) > 1:
            continue
        k = starts.index(moment)
        facts += _named_facts(kind, scene.objects[k], k, clauses)
    return facts


def _named_facts(kind: str, item: MovingObject, k: int, clauses: bool) -> list[_Fact]:
    """Ask for the colour and the shape of the first, the last or the brief object."""
    color, shape = f"What color is the {kind} object?", f"What shape is the {kind} object?"
    if clauses:
        how = "briefly" if kind == "brief" else kind
        color, shape = f"What color is the object that appears {how}?", f"What shape appears {how}?"
    facts = [_Fact(kind, color, item.color, tuple(COLORS), (k,)), _Fact(kind, shape, item.shape, SHAPES, (k,))]
    return facts if kind == "brief" else facts[::-1]


def _existence_fact(rng: np.random.Generator, scene: Scene) -> _Fact:
    """Ask for something that is there, or for something with only its colour or only its shape there: even odds."""
    k = int(rng.integers(len(scene.objects)))
    color, shape = scene.objects[k].color, scene.objects[k].shape
    if rng.random() < 0.5:
        return _Fact("exists", _existence_text(color, shape), "yes", ("yes", "no"), (k,))
    present = {(item.color, item.shape) for item in scene.objects}
    while (color, shape) in present:
        if rng.random() < 0.5:
            color, shape = list(COLORS)[int(rng.integers(len(COLORS)))], scene.objects[k].shape
        else:
            color, shape = scene.objects[k].color, SHAPES[int(rng.integers(len(SHAPES)))]
    return _Fact("exists", _existence_text(color, shape), "no", ("yes", "no"), (k,))


def _existence_text(color: str, shape: str) -> str:
    return f"Is there {'an' if color[0] in 'aeiou' else 'a'} {color} {shape}?"


def _word(rng: np.random.Generator, fact: _Fact, multiple_choice: bool, fewest_options: int = 4) -> Question:
    """Turn a fact into a question, with up to three wrong options where a letter is asked for."""
    if not multiple_choice:
        return Question(fact.type, fact.text, fact.word, fact.word, (), fact.objects)
    wrong = [word for word in fact.pool if word != fact.word]
    most = len(LETTERS) if fewest_options == len(LETTERS) else int(rng.integers(fewest_options, len(LETTERS) + 1))
    options = [wrong[i] for i in rng.permutation(len(wrong))[: most - 1]]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, fact.word)
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    text = "\n".join([fact.text, "Options:", *lines, "Only give the best option."])
    return Question(fact.type, text, LETTERS[place], fact.word, tuple(options), fact.objects)
