"""What a user calls: `custom_generate=aded.generate`, or `aded.accelerate(model)` and `aded.restore(model)`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
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

from aded.budget.cost import MAX_DRAFT_TOKENS, CostCurve
from aded.decoding import decode
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.engines.base.options import MaxDraftTokens, budget_for, kept_drafter
from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import verifies_trees
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.cost import cost_curve
from aded.engines.transformers.engine import TransformersEngine, Way
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.exactness import exactness
from aded.engines.transformers.forward import CompiledRunner, ForwardRunner
from aded.engines.transformers.positions import fixed_positions, grows
from aded.engines.transformers.recurrent import LINEAR, is_recurrent
from aded.engines.transformers.trial import found_way
from aded.errors import UnsupportedError
from aded.speculation import Speculator
from aded.stats import Exactness, Stats

# Processors that look at all rows of a batch together.
_OF_WHOLE_BATCH = (
    PrefixConstrainedLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


def prepare(model: Any, *, compile: bool = False, renew: bool = False) -> CostCurve:
    """Measure what a verification step costs on this machine, in about three seconds; `generate` does so at first use.

    A model loaded from somewhere keeps its curve in the cache folder, by all that step times depend on.

    Args:
        compile: of compiled steps.
        renew: measure again, whatever is known.
    """
    return cost_curve(model, runner=CompiledRunner(model) if compile else None, renew=renew)


class _NoStreamer:
    """Stands for "no streamer" where a caller's frame must not be searched for one."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


_NO_STREAMER = _NoStreamer()

# Of a call; `generate` must not refuse them.
_SETTINGS = {"drafter", "max_draft_tokens", "compile", "stats", "on_unsupported"}


