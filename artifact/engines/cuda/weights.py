"""A program's weights as a device takes them best: on it, in the layout and the precision that its kernels read.

Autocast converts every weight again in every call. Weights that only operations read which autocast runs in half precision
are converted once instead: the same bits reach the kernels.
"""

from typing import Any

import torch

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_IN_HALF = frozenset({"linear", "conv1d", "conv2d", "conv3d", "_convolution", "convolution", "matmul", "mm", "bmm", "addmm"})
"""Operations that autocast runs in half precision, whatever the device."""
_CONVOLUTIONS = frozenset({"conv2d", "_convolution", "convolution"})
_ALLOW_TF32 = 12
"""Which input of `aten::_convolution` says whether TF32 is allowed."""
_FILTERS = 4
"""Dimensions of the weights of a convolution over images."""


def place_script(program: Any, device: str, precision: str, layout: torch.memory_format) -> None:
    """Fits a frozen TorchScript program for a device, before its first run: its weights, and the devices that it names.

    `layout` is that of the filters of convolutions over images: what such a convolution gives is laid out as its filters are.

    Tracing also wrote into every convolution whether TF32 was allowed where it was traced, which holds against PyTorch's switch.
    """
    for node in program.graph.findAllNodes("aten::_convolution", recurse=True):
        allowed = program.graph.insertConstant(precision == "tf32")
        allowed.node().moveBefore(node)
        node.replaceInput(_ALLOW_TF32, allowed)
    for node in program.graph.findAllNodes("prim::Constant", recurse=True):
        kind = node.output().type().kind()
        if kind == "DeviceObjType" and node.s("value").partition(":")[0] == "cpu":
            node.s_("value", device)
        elif kind == "TensorType" and node.hasAttribute("value"):
            users = {use.user.kind().removeprefix("aten::") for use in node.output().uses()}
            node.t_("value", _fitted(node.t("value").to(device), users, precision, layout))


def place_module(module: torch.fx.GraphModule, precision: str, layout: torch.memory_format) -> None:
    """Fits an exported program's module, which is on its device already; `layout` as in `place_script`.

    The checks of element types that its export wrote into it are those of float32: they go where autocast runs it.
    """
    users: dict[str, set[str]] = {}
    for node in list(module.graph.nodes):
        if precision in _HALVES and node.target is torch.ops.aten._assert_tensor_metadata.default:  # noqa: SLF001 - its name
            module.graph.erase_node(node)
        elif node.op == "get_attr":  # a weight that is read twice, by an embedding and a product, has two such nodes
            users.setdefault(str(node.target), set()).update(getattr(user.target, "_opname", "") for user in node.users)
    for target, operations in users.items():
        path, _, name = target.rpartition(".")
        owner = module.get_submodule(path)
        value = getattr(owner, name)
        if isinstance(value, torch.Tensor):
            _set(owner, name, _fitted(value.detach(), operations, precision, layout))
    module.recompile()


def _fitted(weight: torch.Tensor, users: set[str], precision: str, layout: torch.memory_format) -> torch.Tensor:
    if weight.dtype == torch.float32 and users and users <= _IN_HALF:
        weight = weight.to(_HALVES.get(precision, torch.float32))
    is_filter = weight.dim() == _FILTERS and users and users <= _CONVOLUTIONS
    return weight.contiguous(memory_format=layout) if is_filter else weight


def _set(owner: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    if name in owner._parameters:  # noqa: SLF001 - what a module offers to replace one asks for its element type to stay
        owner._parameters[name] = torch.nn.Parameter(value, requires_grad=False)  # noqa: SLF001
    else:
        setattr(owner, name, value)
