"""The main script killed at random and divided: its tables against that of an undisturbed run.

At full size: python tests/scripts/kill_runs.py FOLDER --queries 2000 --kills 5
"""

import json
import os
import random
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import pandas
import psutil

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "torch.distributed.run", "--nnodes", "1", "--rdzv_backend", "c10d")


def start(folder: Path, options: tuple[object, ...], processes: int = 1) -> subprocess.Popen:
    """Start the main script in a folder of its own, on as many processes."""
    folder.mkdir(parents=True, exist_ok=True)
    many = (*LAUNCH, "--rdzv_endpoint", "localhost:0", "--nproc_per_node", processes)
    script = (ROOT / "scripts" / "zero_shot.py", *options)
    command = (sys.executable, *(many if processes > 1 else ()), *script)
    with (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def finished(folder: Path, options: tuple[object, ...], processes: int = 1) -> pandas.DataFrame:
    """Run the main script to its end and give its table."""
    if start(folder, options, processes).wait():
        raise RuntimeError((folder / "errors.txt").read_text()[-2000:])
    return pandas.read_parquet(folder / "runs" / "zero-shot" / "predictions.parquet")


def lines(folder: Path) -> int:
    files = (folder / "runs" / "zero-shot").glob("predictions*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in files)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all that it has started, with SIGKILL."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.wait()


def killed(
    folder: Path, options: tuple[object, ...], *, rows: int, processes: list[int], seed: int = 0
) -> tuple[pandas.DataFrame, list[int]]:
    """Kill all starts but the last at random, each on a number of processes of its own.

    Returns:
        the table, and how many rows were on disk at each kill.
    """
    chance = random.Random(seed)
    moments = sorted(chance.randrange(1, rows) for _ in processes[1:])
    found = []
    for moment, count in zip(moments, processes[:-1], strict=True):
        process = start(folder, options, count)
        while lines(folder) < moment and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            raise RuntimeError((folder / "errors.txt").read_text()[-2000:])
        kill(process)
        found.append(lines(folder))
    return finished(folder, options, processes[-1]), found


def difference(one: pandas.DataFrame, other: pandas.DataFrame) -> dict[str, object]:
    """Say whether two tables are the same but for their times, and how far log-densities are."""
    one, other = (table.drop(columns="seconds") for table in (one, other))
    keys = ["locator", "episode", "id", "shots"]
    return {
        "rows": (len(one), len(other)),
        "same order": one[keys].equals(other[keys]),
        "equal to the bit": one.equals(other),
        "largest difference of nll": float((one.nll - other.nll).abs().max()),
    }


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--model", default="tiny")
    told = parser.parse_args()
    options = ("--model", told.model, "--world", "craters", "--count", told.queries // 2)
    options = (*options, "--shots", "[16]")
    began = time.monotonic()
    whole = finished(told.folder / "whole", options)

    def tell(what: str, table: pandas.DataFrame, **more: object) -> None:
        found = {"what": what, "seconds": round(time.monotonic() - began), **more}
        with (told.folder / "found.jsonl").open("a") as stream:
            stream.write(json.dumps(found | difference(whole, table)) + "\n")

    tell("undisturbed", whole)
    for name, processes in (("killed", [1] * 6), ("killed and divided", [2, 3, 1, 3, 2, 1])):
        counts = processes[-told.kills - 1 :]
        began = time.monotonic()
        table, at = killed(told.folder / name, options, rows=len(whole), processes=counts)
        tell(name, table, processes=counts, rows_at_kills=at)
    for shards in (2, 3):
        began = time.monotonic()
        tell(f"{shards} shards", finished(told.folder / str(shards), options, shards))


if __name__ == "__main__":
    main()
