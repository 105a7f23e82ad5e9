"""What the cluster does with a Job, played: a pod for each index, replaced as its policies say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.k8s.manifests import Work
from tests.k8s.pod import Pod, Say
from tests.k8s.pod_network import Loopback, Namespaces


class JobFailed(AssertionError):
    pass


class PlayedJob:
    """A context manager. Pods are replaced at once: without a cluster's back-off and scheduling."""

    def __init__(
        self, work: Work, folder: Path, network: Namespaces | Loopback, secret: dict[str, str],
        say: Say,
    ) -> None:  # fmt: skip
        self.work = work
        self.pods: dict[int, Pod] = {}  # the newest of each index
        self.starts = dict.fromkeys(range(work.job["completions"]), 0)
        self.failures = dict.fromkeys(self.starts, 0)  # that count
        self.held_back: set[int] = set()  # indexes that get no new pod for now
        self._succeeded: set[int] = set()
        self._folder, self._network = folder, network
        self._secret, self._say = secret, say

    def __enter__(self) -> PlayedJob:
        self.tick()
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods.values():
            pod.kill()

    @property
    def is_complete(self) -> bool:
        return len(self._succeeded) == len(self.starts)

    def tick(self) -> None:
        """Looks at every pod; to be called again and again."""
        for index in self.starts:
            pod = self.pods.get(index)
            if index in self._succeeded or (pod is not None and not pod.has_ended):
                continue
            if pod is not None and pod.has_succeeded:
                self._succeeded.add(index)
                continue
            if pod is not None:
                self._judge(pod)
                del self.pods[index]
            if index not in self.held_back:
                self._start(index)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 600) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.tick()
            assert time.monotonic() < deadline, f"{self.work.name}: not within {timeout_s:g} s"
            time.sleep(0.01)

    def _start(self, index: int) -> None:
        self.starts[index] += 1
        folder = self._folder / f"{self.work.name}-{index}-{self.starts[index]}"
        self.pods[index] = Pod(self.work, index, folder, self._network, self._secret, self._say)

    def _judge(self, pod: Pod) -> None:
        """Raises JobFailed where the Job would fail. The first rule that fits decides."""
        for rule in self.work.job["podFailurePolicy"]["rules"]:
            if "onPodConditions" in rule and pod.is_disrupted and rule["action"] == "Ignore":
                return
            codes = rule.get("onExitCodes")
            if codes and pod.exit_codes.get(codes["containerName"]) in codes["values"]:
                raise JobFailed(f"{pod.name}: {rule['action']}, {pod.exit_codes}")
        self.failures[pod.index] += 1
        allowed = self.work.job.get("backoffLimitPerIndex", self.work.job.get("backoffLimit", 6))
        counted = (
            self.failures[pod.index]
            if "backoffLimitPerIndex" in self.work.job
            else sum(self.failures.values())
        )
        if counted > allowed:
            raise JobFailed(f"{pod.name}: {counted} failures, {pod.exit_codes}")
