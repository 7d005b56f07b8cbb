"""A GGUF file in llama.cpp: chat and streaming stay what they are."""

from __future__ import annotations

import llama_cpp

import aded
from aded.engines.base.loaded import embedded_file

llama = llama_cpp.Llama(str(embedded_file()), n_ctx=1024, flash_attn=True, verbose=False)
stats = aded.Stats()
undo = aded.llamacpp.accelerate(llama, stats=stats)
messages = [{"role": "user", "content": "Count from one to ten."}]
for part in llama.create_chat_completion(messages, max_tokens=60, temperature=0.0, stream=True):
    print(part["choices"][0]["delta"].get("content") or "", end="", flush=True)
undo()
print(f"\n{stats.tokens} tokens in {stats.steps} passes; promise: {stats.exact}")
