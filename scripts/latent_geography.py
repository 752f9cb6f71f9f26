"""Find out what latent spaces know of the world: where, in which form, and what it causes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import icgeo
from icgeo import config

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from icgeo.evaluation import Episode
    from icgeo.features import FrozenFeatures
    from icgeo.latents.activations import ActivationStore
    from icgeo.models import MapModel
    from icgeo.report.latents import Section


@dataclass(frozen=True)
class Options:
    """Probe a model that draws maps and a frozen encoder, on the Earth and on unseen worlds."""

    model: str = "tiny"
    """The model that draws maps: tiny, a folder, or a hub id."""
    encoder: str = "efficientnet-lite0"
    """A frozen encoder beside it, as `icgeo.features.open` takes it."""
    photos: Path = Path(__file__).parents[1] / "assets" / "photos" / "photos.csv"
    """Photos from the ground and their locations (CSV, Parquet or a folder)."""
    count: int = 600
    """Views of the Earth."""
    worlds: int = 12
    """Worlds of kinds that no training has seen; a probe is fitted on all but one."""
    views: int = 60
    """Views of each of them."""
    shots: int = 16
    """Examples that are shown with them."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Times at which activations are kept; 1 is noise."""
    steered: int = 64
    """Views whose activations are changed."""
    aligned: int = 300
    """Views over which spaces are compared."""
    permutations: int = 40
    """Of photos, for chance and intervals of alignment."""
    surveyed: int = 2400
    """Views for a sparse autoencoder of the last block: half of them train it."""
    features: int = 128
    """Features of it; 8 of them explain a view."""
    device: str = "cpu"
    """Where models run."""
    name: str = "latents"
    """Run folder under runs/; activations that are there are not computed again."""


@dataclass(frozen=True, eq=False)
class Study:
    """What all parts share."""

    options: Options
    folder: Path
    model: "MapModel"
    encoder: "FrozenFeatures"
    earth: "Episode"
    store: "ActivationStore"
    """Of the model on the Earth: all blocks and times, token by token."""
    layers: "ActivationStore"
    """Of the encoder on the same views."""

    @property
    def lat_lon(self) -> "Tensor":
        """Where the views were taken."""
        return self.store.lat_lon

    def keep(self, name: str, table: "DataFrame", caption: str) -> tuple[str, str]:
        """Write a table; return its caption and file."""
        table.to_csv(self.folder / f"{name}.csv")
        return caption, f"{name}.csv"

    def draw(self, name: str, figure: Any, caption: str) -> tuple[str, str, str]:
        """Write a figure; return caption, file and words."""
        figure.savefig(self.folder / f"{name}.png", dpi=130)
        return caption, f"{name}.png", f"Figure: {caption}"


def main(options: Options) -> None:
    """Run all parts, write tables, figures and the page to the run folder, print the tables."""
    from tqdm import tqdm

    from icgeo import report
    from icgeo.report.latents import save_sections

    folder = Path("runs") / options.name
    config.save_run(folder, options, may_differ=("device",))
    study = prepare(options, folder)
    parts: tuple[Callable[[Study], Section], ...] = (
        *(depth, controls, others, groups, worlds, steps, alignment),
        *(taken_apart, steering, use, photos),
    )
    sections = []
    for part in (bar := tqdm(parts)):
        bar.set_description(part.__name__)
        sections.append(part(study))
        save_sections(folder, sections)
    for section in sections:
        print(f"\n## {section.title}\n\n{section.text}\n")
        for caption, file in section.tables:
            print(f"{caption}\n\n{markdown(folder / file)}\n")
    print(f"written to {report.write_latents_report(folder)}")


def markdown(path: Path) -> str:
    """Read a table as Markdown."""
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return icgeo.evaluation.to_markdown(table.rename(columns={"Unnamed: 0": ""}))


