"""Declared operations: what turns a picture, a sentence or a table's row into tensors, and outputs into an answer.

Each has one exact meaning, which docs/operations.md gives as a formula. They are declared in the YAML, recorded in the artifact,
proven with it, and run by the server: training, proof and serving cannot differ in them.
"""

from artifact.operations.declared import Chains, parse
from artifact.operations.operations import Operations, load, make
from artifact.operations.raw import RawSpec, RawValue
from artifact.raw_limits import RawLimits

__all__ = ["Chains", "Operations", "RawLimits", "RawSpec", "RawValue", "load", "make", "parse"]
