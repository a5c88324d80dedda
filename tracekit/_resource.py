"""The resource for ``configure()``: attributes of the process, its host and its container, and those that are given.

Attributes: https://opentelemetry.io/docs/specs/semconv/resource/, of the version in ``_version.py``. A detector reads
variables and small files; it starts no process and uses no network. One that fails adds nothing.
"""

from __future__ import annotations

import os
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ._core.attributes import MISSING, clean
from ._core.errors import clip
from ._core.records import Limits
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._environment import Environment

_VARIABLE = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
_MAX_FILE = 1 << 20
_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
# Variables of the downward API have no fixed names; those without K8S_ count only in a pod.
_KUBERNETES = {
    "k8s.cluster.name": ("K8S_CLUSTER_NAME",),
    "k8s.container.name": ("K8S_CONTAINER_NAME", "CONTAINER_NAME"),
    "k8s.deployment.name": ("K8S_DEPLOYMENT_NAME",),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "K8S_NAMESPACE", "POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.pod.ip": ("K8S_POD_IP", "POD_IP"),
    "k8s.pod.name": ("K8S_POD_NAME", "POD_NAME", "HOSTNAME"),
    "k8s.pod.uid": ("K8S_POD_UID", "POD_UID"),
}

_instance: tuple[int, str] = (0, "")  # the id of this process, and the process that it was drawn in


def detect(environment: Environment) -> dict[str, Any]:
    """Return the attributes that the detectors in ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS`` find; default: all."""
    names = [name.strip().lower() for name in environment.text(_VARIABLE).split(",")]
    names = [name for name in names if name]
    unknown = [name for name in names if name not in _DETECTORS and name not in ("otel", "none", "*")]
    if unknown:
        line = f"{_VARIABLE} names {', '.join(map(clip, unknown))[:400]}, but must be of {', '.join(_DETECTORS)}, none"
        environment.wrong[_VARIABLE] = f"{line}; the others are used"
    found: dict[str, Any] = {}
    for name, detector in _DETECTORS.items():
        if not names or "*" in names or name in names:
            try:
                found.update({key: value for key, value in detector(environment).items() if value})
            except Exception:  # an odd system must not stop the program
                continue
    return found


def merged(*sources: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one resource with the attributes of *sources*; later ones win."""
    resource: dict[str, Any] = {
        "telemetry.sdk.name": "tracekit",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
    }
    for source in sources:
        for key, value in source.items():
            if not isinstance(key, str):
                raise TypeError(f"resource must have str keys, not {type(key).__name__}")
            plain, _ = clean(value, Limits().value_length)
            if plain is not MISSING:
                resource[str.__str__(key)] = plain  # of a StrEnum, say: encoders take plain text only
    return MappingProxyType(resource)


def renew(resource: Mapping[str, Any], detected: Mapping[str, Any]) -> dict[str, Any]:
    """Return *resource* with the process attributes of this process, the child of a fork."""
    fresh = {"process.pid": os.getpid(), "service.instance.id": _instance_id()}
    return {
        key: fresh[key] if key in fresh and value == detected.get(key) else value for key, value in resource.items()
    }


def _service(environment: Environment) -> dict[str, Any]:
    return {
        "service.instance.id": _instance_id(),
        "service.version": environment.text("TRACEKIT_SERVICE_VERSION"),
        "deployment.environment.name": environment.text("TRACEKIT_ENVIRONMENT"),
    }


def _process(_: Environment) -> dict[str, Any]:
    return {
        "process.pid": os.getpid(),
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": ".".join(map(str, sys.implementation.version[:3])),
        "process.runtime.description": sys.version.replace("\n", " "),
    }


def _host(_: Environment) -> dict[str, Any]:
    return {"host.name": _system()[1]}


def _os(_: Environment) -> dict[str, Any]:
    name, _node, version = _system()
    return {"os.type": name.lower(), "os.version": version}


def _container(_: Environment) -> dict[str, Any]:
    return {"container.id": container_id()}


def _kubernetes(environment: Environment) -> dict[str, Any]:
    is_pod = bool(environment.text("KUBERNETES_SERVICE_HOST"))  # set in every pod; its host name is the pod's
    found = {}
    for attribute, names in _KUBERNETES.items():
        values = [environment.text(name) for name in names if is_pod or name.startswith("K8S_")]
        found[attribute] = next(filter(None, values), "")
    if is_pod and not found["k8s.namespace.name"]:
        found["k8s.namespace.name"] = _read(_NAMESPACE).strip()
    return found


_DETECTORS: dict[str, Callable[[Environment], dict[str, Any]]] = {
    "service": _service,
    "process": _process,
    "host": _host,
    "os": _os,
    "container": _container,
    "k8s": _kubernetes,
}


def _system() -> tuple[str, str, str]:
    """Return the name of the operating system, the name of the host, and the version of the former."""
    if hasattr(os, "uname"):
        system = os.uname()
        return system.sysname, system.nodename, system.release
    import platform  # Windows; takes longer to import than all of this

    return platform.system(), platform.node(), platform.version()


def _instance_id() -> str:
    """Return the random UUID of this process."""
    global _instance
    if _instance[0] != os.getpid():
        octets = bytearray(os.urandom(16))
        # Version 4. Importing uuid takes longer than this.
        octets[6], octets[8] = octets[6] & 0x0F | 0x40, octets[8] & 0x3F | 0x80
        digits = octets.hex()
        _instance = os.getpid(), "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])
    return _instance[1]


def container_id(proc: str = "/proc/self") -> str:
    """Return the id of the container that this process is in, 64 hex digits, or "".

    With version 1 of cgroups it is the last part of a path in ``cgroup``, with version 2 a part of the paths that the
    runtime has mounted, in ``mountinfo``.
    """
    for line in _read(f"{proc}/cgroup").splitlines():
        last = line.rpartition("/")[2].removesuffix(".scope")
        if _is_id(found := last[-64:]):
            return found
    for line in _read(f"{proc}/mountinfo").splitlines():
        _, containers, rest = line.partition("/containers/")
        if containers and "/etc/host" in line and _is_id(found := rest.partition("/")[0]):
            return found
    return ""


def _is_id(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE)
    except OSError:
        return ""
