"""Join the processes of a group with TensorFlow's own means, and what a step needs of them."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.protocol import RankGroup


@cache
def join(group: RankGroup) -> Any:
    """Join the group, once per process, and return its strategy as soon as all ranks have joined."""
    import tensorflow as tf

    task = {"type": "worker", "index": group.rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": group.addresses}, "task": task})
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_one_of_ranks() -> bool:
    """Return whether the code runs in the scope of a group, or in one of its steps."""
    import tensorflow as tf

    return bool(tf.distribute.has_strategy())


def mean_over_ranks(gradients: list[Any]) -> list[Any]:
    import tensorflow as tf

    mean: list[Any] = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
    return mean


def update_all(update: Callable[[Any, Any, Any], None], rows: list[tuple[Any, ...]]) -> None:
    """Call `update` with a variable, its gradient and what belongs to it, for each row.

    In a group a step may change variables only through its strategy.
    """
    import tensorflow as tf

    if not is_one_of_ranks():
        for row in rows:
            update(*row)
        return

    def in_strategy(strategy: Any, rows: list[tuple[Any, ...]]) -> None:
        for variable, *others in rows:
            strategy.extended.update(variable, update, args=tuple(others), group=False)

    tf.distribute.get_replica_context().merge_call(in_strategy, args=(rows,))
