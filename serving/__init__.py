"""Artifact -> answers over the network."""
