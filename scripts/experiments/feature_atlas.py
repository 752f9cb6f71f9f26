"""Take the activations of a model apart into features, and write an atlas of where they are.

A sparse autoencoder is trained on each block of the model, and on controls: the same block with
every weight matrix shuffled (untrained), and the colours and statistics of the photos alone.
Features that are concentrated there need no knowledge of places.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgeo import config
from icgeo.options import ModelOptions, fields_of


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Survey the features of blocks, on views of a world; activations are kept in the run folder."""

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
    """Features of the most concentrated to add to activations of 32 photos; 0 leaves it out."""
    seed: int = 0
    """Seed of the views."""
    name: str = "feature-atlas"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Survey each space; print and write a table as Markdown, and a page for each."""
    import icgeo
    from icgeo.evaluation import world_episode
    from icgeo.latents.activations import activations
    from icgeo.latents.feature_survey import survey_features
    from icgeo.models.blocks import blocks_of

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = icgeo.load(**fields_of(ModelOptions, options))
    blocks = options.blocks or tuple(range(len(blocks_of(model.backbone.transformer))))
    sets = {
        name: world_episode(options.world, number, queries=count, shots=0, seed=options.seed)
        for number, (name, count) in enumerate(
            {"training": options.photos, "judged": options.judged}.items()
        )
    }
    places = [query.lat_lon for query in sets["judged"].queries]
    photos = [query.photo for query in sets["judged"].queries]

    def store(kind: str, of: Any, chosen: Sequence[int]) -> list[Any]:
        how: dict[str, Any] = {"times": (options.time,), "tokens": options.tokens}
        how |= {"prompt": options.prompt, "blocks": chosen}
        return [
            activations(of, one.queries, folder=folder / "activations" / f"{kind}-{name}", **how)
            for name, one in sets.items()
        ]

    def spaces() -> Iterator[tuple[str, Any, Any]]:
        """Give the name, the training and the judged rows of each space."""
        stores = store("trained", model, blocks)
        for block in blocks:
            yield f"block {block}", *(one.read(block) for one in stores)
        middle = blocks[len(blocks) // 2]
        stores = store("untrained", shuffled_weights(model), (middle,))
        yield f"block {middle}, untrained", *(one.read(middle) for one in stores)
        yield from of_pictures([[query.photo for query in one.queries] for one in sets.values()])

    rows: list[dict[str, Any]] = []
    how: dict[str, Any] = fields_of(Options, options)
    how = {name: how[name] for name in ("features", "top_k", "passes", "seeds", "permutations")}
    for name, training, judged in spaces():
        survey = survey_features(
            lambda rows=training: rows.split(options.batch),  # type: ignore[misc]
            lambda rows=judged: rows.split(1024),  # type: ignore[misc]
            places,
            **how,
        )
        rows.append({"space": name, **survey.facts()})
        plain = name.replace(" ", "-").replace(",", "")
        survey.autoencoder.save(folder / f"{plain}.safetensors")
        write_page(folder / f"{plain}.html", options, name, survey, photos, places)
        print(f"{name}: {rows[-1]}", flush=True)
    (folder / "features.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    write_table(folder / "features.md", rows)


def shuffled_weights(model: Any) -> Any:
    """Load the model anew with the entries of each weight matrix in random order."""
    import copy

    import torch

    from icgeo.seeds import seeded_generator

    control = copy.deepcopy(model)
    for name, weight in control.backbone.transformer.named_parameters():
        if weight.ndim > 1:
            order = torch.randperm(weight.numel(), generator=seeded_generator("shuffle", name))
            weight.data = weight.data.flatten()[order].reshape(weight.shape)
    return control


def of_pictures(photos: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Describe photos by colours and by statistics, each channel in units of its spread."""
    from icgeo.latents.labels import CONTROLS

    for name, describe in CONTROLS.items():
        training, judged = map(describe, photos)
        mean, spread = training.mean(0), training.std(0).clamp_min(1e-6)
        yield name, (training - mean) / spread, (judged - mean) / spread


def write_page(
    path: Path, options: Options, name: str, survey: Any, photos: Sequence[Any], places: Any
) -> None:
    """Write the atlas of one space."""
    from icgeo.latents.concentration import feature_maps, suited_nside
    from icgeo.report.atlas import Atlas, write_atlas

    told = survey.facts()
    facts = {
        "Space": f"{options.model}, {name}, time {options.time:g}, mean over {options.tokens} tokens",
        "Views": f"{options.world}: {options.photos:,} to train on, these {len(photos):,} others",
        "Autoencoder": f"{told['features']} features, at most {told['top_k']} in a photo",
        "Unexplained": f"{told['fvu']:.1%} of the variance, by {told['l0']:.1f} features a photo",
        "Dead": f"{told['dead']} features",
        "Stability": f"{told['stability']:.2f}, mean cosine of matched features of two seeds",
        "Concentrated": f"{told['concentrated']} of {told['tested']} features tested; "
        f"{told['concentrated_at_shuffled_places']} where places are shuffled",
    }
    maps = feature_maps(survey.codes, places, nside=2 * suited_nside(len(photos)))
    atlas = Atlas(
        f"Features of {options.model}, {name}",
        facts,
        survey.codes,
        maps,
        survey.concentration,
        survey.enrichment,
        photos,
        places,
    )
    write_atlas(atlas, path)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write and print the figures of all spaces as a table."""
    head = ("space", "FVU", "L0", "dead", "stability", "concentrated", "at shuffled places")
    head += ("median Moran's I", "by chance")
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
