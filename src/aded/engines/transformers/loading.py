"""Loading a model for the command line: a hub id, a folder, a GGUF file, or the embedded default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from aded.budget.cost import CostCurve
from aded.engines.base.loaded import EMBEDDED, RecordedAnswer, Recorder, embedded_file
from aded.engines.transformers.api import generate
from aded.engines.transformers.converting import converted, kept, quiet, reason
from aded.engines.transformers.cost import cost_curve
from aded.engines.transformers.forward import CompiledRunner
from aded.errors import ModelLoadError, SettingsError
from aded.representative import vocabulary_fingerprint

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loaded:
    """A model ready to decode, its tokenizer, and the name to show."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's vocabulary: state learned over another one is refused."""
        return vocabulary_fingerprint(self.tokenizer.get_vocab())

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def gpu(self) -> torch.device | None:
        """The device whose memory holds the model; None on a CPU."""
        device: torch.device = self.model.device
        return device if device.type == "cuda" else None

    @property
    def pad(self) -> int:
        """What fills up the shorter rows of a batch."""
        pad: int | None = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id or 0

    def prompt_ids(self, messages: list[dict[str, str]]) -> torch.Tensor:
        """Token ids of a conversation, shape (1, n); without a chat template the texts are joined as they are."""
        if self.tokenizer.chat_template:
            encoded = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            encoded = self.tokenizer("\n\n".join(m["content"] for m in messages), return_tensors="pt")
        ids: torch.Tensor = encoded["input_ids"].to(self.model.device)
        return ids

    def prompt_tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """The same as a list."""
        ids: list[int] = self.prompt_ids(messages)[0].tolist()
        return ids

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or [])

    @property
    def takes_tools(self) -> bool:
        """Whether its chat template has a place for tools."""
        return "tools" in (self.tokenizer.chat_template or "")

    def chat_tokens(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
        """See `LoadedModel.chat_tokens`."""
        if not self.tokenizer.chat_template:
            return self.prompt_tokens(messages)
        options: dict[str, Any] = {"add_generation_prompt": True, "return_dict": True, "tools": tools or None}
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(messages, **options)["input_ids"]
        except (TemplateError, TypeError) as error:
            raise SettingsError(f"messages: the model's chat template does not take these: {error}") from error
        return ids

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a text by itself, with what the model expects at a beginning."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def shown(self, token: int) -> str:
        """A token by itself, special ones by their names."""
        text: str = self.tokenizer.decode([token])
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def facts(self) -> dict[str, Any]:
        """What figures depend on besides the machine, as plain values."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(self.gpu) if self.gpu is not None else "cpu",
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            **{name: metadata.version(name) for name in ("torch", "transformers")},
        }

    def step_cost(self, *, compile: bool = False, renew: bool = False) -> CostCurve:
        """See `aded.engines.transformers.cost.cost_curve`; `compile`: of compiled steps."""
        return cost_curve(self.model, runner=CompiledRunner(self.model) if compile else None, renew=renew)

    def recorded(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, top_k: int, temperature: float, seed: int
    ) -> list[RecordedAnswer]:
        """See `LoadedModel.recorded`; all prompts in one batch."""
        width, recorder = max(map(len, prompts)), Recorder(top_k)
        rows = [[self.pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        torch.manual_seed(seed)
        self.model.generate(
            torch.tensor(rows, device=self.model.device),
            attention_mask=torch.tensor(mask, device=self.model.device),
            **self.options(max_new_tokens, temperature),
            custom_generate=generate,
            drafter=recorder,
        )
        return recorder.answers()

    def options(self, max_new_tokens: int, temperature: float, top_p: float = 1.0) -> dict[str, Any]:
        """What `generate` is given to decode greedily, or for a temperature above 0 to sample from all tokens."""
        options = {"max_new_tokens": max_new_tokens, "pad_token_id": self.pad, "do_sample": temperature > 0}
        return options | ({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {})


def load(
    model: str | None,
    *,
    dtype: str = "bfloat16",
    device: str = "cpu",
    report: Callable[[str], None] = lambda text: None,
) -> Loaded:
    """Load `model`; None is the embedded SmolLM2-135M-Instruct.

    Args:
        model: hub id, folder, or GGUF file. A GGUF file is converted once, in the cache folder.
        dtype: "float32", "bfloat16" or "float16".
        device: torch's name of one, or "auto": a GPU where there is one.
        report: told about slow work before it starts.

    Raises:
        ModelLoadError: nothing loadable is there, or what it needs is not installed.
    """
    if dtype not in DTYPES:
        raise ModelLoadError(f"there is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    place = _device(device)
    name = EMBEDDED if model is None else model
    source = embedded_file() if model is None else Path(model)
    if source.suffix == ".gguf":
        source = converted(source, name, report)
    elif source.exists() and not (source / "config.json").is_file():
        raise ModelLoadError(f"{model} is neither a model folder (with config.json) nor a GGUF file; check the path")
    try:
        with quiet():
            loaded = AutoModelForCausalLM.from_pretrained(str(source), dtype=getattr(torch, dtype))
            tokenizer = AutoTokenizer.from_pretrained(str(source))
    except Exception as error:
        # The tokenizer's parser raises nothing more special than this.
        if type(error) is not Exception and not isinstance(error, (OSError, ValueError, KeyError, SafetensorError)):
            raise
        if source.is_dir() and kept(source):
            raise ModelLoadError(
                f"the converted model in {source} is damaged ({reason(error)}); delete that folder: it is made anew"
            ) from error
        raise ModelLoadError(
            f"cannot load the model {name}: {reason(error)} "
            "Give a folder, a GGUF file, or a hub id this machine can reach."
        ) from error
    if place.type != "cpu":
        report(f"on {place}" + (f" ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else ""))
    try:
        return Loaded(name, loaded.eval().to(place), tokenizer)
    except RuntimeError as error:
        raise ModelLoadError(f"the model {name} does not fit {place}: {reason(error)} Choose --device cpu") from error


def _device(name: str) -> torch.device:
    """A device that is there."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"there is no device {name!r} here ({reason(error)}); choose auto or cpu") from error


def embedded_folder(report: Callable[[str], None] = lambda text: None) -> Path:
    """The embedded model as safetensors, for engines that read nothing else; made on first use."""
    return converted(embedded_file(), EMBEDDED, report)
