"""Each of these mistakes, made in an overlay that is right, is found."""

import pytest

from tests.k8s.claims import all_faults
from tests.k8s.manifests import OVERLAYS, overlay, work
from tests.k8s.schemas import schema_faults


def a_wrong_field(documents):
    job = work(documents, "train").job
    job["backOffLimit"] = job.pop("backoffLimit")


def a_wrong_field_of_a_pod(documents):
    work(documents, "train").pod["terminationGracePeriod"] = 60


def a_wrong_type(documents):
    work(documents, "pack").job["completions"] = "16"


def a_wrong_port(documents):
    (container,) = work(documents, "train").pod["containers"]
    container["ports"][-1]["containerPort"] = 9400


def a_port_that_no_service_has(documents):
    for document in documents:
        if document["kind"] == "Service":
            document["spec"]["ports"][0]["port"] = 29500


def a_missing_index(documents):
    work(documents, "pack").job["completions"] -= 1


def an_index_too_many(documents):
    work(documents, "pack").job["completions"] += 1


def an_unknown_config_key(documents):
    for document in documents:
        if "preset.yaml" in document.get("data", {}):
            document["data"]["preset.yaml"] += "tarin:\n  batch_size: 96\n"


IN_EVERY_OVERLAY = {
    a_wrong_field: "backOffLimit",
    a_wrong_field_of_a_pod: "terminationGracePeriod",
    a_wrong_type: "'16' is not",
    a_wrong_port: "ports",
    a_port_that_no_service_has: "has no port 29400",
    a_missing_index: "indexes pack slices of",
    an_index_too_many: "indexes pack slices of",
    an_unknown_config_key: "tarin is not a field",
}


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("mistake", IN_EVERY_OVERLAY, ids=lambda mistake: mistake.__name__)
def test_a_mistake_in_an_overlay_is_found(name, mistake):
    documents = overlay(name)
    mistake(documents)
    faults = schema_faults(documents) or all_faults(documents)
    assert any(IN_EVERY_OVERLAY[mistake] in fault for fault in faults), faults


def of_train(documents):
    return work(documents, "train")


def container(documents):
    return of_train(documents).pod["containers"][0]


def set_value(mapping, key, value):
    mapping[key] = value


OF_A_TRAINING = {
    "gives up at what a retry may mend": lambda d: set_value(
        of_train(d).job["podFailurePolicy"]["rules"][1]["onExitCodes"], "values", [75]
    ),
    "no command of ours ends with [42]": lambda d: set_value(
        of_train(d).job["podFailurePolicy"]["rules"][1]["onExitCodes"], "values", [42]
    ),
    "a policy is for 'chekc'": lambda d: set_value(
        of_train(d).job["podFailurePolicy"]["rules"][1]["onExitCodes"], "containerName", "chekc"
    ),
    "nobody reads NCCL_DEBGU": lambda d: container(d)["env"].append(
        {"name": "NCCL_DEBGU", "value": "WARN"}
    ),
    "$(RUN_ULR) is not set": lambda d: container(d)["args"].append("--folder=$(RUN_ULR)"),
    "signals go to bash": lambda d: set_value(
        container(d), "command", ["bash", "-c", "torchrun --module launch.train"]
    ),
    "while its workers save": lambda d: set_value(
        of_train(d).pod, "terminationGracePeriodSeconds", 30
    ),
    "gives up the job when a pod joins": lambda d: set_value(
        container(d), "env",
        [e for e in container(d)["env"] if e["name"] != "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"],
    ),
    "what is checked is not what is trained": lambda d: container(d)["args"].append(
        "--train.batch-size=48"
    ),
    "completions, parallelism and GLCIC_NODES differ": lambda d: set_value(
        of_train(d).job, "parallelism", 3
    ),
    "disruptions count as failures": lambda d: of_train(d).job["podFailurePolicy"]["rules"].pop(0),
    "is not seen by the policies": lambda d: set_value(
        of_train(d).pod, "restartPolicy", "OnFailure"
    ),
    "the nodes of a training need each other": lambda d: set_value(
        of_train(d).job, "backoffLimitPerIndex", 3
    ),
    "is not pinned": lambda d: set_value(container(d), "image", "example.com/glcic:latest"),
    "has privileges": lambda d: set_value(container(d)["securityContext"], "privileged", True),
    "can write to its image": lambda d: set_value(
        container(d)["securityContext"], "readOnlyRootFilesystem", False
    ),
    "how much memory": lambda d: container(d)["resources"]["limits"].pop("memory"),
    "hostIPC": lambda d: set_value(of_train(d).pod, "hostIPC", True),
    "there is no module launch.trian": lambda d: set_value(
        container(d)["command"], -1, "launch.trian"
    ),
    "which is not their pod 0": lambda d: set_value(of_train(d).pod, "subdomain", "glcic"),
    "the cache may take": lambda d: set_value(
        of_train(d).pod["volumes"][1]["emptyDir"], "sizeLimit", "100Gi"
    ),
    "cannot be shared equally by 40 workers": lambda d: set_value(
        container(d)["env"][0], "value", "1:5"
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", OF_A_TRAINING)
def test_a_mistake_in_a_training_is_found(found):
    documents = overlay("multi-node")
    OF_A_TRAINING[found](documents)
    faults = all_faults(documents)
    assert any(found in fault for fault in faults), faults
