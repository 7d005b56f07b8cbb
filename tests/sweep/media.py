"""Images and sound for tiny models: by what a configuration says of them, and by class where that is not enough."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

_PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]])
PROMPTS = (_PROMPT, _PROMPT.flip(1), _PROMPT.roll(5, 1))  # by seed, or row of a batch

_SIZE = 28  # pixels of a side of an image

Inputs = dict[str, Any]
Build = Callable[[Any, int], Inputs]  # of a model and a seed, for one sequence


def noise(seed: int, *shape: int) -> torch.Tensor:
    """The same random numbers at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features_of(model: Any, kind: str) -> Any:
    """The model's method that makes vectors of an image ("image") or sound ("audio")."""
    name = f"get_{kind}_features"
    parts = (getattr(model, "model", None), getattr(model, "thinker", None), model)
    return next((method for part in parts if (method := getattr(part, name, None)) is not None), None)


def _takes(model: Any, kind: str) -> set[str]:
    return set(inspect.signature(features_of(model, kind)).parameters) if features_of(model, kind) else set()


def _first(config: Any, *names: str, default: Any) -> Any:
    """The first of these fields that there is; of a pair its first."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value[0] if isinstance(value, (list, tuple)) else value
    return default


def _part(config: Any, *names: str) -> Any:
    """The part of a configuration that is about images or sound."""
    config = getattr(config, "thinker_config", config)
    for name in names:
        config = getattr(config, name, config)
    return config


def image(model: Any, seed: int) -> Inputs:
    """An image as this model takes it: as patches with their grid, or as pixels."""
    config, takes = _part(model.config, "vision_config", "encoder"), _takes(model, "image")
    channels = _first(config, "num_channels", "in_channels", "in_chans", default=3)
    patch = channels * _first(config, "model_patch_size", "patch_size", default=14) ** 2
    if "image_grid_thw" in takes:
        side = 2 * _first(config, "spatial_merge_size", "merge_size", default=2)
        patch *= _first(config, "temporal_patch_size", "patch_temporal", default=1)
        given = {"pixel_values": noise(seed, side * side, patch), "image_grid_thw": torch.tensor([[1, side, side]])}
        return given | {"image_merge_sizes": torch.tensor([2])} if "image_merge_sizes" in takes else given
    if "image_grid_hw" in takes:
        return {"pixel_values": noise(seed, 16, patch), "image_grid_hw": torch.tensor([[4, 4]])}
    if "image_position_ids" in takes:
        places = torch.cartesian_prod(torch.arange(6), torch.arange(6))[None]
        return {"pixel_values": noise(seed, 1, 36, patch), "image_position_ids": places}
    if "target_sizes" in takes:
        return {"pixel_values": noise(seed, 1, channels, 14, 14 * 64), "target_sizes": torch.tensor([[8, 8]])}
    if "spatial_shapes" in takes:
        given = {"pixel_values": noise(seed, 1, 16, patch), "spatial_shapes": torch.tensor([[4, 4]])}
        return given | {"pixel_attention_mask": torch.ones(1, 16, dtype=torch.long)}
    size = _first(config, "image_size", default=_SIZE)
    pixels = {"pixel_values": noise(seed, 1, channels, size, size)}
    return pixels | {"image_sizes": torch.tensor([[size, size]])} if "image_sizes" in takes else pixels


def _tiles(count: int, **others: Any) -> Build:
    """An image where a sequence has several, or one has parts."""

    def build(model: Any, seed: int) -> Inputs:
        given = image(model, seed)
        pixels = given["pixel_values"]
        return given | {"pixel_values": noise(seed, 1, count, *pixels.shape[1:])} | others

    return build


def _square_patches(model: Any, seed: int) -> Inputs:
    given = image(model, seed)
    channels = _first(_part(model.config, "vision_config"), "num_channels", "in_channels", default=3)
    side = int((given["pixel_values"].shape[1] // channels) ** 0.5)
    return given | {"pixel_values": given["pixel_values"].view(-1, channels, side, side)}


def _large(model: Any, seed: int) -> Inputs:
    """An image of four times as many patches."""
    channels, size = image(model, seed)["pixel_values"].shape[1:3]
    return {"pixel_values": noise(seed, 1, channels, 2 * size, 2 * size), "image_sizes": torch.tensor([[2 * size] * 2])}


def _pixels(model: Any, seed: int) -> Inputs:
    """An image alone, where the model takes its size only from some encoders."""
    return {"pixel_values": image(model, seed)["pixel_values"]}


def _twice(model: Any, seed: int) -> Inputs:
    """An image in two sizes."""
    return {**image(model, seed), "high_res_pixel_values": noise(seed + 3, 1, 3, 2 * _SIZE, 2 * _SIZE)}


def _channels_last(model: Any, seed: int) -> Inputs:
    """Four squares of an image, each of them one vector."""
    return {"pixel_values": noise(seed, 4, _SIZE, _SIZE, 3), "image_grid_thw": torch.tensor([[1, 2, 2]])}


def _pooled(model: Any, seed: int) -> Inputs:
    """The four patches of an image, pooled to one vector."""
    grids = {"image_token_pooling": torch.tensor([[0, 1, 2, 3]]), "image_grids": torch.tensor([[1, 1, 0, 0]])}
    return {"pixel_values": noise(seed, 1, 4, 3 * 14 * 14)} | grids


def _beside_text(model: Any, seed: int) -> Inputs:
    """An image of one tile that all tokens but the first attend to, from layers of their own."""
    seen = torch.zeros(1, PROMPTS[0].shape[1], 1, 4, dtype=torch.long)
    seen[:, 1:, :, 0] = 1
    return {
        "pixel_values": noise(seed, 1, 1, 4, 3, _SIZE, _SIZE),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.tensor([[[1, 0, 0, 0]]]),
        "cross_attention_mask": seen,
    }


def _asked_of_image(model: Any, seed: int) -> Inputs:
    """An image, and the prompt for what sees it."""
    return image(model, seed) | {"qformer_input_ids": PROMPTS[seed]}


def _asked_of_film(model: Any, seed: int) -> Inputs:
    return {"pixel_values": noise(seed, 1, 4, 3, _SIZE, _SIZE), "qformer_input_ids": PROMPTS[seed]}


def _flat_patches(model: Any, seed: int) -> Inputs:
    """Patches behind their rows and columns."""
    places = torch.cartesian_prod(torch.arange(1.0, 3), torch.arange(1.0, 3))[None]
    width = _part(model.config, "vision_config").patch_embed_hidden_size
    return {"flattened_patches": torch.cat([places, noise(seed, 1, 4, width)], dim=-1)}


def _with(build: Build, **others: Any) -> Build:
    return lambda model, seed: build(model, seed) | others


def _with_prompt(build: Build, **others: Any) -> Build:
    return lambda model, seed: {"input_ids": PROMPTS[seed].clone(), **build(model, seed), **others}


def _wave(name: str, *shape: int) -> Build:
    return lambda model, seed: {name: noise(seed, 1, *shape)}


def _frames(length: int, *, bins_first: bool = True, masked: bool = True) -> Build:
    """Spectra, as many bins as the encoder has, with the masks that the model takes."""

    def build(model: Any, seed: int) -> Inputs:
        config = _part(model.config, "audio_config", "encoder_config", "asr_config", "encoder")
        names = ("input_size", "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "input_dim")
        bins = _first(config, *names, default=16)
        given = {"input_features": noise(seed, 1, *((bins, length) if bins_first else (length, bins)))}
        masks = {"input_features_mask", "feature_attention_mask"} & set(inspect.signature(model.forward).parameters)
        return given | {name: torch.ones(1, length, dtype=torch.long) for name in masks if masked}

    return build


IMAGES: dict[str, Build] = {
    "DeepseekOcr2ForConditionalGeneration": lambda model, seed: {"pixel_values": noise(seed, 1, 3, 256, 256)},
    "DeepseekVLHybridForConditionalGeneration": _twice,
    "FuyuForCausalLM": lambda model, seed: {"pixel_values": noise(seed, 1, 4, 3 * 14 * 14)},
    "GitForCausalLM": image,
    "Granite4VisionForConditionalGeneration": _tiles(2),
    "GraniteDoclingForConditionalGeneration": _tiles(1, pixel_attention_mask=torch.ones(1, 1, dtype=torch.bool)),
    "Idefics2ForConditionalGeneration": _tiles(1),
    "Idefics3ForConditionalGeneration": _tiles(1),
    "Inkling2ForConditionalGeneration": _channels_last,
    "Inkling2LoopForConditionalGeneration": _channels_last,
    "InstructBlipForConditionalGeneration": _asked_of_image,
    "Kimi_K25ForConditionalGeneration": _square_patches,
    "Kosmos2_5ForConditionalGeneration": _flat_patches,
    "LlavaForConditionalGeneration": _pixels,
    "LlavaNextForConditionalGeneration": _tiles(2),
    "LlavaNextVideoForConditionalGeneration": _tiles(2),
    "LlavaOnevisionForConditionalGeneration": _tiles(2),
    "Mistral3ForConditionalGeneration": _large,
    "MistralLarge4ForConditionalGeneration": _large,
    "MllamaForConditionalGeneration": _beside_text,
    "Molmo2ForConditionalGeneration": _pooled,
    "PaddleOCRVLForConditionalGeneration": _square_patches,
    "SmolVLMForConditionalGeneration": _tiles(1),
    "UnlimitedOcrForConditionalGeneration": lambda model, seed: {"pixel_values": noise(seed, 1, 3, 256, 256)},
}

SOUND: dict[str, Build] = {
    "AudioFlamingo3ForConditionalGeneration": _frames(100),
    "FunAsrNanoForConditionalGeneration": _frames(30, bins_first=False),
    "GlmAsrForConditionalGeneration": _frames(100),
    "GraniteSpeechForConditionalGeneration": _frames(30, bins_first=False, masked=False),
    "GraniteSpeechPlusForConditionalGeneration": _frames(30, bins_first=False, masked=False),
    "MossTranscribeDiarizeForConditionalGeneration": _with(_frames(96), padding_mask=torch.ones(1, 96)),
    "MusicFlamingoForConditionalGeneration": _frames(100),
    "Nemotron3_5TranscribeForConditionalGeneration": _frames(64, bins_first=False),
    "OmniASRForConditionalGeneration": _wave("input_values", 1, 2000),
    "Qwen2AudioForConditionalGeneration": _frames(100),
    "Qwen2_5OmniThinkerForConditionalGeneration": _frames(40),
    "Qwen3ASRForConditionalGeneration": _frames(100),
    "Qwen3OmniMoeThinkerForConditionalGeneration": _frames(100),
    "VibeVoiceAsrForConditionalGeneration": _wave("input_values", 1, 200),
    "VoxtralForConditionalGeneration": _frames(100),
}

# Classes that have placeholders among their text, and do not answer without what stands for them.
NEED = ("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration")

# Classes that take the images of a batch beside each other in one.
SIDE_BY_SIDE = (
    "MiniCPMOcrForConditionalGeneration",
    "MiniCPMV4_6ForConditionalGeneration",
    "MiniCPMV4_7ForConditionalGeneration",
)

# How many vectors a model makes, where it cannot be asked; none where the text has no placeholders.
VECTORS: dict[str, int] = {
    "GitForCausalLM": 0,
    "Granite4VisionForConditionalGeneration": 3,
    "MllamaForConditionalGeneration": 0,
    "MusicFlamingoForConditionalGeneration": 25,
    "Qwen2AudioForConditionalGeneration": 25,
}

# Classes that take no text, or no text alone: the kind of what they are given, and all of it.
ALONE: dict[str, tuple[str, Build]] = {
    "BlipForConditionalGeneration": ("images", _with_prompt(image)),
    "CanaryForConditionalGeneration": ("sound", _frames(100, bins_first=False)),
    "CohereAsrForConditionalGeneration": ("sound", _frames(100, bins_first=False)),
    "IdeficsForVisionText2Text": (
        "images",
        _with_prompt(_tiles(1), image_attention_mask=torch.ones(1, 14, 1, dtype=torch.long)),
    ),
    "InstructBlipVideoForConditionalGeneration": ("images", _asked_of_film),
    "KyutaiSpeechToTextForConditionalGeneration": ("sound", _wave("input_values", 1, 1920 * 20)),
    "MoonshineForConditionalGeneration": ("sound", _wave("input_values", 4000)),
    "MoonshineStreamingForConditionalGeneration": ("sound", _wave("input_values", 4000)),
    "PPFormulaNetForConditionalGeneration": ("images", image),
    "Pix2StructForConditionalGeneration": ("images", _flat_patches),
    "SeamlessM4TForSpeechToText": ("sound", _frames(60, bins_first=False)),
    "SeamlessM4Tv2ForSpeechToText": ("sound", _frames(60, bins_first=False)),
    "Speech2TextForConditionalGeneration": ("sound", _frames(60, bins_first=False)),
    "SpeechEncoderDecoderModel": ("sound", _wave("inputs", 2000)),
    "SpeechT5ForSpeechToText": ("sound", _wave("input_values", 2000)),
    "UdopForConditionalGeneration": (
        "images",
        _with_prompt(image, bbox=torch.linspace(0.1, 0.8, 14 * 4).view(1, 14, 4)),
    ),
    "VisionEncoderDecoderModel": ("images", image),
    "VoxtralRealtimeForConditionalGeneration": ("sound", _with_prompt(_frames(8 * 30))),
    "WhisperForConditionalGeneration": ("sound", _frames(100)),
}

# Options of `generate` without which a class does not answer in text.
OPTIONS: dict[str, Inputs] = {
    "Qwen3OmniMoeForConditionalGeneration": {"return_audio": False, "thinker_max_new_tokens": 12},
}
