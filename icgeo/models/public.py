"""Configurations of public checkpoints, as far as plans need them: no network is asked.

Conventions: by hub id, then by part, with the names of diffusers. Parameter counts that follow from
them are tested against those published; `revision` asks the hub instead.
"""

from typing import Any

Config = dict[str, Any]


def _flux2(double: int, single: int, *, heads: int, text: int, is_guided: bool = False) -> Config:
    return {
        "_class_name": "Flux2Transformer2DModel",
        "in_channels": 128,
        "attention_head_dim": 128,
        "num_layers": double,
        "num_single_layers": single,
        "num_attention_heads": heads,
        "joint_attention_dim": text,
        "guidance_embeds": is_guided,
    }


KLEIN_4B = _flux2(5, 20, heads=24, text=7680)
KLEIN_9B = _flux2(8, 24, heads=32, text=12288)
KONTEXT: Config = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}
VACE_14B: Config = {"_class_name": "WanVACETransformer3DModel"}
_WAN_SMALL: Config = {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
VACE_1_3B: Config = {**VACE_14B, **_WAN_SMALL, "vace_layers": [*range(0, 30, 2)]}
TI2V_5B: Config = {
    "_class_name": "WanTransformer3DModel",
    "num_layers": 30,
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}


def _parts(
    pipeline: str, transformer: Config, scale: int | None = None, **index: Any
) -> dict[str, Config]:
    vae = {"scale_factor_spatial": scale} if scale else {"block_out_channels": 4 * [128]}
    return {
        "model_index": {"_class_name": pipeline, **index},
        "transformer": transformer,
        "vae": vae,
    }


CONFIGURATIONS = {
    f"black-forest-labs/FLUX.2-klein-{name}": _parts(
        "Flux2KleinPipeline",
        KLEIN_4B if "4B" in name else KLEIN_9B,
        is_distilled="base" not in name,
    )
    for name in ("4B", "base-4B", "9B", "base-9B")
} | {
    "black-forest-labs/FLUX.2-klein-9b-kv": _parts("Flux2KleinKVPipeline", KLEIN_9B),
    "black-forest-labs/FLUX.2-dev": _parts(
        "Flux2Pipeline", _flux2(8, 48, heads=48, text=15360, is_guided=True)
    ),
    "black-forest-labs/FLUX.1-Kontext-dev": _parts("FluxKontextPipeline", KONTEXT),
    "Wan-AI/Wan2.1-VACE-1.3B-diffusers": _parts("WanVACEPipeline", VACE_1_3B, 8),
    "Wan-AI/Wan2.1-VACE-14B-diffusers": _parts("WanVACEPipeline", VACE_14B, 8),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _parts("WanPipeline", TI2V_5B, 16, expand_timesteps=True),
}
