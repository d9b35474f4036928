"""Keys are matched by exact bijections with equal shapes, under the wrappers that real tools add, or not at all."""

import warnings

import pytest
import torch
from torch.nn.utils import prune

from checkpoints import AmbiguousWeights, KeysDoNotMatch, match_keys
from checkpoints.keys import Candidate, choose


def shapes(model_or_state):
    state = model_or_state.state_dict() if isinstance(model_or_state, torch.nn.Module) else model_or_state
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.fixture
def net():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def compiled(module):
    with warnings.catch_warnings(action="ignore"):
        return torch.compile(module)


def inner_parallel(net):
    return torch.nn.Sequential(torch.nn.DataParallel(net[0]), net[1], net[2])


class Lightning(torch.nn.Module):
    """Keeps the model under an attribute, as a LightningModule does."""

    def __init__(self, model, **others):
        super().__init__()
        self.model = model
        for name, module in others.items():
            setattr(self, name, module)


AveragedModel = torch.optim.swa_utils.AveragedModel
WRAPPINGS = {
    "identity": lambda net: net,
    "strip:module": torch.nn.DataParallel,
    "strip:_orig_mod": compiled,
    "strip:module + strip:_orig_mod": lambda net: compiled(torch.nn.DataParallel(net)),
    "infix:module": inner_parallel,
    "strip-prefix:model.": Lightning,
    "strip:_orig_mod + strip-prefix:model.": lambda net: compiled(Lightning(net)),
    "infix:_orig_mod + strip-prefix:model.": lambda net: Lightning(compiled(net)),
    "averaged-model": AveragedModel,
    "averaged-model + strip:module": lambda net: AveragedModel(torch.nn.DataParallel(net)),
    "averaged-model + strip-prefix:model.": lambda net: AveragedModel(Lightning(net)),
}


@pytest.mark.parametrize("rewrite", WRAPPINGS)
def test_wrappers(net, rewrite):
    """The keys that each tool's wrapper makes are matched, and the rewrite is named."""
    wrapped = WRAPPINGS[rewrite](net)
    wrapped_keys = dict(zip(wrapped.state_dict(), shapes(wrapped), strict=True))

    match = match_keys(shapes(wrapped), shapes(net))

    assert match.rewrite == rewrite
    assert set(match.mapping.values()) == shapes(net).keys()
    assert match.ignored == (("n_averaged",) if rewrite.startswith("averaged") else ())
    assert match.mapping.keys() == wrapped_keys.keys() - {"n_averaged"}


