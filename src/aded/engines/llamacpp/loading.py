"""Loading a GGUF file for the command line: one of the user's, or the embedded default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from aded.budget.cost import CostCurve
from aded.engines.base.loaded import EMBEDDED, RecordedAnswer, Recorder, embedded_file
from aded.engines.llamacpp.api import accelerate, prepare
from aded.engines.llamacpp.engine import clear
from aded.errors import ContextFullError, ModelLoadError, SettingsError
from aded.representative import fingerprint


@dataclass(frozen=True)
class LoadedLlama:
    """A model ready to decode, and the name to show."""

    name: str
    llama: Any

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's vocabulary: state learned over another one is refused."""
        size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        return fingerprint(self._text(i).decode("utf-8", "replace") for i in range(size))

    @property
    def vocab_size(self) -> int:
        return int(self.llama.n_vocab())

    @property
    def gpu(self) -> None:
        """Memory of devices is llama.cpp's to know: that of the process is counted."""
        return None

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation; without a chat template the texts are joined as they are."""
        return self.chat_tokens(messages, [])

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        ids = range(self.vocab_size)
        return frozenset(i for i in ids if llama_cpp.llama_vocab_is_eog(self._vocabulary, i))

    @property
    def takes_tools(self) -> bool:
        """Whether its chat template has a place for tools."""
        return "tools" in self.llama.metadata.get("tokenizer.chat_template", "")

    def chat_tokens(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
        """See `LoadedModel.chat_tokens`."""
        template = self.llama.metadata.get("tokenizer.chat_template")
        if template is None:
            return self.text_tokens("\n\n".join(m["content"] for m in messages))
        eos, bos = (self._text(token).decode() for token in (self.llama.token_eos(), self.llama.token_bos()))
        written = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)
        try:
            prompt = written(messages=messages, **({"tools": tools} if tools else {})).prompt  # type: ignore[arg-type]
        except (TemplateError, TypeError, ValueError) as error:
            raise SettingsError(f"messages: the model's chat template does not take these: {error}") from error
        ids: list[int] = self.llama.tokenize(prompt.encode(), add_bos=False, special=True)
        return ids

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a text by itself, with what the model expects at a beginning."""
        ids: list[int] = self.llama.tokenize(text.encode())
        return ids

    def shown(self, token: int) -> str:
        """A token by itself, special ones by their names."""
        text: bytes = self.llama.detokenize([token], special=True)
        return text.decode("utf-8", "replace")

    prompt_tokens = prompt_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        ids: list[int] = self.llama.tokenize(text.encode(), add_bos=False, special=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        text: bytes = self.llama.detokenize(list(ids))
        return text.decode("utf-8", "replace")

    def facts(self) -> dict[str, Any]:
        """What figures depend on besides the machine, as plain values."""
        llama = self.llama
        return {
            "parameters": llama._model.n_params(),
            "dtype": llama._model.desc(),
            "device": "cpu" if not llama.model_params.n_gpu_layers else "offloaded",
            "threads": llama.n_threads,
            "threads_batch": llama.n_threads_batch,
            "system_info": llama_cpp.llama_print_system_info().decode().strip(),
            "llama_cpp_python": llama_cpp.__version__,
        }

    def step_cost(self, *, compile: bool = False, renew: bool = False) -> CostCurve:
        """See `aded.llamacpp.prepare`; nothing is compiled here."""
        return prepare(self.llama, renew=renew)

    def recorded(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, top_k: int, temperature: float, seed: int
    ) -> list[RecordedAnswer]:
        """See `LoadedModel.recorded`; one after the other.

        Raises:
            ContextFullError: a prompt fills the context.
        """
        answers = []
        for prompt in prompts:
            recorder = Recorder(top_k)
            undo = accelerate(self.llama, drafter=recorder, max_draft_tokens=0)
            try:
                said = list(self.tokens(prompt, max_new_tokens, seed=seed, temp=temperature, top_p=1.0))
            finally:
                undo()
            answers += recorder.answers(len(said))
        return answers

    def tokens(self, prompt: list[int], max_new_tokens: int, *, seed: int, **sampling: Any) -> Iterator[int]:
        """What is emitted after a prompt with nothing in the cache, an end included.

        Raises:
            ContextFullError: the prompt fills the context.
        """
        llama = self.llama
        most = min(max_new_tokens, llama.n_ctx() - len(prompt))
        if most < 1:
            raise ContextFullError(f"a prompt of {len(prompt)} tokens fills the context of {llama.n_ctx()}; shorten it")
        clear(llama)
        llama.set_seed(seed)
        return self._until_end(llama.generate(prompt, top_k=0, min_p=0.0, **sampling), most)

    def _until_end(self, tokens: Any, most: int) -> Iterator[int]:
        for token in islice(tokens, most):
            yield token
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                break
        tokens.close()

    @property
    def _vocabulary(self) -> Any:
        return llama_cpp.llama_model_get_vocab(self.llama._model.model)

    def _text(self, token: int) -> bytes:
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocabulary, token)
        return text


def load(
    model: str | None,
    *,
    threads: int | None = None,
    context: int = 0,
    device: str = "cpu",
    report: Callable[[str], None] = lambda text: None,
) -> LoadedLlama:
    """Load a GGUF file; None is the embedded SmolLM2-135M-Instruct.

    With flash attention, as llama.cpp itself has it where it can: it is faster, and on a processor a pass over several
    tokens then gives each the very scores that a pass of its own does.

    Args:
        threads: for one token and for many; None: llama-cpp-python's own choice of each.
        context: tokens it has room for; 0: as many as the model was made for.
        device: "cpu", "gpu" for all layers on one, or "auto": a GPU where llama.cpp was built for one.
        report: told which, where it is none.

    Raises:
        ModelLoadError: there is no such file, or llama.cpp cannot read it.
    """
    file = embedded_file() if model is None else Path(model)
    if not file.is_file():
        raise ModelLoadError(f"there is no GGUF file {file}; check the path")
    if device not in ("auto", "cpu", "gpu"):
        raise ModelLoadError(f"llama.cpp knows no device {device!r}; choose auto, cpu or gpu")
    able = bool(llama_cpp.llama_supports_gpu_offload())
    if device == "gpu" and not able:
        raise ModelLoadError("this llama.cpp was built without a GPU; build it for one, or choose --device cpu")
    settings: dict[str, Any] = {"n_ctx": context, "n_threads": threads, "n_threads_batch": threads}
    if able and device != "cpu":
        settings["n_gpu_layers"] = -1
        report("on a GPU, all layers")
    try:
        llama = llama_cpp.Llama(str(file), flash_attn=True, verbose=False, **settings)
    except (ValueError, RuntimeError) as error:
        raise ModelLoadError(
            f"llama.cpp cannot read {file}: it is damaged, no GGUF language model, or of an architecture this version "
            f"does not know ({error})"
        ) from error
    return LoadedLlama(EMBEDDED if model is None else model, llama)
