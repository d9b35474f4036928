"""Other servers with the same model, for `--against`: plain FastAPI and TorchServe, each as it comes and with batching."""

from collections.abc import Iterable, Mapping

from bench.errors import PeerMissing
from bench.peers.fastapi import FastApiPeer
from bench.peers.peer import Peer
from bench.peers.torchserve import TorchServePeer

__all__ = ["PEERS", "Peer", "chosen"]

PEERS: Mapping[str, tuple[Peer, ...]] = {
    "fastapi": (FastApiPeer(batching=False), FastApiPeer(batching=True)),
    "torchserve": (TorchServePeer(batching=False), TorchServePeer(batching=True)),
}
"""What `--against` takes, and the contenders that each stands for."""


def chosen(names: Iterable[str]) -> list[Peer]:
    """The contenders that these names stand for.

    Raises:
        PeerMissing: there is no such peer.
    """
    names = list(names)
    for name in names:
        if name not in PEERS:
            raise PeerMissing(f"--against {name}: there is no such peer; there are {', '.join(PEERS)}")
    return [peer for name in names for peer in PEERS[name]]
