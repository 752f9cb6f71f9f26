"""Locate photos, and clips of them, by showing a model that draws maps a few solved cases."""

import math
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Tensor

from icgeo import checkpoint, maps, sampling
from icgeo import features as image_features
from icgeo.config import UsageError, require
from icgeo.data.base_maps import MapSource, open_map
from icgeo.data.photos import Photo, as_photos
from icgeo.data.pixels import square_pixels
from icgeo.drawing import POINTS, MapDrawer
from icgeo.map_views import MapViews, map_views, suited_field_of_view
from icgeo.models import Context, LoadOptions, MapModel, load
from icgeo.models.hub import upload
from icgeo.models.matching import Evidence
from icgeo.options import SETTINGS, LocateOptions, fields_of
from icgeo.prediction import (
    Example,
    Examples,
    Locator,
    Prediction,
    SequencePrediction,
    add_seconds,
    as_examples,
)
from icgeo.selection import Chooser, Strategy, make_strategy
from icgeo.sequence import frame_times, in_sequence
from icgeo.sphere.density import Density
from icgeo.zoom.bank import zoom_on
from icgeo.zoom.chain import LEAST_WIDE_DEG, SIZE, MapZoom

MAP_SHOTS = 16
"""Views of a map that each photo is shown, where the number of shots is not said."""
BASE_MAP = "base map"
OF_LOADING: dict[str, Any] = {
    field.name: field.default
    for field in fields(LoadOptions)
    if field.name not in ("model", "device", *SETTINGS)
}
"""Options that a model has taken when it was loaded, with their defaults."""
OF_EXAMPLES: dict[str, Any] = {
    **{"shots": None, "select": "nearest", "features": None, "prompt": None, "steps": None},
    **{"samples": None, "example_guidance": None, "augment": 0, "evidence": None},
}
"""Options of how examples are shown, of which a zoom on a map alone makes no use, likewise."""


