"""Strict loading: what a file holds is loaded exactly, or the export ends with exit 5 (6 where a person must choose)."""

import json

import pytest
import torch

import model_defs
from checkpoints import KeysDoNotMatch, WeightSet
from export.errors import WeightsMismatch
from export.strict import load_strictly

NOT_CONVERTED = (
    "That conversion can lose values, so it is not made; "
    "save the checkpoint in the model's dtype, or build the model in the checkpoint's"
)


@pytest.fixture
def state(work):
    """The weights of the model `scaled`: a.weight, a.bias, the scalar gain and the float16 offset; saved again by the test."""
    return work.net("loading", "scaled").state_dict()


def notices(exported):
    return json.loads((exported.path / "provenance.json").read_bytes())["notices"]


# ---- values ----


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite(work, state, value):
    """NaN and infinities are counted, with the first tensor that holds them."""
    state["a.weight"][0, :2] = float(value)
    work.save(state)

    assert work.refuse(5) == (
        "best.pth: a.weight holds 2 value(s) that are NaN or infinite. "
        "Training diverged before this was saved; take an earlier checkpoint"
    )


def test_several_tensors_that_are_not_finite(work, state):
    """The others are counted."""
    state["a.weight"][0, 0] = state["a.bias"][0] = state["offset"][0] = float("nan")
    work.save(state)

    assert work.refuse(5).startswith("best.pth: offset holds 1 value(s) that are NaN or infinite (and 2 more). ")


def test_tied_weights_that_differ(work):
    """Loading would keep the last of the two."""
    work.net("loading", "tied", outputs={"y": {"dtype": "float32", "shape": ["batch", 4]}})
    state = torch.load(work.checkpoint, weights_only=True)
    work.save({name: tensor + 1 if name == "b.weight" else tensor.clone() for name, tensor in state.items()})

    assert work.refuse(5) == (
        "best.pth: a.weight and b.weight are one tensor in the model (tied), but differ in the file; "
        "the file was saved from a model that does not tie them"
    )


def test_tied_weights_that_are_equal(work):
    """Whether the file shares them or holds two equal copies."""
    work.net("loading", "tied", outputs={"y": {"dtype": "float32", "shape": ["batch", 4]}})
    shared = work.export()
    work.save({name: tensor.clone() for name, tensor in torch.load(work.checkpoint, weights_only=True).items()})

    assert work.export().content_id == shared.content_id


# ---- dtypes ----


def test_float32_for_a_float16_tensor(work, state):
    """Rounding is a change."""
    work.save({**state, "offset": state["offset"].float()})

    assert work.refuse(5) == f"best.pth: offset is float32 in the file, float16 in the model. {NOT_CONVERTED}"


def test_float64_for_float32(work, state):
    """The other tensors that do not fit are counted."""
    work.save({**state, "a.weight": state["a.weight"].double(), "a.bias": state["a.bias"].double()})

    assert work.refuse(5) == f"best.pth: a.weight is float64 in the file, float32 in the model (and 1 more). {NOT_CONVERTED}"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_other_kinds_of_numbers(work, state, dtype):
    """Integers, booleans and complex numbers do not become floats."""
    work.save({**state, "a.weight": torch.ones(3, 4).to(dtype)})

    shown = str(dtype).removeprefix("torch.")
    assert work.refuse(5) == f"best.pth: a.weight is {shown} in the file, float32 in the model. {NOT_CONVERTED}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrower_float_is_widened(work, dtype):
    """It loses nothing, and is told; the weights are those that the file says."""
    model = work.net("good", "small")
    narrow = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    work.save(narrow)

    exported = work.export()

    shown = str(dtype).removeprefix("torch.")
    assert f"10 tensors were {shown} in the file and were widened, exactly, for the model" in exported.notices
    assert notices(exported) == list(exported.notices)


def test_widening_makes_the_same_artifact(work):
    """A float16 file and the same values in float32 have one content id."""
    model = work.net("good", "small")
    narrow = {name: tensor.half() for name, tensor in model.state_dict().items()}
    work.save(narrow)
    first = work.export()
    work.save({name: tensor.float() for name, tensor in narrow.items()})

    second = work.export()

    assert (second.path, second.content_id, second.created) == (first.path, first.content_id, False)


# ---- names and shapes ----


