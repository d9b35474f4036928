"""What a run on a GPU could have found: made-up numbers, for the page and the record."""

from bench.results import GpuUse, Latency, Round, ServerUse, Stages


def load(**changes):
    """One load on a server that is well fed."""
    made = {
        "seconds": 2.0,
        "offered": 1600,
        "requests": 1600,
        "in_time": 1600,
        "rows": 12800,
        "errors": {},
        "latency_ms": Latency(mean=9.0, p50=8.5, p90=10.0, p99=12.25, p999=13.0, max=14.0),
        "sent_bytes": 1,
        "received_bytes": 1,
        "client_busy": 0.5,
        "machine_busy": 0.6,
        "server": ServerUse(cpu_s=12.0, rss_bytes=10**9, processes=10),
        "gpus": [GpuUse(name="GPU", utilisation=0.8, power_w=400.0, memory_bytes=200_000_000)],
        "stages_ms": Stages(decode=0.2, queue=5.0, infer=3.0, encode=0.1, client=0.7, rows_per_call=32.0),
    }
    return Round(**{**made, **changes})


def points(*speeds):
    """Points of calls of 1, 2, 4, … rows."""
    return [
        {"rows": 2**place, "calls": 9, "rows_per_s": speed, "p50_s": 2**place / speed, "p99_s": 0.1, "spread": 0.1}
        for place, speed in enumerate(speeds)
    ]


def way(engine="torchscript", precision="float16", *, graphs=True, instances=1, **found):
    """One combination of the bound."""
    return {"model": "resnet50", "engine": engine, "precision": precision, "graphs": graphs, "instances": instances, **found}


SERVED = {"model": "resnet50", "precision": "float16", "frontends": 8}
TOLD = {**SERVED, "engine": "torchscript", "start_s": 21.5, "error": 1.5e-3, "rows": 8, "connections": 16}

FINDINGS = {
    "facts": [
        {
            "torch": "2.11.0+cu130",
            "cuda": "13.0",
            "cudnn": 91300,
            "gpu": "A GPU",
            "gpu_memory_bytes": 139 << 30,
            "multiprocessors": 132,
            "capability": "9.0",
            "device": "cuda:0",
            "gpu_driver": "580.1",
            "onnxruntime": "1.30.0",
            "providers": ["CPUExecutionProvider"],
            "cpu": "A processor",
            "cores": 16,
            "machine_cores": 16,
            "memory_bytes": 128 << 30,
            "system": "Linux x86_64",
            "kernel": "6.1",
            "python": "3.12.3",
            "packages": {"granian": "2.8.7"},
        }
    ],
    "export": [
        {
            "model": "resnet50",
            "precision": "float16",
            "seconds": 33.25,
            "content_id": "abc",
            "bytes": 310_000_000,
            "files": ["model.pt"],
            "budgets": {"logits": 4.5e-3},
        },
        {"model": "bert", "precision": "float16", "failed": "ProcessFailed: export ended | with\ncode 8"},
    ],
    "parity": [
        {
            "model": "resnet50",
            "precision": "float16",
            "engine": "torchscript",
            "reference_error": 1.1e-3,
            "error": 1.5e-3,
            "budget": 4.5e-3,
            "output": "logits",
            "cases": 4,
            "most_rows": 64,
            "bit_equal": 0,
        },
        {"model": "resnet50", "precision": "bfloat16", "engine": "onnx", "left_out": "engine onnx has no bfloat16"},
        {"model": "resnet50", "precision": "tf32", "engine": "pt2", "failed": "3 of 8 outputs are beyond their budgets"},
    ],
    "bound": [
        way(points=points(500.0, 900.0, 7000.0)),
        way(graphs=False, points=points(250.0, 450.0, 7000.0)),
        way(precision="float32", points=points(400.0, 600.0, 2000.0)),
        way(precision="tf32", points=points(400.0, 900.0, 4000.0)),
        way(engine="onnx", left_out="onnxruntime has no CUDA"),
        way(engine="pt2", points=points(500.0), failed="out of memory"),
    ],
    "served": [
        {**TOLD, "round": load().model_dump(mode="json")},
        {**SERVED, "frontends": 1, "failed": "the server ended"},
        {**SERVED, "frontends": 1, "left_out": "no time was left"},
    ],
    "memory": [
        {"mib": 8192, "rows": 1, "status": 507, "said": "out of memory", "most_rows": "8"},
        {"mib": 1, "rows": 1, "status": 500, "said": "it failed", "most_rows": "8", "failed": "answered 500, not 200"},
    ],
    "kills": [
        {"kill": 1, "killed": 1, "again_s": 11.5, "answers": {"503": 40}},
        {"kill": 2, "failed": "no answer in 30 s, but {'503': 900}"},
        {"kills": 2, "answered": 90_000, "errors": {"status 503": 1200}},
    ],
    "packed": [
        {
            "model": "resnet50",
            "precision": "float16",
            "engine": "torchscript",
            "error": 1.5e-3,
            "budget": 4.5e-3,
            "measured": {"rows_per_s": 640.0, "p50_s": 0.0125},
            "start_s": 9.5,
            "device": "cuda:0",
            "device_bytes": 512_000_000,
            "mar_bytes": 1,
        }
    ],
}
