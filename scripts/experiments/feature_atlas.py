"""Take the activations of a model apart into features, and write an atlas of where they are.

A sparse autoencoder is trained on each block of the model, and on controls: the middle block with
the weights with which training would begin, and the colours and statistics of the photos alone.
Features that are concentrated there need no knowledge of places.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from icgeo import config
from icgeo.options import ModelOptions, fields_of

HOW = ("features", "top_k", "passes", "seeds", "permutations")


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Survey the features of blocks on views of a world; activations stay in the run folder."""

    world: str = "blue-marble"
    """The world of the views, by name, or the path of a picture."""
    photos: int = 2048
    """Views to train autoencoders on."""
    judged: int = 1536
    """Other views to judge them on, and to look at."""
    blocks: tuple[int, ...] = ()
    """Blocks to survey; all by default."""
    time: float = 1.0
    """When: 1 is noise."""
    tokens: str = "map"
    """Whose activations, as in `icgeo.models.blocks.Taps`; their mean over the tokens is taken."""
    prompt: str = "earth"
    """What the model is told of the world."""
    features: int = 256
    """Features of an autoencoder."""
    top_k: int = 16
    """Features that explain a photo, at most."""
    passes: int = 40
    """Over the views in training."""
    seeds: int = 2
    """Autoencoders for each space; stability is measured between them."""
    permutations: int = 499
    """Of places, for the tests."""
    batch: int = 64
    """Photos in a step of training."""
    steered: int = 8
    """Most concentrated features of each block to add to activations; 0 leaves it out."""
    steered_photos: int = 32
    """Photos whose maps are looked at then."""
    strength: float = 1.0
    """How much of a feature is added, in units of its mean code where there is most of it."""
    seed: int = 0
    """Seed of the views."""
    name: str = "feature-atlas"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Survey each space; print and write a table as Markdown, and a page for each."""
    import icgeo
    from icgeo.evaluation import world_episode
    from icgeo.latents.feature_survey import survey_features
    from icgeo.report.atlas import write_survey

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = icgeo.load(**fields_of(ModelOptions, options))
    take: Any = partial(world_episode, options.world, shots=0, seed=options.seed)
    training = take(0, queries=options.photos).queries
    judged = take(1, queries=options.judged).queries
    photos, places = zip(*((query.photo, query.lat_lon) for query in judged), strict=True)
    how = {name: getattr(options, name) for name in HOW}
    rows: list[dict[str, Any]] = []
    for name, block, *streams in spaces(options, model, folder, training, judged):
        survey = survey_features(streams[0], streams[1], places, **how)
        rows.append({"space": name, **survey.facts()})
        plain = name.replace(" ", "-").replace(",", "")
        survey.autoencoder.save(folder / f"{plain}.safetensors")
        facts = {
            "Space": name if block is None else f"{name}, time {options.time:g}",
            "Views": f"{options.world}: {options.photos:,} to train on, these {len(photos):,}",
        }
        page: Any = {"title": f"Features of {options.model}: {name}", "facts": facts}
        write_survey(folder / f"{plain}.html", survey, photos=photos, lat_lon=places, **page)
        if options.steered and block is not None:
            rows[-1] |= steering(options, model, survey, block, photos, places)
        print(f"{name}: {rows[-1]}", flush=True)
    (folder / "features.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    write_table(folder / "features.md", rows)


def spaces(
    options: Options, model: Any, folder: Path, *sets: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Give the name of each space, its block if it is the model's, streams to train and judge."""
    from icgeo.latents.activations import activations
    from icgeo.latents.controls import untrain
    from icgeo.models.blocks import blocks_of

    blocks = options.blocks or tuple(range(len(blocks_of(model.backbone.transformer))))
    middle = blocks[len(blocks) // 2]
    how: dict[str, Any] = {"times": (options.time,), "tokens": options.tokens}
    control = copy.deepcopy(model)
    # weights of its own that make tokens of photos are learned, too
    codec: Any = getattr(control.backbone, "codec", None)
    is_own = model.settings.layout == "stacked"
    untrain([control.backbone.transformer, *([codec] if is_own else [])])
    for kind, of, chosen in (("trained", model, blocks), ("untrained", control, (middle,))):
        stores: list[Any] = []
        for number, queries in enumerate(sets):
            where = folder / "activations" / f"{kind}-{number}"
            told: Any = {"prompt": options.prompt, "blocks": chosen, "folder": where}
            stores.append(activations(of, queries, **told, **how))
        for block in chosen:
            name = f"block {block}" if of is model else f"block {block}, untrained"
            streams = (partial(one.batches, block, size=options.batch) for one in stores)
            yield name, block if of is model else None, *streams
    for name, *rows in of_pictures([[query.photo for query in queries] for queries in sets]):
        yield name, None, *(partial(some.split, options.batch) for some in rows)


def steering(
    options: Options, model: Any, survey: Any, block: int, photos: Sequence[Any], places: Any
) -> dict[str, Any]:
    """Add the most concentrated features of a block to activations, and compare."""
    import torch

    from icgeo.data.pixels import square_pixels
    from icgeo.latents import feature_steering as steer

    table = survey.concentration[survey.concentration.is_concentrated]
    chosen = table.sort_values("moran", ascending=False).index[: options.steered].tolist()
    if not chosen:
        return {}
    goals = {number: steer.Goal.of(survey.codes, places, number) for number in chosen}
    generator = torch.Generator().manual_seed(options.seed)
    rows = steer.steer_features(
        model,
        model.encode_context([], torch.empty(0, 2)),
        square_pixels(photos[: options.steered_photos], model.photo_size),
        autoencoder=survey.autoencoder,
        goals=goals,
        edit=(block, options.time, options.strength),
        prompt=options.prompt,
    )
    means = rows.groupby("change")[["moved_km", "nearer_km", "nll_goal"]].mean()
    print(means.to_string())
    told: dict[str, Any] = {"steering": means.to_dict("index")}
    for column in ("nearer_km", "nll_goal"):
        for against in (steer.RANDOM, steer.OTHER):
            interval = steer.compare_steering(rows, column, against=against, generator=generator)
            ends = (interval.estimate, interval.low, interval.high)
            told[f"{column}, {steer.ADDED} less {against}"] = ends
    return told


def of_pictures(photos: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Describe photos by colours and by statistics, each channel in units of its spread."""
    from icgeo.latents.controls import colours, image_statistics

    for name, describe in {"colours alone": colours, "image statistics": image_statistics}.items():
        training, judged = map(describe, photos)
        mean, spread = training.mean(0), training.std(0).clamp_min(1e-6)
        yield name, (training - mean) / spread, (judged - mean) / spread


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write and print the figures of all spaces as a table."""
    head = ["space", "FVU", "L0", "dead", "stability", "concentrated", "at shuffled places"]
    head += ["median Moran's I", "by chance"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = (
            row["space"],
            f"{row['fvu']:.3f}",
            f"{row['l0']:.1f}",
            f"{row['dead']} of {row['features']}",
            f"{row['stability']:.2f}",
            f"{row['concentrated']} of {row['tested']}",
            str(row["concentrated_at_shuffled_places"]),
            f"{row['median_moran']:.2f}",
            f"{row['median_moran_by_chance']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    config.run(main, Options)
