"""Warm start: exactly what is named is taken, and everything else is said."""

import json

import pytest
import torch
from torch import nn

from checkpoints import AmbiguousWeights, KeysDoNotMatch
from checkpoints.warm_start import warm_start


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


def saved(folder, model, name="pretrained.pth", **beside):
    torch.save({"model_state_dict": model.state_dict(), **beside} if beside else model.state_dict(), folder / name)
    return folder / name


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_backbone_is_taken_and_a_new_head_stays(tmp_path):
    """What the globs name is loaded, buffers included; the rest of the model is as it was; every name is in the report."""
    source, model = Net(10), Net(3)
    source.state_dict()["backbone.1.running_mean"].fill_(0.5)
    before = values(model)

    report = warm_start(model, saved(tmp_path, source, epoch=3), take=["backbone.*"])

    assert same(values(model.backbone), values(source.backbone))
    assert same(values(model.head), {name.removeprefix("head."): before[name] for name in before if name.startswith("head.")})
    assert report.taken == tuple(sorted(name for name in before if name.startswith("backbone.")))
    assert report.left == report.not_taken_of_model == ("head.bias", "head.weight")
    assert (report.source, report.weights, report.did_not_fit) == ("pretrained.pth", "model_state_dict", ())


def test_what_does_not_fit_is_left_and_said(tmp_path):
    """With everything asked for, the tensors of another shape stay as they were, each with both shapes."""
    model = Net(3)
    before = values(model)

    report = warm_start(model, saved(tmp_path, Net(10)), take=["*"])

    assert torch.equal(model.head.weight, before["head.weight"])
    assert [(misfit.name, misfit.reason) for misfit in report.did_not_fit] == [
        ("head.bias", "(10,) in the file, (3,) in the model"),
        ("head.weight", "(10, 4) in the file, (3, 4) in the model"),
    ]
    assert report.not_taken_of_model == ("head.bias", "head.weight")
    assert str(report) == (
        "warm start from pretrained.pth: 7 tensors taken, 0 of the file left\n"
        "  did not fit: head.bias: (10,) in the file, (3,) in the model\n"
        "  did not fit: head.weight: (10, 4) in the file, (3, 4) in the model\n"
        "  as they were in the model: head.bias, head.weight"
    )


def test_leave_takes_names_out_again(tmp_path):
    """What `leave` names is left although a glob took it: then nothing is said not to fit."""
    report = warm_start(Net(3), saved(tmp_path, Net(10)), take=["*"], leave=["head.*"])

    assert report.did_not_fit == ()
    assert report.left == ("head.bias", "head.weight")


def test_a_glob_that_names_nothing_is_an_error(tmp_path):
    """The message says what the file has, and the nearest; the model is as it was."""
    model = Net(3)
    before = values(model)

    with pytest.raises(KeysDoNotMatch) as caught:
        warm_start(model, saved(tmp_path, Net(10)), take=["backbone.*", "bakbone.*"])

    assert str(caught.value) == (
        'The glob "bakbone.*" names nothing in pretrained.pth. It has backbone.*, head.*. The nearest name is "backbone".'
    )
    assert same(values(model), before)


def test_a_glob_of_which_nothing_fits_is_an_error(tmp_path):
    """A glob that brings nothing is a mistake: each reason is told, and the other globs load nothing either."""
    model = Net(3)
    before = values(model)

    with pytest.raises(KeysDoNotMatch, match=r'Nothing of what the glob "head.\*" takes from pretrained.pth fits the model'):
        warm_start(model, saved(tmp_path, Net(10)), take=["backbone.*", "head.*"])

    assert same(values(model), before)


def test_wrappers_on_either_side_do_not_count(tmp_path):
    """A file saved from a compiled DataParallel model fits a plain one, and the other way round, under plain names."""
    source = Net(10)
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    plain, parallel = Net(10), nn.DataParallel(Net(10))

    report = warm_start(plain, tmp_path / "wrapped.pth", take=["backbone.*"])
    also = warm_start(plain, tmp_path / "wrapped.pth", take=["module._orig_mod.head.*"])
    back = warm_start(parallel, saved(tmp_path, source), take=["*"])

    assert report.taken[0] == "backbone.0.bias"
    assert also.taken == ("head.bias", "head.weight")
    assert same(values(plain), values(source))
    assert same(values(parallel.module), values(source))
    assert back.renamed == {}


