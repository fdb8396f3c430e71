"""What runs inside of Ray on a node: it starts programs there, and hands on what they write.

Ray sends it by value. The program on the node, and its run, have an environment of their own.
"""

from __future__ import annotations

import os
import select
import subprocess
import time

FAILED_MARK, OUTPUT_BYTES = b"!", 1 << 16
ALIVE = b"Hmeasuring\n"


class Hand:
    """One program at a time whose output is read in parts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def run(self, command: list[str], given: bytes, limit_s: float) -> bytes:
        """Return the output of a program; a mark and the last line of its errors if it fails."""
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=limit_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return FAILED_MARK + str(error).encode()
        if done.returncode:
            return FAILED_MARK + (done.stderr.strip().splitlines()[-1:] or [b"exit status %d" % done.returncode])[0]
        return done.stdout

    def open(self, command: list[str], given: bytes) -> bytes:
        """Start a program, after the end of the one before."""
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._rest, self._process = b"", None
        if command:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if self._process.stdin:
                self._process.stdin.write(given)
                self._process.stdin.close()
                self._process.stdin = None
        return b"ready"

    def read(self, wait_s: float, most_bytes: int, gather_s: float) -> bytes:
        """Return complete lines, after a while without any a sign of life, and nothing at the end.

        Lines are gathered for some seconds: each call costs the node more than its lines do.
        """
        if self._process is None or self._process.stdout is None:
            return b""
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0 and len(self._rest) < most_bytes:
            if not select.select([descriptor], [], [], left)[0]:
                break
            if not (chunk := os.read(descriptor, OUTPUT_BYTES)):
                lines, self._rest = self._rest, b""
                return lines
            if b"\n" not in self._rest and b"\n" in chunk:
                deadline = time.monotonic() + gather_s
            self._rest += chunk
        lines, newline, self._rest = self._rest.rpartition(b"\n")
        return lines + newline or ALIVE
