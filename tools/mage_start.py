"""Start Mage as its own command does, with one fault of mage-ai 0.9.80 repaired; run by Mage's interpreter.

Mage hands the blocks of a run to a worker pool, a process that ends when it finds the queue empty. It can
look just before a block arrives: then nobody takes the block, and its run stays `running` until some other
run starts a new pool. The repair looks again in every loop of the scheduler.
"""

from mage_ai.orchestration.queue.process_queue import ProcessQueue  # type: ignore[import-not-found]

_clean_up_jobs = ProcessQueue.clean_up_jobs


def _clean_up_jobs_and_revive_pool(queue: ProcessQueue) -> None:
    """Do what Mage does in every loop of its scheduler, then see that queued blocks have a worker pool."""
    _clean_up_jobs(queue)
    if not queue.queue.empty() and not queue.is_worker_pool_alive():
        queue.start_worker_pool()


ProcessQueue.clean_up_jobs = _clean_up_jobs_and_revive_pool

if __name__ == "__main__":  # the line above must also hold where multiprocessing spawns
    from mage_ai.cli.main import app  # type: ignore[import-not-found]

    app()
