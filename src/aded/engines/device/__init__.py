"""The adaptive drafter's tables, drafts and learning on the device where the model runs; needs Triton."""
