"""The cluster, played by processes on one machine: packing, training, losses, the end.

    python -m tests.k8s.rehearsal [--network loopback] [--folder FOLDER]

The commands, the environment, the policies and the grace period are those of the manifests: of the
overlay multi-node with a small preset. The bucket is on the server that AWS_ENDPOINT_URL names,
else a folder. What is wrong stands in the faults; what was seen, in the log.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from pipeline.config.schema import Config
from shards.format.manifest import RECORDS, load_manifest
from shards.packing.pack import pack_images
from shards.storage.files import join_url, list_names, list_tree, read_bytes
from tests.chaos.proof import compare_weights, sample_faults, worlds_of_steps
from tests.k8s.claims import preset
from tests.k8s.job_controller import PlayedJob
from tests.k8s.kustomization import Document, render
from tests.k8s.manifests import KUBERNETES, work
from tests.k8s.pod_network import Loopback, Namespaces, open_pod_network
from tests.shards.pictures import write_class_folders
from tests.torchrun import run, torchrun_command

_OVERLAY = Path(__file__).with_name("rehearsal_overlay")
_STEP = re.compile(r"(?:completion|discriminator|joint) step (\d+)/\d+:")
_IMAGES_OF_A_CLASS = 36
_CLASSES = 3
_PROCESSES = 3  # of a pod that trains: torchrun, its worker, the worker's reader


@dataclass
class Rehearsal:
    folder: Path
    bucket: str
    documents: list[Document]
    network: Namespaces | Loopback
    secret: dict[str, str]
    lines: list[str] = field(default_factory=list)  # the log: what was seen, with its time
    faults: list[str] = field(default_factory=list)
    steps: list[tuple[float, int, int]] = field(default_factory=list)  # time, generation, step
    _begin: float = field(default_factory=time.monotonic)
    _generation: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def config(self) -> Config:
        return preset(self.documents)

    @property
    def reached(self) -> int:
        return self.steps[-1][2] if self.steps else 0

    def log(self, text: str) -> None:
        line = f"{time.monotonic() - self._begin:6.1f} s  {text}"
        self.lines.append(line)
        print(line, flush=True)

    def hear(self, container: str, line: str) -> None:
        """What a container of a pod, POD/CONTAINER, has written."""
        with self._lock, open(self.folder / "pods.log", "a") as output:
            output.write(f"{time.monotonic() - self._begin:7.2f} {container} {line}\n")
            if line.startswith("name: ") and container.endswith("/train"):
                self._generation += 1  # the configuration, which rank 0 prints first
            if (match := _STEP.search(line)) is not None:
                self.steps.append((time.monotonic(), self._generation, int(match[1])))

    def played(self, role: str) -> PlayedJob:
        return PlayedJob(
            work(self.documents, role), self.folder / "pods", self.network, self.secret, self.hear
        )

    def training_again(self, job: PlayedJob, since: float, event: str) -> None:
        """Waits for the first step of a generation that began after `since`, and tells the time."""
        before = max((g for t, g, _ in self.steps if t <= since), default=0)
        last = max((s for t, _, s in self.steps if t <= since), default=0)
        job.wait_for(lambda: bool(self.steps) and self.steps[-1][1] > before)
        moment, _, step = next(one for one in self.steps if one[1] > before)
        self.log(
            f"{event}: trains again {moment - since:.1f} s later, at step {step}; "
            f"{max(0, last + 1 - step)} steps are made once more"
        )


def rehearse(folder: Path, network_kind: str = "auto") -> Rehearsal:
    """Everything lies in `folder`. AssertionError where the cluster would not come to the end."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    bucket = _make_bucket(folder, endpoint)
    with open_pod_network(network_kind) as network:
        secret = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        if endpoint:
            secret["AWS_ENDPOINT_URL"] = network.url_in_pods(endpoint)
        rehearsal = Rehearsal(folder, bucket, _documents(folder, bucket), network, secret)
        where = "an S3 server" if endpoint else "a folder"
        rehearsal.log(f"pods: {network.kind}; the bucket: {where}")
        try:
            _pack(rehearsal)
            _train(rehearsal)
            _replay(rehearsal)
        finally:
            if endpoint:
                fsspec.filesystem("s3").rm(bucket, recursive=True)
    return rehearsal


