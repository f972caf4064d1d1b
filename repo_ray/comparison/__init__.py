"""Several methods on the same data, base, LoRA shape, warm start and evaluation."""
