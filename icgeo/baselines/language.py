"""Image-text models asked where a photo was taken, step by step: ETHAN and GeoCoT.

They reason from clues to constraints, then from the continent to coordinates, say how sure they
are, and name several hypotheses (arXiv 2408.09474, 2502.13759). Examples are turns of the same
conversation: a photo, then the answer that its place would have been, with reasons that the model
itself is asked for once. What was answered is kept as JSON lines; nothing is asked twice.
"""

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from icgeo.baselines.language_models import LanguageModel, Reply, Turn, as_jpeg
from icgeo.baselines.language_replies import (
    EXPLAIN,
    INSTRUCTION,
    QUESTION,
    json_objects,
    mixture,
    read_reply,
)
from icgeo.config import UsageError
from icgeo.data.photos import Photo
from icgeo.prediction import Example, Prediction
from icgeo.sphere.density import Density
from icgeo.writing import append_lines

logger = logging.getLogger(__name__)

LANGUAGE = "language model"


@dataclass(frozen=True)
class Answer:
    """A line of the answers that are kept: a question asked once, and what came of it."""

    key: str
    """Of all that the answer depends on: model, settings and the whole conversation."""
    kind: str
    """"place", or "reasons" of an example."""
    photo: str
    """Of the content of the picture that was sent."""
    model: str
    text: str
    reason: str | None
    """Why there is no place: refused, late, cut off, nonsense or failed by the server."""
    lat: float | None
    lon: float | None
    """Of the heaviest hypothesis."""
    input_tokens: int
    output_tokens: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What questions will cost, before they are asked."""

    questions: int
    known: int
    """Those of which the answers are kept, and free."""
    input_tokens: int
    """Estimated, for the questions that are left, without reasons that are not there yet."""
    output_tokens: int
    """At most."""
    usd: float | None
    """At most by this estimate; None where no price is known."""

    def __str__(self) -> str:
        """Say it in one line."""
        price = "price unknown" if self.usd is None else f"at most about {self.usd:.2f} USD"
        return (
            f"{self.questions} questions ({self.known} answered before), about "
            f"{self.input_tokens:,} tokens to send and up to {self.output_tokens:,} to get, {price}"
        )


class AnswerFile:
    """Answers as JSON lines, each on disk before the next question; processes may share a file."""

    def __init__(self, path: Path) -> None:
        """Read what earlier runs have left; a line that a kill has torn is passed over."""
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.sent = self.got = 0  # tokens, of answers that were asked for again as well
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                answer = Answer(**json.loads(line)) if line else None
            except (ValueError, TypeError):
                logger.warning("%s, line %d is no answer, and is asked again", path, number)
                continue
            if answer:
                self._add(answer)

    def append(self, answer: Answer) -> None:
        """Add an answer, and wait until it is on disk."""
        with self._lock:
            append_lines(self.path, [json.dumps(asdict(answer))])
            self._add(answer)

    def _add(self, answer: Answer) -> None:
        self.answers[answer.key] = answer
        self.sent += answer.input_tokens
        self.got += answer.output_tokens


@dataclass(frozen=True, eq=False)
class _Question:
    """A conversation that ends with a photo to locate, or with an example to explain."""

    kind: str
    turns: tuple[Turn, ...]
    key: str


@dataclass(frozen=True, eq=False)
class LanguageLocator:
    """Asks a model where each photo was taken, after examples with places and reasons."""

    model: LanguageModel
    answers: Path
    """File of JSON lines in which answers are kept, and looked up."""
    explain_examples: bool = True
    """Whether the model is asked once for the reasons of each example, or places stand alone."""
    photo_side: int = 768
    """Longer side of the pictures sent, in pixels."""
    budget_usd: float | None = None
    """What all answers of the file may cost; a question that might go beyond is not asked."""
    ask_again: bool = False
    """Whether questions that gave no place are asked again."""
    name: str = LANGUAGE
    _file: AnswerFile = field(init=False, repr=False)
    _asked_keys: set[str] = field(default_factory=set, init=False, repr=False)
    """Questions of this run, which are not asked a third time."""

    def __post_init__(self) -> None:
        if self.budget_usd is not None and self.model.usd_per_million is None:
            raise ValueError(
                f"expected the price of {self.model.name!r} with a budget of {self.budget_usd} USD,"
                " got none; give usd_per_million=(questions, answers)"
            )
        object.__setattr__(self, "_file", AnswerFile(Path(self.answers)))

    def cost(self, photos: Sequence[Photo], examples: Sequence[Example] = ()) -> Cost:
        """Tell what locating photos will cost; nothing is asked."""
        all_questions = [*self._explanations(examples), *self._questions(photos, examples)]
        questions = {question.key: question for question in all_questions}
        open_questions = [one for one in questions.values() if not self._is_known(one.key)]
        counts = [self.model.count(question.turns) for question in open_questions]
        input_tokens, output_tokens = (sum(count[side] for count in counts) for side in (0, 1))
        usd = self._usd(input_tokens, output_tokens)
        return Cost(
            len(questions), len(questions) - len(open_questions), input_tokens, output_tokens, usd
        )

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate photos by the heaviest hypotheses; one without an answer has the prior.

        Raises:
            UsageError: it may cost more than the budget, or the model cannot be asked at all.
        """
        if not photos:
            return []
        self._check_budget(self.cost(photos, examples))
        if explanations := self._explanations(examples):
            self._ask(explanations)
            self._check_budget(self.cost(photos, examples))  # questions have grown by the reasons
        questions = self._questions(photos, examples)
        self._ask(questions)
        return [self._prediction(self._file.answers[one.key]) for one in questions]

    def _check_budget(self, cost: Cost) -> None:
        logger.info("%s: %s", self.name, cost)
        if self.budget_usd is None or cost.usd is None:
            return
        spent_usd = self._usd(self._file.sent, self._file.got)
        if (spent_usd or 0.0) + cost.usd > self.budget_usd:
            raise UsageError(
                f"expected at most {self.budget_usd:.2f} USD, of which {spent_usd:.2f} are spent, "
                f"got {cost}; locate fewer photos, or allow more"
            )

    def _usd(self, input_tokens: int, output_tokens: int) -> float | None:
        prices = self.model.usd_per_million
        return (
            None if prices is None else (input_tokens * prices[0] + output_tokens * prices[1]) / 1e6
        )

    def _is_known(self, key: str) -> bool:
        answer = self._file.answers.get(key)
        is_tried = key in self._asked_keys or not self.ask_again
        return answer is not None and (is_tried or not answer.reason)

    def _question(self, kind: str, turns: Sequence[Turn]) -> _Question:
        digest = blake2b(self.model.fingerprint.encode(), digest_size=16)
        for turn in turns:
            for part in (turn.role.encode(), turn.text.encode(), turn.image or b""):
                digest.update(len(part).to_bytes(8, "big") + part)
        return _Question(kind, tuple(turns), digest.hexdigest())

    def _explanations(self, examples: Sequence[Example]) -> list[_Question]:
        if not self.explain_examples:
            return []
        return [
            self._question("reasons", [Turn("user", text, as_jpeg(one.image, self.photo_side))])
            for one in examples
            for text in [EXPLAIN.format(lat=one.lat, lon=one.lon)]
        ]

    def _questions(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[_Question]:
        turns = [Turn("system", INSTRUCTION)]
        reasons = [self._reasons(one.key) for one in self._explanations(examples)]
        for example, explanation in zip(examples, reasons or len(examples) * [{}], strict=True):
            place = {"lat": example.lat, "lon": example.lon, "radius_km": 1.0, "weight": 1.0}
            solution = json.dumps({**explanation, "hypotheses": [place], "confidence": 1.0})
            turns += [Turn("user", QUESTION, as_jpeg(example.image, self.photo_side))]
            turns += [Turn("assistant", solution)]
        return [
            self._question("place", [*turns, Turn("user", QUESTION, as_jpeg(one, self.photo_side))])
            for one in photos
        ]

    def _reasons(self, key: str) -> dict[str, Any]:
        """Return clues and constraints of an example, as far as they were told."""
        answer, names = self._file.answers.get(key), ("clues", "constraints")
        objects = [*json_objects(answer.text)] if answer else []
        explanations = (
            {name: values[name] for name in names if name in values} for values in reversed(objects)
        )
        return next(filter(None, explanations), {})

    def _ask(self, questions: Sequence[_Question]) -> None:
        """Ask what is not known; each answer is kept as it comes, an interrupt waits for those."""
        left = {one.key: one for one in questions if not self._is_known(one.key)}
        with ThreadPoolExecutor(self.model.at_once) as pool:
            try:
                for _ in pool.map(self._ask_one, left.values()):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _ask_one(self, question: _Question) -> None:
        start = time.perf_counter()
        self._asked_keys.add(question.key)
        reply = self.model.ask(question.turns)
        best_hypothesis, reason = None, reply.reason
        if question.kind == "place":
            hypotheses, _, reason = read_reply(reply)
            best_hypothesis = max(hypotheses, key=lambda one: one.weight, default=None)
        image = next(turn.image for turn in reversed(question.turns) if turn.image)
        self._file.append(
            Answer(
                key=question.key,
                kind=question.kind,
                photo=blake2b(image, digest_size=16).hexdigest(),
                model=self.model.name,
                text=reply.text,
                reason=reason,
                lat=best_hypothesis.lat if best_hypothesis else None,
                lon=best_hypothesis.lon if best_hypothesis else None,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
                seconds=time.perf_counter() - start,
            )
        )

    def _prediction(self, answer: Answer) -> Prediction:
        if answer.reason:
            density, seconds = Density.uniform(), answer.seconds
            return Prediction.from_density(density, legibility=0.0, located=False, seconds=seconds)
        hypotheses, confidence, _ = read_reply(Reply(answer.text))
        density = mixture(hypotheses, confidence)
        point = torch.tensor([answer.lat, answer.lon], dtype=torch.float64)
        return Prediction.from_density(
            density, point, legibility=1.0, located=True, seconds=answer.seconds
        )
