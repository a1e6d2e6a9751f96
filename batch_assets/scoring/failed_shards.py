"""Run the chunks of a night, and find which shards can't be scored, if some may fail.

An engine ends at the first error, and does not say of which chunk. The shards that are left
are halved then until those at fault are alone. It commits nothing.
"""

import logging
from collections.abc import Sequence
from contextlib import closing

from batch_assets.incremental.reuse import ReuseError
from batch_assets.lake.day_run import DayRun
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.done_chunks import DoneChunks, StoppedError
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.plan import Plan

log = logging.getLogger(__name__)


def run_shards(
    run: DayRun,
    plan: Plan,
    engine: Engine,
    left: Sequence[ChunkTask],
    done: DoneChunks,
) -> None:
    """Score the chunks that are left; leave out the shards of which one fails.

    Args:
        run: of the day.
        plan: of the night, which says how many shards may fail.
        engine: that has loaded the release.
        left: the chunks.
        done: where each is counted, and each shard that fails.

    Raises:
        Exception: what a chunk raised, once more shards fail than may, or all do.
    """
    spans = [sorted({task.shard for task in left})]
    first: Exception | None = None
    while spans:
        shards = spans.pop()
        tasks = [t for t in left if t.shard in shards and not done.has(t)]
        if not tasks:
            continue
        if first:
            # What was abandoned with the error may have left it unfit.
            engine.load(plan.release)
        try:
            _run(run, engine, tasks, done)
        except (ReuseError, StoppedError):
            raise
        except Exception as error:
            if not plan.most_failed:
                raise
            first = first or error
            if len(shards) > 1:
                middle = len(shards) // 2
                spans += [shards[middle:], shards[:middle]]
                continue
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("%s: shard %d can't be scored: %s", plan.day, shards[0], why)
            done.fail(shards[0], why)
            if len(done.failed) > plan.most_failed:
                first.add_note(
                    f"{len(done.failed)} shards of {plan.day} can't be scored, and "
                    f"{plan.most_failed} may be kept as they were (gates.max_kept_share)"
                )
                raise first from None


def _run(
    run: DayRun, engine: Engine, tasks: Sequence[ChunkTask], done: DoneChunks
) -> None:
    with closing(engine.run(tasks)) as scored_chunks:
        for scored in scored_chunks:
            done.add(scored)
            run.progress(scored.part.rows + scored.dead_rows)
            done.must_have_few_dead()
