"""What the command line runs on llama.cpp: one model, one drafter, timed answers and their comparison with its own."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from aded.budget import CostCurve
from aded.decoding import Stats
from aded.drafters.adaptive import AdaptiveDrafter
from aded.drafters.base import Drafter
from aded.engines.answer import Answer, comparison, create_drafter, fill_drafter, first_difference
from aded.engines.embedded import EMBEDDED, embedded_file
from aded.engines.llamacpp.certificate import certify
from aded.engines.llamacpp.costs import cost_curve
from aded.engines.llamacpp.entry import accelerate, widen
from aded.engines.llamacpp.watching import ends_of, watched
from aded.engines.loaded import Watched
from aded.errors import ContextFullError, ModelLoadError
from aded.representative import fingerprint

__all__ = ["LoadedLlama", "Runner", "load"]


@dataclass(frozen=True)
class LoadedLlama:
    """A model ready to decode, and the name to show."""

    name: str
    llama: Any

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's vocabulary: state learned over another one is refused."""
        vocabulary = llama_cpp.llama_model_get_vocab(self.llama._model.model)
        size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        pieces = (llama_cpp.llama_vocab_get_text(vocabulary, i).decode("utf-8", "replace") for i in range(size))
        return fingerprint(pieces)

    @property
    def vocab_size(self) -> int:
        return int(self.llama.n_vocab())

    @property
    def gpu(self) -> None:
        """Memory of devices is llama.cpp's to know: that of the process is counted."""
        return None

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation; without a chat template the texts are joined as they are."""
        template = self.llama.metadata.get("tokenizer.chat_template")
        if template is None:
            ids: list[int] = self.llama.tokenize("\n\n".join(m["content"] for m in messages).encode())
            return ids
        eos, bos = self._text(self.llama.token_eos()), self._text(self.llama.token_bos())
        written = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)(messages=messages)  # type: ignore[arg-type]
        special: list[int] = self.llama.tokenize(written.prompt.encode(), add_bos=False, special=True)
        return special

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
        """See `aded.engines.llamacpp.costs.cost_curve`; nothing is compiled here. What was in the cache is lost."""
        widen(self.llama)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama._ctx.ctx), True)
        self.llama.reset()
        self.llama.eval([0] * min(128, self.llama.n_ctx() // 2))
        return cost_curve(self.llama, self.llama.n_tokens, renew=renew)

    def watched(self, prompts: Sequence[list[int]], **settings: Any) -> list[Watched]:
        """See `LoadedModel.watched`; one after the other."""
        return [watched(self.llama, prompt, **settings) for prompt in prompts]

    def _text(self, token: int) -> str:
        text: bytes = llama_cpp.llama_vocab_get_text(llama_cpp.llama_model_get_vocab(self.llama._model.model), token)
        return text.decode()


def load(model: str | None, *, threads: int | None = None, context: int = 0) -> LoadedLlama:
    """Load a GGUF file; None is the embedded SmolLM2-135M-Instruct.

    With flash attention, as llama.cpp itself has it where it can: it is faster, and on a processor a pass over several
    tokens then gives each the very scores that a pass of its own does.

    Args:
        threads: for one token and for many; None: llama-cpp-python's own choice of each.
        context: tokens it has room for; 0: as many as the model was made for.

    Raises:
        ModelLoadError: there is no such file, or llama.cpp cannot read it.
    """
    file = embedded_file() if model is None else Path(model)
    if not file.is_file():
        raise ModelLoadError(f"there is no GGUF file {file}; check the path")
    try:
        llama = llama_cpp.Llama(
            str(file), n_ctx=context, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
        )
    except (ValueError, RuntimeError) as error:
        raise ModelLoadError(
            f"llama.cpp cannot read {file}: it is damaged, no GGUF language model, or of an architecture this version "
            f"does not know ({error})"
        ) from error
    return LoadedLlama(EMBEDDED if model is None else model, llama)


@dataclass
class Runner:
    """A loaded model and its drafter."""

    loaded: LoadedLlama
    drafter: Drafter
    nodes: Any
    _ends: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._ends = ends_of(self.loaded.llama)

    @classmethod
    def open(
        cls,
        model: str | None,
        *,
        drafter: str,
        nodes: Any,
        threads: int | None,
        state: Path | None,
        corpus: Path | None = None,
    ) -> Runner:
        """Load everything; `state` is read if the file exists.

        Raises:
            AdedError: an unknown drafter or model, or a state file or corpus that cannot be used.
        """
        made = create_drafter(drafter, state=state, corpus=corpus)
        loaded = load(model, threads=threads)
        fill_drafter(made, loaded.vocab_size, loaded.fingerprint, state)
        return cls(loaded, made, nodes)

    def save(self, state: Path) -> None:
        """Save what was learned."""
        if isinstance(self.drafter, AdaptiveDrafter):
            self.drafter.save(state)

    def warm_up(self, ids: list[int], max_new_tokens: int) -> None:
        """Let everything compile and the machine's step times be measured, without learning from it."""
        settings = {"max_new_tokens": min(4, max_new_tokens), "temperature": 0.0, "top_p": 1.0, "seed": 0}
        self.plain(ids, **settings)
        scratch = AdaptiveDrafter(memory_mb=1) if isinstance(self.drafter, AdaptiveDrafter) else self.drafter
        Runner(self.loaded, scratch, self.nodes).answer(ids, **settings)

    def plain(self, ids: list[int], **settings: Any) -> Answer:
        """Decode as llama.cpp alone does.

        Settings: max_new_tokens, temperature (0 is greedy), top_p, seed, on_text (called with text as it comes).
        """
        return self._timed(ids, settings, None)

    def answer(self, ids: list[int], **settings: Any) -> Answer:
        """Decode through ADED; see `plain` for the settings."""
        stats = Stats()
        undo = accelerate(self.loaded.llama, drafter=self.drafter, nodes=self.nodes, stats=stats)
        try:
            return self._timed(ids, settings, stats)
        finally:
            undo()

    def compare(self, ids: list[int], plain: Answer, answer: Answer, **settings: Any) -> dict[str, Any]:
        """Speedup and identity; a greedy difference is checked for being a tie within the rounding noise."""
        result = comparison(plain, answer)
        if result["identical"]:
            return result
        (a,), (b,) = plain.rows, answer.rows
        result["first_difference"] = position = first_difference(a, b)
        if position < len(b) and settings["temperature"] == 0.0:
            certificate = certify(self.loaded.llama, ids, b)
            result["tie"] = certificate.lossless
            if certificate.first_difference is not None:
                result["first_difference"] = position = certificate.first_difference
            result |= {"margin": float(certificate.margins[position]), "noise": certificate.noise}
        return result

    def _timed(self, ids: list[int], settings: dict[str, Any], stats: Stats | None) -> Answer:
        llama, on_text = self.loaded.llama, settings.get("on_text")
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama._ctx.ctx), True)
        llama.reset()
        llama.set_seed(settings["seed"])
        emitted: list[int] = []
        first = 0.0
        started = time.perf_counter()
        for token in self._tokens(ids, settings):
            first = first or time.perf_counter()
            emitted.append(token)
            if on_text is not None:
                on_text(decoder.decode(llama.detokenize([token])))
        seconds = time.perf_counter() - started
        if on_text is not None:
            on_text("\n")
        pieces = [llama.detokenize([token]).decode("utf-8", "replace") for token in emitted]
        if stats is not None:  # a last step can have accepted more than was asked for
            stats.tokens = len(emitted)
            del stats.from_draft[len(emitted) :]
        return Answer(
            text=llama.detokenize(emitted).decode("utf-8", "replace"),
            pieces=pieces,
            rows=[emitted],
            seconds=seconds,
            first_s=(first or started) - started,
            stats=stats or Stats(tokens=len(emitted), steps=len(emitted)),
        )

    def _tokens(self, ids: list[int], settings: dict[str, Any]) -> Iterator[int]:
        """What is emitted, an end included."""
        options: dict[str, Any] = {
            "temp": settings["temperature"],
            "top_p": settings["top_p"],
            "top_k": 0,
            "min_p": 0.0,
        }
        llama = self.loaded.llama
        most = min(settings["max_new_tokens"], llama.n_ctx() - len(ids))
        if most < 1:
            raise ContextFullError(f"a prompt of {len(ids)} tokens fills the context of {llama.n_ctx()}; shorten it")
        tokens = llama.generate(ids, **options)
        for _ in range(most):
            token = next(tokens)
            yield token
            if token in self._ends:
                break
        tokens.close()
