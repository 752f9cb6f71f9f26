"""Gradients of one step in float64, written by the main process; run by `accelerate launch`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_lora import FEW, UNKNOWN, small_model

from icgeo.training.draws import Gallery
from icgeo.training.lora import LoraTraining
from icgeo.training.objectives import objective_of
from icgeo.training.pools import view_pool


def main(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pool = view_pool(torch.rand(3, 24, 48, generator=generator), 12, size=64, generator=generator)
    model = small_model()
    model.learner.double()
    objective = objective_of(model, UNKNOWN)
    latents = objective.encode(pool)
    gallery = Gallery.of(pool.lat_lon, latents["features"])
    options = replace(FEW, average=0.5)
    run = LoraTraining(objective, latents, gallery, exam=None, folder=folder, options=options)
    for weight in run.weights:
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    (part,) = run.parts(0)
    run.accelerator.backward(run.prepared(run.latents, part))
    grads = {str(i): weight.grad.clone() for i, weight in enumerate(run.weights)}
    run.optimizer.zero_grad()
    run.update()
    run.update()
    if run.accelerator.is_main_process:
        weights = {f"after {i}": weight.detach() for i, weight in enumerate(run.weights)}
        told = {"processes": torch.tensor(run.accelerator.num_processes), **weights}
        save_file({**grads, **told}, folder / "found.safetensors")
    run.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
