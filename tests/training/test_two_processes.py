"""Two processes with half of the batch each do what one does with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0")
"""With `--cpu`, `accelerate launch` starts one process however many are asked for (1.15): it hands
several to MPI. `--multi_gpu` is its name for several; the environment says that they are CPUs."""


def launched(folder, kind, processes):
    folder.mkdir()
    script = Path(__file__).with_name("two_processes.py")
    paths = os.pathsep.join(map(str, (Path(__file__).parents[2], script.parent)))
    several = ("--multi_gpu",) if processes > 1 else ()
    command = (*LAUNCH, *several, "--num_processes", processes, script, folder, kind)
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return load_file(folder / "found.safetensors")


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    """To 1e-12 in float64: gradients, weights after two steps, their average; whole or sharded."""
    one = launched(tmp_path / "one", "whole", 1)
    assert max(x.abs().max().item() for name, x in one.items() if name.startswith("grad")) > 1e-5
    for kind in ("whole", "fsdp"):
        two = launched(tmp_path / kind, kind, 2)
        told = [x.item() for x in (two.pop("processes"), two.pop("is_sharded"))]
        assert told == [2, kind == "fsdp"]
        assert two.pop("comes_back").item()
        for name, x in two.items():
            assert x.dtype == torch.float64
            torch.testing.assert_close(x, one[name], atol=1e-12, rtol=0)
        adapter = load_file(tmp_path / kind / "adapter" / "pytorch_lora_weights.safetensors")
        alone = load_file(tmp_path / "one" / "adapter" / "pytorch_lora_weights.safetensors")
        for name, x in alone.items():
            torch.testing.assert_close(adapter[name], x, atol=1e-6, rtol=0)
