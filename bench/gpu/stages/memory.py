"""Out of memory: 507 for that request, and the server goes on."""

import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from bench import payloads
from bench.gpu import hungry
from bench.gpu.server import PROTOCOL, READY, Served, standard_flags
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.page import Section
from bench.processes import started
from bench.target import look

_SMALL_MIB = 1
_AGAIN = 3


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each request: small ones, some that ask for more memory than the engine may take, and small ones again."""
    repository = work.folder / "hungry-repository"
    shutil.rmtree(repository, ignore_errors=True)
    made = hungry.write(repository)
    limit = ("--device-memory-bytes", str(work.plan.memory_limit_mib << 20))
    flags = (*standard_flags(work, made, 1, "torchscript"), *(() if work.is_rehearsal else limit))
    with started("serving", *flags, folder=work.folder, ready=READY) as running:
        target = look(f"http://127.0.0.1:{running.port}", hungry.NAME)
        served = Served(running, target, made, work)
        asked = [(_SMALL_MIB, 1), *[(work.plan.memory_asked_mib, 1)] * _AGAIN, (_SMALL_MIB, hungry.MOST_ROWS), (_SMALL_MIB, 1)]
        for mib, rows in asked:
            yield _ask(served, mib, rows)


def _ask(served: Served, mib: int, rows: int) -> Finding:
    inputs = {"x": np.full((rows, 1), mib, np.float32)}
    (payload,) = payloads.build(PROTOCOL, served.target, [inputs])
    status, said = served.ask(payload)
    most_rows = look(f"http://127.0.0.1:{served.running.port}", hungry.NAME).facts.get("max_rows", "-")
    found = {"mib": mib, "rows": rows, "status": status, "said": said, "most_rows": most_rows}
    wanted = (200,) if mib == _SMALL_MIB else (500, 507) if served.work.is_rehearsal else (507,)
    return found if status in wanted else found | {"failed": f"answered {status}, not {wanted[-1]}"}


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    text = (
        "A model that takes as much memory as a request says, behind a server whose engine may take "
        "`device_memory_bytes` of 1 GiB: what is asked for, one request after the other, and what is answered."
    )
    rows = [
        (
            f"{one['mib']:,}",
            str(one["rows"]),
            f"**{one['failed']}**" if "failed" in one else str(one["status"]),
            one["said"],
            str(one["most_rows"]),
        )
        for one in findings
    ]
    return [Section("Out of memory", text, ("MiB", "rows", "answer", "", "rows of a call, at most"), rows)] if rows else []


STAGE = Stage(
    "memory",
    "Out of memory, with a small `device_memory_bytes`: 507 for that request, and the server goes on.",
    measure,
    tell,
)
