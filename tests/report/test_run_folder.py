"""Tests of run folders: read as they are, whatever is in them, and never changed."""

from dataclasses import replace

import pytest
from PIL import Image
from report_rows import rows, write_run

from icgeo.config import UsageError
from icgeo.report import read_run


def test_a_run_still_being_written_is_read_and_not_touched(tmp_path):
    folder = write_run(tmp_path, rows(count=2))
    path = folder / "predictions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"locator": "icg')
    before = path.read_bytes()
    assert len(read_run(folder).rows) == len(rows(count=2))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("predictions.jsonl", "nonsense\n", "line 1: expected a row"),
        ("options.yaml", "- a\n- b\n", "named values in .*options.yaml, got list"),
        ("options.yaml", "a: [", "cannot read .*run"),
        ("versions.json", "{", "cannot read .*run"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    folder = write_run(tmp_path, [])
    (folder / name).write_text(content)
    with pytest.raises(UsageError, match=words):
        read_run(folder)


def test_another_folder_is_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"predictions\.jsonl, found none in .*scripts/zero_shot"):
        read_run(tmp_path)


def test_photos_are_taken_from_their_files_where_none_were_kept(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (600, 300), (200, 30, 30)).save(path)
    some = [replace(row, source=str(path)) for row in rows(count=1, shots=(1,))]
    (case,) = read_run(write_run(tmp_path, some)).cases.itertuples()
    assert case.photo is not None
    assert case.map is case.density is None
