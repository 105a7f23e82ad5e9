"""An overlay with further components, beside a copy of those that ship."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import KUBERNETES


@pytest.fixture
def with_components(tmp_path: Path) -> Callable[..., Path]:
    def make(overlay: str, *components: str) -> Path:
        shutil.copytree(KUBERNETES, tmp_path / "k8s")
        folder = tmp_path / "k8s" / "overlays" / "with-components"
        folder.mkdir()
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"../{overlay}"],
            "components": [f"../../components/{name}" for name in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return folder

    return make
