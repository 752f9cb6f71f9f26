"""Two processes with half of the batch each do what one does with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

LAUNCH = ("-m", "torch.distributed.run", "--nnodes", "1", "--rdzv_backend", "c10d")
"""`accelerate launch --cpu` starts one process alone, however many are asked for (1.15)."""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    """To 1e-10 in float64, and after two steps the same weights; gloo on a CPU."""
    script = Path(__file__).with_name("two_processes.py")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (root, script.parent)))
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        count = ("--rdzv_endpoint", "localhost:0", "--nproc_per_node", processes)
        command = (sys.executable, *LAUNCH, *count, script, folder)
        subprocess.run(
            [str(part) for part in command],
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "OMP_NUM_THREADS": "1",
                "ACCELERATE_USE_CPU": "true",
            },
            check=True,
            capture_output=True,
            timeout=600,
        )
        found.append(load_file(folder / "found.safetensors"))
    one, two = found
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    largest = max(x.abs().max().item() for name, x in one.items() if name.isdigit())
    assert largest > 1e-6
    for name, x in one.items():
        assert x.dtype == torch.float64
        torch.testing.assert_close(two[name], x, atol=1e-10, rtol=0)
