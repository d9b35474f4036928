"""Folders of checkpoints, whoever wrote them: what is there, and which of it can go."""
