"""Sparse autoencoders: each activation as a mean and a few of many features (Gao et al. 2024).

Conventions: activations are rows [n, channels]; codes are never negative and in units of the
activations, so that a row is about `mean + codes @ atoms`, where each atom has unit length.
A `Stream` gives the batches of all rows anew each time that it is called: only a few are held
at a time. The network and its training loop are those of the package overcomplete (Fel 2025).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, vstack
from torch import Generator, Tensor

from icgeo.config import UsageError
from icgeo.writing import write_atomically

Rows = Float[Tensor, "_rows channels"]
Stream = Callable[[], Iterable[Tensor]]
"""Gives batches of activations [n, channels], the same ones at each call."""

SHUFFLED = 16
"""Batches whose rows are mixed, since photos that follow each other are often of one place."""


@lru_cache(maxsize=1)
def overcomplete_sae() -> ModuleType:
    """Import `overcomplete.sae`, and only that, of the package overcomplete.

    The package's own `__init__` also imports backbones and plots, which need torchvision and an old
    matplotlib. An empty package stands for it in `sys.modules` while its part is imported, and then
    all is as before: who imports overcomplete later gets the whole. Nothing pretends to be
    torchvision, for which transformers would look.

    Raises:
        UsageError: overcomplete is not installed, or lacks what it needs.
    """
    if sys.modules.get("overcomplete"):
        return import_module("overcomplete.sae")
    remedy = "pip install --no-deps overcomplete && pip install scikit-learn"
    spec = find_spec("overcomplete")
    if spec is None:
        raise UsageError(f"sparse autoencoders need the package overcomplete: {remedy}")
    package = ModuleType("overcomplete")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["overcomplete"] = package
    try:
        return import_module("overcomplete.sae")
    except ImportError as missing:
        raise UsageError(f"overcomplete needs {missing.name}: {remedy}") from missing
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "overcomplete"]:
            del sys.modules[name]


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """A trained `TopKSAE` of overcomplete, and how rows are centred and scaled for it."""

    network: Any
    mean: Float[Tensor, " channels"]
    scale: float
    """Root of the mean square of a centred channel."""
    top_k: int
    """Features that explain a row, at most."""

    @property
    def atoms(self) -> Float[Tensor, "features channels"]:
        """Direction of each feature, of unit length."""
        return self.network.get_dictionary()

    @torch.no_grad()
    def encode(self, rows: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch features"]:
        """Return how much of each feature is in each row, in units of the activations."""
        centred = (rows.to(self.mean) - self.mean) / self.scale
        return self.network.encode(centred)[1] * self.scale

    def decode(self, codes: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch channels"]:
        """Return the rows that codes stand for."""
        return self.mean + codes @ self.atoms

    def edit(
        self, rows: Float[Tensor, "*batch channels"], change: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*batch channels"]:
        """Change the codes of rows, and leave what the codes do not explain as it is.

        `change` takes codes to codes: `remove`, `exchange`, or any other. The error of the
        autoencoder stays in the rows, as in Templeton et al. (2024).
        """
        codes = self.encode(rows)
        return rows + ((change(codes) - codes) @ self.atoms).to(rows)

    def direction(self, feature: int) -> Float[Tensor, " channels"]:
        """Return the direction of a feature, of unit length: what steering adds or takes away."""
        if not 0 <= feature < len(self.atoms):
            raise ValueError(f"expected a feature from 0 to {len(self.atoms) - 1}, got {feature}")
        return self.atoms[feature].clone()

    def save(self, path: Path) -> None:
        """Write weights, mean and scale as safetensors."""
        statistics = {"mean": self.mean, "scale": torch.tensor(self.scale, dtype=torch.float64)}
        weights = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial_path:
            save_file(statistics | weights, partial_path, {"top_k": str(self.top_k)})

    @classmethod
    def load(cls, path: Path) -> "SparseAutoencoder":
        """Read what `save` wrote, onto the CPU."""
        with safe_open(path, "pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            top_k = int(file.metadata()["top_k"])
        network_values = {
            name: value for name, value in values.items() if name.startswith("network.")
        }
        weights = {name.removeprefix("network."): value for name, value in network_values.items()}
        features, channels = weights["dictionary._weights"].shape
        network = _new_network(channels, features, top_k, seed=0)
        network.load_state_dict(weights)
        return cls(_frozen(network), values["mean"], float(values["scale"]), top_k)


def remove(*features: int) -> Callable[[Tensor], Tensor]:
    """Return the change of codes for `SparseAutoencoder.edit` that takes features away."""
    return lambda codes: codes.index_fill(-1, torch.tensor(features, device=codes.device), 0.0)


def exchange(first: int, second: int) -> Callable[[Tensor], Tensor]:
    """Return the change of codes for `SparseAutoencoder.edit` that swaps two features."""

    def change(codes: Tensor) -> Tensor:
        result = codes.clone()
        result[..., [first, second]] = codes[..., [second, first]]
        return result

    return change


def _new_network(channels: int, features: int, top_k: int, *, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):  # overcomplete draws from the global generator
        torch.manual_seed(seed)
        network = overcomplete_sae().TopKSAE(channels, features, top_k=top_k)
    # the encoder begins as the transpose of the decoder: fewer features die (Gao et al. 2024)
    network.get_dictionary()
    return network.untied(bias=True)


@torch.no_grad()
def _frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Batches:
    """Rows centred and scaled, mixed among some batches, anew at each pass."""

    stream: Stream
    mean: Tensor
    scale: float
    generator: Generator

    def __iter__(self) -> Iterator[Tensor]:
        batches = iter(self.stream())
        while chunk := [*islice(batches, SHUFFLED)]:
            rows = torch.cat([batch.to(self.mean) for batch in chunk])
            order = torch.randperm(len(rows), generator=self.generator).to(rows.device)
            yield from ((rows[order] - self.mean) / self.scale).split(len(chunk[0]))


def train(
    stream: Stream,
    *,
    features: int,
    top_k: int,
    passes: int = 20,
    learning_rate: float = 5e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SparseAutoencoder:
    """Train a TopK autoencoder on streamed activations; the same seed gives the same one.

    Args:
        stream: gives the batches of one pass; all but the last have one size, that of a step.
        features: how many to learn.
        top_k: features that explain a row, at most.
        passes: over all rows, after one that finds their mean and scale.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        seed: of first weights and of the order of rows.
        device: on which to train; the result is on the CPU.

    Raises:
        ValueError: no row, rows that are all the same or not finite, or top_k above features.
    """
    if not 1 <= top_k <= features:
        raise ValueError(f"expected top_k from 1 to features={features}, got {top_k}")
    batches, mean, scale = _moments(stream)
    network = _new_network(len(mean), features, top_k, seed=seed).to(device)
    generator = Generator().manual_seed(seed)
    loader = _Batches(stream, mean.to(device), scale, generator)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, passes * batches)
    loss = overcomplete_sae().losses.top_k_auxiliary_loss  # of Gao et al. (2024, A.2)
    fit = overcomplete_sae().train_sae
    fit(network, loader, loss, optimizer, schedule, nb_epochs=passes, monitoring=0, device=device)
    return SparseAutoencoder(_frozen(network.cpu()), mean, scale, top_k)


def _moments(stream: Stream) -> tuple[int, Tensor, float]:
    """Return the number of batches, the mean row, the root mean square of what is left."""
    rows = batches = 0
    total = squares = torch.zeros(())
    for batch in stream():
        values = batch.detach().cpu().double()
        total, squares = total + values.sum(dim=0), squares + values.square().sum(dim=0)
        rows, batches = rows + len(values), batches + 1
    if not rows:
        raise ValueError("expected at least one batch of activations, got none")
    mean = total / rows
    variance = (squares / rows - mean.square()).clamp(min=0).mean().item()
    if not np.isfinite(variance) or variance <= 1e-12 * mean.square().mean().item():
        raise ValueError(
            f"expected finite activations that differ, got a variance of {variance:.3g} over "
            f"{rows} rows; look at the block, or at the photos"
        )
    return batches, mean.float(), variance**0.5


@dataclass(frozen=True, eq=False)
class Quality:
    """How well an autoencoder explains rows, and with how many features."""

    rows: int
    fvu: float
    """Fraction of variance unexplained."""
    l0: float
    """Features above 0 in a row, in the mean."""
    usage: Float[Tensor, " features"]
    """Share of rows in which each is above 0."""

    @property
    def dead(self) -> int:
        """Features that are 0 in every row."""
        return int((self.usage == 0).sum())


def judge(autoencoder: SparseAutoencoder, stream: Stream) -> Quality:
    """Judge an autoencoder on the rows of a stream, best of photos that it was not trained on."""
    rows, errors, squares = 0, 0.0, 0.0
    total, counts = torch.zeros(autoencoder.mean.shape), torch.zeros(len(autoencoder.atoms))
    total, counts = total.double(), counts.double()
    for batch in stream():
        batch = batch.cpu().to(autoencoder.mean)
        codes = autoencoder.encode(batch)
        centred = (batch - autoencoder.mean).double()
        errors += (batch - autoencoder.decode(codes)).double().square().sum().item()
        squares += centred.square().sum().item()
        total, counts = total + centred.sum(dim=0), counts + (codes > 0).sum(dim=0)
        rows += len(batch)
    if rows < 2:
        raise ValueError(f"expected at least 2 rows of activations, got {rows}")
    variance = squares - total.square().sum().item() / rows
    usage = (counts / rows).float()
    return Quality(rows, errors / variance, counts.sum().item() / rows, usage)


def encode_all(autoencoder: SparseAutoencoder, stream: Stream) -> Any:
    """Encode all rows as one sparse array [rows, features]: 8 bytes for each code above 0."""
    return vstack([csr_array(autoencoder.encode(batch).numpy()) for batch in stream()], "csr")


def matched_cosines(
    first: Float[Tensor, "features channels"], second: Float[Tensor, "others channels"]
) -> Float[np.ndarray, " matched"]:
    """Return the cosine of each direction with its partner: one to one, of the largest sum.

    There are as many pairs as there are directions in the smaller set.
    """
    first, second = (
        vectors / reduce(vectors.square(), "f c -> f 1", "sum").sqrt().clamp(min=1e-12)
        for vectors in (first.double(), second.double())
    )
    cosines = (first @ second.T).numpy()
    return cosines[linear_sum_assignment(cosines, maximize=True)]


def stability(atoms: Sequence[Float[Tensor, "_features channels"]]) -> float:
    """Return the mean cosine of matched features over all pairs of autoencoders.

    Give the atoms of those trained from different seeds on the same rows, without dead features.
    """
    if len(atoms) < 2:
        raise ValueError(f"expected the atoms of at least 2 autoencoders, got {len(atoms)}")
    pairs = [matched_cosines(one, other).mean() for one, other in combinations(atoms, 2)]
    return float(np.mean(pairs))