def _make_bucket(folder: Path, endpoint: str) -> str:
    images = write_class_folders(folder / "images", _CLASSES, _IMAGES_OF_A_CLASS, (200, 150))
    if not endpoint:
        (folder / "bucket").mkdir()
        shutil.copytree(images, folder / "bucket" / "images")
        return str(folder / "bucket")
    name = f"glcic-rehearsal-{uuid.uuid4().hex[:8]}"
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir(name)
    filesystem.put(f"{images}/", f"{name}/images/", recursive=True)
    return f"s3://{name}"


def _documents(folder: Path, bucket: str) -> list[Document]:
    """Of the rehearsal's overlay, beside a copy of those that ship."""
    shutil.copytree(KUBERNETES, folder / "k8s")
    overlay = folder / "k8s" / "overlays" / "rehearsal"
    shutil.copytree(_OVERLAY, overlay)
    path = overlay / "kustomization.yaml"
    path.write_text(path.read_text().replace("BUCKET", bucket))
    return render(overlay)


def _pack(rehearsal: Rehearsal) -> None:
    """Three indexes; one is killed after its first shard, and packs the others when it is back."""
    shards = join_url(rehearsal.bucket, "shards")
    with rehearsal.played("pack") as job:
        job.wait_for(lambda: _records_of(shards, index=1) > 0)
        job.pods[1].kill()
        packed = _records_of(shards, index=1)
        rehearsal.log(f"packing: pod 1 is killed with {packed} of its shards packed")
        job.wait_for(lambda: job.is_complete)
        if job.starts[1] != 2 or packed == 0:
            rehearsal.faults.append(f"pod 1 of packing was started {job.starts[1]} times")
    whole = rehearsal.folder / "whole"
    pack_images(rehearsal.folder / "images", str(whole), rehearsal.config.pack)
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    found = {name: read_bytes(join_url(shards, name)) for name, _ in list_tree(shards)}
    num_images = sum(load_manifest(shards).num_images(split) for split in ("train", "val"))
    different = sorted(n for n in expected.keys() | found.keys()
                       if expected.get(n) != found.get(n))  # fmt: skip
    rehearsal.log(
        f"packing: {num_images} of {_CLASSES * _IMAGES_OF_A_CLASS} images in {len(found)} files; "
        f"of these differ from those of one undisturbed pack: {len(different)}. None lost, none "
        "twice"
        if not different
        else f"packing: {different} differ"
    )
    if different or num_images != _CLASSES * _IMAGES_OF_A_CLASS:
        rehearsal.faults.append(f"{num_images} images are packed; {different} differ")


def _records_of(shards: str, index: int) -> int:
    """Shards that an index has finished; its are those of its remainder, in the plan's order."""
    try:
        names = [name for name in list_names(join_url(shards, RECORDS)) if name.startswith("train")]
    except OSError:
        return 0
    return sum(int(re.findall(r"\d+", name)[0]) % 3 == index for name in names)


def _train(rehearsal: Rehearsal) -> None:
    total = rehearsal.config.schedule.completion + rehearsal.config.schedule.discriminator
    total += rehearsal.config.schedule.joint
    with rehearsal.played("train") as job:
        job.wait_for(lambda: rehearsal.reached >= 15)
        rehearsal.log(f"training: two pods are at step {rehearsal.reached}")

        job.held_back = {1}
        since = time.monotonic()
        job.pods[1].kill()
        rehearsal.training_again(job, since, "pod 1 is lost, pod 0 goes on alone")

        job.held_back = set()
        since = time.monotonic()
        rehearsal.training_again(job, since, "pod 1 comes back and joins")
        _go_on(rehearsal, job, 12)

        since = time.monotonic()
        job.pods[0].kill()
        rehearsal.training_again(job, since, "pod 0 is lost, and with it all")
        job.wait_for(lambda: len(job.pods[1].processes()) >= _PROCESSES)
        _go_on(rehearsal, job, 12)

        since = time.monotonic()
        grace_s = job.work.pod["terminationGracePeriodSeconds"]
        pod = job.pods[1]
        took_s = pod.delete()
        rehearsal.log(f"pod 1 is told to end, and does within {took_s:.1f} of {grace_s} s")
        if took_s >= grace_s or pod.exit_codes["train"] in (0, None):
            rehearsal.faults.append(f"pod 1 ended with {pod.exit_codes} after {took_s:.1f} s")
        rehearsal.training_again(job, since, "pod 1 was told to end")
        repeated = _repeated_steps(rehearsal, since)
        if repeated:
            rehearsal.faults.append(f"{repeated} steps were lost although they were to be saved")
        if rehearsal.reached >= total:
            rehearsal.faults.append("the schedule is too short for what is to happen in it")
        job.wait_for(lambda: job.is_complete)
        if job.starts != {0: 2, 1: 4}:
            rehearsal.faults.append(f"pods were started {job.starts} times, not 2 and 4")
        rehearsal.log(f"training: all {rehearsal.reached} steps are made; failures that count "
                      f"towards the Job's limit: {sum(job.failures.values())}")  # fmt: skip


