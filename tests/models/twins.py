"""Random models of the real architectures, a few hundred thousand parameters, in their format."""

import json
import shutil
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage21,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImage21Transformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from icgeo.models.prompts import instruction
from icgeo.options import EARTH

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_CHAT = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
)


KEPT = TemporaryDirectory()


def made_once(make):
    """Make a twin once a process, and copy its folder from then on."""

    @cache
    def kept(**options):
        return make(Path(KEPT.name, f"{make.__name__}-{kept.cache_info().currsize}"), **options)

    @wraps(make)
    def copied(folder, *, seed=0, **options):
        source = kept(seed=seed, **options)
        torch.manual_seed(seed)
        return Path(shutil.copytree(source, folder, dirs_exist_ok=True))

    return copied


def byte_tokenizer():
    """A byte-level tokenizer without merges."""
    names = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Qwen2TokenizerFast(
        vocab={name: i for i, name in enumerate(names)},
        merges=[],
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT,
    )


def plain_tokenizer(length):
    """A byte-level tokenizer as CLIP's and T5's are used: text in, numbers out."""
    names = [*sorted(ByteLevel.alphabet()), "<pad>", "</s>", "[IMG]"]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 257)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=["[IMG]"],
        model_max_length=length,
        chat_template=MISTRAL_CHAT,
    )


def word_tokenizer():
    """A tokenizer of the words of our instructions that pads on the left, as FLUX.2 dev's."""
    split = pre_tokenizers.Whitespace()
    texts = [SYSTEM_MESSAGE, *(instruction(EARTH, shots=shots) for shots in (0, 1))]
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    names = ["<unk>", "<pad>", "[IMG]", *words][:260]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["[IMG]"],
        padding_side="left",
        model_max_length=4096,
        chat_template=MISTRAL_CHAT,
    )


def flux2_vae():
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=4 * ("DownEncoderBlock2D",),
        up_block_types=4 * ("UpDecoderBlock2D",),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.normal_(0, 0.1)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def flux2_transformer(layers, text_width, *, guidance, channels=16):
    return Flux2Transformer2DModel(
        in_channels=channels,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=text_width,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


@made_once
def klein(folder, *, distilled=True, layers=2, seed=0):
    """A FLUX.2 klein whose hidden states 9, 18 and 27 exist, saved to a folder."""
    torch.manual_seed(seed)
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=259,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=28,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=text_encoder,
        tokenizer=byte_tokenizer(),
        transformer=flux2_transformer(layers, 48, guidance=False),
        is_distilled=distilled,
    )
    pipeline.save_pretrained(folder)
    return folder


@made_once
def dev(folder, *, layers=2, seed=0):
    """A FLUX.2 dev whose hidden states 10, 20 and 30 exist, saved to a folder.

    Its tokenizer is plain: the real one, for images too, wants torchvision.
    """
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": 260,
            "num_hidden_layers": 31,
            "num_key_value_heads": 2,
            **small,
        },
        vision_config={
            "model_type": "pixtral",
            "num_hidden_layers": 1,
            "image_size": 28,
            "patch_size": 14,
            **small,
        },
    )
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=word_tokenizer(),
        transformer=flux2_transformer(layers, 48, guidance=True),
    )
    pipeline.save_pretrained(folder)
    return folder


@made_once
def kontext(folder, *, layers=2, seed=0):
    """A FLUX.1 Kontext, saved to a folder."""
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=77,
        eos_token_id=257,
        pad_token_id=256,
        bos_token_id=256,
    )
    t5 = T5Config(vocab_size=259, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=4 * ("DownEncoderBlock2D",),
        up_block_types=4 * ("UpDecoderBlock2D",),
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=2.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=plain_tokenizer(77),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=plain_tokenizer(512),
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


WAN = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 64,
}


def _wan_parts(latent_channels):
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=latent_channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * latent_channels,
        latents_std=[0.5] * latent_channels,
    )
    umt5 = UMT5Config(vocab_size=259, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return {
        "vae": vae,
        "text_encoder": UMT5EncoderModel(umt5),
        "tokenizer": plain_tokenizer(512),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


@made_once
def vace(folder, *, layers=2, seed=0):
    """A Wan 2.1 VACE, saved to a folder."""
    torch.manual_seed(seed)
    transformer = WanVACETransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        vace_layers=[0],
        vace_in_channels=2 * 4 + 64,
        **WAN,
    )
    WanVACEPipeline(transformer=transformer, **_wan_parts(4)).save_pretrained(folder)
    return folder


@made_once
def ti2v(folder, *, layers=2, seed=0):
    """A Wan 2.2 that takes a time for each token, as TI2V-5B, saved to a folder."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(in_channels=4, out_channels=4, num_layers=layers, **WAN)
    pipeline = WanPipeline(transformer=transformer, expand_timesteps=True, **_wan_parts(4))
    pipeline.save_pretrained(folder)
    return folder


VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PARTS_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)


def picture_tokenizer():
    """A byte-level tokenizer of words and of the tags around pictures."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION)
    return Qwen2TokenizerFast(
        vocab={name: i for i, name in enumerate((*sorted(ByteLevel.alphabet()), *special))},
        merges=[],
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special[1:]),
        chat_template=PARTS_CHAT,
    )


def spread(model):
    """Give matrices so large weights that what is seen matters as much as what is."""
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data.normal_(0, weight.shape[1] ** -0.5)
    return model


def vision_language(names):
    """A Qwen3-VL whose first two layers see the layers of its pictures too."""
    small = {"hidden_size": 32, "intermediate_size": 48}
    rope = {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [4, 2, 2]}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 270,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {**rope, "mrope_interleaved": True},
            **small,
        },
        vision_config={
            "depth": 3,
            "num_heads": 2,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
            **small,
        },
        vision_start_token_id=names[VISION[0]],
        vision_end_token_id=names[VISION[1]],
        image_token_id=names[VISION[2]],
        video_token_id=269,
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen_transformer(layers, *, channels=8, heads=3):
    return QwenImage21Transformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=heads,
        context_in_dim=32,
        axes_dims_rope=(4, 6, 6),
    )


@made_once
def qwen(folder, *, layers=2, seed=0):
    """A Qwen-Image 2.1, saved to a folder; part by part, for its processor wants torchvision."""
    torch.manual_seed(seed)
    tokenizer = picture_tokenizer()
    images = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": 1024, "longest_edge": 2**24}
    )
    vae = AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=8,
        num_res_blocks=1,
        latents_mean=[0.1] * 8,
        latents_std=[0.7] * 8,
    )
    parts = {
        "processor": ("transformers", "Qwen3VLProcessor", tokenizer),
        "scheduler": (
            "diffusers",
            "FlowMatchEulerDiscreteScheduler",
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        ),
        "text_encoder": (
            "transformers",
            "Qwen3VLForConditionalGeneration",
            spread(vision_language(tokenizer.get_vocab())),
        ),
        "transformer": (
            "diffusers",
            "QwenImage21Transformer2DModel",
            spread(qwen_transformer(layers)),
        ),
        "vae": ("diffusers", "AutoencoderKLQwenImage21", vae),
    }
    index = {"_class_name": "QwenImage21Pipeline", "_diffusers_version": "0.42.1"}
    for name, (library, kind, part) in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [library, kind]
    images.save_pretrained(folder / "processor")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


ALL = {"klein": klein, "dev": dev, "kontext": kontext, "vace": vace, "ti2v": ti2v, "qwen": qwen}
