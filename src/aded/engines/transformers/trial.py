"""A trial of a model at its first use: does a pass over several tokens score each as a pass of its own does?

Models differ in what they make of positions, masks and order, and a user's own model may do anything. So plain decoding
of a few tokens is compared with the same tokens verified among siblings, or in a chain. What agrees is what is used.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import MaxLengthCriteria

from aded.batch import Outcomes
from aded.engines.transformers.attention import implementation, takes_masks, verifies_trees
from aded.engines.transformers.depths import derives_positions
from aded.engines.transformers.engine import TEXT_INPUTS, TransformersEngine, Way
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.forward import ForwardRunner
from aded.engines.transformers.recurrent import begins_anew
from aded.errors import UnsupportedError
from aded.tree import DraftTree, Outcome

Found = tuple[Way, str]  # how drafts can be verified, and why not as trees or chains

_REASON = (
    "on trial, this model's scores of several tokens in one pass were not those of one token after the other; "
    'decode it without ADED, or pass on_unsupported="fallback"'
)
# One token's product then depends on others in its pass, by some hundredths: more than rounding, and in types of 16
# bits not told from it.
_OUTLIERS = (
    "8-bit layers of bitsandbytes choose outliers over all tokens of a pass; load the model with "
    'llm_int8_threshold=0.0, or pass on_unsupported="fallback"'
)
_PROMPT = 12  # tokens at most
_PATH = 6  # tokens decoded: one by the prompt, two drafted, one by their last, one drafted, one by it
_AFTER = (1, 2, 3)  # rejected tokens behind those of a chain
_OTHERS = 8  # rejected tokens beside each drafted one
# The greatest length of a difference of two score vectors, as a part of the length of what sets the scores apart. In
# float32 rounding makes some 1e-5 of it. In types of 16 bits it makes some hundredths, and more where it sends a token
# to another expert: there half of the vectors may differ by more. Wrong positions make some tenths, in most vectors.
_FLOAT32, _OTHER = 3e-3, 0.1

_FOUND: WeakKeyDictionary[Any, dict[tuple[Any, ...], Found]] = WeakKeyDictionary()


def found_way(
    model: Any, plain: Any, input_ids: torch.Tensor, config: GenerationConfig, kwargs: dict[str, Any]
) -> Found:
    """How this model's drafts can be verified; tried once for each kind of input.

    Args:
        plain: the model's own `_sample`.
        input_ids, config, kwargs: of the call. A call with images or other inputs besides text is itself what is tried,
            for a few tokens; else a few tokens of its prompt are.
    """
    special = [x for x, value in kwargs.items() if isinstance(value, torch.Tensor) and x not in TEXT_INPUTS]
    if model.config.is_encoder_decoder:
        special.append("encoder_outputs")
    prepares = model.prepare_inputs_for_generation  # adapters that put tokens before a prompt change it
    attention = implementation(model), getattr(prepares, "__func__", prepares)
    key = len(input_ids) > 1, tuple(sorted(special)), model.dtype, model.training, *attention
    known = _FOUND.setdefault(model, {})
    if key not in known:
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            known[key] = _tried(model, plain, input_ids, config, kwargs, special=bool(special))
    return known[key]


def _tried(
    model: Any,
    plain: Any,
    input_ids: torch.Tensor,
    config: GenerationConfig,
    kwargs: dict[str, Any],
    *,
    special: bool,
) -> Found:
    if any(type(x).__name__ == "Linear8bitLt" and x.state.threshold > 0 for x in model.modules()):
        return "none", _OUTLIERS
    found: list[Found] = []
    settings: dict[str, Any] = {"do_sample": False, "num_beams": 1, "use_cache": True, "return_dict_in_generate": True}
    settings |= {"output_logits": True, "output_scores": False, "output_attentions": False}
    settings |= {"output_hidden_states": False}
    if special:
        mine = deepcopy(config)
        for name, value in settings.items():
            setattr(mine, name, value)
        with suppress(Exception):  # what fails so is for plain decoding to say
            _compare(found, plain, model, input_ids, None, None, mine, **deepcopy(kwargs))
        return found[0] if found else ("none", _REASON)
    ids = input_ids[:, -_PROMPT:]
    mask = torch.ones_like(ids)
    if len(ids) > 1:
        ids = torch.cat([ids[:1], ids[:1].flip(1)])
        mask = torch.ones_like(ids)
        mask[1, : ids.shape[1] // 3] = 0
    settings |= {"pad_token_id": 0, "eos_token_id": None, "max_new_tokens": _PATH, "cache_implementation": None}
    with suppress(Exception):
        model.generate(ids, attention_mask=mask, custom_generate=partial(_compare, found, plain), **settings)
    return found[0] if found else ("none", _REASON)


def _compare(
    found: list[Found],
    plain: Any,
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    **kwargs: Any,
) -> torch.Tensor:
    """A decoding method for `generate` that puts into `found` what it found."""
    kwargs.pop("synced_gpus", None)
    kwargs.pop("streamer", None)
    before = deepcopy(kwargs)
    generation_config.max_length = input_ids.shape[1] + _PATH
    criteria = StoppingCriteriaList([MaxLengthCriteria(generation_config.max_length)])
    said = plain(model, input_ids, LogitsProcessorList(), criteria, generation_config, **kwargs)
    stock = torch.stack(said.logits, dim=1).float()  # (rows, path, vocabulary)
    path: list[list[int]] = said.sequences[:, -_PATH:].tolist()
    generation_config.output_logits = False
    reason = _REASON

    def agrees(siblings: bool) -> bool:
        nonlocal reason
        given = model, input_ids, generation_config, LogitsProcessorList(), criteria, deepcopy(before)
        try:
            with our_kernels(model):
                engine = TransformersEngine(*given, ForwardRunner(model), way="trees" if siblings else "chains")
                return _agree(stock, _verified(engine, path, siblings=siblings), model.dtype)
        except UnsupportedError as error:
            reason = str(error)
        except Exception:  # whatever its code makes of several tokens
            reason = _REASON
        return False

    one = len(input_ids) == 1 and takes_masks(model) and derives_positions(model)
    trees = (one or verifies_trees(model)) and agrees(siblings=True)
    chains = agrees(siblings=False) or begins_anew(model, lambda: agrees(siblings=False))
    way: Way = ("trees" if chains else "masked") if trees else "chains" if chains else "none"
    found.append((way, reason))
    return input_ids


def _verified(engine: TransformersEngine, path: list[list[int]], *, siblings: bool) -> torch.Tensor:
    """Scores (rows, path, vocabulary) of two steps along each row's path, whose other drafts are rejected."""
    rows = list(range(len(path)))
    scored = [[scores.logits(0)] for scores in engine.prefill(0)]
    for row in rows:
        engine.append(row, path[row][0])
    vocabulary = scored[0][0].shape[-1]
    for first, count in ((1, 2), (4, 1)):
        trees, places = [], []
        for row in rows:
            true = path[row][first : first + count]
            tree, place = _among(true, vocabulary) if siblings else (DraftTree.chain([*true, *_AFTER]), [])
            trees.append(tree)
            places.append(place or list(range(count)))
        outcomes = []
        for row, scores in zip(rows, engine.verify(rows, trees, 0), strict=True):
            assert scores is not None  # no row is ahead of others
            scored[row] += [scores.logits(node + 1) for node in (-1, *places[row])]
            emitted = path[row][first : first + count + 1]
            outcomes.append(Outcome(emitted, tree=trees[row], path=places[row], slot=row))
            for token in emitted:
                engine.append(row, token)
        engine.commit(Outcomes(outcomes))
    engine.runner.end(engine.cache)
    return torch.stack([torch.stack(scores) for scores in scored]).float()


def _among(true: list[int], vocabulary: int) -> tuple[DraftTree, list[int]]:
    """A tree in which each token of a path stands behind others, and where."""
    tokens: list[int] = []
    parents: list[int] = []
    places: list[int] = []
    for token in true:
        parent = places[-1] if places else -1
        others = [x for x in range(min(_OTHERS + 1, vocabulary)) if x != token][:_OTHERS]
        tokens += [*others, token]
        parents += [parent] * (len(others) + 1)
        places.append(len(tokens) - 1)
    return DraftTree.build(tokens, parents), places


def _agree(stock: torch.Tensor, ours: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether score vectors differ by rounding alone, of a model of this data type."""
    if stock.shape != ours.shape:
        return False
    stock, ours = (x.double().nan_to_num(neginf=0.0) for x in (stock, ours))
    apart = (stock - stock.mean(-1, keepdim=True)).norm(dim=-1)
    parts = ((stock - ours).norm(dim=-1) / apart.clamp(min=1e-9)).flatten()
    return bool(parts.max() <= _FLOAT32 if dtype == torch.float32 else parts.median() <= _OTHER)
