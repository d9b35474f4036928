"""Models at the edge of what exports: each holds one thing that once slipped through, or was refused without need."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import random
import threading
import warnings

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    pass


class Linear(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)


@register_model("reads_its_dtype", params=Params)
class ReadsItsDtype(Linear):
    """119 is added in float32, and next to nothing in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + torch.finfo(x.dtype).eps * 1e9


@register_model("masked_batch_mean", params=Params)
class MaskedBatchMean(Linear):
    """Every row depends on the others, beside fill values that would drown that."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.a(x)
        return (y - y.mean(0)).masked_fill(mask == 0, -1e9)


@register_model("masked", params=Params)
class Masked(Linear):
    """Fill values in rows that do not depend on each other."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.a(x).masked_fill(mask == 0, -1e9)


@register_model("scalar", params=Params)
class Scalar(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).mean()


@register_model("batch_centred", params=Params)
class BatchCentred(Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y - y.mean(0)


@register_model("rows", params=Params)
class Rows(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("threshold", params=Params)
class Threshold(Linear):
    """0.1 in float32 is larger than 0.1 in float64, and is not larger than 0.1 in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x > 0.1


@register_model("softmax_over_length", params=Params)
class SoftmaxOverLength(Linear):
    """A sequence without a batch: its leading dimension is one that the model works along."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.a(x), 0)


@register_model("answers_twice", params=Params)
class AnswersTwice(Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, y


@register_model("echoes", params=Params)
class Echoes(Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.a(x)


@register_model("old_weight_norm", params=Params)
class OldWeightNorm(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # it is deprecated, and still in many models
            self.a = nn.utils.weight_norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("locked", params=Params)
class Locked(Linear):
    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("drawn_buffers", params=Params)
class DrawnBuffers(Linear):
    """What is not saved is drawn from every source of random numbers there is."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        drawn = np.random.rand(3) + random.random()  # noqa: NPY002 (what models do)
        self.register_buffer("offset", torch.from_numpy(drawn.astype(np.float32)) + torch.rand(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.get_buffer("offset")


@register_model("recurrent", params=Params)
class Recurrent(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]
