"""The training side: checkpoints written whole or not at all, kept by policies, found and resumed from."""
