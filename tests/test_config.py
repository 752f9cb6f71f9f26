"""Options from defaults, YAML and the command line; run folders that can be continued."""

import json
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from icgeo import config
from icgeo.config import parse, save_run


@dataclass(frozen=True)
class Options:
    """Train a model of tests."""

    rate: float = 1e-3
    """Step size of the optimiser."""
    steps: int = 100
    """Number of updates."""
    shots: tuple[int, ...] = (0, 1)
    """Numbers of examples."""
    world: Path | None = None
    """Picture of the world."""
    attention: Literal["joint", "pairwise"] = "pairwise"
    """Who sees whom."""
    compiled: bool = False
    """Compile the blocks."""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"expected at least 1 step, got {self.steps}")


OTHER = Options(3e-4, 7, (4, 16), Path("mars.jpg"), "joint", True)


def write_yaml(folder, text):
    path = folder / "options.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_run():
    assert parse(Options, []) == Options()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], False),
        (["--compiled"], True),
        (["--compiled", "true"], True),
        (["--compiled=false"], False),
    ],
)
def test_a_switch_may_stand_alone(args, expected):
    assert parse(Options, [*args, "--steps", "2"]) == Options(steps=2, compiled=expected)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--shots", "0,4,16"], (0, 4, 16)),
        (["--shots=0,4,16"], (0, 4, 16)),
        (["--shots", "[0, 4, 16]"], (0, 4, 16)),
        (["--shots", "4"], (4,)),
        (["--shots", "[]"], ()),
    ],
)
def test_several_values_take_commas(args, expected):
    assert parse(Options, [*args, "--compiled"]) == Options(shots=expected, compiled=True)


@dataclass(frozen=True)
class Report:
    """Show some runs."""

    runs: tuple[Path, ...] = config.positional("Folders of runs.")
    names: str | tuple[str, ...] = "all"
    """One name, or several."""
    quiet: bool = False
    """Print nothing."""


def test_words_without_a_name_are_a_list(capsys):
    found = parse(Report, ["a", "b", "--quiet"])
    assert ([*found.runs], found.names, found.quiet) == ([Path("a"), Path("b")], "all", True)
    assert [*parse(Report, ["--quiet", "c"]).runs] == [Path("c")]
    assert parse(Report, ["--names", "x"]).names == "x"
    assert parse(Report, ["--names", "x,y"]).names == ("x", "y")
    with pytest.raises(SystemExit, match="0"):
        parse(Report, ["--help"])
    assert "Folders of runs." in capsys.readouterr().out


def test_command_line_is_over_yaml_is_over_defaults(tmp_path):
    path = write_yaml(tmp_path, "rate: 3e-4\nsteps: 7\nworld: mars.jpg\n")
    options = parse(Options, ["--config", path, "--steps=9", "--shots=[2]", "--compiled=true"])
    assert options == Options(rate=3e-4, steps=9, shots=(2,), world=Path("mars.jpg"), compiled=True)


