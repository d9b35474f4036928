"""The stages, in the order in which they run."""

from collections.abc import Mapping

from bench.gpu.stage import Stage
from bench.gpu.stages import bound, export, facts, kills, memory, packed, parity, served

ALWAYS = ("facts", "export")
"""What the others need: run with any of them. What is exported already is not exported again."""

STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        facts.STAGE,
        export.STAGE,
        parity.STAGE,
        bound.STAGE,
        served.STAGE,
        memory.STAGE,
        kills.STAGE,
        packed.STAGE,
    )
}
