"""On a CUDA device; left out without one. `benchmarks/gpu/vllm.sh` runs these where there is one."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_drafts_are_the_host_s() -> None:
    from aded.engines.device.trial import why_not

    assert why_not(torch.device("cuda")) == ""


def test_steps_are_timed() -> None:
    from benchmarks.device_drafts import app

    ran = CliRunner().invoke(app, ["--requests", "1,64", "--steps", "20"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout.splitlines()[-1])["64"]["tokens a step"] > 2
