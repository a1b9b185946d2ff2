"""Schedules fire: once each, with several control planes, whatever their jobs meet. On both databases."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from orchestrator.control.schedule_times import next_fire
from orchestrator.control.schedules import cadence_of
from orchestrator.loops.schedules import ScheduleLoop
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Fire, Job, Schedule, TenantQueue
from tenants.errors import InvalidPipelineInput, InvalidSchedule, NotFound, ScheduleEnded, UnknownPipeline
from tenants.store.accounts import accounts, queues
from tenants.store.jobs import schedules as store
from tests.orchestrator.conftest import make_service

schedules, fires, jobs = Schedule.__table__, Fire.__table__, Job.__table__
HOURLY = {"name": "hourly", "pipeline": "quick", "every": 3600.0}


class Bench:
    """Schedules over one database; `due` lets time pass for one of them."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.loop = ScheduleLoop(runtime)

    def make(self, account: str = "acme", **fields: Any) -> Any:
        return self.runtime.schedules.create(account, {**HOURLY, **fields})

    def due(self, *ids: str, seconds_ago: float = 1.0) -> None:
        """Their next fire was so long ago, and was their first."""
        moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        statement = update(schedules).where(schedules.c.id.in_(ids)).values(next_fire_at=moment, starts_at=moment)
        self.runtime.database.write(lambda c: c.execute(statement))

    def fire(self) -> None:
        """All that is due."""
        for _ in range(100):
            if not self.loop.run_once():
                return
        raise AssertionError("the loop finds ever more")

    def get(self, schedule_id: str) -> Any:
        return self.runtime.schedules.fetch(schedule_id, None)

    def jobs(self, *columns: Any) -> list[Any]:
        chosen = select(*(columns or (jobs,))).order_by(jobs.c.seq)
        return list(self.runtime.database.read(lambda c: c.execute(chosen).mappings().all()))

    def fires(self) -> list[Any]:
        return list(
            self.runtime.database.read(lambda c: c.execute(select(fires).order_by(fires.c.seq)).mappings().all())
        )

    def outcomes(self) -> list[str]:
        return [each["outcome"] for each in self.fires()]


@pytest.fixture
def bench(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Bench]:
    service = make_service(migrated_url, redis_url, tmp_path)
    yield Bench(service.runtime)
    service.runtime.close()


def test_a_due_schedule_makes_a_job_and_goes_on(bench: Bench) -> None:
    made = bench.make(input={"do": "return"})
    assert made["next_fire_at"] == made["starts_at"] + timedelta(hours=1)
    bench.fire()
    assert bench.jobs() == []

    bench.due(made["id"])
    due = bench.get(made["id"])["next_fire_at"]
    bench.fire()

    (job,) = bench.jobs()
    assert (job["account"], job["pipeline"], job["input"]) == ("acme", "quick", {"do": "return"})
    assert job["tags"] == [f"schedule:{made['id']}"]
    after = bench.get(made["id"])
    assert (after["last_fire_at"], after["next_fire_at"]) == (due, due + timedelta(hours=1))
    (fire,) = bench.fires()
    assert (fire["outcome"], fire["job_id"], fire["fire_at"]) == ("fired", job["id"], due)
    assert bench.runtime.database.read(lambda c: accounts.fetch(c, "acme"))["status"] == "active"


def test_the_loop_rests_until_the_next_fire_and_no_longer(bench: Bench) -> None:
    assert not bench.loop.run_once()
    assert bench.loop.interval_seconds == 1.0
    bench.loop.longest_interval_seconds = 3600.0
    bench.due(bench.make()["id"], seconds_ago=-900)
    assert not bench.loop.run_once()
    assert 0 < bench.loop.interval_seconds <= 900


def test_each_fire_happens_once_with_four_control_planes(
    bench: Bench, redis_url: str, migrated_url: str, tmp_path: Path
) -> None:
    made = [bench.make(f"account {n % 7}", name=str(n)) for n in range(60)]
    bench.due(*(each["id"] for each in made))
    others = [make_service(migrated_url, redis_url, tmp_path).runtime for _ in range(3)]
    loops = [ScheduleLoop(runtime) for runtime in (bench.runtime, *others)]
    together, failures = threading.Barrier(len(loops)), list[BaseException]()

    def run(loop: ScheduleLoop) -> None:
        loop.batch = 7
        try:
            together.wait(timeout=60)
            while loop.run_once():
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=150)
    bench.fire()
    for runtime in others:
        runtime.close()

    assert not failures
    assert Counter(each["tags"][0] for each in bench.jobs()) == {f"schedule:{each['id']}": 1 for each in made}
    assert bench.outcomes() == ["fired"] * 60
    assert all(bench.get(each["id"])["next_fire_at"] > datetime.now(UTC) for each in made)


