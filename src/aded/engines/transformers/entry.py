"""The two ways in: `custom_generate=aded.generate`, and `aded.accelerate(model)`."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.stopping_criteria import MaxLengthCriteria, MaxTimeCriteria
from transformers.generation.utils import GENERATION_MODES_MAPPING, GenerateDecoderOnlyOutput

from aded import drafters
from aded.budget import Budget, FixedBudget, MeasuredBudget
from aded.decoding import Stats, decode
from aded.drafters.base import Drafter, Session
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import grouped_attention, verifies_trees
from aded.engines.transformers.costs import cost_curve
from aded.engines.transformers.engine import TransformersEngine
from aded.engines.transformers.linear import fast_linear
from aded.engines.transformers.steps import CompiledSteps, Steps
from aded.engines.transformers.stopping import Stopping
from aded.errors import UnsupportedError
from aded.tree import DraftTree

__all__ = ["accelerate", "generate", "undo"]

Nodes = int | Literal["auto"]
_DRAFTERS: weakref.WeakKeyDictionary[Any, dict[str, Drafter]] = weakref.WeakKeyDictionary()


_OF_WHOLE_BATCH = (
    PrefixConstrainedLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


def _refuse(
    model: Any,
    input_ids: torch.Tensor,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    synced: bool,
    compile: bool,
    kwargs: dict[str, Any],
) -> None:
    mode = config.get_generation_mode()
    reasons = {
        "beam search and other modes than greedy and sampling keep several sequences": mode
        not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        "encoder-decoder models are not supported": model.config.is_encoder_decoder,
        "a recurrent state cannot drop rejected drafts": getattr(model, "_is_stateful", False),
        "attentions and hidden states of a tree pass differ in shape from plain decoding's": bool(
            config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states)
        ),
        "synchronised generation over several processes is not supported": synced,
        "speculative decoding needs the key/value cache (use_cache=True)": not kwargs.get("use_cache", True),
    }
    if compile:
        cache: Any = kwargs.get("past_key_values")
        reasons |= {
            "compile=True decodes one sequence": input_ids.shape[0] > 1,
            "compile=True needs a model whose attention takes a mask": not verifies_trees(model),
            "compile=True takes no cache with entries whose layers slide": kv.slides(cache)
            and cache.get_seq_length() > 0,
        }
    if input_ids.shape[0] > 1:
        reasons |= _batch_reasons(model, config, processors, criteria, kwargs)
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(f'{reason}; decode without ADED, or pass on_unsupported="fallback"')


def _batch_reasons(
    model: Any,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    kwargs: dict[str, Any],
) -> dict[str, bool]:
    """What one sequence can be asked for and a batch, whose rows are not in step, cannot."""
    cache = kwargs.get("past_key_values")
    ends = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
    return {
        "a batch needs a model whose attention takes a mask of its own for each row": not verifies_trees(model),
        "a batch needs a growing cache that is empty": cache is not None
        and (kv.room(cache) is not None or cache.get_seq_length() > 0),
        "scores and logits of a batch are not returned": bool(
            config.return_dict_in_generate and (config.output_scores or config.output_logits)
        ),
        "a processor that tells a batch's rows apart cannot see one at a time": any(
            isinstance(processor, _OF_WHOLE_BATCH) for processor in processors
        ),
        "without an end-of-sequence token, rows of a batch go on until a criterion holds for all of them": not ends
        and any(not isinstance(criterion, MaxLengthCriteria | MaxTimeCriteria) for criterion in criteria),
    }


class _ChainSession:
    """Cuts drafts to chains for models that cannot verify siblings."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.observe = session.observe

    def draft(self, max_nodes: int) -> DraftTree:
        return self._session.draft(max_nodes).best_chain()


