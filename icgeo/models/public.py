"""Configurations of public checkpoints, as far as plans need them: no network is asked.

Conventions: by hub id, then by part, with the names of diffusers. Parameter counts that follow from
them are tested against those published; `revision` asks the hub instead.
"""

from typing import Any

_FLUX2: dict[str, Any] = {
    "_class_name": "Flux2Transformer2DModel",
    "in_channels": 128,
    "attention_head_dim": 128,
}
KLEIN_4B: dict[str, Any] = {
    **_FLUX2, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
    "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip
KLEIN_9B: dict[str, Any] = {
    **_FLUX2, "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32,
    "joint_attention_dim": 12288, "guidance_embeds": False,
}  # fmt: skip
DEV: dict[str, Any] = {
    **_FLUX2, "num_layers": 8, "num_single_layers": 48, "num_attention_heads": 48,
    "joint_attention_dim": 15360, "guidance_embeds": True,
}  # fmt: skip
KONTEXT: dict[str, Any] = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}
VACE_1_3B: dict[str, Any] = {
    "_class_name": "WanVACETransformer3DModel", "num_attention_heads": 12, "ffn_dim": 8960,
    "num_layers": 30, "vace_layers": [*range(0, 30, 2)],
}  # fmt: skip
VACE_14B: dict[str, Any] = {"_class_name": "WanVACETransformer3DModel"}
TI2V_5B: dict[str, Any] = {
    "_class_name": "WanTransformer3DModel", "num_attention_heads": 24, "ffn_dim": 14336,
    "num_layers": 30, "in_channels": 48, "out_channels": 48,
}  # fmt: skip

_FOUR_LEVELS: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}


def _parts(
    pipeline: str, transformer: dict[str, Any], vae: dict[str, Any], **index: Any
) -> dict[str, dict[str, Any]]:
    named = {"_class_name": pipeline, **index}
    return {"model_index": named, "transformer": transformer, "vae": vae}


CONFIGURATIONS = {
    **{
        f"black-forest-labs/FLUX.2-klein-{name}": _parts(
            "Flux2KleinPipeline", config, _FOUR_LEVELS, is_distilled="base" not in name
        )
        for name, config in {
            "4B": KLEIN_4B, "base-4B": KLEIN_4B, "9B": KLEIN_9B, "base-9B": KLEIN_9B,
        }.items()
    },
    "black-forest-labs/FLUX.2-klein-9b-kv": _parts("Flux2KleinKVPipeline", KLEIN_9B, _FOUR_LEVELS),
    "black-forest-labs/FLUX.2-dev": _parts("Flux2Pipeline", DEV, _FOUR_LEVELS),
    "black-forest-labs/FLUX.1-Kontext-dev": _parts("FluxKontextPipeline", KONTEXT, _FOUR_LEVELS),
    **{
        f"Wan-AI/Wan2.1-VACE-{name}-diffusers": _parts(
            "WanVACEPipeline", config, {"scale_factor_spatial": 8}
        )
        for name, config in {"1.3B": VACE_1_3B, "14B": VACE_14B}.items()
    },
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _parts(
        "WanPipeline", TI2V_5B, {"scale_factor_spatial": 16}, expand_timesteps=True
    ),
}  # fmt: skip
