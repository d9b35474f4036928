"""The stages: one file each, which measures, and tells on the page what it measured."""
