"""Quantized layers: tensors that only look like bfloat16, and products whose scale depends on all tokens of a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import aded
from aded.errors import UnsupportedError
from support.models import PROMPT, build
from support.oracle import Oracle

OPTIONS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 40}


def model(dtype: torch.dtype = torch.float32) -> Any:
    return build("llama", hidden_size=64, intermediate_size=128).to(dtype)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig"]
)
def test_layers_of_torchao(kind: str, dtype: torch.dtype) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="the extra `clients` installs it")
    quantized = model(dtype)
    quantization.quantize_(quantized, getattr(quantization, kind)())
    plain, stats = quantized.generate(PROMPT, **OPTIONS), aded.Stats()
    aded.accelerate(quantized, drafter=Oracle(plain[0, PROMPT.shape[1] :].tolist()), max_draft_tokens=8)
    assert torch.equal(plain, quantized.generate(PROMPT, **OPTIONS, stats=stats))
    assert 0 < stats.accepted < stats.drafted
    assert stats.exact == "rounding"


def quantized_by(tmp_path: Path, dtype: torch.dtype, package: str, **options: Any) -> Any:
    """The model as a quantizer of transformers loads it."""
    pytest.importorskip(package, reason="the extra `clients` installs it")
    model().save_pretrained(tmp_path)
    config = (tf.BitsAndBytesConfig if package == "bitsandbytes" else tf.QuantoConfig)(**options)
    return tf.LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu", dtype=dtype)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ("bitsandbytes", {"load_in_8bit": True, "llm_int8_threshold": 0.0}),
        ("optimum.quanto", {"weights": "int8"}),
        ("optimum.quanto", {"weights": "int4"}),
    ],
)
def test_layers_of_other_packages(tmp_path: Path, dtype: torch.dtype, package: str, options: dict[str, Any]) -> None:
    quantized = quantized_by(tmp_path, dtype, package, **options)
    plain, stats = quantized.generate(PROMPT, **OPTIONS), aded.Stats()
    aded.accelerate(quantized, drafter=Oracle(plain[0, PROMPT.shape[1] :].tolist()), max_draft_tokens=8)
    assert torch.equal(plain, quantized.generate(PROMPT, **OPTIONS, stats=stats))
    assert 0 < stats.accepted < stats.drafted
    assert stats.exact == "rounding"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outliers_that_are_chosen_over_all_tokens_of_a_pass_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """bitsandbytes' default for 8 bits: scores of a token moved by up to 3% with the others in its pass."""
    quantized = quantized_by(tmp_path, dtype, "bitsandbytes", load_in_8bit=True)
    plain = quantized.generate(PROMPT, **OPTIONS)
    with pytest.raises(UnsupportedError, match="llm_int8_threshold"):
        quantized.generate(PROMPT, **OPTIONS, custom_generate=aded.generate)
    ours = quantized.generate(PROMPT, **OPTIONS, custom_generate=aded.generate, on_unsupported="fallback")
    assert torch.equal(plain, ours)


@pytest.mark.filterwarnings("ignore")
def test_scales_that_depend_on_all_tokens_of_a_pass_are_refused() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(model(), {torch.nn.Linear}, dtype=torch.qint8)
    plain = quantized.generate(PROMPT, **OPTIONS)
    with pytest.raises(UnsupportedError, match="on trial"):
        quantized.generate(PROMPT, **OPTIONS, custom_generate=aded.generate)
    ours = quantized.generate(PROMPT, **OPTIONS, custom_generate=aded.generate, on_unsupported="fallback")
    assert torch.equal(plain, ours)
