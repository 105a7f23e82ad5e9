"""What no schema can say of the manifests: where they and the code must agree.

Each check returns the faults that it finds, so that the tests can also hold it against manifests
with a mistake in them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import yaml

from launch import command as exit_statuses
from launch.command import VERBS
from pipeline.config.loading import parse_config
from pipeline.config.schema import Config
from pipeline.config.validation import world_size_errors
from shards.packing.records import planned_shards
from tests.k8s.kustomization import Document
from tests.k8s.manifests import (
    Work,
    command,
    environment,
    references,
    size_bytes,
    work,
    works,
)
from tests.k8s.security import security_faults
from tests.torchrun import ROOT

_ARGPARSE = 2  # what Python's argument parser ends with
_CACHES = {"train": 1, "bench": 3}  # at once: benchmarks.loader fills some from nothing
_OF_OUR_CODE = ("launch", "pipeline", "shards", "benchmarks")
# Variables that neither this project's code nor its commands name, and who reads them.
_READ_ELSEWHERE = {
    "HOME": "fontconfig, matplotlib and others, for their caches",
    "OMP_NUM_THREADS": "OpenMP, torch",
    "POD_IP": "--local-addr",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "torch/distributed/elastic/rendezvous",
    "TORCHINDUCTOR_CACHE_DIR": "torch/_inductor",
    "TRITON_CACHE_DIR": "triton",
    "PYTORCH_ALLOC_CONF": "torch's allocator",
    "NCCL_DEBUG": "NCCL",
    "NCCL_IB_HCA": "NCCL",
    "NCCL_SOCKET_IFNAME": "NCCL",
    "TORCH_FR_BUFFER_SIZE": "torch's flight recorder",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "torch's flight recorder",
    "TORCH_FR_DUMP_TEMP_FILE": "torch's flight recorder",
}


def all_faults(documents: list[Document]) -> list[str]:
    return [fault for check in CHECKS for fault in check(documents)]


def exit_code_faults(documents: list[Document]) -> list[str]:
    """Exit codes in policies are such as the code ends with, of containers that are there."""
    ours = {value for name, value in vars(exit_statuses).items() if name.startswith("EXIT_")}
    faults = []
    for one in works(documents):
        rules = one.job.get("podFailurePolicy", {}).get("rules", [])
        for rule in (rule["onExitCodes"] for rule in rules if "onExitCodes" in rule):
            names = [container["name"] for container in one.containers]
            if rule.get("containerName") not in names:
                faults.append(f"{one.name}: a policy is for {rule.get('containerName')!r}")
            if unknown := set(rule["values"]) - ours - {_ARGPARSE}:
                faults.append(f"{one.name}: no command of ours ends with {sorted(unknown)}")
            if {exit_statuses.EXIT_IO, exit_statuses.EXIT_TRY_AGAIN} & set(rule["values"]):
                faults.append(f"{one.name}: a policy gives up at what a retry may mend")
    return faults


def environment_faults(documents: list[Document]) -> list[str]:
    """Every variable is read by someone, and every $(REFERENCE) has a variable."""
    faults = []
    for one in works(documents):
        for container in one.containers:
            used = references(container)
            known = set(environment(one, container, POD_IP=""))
            known |= (
                {"JOB_COMPLETION_INDEX"} if one.job.get("completionMode") == "Indexed" else set()
            )
            faults += [f"{one.name}: $({name}) is not set" for name in used - known]
            for name in {entry["name"] for entry in container.get("env", [])} - used:
                if name not in _READ_ELSEWHERE and f'"{name}"' not in _sources():
                    faults.append(f"{one.name}: nobody reads {name}")
            for name in re.findall(r"\$\{?([A-Z_]+)\}?", " ".join(container["command"])):
                faults.append(f"{one.name}: ${name} would need a shell")
    return faults


@functools.cache
def _sources() -> str:
    paths = [path for folder in _OF_OUR_CODE for path in (ROOT / folder).rglob("*.py")]
    return "\n".join(path.read_text() for path in paths)


def port_faults(documents: list[Document]) -> list[str]:
    """Ports that are declared are those that the commands are told, and the Services'."""
    faults = []
    for one in works(documents):
        (container,) = one.pod["containers"]
        words = command(one, container, POD_IP="10.0.0.1")
        declared = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        told = {}
        for word in words:
            if word.startswith("--telemetry.port="):
                told["metrics"] = int(word.partition("=")[2])
            if word.startswith("--rdzv-endpoint="):
                told["rendezvous"] = int(word.rpartition(":")[2])
                faults += _service_faults(one, *word.partition("=")[2].rpartition(":")[::2])
        if declared != told:
            faults.append(f"{one.name}: ports {declared} are declared, the command has {told}")
    return faults


