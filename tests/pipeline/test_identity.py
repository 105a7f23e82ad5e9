from __future__ import annotations

from pipeline.config import Config, parse_config
from pipeline.identity import config_digest


def test_the_digest_ignores_what_does_not_change_the_weights() -> None:
    digest = config_digest(Config())
    moved = {"folder": "elsewhere", "log": {"every_steps": 7}, "schedule": {"joint": 9}}
    assert config_digest(parse_config(moved)) == digest
    for other in ({"seed": 1}, {"loss": {"alpha": 0.1}}, {"train": {"batch_size": 48}},
                  {"schedule": {"completion": 5}}, {"completion": {"width": 32}}):  # fmt: skip
        assert config_digest(parse_config(other)) != digest


def test_the_digest_takes_the_shares_of_a_mixture_but_not_where_its_sets_lie() -> None:
    def digest(**data: object) -> str:
        return config_digest(parse_config({"data": data}))

    mixed = digest(mixture=[{"shards": "a", "weight": 2}])
    assert digest(mixture=[{"shards": "b", "weight": 2}], shards="c") == mixed
    assert digest(mixture=[{"shards": "a", "weight": 3}]) != mixed
    assert digest(mixture=[{"shards": "a", "weight": 2}], weight=2) != mixed
    assert digest() != mixed
    assert digest(weight=2) == digest()
    reading = {"damaged": "substitute", "check_crc": False, "cache": "x", "cache_limit_gb": 3}
    assert digest(**reading) == config_digest(Config())