def test_a_time_that_is_recorded_does_not_fire_again(bench: Bench) -> None:
    """As after a restored backup, or where a clock was put back: the unique constraint is the last word."""
    made = bench.make()
    bench.due(made["id"])
    row = bench.get(made["id"])
    bench.runtime.database.write(lambda c: store.record_fire(c, row, row["next_fire_at"], "fired"))
    bench.fire()
    assert bench.jobs() == []
    assert bench.get(made["id"])["next_fire_at"] > datetime.now(UTC), "and the cadence goes on"


def test_a_paused_lane_does_not_stop_the_cadence(bench: Bench) -> None:
    made = bench.make()
    bench.runtime.database.write(lambda c: queues.set_paused(c, "quick", "acme", True))
    for _ in range(3):
        bench.due(made["id"])
        bench.fire()
    assert [each["status"] for each in bench.jobs()] == ["queued"] * 3
    assert bench.runtime.database.read(lambda c: c.execute(select(TenantQueue.__table__.c.paused)).scalar_one())


def test_many_schedules_of_one_instant_all_fire(bench: Bench) -> None:
    made = [bench.make(name=f"{n}") for n in range(120)]
    bench.due(*(each["id"] for each in made))
    bench.fire()
    assert len({each["tags"][0] for each in bench.jobs()}) == 120


@pytest.mark.parametrize(("catch_up", "count"), [("none", 0), ("one", 1), ("all", 6)])
def test_what_was_missed_comes_as_catch_up_says(bench: Bench, catch_up: str, count: int) -> None:
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5, minutes=30)
    made = bench.make(catch_up=catch_up, starts_at=begin)
    missed = update(schedules).values(next_fire_at=begin)
    bench.runtime.database.write(lambda c: c.execute(missed))
    bench.fire()
    assert len(bench.jobs()) == count
    assert bench.get(made["id"])["next_fire_at"] == begin + timedelta(hours=6)
    if catch_up == "all":
        assert [each["fire_at"] for each in bench.fires()] == [begin + timedelta(hours=n) for n in range(6)]
    else:
        assert bench.outcomes() == (["fired"] if count else ["missed"])


@pytest.mark.parametrize("catch_up", ["none", "one"])
def test_a_fire_that_is_a_little_late_is_on_time(bench: Bench, catch_up: str) -> None:
    made = bench.make(catch_up=catch_up)
    bench.due(made["id"], seconds_ago=30)
    bench.fire()
    assert bench.outcomes() == ["fired"]


def test_overlap_skip_waits_for_the_job_before(bench: Bench) -> None:
    made = bench.make(overlap="skip", inputs=[{"do": "return"}, {"do": "fail"}, {"do": "hang"}])
    for _ in range(3):
        bench.due(made["id"])
        bench.fire()
    assert bench.outcomes() == ["fired", "skipped", "skipped"]
    assert bench.get(made["id"])["inputs_taken"] == 1, "a skipped fire takes no input"

    bench.runtime.jobs.cancel(bench.jobs()[0]["id"])
    bench.due(made["id"])
    bench.fire()
    assert bench.outcomes()[-1] == "fired"
    assert bench.jobs()[-1]["input"] == {"do": "fail"}


def test_overlap_replace_cancels_the_job_before(bench: Bench) -> None:
    made = bench.make(overlap="replace")
    for _ in range(3):
        bench.due(made["id"])
        bench.fire()
    assert [each["status"] for each in bench.jobs()] == ["cancelled", "cancelled", "queued"]


def test_a_replacement_that_is_refused_leaves_the_job_before(bench: Bench) -> None:
    made = bench.make(overlap="replace")
    bench.due(made["id"])
    bench.fire()
    bench.runtime.database.write(lambda c: accounts.set_status(c, "acme", "draining"))
    bench.due(made["id"])
    bench.fire()
    assert [each["status"] for each in bench.jobs()] == ["queued"]
    assert bench.outcomes() == ["fired", "refused"]


