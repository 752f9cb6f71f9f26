"""Find out what latent spaces know of the world: where, in which form, and what it causes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import icgeo
from icgeo import config

if TYPE_CHECKING:
    from torch import Tensor

    from icgeo.evaluation import Episode, Query
    from icgeo.features import FrozenFeatures
    from icgeo.latents import ActivationStore, FeatureSurvey
    from icgeo.models import MapModel

Part = tuple[Any, ...]
"""The fields of a section of the page: title, text, tables, figures and further pages."""


@dataclass(frozen=True)
class Options:
    """Probe a model that draws maps and a frozen encoder, on the Earth and on unseen worlds."""

    model: str = "tiny"
    """The model that draws maps: tiny, a folder, or a hub id."""
    encoder: str = "efficientnet-lite0"
    """A frozen encoder with layers beside it, as `icgeo.features.open` takes it."""
    photos: Path = Path(__file__).parents[1] / "assets" / "photos" / "photos.csv"
    """Photos from the ground and their locations (CSV, Parquet or a folder)."""
    count: int = 600
    """Views of the Earth."""
    blocks: tuple[int, ...] = ()
    """Blocks of the model whose activations are kept; all by default."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times at which they are kept, of which 1, noise, is one."""
    pool: Literal["none", "mean"] = "none"
    """Keep each token of the map, or their mean; steering needs each, at time 1 alone."""
    shard_size: int = 1024
    """Views in a file of activations, which memory holds."""
    batch_size: int = 64
    """Views in a pass; what blocks give on at one time is in memory before it is pooled."""
    worlds: int = 12
    """Worlds of kinds that no training has seen; a probe is fitted on all but one."""
    views: int = 60
    """Views of each of them."""
    shots: int = 16
    """Examples that are shown with them."""
    zoomed: int = 96
    """Views that are zoomed in on over Blue Marble; 0 leaves it out."""
    steered: int = 64
    """Views whose activations are changed."""
    aligned: int = 300
    """Views over which spaces are compared."""
    permutations: int = 40
    """Of photos, for chance and intervals of alignment."""
    surveyed: tuple[int, int] = (3600, 1200)
    """Views to train sparse autoencoders on, and others to judge them on and to look at."""
    feature_blocks: tuple[int, ...] = ()
    """Those of `blocks` that they take apart; the last one by default."""
    features: int = 64
    """Features of an autoencoder."""
    top_k: int = 4
    """Features that explain a view, at most."""
    passes: int = 20
    """Over the views in training them."""
    seeds: int = 2
    """Autoencoders of each space; stability is measured between them."""
    device: str = "cpu"
    """Where models run."""
    parts: tuple[str, ...] = ()
    """Parts of the page to make anew: depth, controls, others, groups, worlds, steps, levels,
    alignment, taken_apart, steering, use, photos; all by default."""
    name: str = "latents"
    """Run folder under runs/; activations that are there are not computed again."""


@dataclass(frozen=True, eq=False)
class Study:
    """What all parts share."""

    options: Options
    folder: Path
    surveys: dict[str, Any] = field(default_factory=dict)
    """Of features, and the directions of some, by block."""

    @cached_property
    def model(self) -> "MapModel":
        """The model that draws maps."""
        return icgeo.load(self.options.model, device=self.options.device)

    @cached_property
    def encoder(self) -> "FrozenFeatures":
        """The encoder beside it."""
        return icgeo.features.open(self.options.encoder, device=self.options.device)

    @cached_property
    def earth(self) -> "Episode":
        """Views of the Earth."""
        return icgeo.evaluation.world_episode("blue-marble", queries=self.options.count, shots=0)

    @cached_property
    def store(self) -> "ActivationStore":
        """Activations of the model on the Earth: all blocks and times."""
        return self.keep("earth", self.model, self.earth.queries, times=self.options.times)

    @cached_property
    def layers(self) -> "ActivationStore":
        """Those of the encoder on the same views."""
        return self.keep("earth-encoder", self.encoder, self.earth.queries)

    @property
    def lat_lon(self) -> "Tensor":
        """Where the views were taken."""
        return self.store.lat_lon

    @property
    def last(self) -> "Tensor":
        """Activations of the last block at time 1."""
        return self.store.read(self.store.blocks[-1], 1.0)

    def keep(self, name: str, model: Any, photos: Any, **settings: Any) -> "ActivationStore":
        """Keep activations in the run folder; of a model by the options, of an encoder pooled."""
        of_model = {"pool": self.options.pool, "blocks": self.options.blocks or None}
        defaults: dict[str, Any] = (
            {} if isinstance(model, icgeo.features.FrozenFeatures) else of_model
        )
        sizes = {"shard_size": self.options.shard_size, "batch_size": self.options.batch_size}
        call: Any = icgeo.latents.activations.activations
        return call(model, photos, folder=self.folder / name, **sizes | defaults | settings)

    def table(self, name: str, rows: Any, caption: str) -> tuple[str, str]:
        """Write a table, or a dict of rows; return its caption and file."""
        from pandas import DataFrame

        frame = rows if isinstance(rows, DataFrame) else DataFrame(rows).T.fillna("")
        frame.to_csv(self.folder / f"{name}.csv")
        return caption, f"{name}.csv"

    def draw(self, name: str, figure: Any, caption: str) -> tuple[str, str, str]:
        """Write a figure; return caption, file and words."""
        figure.savefig(self.folder / f"{name}.png", dpi=130)
        return caption, f"{name}.png", f"Figure: {caption}"


