"""Adapt a model to photos by a LoRA, with Accelerate.

A run is the same on any number of processes: episodes follow from (seed, step, number) and are
divided among them. Its state is saved at once or not at all, so that one killed at any moment goes
on from its last checkpoint and ends with the same weights.
"""

import importlib.util
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from icgeo.config import UsageError, require
from icgeo.models.map_model import MapModel
from icgeo.training.adapters import Average, add_lora, learned, save_adapter, tie_kept
from icgeo.training.calibration import ValidationResult, validate, validation_episodes
from icgeo.training.episodes import EpisodeSample, Gallery, sample_episode
from icgeo.training.loop import has_fast_bfloat16, train
from icgeo.training.losses import FlowLoss, Latents, encoded
from icgeo.training.options import LoraOptions
from icgeo.training.photo_sets import Splits

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)
"""How long the other processes wait while the main one compares."""
ADAPTER, BEST = "adapter.safetensors", "adapter"


def make_accelerator(options: LoraOptions, folder: Path) -> Accelerator:
    """Set up device, processes, precision and trackers, as `accelerate launch` was told."""
    package = None if options.tracker == "none" else options.tracker
    if package and importlib.util.find_spec(package) is None:
        logger.info("%s is not installed: losses go to log.jsonl alone", package)
        package = None
    precision = options.mixed_precision
    on_cpu = not torch.accelerator.is_available()
    if precision == "bf16" and on_cpu and not has_fast_bfloat16(torch.device("cpu")):
        logger.info("this processor has no units for bfloat16: training in float32")
        precision = "no"
    return Accelerator(
        gradient_accumulation_steps=options.accumulate,
        mixed_precision=precision,
        log_with=package,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


@dataclass(eq=False)
class LoraTraining:
    """A run, which adds a LoRA to the transformer of a loss: what learns, from what, how far.

    Raises:
        UsageError: targets that match nothing, too few pairs, or a batch that processes and
            parts cannot share evenly.
    """

    loss: FlowLoss
    latents: Latents
    gallery: Gallery
    _: KW_ONLY
    folder: Path
    options: LoraOptions
    accelerator: Accelerator
    validation: Callable[[MapModel], dict[int, ValidationResult]] | None = None
    """Validates by the number of shots, on photos that it is not trained on."""
    step: int = 0
    best: float = math.inf
    """Lowest NLL so far, over the validated numbers of shots."""
    since: int = 0
    """Validations since then."""
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        options, accelerator = self.options, self.accelerator
        shares = accelerator.num_processes * options.accumulate
        if options.episodes % shares:
            raise UsageError(
                f"expected episodes a step that {shares} processes and parts share evenly, got "
                f"{options.episodes}"
            )
        if len(self.gallery) < options.views:
            raise UsageError(
                f"expected at least {options.views} pairs to train on, the views of an episode, "
                f"got {len(self.gallery)}; add photos, or take fewer views"
            )
        self.transformer = self.loss.transformer
        names = ("rank", "alpha", "targets", "dora", "rslora", "seed")
        adapter: dict[str, Any] = {name: getattr(options, name) for name in names}
        weights = add_lora(self.transformer, **adapter)
        if options.checkpointing:
            model: Any = self.transformer
            model.enable_gradient_checkpointing()
        kind: Any = torch.optim.AdamW
        if options.eight_bit:
            kind = require("bitsandbytes", "eight_bit", "quantization").optim.AdamW8bit
        # the learning rate is set at each step
        self._prepare(kind(weights, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0))

    @classmethod
    def of(
        cls,
        model: MapModel,
        splits: Splits,
        prompt: str,
        folder: Path,
        options: LoraOptions,
        accelerator: Accelerator,
    ) -> "LoraTraining":
        """Make a run for split photos; raise UsageError for a model or prompt that cannot learn.

        The model is sampled with as many steps as the options mean.
        """
        model = model.choosing(steps=options.for_steps)
        options = replace(options, for_steps=model.settings.steps)
        loss, shots = FlowLoss(model, prompt), options.views - 1
        with accelerator.main_process_first():
            latents = encoded(loss, splits.training, folder / "latents")
        episodes = validation_episodes(
            splits.training, splits.validation, shots=shots, queries_each=16, seed=options.seed
        )
        gallery = Gallery.of(splits.training.lat_lon, latents["features"])
        run = {"folder": folder, "options": options, "accelerator": accelerator}
        settings: dict[str, Any] = {"prompt": prompt, "steps": options.for_steps}
        check = partial(validate, episodes=list(episodes), shots=(0, shots), **settings)
        return cls(loss, latents, gallery, validation=check, **run)

    def _prepare(self, optimizer: torch.optim.Optimizer) -> None:
        accelerator = self.accelerator
        # sharded weights are gathered where the transformer is called; gradients of processes with
        # whole weights are averaged where the loss is
        is_sharded = accelerator.distributed_type == DistributedType.FSDP
        learner = self.transformer if is_sharded else self.loss
        self.prepared, self.optimizer = accelerator.prepare(learner, optimizer)
        self.forward = self.loss if is_sharded else self.prepared
        self.weights = learned(self.transformer)
        self.average = Average(self.weights, decay=self.options.average)
        accelerator.register_for_checkpointing(self.average, self)
        if is_sharded:
            self.transformer.register_forward_hook(tie_kept, with_kwargs=True)
        else:
            accelerator.register_save_state_pre_hook(self._save_weights)
            accelerator.register_load_state_pre_hook(self._load_weights)

    def _save_weights(self, models: list[Any], weights: list[Any], folder: str) -> None:
        """Save the adapter in place of the whole model."""
        if self.accelerator.is_main_process:
            state = get_peft_model_state_dict(self.transformer)
            save_file({name: x.contiguous() for name, x in state.items()}, Path(folder) / ADAPTER)
        weights.clear()

    def _load_weights(self, models: list[Any], folder: str) -> None:
        set_peft_model_state_dict(self.transformer, load_file(Path(folder) / ADAPTER))
        models.clear()

    def parts(self, step: int) -> Iterator[list[EpisodeSample]]:
        """Draw this process's share of the episodes of a step, part by part."""
        options, accelerator = self.options, self.accelerator
        share = options.episodes // (accelerator.num_processes * options.accumulate)
        for part in range(options.accumulate):
            first = (part * accelerator.num_processes + accelerator.process_index) * share
            yield [
                sample_episode(self.gallery, options, options.seed, step, number)
                for number in range(first, first + share)
            ]

    def update(self) -> dict[str, float]:
        """Take one step; return this process's loss."""
        accelerator, options = self.accelerator, self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(self.step)
        total = 0.0
        for part in self.parts(self.step):
            with accelerator.accumulate(self.prepared):
                loss = self.forward(self.latents, part)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.weights, options.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.item() / options.accumulate
        self.average.step(self.weights)
        self.step += 1
        return {"loss": total}

    def run(self) -> dict[str, float]:
        """Train to the end, the best adapter in `adapter/`; return the last line of the log."""
        options, accelerator = self.options, self.accelerator
        accelerator.init_trackers("lora")
        every = {name: getattr(options, name) for name in ("validate_every", "save_every")}
        train(self, options.steps, is_main=accelerator.is_main_process, **every)
        for tracker in accelerator.trackers:
            tracker.finish()
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as Accelerate saves it beside the weights."""
        return {name: getattr(self, name) for name in ("step", "best", "since", "history")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.__dict__.update(state)

    @property
    def has_stopped(self) -> bool:
        """Whether validation has not improved for too long."""
        return 0 < self.options.patience <= self.since

    def validate(self) -> dict[str, float]:
        """Measure the averaged adapter, and keep it if it is the best so far."""
        with self.average.applied(self.transformer):
            results = self.validation(self.loss.model) if self.validation else {}
            nll = math.fsum(result.nll for result in results.values()) / max(1, len(results))
            (nll,) = broadcast_object_list([nll])  # of one process for all, lest they part
            is_best = nll < self.best or not results
            self.best = min(nll, self.best)
            self.since = 0 if is_best else self.since + 1
            if is_best:
                is_main = self.accelerator.is_main_process
                save_adapter(self.transformer, self.folder / BEST, is_main=is_main)
        nlls = {f"{shots} shots, NLL": result.nll for shots, result in results.items()}
        return nlls | {f"{shots} shots, km": result.median_km for shots, result in results.items()}

    def log(self, record: Mapping[str, float]) -> None:
        """Write a line of `log.jsonl`, and of the trackers."""
        self.history.append({"step": float(self.step), **record})
        self.accelerator.log(self.history[-1], step=self.step)
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            (self.folder / "log.jsonl").write_text(lines)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        shapes = [list(weight.shape) for weight in self.weights]
        return {"model": self.loss.model.fingerprint["model"], "shapes": shapes}

    @property
    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, the newest last."""
        paths = (self.folder / "checkpoints").glob("*")
        return sorted(path for path in paths if path.name.isdigit())

    def save(self) -> None:
        """Write the whole state, then forget the one before; if it cannot be, raise UsageError."""
        path = self.folder / "checkpoints" / f"{self.step:08d}"
        partial_path, accelerator = path.with_suffix(".partial"), self.accelerator
        try:
            if accelerator.is_main_process:
                shutil.rmtree(partial_path, ignore_errors=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(partial_path))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                (partial_path / "identity.json").write_text(json.dumps(self.identity))
                shutil.rmtree(path, ignore_errors=True)
                partial_path.rename(path)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial_path, ignore_errors=True)
            raise UsageError(
                f"cannot write {path}: {error}; make room and start again, it continues from "
                "the checkpoint before"
            ) from error
        if accelerator.is_main_process:
            for checkpoint in self.checkpoints[:-1]:
                shutil.rmtree(checkpoint)

    def resume(self) -> bool:
        """Go on from the last checkpoint, if any; raise UsageError if it is of another model."""
        if not self.checkpoints:
            return False
        path = self.checkpoints[-1]
        identity = json.loads((path / "identity.json").read_text())
        if identity != json.loads(json.dumps(self.identity)):
            raise UsageError(
                f"expected a checkpoint of {self.identity['model']!r} with this adapter in {path}, "
                f"got one of {identity['model']!r}; choose another run folder"
            )
        self.accelerator.load_state(str(path))
        return True
