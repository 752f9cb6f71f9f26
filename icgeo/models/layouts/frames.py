"""Pairs as frames of a video whose last frames are missing.

Photo, map, photo, map, ..., the query's photo, and its map, which is to be filled in.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from icgeo.models.backbones.wan import Latents, Shown, Video, WanBackbone
from icgeo.models.layouts.layout import AnyPhotos, Kept, Layout, Maps, Photos, Predict, framed
from icgeo.models.prompts import Embedding


@dataclass(frozen=True)
class Frames(Layout):
    """The layout `frames`; photos stand in the middle of frames as large as maps."""

    backbone: WanBackbone

    fixed: ClassVar = ("text",)
    is_one_picture: ClassVar = True
    takes_evidence: ClassVar = True

    def __post_init__(self) -> None:
        # not set_attention_backend: it sets that of every other model in the process too
        for module in self.backbone.transformer.modules():
            if hasattr(getattr(module, "processor", None), "_attention_backend"):
                module.processor._attention_backend = self.attention_backend

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Return the channels, latent frames, rows and columns of a video."""
        scale, style = self.backbone.scale, self.settings.style
        channels = self.backbone.codec.config.z_dim
        frames = 2 * shots + 2 + self.shows_evidence(shots)
        return channels, frames, style.height // scale, style.width // scale

    def token_rows(self, tensors: Kept, shots: int, queries: Shown) -> dict[str, Tensor]:
        """Return which tokens are whose, frame by frame."""
        _, frames, height, width = self.latent_shape(shots)
        _, rows, columns = self.backbone.transformer.config.patch_size
        index = torch.arange(frames * (height // rows) * (width // columns)).reshape(frames, -1)
        photo = 2 * shots
        return {"map": index[-1], "photo": index[photo], "example": index[:photo].flatten()}

    def answer(self, latents: Tensor, shots: int) -> Tensor:
        """Cut the map out of what is drawn: the last frame."""
        return latents[..., -1:, :, :]

    def encode_pairs(self, photos: AnyPhotos, drawn: Maps) -> Kept:
        """Keep the images of examples, in pixels."""
        frames = framed(photos, self.settings.style.height, self.settings.style.width)
        return {"images": torch.stack((frames, drawn.to(frames)), dim=1)}

    def _video(self, tensors: Kept, photos: Photos, maps: Maps | None = None) -> Video:
        """Lay images on frames; a map that is not given is grey."""
        queries = framed(photos, self.settings.style.height, self.settings.style.width)
        last = torch.full_like(queries, 0.5) if maps is None else maps.to(queries)
        pairs = queries[:0, None].expand(-1, 2, -1, -1, -1)
        if tensors:
            pairs = tensors["images"].to(queries)
        examples = repeat(pairs, "k pair c h w -> q (k pair) c h w", q=len(queries))
        evidence = [tensors["evidence"].to(queries)] if "evidence" in tensors else []
        images = torch.cat((examples, torch.stack((queries, *evidence, last), dim=1)), dim=1)
        frames = repeat(images[:, 1:], "q n c h w -> q c (n four) h w", four=4)
        return 2 * torch.cat((images[:, 0, :, None], frames), dim=2) - 1

    def encode_queries(self, tensors: Kept, photos: Photos) -> Shown:
        """Encode the videos of queries: known frames, and for VACE what is missing."""
        video = self._video(tensors, photos)
        latents = self.backbone.encode(video)
        if not self.backbone.has_control:
            return latents
        blank_latents = self.backbone.encode(torch.zeros_like(video))
        is_missing = (torch.arange(video.shape[2]) >= video.shape[2] - 4).to(latents)
        # as the stock pipeline has it, by which the photo counts as missing where it stands alone
        size = latents.shape[2]
        mask = functional.interpolate(is_missing[None, None], size, mode="nearest-exact")[0, 0]
        mask = mask[:, None, None].expand(len(latents), self.backbone.scale**2, *latents.shape[2:])
        return torch.cat((latents, blank_latents, mask), dim=1)

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Latents:
        """Encode the videos of queries with their maps."""
        return self.backbone.encode(self._video(tensors, photos, drawn))

    def read_maps(self, latents: Latents, shots: int) -> Maps:
        """Decode videos; the map is the mean of the last four frames."""
        return self.backbone.decode(latents)[:, :, -4:].mean(2)

    def predictor(self, tensors: Kept, shots: int, queries: Shown) -> Predict:
        """Return the velocity of noisy videos."""

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            latents = rearrange(x, "q s c f h w -> (q s) c f h w")
            conditions = repeat(queries, "q c f h w -> (q s) c f h w", s=x.shape[1])
            if self.backbone.has_control:
                t_of_video = torch.full((len(latents),), t, device=latents.device)
                video = latents.to(conditions)
                velocity = self.backbone.forward(video, t_of_video, text=text, control=conditions)
            else:
                velocity = self._in_place(latents, t, text, conditions)
            return velocity.float().unflatten(0, x.shape[:2])

        return predict

    def _in_place(self, latents: Latents, t: float, text: Embedding, conditions: Shown) -> Latents:
        """Put known frames in place of noise, at time 0; their velocity leads back to them."""
        video = torch.cat((conditions[:, :, :-1].to(latents), latents[:, :, -1:]), dim=2)
        rows, columns = self.backbone.transformer.config.patch_size[1:]
        frame = video.shape[-2] // rows * (video.shape[-1] // columns)
        times = torch.zeros(len(latents), frame * video.shape[2], device=latents.device)
        times[:, -frame:] = t
        velocity = self.backbone.forward(video.to(conditions), times, text=text)
        back = (latents[:, :, :-1] - conditions[:, :, :-1]) / t
        return torch.cat((back, velocity[:, :, -1:].to(back)), dim=2)
