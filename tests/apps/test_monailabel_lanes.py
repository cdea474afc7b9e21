"""Work beside the event loop: order, bound, and clients that hang up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from robustmed_monai.apps.monailabel.lanes import ClientGoneError, Lane


async def _never() -> None:
    await asyncio.Event().wait()


def test_the_loop_is_free_while_a_job_runs_and_jobs_run_one_by_one_in_order() -> None:
    running, most, done = 0, 0, []

    def job(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        done.append(number)
        return number

    async def main() -> tuple[list[int], int]:
        lane, ticks = Lane("work", 9), 0
        jobs = [asyncio.create_task(lane.run(lambda n=n: job(n), _never)) for n in range(5)]  # type: ignore[misc]
        while not all(task.done() for task in jobs):
            ticks += 1
            await asyncio.sleep(0.001)
        return [task.result() for task in jobs], ticks

    results, ticks = asyncio.run(main())
    assert results == done == list(range(5))
    assert (most, ticks > 10) == (1, True)


def test_beyond_the_bound_a_job_is_refused_at_once_and_the_lane_goes_on() -> None:
    async def main() -> tuple[list[object], int]:
        lane, hold = Lane("work", 2), threading.Event()
        waiting = [asyncio.create_task(lane.run(hold.wait, _never)) for _ in range(3)]
        await asyncio.sleep(0.01)
        refused = await asyncio.gather(
            *(lane.run(hold.wait, _never) for _ in range(4)), return_exceptions=True
        )
        hold.set()
        await asyncio.gather(*waiting)
        return list(refused), await lane.run(lambda: 7, _never)

    refused, after = asyncio.run(main())
    assert [getattr(error, "status", None) for error in refused] == [503] * 4
    assert "3 requests for work" in str(refused[0])
    assert after == 7


def test_the_job_of_a_client_that_hangs_up_is_dropped_unless_it_runs() -> None:
    done = []

    async def main() -> None:
        lane, hold, left = Lane("work", 9), threading.Event(), asyncio.Event()

        async def gone() -> None:
            await left.wait()

        def first() -> None:
            hold.wait()
            done.append("first")

        running = asyncio.create_task(lane.run(first, gone))
        await asyncio.sleep(0.01)
        dropped = asyncio.create_task(lane.run(lambda: done.append("dropped"), gone))
        patient = asyncio.create_task(lane.run(lambda: done.append("patient"), _never))
        await asyncio.sleep(0.01)
        left.set()
        with pytest.raises(ClientGoneError):
            await dropped
        hold.set()
        await asyncio.gather(running, patient)

    asyncio.run(main())
    assert done == ["first", "patient"]


def test_an_error_of_a_job_frees_its_place() -> None:
    async def main() -> int:
        lane = Lane("work", 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await lane.run(lambda: 1 // 0, _never)
        return await lane.run(lambda: 1, _never)

    assert asyncio.run(main()) == 1
