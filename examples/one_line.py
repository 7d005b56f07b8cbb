"""A transformers model accelerated by one line: the same text, in fewer passes."""

from __future__ import annotations

import aded
from aded.engines.transformers.loading import load

loaded = load(None)  # the embedded model; any model and tokenizer of yours do
model, tokenizer = loaded.model, loaded.tokenizer
messages = [{"role": "user", "content": "Write a Python function that adds two numbers, then an example."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)

plain = model.generate(**inputs, max_new_tokens=48, do_sample=False)

undo = aded.accelerate(model)
stats = aded.Stats()
ours = model.generate(**inputs, max_new_tokens=48, do_sample=False, stats=stats)
undo()

print(tokenizer.decode(ours[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(f"\nthe same: {plain.tolist() == ours.tolist()}; promise: {stats.exact}")
print(f"{stats.tokens} tokens in {stats.steps} passes")