def main(options: Options) -> None:
    """Run all parts, write tables, figures and the page to the run folder, print the tables."""
    import pandas as pd
    from tqdm import tqdm

    from icgeo import report
    from icgeo.report.latents import Section, read_sections, save_sections

    if unknown := [name for name in options.parts if name not in PARTS]:
        raise config.UsageError(f"expected parts of {', '.join(PARTS)}, got {unknown[0]!r}")
    folder = Path("runs") / options.name
    study = Study(options, folder)
    require_what_parts_need(study, options.parts or tuple(PARTS))
    config.save_run(folder, options, may_differ=("device", "parts"))
    for name in (bar := tqdm(options.parts or PARTS)):
        bar.set_description(name)
        new_sections = {name: Section(*PARTS[name](study))}
        sections = read_sections(folder) | new_sections  # another process may have made others
        save_sections(folder, {part: sections[part] for part in PARTS if part in sections})
    for section in read_sections(folder).values():
        print(f"\n## {section.title}\n\n{section.text}\n")
        for caption, file in section.tables:
            table = pd.read_csv(folder / file, dtype=str, keep_default_na=False)
            words = icgeo.evaluation.to_markdown(table.rename(columns={"Unnamed: 0": ""}))
            print(f"{caption}\n\n{words}\n")
    print(f"written to {report.write_latents_report(folder)}")


def require_what_parts_need(study: Study, parts: Sequence[str]) -> None:
    """Raise UsageError before hours of other parts, where one of them could not be made."""
    from icgeo.models.blocks import blocks_of

    options = study.options
    for part, name in (("levels", "zoomed"), ("steering", "steered")):
        if part in parts and options.count <= (count := getattr(options, name)):
            raise config.UsageError(
                f"expected a --count above --{name}, {count}, for the other views are what the "
                f"part {part!r} is fitted on, got {options.count}"
            )
    if "taken_apart" in parts and options.feature_blocks:
        blocks = options.blocks or range(len(blocks_of(study.model.backbone.transformer)))
        if unknown := set(options.feature_blocks) - set(blocks):
            raise config.UsageError(
                f"expected --feature_blocks of the blocks {[*blocks]}, got {min(unknown)}"
            )


def kilometres(median: Any) -> str:
    """Write an error and its interval."""
    return f"{median.estimate:,.0f} ({median.low:,.0f} to {median.high:,.0f})"


def difference(row: Any, column: str, form: str) -> str:
    """Write a paired difference with its interval; nothing for controls."""
    values = [getattr(row, f"{column}_{part}", float("nan")) for part in ("more", "low", "high")]
    first, low, high = (format(value, form) for value in values)
    return "" if any(value != value for value in values) else f"{first} ({low} to {high})"


def probe_row(x: "Tensor", lat_lon: "Tensor", **options: Any) -> dict[str, str]:
    """Probe with blocked and random folds."""
    blocked_probe, random_probe = (
        icgeo.latents.probe_places(x, lat_lon, split=split, **options)
        for split in ("blocked", "random")
    )
    return {
        "median km, blocked folds": kilometres(blocked_probe.median_km),
        "random folds": f"{random_probe.median_km.estimate:,.0f}",
        "R2": f"{blocked_probe.r2:.2f}",
        "Spearman of distances": f"{blocked_probe.spearman:.2f}",
    }


