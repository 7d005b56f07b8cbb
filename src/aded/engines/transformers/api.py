"""What a user calls: `custom_generate=aded.generate`, or `aded.accelerate(model)` and `aded.restore(model)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import (
    GENERATION_MODES_MAPPING,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)

from aded.budget.cost import CostCurve
from aded.decoding import decode
from aded.deprecation import renamed_option
from aded.drafters.base import Drafter
from aded.drafters.predicted import Prediction, predicted
from aded.drafters.sharing import Share, for_call
from aded.engines.base.options import MaxDraftTokens, budget_for, kept_drafter
from aded.engines.transformers import cache as kv
from aded.engines.transformers.callers import NO_STREAMER, callers, encoded_text, text_ids
from aded.engines.transformers.compat import CACHE
from aded.engines.transformers.cost import cost_curve
from aded.engines.transformers.engine import TransformersEngine, Way
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.exactness import exactness
from aded.engines.transformers.forward import CompiledRunner, ForwardRunner
from aded.engines.transformers.refusals import plain_class, refuse, way_of
from aded.engines.transformers.together import looks_at_all
from aded.errors import UnsupportedError
from aded.speculation import Speculator
from aded.stats import Exactness, Stats


def prepare(model: Any, *, compile: bool = False, renew: bool = False) -> CostCurve:
    """Measure what a verification step costs on this machine, in about three seconds; `generate` does so at first use.

    A model loaded from somewhere keeps its curve in the cache folder, by all that step times depend on.

    Args:
        compile: of compiled steps.
        renew: measure again, whatever is known.
    """
    return cost_curve(model, runner=CompiledRunner(model) if compile else None, renew=renew)


# Of a call; `generate` must not refuse them.
_SETTINGS = {"drafter", "max_draft_tokens", "compile", "stats", "on_unsupported", "share", "tenant", "prediction"}


@torch.no_grad()
def _decode(
    engine: TransformersEngine, drafter: Drafter, max_draft_tokens: MaxDraftTokens, stats: Stats | None, streamer: Any
) -> GenerateDecoderOnlyOutput | GenerateEncoderDecoderOutput | torch.Tensor:
    rows, prompt = engine.output().shape
    measured: dict[str, Any] = {"runner": engine.runner, "encoded": engine.encoded()}
    budget = budget_for(
        max_draft_tokens,
        drafter,
        curve=lambda: cost_curve(engine.model, prompt, **measured),
        length=lambda: engine.length,
        slots=rows,
    )
    speculator = Speculator(drafter, budget, count=rows, stats=stats)
    for slot in speculator.slots:
        speculator.start(slot, engine.prompt(slot))
    running, shown = set(speculator.slots), prompt
    try:
        for outcomes in decode(engine, speculator, engine.together) if engine.room > prompt else ():
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
    if not engine.keeps_cache:
        engine.cache.reset()  # its rows are no longer those of the output
    if not engine.config.return_dict_in_generate:
        return cast(torch.Tensor, engine.output())
    kind = GenerateEncoderDecoderOutput if engine.model.config.is_encoder_decoder else GenerateDecoderOnlyOutput
    return kind(
        sequences=engine.output(),
        scores=None if engine.scores is None else cast(Any, tuple(engine.scores)),
        logits=None if engine.logits is None else cast(Any, tuple(engine.logits)),
        **{CACHE: engine.cache if engine.keeps_cache else None},
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
    share: Share | None = None,
    tenant: str | None = None,
    prediction: Prediction | None = None,
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
        share, tenant: what others get of this call, and on whose behalf it is; see `aded.sharing`.
        prediction: what the answer is expected to look like, as in editing a file: token ids, or a text where
            `generate` was given a tokenizer; for a batch, one for each row. See `aded.predicting`.
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
        streamer = callers(model, "streamer")
    processors = LogitsProcessorList() if logits_processor is None else logits_processor
    criteria = StoppingCriteriaList() if stopping_criteria is None else stopping_criteria
    max_draft_tokens = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    drafting = for_call(kept_drafter(model, drafter), share, tenant)
    drafting = predicted(drafting, prediction, len(input_ids), lambda text: text_ids(model, text))
    held: int | None = None  # entries of the cache before the prompt was taken in
    try:
        refuse(model, input_ids, generation_config, synced_gpus, compile, model_kwargs)
        runner = CompiledRunner(model, generation_config.compile_config) if compile else ForwardRunner(model)
        exact: Exactness = "rounding" if compile else exactness(model)
        together = looks_at_all(len(input_ids), generation_config, processors, criteria)
        together |= len(input_ids) > 1 and kv.is_callers(model_kwargs[CACHE])
        way: Way = "trees" if compile else way_of(model, input_ids, generation_config, model_kwargs)
        with our_kernels(model, compiled=runner.fixed):
            given = (model, input_ids, generation_config, processors, criteria, dict(model_kwargs), runner, exact)
            engine = TransformersEngine(*given, way=way, together=together, source=encoded_text(model))
            if stats is not None:
                stats.exact = engine.exact
            held = kv.length(model_kwargs[CACHE]) or 0
            return _decode(engine, drafting, max_draft_tokens, stats, streamer)
    except UnsupportedError as error:
        if on_unsupported == "raise":
            raise
        warnings.warn(f"decoding plainly: {error}", stacklevel=2)
    if held is not None:
        model_kwargs[CACHE] = kv.rewound(model_kwargs[CACHE], held, model)
    mode = generation_config.get_generation_mode()
    plain = getattr(plain_class(model), GENERATION_MODES_MAPPING[mode])
    model_kwargs |= {"logits_processor": processors, "stopping_criteria": criteria}
    if streamer not in (None, NO_STREAMER):
        model_kwargs["streamer"] = streamer
    return plain(model, input_ids, generation_config=generation_config, **model_kwargs)


def _without_ours(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _SETTINGS}


def accelerate(
    model: Any,
    *,
    drafter: str | Drafter = "adaptive",
    max_draft_tokens: MaxDraftTokens = "auto",
    compile: bool = False,
    on_unsupported: Literal["raise", "fallback"] = "raise",
    share: Share | None = None,
    tenant: str | None = None,
    nodes: MaxDraftTokens | None = None,
) -> Callable[[], None]:
    """Make plain `model.generate(...)` decode through ADED; returns a function that undoes it.

    The model's class becomes a subclass of itself (same name) whose decoding methods are ours, so that everything
    `generate` prepares, a streamer and stop strings included, is what it always was. Accelerating
    again replaces the settings; `model.generate(..., stats=stats)` fills a `Stats`, and takes other settings for one
    call in the same way. transformers' own assistants and prompt lookup go their own way, with a warning. `nodes` is
    the old name of `max_draft_tokens`.
    """
    model = _adapted(model)
    if not isinstance(model, GenerationMixin):
        name = type(model).__name__
        raise UnsupportedError(f"{name} has no generate method to accelerate; pass a causal language model")
    most = renamed_option("nodes", nodes, "max_draft_tokens", max_draft_tokens, "auto")
    restore(model)
    plain = type(model)
    options: dict[str, Any] = {"drafter": drafter, "max_draft_tokens": most, "compile": compile}
    options |= {"on_unsupported": on_unsupported, "streamer": NO_STREAMER, "share": share, "tenant": tenant}

    def method(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return generate(self, input_ids, **options | kwargs)

    def assisted(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        warnings.warn("an assistant or prompt lookup was asked for: this call decodes without ADED", stacklevel=3)
        return plain._assisted_decoding(self, *arguments, **_without_ours(kwargs))

    def continuous(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        warnings.warn("generate_batch decodes without ADED", stacklevel=2)
        return plain.generate_batch(self, *arguments, **kwargs)

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
    if hasattr(plain, "generate_batch"):
        namespace["generate_batch"] = continuous
    namespace |= {"__reduce_ex__": reduced, "__deepcopy__": copied}
    namespace |= {"_validate_model_kwargs": validate, "_aded_plain_class": plain}
    model.__class__ = type(plain.__name__, (plain,), namespace)
    return lambda: restore(model)


def restore(model: Any) -> None:
    """Make `model.generate` what it was before `accelerate`; nothing happens to a model never accelerated."""
    model = _adapted(model)
    model.__class__ = plain_class(model)


def _adapted(model: Any) -> Any:
    """The model whose `generate` this one's calls: what a PeftModel adapts or torch compiles, or a part that writes."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, GenerationMixin):
        base = getattr(model, "get_base_model", None)
        return model if base is None else base()
    part = getattr(model, "language_model", None)
    own = plain_class(model).generate is not GenerationMixin.generate
    return part if own and isinstance(part, GenerationMixin) else model
