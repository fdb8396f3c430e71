"""Run one interleaved measurement over all stack environments that are selected together.

Every selected environment is built. Then the last one measures the stacks of all of them. If tests or a benchmark are
selected too, every stack environment runs the contract tests instead.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from tox.config.loader.memory import MemoryLoader
from tox.config.types import Command, EnvList
from tox.plugin import impl

if TYPE_CHECKING:
    from tox.config.sets import EnvConfigSet
    from tox.session.state import State

NO_STACKS = re.compile("tests|end-to-end|fleet|benchmark.*")
# Threads that wait for others sleep at once: tests share their cores with other tests, and spinning would take most of
# them. No measurement has these.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
CONTRACT = "python -m pytest -n 2 --dist loadgroup tests/contract tests/benchmarks"


def selected_environments(state: State) -> list[str]:
    """Return the environments that this call of tox selects, in order of execution."""
    options, core = state.conf.options, state.conf.core
    labels, chosen = getattr(options, "labels", []), getattr(options, "env", None)
    if labels:
        names = chain.from_iterable(core["labels"].get(label, ()) for label in labels)
    elif chosen is None or chosen.is_default_list:
        names = core["env_list"]
    else:
        names = state.conf if chosen.is_all else chosen
    skip = getattr(options, "skip_env", "")
    return [name for name in dict.fromkeys(names) if not (skip and re.match(skip, name))]


@impl
def tox_add_env_config(env_conf: EnvConfigSet, state: State) -> None:
    """Give each selected stack environment its commands, and tests the variables that let threads sleep."""
    if env_conf.name in {"tests", "end-to-end"}:
        env_conf["set_env"].update(WAITING, override=True)
    selected = selected_environments(state)
    stacks = [name for name in selected if not NO_STACKS.fullmatch(name)]
    if env_conf.name not in stacks:
        return
    if len(stacks) < len(selected):
        env_conf.loaders.insert(0, MemoryLoader(commands=[CONTRACT]))
        env_conf["set_env"].update(WAITING, override=True)
    elif env_conf.name == stacks[-1]:
        measure = f"python -m bench run --environments {','.join(stacks)}"
        posargs = state.conf.pos_args(None) or ()
        env_conf.loaders.insert(
            0, MemoryLoader(commands=[Command([*measure.split(), *posargs])], depends=EnvList(stacks[:-1]))
        )
