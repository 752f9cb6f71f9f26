"""Test of measuring styles end to end, through an autoencoder of random weights."""

import pytest
import torch
from safetensors.torch import save_file
from script_runs import load_script
from torch import nn

from icgeo.maps import MapStyle


class Block(nn.Module):
    def __init__(self, is_innermost):
        super().__init__()
        self.conv = nn.Sequential(*[part for _ in range(3) for part in (conv(), nn.ReLU())][:-1])
        self.pool = None
        if is_innermost:
            pointwise = [nn.Conv2d(*sizes, 1, bias=False) for sizes in ((64, 256), (256, 64))]
            norm = nn.GroupNorm(4, 256)
            self.pool = nn.Sequential(pointwise[0], norm, nn.ReLU(), pointwise[1])

    def forward(self, x):
        x = x + self.pool(x) if self.pool else x
        return (self.conv(x) + x).relu()


def conv(channels=64, out=64, **options):
    return nn.Conv2d(channels, out, 3, padding=1, **options)


def level(*, is_innermost=False):
    return [Block(is_innermost) for _ in range(3)]


def halves():
    """The two sequences that the notes beside the weights describe; the first layer squashes."""
    torch.manual_seed(0)
    down, up = [conv(3), Block(False)], [nn.Identity(), conv(32), nn.ReLU()]
    for is_innermost in (False, False, True):
        down += [conv(stride=2, bias=False), *level(is_innermost=is_innermost)]
        up += [*level(is_innermost=not up[3:]), nn.Upsample(scale_factor=2), conv(bias=False)]
    return nn.Sequential(*down, conv(64, 32)), nn.Sequential(*up, Block(False), conv(64, 3))


@pytest.fixture
def folder(tmp_path):
    for name, half in zip(("encoder", "decoder"), halves(), strict=True):
        save_file(half.state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


@torch.no_grad()
def test_the_autoencoder_is_the_sequence_that_its_notes_describe(folder):
    script = load_script("experiments/styles")
    encoder, decoder = halves()
    x, latents = torch.rand(2, 3, 16, 32), torch.randn(2, 32, 2, 4)
    found = script.apply_half(encoder.state_dict(), x, decodes=False)
    torch.testing.assert_close(found, encoder(x))
    found = script.apply_half(decoder.state_dict(), latents, decodes=True)
    torch.testing.assert_close(found, decoder(3 * torch.tanh(latents / 3)))


def test_styles_are_read_through_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    script = load_script("experiments/styles")
    monkeypatch.setattr(script, "styles", lambda: [MapStyle(sigma_deg=(12.0,))])
    script.main(script.Options(autoencoder=folder, locations=2, noise=(0.0,)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("| white of 12 degrees on black, 64 x 128 | ")
    drawn = float(line.split("|")[2].split("(")[0])
    assert drawn < 100  # km, without the codec
    table = (folder / "runs" / "styles" / "styles.md").read_text().splitlines()
    assert table[0] == "| style | drawn | latents + 0 noise |"
    assert table[2] == line
