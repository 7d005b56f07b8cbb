"""Put first on the path, this lets vLLM's Model Runner V2 run on a processor: Triton's kernels run in its interpreter.

Triton has no backend for processors, and vLLM asks for one that is active. Slow; for tests alone.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # its compiler asks Triton for the device
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

try:
    from triton import backends
except ImportError:
    backends = None

if backends is not None and "cpu" not in backends.backends:
    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    backends.backends["cpu"] = backends.Backend(compiler=None, driver=driver)
