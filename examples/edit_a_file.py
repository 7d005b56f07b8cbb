"""A file is edited: the answer is expected to look like the file, and drafted from it."""

from __future__ import annotations

import aded
from aded.engines.transformers.loading import load

FILE = '''def area(width, height):
    """The area of a rectangle."""
    return width * height


def volume(width, height, depth):
    """The volume of a box."""
    return area(width, height) * depth
'''

loaded = load(None)
question = f"Repeat this file exactly:\n```python\n{FILE}```"
ids = loaded.prompt_ids([{"role": "user", "content": question}])
prediction = loaded.encode("```python\n" + FILE + "```")
for name, given in {"without": {}, "with a prediction": {"prediction": prediction}}.items():
    stats = aded.Stats()
    drafter = aded.create_drafter("adaptive")  # one that knows nothing yet
    output = loaded.model.generate(
        ids, max_new_tokens=90, do_sample=False, custom_generate=aded.generate, drafter=drafter, stats=stats, **given
    )
    print(f"{name}: {stats.tokens} tokens in {stats.steps} passes")
print(loaded.decode(output[0, ids.shape[1] :].tolist()))
