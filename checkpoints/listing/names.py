"""What a checkpoint's name says: step, epoch, metrics, and which series it belongs to.

    epoch=3-step=400-val_loss=0.25.ckpt        Lightning
    checkpoint-500/                            Hugging Face's Trainer: a step
    checkpoint-12.pth.tar                      timm: an epoch, as only the content says
    epoch_1_step_20_val_loss=0.1/              torchtnt
    model_epoch12_loss0.31.pth, step-00000120.pth, ckpt_5000.pt

A number is a step or an epoch only where a word beside it says so; one behind `model` or `ckpt` orders the files of one series.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SUFFIXES = (".pth.tar", ".safetensors", ".ckpt", ".pth", ".pt", ".bin", ".model", ".tar")
"""Longest first; taken off before a name is looked at."""

NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
METRIC = re.compile(rf"[-_. ]?([A-Za-z][A-Za-z0-9_/@]*?)=({NUMBER}|nan|[-+]?inf)(?=$|[-_ ,])")
"""`val_loss=0.25`: a word, an equals sign, a number."""

KNOWN_METRIC = re.compile(
    r"[-_. ]((?:[A-Za-z0-9]+[-_])?"
    r"(?:loss|acc|accuracy|top1|top5|f1|map|miou|iou|dice|auc|psnr|ssim|fid|bleu|ppl|wer|cer|mse|mae|rmse|score))"
    r"[-_]?(\d+\.\d+)(?=$|[-_ ,])",
    re.IGNORECASE,
)
"""`loss0.31`, `val_acc_0.91`: without an equals sign only after a word that can be nothing else."""

COUNTED = re.compile(r"((?:epoch|step|iter)[-_]?\d+)_(?=[A-Za-z])", re.IGNORECASE)
"""Where a counter ends and a metric's name begins, in `epoch_1_step_20_val_loss=0.1`."""

STEP = re.compile(r"(?:^|[^A-Za-z])(?:global_?|train_)?(?:steps?|iterations?|iter|it|updates?)[-_=]?(\d+)", re.IGNORECASE)
EPOCH = re.compile(r"(?:^|[^A-Za-z])(?:epochs?|ep)[-_=]?(\d+)", re.IGNORECASE)
OTHER_STEPS = re.compile(r"[-_ ]eval_step_\d+")
"""torchtnt's count of evaluation steps: no order, and no series of its own."""

NUMBERED = re.compile(
    r"(?:^|(?:^|[^A-Za-z])(?:ckpt|checkpoint|chkpt|check_point|model|weights|snapshot|save|e)[-_.]?)(\d+)(?=\D*$)", re.IGNORECASE
)
"""A number alone orders only behind a word that says nothing else: resnet18 and resnet50, vit_b_16 and vit_b_32 differ."""

VERSION = re.compile(r"[-_]v(\d+)$")
"""What Lightning puts behind a name that is taken."""

MAX_DIGITS = 18

KEPT_WORDS = ("best", "last", "latest", "final")
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, slots=True)
class Named:
    """What the name says.

    `number` is a number that orders, where none is a step or an epoch. `series` is the name with `#` for
    its counters, without its metrics: what belongs together.
    """

    series: str
    step: int | None = None
    epoch: int | None = None
    number: int | None = None
    version: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_name(name: str) -> Named:
    """Take a name apart; anything is a name."""
    stem = without_suffix(name)
    version = VERSION.search(stem)
    if version and not (STEP.search(stem) or EPOCH.search(stem)):  # model_v2 is another model, not another save
        version = None
    rest = OTHER_STEPS.sub("", COUNTED.sub(r"\1 ", stem[: version.start()] if version else stem))
    metrics: dict[str, float] = {}
    for pattern in (METRIC, KNOWN_METRIC):
        metrics |= {key: float(value) for key, value in pattern.findall(rest) if not _is_counter(key)}
        rest = pattern.sub(lambda found: found[0] if _is_counter(found[1]) else "", rest)
    step, epoch = STEP.search(rest), EPOCH.search(rest)
    number = NUMBERED.search(rest) if step is None and epoch is None else None
    return Named(
        series=_series(rest, [found for found in (step, epoch, number) if found]) + name.removeprefix(stem),
        step=_value(step),
        epoch=_value(epoch),
        number=_value(number),
        version=int(version[1][:MAX_DIGITS]) if version else 0,
        metrics={key: value for key, value in metrics.items() if not math.isnan(value)},
    )


def kept_word(name: str) -> str | None:
    """The word in a name that says that it is not to go: best, last, latest, final, whatever follows it in the word."""
    words = [word.lower() for word in WORDS.findall(without_suffix(name))]
    return next((kept for word in words for kept in KEPT_WORDS if word.startswith(kept)), None)


def without_suffix(name: str) -> str:
    """The name without the suffix of a checkpoint's file."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def _is_counter(word: str) -> bool:
    return re.fullmatch(r"(?:.*[-_])?(?:epochs?|steps?|iter|iteration)", word, re.IGNORECASE) is not None


def _series(text: str, counters: Sequence[re.Match[str]]) -> str:
    """The text with `#` for its counters; other numbers stay."""
    for found in sorted(counters, key=lambda found: -found.start(1)):
        text = text[: found.start(1)] + "#" + text[found.end(1) :]
    return text


def _value(found: re.Match[str] | None) -> int | None:
    return int(found[1][:MAX_DIGITS]) if found else None