@torch.no_grad()
def _decode(
    engine: TransformersEngine, drafter: Drafter, max_draft_tokens: MaxDraftTokens, stats: Stats | None, streamer: Any
) -> GenerateDecoderOnlyOutput | torch.Tensor:
    rows, prompt = engine.output().shape
    budget = budget_for(
        max_draft_tokens,
        drafter,
        curve=lambda: cost_curve(engine.model, prompt, runner=engine.runner),
        length=lambda: engine.length,
        slots=rows,
    )
    speculator = Speculator(drafter, budget, count=rows, stats=stats)
    for slot in speculator.slots:
        speculator.start(slot, engine.prompt(slot))
    running, shown = set(speculator.slots), prompt
    try:
        for outcomes in decode(engine, speculator) if engine.room > prompt else ():
            running -= {outcome.slot for outcome in outcomes if outcome.finished}
            if streamer is not None:
                # As plain decoding shows tokens: one of every row at a time, as far as all rows are.
                ready = min((engine.ids(slot).shape[1] for slot in running), default=engine.length)
                for position in range(shown, ready):
                    streamer.put(engine.output()[:, position].cpu())
                shown = ready
    except BaseException:
        engine.abandon()
        raise
    else:
        engine.settle()
    finally:
        engine.runner.end(engine.cache)
    if streamer is not None:
        streamer.end()
    if engine.batch:
        engine.cache.reset()  # its rows are no longer those of the output
    if not engine.config.return_dict_in_generate:
        return cast(torch.Tensor, engine.output())
    return GenerateDecoderOnlyOutput(
        sequences=engine.output(),
        scores=None if engine.scores is None else cast(Any, tuple(engine.scores)),
        logits=None if engine.logits is None else cast(Any, tuple(engine.logits)),
        **{CACHE: None if engine.batch else engine.cache},
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
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: bool = False,
    stats: Stats | None = None,
    on_unsupported: Literal["raise", "fallback"] = "raise",
    nodes: MaxDraftTokens | None = None,
    **model_kwargs: Any,
) -> Any:
    """Decode as `model.generate` would, several tokens a forward pass.

    Pass it to transformers: `model.generate(**inputs, custom_generate=aded.generate)`.

    Args:
        drafter: a drafter or the name of one; a named one is kept with the model and goes on learning.
        max_draft_tokens: most draft tokens verified in a step, or "auto": as many as pay on this machine (measured at
            first use, see `prepare`).
        compile: run steps through `torch.compile`, with CUDA graphs on a GPU, in a cache of fixed size. Compiling takes
            its time once for each of a few numbers of tokens and for each doubling of the cache; the generation
            configuration's `compile_config` says how, if it has one. For one sequence.
        stats: filled with what decoding took.
        on_unsupported: "raise" an UnsupportedError, or "fallback" to plain decoding with a warning.
        nodes: the old name of `max_draft_tokens`.

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
        streamer = _callers_streamer(model)
    processors = LogitsProcessorList() if logits_processor is None else logits_processor
    criteria = StoppingCriteriaList() if stopping_criteria is None else stopping_criteria
    max_draft_tokens = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    held: int | None = None  # entries of the cache before the prompt was taken in
    try:
        _refuse(model, input_ids, generation_config, processors, criteria, synced_gpus, compile, model_kwargs)
        runner = CompiledRunner(model, generation_config.compile_config) if compile else ForwardRunner(model)
        exact: Exactness = "rounding" if compile else exactness(model)
        way: Way = "trees" if compile else _way(model, input_ids, generation_config, model_kwargs)
        with our_kernels(model, compiled=runner.fixed):
            given = (model, input_ids, generation_config, processors, criteria, dict(model_kwargs), runner, exact)
            engine = TransformersEngine(*given, way=way)
            if stats is not None:
                stats.exact = engine.exact
            held = kv.length(model_kwargs[CACHE]) or 0
            return _decode(engine, kept_drafter(model, drafter), max_draft_tokens, stats, streamer)
    except UnsupportedError as error:
        if on_unsupported == "raise":
            raise
        warnings.warn(f"decoding plainly: {error}", stacklevel=2)
    if held is not None:
        model_kwargs[CACHE] = kv.rewound(model_kwargs[CACHE], held, model)
    mode = generation_config.get_generation_mode()
    plain = getattr(_plain_class(model), GENERATION_MODES_MAPPING[mode])
    model_kwargs |= {"logits_processor": processors, "stopping_criteria": criteria}
    if streamer not in (None, _NO_STREAMER):
        model_kwargs["streamer"] = streamer
    return plain(model, input_ids, generation_config=generation_config, **model_kwargs)


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
    """Raise an UnsupportedError that names the reason, if there is one."""
    cache: Any = kwargs.get(CACHE)
    returned = config.return_dict_in_generate
    reasons = {
        "beam search and other modes than greedy and sampling keep several sequences": config.get_generation_mode()
        not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        "encoder-decoder models are not supported": model.config.is_encoder_decoder,
        "its positions mean something else beyond "
        f"{fixed_positions(model)} tokens, which this text would reach": _crosses(model, input_ids, config),
        "it decodes in a way of its own": _plain_class(model)._sample is not GenerationMixin._sample,
        "a recurrent state is kept for one sequence from its beginning on, and not compiled": is_recurrent(model)
        and (compile or len(input_ids) > 1 or (cache is not None and _holds_something(cache))),
        "attentions and hidden states of a tree pass differ in shape from plain decoding's": returned
        and (config.output_attentions or config.output_hidden_states),
        "synchronised generation over several processes is not supported": synced,
        "speculative decoding needs the key/value cache (use_cache=True)": not kwargs.get("use_cache", True),
    }
    _raise_first(reasons)
    if compile:
        reasons |= {
            "compile=True decodes one sequence": input_ids.shape[0] > 1,
            "compile=True needs a model whose attention takes a mask": not verifies_trees(model),
            "compile=True takes no cache with entries whose layers slide": kv.slides(cache)
            and cache.get_seq_length() > 0,
        }
    if input_ids.shape[0] > 1:  # its rows are not in step
        reasons |= {
            "a batch needs a model whose attention takes a mask of its own for each row": not verifies_trees(model),
            "a batch needs a growing cache that is empty": cache is not None
            and (kv.room(cache) is not None or cache.get_seq_length() > 0),
            "scores and logits of a batch are not returned": returned
            and (config.output_scores or config.output_logits),
            "a processor that tells a batch's rows apart, or may, cannot see one at a time": any(
                isinstance(processor, _OF_WHOLE_BATCH) or not _is_librarys(processor) for processor in processors
            ),
            "a criterion that may look at a whole batch cannot see one row at a time": any(
                not _is_librarys(criterion) for criterion in criteria
            ),
            "without an end-of-sequence token, rows of a batch go on until a criterion holds for all of them": not any(
                hasattr(criterion, "eos_token_id") for criterion in criteria
            )
            and any(not isinstance(criterion, MaxLengthCriteria | MaxTimeCriteria) for criterion in criteria),
        }
    _raise_first(reasons)
    if cache is not None:
        kv.check(cache)


def _crosses(model: Any, input_ids: torch.Tensor, config: GenerationConfig) -> bool:
    """Whether a draft may reach positions that change what others mean."""
    fixed = fixed_positions(model)
    if fixed is None or int(config.max_length) + MAX_DRAFT_TOKENS <= fixed:
        return False
    return grows(model) or input_ids.shape[1] <= fixed


def _raise_first(reasons: dict[str, bool]) -> None:
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedError(f'{reason}; decode without ADED, or pass on_unsupported="fallback"')


def _callers_streamer(model: Any) -> Any:
    """The streamer of the `model.generate` that we are called by, through whatever wraps us."""
    frame = sys._getframe(2)
    while frame is not None:
        known = frame.f_locals
        if frame.f_code.co_name == "generate" and known.get("self") is model and "streamer" in known:
            return known["streamer"]
        frame = cast(Any, frame.f_back)
    return None


def _way(model: Any, input_ids: torch.Tensor, config: GenerationConfig, kwargs: dict[str, Any]) -> Way:
    """How drafts are verified, after a trial.

    Raises:
        UnsupportedError: scores of several tokens at once are not those of each, or cannot be had.
    """
    way, reason = found_way(model, _plain_class(model)._sample, input_ids, config, kwargs)
    if way == "none" or (way == "chains" and len(input_ids) > 1):
        raise UnsupportedError(reason)
    return way


def _holds_something(cache: Any) -> bool:
    return any(any(layer.has_previous_state.values()) for layer in cache.layers if isinstance(layer, LINEAR))


def _is_librarys(processor: Any) -> bool:
    """Whether a processor or criterion is transformers' own: those look at each row by itself, with few exceptions."""
    return type(processor).__module__.split(".")[0] == "transformers"


