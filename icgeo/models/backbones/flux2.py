"""FLUX.2 klein and dev, from pipelines of diffusers."""

from dataclasses import dataclass
from typing import Any

from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input

from icgeo.models.backbones.backbone import FluxBackbone, Grid, Ids, TextInputs, Tokens
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, grid_ids, text_ids
from icgeo.models.prompts import Embedding


@dataclass(frozen=True)
class Flux2Backbone(FluxBackbone):
    """FLUX.2 klein or dev; the VAE's statistics of batches normalise its latents."""

    def unscaled(self, latents: Grid) -> Grid:
        """Undo the statistics, and the patches of 2 x 2 in channels."""
        norm, eps = self.codec.bn, self.codec.config.batch_norm_eps
        mean, variance = (x[:, None, None] for x in (norm.running_mean, norm.running_var))
        return self.pipeline._unpatchify_latents(latents * (variance + eps).sqrt() + mean)

    def ids(self, image: int, rows: int, columns: int) -> Ids:
        """Return places on (image, row, column, 0)."""
        places = grid_ids(rows, columns, image=EXAMPLE_IMAGE * image)
        return places.to(self.transformer.device)

    def text_inputs(self, text: Embedding | None, tokens: Tokens) -> TextInputs:
        """Return words and their places."""
        words = tokens.new_zeros(1, 0, self.transformer.config.joint_attention_dim)
        if text is not None:
            words = text["encoder_hidden_states"].to(tokens)
        return words, text_ids(words.shape[1]), {}

    def mu(self, tokens: int, steps: int) -> float:
        """Return the shift that was measured for a number of tokens and steps."""
        return compute_empirical_mu(image_seq_len=tokens, num_steps=steps)


def embed_klein(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction, trimmed to its real tokens: stock pipelines pad to 512 and attend."""
    ids = pipeline.tokenizer.apply_chat_template(
        [{"role": "user", "content": words}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=True,
    )["input_ids"]
    text, _ = pipeline.encode_prompt(words, max_sequence_length=len(ids))
    return {"encoder_hidden_states": text}


def embed_dev(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction with FLUX.2 dev's system message, trimmed to its real tokens."""
    messages = format_input([words], system_message=pipeline.system_message)
    ids = pipeline.tokenizer.apply_chat_template(
        messages, add_generation_prompt=False, tokenize=True, return_dict=True
    )["input_ids"][0]
    text, _ = pipeline.encode_prompt(words, max_sequence_length=len(ids))
    return {"encoder_hidden_states": text}