def _go_on(rehearsal: Rehearsal, job: PlayedJob, steps: int) -> None:
    goal = rehearsal.reached + steps
    job.wait_for(lambda: rehearsal.reached >= goal)


def _repeated_steps(rehearsal: Rehearsal, since: float) -> int:
    """Steps of the generation after `since` that the one before had made already."""
    generation = max(g for t, g, _ in rehearsal.steps if t <= since)
    made = max(s for _, g, s in rehearsal.steps if g == generation)
    after = next(s for _, g, s in rehearsal.steps if g > generation)
    return max(0, made + 1 - after)


def _replay(rehearsal: Rehearsal) -> None:
    """The same schedule with the same numbers of workers, undisturbed; and the two compared."""
    urls = next(d["data"] for d in rehearsal.documents if "RUN_URL" in d.get("data", {}))
    run_folder = rehearsal.folder / "run"
    if not Path(urls["RUN_URL"]).is_dir():
        fsspec.filesystem("s3").get(f"{urls['RUN_URL']}/", f"{run_folder}/", recursive=True)
    else:
        shutil.copytree(urls["RUN_URL"], run_folder)
    worlds = worlds_of_steps(run_folder)
    total = len(worlds)
    parts = [f"{len(list(same))}:{number}" for number, same in
             itertools.groupby(worlds[step] for step in sorted(worlds))]  # fmt: skip
    rehearsal.log(f"steps by number of workers, in their order: {', '.join(parts)}")
    if len({part.partition(":")[2] for part in parts}) < 2:
        rehearsal.faults.append("one pod never trained alone")
    written = rehearsal.folder / "replay.yaml"
    written.write_text(next(d["data"]["preset.yaml"] for d in rehearsal.documents
                            if "preset.yaml" in d.get("data", {})))  # fmt: skip
    replayed = rehearsal.folder / "replayed"
    arguments = [
        ",".join(parts), f"--config={written}", f"--data.shards={urls['SHARDS_URL']}",
        f"--data.cache={rehearsal.folder / 'cache'}", f"--folder={replayed}",
    ]  # fmt: skip
    log = rehearsal.folder / "replay.log"
    status = run(torchrun_command(2, "tests/k8s/replay_job.py", *arguments), log)
    assert status == 0, log.read_text()[-4000:]
    weights = compare_weights(replayed, run_folder, total)
    rehearsal.log(
        f"weights after {total} steps, beside those of the schedule undisturbed: "
        f"{weights.different_tensors} of {weights.num_tensors} tensors differ"
    )
    if weights.different_tensors:
        rehearsal.faults.append(f"weights differ by {weights.largest_relative_difference:.3g}")
    evaluations = [(place / "evaluation.json").read_text() for place in (run_folder, replayed)]
    same = _figures(evaluations[0]) == _figures(evaluations[1])
    rehearsal.log(f"evaluations: {'the same figures' if same else 'other figures'}")
    if not same:
        rehearsal.faults.append("the evaluations differ")
    data = dataclasses.replace(rehearsal.config.data, shards=urls["SHARDS_URL"])
    config = dataclasses.replace(rehearsal.config, data=data)
    lost = sample_faults(config, run_folder, total)
    rehearsal.log(f"training: samples that are not the order's, or twice in an epoch: {len(lost)}")
    rehearsal.faults += lost


def _figures(evaluation: str) -> object:
    return json.loads(evaluation)["methods"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.k8s.rehearsal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", choices=("auto", "namespaces", "loopback"), default="auto")
    parser.add_argument("--folder", type=Path, help="that is kept; else a temporary one")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        options.folder.mkdir(parents=True)
        rehearsal = rehearse(options.folder.resolve(), options.network)
    else:
        with tempfile.TemporaryDirectory(prefix="glcic-rehearsal-") as folder:
            rehearsal = rehearse(Path(folder), options.network)
    for fault in rehearsal.faults:
        print(f"FAULT: {fault}")
    return 1 if rehearsal.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
