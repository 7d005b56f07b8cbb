"""Model Runner V2 with drafts on the device, in Triton's interpreter (`make device-test`)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch

from aded.errors import SettingsError
from support.interpreted import device_module
from support.v2_runner import LONGEST, Runner, cycle
from support.vllm_engines import SCRIPTS, read, run_script


def test_requests_are_known_by_name_in_whatever_slot_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_module("drafter")
    monkeypatch.setattr(device_module("trial"), "why_not", lambda device: "")
    runner = Runner(monkeypatch, drafts_on="device")
    assert isinstance(runner.speculator._served.there, device.DeviceDrafter)
    runner.add("a", 4, cycle(10), 16)
    runner.add("b", 2, cycle(30), 16)
    runner.add("off", 0, cycle(30), 16, aded_drafts="off")
    assert runner.step(waiting=("b",))["b"] == 0
    assert not runner.likely[1].any(), "a prompt that is not done gets no draft"
    emitted = [runner.step() for _ in range(2)]
    assert [one["a"] for one in emitted] == [LONGEST + 1] * 2
    assert [one["off"] for one in emitted] == [1] * 2
    del runner.running["a"], runner.running["off"]
    runner.add("c", 4, cycle(50), 16)  # in the slot of one that ended
    runner.step()
    assert runner.step() == {"b": LONGEST + 1, "c": LONGEST + 1}
    facts = runner.speculator._served.there.facts()
    assert facts["steps"]["drafted"] >= 4
    assert facts["contexts"] > 10


def test_drafts_that_cannot_be_made_there_are_refused_or_made_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_module("trial"), "why_not", lambda device: "it drafts 7 where the host drafts 8")
    with pytest.raises(SettingsError, match="7 where the host drafts 8"):
        Runner(monkeypatch, drafts_on="device")
    with pytest.raises(SettingsError, match="adaptive"):
        Runner(monkeypatch, drafts_on="device", drafter="prompt-lookup")
    assert Runner(monkeypatch).speculator._served.there is None


def test_sampled_texts_are_those_of_v2_without_drafts(small: str) -> None:
    device_module("drafter")
    pytest.importorskip("vllm", reason="vllm is not installed here: make device-test")
    path = os.pathsep.join([str(SCRIPTS / "interpreted"), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "ADED_DRAFTS_ON": "device"}

    def answer(speculative: dict[str, Any] | None) -> dict[str, Any]:
        processor = {"VLLM_CPU_OMP_THREADS_BIND": "0" if speculative is None else "1"}
        return read(run_script("seeded.py", small, speculative, {}, [1], **environment, **processor))

    with ThreadPoolExecutor(2) as threads:
        plain = threads.submit(answer, None)
        ours = threads.submit(answer, {"model": "aded.vllm", "num_speculative_tokens": 3})
        assert ours.result()["said"] == plain.result()["said"]
    counts = ours.result()["counts"]
    accepted = counts["vllm:spec_decode_num_accepted_tokens"]
    assert 5 < accepted < counts["vllm:spec_decode_num_draft_tokens"] - 10


def test_steps_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    device_module("drafter")
    timing = import_module("benchmarks.device_drafts")
    monkeypatch.setattr(timing, "_PROMPT", 20)
    measured = timing.measure(1, torch.device("cpu"), 5)
    assert list(measured) == ["handed over", "done", "on the host", "tokens a step"]
    assert min(measured.values()) > 0
