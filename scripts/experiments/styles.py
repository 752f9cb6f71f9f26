"""Measure what a latent space costs to drawn locations, by style: which maps survive a codec?

A run that was stopped goes on with the style that it was at.

Locations are drawn, encoded, decoded and read. Noise is added to the latents in shares of their
standard deviation: a model does not draw them exactly. The codec is the tiny autoencoder of FLUX.2
(madebyollin/taesd, taef2, MIT), whose two files are no part of this project.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import icgeo
from icgeo import config

if TYPE_CHECKING:
    from torch import Tensor

    from icgeo.maps import MapStyle


@dataclass(frozen=True)
class Options:
    """Read locations through a codec, style by style; a run that was stopped goes on."""

    autoencoder: Path
    """Folder with the encoder.safetensors and decoder.safetensors of taef2."""
    locations: int = 24
    """Number of locations, all over the sphere."""
    noise: tuple[float, ...] = (0.0, 0.2, 0.4)
    """Noise added to latents, in their standard deviations."""
    device: str = "cpu"
    """Device on which the codec runs."""
    seed: int = 0
    """Seed of locations and noise."""
    name: str = "styles"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Draw, encode, decode and read the same locations, style by style; print a table."""
    import torch
    from safetensors.torch import load_file

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    halves = {}
    for name in ("encoder", "decoder"):
        tensors = load_file(options.autoencoder / f"{name}.safetensors", device=options.device)
        halves[name] = {layer: weight.float() for layer, weight in tensors.items()}
    generator = torch.Generator().manual_seed(options.seed)
    xyz = icgeo.sphere.sample_uniform(options.locations, generator=generator)
    truths = icgeo.sphere.to_lat_lon(xyz.double())
    conditions = ["drawn", *(f"latents + {share:g} noise" for share in options.noise)]
    path = folder / "styles.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        lines = [f"| style | {' | '.join(conditions)} |", "|---" + "|---:" * len(conditions) + "|"]
    for style in styles()[len(lines) - 2 :]:
        drawings = icgeo.maps.draw(truths, style).float()
        with torch.inference_mode():
            pictures = drawings.to(options.device).split(1)
            latents = torch.cat([apply_half(halves["encoder"], x, decodes=False) for x in pictures])
            noise_generator = torch.Generator().manual_seed(options.seed)
            noise = (
                torch.randn(latents.shape, generator=noise_generator).to(latents) * latents.std()
            )
            reconstructions = [
                torch.cat(
                    [
                        apply_half(halves["decoder"], x, decodes=True)
                        for x in (latents + share * noise).split(1)
                    ]
                ).cpu()
                for share in options.noise
            ]
        cells = [cell_of(maps, style, truths) for maps in (drawings, *reconstructions)]
        lines.append(f"| {words(style)} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


COLOURS = {
    "red": (0.85, 0.05, 0.05),
    "blue": (0.05, 0.05, 0.85),
    "white": (1.0, 1.0, 1.0),
    "grey": (0.5, 0.5, 0.5),
}


def styles() -> "list[MapStyle]":
    """Return markers of several widths and colours on several base layers, in two resolutions."""
    style = partial(icgeo.maps.MapStyle, height=256, width=512)
    land = icgeo.maps.MapStyle.marker
    return [
        *(land(sigma_deg=sigma) for sigma in (1.5, 3.0, 6.0)),
        *(style(base="land", sigma_deg=(3.0,), colour=COLOURS[n]) for n in ("blue", "white")),
        style(base="blue-marble", sigma_deg=(3.0,), colour=COLOURS["red"]),
        *(style(sigma_deg=sigmas) for sigmas in ((3.0,), (6.0,), (40.0, 15.0, 6.0))),
        style(sigma_deg=(6.0,), colour=COLOURS["grey"]),
        *(land(height=512, width=1024, sigma_deg=sigma) for sigma in (1.5, 3.0)),
    ]


def words(style: "MapStyle") -> str:
    """Name a style."""
    widths = ", ".join(f"{sigma:g}" for sigma in style.sigma_deg)
    colour = next(name for name, colour in COLOURS.items() if colour == style.colour)
    base = "black" if style.base == "blank" else style.base
    return f"{colour} of {widths} degrees on {base}, {style.height} x {style.width}"


def cell_of(maps: "Tensor", style: "MapStyle", truths: "Tensor") -> str:
    """Read maps; return the median and the 90 % quantile of errors in km, and mean legibility.

    A map that is illegible is 10,008 km off.
    """
    import torch

    readings = icgeo.maps.read(maps, style)
    points = torch.stack([reading.point for reading in readings]).to(truths)
    is_legible = points.isfinite()
    distances = icgeo.sphere.distance_km(torch.where(is_legible, points, truths), truths)
    distances = torch.where(is_legible.all(dim=-1), distances, 10008.0)
    quantiles = distances.quantile(torch.tensor([0.5, 0.9]).double()).tolist()
    legibility = sum(reading.legibility for reading in readings) / len(readings)
    return f"{quantiles[0]:.0f} ({quantiles[1]:.0f}), {legibility:.2f}"


def apply_half(weights: Mapping[str, "Tensor"], x: "Tensor", *, decodes: bool) -> "Tensor":
    """Apply the encoder or the decoder of taef2, a plain sequence; pictures are in [0, 1].

    `weights` are by "layer.name"; layers without any are those of activation and of up-sampling.
    """
    import torch
    from torch.nn import functional

    if decodes:
        x = 3 * torch.tanh(x / 3)
    for layer in range(1 + max(int(name.split(".")[0]) for name in weights)):
        prefix = f"{layer}."
        part = {
            name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)
        }
        if "weight" in part:
            stride = 1 if decodes or "bias" in part else 2
            x = functional.conv2d(x, part["weight"], part.get("bias"), stride=stride, padding=1)
        elif part:
            x = apply_block(part, x)
        elif layer > 2:
            x = functional.interpolate(x, scale_factor=2)
        elif layer == 2:
            x = x.relu()
    return x


def apply_block(weights: Mapping[str, "Tensor"], x: "Tensor") -> "Tensor":
    """Apply three convolutions with a residual, in the innermost level after another residual."""
    from torch.nn import functional

    if "pool.0.weight" in weights:
        hidden = functional.conv2d(x, weights["pool.0.weight"])
        hidden = functional.group_norm(hidden, 4, weights["pool.1.weight"], weights["pool.1.bias"])
        x = x + functional.conv2d(hidden.relu(), weights["pool.3.weight"])
    out = x
    for number in (0, 2, 4):
        kernel = (weights[f"conv.{number}.weight"], weights[f"conv.{number}.bias"])
        out = functional.conv2d(out.relu() if number else out, *kernel, padding=1)
    return (out + x).relu()


if __name__ == "__main__":
    config.run(main, Options)
