"""Checkpoint -> proven artifact."""