def depth(study: Study) -> Part:
    """Probe each block at each time, and each layer of the encoder."""
    from pandas import DataFrame

    figures, tables, store = [], [], study.store
    pools = ("mean over tokens", "token by token")[: 1 if study.options.pool == "mean" else 2]
    for pool in pools:
        cells: dict[float, dict[Any, float]] = {}
        for time in store.times:
            for block in store.blocks:
                x = store.read(block, time)
                x = x.mean(1) if pool[0] == "m" and x.ndim == 3 else x
                probe = icgeo.latents.probe_places(x, study.lat_lon)
                cells.setdefault(time, {})[block] = probe.median_km.estimate
        table = DataFrame(cells).rename_axis("block")
        name = f"depth-{pool.split()[0]}"
        caption = f"{study.options.model}, {pool}: median error in km, ridge probes, blocked folds"
        figure = icgeo.plots.plot_blocks_and_times(table, title=pool)
        figures.append(study.draw(name, figure, caption))
        tables.append(study.table(name, table.round(0).astype(int), caption))
    layers = study.layers
    rows = {
        f"{study.options.encoder} {layer}": probe_row(layers.read(layer), study.lat_lon)
        for layer in layers.blocks[:: max(1, len(layers.blocks) // 6)]
    }
    caption = "Layers of the encoder, mean over places of the photo"
    tables.append(study.table("layers", rows, caption))
    words = (
        f"{study.options.count} views of the Earth, no examples. A ridge probe reads unit vectors "
        "from activations; whole cells of some 1,600 km are left out. Below time 1 the model is "
        "given its own map as far as it is drawn, so that early blocks can read it there."
    )
    return "Where the Earth is known", words, tables, figures


def untrained(study: Study) -> "MapModel":
    """Load the model with the weights with which training would begin."""
    model: Any = icgeo.load(study.options.model, device=study.options.device)
    # weights of its own that make tokens of photos are learned, too
    codec = [model.backbone.codec] if model.settings.layout == "stacked" else []
    icgeo.latents.untrain([model.backbone.transformer, *codec])
    return model


def controls(study: Study) -> Part:
    """Compare the last block with another kind of probe and with what knows no places."""
    x, lat_lon, images = study.last, study.lat_lon, [q.photo for q in study.earth.queries]
    rows = {f"last block, {kind}": probe_row(x, lat_lon, kind=kind) for kind in ("ridge", "kernel")}
    rows["last block, shuffled places"] = probe_row(x, lat_lon, shuffled=True)
    store = study.keep("untrained", untrained(study), study.earth.queries)
    for block in (store.blocks[0], store.blocks[-1]):
        rows[f"untrained weights, block {block}"] = probe_row(store.read(block), lat_lon)
    encoder = icgeo.features.open(study.options.encoder, device=study.options.device)
    icgeo.latents.untrain(encoder.layers.values())
    layers = study.keep("untrained-encoder", encoder, study.earth.queries)
    rows["untrained encoder, last layer"] = probe_row(layers.read(layers.blocks[-1]), lat_lon)
    for name, describe in icgeo.latents.CONTROLS.items():
        rows[name] = probe_row(describe(images), lat_lon)
    caption = "The last block at time 1 against controls"
    words = "Kernel: Gaussian, by 300 Nyström features, with ridge regression behind."
    return "Controls", words, [study.table("controls", rows, caption)]


def others(study: Study) -> Part:
    """Probe for countries, climates, land cover, and the distance to the coast."""
    import numpy as np

    from icgeo.latents import labels

    lat_lon = study.lat_lon
    spaces = {
        f"{study.options.model}, last block": study.last,
        study.options.encoder: study.layers.read(study.layers.blocks[-1]),
        "colours alone": icgeo.latents.colours([query.photo for query in study.earth.queries]),
    }
    kinds: dict[str, Callable[..., list[str]]] = {
        "continent": labels.continents,
        "country": labels.countries,
        "climate, 6 groups": labels.climate_groups,
        "climate, Köppen-Geiger": labels.climates,
        "land cover": labels.land_covers,
    }
    rows: dict[str, dict[str, str]] = {}
    for name, label in kinds.items():
        classes = label(lat_lon)
        for space, x in spaces.items():
            cell = "too few views"
            if sum(classes.count(one) >= 10 for one in set(classes)) > 1:
                probe = icgeo.latents.probe_labels(x, classes, lat_lon)
                cell = f"{probe.balanced:.0%} of {probe.labels}, chance {1 / probe.labels:.0%}"
            rows.setdefault(space, {})[name] = cell
    # near the coast a kilometre counts for more
    coast = np.arcsinh(labels.coast_distance_km(lat_lon) / 100)
    for space, x in spaces.items():
        r2 = icgeo.latents.probe_numbers(x, coast, lat_lon)
        rows[space]["distance to coast, R2"] = f"{r2:.2f}"
    caption = "Balanced accuracy of ridge classifiers, random folds; labels of 10 views or more"
    words = (
        "Country and continent: of the nearest city; climate and land cover: of the place under "
        "the middle of the view; distance to coast: its inverse hyperbolic sine by 100 km."
    )
    return "What else", words, [study.table("labels", rows, caption)]


def groups(study: Study) -> Part:
    """Split the error of the last block by continent and by how easy a view is to locate."""
    import torch
    from pandas import concat

    from icgeo.latents import error_by_group, labels, probe_places, thirds

    lat_lon, error = study.lat_lon, probe_places(study.last, study.lat_lon).distance_km
    encoder_error = probe_places(study.layers.read(study.layers.blocks[-1]), lat_lon).distance_km
    names = ("hard for the encoder", "middling", "easy for the encoder")
    coast = torch.from_numpy(labels.coast_distance_km(lat_lon))
    parts = [
        error_by_group(error, labels.continents(lat_lon)),
        error_by_group(error, thirds(-encoder_error, names)),
        error_by_group(error, thirds(coast, ("at sea", "near the coast", "inland"))),
    ]
    table = concat(parts, ignore_index=True).set_index("group")
    table = table[table.photos >= 5].round(0).astype(int).rename(columns={"median_km": "median km"})
    caption = (
        "Median error in km of the last block's probe, blocked folds; groups of 5 views or more"
    )
    words = (
        "Easy and hard: thirds by the error of the encoder's probe, which no choice of the model's "
        "own probe has part in; sea and land: thirds by the distance to the coast."
    )
    tables = [study.table("groups", table, caption)]
    return "By continent and localizability", words, tables


def worlds(study: Study) -> Part:
    """Fit a probe on unseen worlds and try it on another, without and with examples."""
    import torch

    from icgeo.data.worlds import UNSEEN_FAMILIES
    from icgeo.options import UNKNOWN

    options, kinds = study.options, UNSEEN_FAMILIES
    take: Any = partial(icgeo.evaluation.world_episode, queries=options.views, shots=options.shots)
    episodes = [take(kinds[number % len(kinds)], number) for number in range(options.worlds)]
    places = torch.cat([torch.tensor([query.lat_lon for query in one.queries]) for one in episodes])
    names = [one.id for one in episodes for _ in one.queries]
    rows: dict[str, dict[str, str]] = {}
    settings = {"prompt": UNKNOWN if UNKNOWN in study.model.settings.prompts else None}
    for shots in (0, options.shots):
        stores = [
            study.keep(
                f"{one.id}-{shots}",
                study.model,
                one.queries,
                examples=one.examples[:shots],
                **settings,
            )
            for one in episodes
        ]
        for block in study.store.blocks:
            x = torch.cat([store.read(block) for store in stores])
            probe = icgeo.latents.probe_places(x, places, groups=names)
            row = rows.setdefault(f"block {block}", {})
            row[f"{shots} examples: median km"] = kilometres(probe.median_km)
            row["R2" if not shots else "R2 with examples"] = f"{probe.r2:.2f}"
        earth = icgeo.latents.probe_places(
            torch.cat((study.last, x)),
            torch.cat((study.lat_lon, places)),
            groups=["earth"] * len(study.lat_lon) + ["worlds"] * len(places),
        )
        errors = earth.distance_km[len(study.lat_lon) :]
        row = rows.setdefault("last block, probe of the Earth", {})
        row[f"{shots} examples: median km"] = f"{errors.median():,.0f}"
    caption = f"{options.worlds} worlds of unseen kinds, each by a probe of the others; time 1"
    words = (
        "A guess at random is 10,008 km off. The last row is a probe that was fitted on the Earth "
        "(without examples) and tried on these worlds."
    )
    tables = [study.table("worlds", rows, caption)]
    return "Unseen worlds: without and with examples", words, tables


def steps(study: Study) -> Part:
    """Tell continent, country and place at each step of drawing."""
    from pandas import DataFrame

    from icgeo.latents import labels, probe_labels, probe_places

    store, lat_lon, rows = study.store, study.lat_lon, []
    lines: dict[str, dict[str, str]] = {}
    kinds = {"continent": labels.continents(lat_lon), "country": labels.countries(lat_lon)}
    for time in store.times:
        for block in (store.blocks[len(store.blocks) // 2], store.blocks[-1]):
            x, name = store.read(block, time), f"block {block}"
            line = lines.setdefault(f"time {time:g}, {name}", {})
            for label, classes in kinds.items():
                result = probe_labels(x, classes, lat_lon)
                values = {
                    "step": f"{time:g}",
                    "label": f"{label}, {name}",
                    "score": result.balanced,
                }
                rows.append({**values, "chance": 1 / result.labels})
                line[f"{label}, balanced accuracy"] = f"{result.balanced:.0%}"
            probe = probe_places(x, lat_lon)
            near_share = (probe.distance_km <= NEAR_KM).double().mean().item()
            label = f"within {NEAR_KM} km, {name}"
            rows.append({"step": f"{time:g}", "label": label, "score": near_share})
            line["place, median km"] = kilometres(probe.median_km)
            line[f"within {NEAR_KM} km"] = f"{near_share:.0%}"
    caption = "What can be told at each step"
    curves = icgeo.plots.plot_steps(DataFrame(rows), xlabel="time of the step (1 is noise)")
    words = (
        "The model draws its map from noise, time 1, down. At time 1 it has seen the photo alone; "
        "later it is also given its own map so far. Labels by random folds, places by blocked ones."
    )
    tables = [study.table("steps", lines, caption)]
    figures = [study.draw("steps", curves, caption)]
    return "Over the steps of drawing", words, tables, figures


NEAR_KM = 750
"""An error that counts as the right place: a quarter of a view."""


def levels(study: Study) -> Part:
    """Tell continent, country and place at each level of a zoom, beside the steps of drawing."""
    from pandas import DataFrame

    from icgeo.latents import labels
    from icgeo.sphere import distance_km

    title, count = "Over the levels of a zoom", study.options.zoomed
    if not count:
        return title, "Left out: --zoomed 0."
    truth, rows, lines = study.lat_lon[:count], [], {}
    kinds = {"continent": labels.continents, "country": labels.countries}
    for name, lat_lon in places_by_level(study).items():
        km = distance_km(lat_lon.double(), truth)
        scores = {f"within {NEAR_KM} km": (km <= NEAR_KM).double().mean().item()}
        for label, classify in kinds.items():
            hits = sum(map(str.__eq__, classify(lat_lon), classify(truth)))
            scores[label] = hits / count
        rows += [{"step": name, "label": label, "score": score} for label, score in scores.items()]
        lines[name] = {"median km": kilometres(icgeo.latents.median_km(km))}
        lines[name] |= {label: f"{score:.0%}" for label, score in scores.items()}
    caption = f"Share of {count} views whose continent, country and place are right"
    words = (
        "Times: the place that the last block's probe reads at that step, blocked folds. Levels of "
        "icgeo.predict(photo, map=...): the place that a probe of other photos reads from the "
        "likeliest view of the map at that level, and the one that the level's density names; a "
        "photo whose zoom ends earlier keeps its last level. "
        "Continent and country are those of the city nearest to the place."
    )
    tables = [study.table("levels", lines, caption)]
    figures = [study.draw("levels", icgeo.plots.plot_steps(DataFrame(rows)), caption)]
    return title, words, tables, figures


def places_by_level(study: Study) -> dict[str, "Tensor"]:
    """Read the places of views at each step of drawing, and at each level of a zoom on a map.

    Levels are those of the longest chain; a shorter one keeps its last.
    """
    import torch

    from icgeo.latents import probe_places

    count, store, lat_lon = study.options.zoomed, study.store, study.lat_lon
    places = {
        f"time {time:g}": probe_places(store.read(store.blocks[-1], time), lat_lon).lat_lon[:count]
        for time in store.times
    }
    images = [query.photo for query in study.earth.queries[:count]]
    chains = icgeo.predict(images, map="blue-marble")
    names = ["others"] * (len(lat_lon) - count) + ["level"] * count
    everywhere = torch.cat((lat_lon[count:], lat_lon[:count]))
    longest_chain = max(chains, key=lambda one: len(one.levels)).levels
    for number, level in enumerate(longest_chain):
        chain_levels = [one.levels[min(number, len(one.levels) - 1)] for one in chains]
        views = [one.views[0].movedim(0, -1).numpy() for one in chain_levels]
        rows = study.keep(f"level-{level.name}", study.model, views).read(store.blocks[-1])
        probe = probe_places(torch.cat((study.last[count:], rows)), everywhere, groups=names)
        places[f"{level.name}: its view"] = probe.lat_lon[-count:]
        places[f"{level.name}: its density"] = torch.stack(
            [one.density.best_point() for one in chain_levels]
        )
    return places


def alignment(study: Study) -> Part:
    """Compare blocks, layers, controls and the globe with each other."""
    from pandas import DataFrame

    from icgeo.latents import CONTROLS, MEASURES, Space, align

    count, store, layers = study.options.aligned, study.store, study.layers
    queries = [query.photo for query in study.earth.queries[:count]]
    spaces = {"globe": Space.globe(study.lat_lon[:count])}
    for block in store.blocks[:: max(1, len(store.blocks) // 3)]:
        spaces[f"block {block}"] = Space.of(store.read(block, 1.0)[:count])
    spaces["last block"] = Space.of(study.last[:count])
    for layer in (layers.blocks[len(layers.blocks) // 2], layers.blocks[-1]):
        spaces[f"encoder {layer}"] = Space.of(layers.read(layer)[:count])
    for name in ("colours alone", "image statistics"):
        spaces[name] = Space.of(CONTROLS[name](queries))
    run = partial(align, permutations=study.options.permutations)
    names, tables, figures = list(spaces), [], []
    for measure in MEASURES:
        cells = DataFrame(1.0, index=names, columns=names)
        words = cells.astype(str)
        for row, first in enumerate(names):
            for second in names[row + 1 :]:
                score = run(spaces[first], spaces[second], measure)
                cells.loc[first, second] = cells.loc[second, first] = score.value
                words.loc[first, second] = (
                    f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f}), p {score.p:.2f}"
                )
                words.loc[second, first] = f"chance {score.chance:.2f}"
        file = f"alignment-{measure.replace(' ', '-')}"
        figures.append(study.draw(file, icgeo.plots.plot_alignment(cells, title=measure), measure))
        caption = f"{measure}: value, interval and p above, chance of permuted photos below"
        tables.append(study.table(file, words, caption))
    text = f"{count} views of the Earth; {study.options.permutations} permutations and halves."
    return "Alignment with the globe and each other", text, tables, figures


def spaces(study: Study, *sets: "Sequence[Query]") -> Iterator[tuple[str, Any, list["Tensor"]]]:
    """Give the name of each space to take apart, its block, and rows to train on and to judge.

    Rows of a model's block to judge are token by token, for steering.
    """
    from icgeo.latents import CONTROLS

    all_blocks: list[Any] = [*study.options.feature_blocks] or [study.store.blocks[-1]]
    for kind, model, blocks in (
        ("features", study.model, all_blocks),
        ("features-untrained", untrained(study), all_blocks[len(all_blocks) // 2 :][:1]),
    ):
        stores = [
            study.keep(f"{kind}-{number}", model, queries, blocks=blocks, pool=pool)
            for number, (queries, pool) in enumerate(zip(sets, ("mean", "none"), strict=True))
        ]
        for block in blocks:
            name = f"block {block}" if model is study.model else f"block {block}, untrained"
            is_own = block if model is study.model else None
            yield name, is_own, [store.read(block) for store in stores]
    for name in ("colours alone", "image statistics"):
        rows = [CONTROLS[name]([query.photo for query in queries]) for queries in sets]
        spread = rows[0].std(0).clamp_min(1e-6)
        yield name, None, [(x - rows[0].mean(0)) / spread for x in rows]


def taken_apart(study: Study) -> Part:
    """Take blocks apart into sparse features, write atlases of where they are, and add some."""
    from importlib.util import find_spec

    from icgeo.report.atlas import write_survey

    title, options = "Taken apart: sparse features", study.options
    if find_spec("overcomplete") is None:
        return title, "Left out: it needs pip install --no-deps overcomplete."
    sets = [
        icgeo.evaluation.world_episode("blue-marble", number, queries=count, shots=0).queries
        for number, count in enumerate(options.surveyed, 1)
    ]
    photos, places = zip(*((query.photo, query.lat_lon) for query in sets[1]), strict=True)
    views = {"Views": "of the Earth: {:,} to train on, these {:,} others".format(*options.surveyed)}
    names = ("features", "top_k", "passes", "seeds")
    arguments: dict[str, Any] = {name: getattr(options, name) for name in names}
    lines, pages, effects = {}, [], dict[str, dict[str, str]]()
    for name, block, (training, judged) in spaces(study, *sets):
        pooled = judged.mean(1) if judged.ndim == 3 else judged
        arguments |= {"training": partial(training.split, 64), "judged": partial(pooled.split, 64)}
        survey = icgeo.latents.survey_features(lat_lon=places, permutations=199, **arguments)
        slug = name.replace(" ", "-").replace(",", "")
        survey.autoencoder.save(study.folder / f"features-{slug}.safetensors")
        page: Any = {"title": f"Features of {options.model}: {name}", "facts": views}
        pages.append((f"Atlas of the features of {name}", f"atlas-{slug}.html"))
        path = study.folder / pages[-1][1]
        write_survey(path, survey, photos=photos, lat_lon=places, **page)
        lines[name] = {column: form.format(**survey.facts()) for column, form in FIGURES.items()}
        if block is not None:
            study.surveys[name] = block, survey, places
            effects |= follow_features(study, block, survey, judged, sets[1])
    caption = f"{options.features} features, at most {options.top_k} in a view; other views"
    heading = f"Maps when one of the {FOLLOWED} most concentrated features is added, or taken away"
    tables = [study.table("features", lines, caption)]
    tables.append(study.table("feature-steering", effects, heading))
    words = (
        "Concentrated: neighbouring cells are more alike than by chance (Moran's I, rate of false "
        "discovery 5 %). Neighbouring views overlap, so that features of colours are, too.\n\n"
        "Added: to other views; taken away: from the views with most of it. Differences are from a "
        "random direction of the same norm, but for the mean of its photos against that of another "
        "feature's; intervals hold 95 %, over features. Nearer, in km, to the feature's place; NLL "
        "of that place."
    )
    return title, words, tables, [], pages


FIGURES = {
    "variance unexplained": "{fvu:.1%}",
    "features in a view": "{l0:.1f}",
    "dead": "{dead} of {features}",
    "stability": "{stability:.2f}",
    "concentrated": "{concentrated} of {tested}",
    "where places are shuffled": "{concentrated_at_shuffled_places}",
    "median Moran's I": "{median_moran:.2f}",
}
"""What is said of a space, from the facts of its survey."""
FOLLOWED, FOLLOWED_VIEWS = 8, 8
"""Features that are added, and views whose maps are looked at then."""


def follow_features(
    study: Study, block: int, survey: "FeatureSurvey", x: "Tensor", queries: "Sequence[Query]"
) -> dict[str, dict[str, str]]:
    """Add the most concentrated features of a block to views, and take them from their own."""
    import torch
    from pandas import concat

    from icgeo.data.pixels import square_pixels
    from icgeo.latents import FeatureDirection, compare_changes, steer, top_photos
    from icgeo.latents.feature_steering import ITS_PHOTOS, OTHER_PHOTOS

    table = survey.concentration[survey.concentration.is_concentrated]
    features = table.sort_values("moran", ascending=False).index[:FOLLOWED].tolist()
    data: Any = {"codes": survey.codes, "x": x, "lat_lon": [one.lat_lon for one in queries]}
    directions = [FeatureDirection.of(survey.autoencoder, one, **data) for one in features]
    model, lines, minimum = study.model, {}, 2
    if len(features) < minimum:
        return {}
    context = model.encode_context([], torch.empty(0, 2))
    for verb, strength in (("added", 1.0), ("taken away", -1.0)):
        rows = []
        for number, (feature, direction) in enumerate(zip(features, directions, strict=True)):
            top_queries = [queries[n] for n in top_photos(survey.codes, feature, FOLLOWED_VIEWS)]
            views = top_queries if strength < 0 else study.earth.queries[:FOLLOWED_VIEWS]
            effects = steer(
                model,
                context,
                square_pixels([query.photo for query in views], model.photo_size),
                torch.tensor([query.lat_lon for query in views]),
                directions=(direction, directions[number - 1]),
                edit=(block, 1.0, strength),
                prompt=model.settings.default_prompt,
            )
            rows.append(effects.assign(feature=feature))
        every = concat(rows, ignore_index=True)
        for against in (None, {ITS_PHOTOS: OTHER_PHOTOS}):
            for row in compare_changes(every, unit="feature", against=against).itertuples():
                if against and row.change not in against:
                    continue
                name = f"block {block}, {verb}: {row.change}" + (
                    ", against another's" * bool(against)
                )
                lines[name] = {
                    "legible": f"{row.legible:.0%}",
                    "moved km": f"{row.moved_km:,.0f}",
                    "nearer km": f"{row.nearer_km:,.0f}",
                    "nearer than control by km": difference(row, "nearer_km", ",.0f"),
                    "NLL": f"{row.nll_goal:.2f}",
                    "NLL less that of the control": difference(row, "nll_goal", ".2f"),
                }
    return lines


def steering(study: Study) -> Part:
    """Change activations, and see how maps move."""
    import torch
    from pandas import DataFrame, concat

    from icgeo.data.pixels import square_pixels
    from icgeo.latents import PlaceDirections, compare_changes, steer

    options, model = study.options, study.model
    store = study.keep("steered", model, study.earth.queries, pool="none", same_noise=True)
    count, prompt = options.steered, model.settings.default_prompt
    pixels = square_pixels([q.photo for q in study.earth.queries[:count]], model.photo_size)
    context, all_rows, lines = model.encode_context([], torch.empty(0, 2)), [], []
    for block in store.blocks:
        directions = PlaceDirections.fit(store.read(block)[count:], store.lat_lon[count:])
        arguments: dict[str, Any] = {
            "directions": directions,
            "edit": (block, 1.0, 1.0),
            "prompt": prompt,
        }
        rows = steer(model, context, pixels, store.lat_lon[:count], **arguments)
        all_rows.append(rows.assign(block=block))
        lines.append(compare_changes(rows).assign(block=block))
    concat(all_rows).to_csv(study.folder / "steering-rows.csv", index=False)
    comparison = concat(lines, ignore_index=True)
    table = DataFrame(
        {
            "block": comparison.block,
            "legible": comparison.legible.map("{:.0%}".format),
            "moved km": comparison.moved_km.map("{:,.0f}".format),
            "nearer km": comparison.nearer_km.map("{:,.0f}".format),
            "cosine": comparison.cosine.map("{:.2f}".format),
            "NLL of the partner's place": comparison.nll_goal.map("{:.2f}".format),
            "NLL of the own place": comparison.nll_truth.map("{:.2f}".format),
            "nearer than control by km": [
                difference(row, "nearer_km", ",.0f") for row in comparison.itertuples()
            ],
            "NLL of the partner's place less": [
                difference(row, "nll_goal", ".2f") for row in comparison.itertuples()
            ],
            "control": comparison.against.fillna(""),
        }
    ).set_index(comparison.change)
    caption = "Changes of activations at time 1, towards the place of another view, by block"
    figures = []
    middle = len(store.blocks) // 2
    for change in ("probe pattern", "difference of two other photos", "all exchanged"):
        figure = icgeo.plots.plot_moves(all_rows[middle], change)
        words = (
            f"block {middle}, {change}: arrows from the map before to the map after; rings: goals"
        )
        figures.append(study.draw(f"moves-{change.replace(' ', '-')}", figure, words))
    text = (
        f"{count} views; directions are fitted on the others. Each view is moved towards the place "
        "that the map of its partner shows. Controls have the same norm, photo by photo; intervals "
        "hold 95 %, of pairs. Illegible maps have no place and are left out of km; their NLL is "
        "2.53, which says nothing."
    )
    return "Causes: steering", text, [study.table("steering", table, caption)], figures


@dataclass(frozen=True)
class NearOnFeatureMaps:
    """Chooses examples that lie where the features of a photo are, by their maps of the world."""

    study: Study
    name: str

    def choose(self, bank: Any, photos: Any, shots: int) -> "Tensor":
        """Choose those whose cells have most of the maps of a photo's features, by its codes."""
        import torch

        from icgeo.latents import feature_maps, suited_nside
        from icgeo.sphere.healpix import cell_of

        block, survey, places = self.study.surveys[self.name]
        x = self.study.keep(
            f"asked-{block}", self.study.model, photos, blocks=(block,), pool="mean"
        )
        maps = feature_maps(survey.codes, places, nside=suited_nside(len(places)))
        shares = maps.means / maps.means.sum(0, keepdims=True).clip(1e-12)
        by_cell = torch.zeros(12 * maps.nside**2, shares.shape[1])
        by_cell[torch.from_numpy(maps.cells)] = torch.from_numpy(shares).float()
        of_bank = by_cell[cell_of(bank.lat_lon, maps.nside)]
        return (survey.autoencoder.encode(x.read(block)) @ of_bank.T).topk(shots).indices


def use(study: Study) -> Part:
    """Retrieve by blocks at times, against other features, and show the nearest to the model."""
    from icgeo.baselines.retrieval import KernelRetrieval, Retrieval
    from icgeo.data.worlds import UNSEEN_FAMILIES
    from icgeo.selection import Bank, Nearest, Random, Selecting

    blocks = dict.fromkeys([*study.store.blocks[::2], study.store.blocks[-1]])
    names = [f"{study.options.model}:{block}@1.0" for block in blocks]
    tables, can_choose = [], study.model.can_choose
    for world in ("blue-marble", UNSEEN_FAMILIES[0]):
        episode = icgeo.evaluation.world_episode(world, queries=48, shots=256, seed=7)
        locator = icgeo.Geolocator(study.model, prompt=episode.prompt, matching=False)
        ways: dict[str, dict[str, Any]] = {}
        for name in (DESCRIPTOR, *names, study.options.encoder, "pixels"):
            features = icgeo.features.open(name, device=study.options.device)
            ways[name] = {
                "retrieval": Retrieval(features),
                "kernel retrieval": KernelRetrieval(features),
            }
            bank = Bank(episode.examples, features)
            ways[name] |= {SHOWN: Selecting(locator, bank, Nearest(), 4)} if can_choose else {}
        if can_choose:
            ways["at random"] = {SHOWN: Selecting(locator, bank, Random(), 4)}
        for name in study.surveys if can_choose and episode.is_earth else ():
            selector = Selecting(locator, bank, NearOnFeatureMaps(study, name), 4)
            ways[f"on the maps of the features of {name}"] = {SHOWN: selector}
        caption = f"48 views of {episode.world}, 256 examples to choose from"
        rows = located(ways, episode)
        tables.append(study.table(f"use-{episode.world}", rows, caption))
    words = (
        "Retrieval answers with the place of the most alike example, kernel retrieval with a "
        "mixture around the 32 most alike (baselines); the map is the one that the model draws "
        "when it is shown the 4 most alike, without comparing parts. tiny is the descriptor of "
        "the model in the box, with which NLL is compared, view by view. On the maps of features: "
        "the 4 examples that lie where the features of the photo are, by its codes."
    )
    return "Used as features", words, tables


DESCRIPTOR, SHOWN = "tiny", "map with 4 examples"
"""Features with which others are compared, and how the model is shown what they choose."""


def located(ways: dict[str, dict[str, Any]], episode: "Episode") -> dict[str, dict[str, str]]:
    """Locate the views of an episode in each way; compare NLL with that of the first."""
    import torch

    from icgeo.evaluation.scores import GUESS_KM
    from icgeo.metrics.intervals import paired_bootstrap
    from icgeo.seeds import seeded_generator
    from icgeo.sphere import distance_km

    rows: dict[str, dict[str, str]] = {}
    first: dict[str, Tensor] = {}
    for name, locators in ways.items():
        row = rows.setdefault(name, {})
        for method, locator in locators.items():
            predictions = locator.locate(
                [query.photo for query in episode.queries], episode.examples
            )
            places = [torch.tensor(query.lat_lon) for query in episode.queries]
            pairs = [*zip(predictions, places, strict=True)]
            km = torch.tensor(
                [
                    distance_km((p.lat, p.lon), place) if p.located else GUESS_KM
                    for p, place in pairs
                ]
            )
            nll = torch.tensor([-one.density.log_prob(place).item() for one, place in pairs])
            row[f"{method}: median km"] = kilometres(icgeo.latents.median_km(km))
            generator = seeded_generator("use", name, method)
            interval = paired_bootstrap(nll, first.setdefault(method, nll), generator=generator)
            row[f"{method}: NLL"] = f"{nll.mean():.2f}"
            words = f"{interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"
            row[f"{method}: NLL less that of {DESCRIPTOR}"] = words if name != DESCRIPTOR else ""
    return rows


def photos(study: Study) -> Part:
    """Probe photographs from the ground, and tell what activations cost."""
    import torch

    from icgeo.prediction import as_examples

    examples = as_examples(study.options.photos)
    rows, lat_lon = {}, torch.tensor([[one.lat, one.lon] for one in examples])
    layers = study.keep("photos-encoder", study.encoder, examples)
    store = study.keep("photos", study.model, examples, pool="mean")
    for layer in (layers.blocks[len(layers.blocks) // 2], layers.blocks[-1]):
        rows[f"{study.options.encoder} {layer}"] = probe_row(layers.read(layer), lat_lon)
    rows[f"{study.options.model}, last block"] = probe_row(store.read(store.blocks[-1]), lat_lon)
    rows["colours alone"] = probe_row(icgeo.latents.colours([e.image for e in examples]), lat_lon)
    rows["shuffled places"] = probe_row(layers.read(layers.blocks[-1]), lat_lon, shuffled=True)
    tables = [study.table("photos", rows, f"{len(examples)} photos from the ground")]
    cost = {}
    for name, model in ((study.options.model, study.model), (study.options.encoder, study.encoder)):
        start, queries = perf_counter(), study.earth.queries[:128]
        study.keep(f"cost/{name.replace('/', '-')}-{start}", model, queries, pool="mean")
        cost[name] = {"photos a second": f"{len(queries) / (perf_counter() - start):.0f}"}
    caption = "Cost: all blocks or layers, time 1, pooled, with decoding and disk"
    tables.append(study.table("cost", cost, caption))
    words = "Few photos, all over the world: intervals are wide, and blocked folds are hard."
    return "Photos from the ground, and cost", words, tables


PARTS: dict[str, Callable[[Study], Part]] = {
    part.__name__: part
    for part in (
        *(depth, controls, others, groups, worlds, steps, levels, alignment),
        *(taken_apart, steering, use, photos),
    )
}

if __name__ == "__main__":
    config.run(main, Options)
