import tomllib

import pytest
import yaml

from launch.support.arguments import PRESETS
from tests.k8s.claims import all_faults
from tests.k8s.kustomization import render
from tests.k8s.manifests import COMPONENTS, OVERLAYS, overlay, works
from tests.k8s.schemas import schema_faults
from tests.torchrun import ROOT


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_valid_in_the_oldest_and_the_newest_kubernetes(name):
    assert schema_faults(overlay(name)) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_agrees_with_the_code(name):
    assert all_faults(overlay(name)) == []


@pytest.mark.parametrize("name", ["multi-node", "jobset", "trainjob"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_leaves_an_overlay_valid(name, component, with_components):
    documents = render(with_components(name, component))
    assert schema_faults(documents) == []
    assert all_faults(documents) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_adds_something(component, with_components):
    assert render(with_components("multi-node", component)) != overlay("multi-node")


@pytest.mark.parametrize(("name", "shipped"), [("single-node", "places2"), ("local", "quickstart")])
def test_the_preset_is_the_one_that_ships_but_for_where_the_data_lie(name, shipped):
    (text,) = [d["data"]["preset.yaml"] for d in overlay(name) if "preset.yaml" in
               d.get("data", {})]  # fmt: skip
    expected = yaml.safe_load((PRESETS / f"{shipped}.yaml").read_text())
    del expected["data"]["shards"]
    assert yaml.safe_load(text) == expected


def test_images_have_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {c["image"] for name in OVERLAYS for w in works(overlay(name)) for c in w.containers}
    assert {image.rpartition(":")[2].rpartition("-")[0] for image in images} == {version}
