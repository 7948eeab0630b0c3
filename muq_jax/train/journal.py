"""What a run writes down while it trains: rows of metrics, skipped steps, health and one progress line."""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.errors import UserError
from muq_jax.objectives.metric import Mean
from muq_jax.train import health, hosts
from muq_jax.train.metrics import MetricsWriter, Row, Window, append_row, keep_rows_until
from muq_jax.train.optim import OptimConfig, learning_rate
from muq_jax.train.step import StepOutput

NONFINITE_FILE = "nonfinite.jsonl"

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Counters:
    """What is counted over the whole run; saved with every checkpoint.

    Attributes:
        audio_seconds: audio seen, over all hosts.
        skipped: steps that were not finite.
        skipped_in_a_row: those since the last finite step.
        train_seconds: time spent training, without evaluating, saving and compiling.
    """

    audio_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    train_seconds: float = 0.0


class Journal:
    """Keeps the record of one run. Every host records the same; the first one writes."""

    def __init__(
        self,
        workdir: Path,
        optim: OptimConfig,
        *,
        step: int,
        num_steps: int,
        log_every: int,
        max_nonfinite: int,
        flops_per_step: float,
        levels: Mapping[str, float],
        counters: Counters,
    ) -> None:
        """Opens the files of a run that goes on after `step`; what was written of later steps is dropped."""
        self.counters = counters
        self._optim = optim
        self._num_steps = num_steps
        self._log_every = log_every
        self._max_nonfinite = max_nonfinite
        self._flops_per_step = flops_per_step
        self._levels = dict(levels)
        self._writer = MetricsWriter(workdir, step=step)
        # A host knows only the clips that it read itself.
        host = jax.process_index()
        self._nonfinite_path = workdir / (f"nonfinite-{host}.jsonl" if host else NONFINITE_FILE)
        keep_rows_until(self._nonfinite_path, step)
        self._bar = tqdm(
            total=num_steps,
            initial=step,
            unit="step",
            disable=bool(host) or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._window = Window()
        self._step = self._window_start = step
        self._window_skipped = 0
        self._window_audio_seconds = 0.0
        self._waited_seconds = 0.0
        self._clock = time.perf_counter()

    def restart_clock(self) -> None:
        """Forgets the time since the last row: the first step compiles, which says nothing about speed."""
        self._clock, self._waited_seconds = time.perf_counter(), 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time in it as time spent waiting."""
        began = time.perf_counter()
        yield
        self._waited_seconds += time.perf_counter() - began

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Keeps the time in it out of the rates."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def record(self, step: int, output: StepOutput, ids: Sequence[str]) -> None:
        """Takes in a finished step; writes a row when it ends a window.

        Raises:
            UserError: it is the last of too many steps in a row that were not finite.
        """
        finite, loss, grad_norm, num_samples, metrics = jax.device_get(output)
        self._step = step
        self._window.add(metrics)
        self._window_audio_seconds += float(num_samples) / SAMPLE_RATE_HZ
        self._bar.update()
        if finite:
            self.counters.skipped_in_a_row = 0
        else:
            self._window_skipped += 1
            self.counters.skipped += 1
            self.counters.skipped_in_a_row += 1
            row = {
                "step": step,
                "loss": str(loss),
                "grad_norm": str(grad_norm),
                "ids": [str(id) for id in ids],
            }
            append_row(self._nonfinite_path, row)
        if step % self._log_every == 0:
            self.end_window()
        if self.counters.skipped_in_a_row >= self._max_nonfinite:
            self.end_window()
            raise UserError(
                f"stopped: the last {self.counters.skipped_in_a_row} steps up to step {step} had a loss or "
                f"gradient that is not finite; {self._nonfinite_path} lists their clips. Take the clips out, "
                "lower optim.peak_lr or use model.dtype=float32, with a new --workdir: this one would meet "
                "the same steps again. To go on here, let it skip more: raise train.max_nonfinite."
            )

    def end_window(self) -> None:
        """Writes the row of the steps since the last one, if there are any, and what it says about health."""
        num_steps = self._step - self._window_start
        if not num_steps:
            return
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        self.counters.audio_seconds += self._window_audio_seconds
        self.counters.train_seconds += seconds
        row = {
            "split": "train",
            "step": self._step,
            "steps": num_steps,
            **self._window.pop(),
            **self._levels,
            "skipped": self._window_skipped,
            "learning_rate": float(learning_rate(self._optim, self._step - 1 - self.counters.skipped, np)),
            "audio_hours": self.counters.audio_seconds / 3600,
            "audio_seconds_per_second": self._window_audio_seconds / seconds,
            "steps_per_second": num_steps / seconds,
            "model_flops_per_second": num_steps * self._flops_per_step / seconds,
            "data_wait": min(self._waited_seconds / seconds, 1.0),
            "train_seconds": self.counters.train_seconds,
            **hosts.measure(seconds, self._waited_seconds, num_steps),
        }
        self._window_start, self._window_skipped, self._window_audio_seconds = self._step, 0, 0.0
        self.restart_clock()
        self._write(row)

    def record_valid(self, step: int, metrics: Mapping[str, Mean]) -> None:
        """Writes the row of an evaluation."""
        window = Window()
        window.add(metrics)
        self._write({"split": "valid", "step": step, **window.pop(), **self._levels})

    def close(self) -> None:
        self._bar.close()
        self._writer.close()

    def _write(self, row: Row) -> None:
        self._writer.write(row)
        if jax.process_index() == 0:
            self._show(row)
            for finding in health.findings(self._writer.rows):
                self._writer.write(finding)
                self._say(f"health: {finding['message']}", logging.WARNING)

    def _show(self, row: Row) -> None:
        if row["split"] == "train":
            self._bar.set_postfix(loss=_short(row["loss"]), refresh=False)
            left = (self._num_steps - row["step"]) / row["steps_per_second"]
            text = f"{row['steps_per_second']:.3g} steps/s, {_clock_time(left)} left"
        else:
            text = "validation"
        if self._bar.disable or row["split"] == "valid":
            self._say(
                f"step {row['step']}/{self._num_steps}  loss {_short(row['loss'])}  {text}", logging.INFO
            )

    def _say(self, text: str, level: int) -> None:
        """Logs a line without breaking the progress line, where there is one."""
        if self._bar.disable:
            _log.log(level, text)
        else:
            self._bar.write(text, file=sys.stderr)


def _short(loss: Any) -> str:
    return "not finite" if loss is None or not np.isfinite(loss) else f"{loss:.4f}"


def _clock_time(seconds: float) -> str:
    return tqdm.format_interval(int(seconds))