@pytest.mark.parametrize("token", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"])
def test_other_wrapper_names(token):
    """FSDP's, checkpointing's and DeepSpeed's components are taken away wherever they stand."""
    match = match_keys({f"a.{token}.w": (1,), f"{token}.b.w": (2,)}, {"a.w": (1,), "b.w": (2,)})

    assert match.mapping == {f"a.{token}.w": "a.w", f"{token}.b.w": "b.w"}
    assert match.rewrite == f"infix:{token}"


def test_a_wrapper_name_of_the_model_itself_stays():
    """Where the model has an attribute named module, only the wrapper's is taken away."""
    match = match_keys({"module.module.w": (1,), "module.fc.w": (2,)}, {"module.w": (1,), "fc.w": (2,)})

    assert (match.rewrite, match.mapping["module.module.w"]) == ("strip-prefix:module.", "module.w")


def test_globs_leave_out_keys_of_the_file(net):
    """A loss beside the model is left out by a glob, and recorded."""
    wrapped = Lightning(net, criterion=torch.nn.Linear(1, 1))

    match = match_keys(shapes(wrapped), shapes(net), ["criterion.*"])

    assert (match.rewrite, match.ignored) == ("strip-prefix:model.", ("criterion.bias", "criterion.weight"))


def test_without_the_glob_the_leftover_is_unexpected(net):
    """Keys outside the prefix are never dropped silently."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys(shapes(Lightning(net, criterion=torch.nn.Linear(1, 1))), shapes(net))

    assert caught.value.unexpected == ("criterion.bias", "criterion.weight")
    assert (caught.value.missing, caught.value.mismatched) == ((), ())
    assert str(caught.value) == (
        "The file's keys are not the model's under the rewrite strip-prefix:model.: 9 match, 0 have another shape, "
        "0 are missing in the file, 2 are unexpected in it.\n"
        "  unexpected in the file: criterion.bias, criterion.weight"
    )


def test_a_glob_that_names_nothing():
    """A glob without a key changes nothing: what it was meant for is still unexpected, and said so."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys({"criterion.weight": (1,)}, {}, ["criterium.*"])

    assert caught.value.unexpected == ("criterion.weight",)


@pytest.mark.parametrize("wrap", [lambda net: net, torch.nn.DataParallel, Lightning])
def test_a_glob_may_not_skip_what_the_model_needs(net, wrap):
    """A glob over a key that the model needs is an error, also where the key carries a wrapper's name."""
    with pytest.raises(KeysDoNotMatch, match=r'The glob "\*2\.weight" skips \S*2\.weight, which the model needs') as caught:
        match_keys(shapes(wrap(net)), shapes(net), ["*2.weight"])

    assert caught.value.missing == ("2.weight",)


def test_globs_mind_case():
    """Globs are case-sensitive on every system."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys({"FC.weight": (1,)}, {}, ["fc.*"])

    assert caught.value.unexpected == ("FC.weight",)


def test_rewrites_that_differ_are_ambiguous():
    """Two rewrites that fit with different mappings need a person; the same mapping twice is one."""
    file, model = {"a": (1,), "b": (1,)}, {"x": (1,), "y": (1,)}
    one = Candidate("one", {"a": "x", "b": "y"}, ())
    same = Candidate("same", {"a": "x", "b": "y"}, ())
    other = Candidate("other", {"a": "y", "b": "x"}, ())

    assert choose(file, model, [one, same]) is one
    with pytest.raises(AmbiguousWeights) as caught:
        choose(file, model, [one, other])
    assert str(caught.value) == (
        "Two rewrites of the file's keys fit the model and differ: one and other. Rename the keys in the file so that one fits."
    )


def test_shapes_that_differ():
    """A shape that differs is named with both shapes; nothing is reshaped."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys({"module.fc.weight": (10, 512), "module.s": (1,)}, {"fc.weight": (1000, 512), "s": ()})

    assert caught.value.mismatched == (("fc.weight", (10, 512), (1000, 512)), ("s", (1,), ()))
    assert str(caught.value) == (
        "The file's keys are not the model's under the rewrite strip:module: 0 match, 2 have another shape, "
        "0 are missing in the file, 0 are unexpected in it.\n"
        "  another shape: fc.weight is (10, 512) in the file, (1000, 512) in the model, "
        "s is (1,) in the file, () in the model (a scalar against a vector of one; never reshaped)"
    )


def test_nearest_names():
    """A key with another name is shown beside the one it is most like, in the file's own spelling."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys({"module.fc.weigth": (1,), "module.fc.bias": (1,)}, {"fc.weight": (1,), "fc.bias": (1,)})

    assert caught.value.unexpected == ("module.fc.weigth",)
    assert "  nearest names: fc.weight ~ module.fc.weigth of the file" in str(caught.value).splitlines()


def test_messages_stay_short():
    """Four hundred differing keys take a few lines with five examples of each kind."""
    file = {f"layer.{number}.weight": (1,) for number in range(400)}
    model = {f"block.{number}.kernel": (1,) for number in range(400)}

    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys(file, model)

    lines = str(caught.value).splitlines()
    assert len(lines) <= 6
    assert all(len(line) < 400 for line in lines)
    assert lines[1].endswith("block.10.kernel, block.100.kernel, block.101.kernel and 395 more")
    assert len(caught.value.missing) == 400


LEFTOVERS = {
    "weight norm": (torch.nn.utils.weight_norm, "weight norm in its old form"),
    "new weight norm": (torch.nn.utils.parametrizations.weight_norm, "a parametrization"),
    "pruning": (lambda layer: prune.random_unstructured(layer, "weight", 0.5), "pruning is still on"),
    "spectral norm": (torch.nn.utils.spectral_norm, "spectral norm in its old form"),
}


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_leftovers_of_torch(kind):
    """Keys that a parametrized layer leaves are explained, with the call that removes them."""
    change, said = LEFTOVERS[kind]
    plain = torch.nn.Linear(3, 2)
    with warnings.catch_warnings(action="ignore"):
        changed = change(torch.nn.Linear(3, 2))

    with pytest.raises(KeysDoNotMatch, match=said):
        match_keys(shapes(changed), shapes(plain))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("fc._extra_state", "a module's extra state"),
        ("total_ops", "counters that the profiler thop left"),
        ("embeddings.position_ids", "a constant that older releases of transformers saved"),
        ("pooler.dense.weight", "the file has a pooler, the model has none"),
        ("q.lora_A.weight", "LoRA adapters are not merged"),
    ],
)
def test_leftovers_of_other_tools(key, said):
    """Keys that other tools leave are explained once, with what to do."""
    with pytest.raises(KeysDoNotMatch) as caught:
        match_keys({"w": (1,), key: (1,)}, {"w": (1,)})

    assert f"  {key}: {said}" in str(caught.value)


def test_what_an_old_file_lacks(net):
    """A file from before num_batches_tracked is explained."""
    old = {key: shape for key, shape in shapes(net).items() if not key.endswith("num_batches_tracked")}

    with pytest.raises(KeysDoNotMatch, match=r"1\.num_batches_tracked: the file is from before torch 0\.4\.1"):
        match_keys(old, shapes(net))


def test_position_decides_nothing():
    """Keys of equal shapes in the same order do not match where their names differ."""
    with pytest.raises(KeysDoNotMatch):
        match_keys({"a.weight": (2, 2), "b.weight": (2, 2)}, {"c.weight": (2, 2), "d.weight": (2, 2)})
