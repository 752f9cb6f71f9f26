import pytest

from icgeo.writing import write_atomically


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    with write_atomically(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


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
