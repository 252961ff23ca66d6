"""An endpoint that follows a store serves what is put into force there, and goes on whatever fails."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.promotion.follow import following
from cluster.promotion.store import ModelStore
from tests.cluster.serving.callers import wait_until
from ww_models import build_model, read_bundle_info, save_bundle


def test_it_serves_what_comes_into_force_and_says_what_fails(tmp_path: Path) -> None:
    store, served, said = ModelStore(tmp_path / "store"), list[str](), list[str]()
    bundles = [
        save_bundle(tmp_path / str(n), build_model("demucs", hidden=2, depth=2, normalize="none"))
        for n in range(2)
    ]

    def serve(bundle: Path) -> None:
        if len(served) == 1:
            served.append("refused")
            raise ValueError("a replica cannot load it")
        served.append(read_bundle_info(bundle).id)

    first, second = (read_bundle_info(bundle).id for bundle in bundles)
    store.add(bundles[0], None)
    with following(store, first, serve, said.append, look_every_s=0.02):
        time.sleep(0.2)
        assert served == [], "it was served already"
        store.add(bundles[1], None)
        wait_until(lambda: served == [second], "the promotion")
        store.roll_back()
        wait_until(lambda: len(said) == 2, "the failure")
        store.add(bundles[1], None)
        wait_until(lambda: served == [second, "refused", second], "the next promotion")
        store.storage.write("promotions/000005.json", b"{")
        wait_until(lambda: len(said) == 4, "the damage")
        time.sleep(0.2)
        assert len(said) == 4, "the same is said once"
    assert said[0] == f"serving {second} now, as {store} says"
    assert "a replica cannot load it; what was served is served on" in said[1]
    assert "is damaged" in said[3]