@dataclass(frozen=True, eq=False)
class Geolocator(LocateOptions, LoadOptions):
    """A model with its settings; it keeps contexts, so that examples are encoded once.

    Its other fields are those of `icgeo.options.LocateOptions` and `icgeo.models.LoadOptions`.
    """

    model: str | Path | MapModel = "tiny"  # type: ignore[assignment]
    """"tiny", a checkpoint folder, a hub id, or a model already loaded."""
    _: KW_ONLY
    map: MapSource | None = None  # type: ignore[assignment]
    """A map from which examples are cut, beside those that are given: what
    `icgeo.data.base_maps.open_map` opens."""
    style: maps.MapStyle | None = None
    """How maps are drawn; None means the model's own, and tiny knows no other."""
    select: str | Strategy = "nearest"
    """How the examples of each photo are chosen: a strategy of `icgeo.selection`, or its name."""
    name: str = "icgeo"
    """How it is called in tables and figures."""
    examples: Examples = None
    """What is shown where `locate` is given None; [] shows nothing."""
    evidence: Locator | str | None = None
    """Another way, such as `icgeo.baselines.Retrieval`, whose answer from the same examples the
    model is shown as one more map; or "base map", what lies under the maps of `style`, such as a
    window of imagery. For pretrained models."""
    allow_outside: bool = False
    """Accept examples outside the folder of their manifest."""

    def __post_init__(self) -> None:
        ones, zeros = ("steps", "samples", "batch_size"), ("augment", "example_guidance", "shots")
        for field, minimum in {**dict.fromkeys(ones, 1), **dict.fromkeys(zeros, 0)}.items():
            value = getattr(self, field)
            if value is not None and not minimum <= value < math.inf:
                raise ValueError(f"expected {field} of at least {minimum}, got {value}")
        if self.point not in POINTS:
            raise ValueError(f"expected point to be one of {sorted(POINTS)}, got {self.point!r}")
        make_strategy(self.select, self)
        if not isinstance(self.features, str | Path | None):
            raise UsageError(
                f"expected features by name, got {self.features!r}; give a name that "
                "icgeo.features.open takes, such as 'tiny'"
            )
        if isinstance(self.evidence, str) and self.evidence != BASE_MAP:
            raise UsageError(
                f"expected evidence of a locator or {BASE_MAP!r}, got {self.evidence!r}"
            )
        is_angle = isinstance(self.heading, int | float) and -360 <= self.heading <= 360
        if self.heading != "any" and not is_angle:
            raise ValueError(
                f'expected heading in degrees, or "any", got {self.heading!r}; 0 is north up'
            )
        self._check_model()

    def _check_model(self) -> None:
        """Load the model, and refuse what it cannot do."""
        settings = self.loaded.settings
        model_values = {name: (getattr(settings, name),) for name in ("style", *SETTINGS)}
        for field, values in {**model_values, "prompt": settings.prompts}.items():
            value = getattr(self, field)
            if value is not None and value not in values:
                raise ValueError(f"expected {field} of {values} for this model, got {value!r}")
        if self.zoom:
            if not (self.matching and self.loaded.matcher):
                raise UsageError(
                    "expected a model that compares parts with zoom=True, got one that does not; "
                    "leave zoom out"
                )
            require("cv2", "aligning photos", "map")
        if self.heading != "any" and not self.zooms:
            raise UsageError(
                f'expected heading="any" where no map is zoomed on, got {self.heading!r}; leave '
                "heading out, or give map= and not zoom=False"
            )

    @cached_property
    def loaded(self) -> MapModel:
        """The model, loaded once, with the guidance chosen."""
        options = fields_of(LoadOptions, self)
        model: Any = options.pop("model")
        if isinstance(model, str | Path):
            model = load(model, style=self.style, **options)
        elif wrong_options := [
            name for name, default in OF_LOADING.items() if options[name] != default
        ]:
            raise ValueError(
                f"expected no {wrong_options[0]} for a model that is loaded already, got "
                f"{options[wrong_options[0]]!r}; give it to icgeo.load"
            )
        changes: dict[str, Any] = {}
        if self.evidence:
            changes["shows_evidence"] = self.evidence if self.evidence == BASE_MAP else True
        if self.example_guidance is not None:
            changes["example_guidance"] = self.example_guidance
        return replace(model, settings=replace(model.settings, **changes)) if changes else model

    @cached_property
    def _drawer(self) -> MapDrawer:
        options = {**fields_of(LocateOptions, self), "map": None}  # which may be an open one
        return MapDrawer(self.loaded, LocateOptions(**options), self.evidence)

    def _examples(self, examples: Examples) -> list[Example]:
        examples = self.examples if examples is None else examples
        return as_examples(examples, allow_outside=self.allow_outside)

    @cached_property
    def map_views(self) -> MapViews | None:
        """The views of the map that stand beside the examples, cut once; None without a map.

        Raises:
            UsageError: the map cannot be used.
        """
        if self.map is None:
            return None
        return map_views(open_map(self.map), size=self.loaded.photo_size)

    @cached_property
    def _map_examples(self) -> list[Example]:
        return self.map_views.examples() if self.shots != 0 and self.map_views else []

    def _bank_examples(self, examples: Examples) -> list[Example]:
        """Return the examples given, and the views of the map behind them."""
        return self._examples(examples) + self._map_examples

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "Geolocator":
        """Read a locator that `save_pretrained` wrote, from a folder or from the hub.

        Args:
            source: folder, or hub id.
            **options: fields of `Geolocator` in place of those saved; `revision` (branch, tag or
                commit) and `local_files_only` are of the hub id.

        Raises:
            LoadError: no such locator, or a model that cannot be loaded.
            UsageError: its map is another one now, or gone.
        """
        model, options = checkpoint.read(source, **options)
        return cls(model, **options)

    def save_pretrained(
        self,
        folder: str | Path,
        examples: Examples = None,
        *,
        base: str | None = None,
        licence: str = "apache-2.0",
    ) -> Path:
        """Write model, settings and examples to a folder, with a model card.

        Weights of a local folder are copied, those of the hub named with their commit. Of a map
        in a file the path is kept, and what tells when it is another one. Examples
        are written as the model sees them: whoever gets the folder sees them too.

        Args:
            folder: new, or empty.
            examples: in place of the locator's own; [] saves none.
            base: the hub id of the same weights, to name in place of a copy.
            licence: of what is saved.

        Raises:
            PhotoError: an example cannot be read.
            UsageError: a folder that holds something, or a model that cannot be saved.
        """
        options = {"name": self.name, **fields_of(LocateOptions, self), "evidence": self.evidence}
        pairs = self._drawer.pairs(self._examples(examples))
        checkpoint.save(Path(folder), self.loaded, options, *pairs, base=base, licence=licence)
        return Path(folder)

    def push_to_hub(
        self,
        repository: str,
        examples: Examples = None,
        *,
        private: bool = True,
        revision: str | None = None,
        **options: Any,
    ) -> str:
        """Put what `save_pretrained` writes on the hub (owner/name); return the address.

        A new repository is private; `revision` is the branch to write to, None the main one.

        Raises:
            UsageError: no access, or no network.
        """
        with TemporaryDirectory() as folder:
            path = self.save_pretrained(Path(folder) / "locator", examples, **options)
            return upload(path, repository, private=private, revision=revision)

    def require_memory(self, shots: int) -> int:
        """Return how many photos go through at a time beside so many examples: a batch at most.

        Raises:
            LoadError: not even one fits, with what is needed, and what could be changed.
        """
        return self._drawer.require_memory(shots)

    def context(self, examples: Examples) -> Context:
        """Encode examples, or find them among the contexts kept.

        A file is the same as long as its path, time and size are.
        In the mode `causal` a context that begins with the same examples is added to.

        Raises:
            LoadError: they do not fit the memory.
        """
        pairs = self._examples(examples)
        self.require_memory(len(pairs))
        return self._drawer.context(pairs)

    def prepare(self, examples: Examples = None) -> None:
        """Encode examples now, so that the first photo does not wait; what is wrong is told now.

        Raises:
            LoadError: they do not fit the memory, or no such features.
            PhotoError: an example cannot be read.
            UsageError: the map cannot be used.
        """
        if self.zooms:
            self._refuse_unused(examples)
            _ = self.map_zoom
            if pairs := self._examples(examples):
                self._without_map.prepare(pairs)
            return
        pairs = self._bank_examples(examples)
        if self._chooser.count(len(pairs)) == len(pairs):
            self.context(pairs)
        else:
            self.require_memory(self.shown_at_once(len(pairs)))
            self._chooser.prepare(pairs)

    def shown_at_once(self, count: int) -> int:
        """Return how many of so many examples are kept at a time: those of a batch at most."""
        shots = self._chooser.count(count)
        if self._chooser.is_shared or not self.loaded.can_choose:
            return shots
        return min(count, shots * self.batch_size)

    @cached_property
    def _chooser(self) -> Chooser:
        strategy = make_strategy(self.select, self._without_map if self.zoom else self)
        name = self.features or image_features.suited(self.loaded.settings)
        open_features = partial(image_features.open, name, device=self.device)
        views = self.map_views if self._map_examples else None
        describe = partial(views.described, name) if views else None
        shots = MAP_SHOTS if self.shots is None and views else self.shots
        return Chooser(strategy, shots, open_features, describe)

    def choose_for(
        self, photos: Photo | Sequence[Photo], examples: Examples = None
    ) -> Int[Tensor, "photos shots"]:
        """Return which of the examples each photo is shown, by their numbers.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong.
        """
        return self._chooser.choose(as_photos(photos), self._bank_examples(examples))

    def locate(
        self,
        photos: Photo | Sequence[Photo],
        examples: Examples = None,
        *,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        """Locate photos, given examples: all of them, or for each photo as many as `shots` says.

        Args:
            photos: a path, a picture or an array, or a list of them.
            examples: as `predict` takes them.
            callback_on_step_end: called at each step of each batch with the maps [queries, samples,
                3, height, width] as they look from there, and the time, from 1 (noise) down. What
                it raises ends the call, as to cancel it. A zoom draws maps of examples alone.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong.
        """
        if self.zooms:
            self._refuse_unused(examples, callback_on_step_end=callback_on_step_end)
            return self._zoom(as_photos(photos), self._examples(examples), callback_on_step_end)
        photos, pairs = as_photos(photos), self._bank_examples(examples)
        if not photos:  # what is wrong with examples is told all the same
            self.prepare(examples)
            return []
        start = time.perf_counter()
        choices = self._chooser.choose(photos, pairs)
        seconds = time.perf_counter() - start
        predictions = self.locate_chosen(
            photos, pairs, choices, callback_on_step_end=callback_on_step_end
        )
        return add_seconds(predictions, seconds)

    @cached_property
    def _without_map(self) -> "Geolocator":
        """The same model and options, for what the examples say alone."""
        return replace(self, **OF_LOADING, model=self.loaded, map=None, zoom=None, heading="any")

    @property
    def zooms(self) -> bool:
        """Whether photos are found on the map itself."""
        is_asked = self.zoom is not False and self.map is not None and self.shots != 0
        return is_asked and self.matching and self.loaded.matcher is not None

    def _refuse_unused(self, examples: Examples, **arguments: Any) -> None:
        """Refuse options that a zoom has no use for where no examples are given."""
        if examples is not None or self.examples is not None:
            return
        unused_names = [
            name for name, default in OF_EXAMPLES.items() if getattr(self, name) != default
        ]
        if unused_names := unused_names + [
            name for name, value in arguments.items() if value is not None
        ]:
            raise UsageError(
                f"expected examples with {', '.join(unused_names)}, got a map alone, on which "
                "photos are zoomed; give examples, or zoom=False, which shows views of the map"
            )

    @cached_property
    def map_zoom(self) -> MapZoom:
        """The map, indexed to be searched; from disk, if it was before.

        Raises:
            UsageError: the map cannot be used, or a package is missing.
        """
        if self.map is None:
            raise UsageError("expected a map to zoom on, got none; give map=, as map='blue-marble'")
        base_map = open_map(self.map)
        # views of a narrow map are too narrow to be located by
        if suited_field_of_view(base_map, SIZE) < LEAST_WIDE_DEG:
            return MapZoom.open(base_map, self.loaded)
        locator = replace(self._without_map, **OF_EXAMPLES, examples=None, map=base_map, zoom=False)
        locator.prepare()

        def wide(photos: UInt8[Tensor, "photos 3 size size"]) -> list[Density]:
            images = rearrange(photos, "n c h w -> n h w c").numpy()
            return [one.density for one in locator.locate(list(images))]

        return MapZoom.open(base_map, self.loaded, wide=wide)

    def _zoom(
        self,
        photos: Sequence[Photo],
        pairs: Sequence[Example],
        callback_on_step_end: sampling.StepCallback | None,
    ) -> list[Prediction]:
        """Locate photos on the map; what examples say is a prior."""
        if not photos:
            return []
        heading = None if self.heading == "any" else float(self.heading)
        pixels = square_pixels(photos, SIZE)
        predictions = [self.map_zoom.locate(photo, heading_deg=heading) for photo in pixels]
        if pairs:
            priors = self._without_map.locate(
                photos, pairs, callback_on_step_end=callback_on_step_end
            )
            predictions = [one.given(prior) for one, prior in zip(predictions, priors, strict=True)]
        return self._drawer.with_domain(self._drawer.with_points(predictions), pixels)

    def locate_chosen(
        self,
        photos: Sequence[Photo],
        bank: Sequence[Example],
        chosen: Int[Tensor, "photos shots"],
        *,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        """Locate photos, each given examples of its own: those of these numbers in the bank.

        Where pairs are kept alone (`pairwise`, and no sheets) what a batch of queries is shown is
        encoded once, however many of them see it. In `causal` the examples that most queries see
        stand first, and such a beginning is encoded once. Elsewhere each set of examples is. With
        `zoom=True` and no map each photo is then laid over what it was shown.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: another number of photos than of choices, or a number outside the bank.
        """
        drawer = replace(self._drawer, callback_on_step_end=callback_on_step_end)
        predictions = drawer.locate_chosen(photos, bank, chosen)
        if not self.zoom or self.zooms or not photos:
            return predictions
        start, pixels = time.perf_counter(), square_pixels(photos, SIZE)
        zoom_predictions = [
            zoom_on(photo, [bank[number] for number in row], prediction, self.loaded)
            for photo, row, prediction in zip(pixels, chosen.tolist(), predictions, strict=True)
        ]
        return add_seconds(self._drawer.with_points(zoom_predictions), time.perf_counter() - start)

    def locate_sequence(
        self,
        frames: Sequence[Photo],
        examples: Examples = None,
        *,
        speed_kmh: float | None,
        seconds: float | Sequence[float] | None = None,
    ) -> SequencePrediction:
        """Locate a video or an album: each photo given all others, and the whole.

        On a map each frame is zoomed; the answers have even cells of 100 km, and `levels`, heading
        and footprint are those of each frame alone.

        Args:
            frames: photos in the order in which they were taken.
            examples: as for `locate`.
            speed_kmh: speed limit of the camera along the ground, with room: one that goes straight
                ahead at exactly the limit is taken for slower. 0 means one place. None means
                an album from anywhere: each photo is located alone.
            seconds: the gap between frames, or the time of each; needed for any limit but 0.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong, no frame, frames out of order, a limit without times.
        """
        limit = math.inf if speed_kmh is None else speed_kmh
        times = frame_times(seconds, len(frames), limit)
        frame_predictions = self.locate(frames, examples)
        settings = self.loaded.settings
        prompt = frame_predictions[0].world or self.prompt or settings.default_prompt
        temperature = settings.temperature_in_sequence(prompt, len(frames))
        return in_sequence(
            frame_predictions, times, speed_kmh=limit, temperature=temperature, point=self.point
        )

    def explain(
        self, photo: Photo, examples: Examples = None, *, count: int = 30
    ) -> Evidence | None:
        """Return what alike parts say of a photo, and its `count` cells that match best.

        Examples are numbered as they are given. None without examples, and where parts are not
        compared: by the model, or with `matching=False`.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong.
        """
        pairs = self._bank_examples(examples)
        if not (pairs and self.matching):
            return None
        (numbers,) = self._chooser.choose([photo], pairs)
        context = self.context([pairs[number] for number in numbers.tolist()])
        evidence = self.loaded.explain(context, self._drawer.pixels([photo])[0], count=count)
        return evidence and replace(evidence, example=numbers[evidence.example])

    def worlds(self, examples: Examples = None) -> dict[str, float]:
        """Return how likely each world is that the model knows by a prompt; less than 1 % is none.

        Examples decide: each world is judged by how well the model, told of it, places up to 32 of
        them from none. The option `prompt` overrides; without examples it is the default.

        Raises:
            PhotoError: an example cannot be read.
        """
        return self._drawer.judge(self._bank_examples(examples))
