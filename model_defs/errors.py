"""Errors of the model_defs room.

- ModelDefinitionError      (exit 2, and so all below)
  - InvalidDefinition       a class cannot be registered as it stands
  - UnknownModel            no model is registered under that name
  - InvalidParams           the params are not what the model's params model asks for
  - PluginFailed            a plugin cannot be read, does not run, or registers no model
"""

from typing import ClassVar

from foundation.errors import StateserveError


class ModelDefinitionError(StateserveError):
    """A model cannot be registered, found or built."""

    exit_code: ClassVar[int] = 2


class InvalidDefinition(ModelDefinitionError):
    """A class cannot be registered as it stands: its name, its params model, or a name that is taken."""


class UnknownModel(ModelDefinitionError):
    """No model is registered under that name."""


class InvalidParams(ModelDefinitionError):
    """The params are not what the model's params model asks for; pydantic's own error is the cause."""


class PluginFailed(ModelDefinitionError):
    """A plugin cannot be read, does not run to its end, or registers no model."""
