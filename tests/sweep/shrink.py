"""Tiny models of any class: its own default configuration, made small by the names of its fields."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import PreTrainedConfig

VOCABULARY = 99
_LAYERS = 2
_HIDDEN = 64

# What a whole number in a configuration becomes, by the first pattern that its name has. Smaller numbers stay.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"max_source_positions", 50),
    (r"token_id|_id$|index$|_idx$|type_vocab|max_position|n_positions|max_length|max_.*positions|n_ctx", 0),
    (r"feat_extract", 0),
    (r"^(vocab_size|.*_vocab_size)$", VOCABULARY),
    (r"experts_per_tok|experts_top_k|moe_k|router_topk|moe_topk|num_selected_experts|top_k", 2),
    (r"n_group|expert_group|topk_group|num_shared_experts|n_shared_experts|first_k_dense|num_mtp|nextn|mtp", 1),
    (r"expert.*size|expert.*dim|moe.*dim|moe.*size", 32),
    (r"expert", 4),
    (r"(layers|layer|depth|blocks|n_layers|block_num)$", _LAYERS),
    (r"(key_value|kv).*heads|num_kv|n_kv|query_groups|n_groups|kv_n_heads|multi_query_group", 2),
    (r"heads|n_head|num_v_head", 4),
    (r"head_dim|head_size|qk_rope|qk_nope|v_head|d_kv|rotary_dim|kv_channels", 16),
    (r"lora_rank|lora_dim|_rank$", 16),
    (r"ffn|intermediate|inner|mlp_dim|d_ff|feed_forward|dff|mlp_hidden|ff_dim", 64),
    (r"image_size|crop_size|input_resolution|img_size", 28),
    (r"patch_size|temporal_patch", 14),
    (
        r"hidden_size|hidden_dim|d_model|n_embd|embed_dim|embedding_size|model_dim|hidden_channels|_dim$|^dim$|width",
        _HIDDEN,
    ),
    (r"base_channels", 32),
    (r"num_mel_bins|n_mels", 16),
    (r"window", 6),
)


def _token(name: str, value: Any) -> Any:
    """An id within the vocabulary: the end's is the last, those of images and the like stand before it."""
    if isinstance(value, (list, tuple)):
        return [VOCABULARY - 1] if any(x >= VOCABULARY for x in value if isinstance(x, int)) else value
    if not isinstance(value, int) or value < VOCABULARY:
        return value
    if re.search(r"eos", name):
        return VOCABULARY - 1
    return 0 if re.search(r"pad|^bos", name) else VOCABULARY - 2 - sum(map(ord, name)) % 30


def _small(name: str, value: Any) -> Any:
    if re.search(r"token_id$|token_index$|patch_id$", name):
        return _token(name, value)
    if isinstance(value, (list, tuple)) and re.search(r"image_size|patch_size", name):
        return type(value)(_small(name, side) for side in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    for pattern, size in _SIZES:
        if re.search(pattern, name):
            return min(value, size) if size else value
    return value


def _sections(total: int, parts: int) -> list[int]:
    """Whole numbers that make up a total, as alike as they can be."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _set_by_parent(part: PreTrainedConfig) -> dict[str, Any]:
    """Fields that a part has from the whole: whoever gives some fields of a part gets its class's for the others."""
    default = vars(type(part)())
    return {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, (bool, int, float, str)) and not name.startswith("_") and default.get(name) != value
    }


def _shrunk(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields for a small configuration of the same class."""
    fields = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    small: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = _set_by_parent(value) | _shrunk(value) | {"model_type": value.model_type}
        elif (new := _small(name, value)) != value:
            small[name] = new
    parts = [name for name in ("qk_nope_head_dim", "qk_rope_head_dim") if isinstance(fields.get(name), int)]
    if len(parts) == 2:  # what is the sum of both stays so
        before, after = (sum(x.get(name, fields[name]) for name in parts) for x in (fields, small))
        small |= {name: after for name in ("head_dim", "qk_head_dim") if fields.get(name) == before}
    if "kv_lora_rank" in fields:  # latent attention: as many heads of keys as of queries
        small["num_key_value_heads"] = small.get("num_attention_heads", 4)
    rope = fields.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(sections := rope.get("mrope_section"), (list, tuple)):
        size = small.get("head_dim") or _HIDDEN // 4
        size = int(size * rope.get("partial_rotary_factor", 1.0))
        small["rope_parameters"] = {**rope, "mrope_section": _sections(size // 2, len(sections))}
    kinds = fields.get("layer_types")
    if isinstance(kinds, (list, tuple)) and kinds:
        chosen = list(dict.fromkeys(kinds))  # a layer of each kind, and as many as there are layers at least
        chosen += [kinds[-1]] * (_LAYERS - len(chosen))
        small["layer_types"] = chosen
        for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if name in fields:
                small[name] = len(chosen)
    return small


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(fields)
    for name, value in changes.items():
        before = result.get(name)
        result[name] = _merged(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return result


def small_config(config_class: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of this class that makes a model of some thousand weights.

    Args:
        changes: fields that shrinking alone does not get right; those of parts by the part's name.
    """
    config = config_class()
    decoder = {"is_decoder": True} if getattr(config, "is_decoder", True) is False else {}
    return config_class(**_merged(_shrunk(config) | decoder, changes))


@torch.no_grad()
def redrawn(model: Any) -> Any:
    """The model with random weights so large that attention matters and what it says varies."""
    convolving = {id(x.weight) for x in model.modules() if isinstance(x, torch.nn.modules.conv._ConvNd)}
    for weight in model.parameters():
        if weight.ndim > 1 and weight.is_floating_point():
            summed = weight[0].numel() if id(weight) in convolving else weight.shape[-1]
            weight.normal_(std=1.5 * summed**-0.5)
        elif weight.numel() == 1 and not weight.any():
            weight.fill_(1.0)  # a gate, which shuts out what images say until it is trained
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):  # a codebook, which is all zeros until it is loaded
            buffer.normal_()
    return model


def small_model(model_class: type[Any], changes: dict[str, Any]) -> Any:
    """A random model of this class in float32, with weights so large that attention matters."""
    config = small_config(model_class.config_class, changes)
    torch.manual_seed(0)
    model = redrawn(model_class(config))
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = None, 0
    generation.num_beams, generation.use_cache = 1, True  # some classes' defaults are others
    if config.is_encoder_decoder and generation.decoder_start_token_id is None:
        generation.decoder_start_token_id = 0
    return model.eval()
