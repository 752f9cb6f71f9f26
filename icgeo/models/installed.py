"""What is installed here: versions, devices, kernels of attention, extras, the hub's cache."""

import re
from importlib import metadata
from typing import Any

import torch
from huggingface_hub import constants

from icgeo import config
from icgeo.models.attention import BACKENDS
from icgeo.models.hub import BUILT_IN, LoadError
from icgeo.models.loading import require_backend


def installed() -> dict[str, Any]:
    """Return it as plain values, ready for JSON."""
    backends = dict.fromkeys(BACKENDS, "yes")
    for name in BACKENDS:
        try:
            require_backend(name)
        except LoadError as error:
            backends[name] = f"no: {error}"
    return {
        "icgeo": metadata.version("icgeo"),
        **{name: value for name, value in config.versions().items() if name != "device"},
        "devices": devices(),
        "attention backends": backends,
        "extras": extras(),
        "models in the package": list(BUILT_IN),
        "hub": {"cache": constants.HF_HUB_CACHE, "offline": bool(constants.HF_HUB_OFFLINE)},
    }


def devices() -> dict[str, str]:
    """Return what models can run on, as `device` takes it."""
    names = {"cpu": f"{torch.get_num_threads()} threads"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        names[f"cuda:{number}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return names


def extras() -> dict[str, str]:
    """Say of each extra of the package whether what it needs is there."""
    answers = {}
    names = {one.name.lower().replace("_", "-") for one in metadata.distributions()}
    requirements = metadata.requires("icgeo") or []
    for extra in metadata.metadata("icgeo").get_all("Provides-Extra") or []:
        lines = [line for line in requirements if re.search(rf"extra == ['\"]{extra}['\"]", line)]
        packages = [re.split(r"[^\w.-]", line)[0] for line in lines]
        missing = [name for name in packages if name.lower().replace("_", "-") not in names]
        answers[extra] = f"no: {', '.join(missing)}" if missing else "yes"
    return answers
