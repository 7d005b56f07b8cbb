"""OpenAI's client against a server of ours, or against one that runs at the address that is given."""

from __future__ import annotations

import subprocess
import sys

from openai import OpenAI

server = None
if len(sys.argv) > 1:
    address = sys.argv[1]
else:
    server = subprocess.Popen(
        [sys.executable, "-m", "aded.cli", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    address = next(line.split()[2] for line in server.stderr if " at http://" in line)
try:
    with OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        parts = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Count from one to ten."}],
            max_completion_tokens=60,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for part in parts:
            if part.choices:
                print(part.choices[0].delta.content or "", end="", flush=True)
            else:
                details = part.usage.completion_tokens_details
                print(f"\n{part.usage.completion_tokens} tokens, {details.accepted_prediction_tokens} of them drafted")
finally:
    if server is not None:
        server.terminate()
        server.wait()
