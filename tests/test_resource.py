"""The detected attributes of the resource, who wins over them, and their renewal after a fork."""

from __future__ import annotations

import os
import re
import sys

import pytest

import tracekit
from tracekit import _configure, _environment, _resource
from tracekit._environment import Environment
from tracekit.testing import MemoryExporter

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
VARIABLE = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"


def detect(**variables):
    environment = Environment(variables)
    return _resource.detect(environment), environment.wrong


def resource():
    return _configure.tracer_in_use().resource


def test_process_host_and_service_are_detected():
    found, wrong = detect(TRACEKIT_SERVICE_VERSION="1.2", TRACEKIT_ENVIRONMENT="staging")
    assert wrong == {}
    assert found["process.pid"] == os.getpid()
    assert found["process.runtime.name"] == sys.implementation.name
    assert found["process.runtime.version"] == ".".join(map(str, sys.version_info[:3]))
    assert "\n" not in found["process.runtime.description"]
    assert found["host.name"]
    assert found["os.type"] in {"linux", "darwin", "windows", "freebsd"}
    assert (found["service.version"], found["deployment.environment.name"]) == ("1.2", "staging")


def test_the_instance_is_a_random_uuid_that_stays_for_the_process():
    found = detect()[0]["service.instance.id"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", found)
    assert detect()[0]["service.instance.id"] == found


def test_what_is_not_there_has_no_attribute():
    found, _ = detect()
    assert all(found.values())
    assert not {"service.version", "deployment.environment.name"} & found.keys()
    assert not [name for name in found if name.startswith("k8s.")]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"K8S_POD_NAME": "a", "POD_NAME": "b", "K8S_CLUSTER_NAME": "c"}, {"pod.name": "a", "cluster.name": "c"}),
        ({"POD_NAME": "b", "HOSTNAME": "h", "CONTAINER_NAME": "c"}, {}),  # of no pod
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "h", "POD_NAMESPACE": "n", "NODE_NAME": "o"},
            {"pod.name": "h", "namespace.name": "n", "node.name": "o"},
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "p", "HOSTNAME": "h"}, {"pod.name": "p"}),
    ],
)
def test_a_pod_is_what_its_variables_name(variables, expected):
    found, _ = detect(**variables, **{VARIABLE: "k8s"})
    assert found == {f"k8s.{name}": value for name, value in expected.items()}


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "expected"),
    [
        (f"12:memory:/docker/{ID}\n0::/\n", "", ID),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", "", ID),
        (f"0::/system.slice/docker-{ID}.scope", "", ID),
        (f"1:name=systemd:/kubepods/besteffort/pod0/{ID}\n", f"/containers/{OTHER}/hostname /etc/hostname", ID),
        ("0::/\n", f"1 2 0:3 / / rw\n5 6 7:8 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw", ID),
        ("0::/\n", f"5 6 7:8 /containers/{ID}/userdata/hosts /etc/hosts rw", ID),
        ("0::/\n", f"5 6 7:8 /var/lib/containers/{ID}/data /data rw", ""),  # a volume, not this container
        (f"0::/user.slice/{ID[:-1]}\n", "", ""),
        (f"0::/{ID.upper()}\n", "", ""),
        ("", "", ""),
        ("\xff" * 100, "/containers/", ""),
    ],
)
def test_the_container_is_found_in_either_version_of_cgroups(tmp_path, cgroup, mountinfo, expected):
    (tmp_path / "cgroup").write_text(cgroup, encoding="latin-1")
    (tmp_path / "mountinfo").write_text(mountinfo, encoding="latin-1")
    assert _resource.container_id(str(tmp_path)) == expected


def test_without_the_files_there_is_no_container(tmp_path):
    assert _resource.container_id(str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        ("host", {"host"}),
        (" Host , process,", {"host", "process"}),
        ("none", set()),
        ("otel", set()),
        ("*", {"host", "os", "process", "service"}),
        ("otel,os", {"os"}),
    ],
)
def test_detectors_can_be_named(names, prefixes):
    found, wrong = detect(**{VARIABLE: names})
    assert {name.partition(".")[0] for name in found} - {"container"} == prefixes
    assert wrong == {}


def test_an_unknown_detector_is_reported_and_the_others_are_used():
    found, wrong = detect(**{VARIABLE: "host,aws_ec2"})
    assert found.keys() == {"host.name"}
    assert wrong[VARIABLE].startswith(f"{VARIABLE} names 'aws_ec2', but must be of service, process, host, os,")


def test_a_detector_that_fails_finds_nothing(monkeypatch):
    def broken(environment):
        raise OSError("no")

    monkeypatch.setitem(_resource._DETECTORS, "host", broken)
    found, _ = detect()
    assert "host.name" not in found
    assert "process.pid" in found


def test_variables_and_arguments_win_over_detectors():
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "host.name=theirs,process.pid=7"}
    tracekit.configure(environ=environ, resource={"process.pid": 8}, exporter=MemoryExporter())
    assert (resource()["host.name"], resource()["process.pid"]) == ("theirs", 8)
    assert resource()["service.instance.id"] == detect()[0]["service.instance.id"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("given", [{}, {"process.pid": 8, "service.instance.id": "a"}])
def test_the_child_of_a_fork_has_its_own_process_and_instance(given):
    tracekit.configure(service="shop", resource=given, exporter=MemoryExporter())
    before = resource()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        now = resource()
        same = {key: now[key] == before[key] for key in before}
        is_own = now["process.pid"] == os.getpid() and tracekit.span("a").resource is now
        os.write(writing, repr((sorted(key for key, value in same.items() if not value), is_own)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        changed, is_own = eval(answer.read())
    os.waitpid(child, 0)
    assert changed == ([] if given else ["process.pid", "service.instance.id"])
    assert is_own is not bool(given)
    assert resource() is before


def test_the_schema_is_of_the_version_of_the_semantic_conventions():
    from tracekit._version import SCHEMA_URL, SEMANTIC_CONVENTIONS

    assert SCHEMA_URL.endswith(f"/{SEMANTIC_CONVENTIONS}")
    assert _environment._logged == set()
