"""Jobs on a real Ray cluster of this machine: the same numbers, a worker killed in the middle, no cluster at all."""

from __future__ import annotations

import builtins
import socket

import pytest

from backbones import UserError
from tests.tools.killing import MortalJob
from tests.tools.test_benchmark import accuracies, options, same
from tools.benchmark import benchmark
from tools.grid.check import check
from tools.grid.job import Outcome
from tools.grid.plan import Job
from tools.grid.ray_engine import Room, probe, resources, run_ray


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster of two CPUs that runs already."""
    pytest.importorskip("ray", reason="ray is not installed (requirements-ray.txt)")
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield running.address
    running.shutdown()


def test_a_cluster_gives_the_numbers_of_one_process_though_a_worker_is_killed(cluster, tmp_path, packs, capsys):
    benchmark(options(tmp_path / "local", packs))
    config = options(tmp_path / "ray", packs, engine="ray", address=cluster)
    jobs, outcomes, marker = check(config), [], tmp_path / "killed"
    run_ray(jobs[:2], tmp_path / "ray", outcomes.append, Room(cluster), MortalJob(marker))
    assert marker.exists() and [outcome.reason for outcome in outcomes] == [None, None]
    capsys.readouterr()
    metrics = benchmark(config)
    assert metrics["failed"] == [] and capsys.readouterr().out.count("kept") == 2
    assert same(accuracies(tmp_path / "local"), accuracies(tmp_path / "ray"))


class Deadly:
    """A job that takes its worker with it every time, and others that are done at once."""

    def __call__(self, job, root, before):
        import os

        if job.name == "train/a":
            os._exit(1)
        return Outcome(job.name, said="done")


def test_a_job_that_kills_every_worker_fails_with_what_needs_it_and_no_more(cluster, tmp_path):
    jobs = [Job("train/a", "pretrain", "A", {}), Job("train/b", "pretrain", "B", {})]
    jobs += [Job("test/a", "test", "on A", {}, ["train/a"]), Job("test/b", "test", "on B", {}, ["train/b"])]
    outcomes: dict[str, Outcome] = {}
    run_ray(
        jobs, tmp_path, lambda outcome: outcomes.update({outcome.name: outcome}), Room(cluster, repeats=0), Deadly()
    )
    assert "its worker died once: " in outcomes["train/a"].reason
    assert outcomes["test/a"].reason.startswith("needs A, which failed: ")
    assert [outcomes[name].reason for name in ("train/b", "test/b")] == [None, None]
    with pytest.raises(UserError, match="no machine of the Ray cluster has the 64 CPUs"):
        run_ray(jobs, tmp_path, print, Room(cluster, cpus=64), Deadly())


def test_a_job_asks_for_gpus_where_there_are_some():
    class Cluster:
        def __init__(self, **has):
            self.has = has

        def nodes(self):
            return [{"Alive": True, "Resources": self.has}, {"Alive": False, "Resources": {"CPU": 99}}]

    assert resources(Cluster(CPU=4), Room(cpus=2)) == {"num_cpus": 2, "num_gpus": 0}
    assert resources(Cluster(CPU=4, GPU=2), Room(cpus=2, devices=2)) == {"num_cpus": 4, "num_gpus": 2}
    with pytest.raises(UserError, match="1 CPU and 1 GPU of a job"):
        resources(Cluster(CPU=4), Room(gpus=1))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_one_sentence(tmp_path, packs, address):
    pytest.importorskip("ray", reason="ray is not installed (requirements-ray.txt)")
    address = address.format(free_port())
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}' .*start one with 'ray start --head'"):
        benchmark(options(tmp_path, packs, engine="ray", address=address, dry_run=True))


def test_auto_without_a_cluster_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="no Ray cluster was started on this machine for --address auto to join"):
        probe("auto")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")  # it wins, as in Ray itself
    with pytest.raises(UserError, match="no Ray cluster answers at '127.0.0.1:"):
        probe("auto")


@pytest.mark.parametrize("address", ["nowhere", "host:port", "ray://host", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UserError, match="is none of HOST:PORT, ray://HOST:PORT and auto"):
        probe(address)


def test_without_ray_the_sentence_says_how_to_install_it(tmp_path, packs, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install -r requirements-ray.txt"):
        benchmark(options(tmp_path, packs, engine="ray"))