def test_a_vector_of_one_for_a_scalar(work, state):
    """PyTorch would load it without a word."""
    work.save({**state, "gain": state["gain"].reshape(1)})

    message = work.refuse(5)

    assert message.startswith("best.pth: The file's keys are not the model's: 3 match, 1 have another shape, ")
    assert "gain is (1,) in the file, () in the model (a scalar against a vector of one; never reshaped)" in message


def test_a_missing_key(work, state):
    """Nothing is left at its initial value."""
    del state["a.bias"]
    work.save(state)

    message = work.refuse(5)

    assert message.splitlines() == [
        (
            "best.pth: The file's keys are not the model's: 3 match, 0 have another shape, 1 are missing in the file, "
            "0 are unexpected in it."
        ),
        "  missing in the file: a.bias",
    ]


def test_an_extra_key(work, state):
    """Nothing is left out …"""
    work.save({**state, "aux.weight": torch.ones(2)})

    assert work.refuse(5).splitlines()[1] == "  unexpected in the file: aux.weight"


def test_an_extra_key_that_is_ignored(work, state):
    """… that no glob names; what is skipped is told."""
    work.save({**state, "aux.weight": torch.ones(2)})

    exported = work.export(ignore=("aux.*",))

    assert "1 keys of the file were skipped, as asked: aux.weight" in exported.notices
    assert "aux.*" in (exported.path / "config.yaml").read_text()


def test_a_key_of_the_model_is_never_ignored(work, state):
    """A glob over what the model needs is refused."""
    work.save(state)

    assert work.refuse(5, ignore=("a.*",)) == (
        'best.pth: The glob "a.*" skips a.weight, which the model needs. Ignore only keys that the model does not have.'
    )


