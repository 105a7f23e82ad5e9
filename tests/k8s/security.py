"""What the pods may do: nothing that a training does not need."""

from __future__ import annotations

import re
from typing import Any

from tests.k8s.kustomization import Document
from tests.k8s.manifests import works

# RDMA needs locked memory, which the component for it asks for.
_CAPABILITIES = {"IPC_LOCK"}
_PINNED = re.compile(r"[^:@]+(:[0-9]+\.[0-9]+\.[0-9]+-(cpu|cuda)|@sha256:[0-9a-f]{64})")


def security_faults(documents: list[Document]) -> list[str]:
    faults = []
    for one in works(documents):
        pod = one.pod
        faults += [f"{one.name}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC")
                   if pod.get(name)]  # fmt: skip
        context = pod["securityContext"]
        if not context["runAsNonRoot"] or context["seccompProfile"]["type"] != "RuntimeDefault":
            faults.append(f"{one.name}: root, or without seccomp")
        if pod["automountServiceAccountToken"]:
            faults.append(f"{one.name}: a token of the cluster is in the pod")
        for container in one.containers:
            faults += [f"{one.name}, {container['name']}: {fault}"
                       for fault in _container_faults(container)]  # fmt: skip
    faults += [f"Secret {d['metadata']['name']} is committed" for d in documents
               if d["kind"] == "Secret"]  # fmt: skip
    return faults


def _container_faults(container: dict[str, Any]) -> list[str]:
    context, resources = container["securityContext"], container["resources"]
    faults = []
    if context.get("privileged") or context["allowPrivilegeEscalation"]:
        faults.append("has privileges")
    added = set(context["capabilities"].get("add", []))
    if context["capabilities"]["drop"] != ["ALL"] or added - _CAPABILITIES:
        faults.append("has capabilities")
    if not context["readOnlyRootFilesystem"]:
        faults.append("can write to its image")
    for name in ("cpu", "memory", "ephemeral-storage"):
        if name not in resources["requests"] or (name != "cpu" and name not in resources["limits"]):
            faults.append(f"does not say how much {name} it needs")
    if not _PINNED.fullmatch(container["image"]):
        faults.append(f"its image {container['image']} is not pinned")
    return faults
