"""Live benchmarks: contenders in one run on one engine, and the report of it."""
