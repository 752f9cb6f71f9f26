"""The model card of an adapter, and its way to the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from icgeo.config import UsageError
from icgeo.models.hub import upload

_CARD = """---
base_model: {base}
license: {licence}
library_name: diffusers
tags: [lora, geolocation, icgeo]
---
# A LoRA of {base} that locates photos

It draws the map of a photo from solved cases, with `icgeo`:

```python
import icgeo

model = icgeo.load("{base}", adapter="path/of/this/folder"{choices})
```

## Data

{data}

## Settings

{settings}

## Results

{results}

## Licence

{licence}. That of the base model holds too: read it before you pass this adapter on. The photos
that it was trained on may show in what it draws; do not adapt to photos of people without their
consent.
"""


def write_card(
    folder: Path,
    *,
    base: str,
    data: str,
    settings: Mapping[str, Any],
    results: str,
    licence: str = "apache-2.0",
    choices: Mapping[str, Any] | None = None,
) -> None:
    """Write `README.md` beside the adapter.

    Args:
        folder: of the adapter.
        base: the model that it belongs to.
        data: what it was trained on, in a sentence.
        settings: of the run.
        results: a table, without a heading.
        licence: of the adapter.
        choices: what `icgeo.load` takes beside it.
    """
    arguments = "".join(f", {name}={value!r}" for name, value in (choices or {}).items())
    lines = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    card = _CARD.format(
        base=base, licence=licence, data=data, settings=lines, results=results, choices=arguments
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def push_to_hub(folder: Path, repository: str, *, private: bool = True) -> str:
    """Put an adapter and its card on the hub; return the address.

    Raises:
        UsageError: no card, no access, or no network.
    """
    if not (folder / "README.md").is_file():
        raise UsageError(f"expected a model card in {folder}, found none; finish the run first")
    ModelCard.load(folder / "README.md")  # a card that cannot be read is refused here
    return upload(folder, repository, private=private)
