"""Image-text models that are asked for places: of transformers, or behind an OpenAI-like endpoint.

Conventions: a conversation is turns of text, some with a JPEG before it. An answer that does not
come, or not whole, is a `Reply` with a reason; what would fail for every question alike (no access,
no server, no such model) is a `UsageError`, so that a run stops and goes on later.
"""

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from icgeo.config import UsageError, one_line, require
from icgeo.data.photos import Photo, read_photo
from icgeo.models import LoadError
from icgeo.models.loading import require_device

LONGEST_REASON = 300
PIXELS_PER_TOKEN = 750
"""Of pictures; about what large endpoints count, used for estimates only."""
CHARACTERS_PER_TOKEN = 3
"""Of English text; most tokenizers need fewer tokens."""
REFUSED, LATE, CUT_OFF, FAILED = "refused", "late", "cut off", "server error"


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    text: str
    image: bytes | None = None
    """A JPEG, before the text."""


@dataclass(frozen=True)
class Reply:
    """What a model answered, or why there is no whole answer."""

    text: str = ""
    reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@runtime_checkable
class LanguageModel(Protocol):
    """Answers a conversation that ends with a question."""

    name: str

    @property
    def at_once(self) -> int:
        """How many questions it takes at the same time."""

    @property
    def fingerprint(self) -> str:
        """All but the conversation that an answer depends on."""

    @property
    def usd_per_million(self) -> tuple[float, float] | None:
        """Price of a million tokens of questions and of answers in US dollars, if it is known."""

    def count(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """Estimate the tokens of the question, and bound those of the answer."""

    def ask(self, turns: Sequence[Turn]) -> Reply:
        """Answer; raise a UsageError for what fails whatever is asked."""


def as_jpeg(photo: Photo, side: int) -> bytes:
    """Encode a photo with a longer side of at most `side` pixels, without its metadata."""
    image = read_photo(photo, size_hint=side)
    image.thumbnail((side, side))
    buffer = BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class EndpointModel:
    """A model behind an endpoint that speaks the protocol of OpenAI's chat completions.

    So do vLLM, llama.cpp, Ollama and most companies' servers. Photos leave this machine for it.
    """

    name: str
    """As the endpoint knows the model."""
    base_url: str | None = None
    """Such as "http://127.0.0.1:8000/v1"; None is OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; a server of one's own may need none."""
    timeout_seconds: float = 120.0
    """Longest silence of the server in one try."""
    retries: int = 3
    """After a first try that is late, cut off, refused for its rate or failed by the server."""
    at_once: int = 8
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"max_tokens": 2000, "temperature": 0.0}
    )
    """Sent with each question; newer models of OpenAI want `max_completion_tokens`."""
    usd_per_million: tuple[float, float] | None = None

    @property
    def fingerprint(self) -> str:
        """Name, address and settings."""
        return repr((self.name, self.base_url, sorted(self.settings.items())))

    def count(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """Estimate tokens by characters and pixels; answers are bounded by the settings."""
        max_tokens = self.settings.get("max_completion_tokens", self.settings.get("max_tokens"))
        if max_tokens is None:
            raise ValueError(
                "expected max_tokens or max_completion_tokens in the settings, got neither; "
                "without one an answer may cost anything"
            )
        text = sum(len(turn.text) for turn in turns) / CHARACTERS_PER_TOKEN
        sizes = [Image.open(BytesIO(turn.image)).size for turn in turns if turn.image]
        pixels = sum(width * height for width, height in sizes) / PIXELS_PER_TOKEN
        return math.ceil(text + pixels) + 8 * len(turns), int(max_tokens)

    def ask(self, turns: Sequence[Turn]) -> Reply:
        """Send a conversation and wait for the answer, as often and as long as allowed."""
        openai, client = require("openai", "an endpoint", "baselines"), self._client
        try:
            completion = client.chat.completions.create(
                model=self.name, messages=[_as_message(turn) for turn in turns], **self.settings
            )
            return _as_reply(completion)
        except openai.APITimeoutError:
            attempts, seconds = self.retries + 1, self.timeout_seconds
            return Reply(reason=f"{LATE}: no answer within {seconds:g} s in {attempts} tries")
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ == "ConnectError":
                raise UsageError(
                    f"no server answers at {self.base_url or 'the endpoint'} ({error.__cause__}); "
                    "start it, and run again: what was answered is kept"
                ) from error
            return Reply(reason=f"{CUT_OFF}: {error.__cause__ or error}"[:LONGEST_REASON])
        except openai.InternalServerError as error:
            return Reply(reason=f"{FAILED}: {one_line(error)}"[:LONGEST_REASON])
        except openai.APIStatusError as error:
            return self._refusal(error)
        except (openai.APIError, ValueError, AttributeError, IndexError, TypeError) as error:
            reason = f"{CUT_OFF}: no chat completion: {one_line(error)}"
            return Reply(reason=reason[:LONGEST_REASON])

    @cached_property
    def _client(self) -> Any:
        openai = require("openai", "an endpoint", "baselines")
        key = os.environ.get(self.key_variable)
        if not key and self.base_url is None:
            raise UsageError(
                f"expected the key of the endpoint in the environment variable "
                f"{self.key_variable}, got none; export it, or give the base_url of a server "
                "that needs none"
            )
        return openai.OpenAI(
            api_key=key or "none",
            base_url=self.base_url,
            timeout=self.timeout_seconds,
            max_retries=self.retries,
        )

    def _refusal(self, error: Any) -> Reply:
        """Tell a photo that the endpoint filters from a request that it never takes."""
        message = one_line(error)
        search_text = f"{error.code} {message}".lower()
        if error.status_code == 400 and any(word in search_text for word in FILTER_WORDS):
            return Reply(reason=f"{REFUSED} by the endpoint: {message}"[:LONGEST_REASON])
        raise UsageError(
            f"the endpoint does not take questions for {self.name!r} ({message[:LONGEST_REASON]}); "
            f"look at the name, the settings, {self.key_variable} and the rate (at_once), and run "
            "again: what was answered is kept"
        ) from error


FILTER_WORDS = ("content_filter", "content_policy", "content management", "safety")
"""By which endpoints say that they do not take a picture."""


def _as_message(turn: Turn) -> dict[str, Any]:
    if turn.image is None:
        return {"role": turn.role, "content": turn.text}
    url = "data:image/jpeg;base64," + base64.b64encode(turn.image).decode()
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"role": turn.role, "content": [picture, {"type": "text", "text": turn.text}]}


