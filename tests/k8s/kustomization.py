"""Renders a kustomization, as `kubectl kustomize` does, as far as those of this project go.

Any field that it does not know is an error. Where kubectl is installed, the tests hold its output
against this one's for every overlay.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.patches import apply_operations, merged

Document = dict[str, Any]

_FIELDS = {
    "apiVersion", "kind", "resources", "components", "labels", "generatorOptions",
    "configMapGenerator", "patches", "images", "configurations",
}  # fmt: skip
_HASH = "glcic/needs-hash"  # marks generated ConfigMaps until their content is final
# As the hash's hexadecimal digits are written, so that names hold no words.
_DIGITS = str.maketrans("013ae", "ghkmt")


def render(folder: Path) -> list[Document]:
    """Every document of the kustomization in `folder`. ValueError for what is not understood."""
    documents = _accumulated(folder, [])
    names = {}
    for document in documents:
        if document["metadata"].pop(_HASH, False):
            name = document["metadata"]["name"]
            names[name] = document["metadata"]["name"] = f"{name}-{_content_hash(document)}"
    for document in documents:
        _rename_references(document, names)
    return documents


def _accumulated(folder: Path, documents: list[Document]) -> list[Document]:
    own = _read(folder)
    for entry in own.get("resources", []):
        path = folder / entry
        documents = documents + (_accumulated(path, []) if path.is_dir() else _load(path))
    for config_map in own.get("configMapGenerator", []):
        documents = _generated(folder, config_map, own.get("generatorOptions", {}), documents)
    for entry in own.get("components", []):
        documents = _accumulated(folder / entry, documents)
    for patch in own.get("patches", []):
        documents = _patched(folder, patch, documents)
    for labels in own.get("labels", []):
        for document in documents:
            _label(document, labels)
    for image in own.get("images", []):
        for document in documents:
            _set_image(document, image)
    return documents


def _read(folder: Path) -> dict[str, Any]:
    content = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = content.keys() - _FIELDS
    if unknown:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))} is not known here")
    return content


def _load(path: Path) -> list[Document]:
    # Dumped and loaded once more: what an anchor shares must be changeable in one place alone.
    return [copy.deepcopy(one) for one in yaml.safe_load_all(_flat(path.read_text())) if one]


def _flat(text: str) -> str:
    return "---\n".join(json.dumps(one) + "\n" for one in yaml.safe_load_all(text) if one)


def _generated(
    folder: Path, wanted: dict[str, Any], options: dict[str, Any], documents: list[Document]
) -> list[Document]:
    data = dict(literal.split("=", 1) for literal in wanted.get("literals", []))
    for entry in wanted.get("files", []):
        name, _, path = entry.rpartition("=")
        data[name or Path(path).name] = (folder / path).read_text()
    options = merged(options, wanted.get("options", {}))
    if wanted.get("behavior") == "merge":
        old = next(d for d in documents if _is(d, "ConfigMap", wanted["name"]))
        new = copy.deepcopy(old)
        new["data"] |= data
        new["metadata"]["labels"] |= options.get("labels", {})
        return [new if document is old else document for document in documents]
    metadata = {"name": wanted["name"], "labels": dict(options.get("labels", {}))}
    metadata[_HASH] = not options.get("disableNameSuffixHash", False)
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    return [*documents, config_map]


def _is(document: Document, kind: str, name: str) -> bool:
    return document["kind"] == kind and document["metadata"]["name"] == name


def _patched(folder: Path, wanted: dict[str, Any], documents: list[Document]) -> list[Document]:
    text = wanted["patch"] if "patch" in wanted else (folder / wanted["path"]).read_text()
    patch = yaml.safe_load(text)
    if isinstance(patch, list):
        chosen = _chosen(wanted["target"])
        return [apply_operations(one, patch) if chosen(one) else one for one in documents]
    kind, name = patch["kind"], patch["metadata"]["name"]
    if not any(_is(document, kind, name) for document in documents):
        raise ValueError(f"{folder}: a patch is for {kind} {name}, which is not there")
    if patch.pop("$patch", "") == "delete":
        return [document for document in documents if not _is(document, kind, name)]
    return [merged(one, patch) if _is(one, kind, name) else one for one in documents]


def _chosen(target: dict[str, str]) -> Callable[[Document], bool]:
    unknown = target.keys() - {"kind", "name", "group"}
    if unknown:
        raise ValueError(f"a patch's target has {unknown}, which is not known here")

    def is_chosen(document: Document) -> bool:
        group = document["apiVersion"].rpartition("/")[0]
        found = {"kind": document["kind"], "name": document["metadata"]["name"], "group": group}
        return all(re.fullmatch(pattern, found[key]) for key, pattern in target.items())

    return is_chosen


def _label(document: Document, wanted: dict[str, Any]) -> None:
    pairs = wanted["pairs"]
    document["metadata"].setdefault("labels", {}).update(pairs)
    if wanted.get("includeTemplates") and document["kind"] == "Job":
        document["spec"]["template"]["metadata"].setdefault("labels", {}).update(pairs)


def _set_image(document: Document, wanted: dict[str, str]) -> None:
    for node in nodes(document):
        image = node.get("image")
        if isinstance(image, str) and re.split(r"[:@]", image)[0] == wanted["name"]:
            node["image"] = f"{wanted.get('newName', wanted['name'])}:{wanted['newTag']}"


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from nodes(one)


def _rename_references(document: Document, names: dict[str, str]) -> None:
    for node in nodes(document):
        for key in ("configMap", "configMapRef", "configMapKeyRef"):
            reference = node.get(key)
            if isinstance(reference, dict) and reference.get("name") in names:
                reference["name"] = names[reference["name"]]


def _content_hash(config_map: Document) -> str:
    # kustomize hashes it before it has a name.
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    for sign in "<>&":  # as Go's encoder writes them
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(_DIGITS)
