"""One chain of operations on an output: from a row of tensors to what a person asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from artifact.operations.declared import ONLY, Declared
from artifact.operations.errors import BadOperations
from artifact.operations.kinds import Output, OutputOperation
from artifact.operations.outputs import plain


def output_chain(
    name: str, chain: Sequence[Declared[OutputOperation]], outputs: Mapping[str, Output]
) -> tuple[str, Callable[[Mapping[str, np.ndarray]], Any]]:
    """The output's name, and the function that makes plain JSON data of one row of all outputs; without operations, its numbers.

    Raises:
        BadOperations: the chain does not fit, with the place in the YAML.
    """
    if name == ONLY:
        if len(outputs) != 1:
            problem = f"the model gives {', '.join(outputs)}: name the chain's, as {{{next(iter(outputs))}: [...]}}"
            raise BadOperations(problem, ("postprocess",))
        name = next(iter(outputs))
    if name not in outputs:
        raise BadOperations(f"{name!r} is no output of the model; they are {', '.join(outputs)}", ("postprocess", name))
    value, steps = outputs[name], []
    for one in chain:
        try:
            after = one.operation.kind_of(value, outputs)
            steps.append(one.operation.step(value, outputs))
        except ValueError as cause:
            raise BadOperations(str(cause), one.path) from cause
        value = after

    def finish(row: Mapping[str, np.ndarray]) -> Any:
        result: Any = row[name]
        for step in steps:
            result = step(result, row)
        return plain(result.tolist()) if isinstance(result, (np.ndarray, np.generic)) else result

    return name, finish
