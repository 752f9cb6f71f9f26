"""FLUX.1 Kontext, from a pipeline of diffusers.

Its checkpoint takes guidance as an input and a pooled embedding of the instruction in its
modulation. Examples that see no instruction are modulated by that of the empty one.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

from icgeo.models.backbones.backbone import FluxBackbone, Grid, Ids, TextInputs, Tokens
from icgeo.models.prompts import TASK, Embedding


@dataclass(frozen=True)
class KontextBackbone(FluxBackbone):
    """FLUX.1 Kontext; references count on the first axis of places, as its one reference does."""

    guidance: float = 2.5

    packed: ClassVar = 2

    def unscaled(self, latents: Grid) -> Grid:
        """Undo the scale."""
        return latents / self.codec.config.scaling_factor + self.codec.config.shift_factor

    def ids(self, image: int, rows: int, columns: int) -> Ids:
        """Return places on (image, row, column)."""
        axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns))
        return torch.cartesian_prod(*axes).to(self.transformer.device)

    def text_inputs(self, text: Embedding | None, tokens: Tokens) -> TextInputs:
        """Return words, their places, and what is pooled of them."""
        embedding = self.prompts("") if text is None else text
        words = embedding["encoder_hidden_states"].to(tokens)
        words = words[:, :0] if text is None else words
        pooled = embedding["pooled_projections"].to(tokens)
        return words, torch.zeros(words.shape[1], 3), {"pooled_projections": pooled}

    def mu(self, tokens: int, steps: int) -> float:
        """Return the shift between those of the scheduler's shortest and longest sequence."""
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        config = self.pipeline.scheduler.config
        return float(calculate_shift(tokens, *(config.get(name) for name in names)))


def embed_kontext(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction: its task pooled by CLIP, all by T5, without the stock padding."""
    length = len(pipeline.tokenizer_2(words)["input_ids"])
    short = TASK if words else ""  # CLIP reads 77 tokens
    text, pooled, _ = pipeline.encode_prompt(short, words, max_sequence_length=length)
    return {"encoder_hidden_states": text, "pooled_projections": pooled}
