"""The codec of the tiny model: maps to a few numbers a token and back, photos to features.

Maps are coded linearly (patches on an orthonormal basis, scaled to unit variance), so that the
mean of latents decodes to the mean of maps and the posterior read in one step stays exact. Photos
are never decoded: a small convolutional network turns each into one feature vector a token.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

HEATMAP_WEIGHTS = (1.0, 1.0, 2.0)
"""What an error in each colour channel of a map weighs against the others."""


class Residual(nn.Module):
    """A normalised 3 x 3 convolution beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.spread = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the input plus what its neighbourhood tells."""
        return x + self.mix(functional.gelu(self.spread(self.norm(x))))


class PatchCodec(ModelMixin, ConfigMixin):
    """Linear patch codec for maps and a convolutional encoder for photos.

    Both give `rows x columns` tokens, in row order; a photo's hold `photo_channels` numbers of what
    is seen there and twice as many of the whole photo. Saved and loaded as any diffusers model.
    """

    @register_to_config
    def __init__(
        self,
        *,
        rows: int = 2,
        columns: int = 4,
        patch_size: int = 16,
        map_channels: int = 36,
        photo_size: int = 64,
        photo_channels: int = 48,
        width: int = 48,
    ) -> None:
        super().__init__()
        pixels = 3 * patch_size**2
        self.register_buffer("encoder", torch.eye(pixels, map_channels))
        self.register_buffer("decoder", torch.eye(map_channels, pixels))
        self.register_buffer("offset", torch.zeros(map_channels))
        self.features = nn.Sequential(
            nn.Conv2d(6, width, 4, stride=4),
            nn.GELU(),
            Residual(width),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            Residual(2 * width),
            Residual(2 * width),
        )
        cells = photo_size // 8
        self.gather = nn.Linear(
            2 * width * (cells // rows) * (cells // columns), photo_channels, bias=False
        )
        word_channels = 8 * width
        self.words = nn.Sequential(
            nn.GroupNorm(1, 2 * width), nn.Conv2d(2 * width, word_channels, 1), nn.GELU()
        )
        self.standardise = nn.BatchNorm1d(2 * word_channels, affine=False)
        self.describe = nn.Linear(2 * word_channels, 2 * photo_channels, bias=False)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Tokens of a map, and numbers in each."""
        return self.config.rows * self.config.columns, self.config.map_channels

    def encode_maps(self, maps: Float[Tensor, "*batch 3 height width"]) -> Tensor:
        """Encode maps in [0, 1] to latents, [*batch, rows * columns, map_channels]."""
        patches = rearrange(
            maps,
            "... c (r y) (s x) -> ... (r s) (c y x)",
            r=self.config.rows,
            s=self.config.columns,
        )
        return patches @ self.encoder - self.offset

    def decode_maps(self, latents: Tensor) -> Float[Tensor, "*batch 3 height width"]:
        """Decode latents to maps; linear, unclipped, in float32."""
        return rearrange(
            (latents.float() + self.offset.float()) @ self.decoder.float(),
            "... (r s) (c y x) -> ... c (r y) (s x)",
            r=self.config.rows,
            c=3,
            y=self.config.patch_size,
        )

    def encode_photos(
        self, photos: Float[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch tokens channels"], Float[Tensor, "batch descriptor"]]:
        """Encode photos in [0, 1].

        Returns:
            features of unit mean square, a vector a token: what is seen there, then the descriptor
            of the whole photo; and that descriptor at unit length, alike for overlapping views.
        """
        # haze and exposure are affine in each channel: the standardised copy is free of both
        both = torch.cat((photos * 4 - 2, functional.instance_norm(photos, eps=1e-4)), dim=1)
        grid = self.features(both)
        patches = rearrange(
            grid, "n c (r y) (s x) -> n (r s) (c y x)", r=self.config.rows, s=self.config.columns
        )
        here = self.gather(patches)
        words = self.words(grid)
        # a bag of visual words: how much of each there is, and how clearly it is seen anywhere
        bag = torch.cat((words.mean(dim=(2, 3)), words.amax(dim=(2, 3))), dim=1)
        descriptor = self.describe(self.standardise(bag))
        everywhere = repeat(descriptor, "n c -> n t c", t=here.shape[1])
        parts = [functional.rms_norm(part, part.shape[-1:]) for part in (here, everywhere)]
        features = torch.cat(parts, dim=-1)
        return features, functional.normalize(descriptor, dim=-1)

    @torch.no_grad()
    def fit_maps(self, maps: Float[Tensor, "batch 3 height width"]) -> None:
        """Fit the basis of the map codec: the principal components of the patches of maps.

        A narrow heatmap covers few pixels, so its channel is weighted. Latents are scaled by the
        root of their standard deviation: coarse components stay larger than fine ones, as in the
        spectra of pictures, and their mean square is 1.
        """
        size = self.config.patch_size
        patches = rearrange(maps, "n c (r y) (s x) -> (n r s) (c y x)", y=size, x=size).double()
        weight = torch.tensor(HEATMAP_WEIGHTS).double().repeat_interleave(size**2)
        weighted = patches * weight
        components = torch.linalg.eigh(weighted.T @ weighted / len(patches)).eigenvectors.flip(-1)
        chosen = components[:, : self.config.map_channels]
        latents = weighted @ chosen
        scale = latents.std(0).sqrt()
        scale = scale * ((latents - latents.mean(0)) / scale).square().mean().sqrt()
        self.encoder.copy_(weight[:, None] * chosen / scale)
        self.decoder.copy_(scale[:, None] * chosen.T / weight)
        self.offset.copy_(latents.mean(0) / scale)
