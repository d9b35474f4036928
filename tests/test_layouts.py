"""Checkpoints as training tools really write them, through all of the export's reading: they load exactly, or it explains."""

import json
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import model_defs
from checkpoints import AmbiguousWeights, KeysDoNotMatch, WeightSet, read
from export.errors import WeightsMismatch
from export.report import Silent
from export.run import ExportRequest, prepare
from export.strict import load_strictly

CONFIG = {
    "schema": 1,
    "model": {"name": "digits_cnn"},
    "inputs": {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8], "range": [0, 1]}},
    "dims": {"batch": {"min": 1, "max": 4}},
    "outputs": {"logits": {"dtype": "float32", "shape": ["batch", 10]}},
}


def data_parallel(model, directory):
    torch.save({"model": nn.DataParallel(model).state_dict()}, directory / "best.pth")
    return directory / "best.pth"


def compiled(model, directory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations, when it is imported
        wrapped: Any = torch.compile(model)
    torch.save(wrapped.state_dict(), directory / "best.pth")
    return directory / "best.pth"


def averaged(model, directory):
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), directory / "best.pth")
    return directory / "best.pth"


def lightning(model, directory):
    """Written by pytorch-lightning's own Trainer, with optimizer and hyper-parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        import pytorch_lightning as pl

        class Task(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.save_hyperparameters({"lr": 1e-3})
                self.net = model

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

        trainer = pl.Trainer(max_epochs=0, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        trainer.strategy.connect(Task())
        trainer.save_checkpoint(directory / "epoch=0.ckpt")
    return directory / "epoch=0.ckpt"


def accelerate(model, directory):
    """Written by accelerate's own save_state: model.safetensors beside optimizer.bin and random_states_0.pkl."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        del prepared, optimizer
        accelerator.save_state(str(directory / "state"))
    assert (directory / "state" / "random_states_0.pkl").is_file()
    return directory / "state"


def sharded(model, directory):
    """Written by huggingface_hub in shards of 10 kB, with its index."""
    from huggingface_hub import save_torch_state_dict

    (directory / "hub").mkdir()
    save_torch_state_dict(model.state_dict(), str(directory / "hub"), max_shard_size="10KB")
    assert len(list((directory / "hub").glob("*.safetensors"))) > 1
    return directory / "hub"


WRITERS = {
    "DataParallel": (data_parallel, "strip:module"),
    "torch.compile": (compiled, "strip:_orig_mod"),
    "AveragedModel": (averaged, "averaged-model"),
    "Lightning": (lightning, "strip-prefix:net."),
    "Accelerate": (accelerate, "identity"),
    "Hugging Face shards": (sharded, "identity"),
}


@pytest.fixture
def trained():
    torch.manual_seed(5)
    model = model_defs.build("digits_cnn", {})
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("writer", WRITERS)
def test_layouts_load_exactly(trained, writer, dtype, tmp_path):
    """Every training tool's checkpoint loads bit for bit in float32, and in float16 with a recorded, exact widening."""
    write, rewrite = WRITERS[writer]
    trained.to(dtype)
    checkpoint = write(trained, tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))

    prepared = prepare(ExportRequest(checkpoint, config=config), Silent())

    assert prepared.loaded.rewrite == rewrite
    for name, expected in trained.state_dict().items():
        loaded = prepared.model.state_dict()[name]
        assert loaded.dtype == (torch.float32 if expected.is_floating_point() else expected.dtype)
        assert torch.equal(loaded, expected.to(loaded.dtype)), name
    widened = [notice for notice in prepared.loaded.notices if "widened" in notice]
    assert len(widened) == (dtype is torch.float16)


def test_all_layouts_have_one_digest(trained, tmp_path):
    """The weights' digest is that of the tensors under the model's names: no container, wrapper or file name changes it."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))
    digests = set()
    for number, (write, _) in enumerate(WRITERS.values()):
        (tmp_path / str(number)).mkdir()
        request = ExportRequest(write(trained, tmp_path / str(number)), config=config)
        digests.add(prepare(request, Silent()).loaded.sha256)

    assert len(digests) == 1


def test_lightning_with_a_criterion_needs_a_word(trained, tmp_path):
    """Keys of a Lightning module that are not the model's are named, and skipped only when asked."""
    state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()} | {"criterion.weight": torch.ones(10)}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.0", "epoch": 3}, path)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))

    with pytest.raises(KeysDoNotMatch, match=r"criterion\.weight"):
        prepare(ExportRequest(path, config=config), Silent())
    prepared = prepare(ExportRequest(path, config=config, ignore=("criterion.*",)), Silent())

    assert prepared.loaded.ignored == ("criterion.weight",)


def test_timm_with_ema_asks(trained, tmp_path):
    """A checkpoint with raw and averaged weights is ambiguous until a person chooses."""
    path = tmp_path / "last.pth.tar"
    ema = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": trained.state_dict(), "state_dict_ema": ema, "epoch": 3, "arch": "digits_cnn"}, path)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))

    with pytest.raises(AmbiguousWeights, match=r"--weights state_dict\|state_dict_ema"):
        prepare(ExportRequest(path, config=config), Silent())
    prepared = prepare(ExportRequest(path, config=config, weights="state_dict_ema"), Silent())

    assert torch.equal(prepared.model.state_dict()["classifier.bias"], ema["classifier.bias"])


def test_a_float64_checkpoint_explains(trained, tmp_path):
    """A narrowing that could lose values is refused, with both dtypes."""
    path = tmp_path / "best.pth"
    torch.save(trained.double().state_dict(), path)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(CONFIG))

    with pytest.raises(WeightsMismatch, match="is float64 in the file, float32 in the model"):
        prepare(ExportRequest(path, config=config), Silent())


def test_a_tied_tensor_that_was_saved_once(tmp_path):
    """Hugging Face's writer leaves out all but one name of a tied tensor; it loads, and the name is recorded."""
    from huggingface_hub import save_torch_state_dict

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    saved, loaded = Tied(), Tied()
    save_torch_state_dict(saved.state_dict(), str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    weights = read(file).select(None)
    bare = WeightSet("", {"embedding.weight": weights.tensors["embedding.weight"]}, {}, {})

    found = load_strictly(loaded, bare, (), {}, file.name)

    assert torch.equal(loaded.head.weight, saved.head.weight)
    assert found.notices == ("head.weight is not in the file; in the model it is one tensor with embedding.weight, which is",)
    assert load_strictly(Tied(), weights, (), {}, file.name).sha256 == found.sha256
