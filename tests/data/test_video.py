"""Tests of reading videos, on small ones written here."""

import sys

import av
import numpy as np
import pytest

from icgeo.config import UsageError
from icgeo.data.video import MAX_SIDE, read_video


def write(path, frames, *, rate=4, codec="mpeg4"):
    """Write pictures [height, width] of grey."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuv420p"
        for grey in frames:
            picture = np.repeat(grey[..., None], 3, axis=2)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def shades(count, height=48, width=64):
    """Frames that tell their number by their brightness."""
    return [np.full((height, width), 16 * i % 256, dtype=np.uint8) for i in range(count)]


@pytest.fixture
def clip(tmp_path):
    """Three seconds, four frames in each."""
    return write(tmp_path / "clip.mp4", shades(12))


@pytest.mark.parametrize(
    ("every", "chosen"),
    [(0.25, range(12)), (1.0, (0, 4, 8)), (0.6, (0, 3, 6, 9)), (0.01, range(12)), (99, (0,))],
)
def test_frames_and_their_times(clip, every, chosen):
    images, seconds = read_video(clip, every_seconds=every)
    assert seconds == pytest.approx([0.25 * i for i in chosen], abs=1e-6)
    assert [image.size for image in images] == len(seconds) * [(64, 48)]
    greys = [np.asarray(image).mean() for image in images]
    assert greys == pytest.approx([16 * i for i in chosen], abs=6)  # what the codec loses


def test_a_long_video_is_cut_with_a_warning(clip, caplog):
    assert read_video(clip, every_seconds=0.5, max_frames=3)[1] == [0, 0.5, 1.0]
    assert "clip.mp4: took the first 3 frames alone" in caplog.text
    caplog.clear()
    assert len(read_video(clip, every_seconds=0.25, max_frames=12)[0]) == 12
    assert not caplog.text


def test_phones_turn_their_pictures(tmp_path):
    """The matrix of a portrait video, a quarter turn clockwise, as ISO 14496-12 (8.3.2) has it.

    Its nine numbers are of 32 bits with 16 behind the point (14 for the last), and map (x, y) to
    (-y, x), with y down.
    """
    picture = np.zeros((48, 64), dtype=np.uint8)
    picture[:16, :16] = 255
    path = write(tmp_path / "portrait.mp4", 2 * [picture])
    one, none, last = b"\0\1\0\0", b"\0\0\0\0", b"\x40\0\0\0"
    upright = one + 3 * none + one + 3 * none + last
    turned = none + one + none + b"\xff\xff\0\0" + 4 * none + last
    before, header, after = path.read_bytes().partition(b"tkhd")
    path.write_bytes(before + header + after.replace(upright, turned, 1))
    (first, *_), _ = read_video(path)
    assert first.size == (48, 64)
    assert np.asarray(first)[:16, -16:].mean() > 240
    assert np.asarray(first)[20:].mean() < 15


def test_large_frames_are_reduced(tmp_path):
    path = write(tmp_path / "large.mkv", shades(1, height=200, width=2 * MAX_SIDE))
    assert read_video(path)[0][0].size == (MAX_SIDE, 100)


def test_a_video_that_breaks_off_is_read_so_far(tmp_path, caplog):
    path = write(tmp_path / "clip.mkv", shades(40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found = len(read_video(path, every_seconds=0.25)[0])
    assert 10 < found < 40


def test_what_is_no_video_is_refused_in_one_line(tmp_path, clip):
    half, text, sound = (tmp_path / name for name in ("half.mp4", "text.mp4", "sound.wav"))
    half.write_bytes(clip.read_bytes()[:300])
    text.write_text("no video")
    with av.open(str(sound), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        tone.sample_rate = 8000
        for packet in stream.encode(tone):
            file.mux(packet)
    for path, words in (
        (tmp_path / "absent.mp4", "there is no video"),
        (tmp_path, "there is no video"),
        (half, "expected a video"),
        (text, "Invalid data"),
        (sound, "without pictures"),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            read_video(path)
        assert path.name in str(raised.value)
        assert "\n" not in str(raised.value)


def test_without_pyav_the_remedy_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install 'icgeo\[video\]'"):
        read_video(clip)


@pytest.mark.parametrize("options", [{"every_seconds": 0}, {"max_frames": 0}])
def test_senseless_options_are_refused(clip, options):
    with pytest.raises(ValueError, match="above 0"):
        read_video(clip, **options)
