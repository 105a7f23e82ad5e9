"""What a configuration allows but hardly anyone means: one sentence per warning."""

from __future__ import annotations

from pipeline.config.schema import Config

# Adadelta's first steps are in proportion to learning_rate * sqrt(epsilon); its own values are 1
# and 1e-6. With Adam's, 0.0004 and 1e-8, they are 25,000 times smaller.
_ADADELTA_MIN = {"learning_rate": (0.1, "1"), "epsilon": (1e-7, "1e-6")}
_STAYS = {
    "completion": "the completion network stays",
    "discriminator": "the discriminators stay",
}


def config_warnings(config: Config) -> list[str]:
    """Return the warnings of a run: field, value, effect, and what to write instead."""
    learning = _learning_networks(config)
    warnings = [line for network in learning for line in _adadelta_warnings(config, network)]
    kinds = {getattr(config, f"{network}_optimizer").kind: network for network in learning}
    if len(kinds) > 1:
        stays = _STAYS[kinds["adam"]]
        warnings.append(
            f"{kinds['adam']}_optimizer.kind is 'adam', but {kinds['adadelta']}_optimizer.kind is "
            f"'adadelta': {stays} on Adam; for ADADELTA in both write "
            f"--{kinds['adam']}-optimizer.kind adadelta"
        )
    return warnings


def _learning_networks(config: Config) -> list[str]:
    """Return the networks that some phase of the schedule trains."""
    schedule = config.schedule
    phases = {"completion": schedule.completion, "discriminator": schedule.discriminator}
    return [network for network, length in phases.items() if length + schedule.joint > 0]


def _adadelta_warnings(config: Config, network: str) -> list[str]:
    optimizer = getattr(config, f"{network}_optimizer")
    if optimizer.kind != "adadelta":
        return []
    return [
        f"{network}_optimizer.{name} is {getattr(optimizer, name):g}, with which ADADELTA hardly "
        f"moves a weight; write --{network}-optimizer.{name.replace('_', '-')} {own}, its own value"
        for name, (smallest, own) in _ADADELTA_MIN.items()
        if getattr(optimizer, name) < smallest
    ]
