"""`prepare` on Apache Beam: an element is one of n parts, made by whichever worker takes it.

So the bytes are those of n runs with `--shard i/n`. Beam brings what such runs lack: machines (Dataflow,
Flink, Spark), and another try for a part whose worker was lost. Source and OUT must be where all workers see
them under the same name: gs://, or a shared disk; workers need this package.
"""

import os
import shlex

from muq_jax.data.contents import is_whole
from muq_jax.data.convert import Settings, check_settings
from muq_jax.data.paths import as_path
from muq_jax.data.prepare import Report, list_clips, prepare
from muq_jax.data.slices import Slice, missing_slices
from muq_jax.errors import UserError


def prepare_on_beam(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    num_parts: int,
    beam_options: str = "",
    settings: Settings | None = None,
    max_rejects: float = 0.5,
) -> Report:
    """Prepares `source` in parts on Beam's workers and joins them; run again, it makes only what is missing.

    Args:
        source, out, settings, max_rejects: as of `prepare`.
        num_parts: how many; two or three a worker leave none idle for long.
        beam_options: Beam's own, such as "--runner=FlinkRunner --parallelism=8"; "" runs in this process.

    Raises:
        UserError: apache_beam is not installed, or what `prepare` raises; of one part, Beam's RuntimeError
            with that in it.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise UserError(
            'Apache Beam is not installed; `pip install "muq-jax[beam]"`, or run the parts by --shard'
        ) from error
    settings = settings or Settings()
    source, out = os.fspath(source), os.fspath(out)
    check_settings(settings)
    list_clips(as_path(source))  # what is wrong with it, a worker would tell in a thousand lines
    missing = [] if is_whole(as_path(out)) else missing_slices(as_path(out), num_parts)
    if missing:
        with beam.Pipeline(options=PipelineOptions(shlex.split(beam_options))) as pipeline:
            parts = pipeline | beam.Create(missing) | beam.Reshuffle()  # else one worker takes them all
            _ = parts | beam.Map(_make_part, source, out, settings)
    # Which finds nothing left to make, and joins.
    return prepare(source, out, settings=settings, max_rejects=max_rejects, part=Slice(0, num_parts))


def _make_part(part: Slice, source: str, out: str, settings: Settings) -> int:
    """Makes one part, on whatever machine this is, and returns its number of clips."""
    return prepare(source, out, settings=settings, part=part, join=False).num_clips
