"""Examples as a model holds them, computed once for any number of queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from icgeo.models.matching import Parts


def differences(actual: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say where a fingerprint is not as expected; nothing if it is."""
    return "; ".join(
        f"{name} {actual.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if actual.get(name) != value
    )


@dataclass(frozen=True)
class Context:
    """Examples as the model holds them, computed once."""

    shots: int
    tensors: dict[str, Tensor]
    """What the architecture keeps of them: keys and values of each layer."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """What it depends on beside the examples: model, dtype, style, layout, attention."""
    parts: Parts | None = None
    """Local descriptors of the examples and their places, where the model compares parts."""
    chosen: Int[Tensor, "queries shots"] | None = None
    """Which of the kept pairs each query sees, in order; None means all of them."""
    evidence: Float[Tensor, "queries 3 height width"] | None = None
    """Maps of what another way says of each query, for settings that show them."""
    unit: int = 1
    """How many pairs were kept as one, on a sheet; the last sheet may hold fewer."""

    def choosing(self, chosen: Int[Tensor, "queries shots"]) -> "Context":
        """Show each query pairs of its own, by number.

        Raises:
            ValueError: made by a mode in which pairs see each other, or no whole sheets of pairs.
        """
        if self.fingerprint["attention"] != "pairwise":
            raise ValueError(
                "expected attention 'pairwise' to choose among the pairs of a context, got "
                f"{self.fingerprint['attention']!r}, in which pairs are encoded given others"
            )
        if self.unit > 1:
            self._require_whole_sheets(chosen)
        return replace(self, shots=chosen.shape[1], chosen=chosen)

    def _require_whole_sheets(self, chosen: Int[Tensor, "queries shots"]) -> None:
        """Raise ValueError if a pair is chosen without those that it was encoded with."""
        rows = torch.arange(chosen.shape[1]) % self.unit
        first = chosen.cpu() - rows
        is_next = (first[:, 1:] == first[:, :-1]) | (rows[1:] == 0)
        last = first[:, -1:] + self.unit - 1  # of the last sheet, were it full
        ends = chosen.cpu()[:, -1:] == last.clamp(max=self.shots - 1)
        if not (is_next.all() and ends.all() and (first % self.unit == 0).all()):
            raise ValueError(
                f"expected whole sheets of {self.unit} pairs, each in its order, for pairs on one "
                f"sheet see each other, got {chosen.tolist()}; choose sheets, encode the examples "
                "of each query, or take the layout 'pair'"
            )

    def of_queries(self, rows: Int[Tensor, " rows"]) -> "Context":
        """Serve queries of these numbers, of those that it has choices or evidence for."""
        chosen, evidence = (None if x is None else x[rows] for x in (self.chosen, self.evidence))
        return replace(self, chosen=chosen, evidence=evidence)

    def gathered(self) -> "Context":
        """Copy what a layout sees: each query's pairs, after `choosing`, and the evidence."""
        tensors = self.tensors
        if self.chosen is not None:
            rows = self.chosen.flatten()
            tensors = {name: tensor[rows.to(tensor.device)] for name, tensor in tensors.items()}
        extra = {} if self.evidence is None else {"evidence": self.evidence}
        return replace(self, tensors={**tensors, **extra}, parts=None, chosen=None, evidence=None)

    def require(self, fingerprint: dict[str, str]) -> None:
        """Raise ValueError if it was made by anything else, with what differs."""
        if difference := differences(self.fingerprint, fingerprint):
            raise ValueError(f"this context was made with {difference}; encode its examples again")

    def extended(self, other: "Context") -> "Context":
        """Add the examples of another context; those of neither are computed again.

        Raises:
            ValueError: made otherwise, or by a mode in which examples see each other.
        """
        other.require(self.fingerprint)
        if (mode := self.fingerprint["attention"]) in ("joint", "causal"):
            remedy = "; encode_context(..., after=context) adds to its end" * (mode == "causal")
            raise ValueError(
                f"expected attention 'pairwise' to extend a context, got {mode!r}{remedy}"
            )
        if self.shots % self.unit:
            raise ValueError(
                f"expected whole sheets of {self.unit} pairs to extend, got {self.shots} pairs; "
                "encode all examples again"
            )
        if not (self.tensors and other.tensors):
            return self if self.tensors else other
        tensors = {
            name: pad_sequence([*x, *other.tensors[name]], batch_first=True)
            for name, x in self.tensors.items()
        }
        parts = self.parts and other.parts and self.parts.extended(other.parts)
        shots = self.shots + other.shots
        return Context(shots, tensors, self.fingerprint, parts, unit=self.unit)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        parts = {f"parts.{name}": x for name, x in vars(self.parts).items()} if self.parts else {}
        tensors = {name: x.contiguous() for name, x in {**self.tensors, **parts}.items()}
        counts = {"shots": str(self.shots), "unit": str(self.unit)}
        save_file(tensors, path, metadata={**self.fingerprint, **counts})

    @classmethod
    def load(cls, path: Path, *, device: str | torch.device = "cpu") -> "Context":
        """Read what `save` wrote."""
        with safe_open(path, framework="pt", device=str(device)) as file:
            fingerprint = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = [name for name in tensors if name.startswith("parts.")]
        parts = {name.removeprefix("parts."): tensors.pop(name).cpu() for name in names}
        shots, unit = (int(fingerprint.pop(name, 1)) for name in ("shots", "unit"))
        return cls(shots, tensors, fingerprint, Parts(**parts) if parts else None, unit=unit)