def test_a_refused_fire_is_recorded_and_the_cadence_goes_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    from tenants.account import AccountLimits

    made = bench.make(inputs=[{"do": "return"}, {"do": "fail"}])
    bench.runtime.database.write(lambda c: accounts.put_limits(c, "acme", AccountLimits(max_waiting=0)))
    bench.due(made["id"])
    bench.fire()
    bench.runtime.database.write(lambda c: accounts.put_limits(c, "acme", AccountLimits(daily_quota=1)))
    for _ in range(2):
        bench.due(made["id"])
        bench.fire()

    assert bench.outcomes() == ["refused", "fired", "refused"]
    assert [each["error"]["code"] for each in bench.fires() if each["error"]] == ["queue_full", "quota_exhausted"]
    assert "queue_full" in caplog.text or "waiting" in caplog.text
    after = bench.get(made["id"])
    assert (after["inputs_taken"], after["next_fire_at"] > datetime.now(UTC)) == (1, True)
    assert len(bench.jobs()) == 1


def test_an_input_that_no_longer_fits_does_not_stand_in_the_way(bench: Bench) -> None:
    made = bench.make(inputs=[{"do": "return"}, {"do": "fail"}])
    odd = update(schedules).values(inputs=[{"do": "dance"}, {"do": "fail"}])
    bench.runtime.database.write(lambda c: c.execute(odd))
    for _ in range(2):
        bench.due(made["id"])
        bench.fire()
    assert bench.outcomes() == ["refused", "fired"]
    assert bench.jobs()[0]["input"] == {"do": "fail"}
    assert bench.get(made["id"])["next_fire_at"] is None