def prepare(options: Options, folder: Path) -> Study:
    """Load the models, and keep the activations of views of the Earth."""
    from icgeo.evaluation.episodes import EARTH, world_episode
    from icgeo.latents.activations import activations

    model = icgeo.load(options.model, device=options.device)
    encoder = icgeo.features.open(options.encoder, device=options.device)
    earth = world_episode(EARTH, queries=options.count, shots=0)
    kept: dict[str, Any] = {"times": options.times, "pool": "none"}
    store = activations(model, earth.queries, folder=folder / "earth", **kept)
    layers = activations(encoder, earth.queries, folder=folder / "earth-encoder")
    if store is None or layers is None:
        raise config.UsageError(f"expected all shards in {folder}; remove it, and run again")
    return Study(options, folder, model, encoder, earth, store, layers)


def kilometres(median: Any) -> str:
    """Write an error and its interval."""
    return f"{median.estimate:,.0f} ({median.low:,.0f} to {median.high:,.0f})"


def probe_row(x: "Tensor", lat_lon: "Tensor", **options: Any) -> dict[str, str]:
    """Probe with blocked and random folds."""
    from icgeo.latents.probes import probe_places

    blocked, mixed = (
        probe_places(x, lat_lon, split=split, **options) for split in ("blocked", "random")
    )
    return {
        "median km, blocked folds": kilometres(blocked.median_km),
        "random folds": f"{mixed.median_km.estimate:,.0f}",
        "R2": f"{blocked.r2:.2f}",
        "Spearman of distances": f"{blocked.spearman:.2f}",
    }


