"""Between the keys of diffusers and those of original checkpoints."""