def test_one_schedule_that_cannot_go_on_stops_no_other(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    broken, well = bench.make(), bench.make(name="well")
    odd = update(schedules).where(schedules.c.id == broken["id"]).values(every=None, cron="x")
    bench.runtime.database.write(lambda c: c.execute(odd))
    bench.due(broken["id"], well["id"])
    bench.fire()
    assert [each["tags"] for each in bench.jobs()] == [[f"schedule:{well['id']}"]]
    after = bench.get(broken["id"])
    assert (after["enabled"], after["next_fire_at"]) == (False, None)
    assert "failed, and is disabled" in caplog.text


def test_a_schedule_ends_with_its_inputs(bench: Bench) -> None:
    made = bench.make(inputs=[{"do": "return"}, {"do": "fail"}])
    for _ in range(2):
        bench.due(made["id"])
        bench.fire()
    assert [each["input"] for each in bench.jobs()] == [{"do": "return"}, {"do": "fail"}]
    assert bench.get(made["id"])["next_fire_at"] is None
    with pytest.raises(ScheduleEnded):
        bench.runtime.schedules.run(made["id"], None)
    more = bench.runtime.schedules.change(made["id"], None, {"inputs": [{"do": "hang"}]})
    assert more["next_fire_at"] > datetime.now(UTC)
    assert more["inputs_taken"] == 0


def test_run_now_leaves_the_cadence_alone(bench: Bench) -> None:
    made = bench.make(enabled=False, inputs=[{"do": "return"}, {"do": "fail"}])
    assert made["next_fire_at"] is None
    job = bench.runtime.schedules.run(made["id"], "acme")
    assert job["input"] == {"do": "return"}
    after = bench.get(made["id"])
    assert (after["next_fire_at"], after["inputs_taken"]) == (None, 1)
    with pytest.raises(NotFound):
        bench.runtime.schedules.run(made["id"], "other")


def test_a_change_moves_the_next_fire_only_if_it_changes_the_times(bench: Bench) -> None:
    change = bench.runtime.schedules.change
    made = bench.make()
    bench.due(made["id"])
    due = bench.get(made["id"])["next_fire_at"]
    same = change(made["id"], "acme", {"name": "renamed", "overlap": "skip", "input": {"do": "fail"}})
    assert (same["next_fire_at"], same["name"]) == (due, "renamed"), "a fire that is just due is not lost"

    cron = change(made["id"], "acme", {"cron": "0 9 * * *", "timezone": "Asia/Seoul"})
    assert (cron["every"], cron["cron"]) == (None, "0 9 * * *")
    assert cron["next_fire_at"] == next_fire(cadence_of(cron), datetime.now(UTC))
    off = change(made["id"], "acme", {"enabled": False})
    assert off["next_fire_at"] is None
    assert change(made["id"], "acme", {"enabled": True})["next_fire_at"] == cron["next_fire_at"]
    with pytest.raises(InvalidSchedule):
        change(made["id"], "acme", {"cron": None})
    with pytest.raises(NotFound):
        change(made["id"], "other", {"enabled": False})


def test_a_schedule_whose_pipeline_is_gone_can_be_turned_off(bench: Bench) -> None:
    made = bench.make()
    bench.runtime.database.write(lambda c: c.execute(update(schedules).values(pipeline="gone")))
    bench.due(made["id"])
    bench.fire()
    assert bench.outcomes() == ["refused"]
    assert not bench.runtime.schedules.change(made["id"], None, {"enabled": False})["enabled"]
    with pytest.raises(UnknownPipeline):
        bench.runtime.schedules.change(made["id"], None, {"enabled": True})


def test_faults_are_reported_together_and_nothing_is_made(bench: Bench) -> None:
    with pytest.raises(InvalidSchedule) as caught:
        bench.make(cron="x", timezone="nowhere", inputs=[{"do": "dance"}])
    places = [each.loc for each in caught.value.faults]
    assert places == [("every",), ("timezone",), ("cron",), ("inputs", 0, "do")]
    for refusal, fields in (
        (UnknownPipeline, {"pipeline": "none"}),
        (InvalidPipelineInput, {"input": {"do": "dance"}}),
        (InvalidSchedule, {"input": {"do": "return"}, "inputs": [{}]}),
        (InvalidSchedule, {"inputs": []}),
        (InvalidSchedule, {"every": None, "at": [datetime(2020, 1, 1, tzinfo=UTC)]}),
    ):
        with pytest.raises(refusal):
            bench.make(**fields)
    assert bench.runtime.schedules.page(account=None, limit=10, cursor=None).rows == []


def test_removal_keeps_the_jobs(bench: Bench) -> None:
    made = bench.make()
    bench.due(made["id"])
    bench.fire()
    with pytest.raises(NotFound):
        bench.runtime.schedules.remove(made["id"], "other")
    bench.runtime.schedules.remove(made["id"], "acme")
    assert bench.fires() == []
    assert len(bench.jobs()) == 1


def test_old_fires_go_but_not_those_whose_job_goes_on(bench: Bench) -> None:
    made = bench.make()
    for _ in range(2):
        bench.due(made["id"])
        bench.fire()
    bench.runtime.jobs.cancel(bench.jobs()[0]["id"])
    bench.runtime.database.write(lambda c: c.execute(update(fires).values(created_at=db_now(-(10**6)))))
    assert bench.runtime.database.write(lambda c: store.remove_old_fires(c, 3600.0, limit=10)) == 1
    assert [each["job_id"] for each in bench.fires()] == [bench.jobs()[1]["id"]]


def test_the_due_ones_are_found_by_index(bench: Bench) -> None:
    """A hundred thousand schedules cost no more than the due ones: the plan says so, on both databases."""
    made = bench.make()
    row = {name: value for name, value in made.items() if name not in ("seq", "id")}
    later = {**row, "next_fire_at": datetime.now(UTC) + timedelta(days=1)}
    many = [{**later, "id": f"copy {n}"} for n in range(5000)]
    bench.runtime.database.write(lambda c: c.execute(insert(schedules), many))
    with bench.runtime.database.engine.connect() as connection:
        prefix = "EXPLAIN " if bench.runtime.database.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
        if prefix == "EXPLAIN ":
            connection.exec_driver_sql("ANALYZE schedules")
        statement = (
            select(schedules.c.id)
            .where(schedules.c.next_fire_at.is_not(None), schedules.c.next_fire_at <= datetime.now(UTC))
            .order_by(schedules.c.next_fire_at)
            .limit(50)
        )
        compiled = statement.compile(bench.runtime.database.engine, compile_kwargs={"literal_binds": True})
        plan = str(connection.exec_driver_sql(prefix + str(compiled).replace("%", "%%")).all())
    assert "ix_schedules_next_fire_at" in plan, plan
