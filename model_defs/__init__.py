"""What a model is: one architecture per file, a frozen params model beside it, and the registry that knows them by name.

Importing this package registers the architectures that come with it; `load_plugin` brings in others.
"""

from model_defs import bert, digits_cnn, mlp, resnet, vit  # noqa: F401  importing an architecture's file registers it
from model_defs.errors import InvalidDefinition, InvalidParams, ModelDefinitionError, PluginFailed, UnknownModel
from model_defs.plugins import load_plugin
from model_defs.registry import ModelDefinition, build, definition, register_model, registered

__all__ = [
    "InvalidDefinition",
    "InvalidParams",
    "ModelDefinition",
    "ModelDefinitionError",
    "PluginFailed",
    "UnknownModel",
    "build",
    "definition",
    "load_plugin",
    "register_model",
    "registered",
]