def test_the_command_line_is_that_of_the_process(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--steps", "3"])
    assert parse(Options).steps == 3


@pytest.mark.parametrize("text", ["3e-4", "0.0003", "3.0E-4"])
def test_numbers_are_numbers(tmp_path, text):
    """PyYAML alone reads 3e-4 as text."""
    assert parse(Options, [f"--rate={text}"]).rate == 3e-4
    assert parse(Options, ["--config", write_yaml(tmp_path, f"rate: {text}")]).rate == 3e-4
    assert isinstance(parse(Options, ["--rate=1"]).rate, float)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stepz", "3", "stepz"),
        ("step", "3", "step"),
        ("steps", "many", "key \"steps\": Expected a <class 'int'>. Got value: many"),
        ("steps", "2.5", "Got value: 2.5"),
        ("steps", "0", "expected at least 1 step, got 0"),
        ("rate", "fast", "key \"rate\": Expected a <class 'float'>. Got value: fast"),
        ("attention", "none", "['joint', 'pairwise']. Got value: none"),
        ("compiled", "3", 'key "compiled"'),
        ("shots", "[1, x]", 'key "shots"'),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(key, value, message, tmp_path, monkeypatch, capsys):
    for args in ([f"--{key}={value}"], ["--config", write_yaml(tmp_path, f"{key}: {value}")]):
        monkeypatch.setattr("sys.argv", ["train.py", *args])
        with pytest.raises(SystemExit) as stopped:
            config.run(print, Options)
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert error.count("\n") == 1
        assert "error: " in error
        assert message in error


def test_a_config_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--config", "nowhere.yaml"])
    with pytest.raises(SystemExit, match="2"):
        config.run(print, Options)
    assert "nowhere.yaml" in capsys.readouterr().err


def test_help_shows_the_docstrings_and_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Options, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Train a model of tests." in shown
    assert "--rate RATE Step size of the optimiser. (type: float, default: 0.001)" in shown


def test_print_config_shows_the_resolved_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Options, ["--steps=9", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown.pop("config", None) is None
    assert list(shown) == ["rate", "steps", "shots", "world", "attention", "compiled"]
    assert (shown["rate"], shown["steps"]) == (1e-3, 9)


@settings(max_examples=20)  # each parses four times
@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(1),
    shots=st.lists(st.integers()).map(tuple),
)
def test_saved_options_are_read_back(tmp_path_factory, rate, steps, shots):
    options = replace(OTHER, rate=rate, steps=steps, shots=shots)
    folder = save_run(tmp_path_factory.mktemp("run"), options)
    assert parse(Options, ["--config", str(folder / "options.yaml")]) == options


@pytest.mark.parametrize("spelled", [("--world", "~/a.png"), ("--world=~/a.png",)])
def test_the_home_folder_is_that_of_the_user(spelled, monkeypatch, tmp_path):
    """Where the shell leaves it, as behind an equals sign or in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(Options, spelled).world == tmp_path / "a.png"
    assert parse(Options, ["--world", "a~/b.png"]).world == Path("a~/b.png")
    assert parse(Options, ["--world", "~nobody/b.png"]).world == Path("~nobody/b.png")


def test_a_run_folder_says_what_ran(tmp_path):
    folder = save_run(tmp_path / "runs" / "name", OTHER)
    assert sorted(path.name for path in folder.iterdir()) == ["options.yaml", "versions.json"]
    assert yaml.safe_load((folder / "options.yaml").read_text()) == {
        "rate": 3e-4,
        "steps": 7,
        "shots": [4, 16],
        "world": "mars.jpg",
        "attention": "joint",
        "compiled": True,
    }
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["python"] == platform.python_version()
    assert versions["packages"]["torch"] == torch.__version__
    assert versions["packages"]["icgeo"] == metadata.version("icgeo")
    assert {"numpy", "astropy-healpix", "jsonargparse"} <= set(versions["packages"])
    assert "pytest" not in versions["packages"]
    assert versions["device"]


def test_a_run_continues_with_the_same_options(tmp_path):
    save_run(tmp_path, OTHER)
    before = (tmp_path / "versions.json").read_text()
    save_run(str(tmp_path), OTHER)
    assert json.loads((tmp_path / "versions.json").read_text()) == {
        **json.loads(before),
        "earlier": [],
    }


def test_other_options_are_refused_by_name(tmp_path):
    save_run(tmp_path, Options(rate=3e-4))
    with pytest.raises(ValueError, match=r"rate \(there 0.0003, now 0.1\), shots .*--config") as it:
        save_run(tmp_path, Options(rate=0.1, shots=(4,)))
    assert "steps" not in str(it.value)
    assert parse(Options, ["--config", str(tmp_path / "options.yaml")]).rate == 3e-4


def test_some_options_may_differ(tmp_path):
    save_run(tmp_path, Options(steps=10))
    save_run(tmp_path, Options(steps=20), may_differ=["steps"])
    assert parse(Options, ["--config", str(tmp_path / "options.yaml")]).steps == 20


def test_the_folder_of_another_script_is_refused(tmp_path):
    write_yaml(tmp_path, "colour: red\n")
    with pytest.raises(ValueError, match="'colour' is not accepted; choose another folder"):
        save_run(tmp_path, Options())


def test_versions_of_earlier_starts_are_kept(tmp_path, caplog, monkeypatch):
    for version in ("first", "second", "second", "third"):
        monkeypatch.setattr(platform, "python_version", lambda version=version: version)
        save_run(tmp_path, Options())
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["python"] == "third"
    assert [earlier["python"] for earlier in versions["earlier"]] == ["first", "second"]
    assert caplog.text.count("other versions") == 2


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository that holds a copy of config.py, not added yet."""
    copy = shutil.copy(config.__file__, tmp_path)
    monkeypatch.setattr(config, "__file__", copy)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*arguments):
        who = ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return Path(copy), git


def test_the_commit_is_that_of_the_checkout_of_this_file(checkout):
    source, git = checkout
    assert config.versions()["git_commit"] is None, "no repository"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another project")
    assert config.versions()["git_commit"] is None, "a repository that does not track icgeo"
    git("add", ".")
    git("commit", "-q", "-m", "icgeo")
    git("tag", "v1")
    versions = config.versions()
    assert (versions["git_commit"], versions["git_dirty"]) == (git("rev-parse", "HEAD"), False)
    source.write_text("changed")
    assert config.versions()["git_dirty"] is True
    git("rm", "-q", "--cached", source.name)
    assert config.versions()["git_dirty"] is None


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert config.versions()["git_commit"] is None


def test_what_cannot_be_done_exits_with_2_and_one_line(monkeypatch, capsys):
    def main(options):
        raise config.UsageError("expected a model,\ngot none")

    monkeypatch.setattr("sys.argv", ["locate.py"])
    with pytest.raises(SystemExit) as stopped:
        config.run(main, Options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "locate.py: error: expected a model, got none\n"
