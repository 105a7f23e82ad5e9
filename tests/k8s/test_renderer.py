import shutil
import subprocess

import pytest
import yaml

from tests.k8s.kustomization import render
from tests.k8s.manifests import KUBERNETES, OVERLAYS

kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def by_name(documents):
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def kubectl_output(folder):
    command = ["kubectl", "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return yaml.safe_load_all(result.stdout)


@kubectl
@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_renders_every_overlay_to_the_same(name):
    folder = KUBERNETES / "overlays" / name
    assert by_name(render(folder)) == by_name(kubectl_output(folder))


@kubectl
def test_kubectl_renders_all_components_together_to_the_same(with_components):
    folder = with_components("multi-node", *["infiniband", "kueue", "spot"])
    assert by_name(render(folder)) == by_name(kubectl_output(folder))


def test_a_field_that_is_not_understood_is_an_error(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: mine-\n")
    with pytest.raises(ValueError, match="namePrefix is not known here"):
        render(tmp_path)


def test_a_patch_for_what_is_not_there_is_an_error(tmp_path):
    patch = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: glcic-tarin}\n"
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"patches": [{"patch": patch}]}))
    with pytest.raises(ValueError, match="Job glcic-tarin, which is not there"):
        render(tmp_path)
