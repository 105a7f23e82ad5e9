"""The manifests that ship, rendered, and what the tests ask of them."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.k8s.kustomization import Document, render
from tests.torchrun import ROOT

BENCHMARKS = ("training", "cluster", "generator", "loader", "packing", "checkpoint")
KUBERNETES = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
# What the README says the manifests run on; between them nothing was removed.
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.33", "1.36"

_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True)
class Work:
    """A Job, by itself or within a JobSet or a TrainingRuntime."""

    kind: str  # of the manifest that it stands in
    name: str  # of that manifest
    job: dict[str, Any]  # the spec of a batch/v1 Job
    documents: list[Document]  # that it is applied with

    @property
    def template(self) -> dict[str, Any]:
        return self.job["template"]

    @property
    def pod(self) -> dict[str, Any]:
        return self.template["spec"]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def role(self) -> str:
        return self.template["metadata"]["labels"]["app.kubernetes.io/component"]


def overlay(name: str) -> list[Document]:
    """A copy that may be changed."""
    return copy.deepcopy(_rendered(name))


@functools.cache
def _rendered(name: str) -> list[Document]:
    return render(KUBERNETES / "overlays" / name)


def works(documents: list[Document]) -> Iterator[Work]:
    for document in documents:
        kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
        if kind == "Job":
            yield Work(kind, name, spec, documents)
        elif kind in ("JobSet", "TrainingRuntime"):
            job_set = spec if kind == "JobSet" else spec["template"]["spec"]
            for replicated in job_set["replicatedJobs"]:
                yield Work(kind, name, replicated["template"]["spec"], documents)


def work(documents: list[Document], role: str) -> Work:
    """The one with that role: pack, train or bench."""
    (found,) = [one for one in works(documents) if one.role == role]
    return found


def config_map(documents: list[Document], name: str) -> dict[str, str]:
    """Its data. KeyError if no manifest has it."""
    for document in documents:
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == name:
            return document["data"]
    raise KeyError(name)


def environment(work: Work, container: dict[str, Any], **of_the_pod: str) -> dict[str, str]:
    """What a container's process finds in its own. `of_the_pod` stand for fields of the pod, by
    name of the variable. KeyError for a ConfigMap that is not there; Secrets are left out.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= config_map(work.documents, source["configMapRef"]["name"])
    for entry in container.get("env", []):
        if "value" in entry:
            found[entry["name"]] = expanded(entry["value"], found)
        elif entry["name"] in of_the_pod:
            found[entry["name"]] = of_the_pod[entry["name"]]
    return found | of_the_pod


def expanded(text: str, variables: dict[str, str]) -> str:
    """$(NAME) replaced as the kubelet does, which leaves alone what it does not know."""
    return _REFERENCE.sub(lambda match: variables.get(match[1], match[0]), text)


def references(container: dict[str, Any]) -> set[str]:
    words = [*container.get("command", []), *container.get("args", [])]
    words += [entry.get("value", "") for entry in container.get("env", [])]
    return {name for word in words for name in _REFERENCE.findall(word)}


def command(work: Work, container: dict[str, Any], **of_the_pod: str) -> list[str]:
    variables = environment(work, container, **of_the_pod)
    words = [*container["command"], *container.get("args", [])]
    return [expanded(word, variables) for word in words]


def size_bytes(quantity: str) -> float:
    """Of a Kubernetes quantity: 16Gi, 500m, 8."""
    match = re.fullmatch(r"([0-9.]+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", quantity)
    if match is None:
        raise ValueError(f"{quantity} is no quantity")
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(match[1]) * units.get(match[2], 1)
