"""Training, evaluation and their records, in plain PyTorch. `avcore.run` puts these pieces together."""
