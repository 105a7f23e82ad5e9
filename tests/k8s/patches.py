"""How kustomize changes a manifest: by a partial one laid over it, or by JSON patch operations.

The fields of lists that a partial manifest is merged by are those of the Kubernetes API that the
manifests here have; https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config.
"""

from __future__ import annotations

import copy
from typing import Any

_MERGED_BY = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge: mappings key by key, null removes, lists of the above by their key."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key in _MERGED_BY and isinstance(result.get(key), list):
            result[key] = _merged_list(result[key], value, _MERGED_BY[key])
        else:
            result[key] = merged(result.get(key), value)
    return _without_nulls(result)


def _merged_list(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    """Items of the patch come first, whether they are new or not."""
    there = {item[name]: item for item in base}
    changed = [merged(there.pop(item[name], {}), item) for item in patch]
    return [*changed, *there.values()]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value


def apply_operations(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902: add, replace and remove. ValueError for a place that is not there."""
    result = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        place = result
        for part in parents:
            try:
                place = place[int(part)] if isinstance(place, list) else place[part]
            except (KeyError, IndexError) as error:
                raise ValueError(f"{operation['path']}: there is no {part}") from error
        _apply(place, last, operation)
    return result


def _apply(place: Any, last: str, operation: dict[str, Any]) -> None:
    kind = operation["op"]
    if kind not in ("add", "replace", "remove"):
        raise ValueError(f"{kind} is no operation that is known here")
    if isinstance(place, list):
        if kind == "add":
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        elif kind == "replace":
            place[int(last)] = operation["value"]
        else:
            del place[int(last)]
    elif kind == "remove" or (kind == "replace" and last not in place):
        if last not in place:
            raise ValueError(f"{operation['path']} is not there")
        del place[last]
    else:
        place[last] = operation["value"]
