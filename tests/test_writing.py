import pytest

from icgeo.writing import append_lines, partial_name, write_atomically


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    with write_atomically(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder/file.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    with write_atomically(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_fails_leaves_the_earlier_file_alone(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")

    def break_off():
        with write_atomically(path) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_of_the_same_number_left_is_gone(tmp_path):
    path = tmp_path / "rows.jsonl"
    partial_name(path).write_text("half of a row")
    with write_atomically(path) as partial:
        append_lines(partial, ["{}"])
    assert path.read_text() == "{}\n"


@pytest.mark.parametrize(("torn", "start"), [("", ""), ("whole\n", "whole\n"), ("to", "to\n")])
def test_lines_stand_behind_what_is_torn(tmp_path, torn, start):
    path = tmp_path / "rows.jsonl"
    path.write_text(torn)
    append_lines(path, ["first", "second"])
    append_lines(path, [])
    assert path.read_text() == f"{start}first\nsecond\n"