def test_prefixes_are_renamed_only_when_asked(tmp_path):
    """A bare backbone goes into a model that holds it under a name; the report has both names."""
    source, model = Net(10), Net(10)
    path = saved(tmp_path, source.backbone)
    with pytest.raises(KeysDoNotMatch, match=r"the model has no 0\.weight"):
        warm_start(model, path, take=["*"])

    report = warm_start(model, path, take=["*"], rename={"": "backbone."})

    assert same(values(model.backbone), values(source.backbone))
    assert report.renamed["backbone.0.weight"] == "0.weight"
    with pytest.raises(KeysDoNotMatch, match=r'no name in pretrained\.pth begins with "encoder\."'):
        warm_start(model, path, take=["*"], rename={"encoder.": "backbone."})


def test_dtypes_are_widened_without_loss_or_not_at_all(tmp_path):
    """float16 into float32 is exact and said; float32 into bfloat16 does not fit."""
    report = warm_start(Net(3), saved(tmp_path, Net(3).half()), take=["head.*"])
    assert report.widened == {"head.bias": "float16", "head.weight": "float16"}

    with pytest.raises(KeysDoNotMatch, match="float32 in the file, bfloat16 in the model: that conversion can lose values"):
        warm_start(Net(3).bfloat16(), saved(tmp_path, Net(3), "wide.pth"), take=["head.*"])


def test_tied_tensors_stay_tied(tmp_path):
    """One name taken changes the tensor under both, and the report says so; a file in which they differ does not fit."""
    model = Tied()
    path = saved(tmp_path, Tied())
    report = warm_start(model, path, take=["embed.*"])
    assert report.tied == {"out.weight": "embed.weight"}
    assert report.not_taken_of_model == ()
    assert model.out.weight is model.embed.weight

    torch.save({"embed.weight": torch.zeros(5, 3), "out.weight": torch.ones(5, 3)}, tmp_path / "untied.pth")
    with pytest.raises(KeysDoNotMatch, match=r"embed\.weight and out\.weight are one tensor in the model, and differ"):
        warm_start(model, tmp_path / "untied.pth", take=["*"])


def test_what_diverged_is_not_taken(tmp_path):
    """A NaN in what would be taken is an error; in what is left it is none."""
    source = Net(3)
    source.head.weight.data[0, 0] = float("nan")
    path = saved(tmp_path, source)

    with pytest.raises(KeysDoNotMatch, match=r"head\.weight holds 1 value"):
        warm_start(Net(3), path, take=["*"])
    warm_start(Net(3), path, take=["backbone.*"])


def test_several_weight_sets_need_a_name(tmp_path):
    """With raw and averaged weights in one file a person chooses."""
    one, other = Net(3), Net(3)
    torch.save({"state_dict": one.state_dict(), "state_dict_ema": other.state_dict()}, tmp_path / "both.pth")
    model = Net(3)

    with pytest.raises(AmbiguousWeights):
        warm_start(model, tmp_path / "both.pth", take=["*"])
    report = warm_start(model, tmp_path / "both.pth", take=["*"], weights="state_dict_ema")

    assert report.weights == "state_dict_ema"
    assert same(values(model), values(other))


def test_a_model_without_memory_is_refused(tmp_path):
    """Loading into a meta model would load nothing; a lazy one has no shapes yet."""
    path = saved(tmp_path, Net(3))
    with torch.device("meta"):
        hollow = Net(3)

    with pytest.raises(KeysDoNotMatch, match="no memory"):
        warm_start(hollow, path, take=["*"])
    with pytest.raises(KeysDoNotMatch, match="no shape yet"):
        warm_start(nn.Sequential(nn.LazyLinear(2)), path, take=["*"])


def test_one_text_is_no_list(tmp_path):
    """`take="*"` would be taken letter by letter: refused with how to write it."""
    with pytest.raises(KeysDoNotMatch, match="lists of globs"):
        warm_start(Net(3), saved(tmp_path, Net(3)), take="*")


def test_training_goes_on_with_the_same_parameters(tmp_path):
    """Parameters are changed in place: an optimizer that was made before, and requires_grad, still hold."""
    model = Net(3)
    model.head.weight.requires_grad = False
    parameters = list(model.parameters())

    warm_start(model, saved(tmp_path, Net(3)), take=["*"])

    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert not model.head.weight.requires_grad


def test_the_report_is_plain_json(tmp_path):
    """Its facts go into a sidecar and come back as they were."""
    report = warm_start(Net(3), saved(tmp_path, Net(10)), take=["*"])

    facts = json.loads(json.dumps(report.facts()))

    assert facts == report.facts()
    assert facts["did_not_fit"][0] == {"name": "head.bias", "reason": "(10,) in the file, (3,) in the model"}
    assert len(facts["sha256"]) == 64
