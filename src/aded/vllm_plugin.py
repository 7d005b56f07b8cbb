"""A plugin of vLLM's: `{"model": "aded.vllm"}` is enough of a speculative configuration, on both of its model runners.

vLLM runs `register` in each of its processes before it is configured, wherever aded is installed. For anybody who does
not ask for aded it changes nothing, and imports little: vLLM takes stock of what is imported when a worker starts, and
cannot do so once numba is.
"""

from __future__ import annotations

import logging
import sys
from functools import wraps
from typing import Any

from aded.engines.base.wrapping import wrap

__all__ = ["register"]

_NAMES = ("aded", "aded.vllm", "aded.vllm.AdedProposer", "aded.engines.vllm.AdedProposer")
_PROPOSER = "aded.vllm.AdedProposer"
_LONGEST = 8  # tokens of a draft, unless it is said: longer ones are seldom verified, and vLLM makes room for each
_RUNNER = "vllm.v1.worker.gpu.model_runner"
_log = logging.getLogger("vllm.aded")


def register() -> None:
    """Make aded's names known. May be called several times in a process."""
    try:
        from vllm.config import SpeculativeConfig, VllmConfig
        from vllm.sampling_params import SamplingParams
        from vllm.v1.worker.gpu import spec_decode

        wrap(SpeculativeConfig, "__init__", _named)
        wrap(VllmConfig, "_get_v2_model_runner_unsupported_features", _supported)
        wrap(spec_decode, "init_speculator", _made)
        wrap(SamplingParams, "_validate_spec_decode", _allowed)
    except (ImportError, AttributeError) as error:
        _log.warning("this vLLM has no place for aded's plugin (%s): it is used by the name %s", error, _PROPOSER)
        return
    if (runner := sys.modules.get(_RUNNER)) is not None:  # imported before: it has the name by itself
        wrap(runner, "init_speculator", _made)


def _ours(speculative: Any) -> bool:
    return speculative is not None and speculative.method == "custom_class" and speculative.model in _NAMES


def _on_v2(speculative: Any) -> bool:
    """Whether Model Runner V2 is to run aded. It can, but is taken for it only where that is asked for: by its own
    variable, or by `enable_adaptive_verification`, without which it verifies each draft to its end."""
    import vllm.envs as envs

    return _ours(speculative) and bool(envs.VLLM_USE_V2_MODEL_RUNNER or speculative.enable_adaptive_verification)


def _named(init: Any) -> Any:
    @wraps(init)
    def configure(self: Any, *arguments: Any, **given: Any) -> None:
        if given.get("model") in _NAMES and given.get("method") in (None, "custom_class"):
            given |= {"method": "custom_class", "model": _PROPOSER}
            if given.get("num_speculative_tokens") is None:
                given["num_speculative_tokens"] = _LONGEST
            _show_metrics()
        init(self, *arguments, **given)

    return configure


def _supported(features: Any) -> Any:
    @wraps(features)
    def lacking(self: Any) -> list[str]:
        found: list[str] = features(self)
        return [one for one in found if "custom_class" not in one] if _on_v2(self.speculative_config) else found

    return lacking


def _allowed(validate: Any) -> Any:
    @wraps(validate)
    def check(self: Any, speculative_config: Any) -> None:
        """min_p and logit_bias are refused with speculation. V2's sampler knows them, and draws as without drafts.
        What a request asks of aded is read here, where it can still be refused."""
        if not _on_v2(speculative_config):
            validate(self, speculative_config)
        if _ours(speculative_config):
            from vllm.exceptions import VLLMValidationError

            from aded.engines.base.asked import Asked
            from aded.errors import SettingsError

            try:
                Asked.read(self.extra_args)
            except SettingsError as error:
                raise VLLMValidationError(str(error), parameter="vllm_xargs") from error

    return check


def _made(init: Any) -> Any:
    @wraps(init)
    def speculator(vllm_config: Any, device: Any, req_states: Any, **more: Any) -> Any:
        if not _ours(vllm_config.speculative_config):
            return init(vllm_config, device, req_states, **more)
        from aded.engines.vllm.speculator import AdedSpeculator

        return AdedSpeculator(vllm_config, device, req_states)

    return speculator


def _show_metrics() -> None:
    """In a process that configures an engine with aded, its server among them. Workers have no metrics to show."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    wrap(PrometheusStatLogger, "__init__", _metered)
    wrap(PrometheusStatLogger, "record", _refreshed)


def _metered(init: Any) -> Any:
    @wraps(init)
    def configure(self: Any, vllm_config: Any, engine_indexes: Any = None, *arguments: Any, **more: Any) -> None:
        init(self, vllm_config, engine_indexes, *arguments, **more)
        self.aded_metrics = None
        if _ours(vllm_config.speculative_config):
            from aded.engines.vllm.metrics import ServerMetrics

            self.aded_metrics = ServerMetrics(str(vllm_config.instance_id), engine_indexes or [0])

    return configure


def _refreshed(record: Any) -> Any:
    @wraps(record)
    def recorded(self: Any, *arguments: Any, **more: Any) -> None:
        record(self, *arguments, **more)
        if getattr(self, "aded_metrics", None) is not None:
            self.aded_metrics.refresh()

    return recorded
