"""What the contract says of each route of queues and lanes."""

from __future__ import annotations

from tests.orchestrator.web.contract.world import World, route

QUEUE = "/v1/admin/queues/generate/acme"


@route("GET /v1/admin/queues")
def test_queues_are_listed_by_lane_account_and_idle_time(world: World) -> None:
    world.new_job(), world.new_job("other")
    (queue,) = world.api.get("/v1/admin/queues?lane=generate&account=acme").json()["items"]
    assert (queue["queue"], queue["waiting"], queue["active"], queue["paused"]) == ("generate_acme", 1, 0, False)
    assert world.api.get("/v1/admin/queues?idle_longer_than=3600").json()["items"] == []


@route("GET /v1/admin/queues/{lane}/{account}")
def test_a_queue_is_shown_with_the_number_that_wait(world: World) -> None:
    assert world.api.get(QUEUE).status_code == 404
    world.new_job()
    assert world.api.get(QUEUE).json()["waiting"] == 1


@route("DELETE /v1/admin/queues/{lane}/{account}")
def test_a_queue_is_deleted_by_force_unless_a_step_runs(world: World) -> None:
    job = world.new_job()
    assert world.api.delete(QUEUE).json()["code"] == "queue_not_empty"
    assert world.api.delete(f"{QUEUE}?force=true").json() == {"cancelled": 1, "deleted": True}
    assert world.job(job["id"])["status"] == "cancelled"
    world.bench.start(world.new_job())
    assert world.api.delete(f"{QUEUE}?force=true").json()["code"] == "account_busy"


@route("POST /v1/admin/queues/{lane}/{account}:pause")
def test_a_paused_queue_is_the_reason_why_its_job_waits(world: World) -> None:
    job = world.new_job()
    assert world.api.post(f"{QUEUE}:pause").json()["paused"] is True
    assert "queue_paused" in {each["code"] for each in world.api.get(f"/v1/jobs/{job['id']}/why").json()["items"]}


@route("POST /v1/admin/queues/{lane}/{account}:resume")
def test_a_paused_queue_is_resumed(world: World) -> None:
    world.new_job()
    world.api.post(f"{QUEUE}:pause")
    assert world.api.post(f"{QUEUE}:resume").json()["paused"] is False


@route("POST /v1/admin/reap")
def test_idle_queues_are_reaped_after_a_dry_run(world: World) -> None:
    world.api.post(f"/v1/jobs/{world.new_job()['id']}:cancel")
    would = world.api.post("/v1/admin/reap", {"idle_longer_than": 0, "dry_run": True}).json()
    assert would["queues"] == [{"lane": "generate", "account": "acme", "queue": "generate_acme"}]
    assert world.api.post("/v1/admin/reap", {"idle_longer_than": 0}).json()["reaped"] == 1
    assert world.api.get("/v1/admin/queues").json()["items"] == []


@route("POST /v1/admin/queues:check")
def test_a_check_of_the_queues_reports_no_violations(world: World) -> None:
    world.new_job()
    report = world.api.post("/v1/admin/queues:check").json()
    assert (report["violations"], report["items"]) == (0, [])
    assert "generate" in report["lanes"]


@route("POST /v1/admin/reconcile")
def test_a_reconciliation_reports_what_it_changed(world: World) -> None:
    assert world.api.post("/v1/admin/reconcile").json() == {"requeued": 0, "released": 0, "orphaned": 0}


@route("GET /v1/admin/lanes")
def test_lanes_are_listed_with_the_number_that_wait(world: World) -> None:
    world.new_job()
    lanes = {each["lane"]: each for each in world.api.get("/v1/admin/lanes").json()["items"]}
    assert (lanes["generate"]["waiting"], lanes["publish"]["waiting"], lanes["generate"]["paused"]) == (1, 0, False)


@route("GET /v1/admin/lanes/{lane}/heaviest")
def test_the_heaviest_accounts_of_a_lane_are_listed(world: World) -> None:
    path = "/v1/admin/lanes/generate/heaviest"
    for account, number in (("noisy", 3), ("quiet", 1)):
        for _ in range(number):
            world.new_job(account)
    assert world.api.get(f"{path}?by=backlog").json()["items"] == [
        {"account": "noisy", "seconds": 0.0, "waiting": 3, "share": 0.75},
        {"account": "quiet", "seconds": 0.0, "waiting": 1, "share": 0.25},
    ]
    assert len(world.api.get(f"{path}?by=backlog&limit=1").json()["items"]) == 1
    assert world.api.get(path).json() == {"items": []}, "nobody has used a second yet"
    assert world.api.get(f"{path}?by=size").status_code == 422
    assert world.api.get("/v1/admin/lanes/nope/heaviest").status_code == 404


@route("POST /v1/admin/lanes/{lane}:pause")
def test_a_lane_is_paused(world: World) -> None:
    assert world.api.post("/v1/admin/lanes/generate:pause").json()["paused"] is True
    assert world.api.post("/v1/admin/lanes/nope:pause").status_code == 404


@route("POST /v1/admin/lanes/{lane}:resume")
def test_a_paused_lane_is_resumed(world: World) -> None:
    world.api.post("/v1/admin/lanes/generate:pause")
    assert world.api.post("/v1/admin/lanes/generate:resume").json()["paused"] is False


@route("PUT /v1/admin/lanes/{lane}/limits")
def test_the_limits_of_a_lane_are_replaced(world: World) -> None:
    path = "/v1/admin/lanes/generate/limits"
    assert world.api.put(path, {"global_concurrency": 3}).json() == {"global_concurrency": 3}
    assert world.api.put(path, {}).json() == {"global_concurrency": None}
