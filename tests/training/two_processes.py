"""Gradients and weights of a run in float64, written by the main process; run by a launcher."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from test_lora import FEW, UNKNOWN, small_model, validated_on

from icgeo.training.adapters import whole
from icgeo.training.episodes import Gallery
from icgeo.training.lora import LoraTraining
from icgeo.training.losses import FlowLoss
from icgeo.training.photo_sets import view_set


def shard():
    """Let accelerate shard on CPUs too, which it (1.15) does on accelerators alone."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
        state_dict_type="SHARDED_STATE_DICT",
    )
    for state in (AcceleratorState._shared_state, PartialState._shared_state):
        state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin


def new_run(folder, accelerator):
    generator = torch.Generator().manual_seed(0)
    photos = view_set(torch.rand(3, 24, 48, generator=generator), 12, size=64, generator=generator)
    model = small_model()
    model.backbone.double()
    loss = FlowLoss(model, UNKNOWN)
    latents = loss.encode(photos)
    return LoraTraining(
        loss,
        latents,
        Gallery.of(photos.lat_lon, latents["features"]),
        folder=folder,
        options=replace(FEW, average=0.5, learning_rate=0.1),
        accelerator=accelerator,
        validation=validated_on(photos),
    )


def state_of(run):
    """Weights, then their average."""
    both = (*run.weights, *run.average.shadow_params)
    return {str(i): whole(x.detach()).clone() for i, x in enumerate(both)}


def main(folder: Path, kind: str) -> None:
    accelerator = Accelerator(cpu=True)
    if kind == "fsdp":
        shard()
    run = new_run(folder, accelerator)
    run.update()
    (part,) = run.parts(1)
    run.accelerator.backward(run.forward(run.latents, part))
    grads = {f"grad {i}": whole(x.grad).clone() for i, x in enumerate(run.weights)}
    run.optimizer.zero_grad()
    run.update()
    run.log(run.validate())
    run.save()
    saved = state_of(run)
    run.update()
    run.resume()
    again = state_of(run)
    if accelerator.is_main_process:
        facts = {
            "processes": torch.tensor(accelerator.num_processes),
            "is_sharded": torch.tensor(run.forward is run.loss),
            "comes_back": torch.tensor(all(torch.equal(x, again[i]) for i, x in saved.items())),
        }
        save_file({**grads, **saved, **facts}, folder / "found.safetensors")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    os._exit(0)  # torch has been seen to abort when threads of gloo outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
