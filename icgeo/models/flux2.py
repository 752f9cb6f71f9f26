"""FLUX.2 transformers that draw maps from examples.

In the `stacked` layout photo and map patches of a pair are joined in one token's channels; all
examples share one position on the first axis, so their order means nothing. Examples are encoded
once, at t = 0, and see only themselves; queries read what was kept of them.
"""

from dataclasses import dataclass

import torch
from diffusers import Flux2Transformer2DModel
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from icgeo.models.codec import PatchCodec
from icgeo.models.prefix import ExamplePrefix, install

QUERY_AXIS, EXAMPLE_AXIS = 0, 1


def grid_ids(rows: int, columns: int, *, image: int) -> Int[Tensor, "tokens 4"]:
    """Positions (image, row, column, 0) of the tokens of an image, in row order."""
    axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns), torch.tensor([0]))
    return torch.cartesian_prod(*axes)


def text_ids(tokens: int) -> Int[Tensor, "tokens 4"]:
    """Positions (0, 0, 0, index) of the tokens of a prompt."""
    return torch.cartesian_prod(*3 * (torch.tensor([0]),), torch.arange(tokens))


class StackedFlux2(nn.Module):
    """A transformer, its codec and its prompts: the parts that learn."""

    def __init__(
        self, transformer: Flux2Transformer2DModel, codec: PatchCodec, prompts: Tensor
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.codec = codec
        self.prompts = nn.Parameter(prompts)
        install(transformer)

    def _forward(
        self,
        tokens: Float[Tensor, "groups count tokens channels"],
        t: Float[Tensor, "groups count"],
        text: Float[Tensor, "groups length width"],
        *,
        image: int,
        prefix: ExamplePrefix,
    ) -> Float[Tensor, "groups count tokens map_channels"]:
        count = tokens.shape[1]
        sample = self.transformer(
            hidden_states=rearrange(tokens, "g n t c -> (g n) t c"),
            encoder_hidden_states=repeat(text, "g l d -> (g n) l d", n=count),
            timestep=rearrange(t, "g n -> (g n)"),
            img_ids=grid_ids(self.codec.config.rows, self.codec.config.columns, image=image).to(tokens.device),
            txt_ids=text_ids(text.shape[1]).to(tokens.device),
            joint_attention_kwargs={"prefix": prefix},
            return_dict=False,
        )[0]
        return rearrange(sample, "(g n) t c -> g n t c", n=count)

    def encode_examples(
        self,
        photos: Float[Tensor, "groups examples tokens features"],
        maps: Float[Tensor, "groups examples tokens map_channels"],
    ) -> ExamplePrefix:
        """Keep the keys and values of pairs of photo features and map latents."""
        prefix = ExamplePrefix(groups=len(photos))
        if photos.shape[1]:
            t = torch.zeros(photos.shape[:2], dtype=photos.dtype, device=photos.device)
            pairs = torch.cat((photos, maps), dim=-1)
            empty = self.prompts[:1, :0].expand(len(photos), -1, -1)
            self._forward(pairs, t, empty, image=EXAMPLE_AXIS, prefix=prefix)
        return prefix

    def velocity(
        self,
        noisy: Float[Tensor, "groups queries tokens map_channels"],
        t: Float[Tensor, "groups queries"],
        photos: Float[Tensor, "groups queries tokens features"],
        *,
        prompt: Int[Tensor, " groups"],
        prefix: ExamplePrefix,
        visible: Bool[Tensor, "groups queries examples"] | None = None,
    ) -> Float[Tensor, "groups queries tokens map_channels"]:
        """Predict noise - data for the maps of queries, given the kept examples."""
        tokens = torch.cat((photos, noisy), dim=-1)
        text = self.prompts[prompt].to(tokens.dtype)
        return self._forward(
            tokens, t, text, image=QUERY_AXIS, prefix=prefix.reading(visible)
        )