def _service_faults(one: Work, host: str, port: str) -> list[str]:
    """Pods meet at pod 0, by the name that a headless Service gives it."""
    pod, _, subdomain = host.partition(".")
    if one.kind == "JobSet":
        names = [f"{one.name}-workers-0-0.{one.name}"]
        return [] if host in names else [f"{one.name}: the pods are to meet at {host}, not {names}"]
    faults = []
    if pod != f"{one.name}-0" or one.pod.get("subdomain") != subdomain:
        faults.append(f"{one.name}: the pods are to meet at {host}, which is not their pod 0")
    found = [d for d in one.documents if d["kind"] == "Service"
             and d["metadata"]["name"] == subdomain]  # fmt: skip
    labels = one.template["metadata"]["labels"]
    for service in found:
        spec = service["spec"]
        if spec.get("clusterIP") != "None" or not spec.get("publishNotReadyAddresses"):
            faults.append(f"Service {subdomain} gives pods no name before they are ready")
        if not spec["selector"].items() <= labels.items():
            faults.append(f"Service {subdomain} does not select the pods of {one.name}")
        if int(port) not in [entry["port"] for entry in spec["ports"]]:
            faults.append(f"Service {subdomain} has no port {port}")
    return faults or ([] if found else [f"{one.name}: there is no Service {subdomain}"])


def index_faults(documents: list[Document]) -> list[str]:
    """Every shard is packed by exactly one index, whatever their number; one pod for each node."""
    pack = work(documents, "pack")
    completions = pack.job["completions"]
    words = command(pack, pack.pod["containers"][0])
    (division,) = [word.partition("=")[2] for word in words if word.startswith("--slice=")]
    of = int(division.removeprefix("/"))
    shards = [shard.name for shard in planned_shards({"train": 997, "val": 31}, 7)]
    packed = [name for index in range(completions) for name in shards[index::of]]
    faults = []
    if sorted(packed) != sorted(shards) or completions > of:
        faults.append(f"{pack.name}: {completions} indexes pack slices of {of}")
    if pack.job.get("completionMode") != "Indexed" or "--merge-last" not in words:
        faults.append(f"{pack.name}: nobody makes one set of the slices")
    for one in works(documents):
        if one.role != "pack" and one.kind != "TrainingRuntime":
            faults += _node_faults(one)
    return faults


def _node_faults(one: Work) -> list[str]:
    variables = environment(one, one.pod["containers"][0])
    most = variables["GLCIC_NODES"].rpartition(":")[2]
    sizes = {str(one.job["completions"]), str(one.job["parallelism"]), most}
    if len(sizes) > 1 or one.job.get("completionMode") != "Indexed":
        return [f"{one.name}: completions, parallelism and GLCIC_NODES differ: {sorted(sizes)}"]
    return []


def preset_faults(documents: list[Document]) -> list[str]:
    """Presets are read by the real parser, alone and with each command's arguments."""
    faults = []
    for document in documents:
        for name, text in document.get("data", {}).items():
            if document["kind"] == "ConfigMap" and name == "preset.yaml":
                try:
                    parse_config(yaml.safe_load(text))
                except ValueError as error:
                    faults.append(f"{name}: {error}")
    return faults


def world_size_faults_of(documents: list[Document]) -> list[str]:
    """Each number of nodes that is allowed can share the batch."""
    faults: list[str] = []
    if preset_faults(documents):
        return faults
    config = preset(documents)
    for one in works(documents):
        if one.role == "pack":
            continue
        variables = environment(one, one.pod["containers"][0])
        if one.kind == "TrainingRuntime":
            (spec,) = [d["spec"]["trainer"] for d in documents if d["kind"] == "TrainJob"]
            nodes, workers = f"{spec['numNodes']}", spec["numProcPerNode"]
        else:
            nodes, workers = variables["GLCIC_NODES"], int(variables["WORKERS_PER_NODE"])
        fewest, _, most = nodes.partition(":")
        for number in range(int(fewest), int(most or fewest) + 1):
            faults += world_size_errors(config, number * workers)
    return faults


