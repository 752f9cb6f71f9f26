"""Tests of image-text models of transformers, on a small random LLaVA that the test builds."""

import json

import pytest
import torch
from PIL import Image

from icgeo.baselines.language import LanguageLocator
from icgeo.baselines.language_models import TransformersModel, Turn, as_jpeg
from icgeo.models import LoadError
from icgeo.prediction import Example

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>", "<system>"]
PATCHES = 4
"""Of a picture of 28 pixels, in patches of 14."""
RED, BLUE = (Image.new("RGB", (60, 40), colour) for colour in ("red", "blue"))


def make_processor():
    """Bytes are tokens; pictures are 28 x 28."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=SPECIAL[3:], **special
    )
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    how = {"patch_size": 14, "vision_feature_select_strategy": "default"}
    how |= {"num_additional_image_tokens": 1, "chat_template": TEMPLATE}
    return LlavaProcessor(CLIPImageProcessor(**size), fast, **how)


def make_model():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    width |= {"num_attention_heads": 2}
    vision = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **width}
    text = {"model_type": "llama", "vocab_size": 263, "num_key_value_heads": 2, **width}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text |= {"max_position_embeddings": 8192}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1
        )
    )
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    make_processor().save_pretrained(folder)
    make_model().save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder):
    return TransformersModel.open(folder, max_tokens=12, local_files_only=True)


def test_it_answers_what_transformers_itself_generates(model):
    """Called here with token numbers and pixels, not with a conversation."""
    turns = [Turn("system", "Say."), Turn("user", "Where?", as_jpeg(RED, 28))]
    reply = model.ask(turns)
    processor, network = model.processor, model.module
    prompt = f"<system>Say.</s><user>{PATCHES * '<image>'}Where?</s><assistant>"
    tokens = processor.tokenizer(prompt, return_tensors="pt")["input_ids"]
    pixels = processor.image_processor([RED], return_tensors="pt")["pixel_values"]
    for _ in range(12):
        with torch.no_grad():
            logits = network(input_ids=tokens, pixel_values=pixels).logits[0, -1]
        tokens = torch.cat((tokens, logits.argmax()[None, None]), dim=1)
    assert reply.text == processor.tokenizer.decode(tokens[0, -12:], skip_special_tokens=True)
    asked = len("Say.Where?") + PATCHES + len(["<system>", "</s>", "<user>", "</s>", "<assistant>"])
    assert model.count(turns) == (asked, 12)
    assert (reply.input_tokens, reply.output_tokens) == (asked, 12)


def test_its_answers_are_rows_that_are_kept(model, tmp_path):
    examples = [Example(RED, 48.9, 2.3), Example(BLUE, -33.9, 151.2)]
    locator = LanguageLocator(model, tmp_path / "answers.jsonl", photo_side=28)
    assert locator.cost([RED], examples).usd == 0
    for _ in range(2):
        (prediction,) = locator.locate([RED], examples)
        assert not prediction.located, "random weights know no place"
        lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["reasons", "reasons", "place"]
    assert json.loads(lines[-1])["reason"] == "cut off: longer than the tokens allowed"


def test_what_is_no_image_text_model_is_refused(tmp_path):
    with pytest.raises(LoadError, match="expected the folder or hub id of an image-text model"):
        TransformersModel.open(tmp_path, local_files_only=True)


@pytest.mark.slow
def test_one_that_learned_two_photos_by_heart_places_both(folder, tmp_path):
    """Gradients flow through the picture alone: the conversations differ in nothing else."""
    model = TransformersModel.open(folder, max_tokens=60, local_files_only=True)
    places = {(48.9, 2.3): RED, (-33.9, 151.2): BLUE}
    optimizer = torch.optim.Adam(model.module.parameters(), lr=5e-3)
    lessons = []
    for (lat, lon), photo in places.items():
        inputs = model.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": photo}]}],
            **{"add_generation_prompt": True, "tokenize": True},
            **{"return_dict": True, "return_tensors": "pt"},
        )
        answer = json.dumps({"lat": lat, "lon": lon, "confidence": 1}) + "</s>"
        said = model.processor.tokenizer(answer, return_tensors="pt")["input_ids"]
        tokens = torch.cat((inputs["input_ids"], said), dim=1)
        labels = torch.cat((torch.full_like(inputs["input_ids"], -100), said), dim=1)
        lessons.append(
            {"input_ids": tokens, "labels": labels} | {"pixel_values": inputs["pixel_values"]}
        )
    for _ in range(200):
        loss = sum(model.module(**lesson).loss for lesson in lessons)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (lat, lon), photo in places.items():
        reply = model.ask([Turn("user", "", as_jpeg(photo, 28))])
        assert json.loads(reply.text) == {"lat": lat, "lon": lon, "confidence": 1}
