"""The SGLang engine: a worker that drafts trees for SGLang, which schedules, verifies and samples."""