def preset(documents: list[Document]) -> Config:
    (text,) = [d["data"]["preset.yaml"] for d in documents if "preset.yaml" in d.get("data", {})]
    return parse_config(yaml.safe_load(text))


def storage_faults(documents: list[Document]) -> list[str]:
    """What pods write fits where they write it, and a save into the time that they are given."""
    faults = []
    for one in works(documents):
        volumes = {volume["name"]: volume for volume in one.pod["volumes"]}
        (container,) = one.pod["containers"]
        mounts = {
            mount["mountPath"]: volumes.get(mount["name"]) for mount in container["volumeMounts"]
        }
        if None in mounts.values():
            faults.append(f"{one.name}: a volume that is mounted is not there")
        if one.role in _CACHES:
            words = command(one, container)
            (limit,) = [float(w.partition("=")[2]) * 1e9 for w in words if "cache-limit-gb" in w]
            limit *= _CACHES[one.role]
            size = size_bytes(mounts["/scratch"]["emptyDir"]["sizeLimit"])
            ephemeral = size_bytes(container["resources"]["limits"]["ephemeral-storage"])
            if not limit < size <= ephemeral:
                faults.append(f"{one.name}: the cache may take {limit:g} of {size:g} bytes")
        if one.role == "train":
            # torchrun kills workers that take longer than 30 s, fixed in torch 2.13.
            if one.pod["terminationGracePeriodSeconds"] <= 30:
                faults.append(f"{one.name}: a pod is killed while its workers save")
            if mounts["/dev/shm"]["emptyDir"]["medium"] != "Memory":
                faults.append(f"{one.name}: /dev/shm is no memory")
    return faults


def retry_faults(documents: list[Document]) -> list[str]:
    faults = []
    for one in works(documents):
        if one.pod["restartPolicy"] != "Never":
            faults.append(f"{one.name}: a container that is restarted is not seen by the policies")
        if one.role == "bench":
            continue
        conditions = [
            condition["type"]
            for rule in one.job["podFailurePolicy"]["rules"]
            for condition in rule.get("onPodConditions", [])
        ]
        if conditions != ["DisruptionTarget"]:
            faults.append(f"{one.name}: disruptions count as failures")
        if one.role == "train":
            faults += _train_faults(one)
    return faults


def _train_faults(one: Work) -> list[str]:
    (container,), (check,) = one.pod["containers"], one.pod["initContainers"]
    faults = []
    if container["command"][0] != "torchrun":
        faults.append(f"{one.name}: signals go to {container['command'][0]}, not to torchrun")
    if "backoffLimitPerIndex" in one.job:
        faults.append(f"{one.name}: the nodes of a training need each other")
    variables = environment(one, container)
    if variables.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1":
        faults.append(f"{one.name}: torch 2.13 gives up the job when a pod joins it")
    if check["args"] != container["args"]:
        faults.append(f"{one.name}: what is checked is not what is trained")
    return faults


def command_faults(documents: list[Document]) -> list[str]:
    """Verbs and modules are there; the arguments of those that take a configuration are fields."""
    faults = []
    for one in works(documents):
        for container in one.containers:
            words = command(one, container)
            if words[0] == "glcic" and words[1] not in VERBS:
                faults.append(f"{one.name}: there is no verb {words[1]}")
            if words[0] == "torchrun":
                module = words[words.index("--module") + 1]
                path = ROOT.joinpath(*module.split("."))
                if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
                    faults.append(f"{one.name}: there is no module {module}")
    return faults


Check = Callable[[list[Document]], list[str]]
CHECKS: tuple[Check, ...] = (
    exit_code_faults, environment_faults, port_faults, index_faults, preset_faults,
    world_size_faults_of, storage_faults, retry_faults, security_faults, command_faults,
)  # fmt: skip
