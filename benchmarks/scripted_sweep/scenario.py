"""Ten models × six datasets, drawn from a seed: checkpoints, and how long each part of the work takes.

Times are virtual seconds, as of GPUs of a data centre; a benchmark plays them faster. The scheduler under test sees the
checkpoints' files alone: neither a time that is drawn here, nor the number of samples, which is not known before the
first run.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .checkpoint import GB, Checkpoint

MODELS = 10
# Benchmarks that EvalScope knows; none is a prefix of another one.
DATASETS = ("gsm8k", "arc", "math_500", "ifeval", "humaneval", "hellaswag")
ONE_DEVICE_S = 45 * 60.0  # all of loading and answering, with one device
JUDGE_AT_ONCE = 200
NOISE = 0.3  # of what is drawn around what bytes and samples tell

_LEAST_BYTES, _MEDIAN_BYTES, _MOST_BYTES, _SPREAD = 0.3 * GB, 9 * GB, 70 * GB, 1.25
_START_S, _LOAD_BYTES_PER_S = 15.0, 1.0e9
_ANSWER_S, _ANSWER_S_PER_BYTE = 0.02, 6e-12  # with many at once; 0.11 s for 7 billion parameters of 16 bits
_SPEED_UP = 0.85  # exponent: four devices are 3.2 times as fast as one
# (devices, from so many bytes on), where the machine has them.
_DEVICES = ((4, 40 * GB), (2, 20 * GB), (1, 0.0))


@dataclass(frozen=True)
class Model:
    """A model, and what its part takes on a machine.

    Attributes:
        name: its name.
        checkpoint: it.
        devices: that it runs on, all at once (tensor parallelism).
        load_s: from its engine's start to readiness.
        answer_s: of each dataset.
        verdict_s: work of the judge for each dataset, added up over the samples, of which JUDGE_AT_ONCE can be judged
            at once.
    """

    name: str
    checkpoint: Checkpoint
    devices: int
    load_s: float
    answer_s: tuple[float, ...]
    verdict_s: tuple[float, ...]

    @property
    def engine_s(self) -> float:
        """Seconds that it holds its devices."""
        return self.load_s + sum(self.answer_s)

    @property
    def judge_s(self) -> float:
        """Seconds of judging, with the judge for itself."""
        return sum(self.verdict_s) / JUDGE_AT_ONCE


@dataclass(frozen=True)
class Scenario:
    """One sweep.

    Attributes:
        seed: what it is drawn from.
        devices: of the machine.
        samples: of each dataset.
        models: all of them, in the order in which a user wrote them.
    """

    seed: int
    devices: int
    samples: tuple[int, ...]
    models: tuple[Model, ...]

    @property
    def sequential_s(self) -> float:
        """Seconds of one model after the other, each judged before the next one is loaded."""
        return sum(model.engine_s + model.judge_s for model in self.models)


def draw(seed: int, devices: int) -> Scenario:
    """The sweep of a seed; on every machine the same but for the devices that a model gets."""
    chance = random.Random(seed)

    def noise() -> float:
        return chance.uniform(1 - NOISE, 1 + NOISE)

    found = []
    for _ in range(MODELS):
        wanted = math.exp(chance.gauss(math.log(_MEDIAN_BYTES), _SPREAD))
        found.append(Checkpoint.of(min(max(wanted, _LEAST_BYTES), _MOST_BYTES)))
    sizes = [checkpoint.stored_bytes for checkpoint in found]
    counts = [math.exp(chance.uniform(math.log(100), math.log(1000))) for _ in DATASETS]
    verdict_s = [chance.uniform(1, 4) for _ in DATASETS]
    loads = [(_START_S + stored / _LOAD_BYTES_PER_S) * noise() for stored in sizes]
    # A model that writes long answers does so on every dataset; the rest is each cell's own.
    paces = []
    for stored in sizes:
        pace = (_ANSWER_S + stored * _ANSWER_S_PER_BYTE) * noise()
        paces.append([pace * chance.uniform(1 - NOISE / 2, 1 + NOISE / 2) for _ in DATASETS])
    judging = [[each * noise() for each in verdict_s] for _ in found]
    one = sum(count * pace for row in paces for count, pace in zip(counts, row, strict=True))
    scale = (ONE_DEVICE_S - sum(loads)) / one
    samples = tuple(max(10, round(count * scale)) for count in counts)
    models = []
    for number, checkpoint in enumerate(found):
        wide = min(devices, next(count for count, least in _DEVICES if checkpoint.stored_bytes >= least))
        models.append(
            Model(
                f"model-{number}", checkpoint, wide, loads[number],
                tuple(n * pace / wide**_SPEED_UP for n, pace in zip(samples, paces[number], strict=True)),
                tuple(n * each for n, each in zip(samples, judging[number], strict=True)),
            )
        )  # fmt: skip
    return Scenario(seed, devices, samples, tuple(models))