def _as_reply(completion: Any) -> Reply:
    choice, usage = completion.choices[0], completion.usage
    text, refusal = choice.message.content or "", getattr(choice.message, "refusal", None)
    reason = None
    if refusal or choice.finish_reason == "content_filter":
        reason = f"{REFUSED}: {refusal or 'by the filter of the endpoint'}"
    elif choice.finish_reason == "length":
        reason = f"{CUT_OFF}: longer than the tokens allowed"
    counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Reply(text or refusal or "", reason and reason[:LONGEST_REASON], *counts)


@dataclass(frozen=True, eq=False)
class TransformersModel:
    """An image-text model of transformers, on this machine."""

    module: Any
    processor: Any
    """Of its repository, with a chat template."""
    name: str
    max_tokens: int = 2000
    at_once: int = 1
    usd_per_million: tuple[float, float] | None = (0.0, 0.0)

    @classmethod
    def open(
        cls,
        name: str | Path,
        *,
        max_tokens: int = 2000,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "TransformersModel":
        """Load a model by its folder or hub id, from safetensors and without code of its own.

        Raises:
            LoadError: no such model, or one that is not asked in turns of text and images.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        require_device(device)
        options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        try:
            processor = AutoProcessor.from_pretrained(str(name), **options)  # type: ignore[no-untyped-call]
            module: Any = AutoModelForImageTextToText.from_pretrained(
                str(name), use_safetensors=True, dtype=dtype, **options
            )
        except (OSError, ValueError, ImportError) as error:
            raise LoadError(
                "expected the folder or hub id of an image-text model of transformers, got "
                f"{str(name)!r}: {str(error).splitlines()[0]}"
            ) from error
        if not getattr(processor, "chat_template", None):
            raise LoadError(
                f"expected a chat template with {str(name)!r}, got none; take a model "
                "that was tuned to follow instructions"
            )
        return cls(module.to(device).eval(), processor, str(name), max_tokens)

    @property
    def fingerprint(self) -> str:
        """Name, precision and length; answers are drawn greedily."""
        return repr((self.name, str(self.module.dtype), self.max_tokens))

    def count(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """Count the tokens of the question, and bound those of the answer."""
        return self._inputs(turns)["input_ids"].shape[1], self.max_tokens

    @torch.inference_mode()
    def ask(self, turns: Sequence[Turn]) -> Reply:
        """Answer with the likeliest token after the other."""
        inputs = self._inputs(turns).to(self.module.device, self.module.dtype)
        prompt_length = inputs["input_ids"].shape[1]
        tokens = self.module.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        answer = tokens[0, prompt_length:]
        text = self.processor.decode(answer, skip_special_tokens=True)
        is_cut = len(answer) >= self.max_tokens
        reason = f"{CUT_OFF}: longer than the tokens allowed" if is_cut else None
        return Reply(text, reason, prompt_length, len(answer))

    def _inputs(self, turns: Sequence[Turn]) -> Any:
        messages = []
        for turn in turns:
            content: list[dict[str, Any]] = [{"type": "text", "text": turn.text}]
            if turn.image is not None:
                picture = Image.open(BytesIO(turn.image)).convert("RGB")
                content.insert(0, {"type": "image", "image": picture})
            messages.append({"role": turn.role, "content": content})
        options: dict[str, Any] = {"return_tensors": "pt", "return_dict": True}
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, **options
        )
