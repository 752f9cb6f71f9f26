"""The script that locates photos at those that look alike."""

import pytest
from script_runs import run


def rows(text):
    """Give median error and share within 2500 km of each way, table by table."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if "%" in line and "GeoScore" not in line
    ]
    return [(name, float(median), float(near.strip("%"))) for name, median, near, _ in cells]


def test_chance_is_every_other_photo_alike(capsys, tmp_path):
    """Of three photos two are in one place: a pair 0 km apart, and two pairs a quarter round."""
    pixels = "P3 2 1 255 {} 0 0 0 0 255"
    for name, red in (("a", 255), ("b", 250), ("c", 10)):
        (tmp_path / f"{name}.ppm").write_text(pixels.format(red))
    (tmp_path / "list.csv").write_text("image,lat,lon\na.ppm,0,1\nb.ppm,0,1\nc.ppm,0,91\n")
    options = ("--features", "[pixels]", "--apart_km", "[0]")
    run("experiments/retrieve_photos", "--photos", tmp_path / "list.csv", *options)
    (_, chance_km, chance_near), (name, km, near) = rows(capsys.readouterr().out)
    assert (name, chance_km, chance_near) == ("pixels", 10008, 33)
    assert (km, near) == (0, 67)


@pytest.mark.slow
def test_features_of_imagenet_beat_chance_on_the_photos_in_the_box(capsys):
    """Even where a second photo of the same place does not count: half the median error."""
    run("experiments/retrieve_photos")
    found = rows(capsys.readouterr().out)
    assert [name for name, _, _ in found] == 2 * ["any, by chance", "efficientnet-lite0", "pixels"]
    for chance, efficientnet in (found[:2], found[3:5]):
        assert efficientnet[1] < chance[1] / 2
        assert efficientnet[2] > chance[2] + 10
