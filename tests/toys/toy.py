"""A stack for tests, in one file: the NumPy oracle, well-behaved or faulty in one way per variant."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.oracle import OracleSession
from backends.protocol import ProofError, Stack, UnsupportedError

if TYPE_CHECKING:
    from backends.protocol import F32, Proof

STACK = Stack(
    name="toy",
    summary="a stack for tests",
    environment=None,
    packages=("numpy",),
    variants={
        "good": "Compute what the oracle computes",
        "wrong": "Add 0.01 to every logit",
        "nan": "Return no numbers",
        "dies": "Exit in the middle of a prediction",
        "chatty": "Print rubbish",
        "rubbish": "Write rubbish into the channel to the orchestrator",
        "hangs": "Never answer",
        "bf16": "Read back another precision than was asked for",
        "unproven": "Can't prove that it ran",
        "unsupported": "Refuse",
    },
    baseline="oracle",
)


class ToySession(OracleSession):
    """The oracle with a fault."""

    def __init__(self, variant: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.variant, self.calls = variant, 0

    def step(self, batch: F32) -> F32:
        self.calls += 1
        match self.variant:
            case "wrong":
                return super().step(batch) + np.float32(0.01)
            case "nan":
                return super().step(batch) * np.float32("nan")
            case "dies":
                sys.stderr.write("the toy is broken\n")
                sys.stderr.flush()
                os._exit(7)
            case "chatty":
                sys.stdout.write('{"rubbish": 1}\n\x00\xff')
            case "rubbish":
                os.write(int(sys.argv[2]), b"rubbish\n")
            case "hangs":
                time.sleep(1000)
        return super().step(batch)

    def prove(self, batch: F32) -> Proof:
        proof = super().prove(batch)
        if self.variant == "unproven":
            raise ProofError("nothing special ran")
        return replace(proof, precision="bf16") if self.variant == "bf16" else proof


class ToyBackend:
    """Opens toy sessions."""

    def inference(self, network: Any, weights: Any, variant: str, precision: str, batch_size: int) -> ToySession:
        if variant == "unsupported":
            raise UnsupportedError("the toy can't do that")
        return ToySession(variant, network, weights)


def open_backend(threads: int) -> ToyBackend:
    return ToyBackend()
