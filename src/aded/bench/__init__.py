"""Live benchmarks: contenders in one run on one engine, peers among them, and the report of it."""
