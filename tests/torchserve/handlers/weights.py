"""Writes network.pt, the state_dict, and scripted.pt, the same as TorchScript: `python weights.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import torch
from network import Network

folder = Path(sys.argv[1])
network = Network()
for parameter in network.parameters():
    values = torch.arange(parameter.numel(), dtype=torch.float32) % 5 - 2
    parameter.data = values.reshape(parameter.shape)
torch.save(network.state_dict(), folder / "network.pt")
warnings.simplefilter("ignore")
torch.jit.script(network.eval()).save(folder / "scripted.pt")