class _StaticSession:
    """Cuts drafts to what a static cache still holds."""

    def __init__(self, session: Session, engine: TransformersEngine) -> None:
        self._session, self._engine = session, engine
        self.observe = session.observe

    def draft(self, max_nodes: int) -> DraftTree:
        room = kv.room(self._engine.cache)
        tree = self._session.draft(max_nodes)
        return tree if room is None else tree.limit(nodes=room - 1)


def _shared_drafter(model: Any, drafter: str | Drafter) -> Drafter:
    """A drafter given by name is made once for each model, so that it keeps what it learns between calls."""
    if not isinstance(drafter, str):
        return drafter
    made = _DRAFTERS.setdefault(model, {})
    if drafter not in made:
        made[drafter] = drafters.create(drafter)
    return made[drafter]


def _budget(engine: TransformersEngine, nodes: Nodes) -> Budget:
    if nodes == "auto":
        curve = partial(cost_curve, engine.model, engine.length, steps=engine.steps)
        return MeasuredBudget(curve, lambda: engine.length)
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 0:
        raise ValueError(f'nodes must be "auto" or a whole number from 0 on, not {nodes!r}')
    return FixedBudget(nodes)


@torch.no_grad()
def _generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: Any,
    drafter: str | Drafter,
    nodes: Nodes,
    stats: Stats | None,
    steps: Steps,
    model_kwargs: dict[str, Any],
) -> GenerateDecoderOnlyOutput | torch.Tensor:
    drafter = _shared_drafter(model, drafter)
    engine = TransformersEngine(
        model, input_ids, generation_config, logits_processor, model_kwargs, steps, drafter.top_k
    )
    rows, length = input_ids.shape
    budget = _budget(engine, nodes)
    sessions: list[Session] = [drafter.start(engine.prompt(row)) for row in range(rows)]
    if not engine.trees:
        sessions = [_ChainSession(session) for session in sessions]
    if kv.room(engine.cache) is not None:
        sessions = [_StaticSession(session, engine) for session in sessions]
    finished: set[int] = set()
    stopping = Stopping(stopping_criteria)

    def stop(row: int) -> bool:
        if stopping(engine.ids(row), engine.last(row)):
            finished.add(row)
        return row in finished

    turns = decode(
        engine,
        sessions,
        budget=budget,
        max_tokens=int(generation_config.max_length) - length,
        top_k=drafter.top_k,
        stop=stop,
        stats=stats,
    )
    shown = length
    try:
        for _ in turns:
            if streamer is None:
                continue
            # As plain decoding shows a batch: one token of every row at a time, as far as all rows are.
            running = [length + engine.emitted(row) for row in range(rows) if row not in finished]
            for position in range(shown, shown := min(running, default=engine.length)):
                streamer.put(engine.output()[:, position].cpu())
    finally:
        steps.end(engine.cache)
    if streamer is not None:
        streamer.end()
    sequences = engine.output()
    if engine.batch:
        engine.cache.reset()  # its rows are no longer those of the output
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateDecoderOnlyOutput(
        sequences=sequences,
        scores=None if engine.scores is None else cast(Any, tuple(engine.scores)),
        logits=None if engine.logits is None else cast(Any, tuple(engine.logits)),
        past_key_values=None if engine.batch else engine.cache,
    )


def generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    synced_gpus: bool = False,
    streamer: Any = None,
    drafter: str | Drafter = "adaptive",
    nodes: Nodes = "auto",
    compile: bool = False,
    stats: Stats | None = None,
    on_unsupported: Literal["raise", "fallback"] = "raise",
    **model_kwargs: Any,
) -> Any:
    """Decode as `model.generate` would, several tokens a forward pass.

    Pass it to transformers: `model.generate(**inputs, custom_generate=aded.generate)`.

    Args:
        drafter: a drafter or the name of one; a named one is kept with the model and goes on learning.
        nodes: most draft tokens verified in a step, or "auto": as many as pay on this machine (measured at first use).
        compile: run steps through `torch.compile`, with CUDA graphs on a GPU, in a cache of fixed size. Compiling takes
            its time once for each of a few numbers of tokens and for each doubling of the cache; the generation
            configuration's `compile_config` says how, if it has one. For one sequence.
        stats: filled with what decoding took.
        on_unsupported: "raise" an UnsupportedError, or "fallback" to plain decoding with a warning.

    The other arguments are what `generate` hands to its decoding methods. Returns what `generate` returns.

    Raises:
        UnsupportedError: the model or mode cannot be verified with drafts, and `on_unsupported` is "raise".
    """
    if generation_config is None:
        raise TypeError("call it through transformers: model.generate(**inputs, custom_generate=aded.generate)")
    if on_unsupported not in ("raise", "fallback"):
        raise ValueError(f'on_unsupported must be "raise" or "fallback", not {on_unsupported!r}')
    if streamer is None:
        # transformers 5 does not hand the streamer on to a callable; it is a local of the `generate` that called us.
        streamer = sys._getframe(1).f_locals.get("streamer")
    processors = LogitsProcessorList() if logits_processor is None else logits_processor
    criteria = StoppingCriteriaList() if stopping_criteria is None else stopping_criteria
    try:
        _refuse(model, input_ids, generation_config, processors, criteria, synced_gpus, compile, model_kwargs)
        if (cache := model_kwargs.get("past_key_values")) is not None:
            kv.check(cache)
    except UnsupportedError as error:
        if on_unsupported == "raise":
            raise
        warnings.warn(f"decoding plainly: {error}", stacklevel=2)
        mode = generation_config.get_generation_mode()
        plain = getattr(_plain_class(model), GENERATION_MODES_MAPPING[mode])
        extra = {"streamer": streamer} if streamer is not None else {}
        return plain(
            model,
            input_ids,
            logits_processor=processors,
            stopping_criteria=criteria,
            generation_config=generation_config,
            **extra,
            **model_kwargs,
        )
    steps = CompiledSteps(model, generation_config.compile_config) if compile else Steps(model)
    with fast_linear(model), grouped_attention(model):
        return _generate(
            model,
            input_ids,
            processors,
            criteria,
            generation_config,
            streamer,
            drafter,
            nodes,
            stats,
            steps,
            model_kwargs,
        )


def _plain_class(model: Any) -> type:
    return getattr(type(model), "_aded_plain_class", type(model))


def accelerate(
    model: Any,
    *,
    drafter: str | Drafter = "adaptive",
    nodes: Nodes = "auto",
    compile: bool = False,
    on_unsupported: Literal["raise", "fallback"] = "raise",
) -> Callable[[], None]:
    """Make plain `model.generate(...)` decode through ADED; returns a function that undoes it.

    The model's class becomes a subclass of itself (same name) whose decoding methods are ours, so that everything
    `generate` prepares, a streamer and stop strings included, is what it always was. `stats=` may be passed to
    `generate` as well. Accelerating again replaces the settings.
    """
    if not isinstance(model, GenerationMixin):
        raise UnsupportedError(
            f"{type(model).__name__} has no generate method to accelerate; pass a causal language model"
        )
    undo(model)
    plain = type(model)
    options = {"drafter": drafter, "nodes": nodes, "compile": compile, "on_unsupported": on_unsupported}

    def method(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return generate(self, input_ids, **{**options, **kwargs, "streamer": kwargs.get("streamer", _NO_STREAMER)})

    namespace = {
        "_sample": method,
        "_beam_search": method,
        "_aded_plain_class": plain,
        "__module__": plain.__module__,
        "__doc__": plain.__doc__,
        "__qualname__": plain.__qualname__,
    }
    model.__class__ = type(plain.__name__, (plain,), namespace)
    return lambda: undo(model)


def undo(model: Any) -> None:
    """Make `model.generate` what it was before `accelerate`; nothing happens to a model never accelerated."""
    model.__class__ = _plain_class(model)


class _NoStreamer:
    """Stands for "no streamer" where a caller's frame must not be searched for one."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


_NO_STREAMER = _NoStreamer()
