"""The files for `ray up`: Ray's own loader and schema take them, and they keep what the project promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.settings.resources import ResourcesConfig

ROOT = Path(__file__).parents[2]
OWN_MACHINES = ROOT / "ray_cluster.yaml"
CLOUDS = sorted((ROOT / "cluster" / "clouds").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text())
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize("path", [OWN_MACHINES, *CLOUDS], ids=lambda path: path.stem)
def test_ray_takes_the_file_and_every_node_asks_for_the_token(path: Path) -> None:
    config = read(path)
    validate_config(prepare_config(read(path)))
    for command in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [line for line in config[command] if "ray start" in line]
        assert starts
        assert all("RAY_AUTH_MODE=token" in line for line in starts), "a node without token authentication"
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_both_clouds_are_there() -> None:
    assert [path.stem for path in CLOUDS] == ["aws", "gcp"]


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_nodes_come_from_zero_and_bear_their_pool(path: Path) -> None:
    config = read(path)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}, "the head does no work"
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert all(types[name]["min_workers"] == 0 < types[name]["max_workers"] for name in ("cpu", "gpu"))
    assert "GPU" in types["gpu"]["resources"]
    assert "GPU" not in types["cpu"]["resources"]
    assert all(types[name]["labels"] == {"wave-wizard/nodes": name} for name in ("cpu", "gpu"))


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_nothing_secret_stands_in_the_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA|aws_secret|private_key|BEGIN ", text)


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)
def test_the_command_of_the_file_has_settings_that_exist(path: Path) -> None:
    settings = dict(re.findall(r"--set resources\.(\w+)=(\w+)", path.read_text()))
    assert {"placement_timeout_s", "worker_nodes", "mixing_nodes"} <= settings.keys()
    ResourcesConfig(**settings | {"placement_timeout_s": float(settings["placement_timeout_s"])})