def test_missing_counters_of_batch_norm(work):
    """num_batches_tracked is asked for like any other tensor, with what is known of files without it."""
    state = work.net("good", "batch_normed").state_dict()
    work.save({name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")})

    message = work.refuse(5)

    assert "  missing in the file: norm.num_batches_tracked" in message
    assert "the file is from before torch 0.4.1, or lost its _metadata" in message


def test_a_size_that_a_param_explains(work):
    """The param is named, with its value and the one that fits."""
    work.net("loading", "classifier", {"num_classes": 10})
    work.write(
        {**work.data("classifier", {"num_classes": 1000}), "outputs": {"y": {"dtype": "float32", "shape": ["batch", 1000]}}}
    )

    message = work.refuse(5)

    assert "fc.weight is (10, 4) in the file, (1000, 4) in the model" in message
    assert message.splitlines()[-1] == "  config model.params.num_classes is 1000, the file fits 10"


def test_a_param_that_the_yaml_leaves_to_its_default(work):
    """The default is a value too: it is what the model was built with."""
    work.net("loading", "classifier", {"num_classes": 10})
    work.write({**work.data("classifier"), "outputs": {"y": {"dtype": "float32", "shape": ["batch", 1000]}}})

    assert work.refuse(5).splitlines()[-1] == "  config model.params.num_classes is 1000, the file fits 10"


def test_swapped_shapes(work):
    """A transposed weight is not turned round."""
    state = work.net("good", "small").state_dict()
    work.save({**state, "head.weight": state["head.weight"].T.contiguous()})

    assert "head.weight is (5, 3) in the file, (3, 5) in the model" in work.refuse(5)


def test_the_training_wrappers_prefix(work):
    """A rewrite of all keys is told."""
    state = work.net("good", "small").state_dict()
    work.save({f"module.{name}": tensor for name, tensor in state.items()})

    assert "keys were rewritten by strip:module; all 10 match" in work.export().notices


# ---- the model's own doing ----


def test_a_model_without_memory(work):
    """On the meta device PyTorch loads nothing, in silence."""
    work.net("loading", "without_memory")
    work.save({"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)})

    assert work.refuse(5) == "a.weight of the model has no memory (device meta); build the model on the CPU"


def test_a_hook_that_changes_values(work):
    """What the model holds after loading is what the file said."""
    work.net("loading", "changes_what_it_loads")

    assert work.refuse(5) == "a.weight was changed by the model's own loading; remove its load_state_dict hooks"


def test_a_refusal_leaves_the_model_as_it_was(work):
    """Everything is judged before anything is loaded."""
    model = work.net("good", "small")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bad = {name: tensor + 1 for name, tensor in before.items()}
    bad["head.bias"] = bad["head.bias"].double()

    with pytest.raises(WeightsMismatch):
        load_strictly(model, WeightSet("", bad, {}, {}), (), {}, "best.pth")
    bad.pop("head.bias")
    with pytest.raises(KeysDoNotMatch):
        load_strictly(model, WeightSet("", bad, {}, {}), (), {}, "best.pth")

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_mismatch_keeps_its_lists(work):
    """Who catches the error finds the keys, not only the text."""
    model = work.net("good", "small")
    state = dict(model.state_dict())
    del state["a.bias"]

    with pytest.raises(KeysDoNotMatch) as caught:
        load_strictly(model, WeightSet("", {**state, "b.weight": torch.ones(2)}, {}, {}), (), {}, "best.pth")

    assert caught.value.missing == ("a.bias",)
    assert caught.value.mismatched == (("b.weight", (2,), (5, 5)),)


# ---- what is allowed, and told ----


def test_weights_of_zeros(work):
    """Allowed, and told."""
    state = work.net("good", "small").state_dict()
    work.save({**state, "head.weight": torch.zeros(3, 5)})

    assert "1 weights are all zero: head.weight" in work.export().notices


def test_weights_that_were_never_trained(work):
    """Those of a freshly built model, under the export's own seed, are told."""
    work.net("good", "small", seed=0)

    assert (
        "4 weights equal those of a freshly built model, as if never trained: a.weight, b.weight, c.weight, head.weight"
        in work.export().notices
    )


def test_trained_weights(work):
    """Nothing is told where there is nothing to tell."""
    work.net("good", "small")

    assert work.export().notices == ()


def test_another_layout_version(work):
    """A module's saved _metadata version that is not this one's is told."""
    state = work.net("good", "batch_normed").state_dict()
    state._metadata["norm"]["version"] = 1
    work.save(state)

    assert "norm was saved in layout version 1 of BatchNorm1d, this is 2" in work.export().notices


# ---- more than one weight set ----


@pytest.fixture
def raw_and_ema(work):
    """A training checkpoint with two weight sets; gives the sha256 of each one's artifact weights."""
    state = work.net("good", "small").state_dict()
    ema = {name: tensor + 0.25 for name, tensor in state.items()}
    work.save({"model_state_dict": dict(state), "ema_state_dict": ema, "epoch": 7})


@pytest.mark.usefixtures("raw_and_ema")
def test_ema_beside_raw_weights(work):
    """Which of the two is meant is a person's choice: exit 6, with how to say it."""
    assert work.refuse(6) == (
        'Two weight sets: "model_state_dict" and "ema_state_dict" (max diff 2.5e-1). '
        "Say which: --weights model_state_dict|ema_state_dict"
    )


@pytest.mark.usefixtures("raw_and_ema")
def test_choosing_a_weight_set(work):
    """--weights chooses, and the artifact's own config says so from then on."""
    raw, ema = work.export(weights="model_state_dict"), work.export(weights="ema_state_dict")

    assert raw.content_id != ema.content_id
    assert "select: ema_state_dict" in (ema.path / "config.yaml").read_text()
    assert json.loads((ema.path / "provenance.json").read_bytes())["weights"]["set"] == "ema_state_dict"
    assert json.loads((ema.path / "provenance.json").read_bytes())["checkpoint"]["facts"] == {"epoch": 7}


@pytest.mark.usefixtures("raw_and_ema")
def test_the_yaml_chooses_a_weight_set(work):
    """weights.select is the same; the command line goes before it."""
    work.write({**work.data("small"), "weights": {"select": "ema_state_dict"}})

    assert work.export().content_id == work.export(weights="ema_state_dict").content_id
    assert work.export(weights="model_state_dict").content_id != work.export().content_id


@pytest.mark.usefixtures("raw_and_ema")
def test_a_weight_set_that_is_not_there(work):
    """The nearest name is given."""
    assert work.refuse(5, weights="ema_statedict") == (
        'best.pth has no weight set "ema_statedict". It has "model_state_dict", "ema_state_dict". '
        'The nearest name is "ema_state_dict".'
    )


def test_the_registry_stays_as_it_was():
    """Test plugins are gone after each test."""
    assert "small" not in model_defs.registered()
