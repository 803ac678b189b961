"""A trace of some steps of a run, by `jax.profiler`."""

import contextlib
from typing import Any

import jax
from etils import epath

from kdjax.config.profiling import read_profile
from kdjax.core.logging import say

PROFILE = "profile"  # the directory of a run's traces


class Profiler:
    """Traces the steps that a config names, in a run's first process.

    Beginning and end of the trace wait for the device, so that it holds these steps and
    no others.
    """

    def __init__(self, name: str, directory: epath.Path, profile: str) -> None:
        """Traces nothing yet.

        Args:
            name: The run's name in messages.
            directory: The run's.
            profile: The config's `profile`.
        """
        steps = read_profile(profile) if jax.process_index() == 0 else range(0)
        self._name, self._directory, self._steps = name, directory / PROFILE, steps
        self._open = contextlib.ExitStack()
        self._is_tracing = False
        self._first = self._last = 0  # steps of the trace; 0: there is none yet

    def begin(self, step: int, state: Any) -> None:
        """Comes before each step; a run that resumes may begin within the range."""
        if step in self._steps and not self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._is_tracing, self._first = True, step
        if self._is_tracing:
            self._last = step
            mark = jax.profiler.StepTraceAnnotation("step", step_num=step)
            self._open.enter_context(mark)

    def end(self, step: int, state: Any) -> None:
        """Comes after each step has been dispatched."""
        self._open.close()
        if self._is_tracing and step == self._steps[-1]:
            jax.block_until_ready(state)
            self._stop()

    def close(self) -> None:
        """Ends a trace whose last step did not come."""
        self._open.close()
        if self._is_tracing:
            self._stop()

    def _stop(self) -> None:
        self._is_tracing = False
        jax.profiler.stop_trace()
        say(
            f"{self._name}: steps {self._first} to {self._last} are traced in "
            f"{self._directory}; open them with: pip install xprof; xprof "
            f"--logdir={self._directory} (or its trace.json.gz at ui.perfetto.dev)"
        )
