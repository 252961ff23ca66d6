"""An endpoint of a store: its replicas serve what is in force there, and what comes into force."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path

import pytest
import torch

from cluster.promotion.application import application, bundle_in_force
from cluster.promotion.store import ModelStore, StoreError
from cluster.serving.auth import ENVIRONMENT_VARIABLE
from cluster.serving.config import ServingConfig
from cluster.serving.deploy import replica
from cluster.serving.deploy.serve_config import DEPLOYMENT_NAME
from cluster.settings.experiment import ConfigError
from ww_models import build_model, read_bundle_info, save_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model("demucs", hidden=2, depth=2, normalize="none")
        made.append(save_bundle(tmp_path_factory.mktemp("models") / f"{seed}", model))
    return made


def test_its_config_names_the_store_and_holds_no_key(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    args = {"store": str(store), "host": "0.0.0.0", "num_replicas": 2, "scaling": {"max_replicas": 3}}
    with pytest.raises(StoreError, match="no model is in force"):
        application(args)
    ModelStore(store).add(bundles[0], None)
    with pytest.raises(ConfigError, match=r"did you mean args\.num_replicas"):
        application({**args, "num_replica": 3})
    key = uuid.uuid4().hex
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"anna {key}")

    deployment = application(args)._bound_deployment

    config, in_force = deployment.init_args
    assert deployment.name == DEPLOYMENT_NAME
    assert deployment.user_config == {"bundles": []}
    assert [one.digest for one in config.api_keys] == [hashlib.sha256(key.encode()).digest()]
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 3)
    assert read_bundle_info(in_force()).id == read_bundle_info(bundles[0]).id


def test_a_replica_serves_what_is_in_force_and_what_comes_into_force(
    tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Models:
        """Notes what is to be served; the second bundle cannot be, the first time."""

        def __init__(self, **_: object) -> None:
            self.served: list[str] = []

        def replace(self, wanted: list[Path], prepare: object) -> None:
            bundle_id = read_bundle_info(wanted[0]).id
            if bundle_id == second and "refused" not in self.served:
                self.served.append("refused")
                raise ValueError("too large for this node")
            self.served.append(bundle_id)

        def all(self) -> list[object]:
            return []

    first, second = (read_bundle_info(bundle).id for bundle in bundles)
    store = ModelStore(tmp_path / "store")
    store.add(bundles[0], None)
    monkeypatch.setattr(replica, "ServedModels", Models)
    monkeypatch.setattr(replica, "_LOOK_EVERY_S", 0.02)
    ours = replica.DenoiseServer.__mro__[1]  # without what Serve puts around it
    server = ours.__new__(ours)

    class App:
        class state:  # noqa: N801
            class live:  # noqa: N801
                prepare = None

            class files:  # noqa: N801
                @staticmethod
                def synchronise() -> None:
                    """Nothing is worked on."""

    async def follow() -> list[str]:
        models = Models()
        server._models, server._app, server._departure = models, App, asyncio.create_task(asyncio.sleep(60))
        server._config, server._following = ServingConfig(), None
        server._in_force = lambda: bundle_in_force(str(tmp_path / "store"))

        async def until(count: int) -> None:
            for _ in range(500):
                if len(models.served) >= count:
                    return
                await asyncio.sleep(0.02)
            pytest.fail(f"served only {models.served}")

        await server.reconfigure({"bundles": []})
        store.add(bundles[1], None)  # cannot be loaded here
        await until(2)
        store.roll_back()
        await until(3)
        store.add(bundles[1], None)
        await until(4)
        return models.served

    assert asyncio.run(follow()) == [first, "refused", first, second]
