"""What is promised of the bits of an output, found out by a probe of a few passes of the model itself."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from aded.engines.transformers import cache as kv
from aded.engines.transformers.attention import attention_windows, counted_attention, verifies_trees
from aded.engines.transformers.compat import with_cache
from aded.engines.transformers.exact_kernels import our_kernels
from aded.engines.transformers.linear import is_ours
from aded.engines.transformers.masks import masks
from aded.stats import Exactness
from aded.tree import DraftTree

_PROMPT = 16  # tokens of a probe's prompt, whose entries are then repeated
_ENTRIES = 515  # in its cache: more than the library's block of 512 keys, and no multiple of its groups of 4 and 16
_PATH = 3  # tokens that follow, one by one and then in a tree
_OTHERS = 15  # beside each of them in the tree
_SPARE = 64  # positions that a probe leaves free of those a model has

_FOUND: WeakKeyDictionary[Any, dict[int, Exactness]] = WeakKeyDictionary()


def exactness(model: Any) -> Exactness:
    """What holds for this model's greedy or sampled decoding of one prompt on this machine, with as many threads.

    Only bfloat16 and float32 on a CPU have kernels that promise more than "rounding". A probe of a few passes says what
    they keep; it runs once a process. In float32 it can show no more than "none": there the library's order of summing
    is not ours, and where a probe saw the same bits others would differ.
    """
    if (
        model.dtype not in (torch.bfloat16, torch.float32)
        or model.device.type != "cpu"
        or model.config.is_encoder_decoder
        or not _products_are_ours(model)
    ):
        return "rounding"
    known, threads = _FOUND.setdefault(model, {}), torch.get_num_threads()
    if threads not in known:
        try:
            known[threads] = _probe(model)
        except Exception:
            known[threads] = "rounding"  # it needs inputs that a probe does not know
    return known[threads]


def _products_are_ours(model: Any) -> bool:
    """Whether every weight of the decoder that vectors are multiplied with is in a layer that runs on our kernels."""
    modules = {*model.get_decoder().modules(), *getattr(model.get_output_embeddings(), "modules", set)()}
    return all(
        isinstance(module, torch.nn.Embedding) or is_ours(module)
        for module in modules
        if any(weight.ndim > 1 for weight in module.parameters(recurse=False))
    )


@torch.no_grad()
def _probe(model: Any) -> Exactness:
    config = model.config.get_text_config(decoder=True)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, _PROMPT + _PATH), generator=random)
    prompt, path = ids[:, :_PROMPT], ids[:, _PROMPT:]
    past = DynamicCache(config=config)
    model(input_ids=prompt, **with_cache(past))
    kv.check(past)
    layers = [layer for layer in cast("list[Any]", past.layers) if layer.is_initialized]
    if all(type(layer) is DynamicLayer for layer in layers):
        most = getattr(config, "max_position_embeddings", None) or _ENTRIES + _SPARE
        entries = max(min(_ENTRIES, most - _SPARE), _PROMPT)
        for layer in layers:
            times = -(-entries // _PROMPT)
            layer.keys, layer.values = (x.repeat(1, 1, times, 1)[:, :, :entries] for x in (layer.keys, layer.values))
    stock = _one_by_one(model, deepcopy(past), path)
    with our_kernels(model):
        counted_attention()
        together = _in_a_tree(model, deepcopy(past), path)
        ours, others = counted_attention()
        if others or ours < len(layers):
            return "rounding"
        if model.dtype == torch.bfloat16 and torch.equal(together, stock):
            return "generate"
        return "none" if torch.equal(together, _one_by_one(model, deepcopy(past), path)) else "rounding"


def _one_by_one(model: Any, cache: DynamicCache, path: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocabulary) after each token of a path, each in a pass of its own."""
    return torch.cat([model(input_ids=token, **with_cache(cache)).logits[0] for token in path.split(1, dim=-1)])


def _in_a_tree(model: Any, cache: DynamicCache, path: torch.Tensor) -> torch.Tensor:
    """The same in one pass: the first token is the root, each other stands behind its siblings."""
    kv.prepare(cache)
    start, tokens = int(cache.get_seq_length()), path[0].tolist()
    inputs: dict[str, Any] = with_cache(cache)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    others = range(1, min(_OTHERS, vocabulary - 1) + 1)
    if not verifies_trees(model):
        logits: torch.Tensor = model(input_ids=torch.tensor([[*tokens, *others, *others]]), **inputs).logits[0]
        return logits[: len(tokens)]
    drafted: list[int] = []
    parents: list[int] = []
    rows = [0]
    for token in tokens[1:]:
        parent = rows[-1] - 1
        drafted += [*((token + other) % vocabulary for other in others), token]
        parents += [parent] * (len(others) + 1)
        rows.append(len(drafted))
    tree = DraftTree.build(drafted, parents)
    count = len(drafted) + 1
    inputs["attention_mask"] = masks(model, attention_windows(model), cache, [tree], count)
    inputs["position_ids"] = start + torch.tensor([[0, *(int(depth) + 1 for depth in tree.depths)]])
    logits = model(input_ids=torch.tensor([[tokens[0], *drafted]]), **inputs).logits[0]
    return logits[rows]