def _plain_class(model: Any) -> Any:
    return getattr(type(model), "_aded_plain_class", type(model))


def _without_ours(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _SETTINGS}


def accelerate(
    model: Any,
    *,
    drafter: str | Drafter = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: bool = False,
    on_unsupported: Literal["raise", "fallback"] = "raise",
    nodes: MaxDraftTokens | None = None,
) -> Callable[[], None]:
    """Make plain `model.generate(...)` decode through ADED; returns a function that undoes it.

    The model's class becomes a subclass of itself (same name) whose decoding methods are ours, so that everything
    `generate` prepares, a streamer and stop strings included, is what it always was. Accelerating
    again replaces the settings; `model.generate(..., stats=stats)` fills a `Stats`, and takes other settings for one
    call in the same way. transformers' own assistants and prompt lookup go their own way, with a warning. `nodes` is
    the old name of `max_draft_tokens`.
    """
    if not isinstance(model, GenerationMixin) and callable(base := getattr(model, "get_base_model", None)):
        model = base()  # of a PeftModel: its `generate` calls that of the model it adapts
    if not isinstance(model, GenerationMixin):
        name = type(model).__name__
        raise UnsupportedError(f"{name} has no generate method to accelerate; pass a causal language model")
    most = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    restore(model)
    plain = type(model)
    options: dict[str, Any] = {"drafter": drafter, "max_draft_tokens": most, "compile": compile}
    options |= {"on_unsupported": on_unsupported, "streamer": _NO_STREAMER}

    def method(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return generate(self, input_ids, **options | kwargs)

    def assisted(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        warnings.warn("an assistant or prompt lookup was asked for: this call decodes without ADED", stacklevel=3)
        return plain._assisted_decoding(self, *arguments, **_without_ours(kwargs))

    def validate(self: Any, model_kwargs: dict[str, Any]) -> None:
        plain._validate_model_kwargs(self, _without_ours(model_kwargs))

    def reduced(self: Any, protocol: Any) -> Any:
        """Pickled as what it was: the subclass lives in this process only."""
        return object.__new__, (plain,), vars(self)

    def copied(self: Any, memo: dict[int, Any]) -> Any:
        new = memo[id(self)] = object.__new__(type(self))
        vars(new).update(deepcopy(vars(self), memo))
        return new

    same = {name: getattr(plain, name) for name in ("__module__", "__doc__", "__qualname__")}
    namespace = {"_sample": method, "_beam_search": method, "_assisted_decoding": assisted, **same}
    namespace |= {"__reduce_ex__": reduced, "__deepcopy__": copied}
    namespace |= {"_validate_model_kwargs": validate, "_aded_plain_class": plain}
    model.__class__ = type(plain.__name__, (plain,), namespace)
    return lambda: restore(model)


def restore(model: Any) -> None:
    """Make `model.generate` what it was before `accelerate`; nothing happens to a model never accelerated."""
    model.__class__ = _plain_class(model)
