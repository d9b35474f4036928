"""Successive halving: every arm is measured shortly, the better ones longer, until one leads by more than the noise.

Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization (AISTATS 2016). Ours keeps, beside
the better half by rows a second, whatever no other arm beats in both rows a second and the latency of the smallest call: the
table that a person chooses from should be as exact as the choice. Nothing here measures or waits.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from artifact.tuned import TIE, Arm, Measurement, best

Standing = Mapping[Arm, Sequence[Measurement]]
"""Each arm's measurements that count, by rows ascending: see `artifact.tuned.usable`."""

_NEAR_BEST = 0.9
"""A later round measures the sizes that give this share of the arm's best speed, and the smallest."""
_GPU_CALLS = 8
_MEASURING = 0.6
"""The share of the budget for measuring; the rest goes to starting processes and reading the model."""


def arms(engines: Sequence[str], cores: int, device: str) -> list[Arm]:
    """The ways to use the cores, the likely ones first: threads in powers of two; one call at a time, or all or half the cores.

    On a GPU a call's threads have nothing to do: there are one, two, four and eight calls at a time, with one each.
    """
    if device == "cpu":
        pairs = {
            (instances, threads)
            for threads in {*_powers(cores), cores}
            for instances in {1, cores // threads, max(1, cores // threads // 2)}
        }
    else:
        pairs = {(instances, 1) for instances in _powers(min(cores, _GPU_CALLS))}
    ordered = sorted(pairs, key=lambda pair: (-pair[0] * pair[1], pair[0]))  # those that use all cores come first
    return [Arm(engine=engine, instances=instances, threads=count) for instances, count in ordered for engine in engines]


def rounds(count: int) -> int:
    """How many rounds there are at most: one for all, then halves until one is left, and two at least."""
    return max(1, math.ceil(math.log2(count))) + 1


def seconds(number: int, count: int, budget_s: float) -> float:
    """How long an arm is measured in a round: twice as long as in the one before, so that every round takes about as long."""
    return _MEASURING * budget_s / (count * rounds(count)) * 2**number


def survivors(standing: Standing) -> list[Arm]:
    """The arms that go on, the fastest first: the better half, and those that no other beats in both speed and latency."""
    ordered = sorted(standing, key=lambda arm: -best(standing[arm]).rows_per_s)
    half = math.ceil(len(ordered) / 2)
    return [*ordered[:half], *(arm for arm in ordered[half:] if not _is_beaten(arm, standing))]


def is_decided(standing: Standing, measured: Collection[Measurement] = ()) -> bool:
    """Whether the fastest arm leads every other by more than the noise.

    The noise is the mean of what the two arms' speeds were seen to vary by, and 3 % at least: within the last measurement, or
    between the rounds among `measured`, whichever is more.
    """
    leader, *others = sorted((best(points) for points in standing.values()), key=lambda point: -point.rows_per_s)
    varied = _noise(leader, measured)
    return all(leader.rows_per_s / other.rows_per_s - 1 > max(TIE, (varied + _noise(other, measured)) / 2) for other in others)


def _noise(point: Measurement, measured: Collection[Measurement]) -> float:
    """What a point's speed varies by, as a share: a machine that is disturbed for longer than a measurement shows between two."""
    speeds = [one.rows_per_s for one in measured if (one.arm, one.rows) == (point.arm, point.rows)]
    return max(point.spread, max(speeds) / min(speeds) - 1 if speeds else 0.0)


def sizes_again(points: Sequence[Measurement]) -> list[int]:
    """The numbers of rows that are worth another measurement: the smallest, and those that are nearly as fast as the best."""
    enough = _NEAR_BEST * best(points).rows_per_s
    return sorted({points[0].rows, *(point.rows for point in points if point.rows_per_s >= enough)})


def front(points: Collection[Measurement]) -> list[Measurement]:
    """Of all sizes of all arms, those that no other beats in both rows a second and the time of one call; shortest call first."""
    found: list[Measurement] = []
    for point in sorted(points, key=lambda point: (point.p50_s, -point.rows_per_s)):
        if not found or point.rows_per_s > found[-1].rows_per_s:
            found.append(point)
    return found


def _is_beaten(arm: Arm, standing: Standing) -> bool:
    mine = (best(standing[arm]).rows_per_s, -standing[arm][0].p50_s)
    theirs = [(best(points).rows_per_s, -points[0].p50_s) for other, points in standing.items() if other != arm]
    return any(one != mine and one[0] >= mine[0] and one[1] >= mine[1] for one in theirs)


def _powers(most: int) -> list[int]:
    return [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
