"""The whole way of an example: train, export, serve, ask about everything that was held out, and compare with PyTorch.

    python examples/demo.py images
    python examples/demo.py sentences

Ends with 0 only if the answers over HTTP are PyTorch's own. All lies in a temporary folder, and no process is left behind.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.processes import started

HERE = Path(__file__).parent
PLUGINS = {"images": (), "sentences": ("--plugin", "examples/sentences/model.py")}


def main(name: str) -> int:
    """Runs the demo; the exit code says whether all answers are equal."""
    with tempfile.TemporaryDirectory() as place:
        kept, repository = Path(place, "kept"), Path(place, "models")
        print(f"1. train: python examples/{name}/train.py kept", flush=True)
        run(str(HERE / name / "train.py"), str(kept))
        print("2. export:", *("python -m export --ckpt kept/best.pth --repository models", *PLUGINS[name]), flush=True)
        run("-m", "export", "--ckpt", str(kept / "best.pth"), "--repository", str(repository), *PLUGINS[name])
        print("3. serve: python -m serving --repository models", flush=True)
        with started("serving", "--repository", str(repository), folder=Path(place)) as server:
            print(f"4. ask: python examples/{name}/ask.py kept", flush=True)
            asked = [sys.executable, str(HERE / name / "ask.py"), str(kept), "--port", str(server.port)]
            return subprocess.run(asked, check=False).returncode


def run(*arguments: str) -> None:
    """Runs a command of Python in the project's folder."""
    subprocess.run([sys.executable, *arguments], check=True, cwd=HERE.parent)


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in PLUGINS]:
        sys.exit(f"which example? python examples/demo.py {'|'.join(PLUGINS)}")
    sys.exit(main(sys.argv[1]))
