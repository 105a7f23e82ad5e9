"""Manifests against the schemas of Kubernetes, of JobSet and of Kubeflow Trainer.

Those of Kubernetes are the API server's own, of every release (kubernetes-validate). JobSet's and
Trainer's are those of the models that Trainer publishes (kubeflow-trainer-api), which are made from
the same OpenAPI description as its CRDs; a field that they do not have is a fault here.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import jsonschema
import kubeflow_trainer_api.models as trainer
from referencing import Registry, Resource

from tests.k8s.kustomization import Document
from tests.k8s.manifests import NEWEST_KUBERNETES, OLDEST_KUBERNETES, works

_MODELS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): trainer.JobsetV1alpha2JobSet,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): trainer.TrainerV1alpha1TrainJob,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): trainer.TrainerV1alpha1TrainingRuntime,
}
# The Prometheus Operator publishes no schema as a package: its manifests are looked at elsewhere.
_WITHOUT_SCHEMA = ("monitoring.coreos.com/v1",)


def schema_faults(documents: list[Document]) -> list[str]:
    faults = []
    for document in documents:
        version, kind = document.get("apiVersion", ""), document.get("kind", "")
        if version in _WITHOUT_SCHEMA:
            continue
        if (version, kind) in _MODELS:
            faults += _faults(document, _model_validator(version, kind), kind)
        else:
            for release in (OLDEST_KUBERNETES, NEWEST_KUBERNETES):
                faults += _kubernetes_faults(document, release)
    for work in works(documents):
        if work.kind != "Job":  # its pods are checked by Kubernetes in the end
            metadata = {"name": work.name}
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": work.job}
            for release in (OLDEST_KUBERNETES, NEWEST_KUBERNETES):
                faults += _kubernetes_faults(job, release)
    return faults


def _kubernetes_faults(document: Document, release: str) -> list[str]:
    group, _, version = document["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (document["kind"].lower(), group.split(".")[0], version)))
    try:
        validator = _kubernetes_validator(name, release)
    except FileNotFoundError:
        return [f"Kubernetes {release} has no {document['apiVersion']} {document['kind']}"]
    return _faults(document, validator, f"Kubernetes {release}: {document['kind']}")


def _faults(document: Document, validator: Any, what: str) -> list[str]:
    name = document.get("metadata", {}).get("name")
    return [
        f"{what} {name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for found in validator.iter_errors(document)
        for error in _innermost(found)
    ]


def _innermost(error: Any) -> list[Any]:
    """Of alternatives, those that were not met for a reason further down."""
    alternatives = [one for one in error.context or [] if one.validator_value != "null"]
    return [leaf for one in alternatives for leaf in _innermost(one)] or [error]


@functools.cache
def _kubernetes_validator(name: str, release: str) -> Any:
    """Strict: fields that are not in the schema are faults."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}.0-local-strict"
    schema = json.loads((folder / f"{name}.json").read_text())
    registry: Any = Registry().with_resources(
        [(resource.id() or "", resource) for resource in (_definitions(release),)]
    )
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(release: str) -> Any:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}.0-local-strict"
    return Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))


@functools.cache
def _model_validator(version: str, kind: str) -> Any:
    schema = _MODELS[version, kind].model_json_schema(by_alias=True)
    for node in [schema, *schema["$defs"].values()]:
        if "actual_instance" in node.get("properties", {}):  # of several plain types: 8 or 16Gi
            node.clear()
            node["type"] = ["string", "number"]
        elif "properties" in node:
            node["additionalProperties"] = False
    return jsonschema.Draft202012Validator(schema)
