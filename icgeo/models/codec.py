"""The codec of the tiny model: maps to a few numbers a token and back, photos to features.

Maps are coded linearly (patches on an orthonormal basis, scaled to unit variance), so that the
mean of latents decodes to the mean of maps and the posterior read in one step stays exact. Photos
are never decoded: a small convolutional network turns each into one feature vector a token.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


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

    Both give `rows x columns` tokens, in row order. Saved and loaded as any diffusers model.
    """

    @register_to_config
    def __init__(
        self,
        *,
        rows: int = 2,
        columns: int = 4,
        patch_size: int = 16,
        map_channels: int = 30,
        photo_size: int = 64,
        photo_channels: int = 96,
        width: int = 64,
        descriptor_channels: int = 64,
    ) -> None:
        super().__init__()
        pixels = 3 * patch_size**2
        self.register_buffer("basis", torch.eye(pixels, map_channels))
        self.register_buffer("latents_mean", torch.zeros(map_channels))
        self.register_buffer("latents_std", torch.ones(map_channels))
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4),
            nn.GELU(),
            Residual(width),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            Residual(2 * width),
        )
        cells = photo_size // 8
        self.gather = nn.Linear(
            2 * width * (cells // rows) * (cells // columns), photo_channels, bias=False
        )
        self.norm = nn.RMSNorm(photo_channels, elementwise_affine=False)
        self.describe = nn.Linear(2 * width, descriptor_channels, bias=False)

    def encode_maps(self, maps: Float[Tensor, "*batch 3 height width"]) -> Tensor:
        """Encode maps in [0, 1] to latents, [*batch, rows * columns, map_channels]."""
        patches = rearrange(
            maps,
            "... c (r y) (s x) -> ... (r s) (c y x)",
            r=self.config.rows,
            s=self.config.columns,
        )
        return (patches @ self.basis - self.latents_mean) / self.latents_std

    def decode_maps(self, latents: Tensor) -> Float[Tensor, "*batch 3 height width"]:
        """Decode latents to maps; linear, unclipped, in float32."""
        scaled = latents.float() * self.latents_std.float() + self.latents_mean.float()
        return rearrange(
            scaled @ self.basis.float().T,
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
            features of unit mean square, a vector a token; and one descriptor of unit length a
            photo, alike for overlapping views.
        """
        grid = self.features(photos * 4 - 2)
        patches = rearrange(
            grid,
            "n c (r y) (s x) -> n (r s) (c y x)",
            r=self.config.rows,
            s=self.config.columns,
        )
        descriptor = functional.normalize(self.describe(grid.mean(dim=(2, 3))), dim=-1)
        return self.norm(self.gather(patches)), descriptor

    @torch.no_grad()
    def fit_maps(self, maps: Float[Tensor, "batch 3 height width"]) -> None:
        """Set the basis to the principal components of the patches of maps, and their scale."""
        self.latents_mean.zero_()
        self.latents_std.fill_(1)
        size = self.config.patch_size
        patches = rearrange(maps, "n c (r y) (s x) -> (n r s) (c y x)", y=size, x=size).double()
        components = torch.linalg.eigh(patches.T @ patches / len(patches)).eigenvectors.flip(-1)
        self.basis.copy_(components[:, : self.config.map_channels])
        latents = patches @ self.basis.double()
        self.latents_mean.copy_(latents.mean(0))
        self.latents_std.copy_(latents.std(0))