def depth(study: Study) -> "Section":
    """Probe each block at each time, and each layer of the encoder."""
    from pandas import DataFrame

    from icgeo import plots
    from icgeo.latents.probes import probe_places
    from icgeo.report.latents import Section

    figures, tables, store = [], [], study.store
    for pool in ("mean over tokens", "token by token"):
        cells: dict[float, dict[Any, float]] = {}
        for time in store.times:
            for block in store.blocks:
                x = store.read(block, time)
                probe = probe_places(x.mean(1) if pool[0] == "m" else x, study.lat_lon)
                cells.setdefault(time, {})[block] = probe.median_km.estimate
        table = DataFrame(cells).rename_axis("block")
        name = f"depth-{pool.split()[0]}"
        caption = (
            f"{study.options.model}, {pool}: median error in km of ridge probes, blocked folds"
        )
        figures.append(study.draw(name, plots.plot_blocks_and_times(table, title=pool), caption))
        tables.append(study.keep(name, table.round(0).astype(int), caption))
    rows = {}
    for layer in study.layers.blocks[:: max(1, len(study.layers.blocks) // 6)]:
        rows[f"{study.options.encoder} {layer}"] = probe_row(
            study.layers.read(layer), study.lat_lon
        )
    caption = "Layers of the encoder, mean over places of the photo"
    tables.append(study.keep("layers", DataFrame(rows).T, caption))
    words = (
        f"{study.options.count} views of the Earth, no examples. A ridge probe reads unit vectors "
        "from activations; whole cells of some 1,600 km are left out. Below time 1 the model is "
        "given its own map as far as it is drawn, so that early blocks can read it there."
    )
    return Section("Where the Earth is known", words, tables, figures)


def best(study: Study) -> "Tensor":
    """Return the activations of the last block at time 1, token by token."""
    return study.store.read(study.store.blocks[-1], 1.0)


def controls(study: Study) -> "Section":
    """Compare the last block with kinds of probes and with what knows no places."""
    from pandas import DataFrame

    from icgeo.latents.activations import activations
    from icgeo.latents.controls import CONTROLS, untrain
    from icgeo.report.latents import Section

    x, lat_lon, shown = best(study), study.lat_lon, [q.photo for q in study.earth.queries]
    rows = {
        f"last block, {kind}": probe_row(x, lat_lon, kind=kind)
        for kind in ("ridge", "kernel", "mlp")
    }
    rows["last block, shuffled places"] = probe_row(x, lat_lon, shuffled=True)
    random = icgeo.load(study.options.model, device=study.options.device)
    codec: Any = getattr(random.backbone, "codec", None)
    is_own = study.model.settings.layout == "stacked"
    untrain([random.backbone.transformer, *([codec] if is_own else [])])
    keep = partial(activations, photos=study.earth.queries)
    store: Any = keep(random, folder=study.folder / "untrained", pool="none")
    for block in (store.blocks[0], store.blocks[-1]):
        rows[f"untrained weights, block {block}"] = probe_row(store.read(block), lat_lon)
    encoder = icgeo.features.open(study.options.encoder, device=study.options.device)
    untrain(encoder.layers.values())
    layers: Any = keep(encoder, folder=study.folder / "untrained-encoder")
    rows["untrained encoder, last layer"] = probe_row(layers.read(layers.blocks[-1]), lat_lon)
    rows |= {name: probe_row(describe(shown), lat_lon) for name, describe in CONTROLS.items()}
    caption = "The last block at time 1, token by token, against controls"
    words = "Kernel: Gaussian, by 300 Nyström features; MLP: one hidden layer of 128."
    return Section("Controls", words, [study.keep("controls", DataFrame(rows).T, caption)])


def others(study: Study) -> "Section":
    """Probe for countries, climates, land cover, and the distance to the coast."""
    import numpy as np
    from pandas import DataFrame

    from icgeo.latents import labels
    from icgeo.latents.controls import colours
    from icgeo.latents.probes import probe_labels, probe_numbers
    from icgeo.report.latents import Section

    lat_lon = study.lat_lon
    spaces = {
        f"{study.options.model}, last block": best(study),
        study.options.encoder: study.layers.read(study.layers.blocks[-1]),
        "colours alone": colours([query.photo for query in study.earth.queries]),
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
        told = label(lat_lon)
        for space, x in spaces.items():
            cell = "too few views"
            if sum(told.count(one) >= 10 for one in set(told)) > 1:
                found = probe_labels(x, told, lat_lon)
                cell = f"{found.balanced:.0%} of {found.labels}, chance {1 / found.labels:.0%}"
            rows.setdefault(space, {})[name] = cell
    # near the coast a kilometre counts for more
    coast = np.arcsinh(labels.coast_distance_km(lat_lon) / 100)
    for space, x in spaces.items():
        rows[space]["distance to coast, R2"] = f"{probe_numbers(x, coast, lat_lon):.2f}"
    caption = "Balanced accuracy of ridge classifiers, random folds; labels of 10 views or more"
    words = (
        "Country and continent: of the nearest city; climate and land cover: of the place under "
        "the middle of the view; distance to coast: its inverse hyperbolic sine by 100 km."
    )
    return Section("What else", words, [study.keep("labels", DataFrame(rows).T, caption)])


def groups(study: Study) -> "Section":
    """Split the error of the last block by continent and by how easy a view is to locate."""
    import torch
    from pandas import concat

    from icgeo.latents import labels
    from icgeo.latents.probes import error_by_group, probe_places, thirds
    from icgeo.report.latents import Section

    lat_lon, error = study.lat_lon, probe_places(best(study), study.lat_lon).distance_km
    other = probe_places(study.layers.read(study.layers.blocks[-1]), lat_lon).distance_km
    names = ("hard for the encoder", "middling", "easy for the encoder")
    coast = torch.from_numpy(labels.coast_distance_km(lat_lon))
    parts = [
        error_by_group(error, labels.continents(lat_lon)),
        error_by_group(error, thirds(-other, names)),
        error_by_group(error, thirds(coast, ("at sea", "near the coast", "inland"))),
    ]
    table = concat(parts, ignore_index=True).set_index("group")
    table = table[table.photos >= 5].round(0).astype(int)
    caption = (
        "Median error in km of the last block's probe, blocked folds; groups of 5 views or more"
    )
    words = (
        "Easy and hard: thirds by the error of the encoder's probe, which no choice of the model's "
        "own probe has part in; sea and land: thirds by the distance to the coast."
    )
    return Section("By continent and localizability", words, [study.keep("groups", table, caption)])


def worlds(study: Study) -> "Section":
    """Fit a probe on unseen worlds and try it on another, without and with examples."""
    import torch
    from pandas import DataFrame

    from icgeo.data.worlds import UNSEEN_FAMILIES
    from icgeo.evaluation.episodes import world_episode
    from icgeo.latents.activations import activations
    from icgeo.latents.probes import probe_places
    from icgeo.options import UNKNOWN
    from icgeo.report.latents import Section

    options, kinds = study.options, UNSEEN_FAMILIES
    episodes = [
        world_episode(kinds[n % len(kinds)], n, queries=options.views, shots=options.shots)
        for n in range(options.worlds)
    ]
    places = torch.cat([torch.tensor([query.lat_lon for query in one.queries]) for one in episodes])
    names = [one.id for one in episodes for _ in one.queries]
    rows: dict[str, dict[str, str]] = {}
    for shots in (0, options.shots):
        stores: list[Any] = [
            activations(
                study.model,
                one.queries,
                folder=study.folder / f"{one.id}-{shots}",
                examples=one.examples[:shots],
                pool="none",
                prompt=UNKNOWN if UNKNOWN in study.model.settings.prompts else None,
            )
            for one in episodes
        ]
        for block in study.store.blocks:
            x = torch.cat([store.read(block) for store in stores])
            probe = probe_places(x, places, groups=names)
            row = rows.setdefault(f"block {block}", {})
            row[f"{shots} examples: median km"] = kilometres(probe.median_km)
            row["R2" if not shots else "R2 with examples"] = f"{probe.r2:.2f}"
        earth = probe_places(
            torch.cat((study.store.read(study.store.blocks[-1], 1.0), x)),
            torch.cat((study.lat_lon, places)),
            groups=["earth"] * len(study.lat_lon) + ["worlds"] * len(places),
        )
        moved = earth.distance_km[len(study.lat_lon) :]
        row = rows.setdefault("last block, probe of the Earth", {})
        row[f"{shots} examples: median km"] = f"{moved.median():,.0f}"
    caption = f"{options.worlds} worlds of unseen kinds, each by a probe of the others; time 1"
    words = (
        "A guess at random is 10,008 km off. The last row is a probe that was fitted on the Earth "
        "(without examples) and tried on these worlds."
    )
    table = study.keep("worlds", DataFrame(rows).T.fillna(""), caption)
    return Section("Unseen worlds: without and with examples", words, [table])


def steps(study: Study) -> "Section":
    """Tell continent, country and place at each step of drawing."""
    from pandas import DataFrame

    from icgeo import plots
    from icgeo.latents import labels
    from icgeo.latents.probes import probe_labels, probe_places
    from icgeo.report.latents import Section

    store, lat_lon, rows = study.store, study.lat_lon, []
    lines: dict[str, dict[str, str]] = {}
    kinds = {"continent": labels.continents(lat_lon), "country": labels.countries(lat_lon)}
    for time in store.times:
        for block in (store.blocks[len(store.blocks) // 2], store.blocks[-1]):
            x, name = store.read(block, time), f"block {block}"
            line = lines.setdefault(f"time {time:g}, {name}", {})
            for label, told in kinds.items():
                found = probe_labels(x, told, lat_lon)
                values = {"time": time, "label": f"{label}, {name}", "score": found.balanced}
                rows.append({**values, "chance": 1 / found.labels})
                line[f"{label}, balanced accuracy"] = f"{found.balanced:.0%}"
            probe = probe_places(x, lat_lon)
            within = (probe.distance_km <= 750).double().mean().item()
            rows.append({"time": time, "label": f"within 750 km, {name}", "score": within})
            line["place, median km"] = kilometres(probe.median_km)
            line["within 750 km"] = f"{within:.0%}"
    curves = DataFrame(rows).sort_values(["label", "time"])
    caption = "What can be told at each step, token by token"
    figure = study.draw("steps", plots.plot_steps(curves), caption)
    words = (
        "The model draws its map from noise, time 1, down. At time 1 it has seen the photo alone; "
        "later it is also given its own map so far. Labels by random folds, places by blocked ones."
    )
    table = study.keep("steps", DataFrame(lines).T, caption)
    return Section("Over the steps of drawing", words, [table], [figure])


def alignment(study: Study) -> "Section":
    """Compare blocks, layers, controls and the globe with each other."""
    from pandas import DataFrame

    from icgeo import plots
    from icgeo.latents.alignment import MEASURES, Space, align
    from icgeo.latents.controls import CONTROLS
    from icgeo.report.latents import Section

    count, store, layers = study.options.aligned, study.store, study.layers
    queries = [query.photo for query in study.earth.queries[:count]]
    spaces = {"globe": Space.globe(study.lat_lon[:count])}
    for block in store.blocks[:: max(1, len(store.blocks) // 3)]:
        spaces[f"block {block}"] = Space.of(store.read(block, 1.0)[:count])
    spaces["last block"] = Space.of(best(study)[:count])
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
                found = run(spaces[first], spaces[second], measure)
                cells.loc[first, second] = cells.loc[second, first] = found.value
                words.loc[first, second] = (
                    f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}), p {found.p:.2f}"
                )
                words.loc[second, first] = f"chance {found.chance:.2f}"
        file = f"alignment-{measure.replace(' ', '-')}"
        figures.append(study.draw(file, plots.plot_alignment(cells, title=measure), measure))
        caption = f"{measure}: value, interval and p above, chance of permuted photos below"
        tables.append(study.keep(file, words, caption))
    text = f"{count} views of the Earth; {study.options.permutations} permutations and halves."
    return Section("Alignment with the globe and each other", text, tables, figures)


def taken_apart(study: Study) -> "Section":
    """Take the last block apart into sparse features, and write an atlas of where they are."""
    from importlib.util import find_spec

    from pandas import DataFrame

    from icgeo.evaluation.episodes import EARTH, world_episode
    from icgeo.latents.activations import activations
    from icgeo.latents.controls import colours
    from icgeo.latents.feature_survey import survey_features
    from icgeo.report.atlas import write_survey
    from icgeo.report.latents import Section

    title, options = "Taken apart: sparse features", study.options
    if find_spec("overcomplete") is None:
        return Section(title, "Left out: it needs pip install --no-deps overcomplete.")
    half, block = options.surveyed // 2, study.store.blocks[-1]
    sets = [world_episode(EARTH, n, queries=half, shots=0).queries for n in (1, 2)]
    photos = [query.photo for query in sets[1]]
    places = [query.lat_lon for query in sets[1]]
    stores: list[Any] = [
        activations(study.model, some, folder=study.folder / f"features-{n}", blocks=(block,))
        for n, some in enumerate(sets)
    ]
    of_colours = [colours([query.photo for query in some]) for some in sets]
    spaces = {
        f"block {block}": [partial(store.batches, block, size=64) for store in stores],
        "colours alone": [partial(rows.split, 64) for rows in of_colours],
    }
    lines, pages = {}, []
    for name, (training, judged) in spaces.items():
        how = {"features": options.features, "top_k": 8, "permutations": 199, "passes": 30}
        survey = survey_features(training, judged, places, **how)
        file, told = f"atlas-{name.replace(' ', '-')}.html", survey.facts()
        facts = {"Views": f"of the Earth: {half:,} to train on, these {half:,} others"}
        page: Any = {"title": f"Features of {options.model}: {name}", "facts": facts}
        write_survey(study.folder / file, survey, photos=photos, lat_lon=places, **page)
        pages.append((f"Atlas of the features of {name}", file))
        lines[name] = {
            "variance unexplained": f"{told['fvu']:.1%}",
            "features in a view": f"{told['l0']:.1f}",
            "dead": f"{told['dead']} of {told['features']}",
            "stability": f"{told['stability']:.2f}",
            "concentrated": f"{told['concentrated']} of {told['tested']}",
            "where places are shuffled": str(told["concentrated_at_shuffled_places"]),
            "median Moran's I": f"{told['median_moran']:.2f}",
        }
    caption = f"{options.features} features, at most 8 in a view; judged on other views"
    words = (
        "Concentrated: neighbouring cells are more alike than by chance (Moran's I, rate of false "
        "discovery 5 %). Neighbouring views overlap, so that features of colours are, too."
    )
    table = study.keep("features", DataFrame(lines).T, caption)
    return Section(title, words, [table], [], pages)


def steering(study: Study) -> "Section":
    """Change activations, and see how maps move."""
    import torch
    from pandas import DataFrame, concat

    from icgeo import plots
    from icgeo.data.pixels import square_pixels
    from icgeo.latents.activations import activations
    from icgeo.latents.steering import PlaceDirections, compare_changes, steer
    from icgeo.report.latents import Section

    options, model = study.options, study.model
    store: Any = activations(
        model, study.earth.queries, folder=study.folder / "steered", pool="none", same_noise=True
    )
    count, prompt = options.steered, model.settings.default_prompt
    pixels = square_pixels([q.photo for q in study.earth.queries[:count]], model.photo_size)
    nothing, all_rows, lines = model.encode_context([], torch.empty(0, 2)), [], []
    for block in store.blocks:
        fitted = PlaceDirections.fit(store.read(block)[count:], study.lat_lon[count:])
        how: dict[str, Any] = {"directions": fitted, "edit": (block, 1.0, 1.0), "prompt": prompt}
        rows = steer(model, nothing, pixels, study.lat_lon[:count], **how)
        all_rows.append(rows.assign(block=block))
        lines.append(compare_changes(rows).assign(block=block))
    concat(all_rows).to_csv(study.folder / "steering-rows.csv", index=False)
    found = concat(lines, ignore_index=True)
    table = DataFrame(
        {
            "block": found.block,
            "legible": found.legible.map("{:.0%}".format),
            "moved km": found.moved_km.map("{:,.0f}".format),
            "nearer km": found.nearer_km.map("{:,.0f}".format),
            "cosine": found.cosine.map("{:.2f}".format),
            "NLL of the partner's place": found.nll_partner.map("{:.2f}".format),
            "NLL of the own place": found.nll_truth.map("{:.2f}".format),
            "nearer than control by km": [
                difference(row, "nearer_km", ",.0f") for row in found.itertuples()
            ],
            "NLL of the partner's place less": [
                difference(row, "nll_partner", ".2f") for row in found.itertuples()
            ],
            "control": found.against.fillna(""),
        }
    ).set_index(found.change)
    caption = "Changes of activations at time 1, towards the place of another view, by block"
    figures = []
    middle = len(store.blocks) // 2
    for change in ("probe pattern", "difference of two other photos", "all exchanged"):
        figure = plots.plot_moves(all_rows[middle], change)
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
    return Section("Causes: steering", text, [study.keep("steering", table, caption)], figures)


def difference(row: Any, column: str, form: str) -> str:
    """Write a paired difference with its interval; nothing for controls."""
    import math

    values = [getattr(row, f"{column}_{part}", math.nan) for part in ("more", "low", "high")]
    if any(math.isnan(value) for value in values):
        return ""
    first, low, high = (format(value, form) for value in values)
    return f"{first} ({low} to {high})"


def use(study: Study) -> "Section":
    """Retrieve by blocks at times, against other features, and show the nearest to the model."""
    from pandas import DataFrame

    from icgeo import features
    from icgeo.data.worlds import UNSEEN_FAMILIES
    from icgeo.evaluation.episodes import EARTH, world_episode
    from icgeo.report.latents import Section

    blocks = [f"{study.options.model}:{block}@1.0" for block in study.store.blocks[::2]]
    last = f"{study.options.model}:{study.store.blocks[-1]}@1.0"
    names = list(dict.fromkeys([*blocks, last, "tiny", study.options.encoder, "pixels"]))
    rows: dict[str, dict[str, str]] = {name: {} for name in names}
    for world in (EARTH, UNSEEN_FAMILIES[0]):
        episode = world_episode(world, queries=48, shots=256, seed=7)
        for name in names:
            own = features.open(name, device=study.options.device)
            rows[name] |= used(study.model, episode, own)
    caption = "48 views of each world, 256 examples to choose from"
    words = (
        "Retrieval answers with the place of the most alike example; the map is the one that the "
        "model draws when it is shown the 4 most alike, without comparing parts."
    )
    return Section("Used as features", words, [study.keep("use", DataFrame(rows).T, caption)])


def used(model: Any, episode: Any, own: Any) -> dict[str, str]:
    """Locate views at their most alike example, and by the map drawn with the four most alike."""
    import torch

    from icgeo import features
    from icgeo.evaluation.scores import GUESS_KM
    from icgeo.metrics import median_error
    from icgeo.selection import Bank, Nearest, Selecting
    from icgeo.sphere import distance_km

    asked = [query.photo for query in episode.queries]
    truth = torch.tensor([query.lat_lon for query in episode.queries])
    places = torch.tensor([[one.lat, one.lon] for one in episode.examples])
    bank = own.encode([one.image for one in episode.examples])
    _, nearest = features.search(bank, own.encode(asked), 1)
    km = distance_km(places[nearest[:, 0]], truth)
    cells = {f"{episode.world}: retrieval, median km": f"{km.median():,.0f}"}
    if model.can_choose:
        locator = icgeo.Geolocator(model, prompt=episode.prompt, matching=False)
        chosen = Selecting(locator, Bank(episode.examples, own), Nearest(), shots=4)
        pairs = list(zip(chosen.locate(asked, episode.examples[:4]), truth, strict=True))
        error = median_error(
            [
                distance_km((one.lat, one.lon), at).item() if one.located else GUESS_KM
                for one, at in pairs
            ]
        )
        nll = sum(-one.density.log_prob(at).item() for one, at in pairs) / len(pairs)
        name = f"{episode.world}: map with 4 nearest, median km, NLL"
        cells[name] = f"{error:,.0f}, {nll:.2f}"
    return cells


def photos(study: Study) -> "Section":
    """Probe photographs from the ground, and tell what activations cost."""
    import torch
    from pandas import DataFrame

    from icgeo.latents.activations import activations
    from icgeo.latents.controls import colours
    from icgeo.prediction import as_examples
    from icgeo.report.latents import Section

    examples = as_examples(study.options.photos)
    rows, lat_lon = {}, torch.tensor([[one.lat, one.lon] for one in examples])
    layers: Any = activations(study.encoder, examples, folder=study.folder / "photos-encoder")
    own: Any = activations(study.model, examples, folder=study.folder / "photos")
    for layer in (layers.blocks[len(layers.blocks) // 2], layers.blocks[-1]):
        rows[f"{study.options.encoder} {layer}"] = probe_row(layers.read(layer), lat_lon)
    rows[f"{study.options.model}, last block"] = probe_row(own.read(own.blocks[-1]), lat_lon)
    rows["colours alone"] = probe_row(colours([one.image for one in examples]), lat_lon)
    rows["shuffled places"] = probe_row(layers.read(layers.blocks[-1]), lat_lon, shuffled=True)
    tables = [study.keep("photos", DataFrame(rows).T, f"{len(examples)} photos from the ground")]
    cost = {}
    for name, model in ((study.options.model, study.model), (study.options.encoder, study.encoder)):
        folder, some = study.folder / "cost", study.earth.queries[:128]
        start = perf_counter()
        activations(model, some, folder=folder / f"{name.replace('/', '-')}-{start}", shard_size=64)
        cost[name] = {"photos a second": f"{len(some) / (perf_counter() - start):.0f}"}
    tables.append(
        study.keep(
            "cost",
            DataFrame(cost).T,
            "Cost: all blocks or layers, time 1, pooled, with decoding and disk",
        )
    )
    words = "Few photos, all over the world: intervals are wide, and blocked folds are hard."
    return Section("Photos from the ground, and cost", words, tables)


if __name__ == "__main__":
    config.run(main, Options)
